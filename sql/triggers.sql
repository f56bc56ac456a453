-- The triggers of one watch: what a writer's statement pays for being watched.
--
-- Per event one function, which belongs to the schema's owner and depends on nothing that the writer
-- set; and one statement trigger on the relation and on each of its partitions. {...} is filled in, and of
-- the lines that end with "--?" those are left out whose conditions do not all hold:
--   counts   it keeps counts                  sum    of an expression, not of rows
--   touch    a row that was touched is judged anew, though its count is what it was
--   changes  rules listen to what this event does to rows; paired: to rows as they were and as they are
--   columns  an update is of interest only if it changes certain columns
--
-- * No number is drawn from a sequence, no table is read but the statement's own rows, no counter row is locked.
-- * Keys, condition and measure are computed in a block that writes nothing and cannot fail the writer: an error
--   leaves a marker, and the watch is counted anew.
-- * Our own tables are locked in that block as well, at once or not at all: the INSERT that follows finds its lock held, and
--   never waits. What cannot be journalled leaves a marker, too; and if not even that can be written, another number in a
--   sequence that nobody can lock (docs/sources-and-triggers.md). It is not drawn from, so lastval() is none of ours.
-- * A statement of one row, the usual one, is read into plain variables: arrays, aggregation and unnest() would cost as
--   much again as all the rest (docs/performance.md).
-- * The doorbell rings (NOTIFY) only if a daemon waits for it, that is, holds the lock exclusively. Test and
--   release are one expression: a cancel between two would leave the lock behind in a pooled session.

-- {function insert}
CREATE OR REPLACE FUNCTION items_listen.watch_{id}_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $items_listen$
-- Edition {edition} of these functions.
#variable_conflict use_column
DECLARE
    _key   text;                                                                                                       --? counts
    _sum   numeric;                                                                                                    --? sum
    _many  boolean;                                                                                                    --? counts
    _keys  text[];                                                                                                     --? counts
    _rows  bigint[];                                                                                                   --? counts
    _sums  numeric[];                                                                                                  --? sum
    _changed text[];                                                                                                   --? changes
    _what    text[];                                                                                                   --? paired
    _old     json[];                                                                                                   --? changes
    _new     json[];                                                                                                   --? changes
    _at      timestamptz := clock_timestamp();                                                                         --? changes
    _error text;
    _patience text;
BEGIN
    BEGIN
        SELECT {key}, EXISTS (SELECT FROM new_rows OFFSET 1) INTO _key, _many                                          --? counts, not sum
        SELECT {key}, coalesce(r.measure, 0), EXISTS (SELECT FROM new_rows OFFSET 1) INTO _key, _sum, _many            --? sum
        FROM (SELECT {parts} AS key                                                                                    --? counts
                     , {measure} AS measure                                                                            --? sum
              FROM new_rows WHERE {counted}) AS r LIMIT 1;                                                             --? counts
        IF _many THEN                                                                                                  --? counts
            _key := NULL;                                                                                              --? counts
            SELECT array_agg(d.key), array_agg(d.rows) INTO _keys, _rows                                               --? counts, not sum
            SELECT array_agg(d.key), array_agg(d.rows), array_agg(d.sum) INTO _keys, _rows, _sums                      --? sum
            FROM (SELECT {key} AS key, count(*) AS rows                                                                --? counts
                         , coalesce(sum(r.measure), 0) AS sum                                                          --? sum
                  FROM (SELECT {parts} AS key                                                                          --? counts
                               , {measure} AS measure                                                                  --? sum
                        FROM new_rows WHERE {counted}) AS r                                                            --? counts
                  GROUP BY 1) AS d;                                                                                    --? counts
        END IF;                                                                                                        --? counts
        SELECT array_agg({key}), array_agg(NULL::json), array_agg(r.row) INTO _changed, _old, _new                     --? changes
        FROM (SELECT {parts} AS key, {row} AS row FROM new_rows WHERE {where}) AS r;                                   --? changes
        {lock}
    EXCEPTION WHEN OTHERS THEN
        _error := SQLSTATE;
    END;
    {write}
END
$items_listen$;

-- {function delete}
CREATE OR REPLACE FUNCTION items_listen.watch_{id}_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $items_listen$
-- Edition {edition} of these functions.
#variable_conflict use_column
DECLARE
    _key   text;                                                                                                       --? counts
    _sum   numeric;                                                                                                    --? sum
    _many  boolean;                                                                                                    --? counts
    _keys  text[];                                                                                                     --? counts
    _rows  bigint[];                                                                                                   --? counts
    _sums  numeric[];                                                                                                  --? sum
    _changed text[];                                                                                                   --? changes
    _what    text[];                                                                                                   --? paired
    _old     json[];                                                                                                   --? changes
    _new     json[];                                                                                                   --? changes
    _at      timestamptz := clock_timestamp();                                                                         --? changes
    _error text;
    _patience text;
BEGIN
    BEGIN
        SELECT {key}, EXISTS (SELECT FROM old_rows OFFSET 1) INTO _key, _many                                          --? counts, not sum
        SELECT {key}, -coalesce(r.measure, 0), EXISTS (SELECT FROM old_rows OFFSET 1) INTO _key, _sum, _many           --? sum
        FROM (SELECT {parts} AS key                                                                                    --? counts
                     , {measure} AS measure                                                                            --? sum
              FROM old_rows WHERE {counted}) AS r LIMIT 1;                                                             --? counts
        IF _many THEN                                                                                                  --? counts
            _key := NULL;                                                                                              --? counts
            SELECT array_agg(d.key), array_agg(d.rows) INTO _keys, _rows                                               --? counts, not sum
            SELECT array_agg(d.key), array_agg(d.rows), array_agg(d.sum) INTO _keys, _rows, _sums                      --? sum
            FROM (SELECT {key} AS key, -count(*) AS rows                                                               --? counts
                         , -coalesce(sum(r.measure), 0) AS sum                                                         --? sum
                  FROM (SELECT {parts} AS key                                                                          --? counts
                               , {measure} AS measure                                                                  --? sum
                        FROM old_rows WHERE {counted}) AS r                                                            --? counts
                  GROUP BY 1) AS d;                                                                                    --? counts
        END IF;                                                                                                        --? counts
        SELECT array_agg({key}), array_agg(r.row), array_agg(NULL::json) INTO _changed, _old, _new                     --? changes
        FROM (SELECT {parts} AS key, {row} AS row FROM old_rows WHERE {where}) AS r;                                   --? changes
        {lock}
    EXCEPTION WHEN OTHERS THEN
        _error := SQLSTATE;
    END;
    {write}
END
$items_listen$;

-- {function update}
CREATE OR REPLACE FUNCTION items_listen.watch_{id}_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $items_listen$
-- Edition {edition} of these functions.
#variable_conflict use_column
DECLARE
    _key   text;                                                                                                       --? counts
    _sum   numeric;                                                                                                    --? sum
    _delta bigint := 1;                                                                                                --? counts
    _old_key text;                                                                                                     --? counts
    _old_sum numeric;                                                                                                  --? sum
    _many  boolean;                                                                                                    --? counts
    _keys  text[];                                                                                                     --? counts
    _rows  bigint[];                                                                                                   --? counts
    _sums  numeric[];                                                                                                  --? sum
    _changed text[];                                                                                                   --? changes
    _what    text[];                                                                                                   --? paired
    _old     json[];                                                                                                   --? changes
    _new     json[];                                                                                                   --? changes
    _at      timestamptz := clock_timestamp();                                                                         --? changes
    _error text;
    _patience text;
BEGIN
    BEGIN
        SELECT n.key, o.key, EXISTS (SELECT FROM new_rows OFFSET 1) INTO _key, _old_key, _many                         --? counts, not sum
        SELECT n.key, o.key, EXISTS (SELECT FROM new_rows OFFSET 1), coalesce(n.measure, 0), coalesce(o.measure, 0)    --? sum
        INTO _key, _old_key, _many, _sum, _old_sum                                                                     --? sum
        FROM (SELECT) AS one                                                                                           --? counts
        LEFT JOIN (SELECT {key} AS key                                                                                 --? counts
                          , r.measure                                                                                  --? sum
                   FROM (SELECT {parts} AS key                                                                         --? counts
                                , {measure} AS measure                                                                 --? sum
                         FROM new_rows WHERE {counted}) AS r) AS n ON true                                             --? counts
        LEFT JOIN (SELECT {key} AS key                                                                                 --? counts
                          , r.measure                                                                                  --? sum
                   FROM (SELECT {parts} AS key                                                                         --? counts
                                , {measure} AS measure                                                                 --? sum
                         FROM old_rows WHERE {counted}) AS r) AS o ON true                                             --? counts
        LIMIT 1;                                                                                                       --? counts
        -- A row that moves to another key, or in or out of the condition, is one less here and one more there.        --? counts
        IF _many OR _key <> _old_key THEN                                                                              --? counts
            _key := NULL;                                                                                              --? counts
            SELECT array_agg(d.key), array_agg(d.rows) INTO _keys, _rows                                               --? counts, not sum
            SELECT array_agg(d.key), array_agg(d.rows), array_agg(d.sum) INTO _keys, _rows, _sums                      --? sum
            FROM (SELECT {key} AS key, sum(r.n) AS rows                                                                --? counts
                         , coalesce(sum(r.n * r.measure), 0) AS sum                                                    --? sum
                  FROM (SELECT {parts} AS key, 1 AS n                                                                  --? counts
                               , {measure} AS measure                                                                  --? sum
                        FROM new_rows WHERE {counted}                                                                  --? counts
                        UNION ALL                                                                                      --? counts
                        SELECT {parts} AS key, -1 AS n                                                                 --? counts
                               , {measure} AS measure                                                                  --? sum
                        FROM old_rows WHERE {counted}) AS r                                                            --? counts
                  GROUP BY 1                                                                                           --? counts
                  HAVING sum(r.n) <> 0                                                                                 --? counts, not sum, not touch
                  HAVING sum(r.n) <> 0 OR sum(r.n * r.measure) <> 0                                                    --? sum, not touch
                 ) AS d;                                                                                               --? counts
        ELSIF _key IS NULL THEN                                                                                        --? counts
            _key := _old_key;                                                                                          --? counts
            _delta := -1;                                                                                              --? counts
            _sum := - _old_sum;                                                                                        --? sum
        ELSIF _old_key IS NOT NULL THEN                                                                                --? counts
            _delta := 0;                                                                                               --? counts
            _sum := _sum - _old_sum;                                                                                   --? sum
            _key := NULL;                                                                                              --? counts, not sum, not touch
            IF _sum = 0 THEN _key := NULL; END IF;                                                                     --? sum, not touch
        END IF;                                                                                                        --? counts
        -- One that comes under the condition is an insert, one that leaves it a delete.                               --? changes
        SELECT array_agg({key}), array_agg(r.what), array_agg(r.old), array_agg(r.new)                                 --? changes
        INTO _changed, _what, _old, _new                                                                               --? changes
        FROM (SELECT coalesce(n.key, o.key) AS key, o.row AS old, n.row AS new,                                        --? changes
                     CASE WHEN o.id IS NULL THEN 'insert' WHEN n.id IS NULL THEN 'delete' ELSE 'update' END AS what    --? changes
              FROM (SELECT {parts} AS key, {identity} AS id, {columns} AS columns, {row} AS row FROM new_rows WHERE {where}) AS n --? changes
              FULL JOIN                                                                                                --? changes
                   (SELECT {parts} AS key, {identity} AS id, {columns} AS columns, {row} AS row FROM old_rows WHERE {where}) AS o --? changes
              ON n.id = o.id                                                                                           --? changes
              WHERE n.columns IS DISTINCT FROM o.columns                                                               --? changes, columns
             ) AS r WHERE r.what IN ({wanted});                                                                        --? changes
        {lock}
    EXCEPTION WHEN OTHERS THEN
        _error := SQLSTATE;
    END;
    {write}
END
$items_listen$;

-- {function truncate}
CREATE OR REPLACE FUNCTION items_listen.watch_{id}_truncate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $items_listen$
-- Edition {edition} of these functions.
DECLARE
    _error text := 'a TRUNCATE';
    _patience text;
BEGIN
    {marker}
    INSERT INTO items_listen.marker (watch, reason) VALUES ({id}, 'truncate');
    {ring}
    RETURN NULL;
END
$items_listen$;

-- {lock}
IF _key IS NULL AND _keys IS NULL THEN RETURN NULL; END IF;                                                            --? counts, not changes
        IF _changed IS NULL THEN RETURN NULL; END IF;                                                                  --? changes, not counts
        IF _key IS NULL AND _keys IS NULL AND _changed IS NULL THEN RETURN NULL; END IF;                               --? counts, changes
        LOCK TABLE items_listen.journal IN ROW EXCLUSIVE MODE NOWAIT;                                                  --? counts, not changes
        LOCK TABLE items_listen.change IN ROW EXCLUSIVE MODE NOWAIT;                                                   --? changes, not counts
        LOCK TABLE items_listen.journal, items_listen.change IN ROW EXCLUSIVE MODE NOWAIT;                             --? counts, changes

-- {marker}
BEGIN
        LOCK TABLE items_listen.marker IN ROW EXCLUSIVE MODE NOWAIT;
    EXCEPTION WHEN OTHERS THEN
        {unwritten}
        RETURN NULL;
    END;

-- {unwritten}
_error := format('%s after %s', SQLSTATE, _error);
        _patience := current_setting('lock_timeout');
        BEGIN
            -- Only ALTER SEQUENCE could keep us waiting.
            PERFORM set_config('lock_timeout', '1ms', true);
            PERFORM setval('items_listen.unwritten', 1 + (hashtextextended(gen_random_uuid()::text, 0) & 4611686018427387903));
            PERFORM set_config('lock_timeout', _patience, true);
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'items-listen can write none of journal, marker and unwritten (%, %): what this statement did to % is not counted', _error, SQLSTATE, TG_RELID::regclass
                USING HINT = 'When they can be written again: items-listen recount';
        END;

-- {write}
IF _error IS NOT NULL THEN
        {marker}
        INSERT INTO items_listen.marker (watch, reason, sqlstate) VALUES ({id}, 'broken', _error);
    ELSE
        IF _key IS NOT NULL THEN                                                                                       --? counts
            INSERT INTO items_listen.journal (generation, key, rows) VALUES ({generation}, _key, {delta});             --? counts, not sum
            INSERT INTO items_listen.journal (generation, key, rows, sum) VALUES ({generation}, _key, {delta}, _sum);  --? sum
        ELSIF _keys IS NOT NULL THEN                                                                                   --? counts
            INSERT INTO items_listen.journal (generation, key, rows)                                                   --? counts, not sum
            SELECT {generation}, k.key, k.rows FROM unnest(_keys, _rows) AS k (key, rows);                             --? counts, not sum
            INSERT INTO items_listen.journal (generation, key, rows, sum)                                              --? sum
            SELECT {generation}, k.key, k.rows, k.sum FROM unnest(_keys, _rows, _sums) AS k (key, rows, sum);          --? sum
        END IF;                                                                                                        --? counts
        INSERT INTO items_listen.change (generation, at, depth, change, key, old, new)                                 --? changes
        SELECT {generation}, _at, pg_trigger_depth(), {what}, c.key, c.old, c.new                                      --? changes, not paired
        FROM unnest(_changed, _old, _new) AS c (key, old, new);                                                        --? changes, not paired
        SELECT {generation}, _at, pg_trigger_depth(), c.what, c.key, c.old, c.new                                      --? paired
        FROM unnest(_changed, _what, _old, _new) AS c (key, what, old, new);                                           --? paired
    END IF;
    {ring}
    RETURN NULL;

-- {ring}
IF (CASE WHEN pg_try_advisory_lock_shared({bell})
             THEN NOT pg_advisory_unlock_shared({bell})
             ELSE true END) THEN
        NOTIFY {channel};
    END IF;
