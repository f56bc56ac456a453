-- The triggers of one watch: what a writer's statement pays for being watched.
--
-- Per event one function, which belongs to the schema's owner and depends on nothing that the writer
-- set; and one statement trigger on the relation and on each of its partitions. {...} is filled in.
--
-- * No sequence is touched, no table is read but the statement's own rows, no counter row is locked.
-- * Keys and condition are computed in a block that writes nothing and cannot fail the writer: an error
--   leaves a marker, and the watch is counted anew.
-- * The doorbell rings (NOTIFY) only if a daemon sleeps, that is, holds the lock exclusively. Test and
--   release are one expression: a cancel between two would leave the lock behind in a pooled session.

-- {function insert}
CREATE OR REPLACE FUNCTION items_listen.watch_{id}_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $items_listen$
#variable_conflict use_column
DECLARE
    _keys  text[];
    _rows  bigint[];
    _error text;
BEGIN
    BEGIN
        SELECT array_agg(d.key), array_agg(d.rows) INTO _keys, _rows
        FROM (SELECT {key} AS key, count(*) AS rows
              FROM (SELECT {parts} AS key FROM new_rows WHERE {where}) AS r
              GROUP BY 1) AS d;
    EXCEPTION WHEN OTHERS THEN
        _error := SQLSTATE;
    END;
    {write}
END
$items_listen$;

-- {function delete}
CREATE OR REPLACE FUNCTION items_listen.watch_{id}_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $items_listen$
#variable_conflict use_column
DECLARE
    _keys  text[];
    _rows  bigint[];
    _error text;
BEGIN
    BEGIN
        SELECT array_agg(d.key), array_agg(d.rows) INTO _keys, _rows
        FROM (SELECT {key} AS key, -count(*) AS rows
              FROM (SELECT {parts} AS key FROM old_rows WHERE {where}) AS r
              GROUP BY 1) AS d;
    EXCEPTION WHEN OTHERS THEN
        _error := SQLSTATE;
    END;
    {write}
END
$items_listen$;

-- {function update}
CREATE OR REPLACE FUNCTION items_listen.watch_{id}_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $items_listen$
#variable_conflict use_column
DECLARE
    _keys  text[];
    _rows  bigint[];
    _error text;
BEGIN
    BEGIN
        -- A row that moves to another key, or in or out of the condition, is one less here and one more there.
        SELECT array_agg(d.key), array_agg(d.rows) INTO _keys, _rows
        FROM (SELECT {key} AS key, sum(r.n) AS rows
              FROM (SELECT {parts} AS key, 1 AS n FROM new_rows WHERE {where}
                    UNION ALL
                    SELECT {parts} AS key, -1 AS n FROM old_rows WHERE {where}) AS r
              GROUP BY 1
              HAVING sum(r.n) <> 0) AS d;
    EXCEPTION WHEN OTHERS THEN
        _error := SQLSTATE;
    END;
    {write}
END
$items_listen$;

-- {function truncate}
CREATE OR REPLACE FUNCTION items_listen.watch_{id}_truncate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $items_listen$
BEGIN
    INSERT INTO items_listen.marker (watch, reason) VALUES ({id}, 'truncate');
    {ring}
    RETURN NULL;
END
$items_listen$;

-- {write}
IF _error IS NOT NULL THEN
        INSERT INTO items_listen.marker (watch, reason, sqlstate) VALUES ({id}, 'broken', _error);
    ELSIF _keys IS NOT NULL THEN
        INSERT INTO items_listen.journal (generation, key, rows)
        SELECT {generation}, k.key, k.rows FROM unnest(_keys, _rows) AS k (key, rows);
    ELSE
        RETURN NULL;
    END IF;
    {ring}
    RETURN NULL;

-- {ring}
IF (CASE WHEN pg_try_advisory_lock_shared({doorbell} | 'items_listen'::regnamespace::oid::bigint)
             THEN NOT pg_advisory_unlock_shared({doorbell} | 'items_listen'::regnamespace::oid::bigint)
             ELSE true END) THEN
        NOTIFY {channel};
    END IF;
