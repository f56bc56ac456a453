-- Where the triggers of a table watch are not as they should be. No rows: all is in place.
--
-- Statement triggers fire for the table that a statement names, so they stand on the root, on every
-- intermediate and on every leaf; and ATTACH, DETACH and DROP of a partition run no trigger at all.
WITH RECURSIVE tree (watch, relid) AS (
    SELECT w.id, to_regclass(w.relation)::oid
    FROM items_listen.watch w
    WHERE w.source = 'table'
    UNION
    SELECT t.watch, i.inhrelid
    FROM tree t JOIN pg_inherits i ON i.inhparent = t.relid
    WHERE NOT i.inhdetachpending
),
wanted AS (
    SELECT t.watch, t.relid, e.event, format('items_listen_%s_%s', t.watch, e.event) AS name
    FROM tree t JOIN items_listen.watch w ON w.id = t.watch, unnest(w.events) AS e (event)
    WHERE t.relid IS NOT NULL
)
-- The table does not exist.
SELECT t.watch, 'gone' AS finding, NULL::oid AS relid, NULL AS event
FROM tree t WHERE t.relid IS NULL
UNION ALL
-- A trigger is missing, or disabled.
SELECT w.watch, CASE WHEN g.oid IS NULL THEN 'missing' ELSE 'disabled' END, w.relid, w.event
FROM wanted w LEFT JOIN pg_trigger g ON g.tgrelid = w.relid AND g.tgname = w.name
WHERE g.oid IS NULL OR g.tgenabled IN ('D', 'R')
UNION ALL
-- A table that was detached still has one.
SELECT w.id, 'stray', g.tgrelid, e.event
FROM items_listen.watch w, unnest(w.events) AS e (event), unnest(w.covered) AS c (relid)
JOIN pg_class ON pg_class.oid = c.relid
JOIN pg_trigger g ON g.tgrelid = c.relid
WHERE g.tgname = format('items_listen_%s_%s', w.id, e.event)
  AND NOT EXISTS (SELECT FROM tree t WHERE t.watch = w.id AND t.relid = c.relid)
UNION ALL
-- A column of the key is gone, or is of another type than the triggers were made for.
SELECT w.id, 'retyped', NULL, NULL
FROM items_listen.watch w
WHERE w.source = 'table' AND to_regclass(w.relation) IS NOT NULL AND w.events <> '{}'
  AND w.key_types IS DISTINCT FROM (
        SELECT coalesce(array_agg(a.atttypid ORDER BY k.ord), '{}')
        FROM unnest(w.key_columns) WITH ORDINALITY AS k (name, ord)
        LEFT JOIN pg_attribute a ON a.attrelid = to_regclass(w.relation) AND a.attname = k.name AND NOT a.attisdropped)
UNION ALL
-- The set of relations is not the one that was counted.
SELECT w.id, 'changed', NULL, NULL
FROM items_listen.watch w
WHERE w.source = 'table' AND to_regclass(w.relation) IS NOT NULL
  AND w.covered IS DISTINCT FROM (SELECT array_agg(t.relid ORDER BY t.relid) FROM tree t WHERE t.watch = w.id)
