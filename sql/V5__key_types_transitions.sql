-- Installations of the very first version have no types of key columns: what is unknown is found out anew, by a recount.
ALTER TABLE items_listen.watch ADD COLUMN IF NOT EXISTS key_types oid[] NOT NULL DEFAULT '{}';

-- When a watch last had a transition, among however many readings and changes that were passed on: status, status page and
-- metrics ask for it again and again.
CREATE INDEX event_transition ON items_listen.event (watch, seq) WHERE previous IS NOT NULL;
