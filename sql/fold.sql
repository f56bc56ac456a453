-- The one statement that moves the journal into the counts, and says which keys are to be evaluated.
--
-- It runs in a transaction that holds the fold's advisory lock and has written nothing yet.
--   $1 $2 $3  id, generation and policy of the watches that this replica knows
--   $4 $5     xmax and xip of S, the snapshot of this replica's last complete fold ('0' and {}: from the beginning)
--   $6        the limit. Fewer journal rows than this: the journal is dry, and every dirty key is evaluated.
--   $7        so many of them at a time: those that are left are still dirty, and are evaluated by the next fold.
--
-- What S could not see has an xid >= xmax(S), or one of xip(S): two index ranges, so that the fold never
-- walks over the dead rows that some forgotten session keeps from being vacuumed.
-- Everything is decided in one snapshot, markers included: a key is never evaluated between the two halves
-- of a transaction, nor while its watch waits to be counted anew.
WITH mine AS MATERIALIZED (
    SELECT w.id, w.generation, w.baseline,
           EXISTS (SELECT FROM items_listen.marker m WHERE m.watch = w.id) AS marked
    FROM items_listen.watch w
    JOIN unnest($1::int[], $2::int[], $3::text[]) AS known (id, generation, policy)
      ON w.id = known.id AND w.generation = known.generation AND w.policy = known.policy
),
foldable AS MATERIALIZED (
    (SELECT j.ctid FROM items_listen.journal j
     WHERE j.xid >= $4::text::xid8
       AND (j.generation IN (SELECT generation FROM mine)
            OR j.generation NOT IN (SELECT generation FROM items_listen.watch))
     LIMIT $6::bigint)
    UNION ALL
    (SELECT j.ctid FROM items_listen.journal j
     WHERE j.xid = ANY ($5::text[]::xid8[]) AND j.xid < $4::text::xid8
       AND (j.generation IN (SELECT generation FROM mine)
            OR j.generation NOT IN (SELECT generation FROM items_listen.watch))
     LIMIT $6::bigint)
    LIMIT $6::bigint
),
taken AS (
    DELETE FROM items_listen.journal
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM foldable))
    RETURNING generation, key, rows, coalesce(sum, 0) AS sum
),
done AS MATERIALIZED (
    SELECT count(*) AS rows, count(*) < $6::bigint AS complete FROM taken
),
folded AS (
    INSERT INTO items_listen.count AS c (watch, key, rows, sum, dirty)
    SELECT m.id, t.key, sum(t.rows), sum(t.sum), CASE WHEN m.marked OR NOT (SELECT complete FROM done) THEN 1 ELSE 0 END
    FROM taken t JOIN mine m USING (generation)
    GROUP BY m.id, m.marked, t.key
    ORDER BY m.id, t.key COLLATE "C"
    ON CONFLICT (watch, key) DO UPDATE
        SET rows = c.rows + excluded.rows, sum = c.sum + excluded.sum, dirty = CASE WHEN excluded.dirty > 0 THEN greatest(c.dirty, excluded.dirty) ELSE 0 END
    RETURNING c.*
),
-- What is dirty, as far as one fold evaluates it.
chosen AS MATERIALIZED (
    SELECT d.watch, d.key FROM items_listen.count d JOIN mine n ON n.id = d.watch
    WHERE d.dirty > 0 AND NOT n.marked AND (SELECT complete FROM done)
    LIMIT $7::bigint
),
reading AS (
    SELECT f.*, 0::smallint AS was_dirty
    FROM folded f
    WHERE f.dirty = 0
    UNION ALL
    SELECT c.*, c.dirty AS was_dirty
    FROM items_listen.count c JOIN mine m ON m.id = c.watch
    WHERE (SELECT complete FROM done) AND NOT m.marked
      AND (c.watch, c.key) IN (
            SELECT watch, key FROM chosen
            UNION
            (SELECT d.watch, d.key FROM items_listen.count d JOIN mine n ON n.id = d.watch
             WHERE d.deadline <= (SELECT clock_timestamp()) AND NOT n.marked LIMIT $7::bigint))
      -- NOT IN, which is hashed: as NOT EXISTS it is a loop over both, 20 s for 100,000 keys.
      AND (c.watch, c.key) NOT IN (SELECT f.watch, f.key FROM folded f)
)
SELECT done.rows AS folded_rows, done.complete, (SELECT count(*) FROM chosen) >= $7::bigint AS more,
       pg_current_snapshot()::text AS snapshot,
       clock_timestamp() AS now,
       (SELECT array_agg(id) FROM mine) AS served,
       (SELECT array_agg(id) FROM mine WHERE marked) AS marked,
       (SELECT array_agg(id) FROM mine WHERE baseline AND NOT marked) AS baseline,
       (SELECT array_agg(id) FROM mine JOIN items_listen.storm s ON s.watch = id WHERE s.due_at <= (SELECT clock_timestamp())) AS storms,
       r.watch, r.key, r.rows, r.was_dirty, r.severity, r.episode,
       r.breach_since, r.clear_since, r.said_at, r.deadline, r.last_at,
       CASE WHEN r.key IS NOT NULL THEN nextval('items_listen.seq') END AS seq
FROM done LEFT JOIN reading r ON true
