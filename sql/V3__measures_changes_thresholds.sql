-- Sums and values, changes of rows, thresholds that the application edits, coalesced events.

-- Thresholds that the application's own screens may edit: of all keys of the watch that have these values in these
-- columns. The row that names most columns wins; NULL disables. A change is noticed at once.
CREATE TABLE items_listen.threshold (
    watch      text   NOT NULL,
    key        jsonb  NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(key) = 'object'),
    threshold  bigint,
    PRIMARY KEY (watch, key)
);

-- An edit, until a fold has evaluated the keys that it names anew. Not in the journal: a daemon of an older version that
-- is still up would delete it unread.
CREATE TABLE items_listen.threshold_edit (
    watch  text   NOT NULL,
    key    jsonb  NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE items_listen.threshold_edit REPLICA IDENTITY FULL;

CREATE FUNCTION items_listen.threshold_edited() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        INSERT INTO items_listen.threshold_edit (watch, key) SELECT r.watch, r.key FROM new_rows AS r;
    END IF;
    IF TG_OP IN ('DELETE', 'UPDATE') THEN
        INSERT INTO items_listen.threshold_edit (watch, key) SELECT r.watch, r.key FROM old_rows AS r;
    END IF;
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO items_listen.threshold_edit (watch, key) SELECT w.name, '{}' FROM items_listen.watch AS w;
    END IF;
    -- The doorbell: as in sql/triggers.sql.
    IF (CASE WHEN pg_try_advisory_lock_shared(5260204369063706624 | 'items_listen'::regnamespace::oid::bigint)
             THEN NOT pg_advisory_unlock_shared(5260204369063706624 | 'items_listen'::regnamespace::oid::bigint)
             ELSE true END) THEN
        PERFORM pg_notify('items_listen', '');
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION items_listen.threshold_edited() FROM PUBLIC;
CREATE TRIGGER threshold_inserted AFTER INSERT ON items_listen.threshold
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION items_listen.threshold_edited();
CREATE TRIGGER threshold_updated AFTER UPDATE ON items_listen.threshold
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION items_listen.threshold_edited();
CREATE TRIGGER threshold_deleted AFTER DELETE ON items_listen.threshold
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION items_listen.threshold_edited();
CREATE TRIGGER threshold_truncated AFTER TRUNCATE ON items_listen.threshold
    FOR EACH STATEMENT EXECUTE FUNCTION items_listen.threshold_edited();

-- A reading is a whole number: what is summed up must be, row by row. A trigger that meets another leaves a marker, and
-- the recount then says why.
CREATE FUNCTION items_listen.not_whole(number numeric) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% is not a whole number%', left(number::text, 40), CASE WHEN abs(number) >= 1e30 THEN ' that can be added up' ELSE '' END
        USING ERRCODE = 'invalid_parameter_value', HINT = 'Count in whole units: floor(x), or (x * 100)::bigint.';
END
$$;
REVOKE ALL ON FUNCTION items_listen.not_whole(numeric) FROM PUBLIC;

-- Changes of rows, for rules that listen to insert, update or delete: the columns that they name, as they were and as
-- they are. `at` is the trigger's clock, under the row's lock, the same
-- for all rows of a statement: with `depth` it orders the changes of one row. Changes are deltas of
-- nothing: a recount knows nothing of them.
CREATE TABLE items_listen.change (
    xid         xid8        NOT NULL DEFAULT pg_current_xact_id(),
    generation  integer     NOT NULL,
    at          timestamptz NOT NULL,
    -- How deep in other triggers the statement ran: a nested one ends, and is written, before the one that caused it.
    depth       integer     NOT NULL,
    change      text        NOT NULL CHECK (change IN ('insert', 'update', 'delete')),
    key         text COLLATE "C" NOT NULL,
    old         json,
    new         json
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
        autovacuum_vacuum_cost_delay = 0);
CREATE INDEX change_xid ON items_listen.change (xid);
ALTER TABLE items_listen.change REPLICA IDENTITY FULL;

-- When an audience of a rule with `coalesce` (one event name on one channel) was last told or is to be told next: what
-- follows within the time given waits, and becomes one event.
CREATE TABLE items_listen.audience (
    endpoint  text        NOT NULL,
    lane      text COLLATE "C" NOT NULL,
    last_due  timestamptz NOT NULL,
    -- The delivery that was made for that time. While nobody has tried it, later changes are put into it.
    delivery  bigint      NOT NULL,
    PRIMARY KEY (endpoint, lane)
) WITH (fillfactor = 50);
CREATE INDEX audience_last_due ON items_listen.audience (last_due);

-- The row of a reading that has one, as templates saw it: a digest may have to tell it later.
ALTER TABLE items_listen.event ADD COLUMN row json;
-- And who had a row that is gone is told that it is.
CREATE INDEX event_episode ON items_listen.event (episode, seq) WHERE row IS NOT NULL;

-- What a coalesced delivery is about: its lane is not that of one watch and key.
ALTER TABLE items_listen.delivery ADD COLUMN about jsonb;
