-- What keeps our own tables from ever being in a writer's way (docs/sources-and-triggers.md).

-- Giving empty pages at the end of a table back to the disk takes a lock against everybody, at every autovacuum of a table
-- that is emptied as these are. The pages are used again; VACUUM (TRUNCATE) gives them back after a long backlog.
ALTER TABLE items_listen.journal SET (vacuum_truncate = false);
ALTER TABLE items_listen.change SET (vacuum_truncate = false);
ALTER TABLE items_listen.marker SET (vacuum_truncate = false);
ALTER TABLE items_listen.threshold_edit SET (vacuum_truncate = false);
ALTER TABLE items_listen.unread_edit SET (vacuum_truncate = false);

-- Many statements may leave markers while the journal cannot be written: folds still find at once whether a watch has one.
CREATE INDEX marker_watch ON items_listen.marker (watch);

-- The tables that triggers write, as they were when a daemon last saw them. Others in their place have lost something.
ALTER TABLE items_listen.cluster ADD COLUMN own_tables oid[] NOT NULL DEFAULT '{}';

-- What an application does to our tables by its own statements is promised when it returns, and so cannot be skipped; but
-- it waits for nobody's lock longer than this, and then fails.
ALTER FUNCTION items_listen.threshold_edited() SET lock_timeout = '5s';
ALTER FUNCTION items_listen.unread_edited() SET lock_timeout = '5s';
ALTER FUNCTION items_listen.alert_mark_read() SET lock_timeout = '5s';

-- What a trigger that can write neither journal nor marker leaves: another number here, which no lock on a table is in the way
-- of, and which no rollback takes back. It is set, never drawn: lastval() in the application stays what it was. The daemon has
-- every watch counted anew, and takes note of the number when no transaction is left that may have set it.
CREATE SEQUENCE items_listen.unwritten;
ALTER TABLE items_listen.cluster ADD COLUMN unwritten bigint NOT NULL DEFAULT 1;
