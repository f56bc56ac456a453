-- Installations of the very first version have no types of key columns: what is unknown is found out anew, by a recount.
ALTER TABLE items_listen.watch ADD COLUMN IF NOT EXISTS key_types oid[] NOT NULL DEFAULT '{}';
