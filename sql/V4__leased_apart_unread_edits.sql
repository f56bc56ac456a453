-- What keeps the cost of a delivery, and of counting what is unread, the same however much there is of both.

-- What is leased stands in an index of its own: a claim that looks for what is due does not walk over all that is under
-- way, as it would in a flood, once for each handful that it finds.
DROP INDEX items_listen.delivery_due;
CREATE INDEX delivery_due ON items_listen.delivery (endpoint, due_at, id) WHERE state = 'pending' AND lease IS NULL;
CREATE INDEX delivery_leased ON items_listen.delivery (endpoint, lease_until) WHERE state = 'pending' AND lease IS NOT NULL;

-- Somebody read an alert, or alerts were removed: how many are unread is to be counted anew. While there is none of these,
-- and no other replica has folded, a fold knows it from the one before.
CREATE TABLE items_listen.unread_edit (
    at  timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE items_listen.unread_edit REPLICA IDENTITY FULL;

CREATE FUNCTION items_listen.unread_edited() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Of some triggers the rows are at hand: a statement that touched none is nothing.
    IF TG_NARGS > 0 THEN
        IF NOT EXISTS (SELECT FROM changed) THEN RETURN NULL; END IF;
    END IF;
    INSERT INTO items_listen.unread_edit DEFAULT VALUES;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION items_listen.unread_edited() FROM PUBLIC;
CREATE TRIGGER unread_inserted AFTER INSERT ON items_listen.alert_read
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION items_listen.unread_edited('rows');
CREATE TRIGGER unread_updated AFTER UPDATE ON items_listen.alert_read
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION items_listen.unread_edited('rows');
CREATE TRIGGER unread_deleted AFTER DELETE ON items_listen.alert_read
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION items_listen.unread_edited('rows');
CREATE TRIGGER unread_truncated AFTER TRUNCATE ON items_listen.alert_read
    FOR EACH STATEMENT EXECUTE FUNCTION items_listen.unread_edited();
CREATE TRIGGER unread_deleted AFTER DELETE ON items_listen.episode
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION items_listen.unread_edited('rows');
CREATE TRIGGER unread_changed AFTER TRUNCATE OR UPDATE OF id, watch ON items_listen.episode
    FOR EACH STATEMENT EXECUTE FUNCTION items_listen.unread_edited();

-- So that a recount of a sum may use several processes.
ALTER FUNCTION items_listen.not_whole(numeric) PARALLEL SAFE;
