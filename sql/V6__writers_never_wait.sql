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

-- Whether triggers can write here at this moment: what the owner may do, and no lock that is in their way. The daemon asks at
-- each beat; while it is not so, statements may go unnoticed, and everything is counted anew afterwards.
CREATE FUNCTION items_listen.writable() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE items_listen.journal IN ROW EXCLUSIVE MODE NOWAIT;
    LOCK TABLE items_listen.marker IN ROW EXCLUSIVE MODE NOWAIT;
    RETURN has_table_privilege('items_listen.journal', 'INSERT') AND has_table_privilege('items_listen.marker', 'INSERT');
EXCEPTION WHEN OTHERS THEN
    RETURN false;
END
$$;
REVOKE ALL ON FUNCTION items_listen.writable() FROM PUBLIC;
