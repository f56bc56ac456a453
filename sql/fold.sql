-- The one statement that moves the journal into the counts, and says which keys are to be evaluated.
--
-- It runs in a transaction that has written nothing yet, and does nothing unless that transaction holds the fold's
-- advisory lock, as the statement before it said in items_listen.folding: both are sent at once.
--   $1 $2 $3  id, generation and policy of the watches that this replica knows
--   $4 $5     xmax and xip of S, the snapshot of this replica's last complete fold ('0' and {}: from the beginning)
--   $6        the limit. Fewer journal rows than this: the journal is dry, and every dirty key is evaluated.
--   $7        so many of them at a time: those that are left are still dirty, and are evaluated by the next fold. So it is with
--             the keys of the journal, if there are more of them.
--   $8        watches whose own table, or whose lookup, cannot be read at present: their keys stay dirty.
-- {rows} and {thresholds} are filled in: what watches read of their own tables, and of the table threshold.
--
-- What S could not see has an xid >= xmax(S), or one of xip(S): two index ranges, so that the fold never
-- walks over the dead rows that some forgotten session keeps from being vacuumed.
-- Everything is decided in one snapshot, markers included: a key is never evaluated between the two halves
-- of a transaction, nor while its watch waits to be counted anew.
WITH mine AS MATERIALIZED (
    SELECT w.id, w.name, w.generation, w.key_columns, w.baseline,
           EXISTS (SELECT FROM items_listen.marker m WHERE m.watch = w.id) AS marked,
           -- A query watch is judged by its sweeps alone.
           w.id <> ALL ($8::int[]) AND w.source <> 'query' AS judged
    FROM items_listen.watch w
    JOIN unnest($1::int[], $2::int[], $3::text[]) AS known (id, generation, policy)
      ON w.id = known.id AND w.generation = known.generation AND w.policy = known.policy
    WHERE current_setting('items_listen.folding') = 'true'
),
foldable AS MATERIALIZED (
    (SELECT j.ctid FROM items_listen.journal j
     WHERE j.xid >= $4::text::xid8 AND current_setting('items_listen.folding') = 'true'
       AND (j.generation IN (SELECT generation FROM mine)
            OR j.generation NOT IN (SELECT generation FROM items_listen.watch))
     LIMIT $6::bigint)
    UNION ALL
    (SELECT j.ctid FROM items_listen.journal j
     WHERE j.xid = ANY ($5::text[]::xid8[]) AND j.xid < $4::text::xid8 AND current_setting('items_listen.folding') = 'true'
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
-- Edits of the table threshold, each of all keys that have its values; those of other replicas' watches are theirs to take.
edited AS MATERIALIZED (
    DELETE FROM items_listen.threshold_edit e
    WHERE (e.watch IN (SELECT name FROM mine) OR e.watch NOT IN (SELECT name FROM items_listen.watch))
      AND current_setting('items_listen.folding') = 'true'
    RETURNING e.watch, e.key
),
-- Where in the key the columns stand that an edit names; one that names another column is about no key.
placed AS MATERIALIZED (
    SELECT DISTINCT m.id, cardinality(m.key_columns) AS columns, p.places, p.parts
    FROM edited e JOIN mine m ON m.name = e.watch,
         LATERAL (SELECT coalesce(array_agg(array_position(m.key_columns, k.name) - 1 ORDER BY array_position(m.key_columns, k.name)), '{}') AS places,
                         coalesce(array_agg(k.value ORDER BY array_position(m.key_columns, k.name)), '{}') AS parts
                  FROM jsonb_each(e.key) AS k (name, value)) AS p
    WHERE array_position(p.places, NULL) IS NULL
),
rejudged AS MATERIALIZED (
    -- All columns: one key, which is found at once.
    SELECT p.id, c.key FROM placed p JOIN items_listen.count c ON c.watch = p.id AND c.key = to_jsonb(p.parts)::text
    WHERE cardinality(p.places) = p.columns
    UNION
    -- Some: each key is looked at once for every choice of columns.
    SELECT s.id, c.key
    FROM (SELECT DISTINCT id, places FROM placed WHERE cardinality(places) < columns) AS s
    JOIN items_listen.count c ON c.watch = s.id
    WHERE (s.id, s.places, ARRAY(SELECT c.key::jsonb -> u.place FROM unnest(s.places) AS u (place))) IN (SELECT id, places, parts FROM placed)
),
folded AS (
    INSERT INTO items_listen.count AS c (watch, key, rows, sum, dirty)
    -- What one fold does not evaluate is dirty, and each time it is another part: no busy key waits for ever.
    SELECT k.id, k.key, k.rows, k.sum,
           CASE WHEN k.marked OR NOT k.judged OR NOT (SELECT complete FROM done) OR k.place > $7::bigint THEN k.dirty ELSE 0 END
    FROM (SELECT m.id, m.marked, m.judged, t.key, sum(t.rows) AS rows, sum(t.sum) AS sum, max(t.dirty) AS dirty,
                 row_number() OVER (ORDER BY random()) AS place
          FROM (SELECT m.id, j.key, j.rows, j.sum, 1 AS dirty FROM taken j JOIN mine m USING (generation)
                UNION ALL
                SELECT e.id, e.key, 0, 0, 2 FROM rejudged e) AS t
          JOIN mine m ON m.id = t.id
          GROUP BY m.id, m.marked, m.judged, t.key) AS k
    ORDER BY k.id, k.key COLLATE "C"
    ON CONFLICT (watch, key) DO UPDATE
        SET rows = c.rows + excluded.rows, sum = c.sum + excluded.sum, dirty = CASE WHEN excluded.dirty > 0 THEN greatest(c.dirty, excluded.dirty) ELSE 0 END
    RETURNING c.*
),
-- What is dirty, as far as one fold evaluates it.
chosen AS MATERIALIZED (
    SELECT d.watch, d.key FROM items_listen.count d JOIN mine n ON n.id = d.watch
    WHERE d.dirty > 0 AND NOT n.marked AND n.judged AND (SELECT complete FROM done)
      AND (d.watch, d.key) NOT IN (SELECT f.watch, f.key FROM folded f)
    LIMIT $7::bigint
),
-- What time alone has something to say of. (+ 0: by the index of deadlines, never by walking over all keys of a watch,
-- which a plan made without statistics takes for the same.)
due AS MATERIALIZED (
    SELECT d.watch, d.key FROM items_listen.count d
    WHERE d.deadline <= (SELECT clock_timestamp())
      AND d.watch + 0 = ANY (ARRAY(SELECT n.id FROM mine n WHERE NOT n.marked AND n.judged))
    LIMIT $7::bigint
),
reading AS (
    SELECT f.*, 0::smallint AS was_dirty
    FROM folded f JOIN mine m ON m.id = f.watch
    WHERE f.dirty = 0 AND m.judged
    UNION ALL
    SELECT c.*, c.dirty AS was_dirty
    FROM (SELECT watch, key FROM chosen UNION SELECT watch, key FROM due WHERE (SELECT complete FROM done)) AS k,
         -- OFFSET 0: each key by the primary key, whatever the plan believes of their number.
         LATERAL (SELECT * FROM items_listen.count c WHERE c.watch = k.watch AND c.key = k.key OFFSET 0) AS c
    -- NOT IN, which is hashed: as NOT EXISTS it is a loop over both, 20 s for 100,000 keys.
    WHERE (c.watch, c.key) NOT IN (SELECT f.watch, f.key FROM folded f)
)
SELECT done.rows AS folded_rows, done.complete, greatest((SELECT count(*) FROM chosen) + 1, (SELECT count(*) FROM folded)) > $7::bigint AS more,
       pg_current_snapshot()::text AS snapshot,
       clock_timestamp() AS now,
       (SELECT array_agg(id) FROM mine) AS served,
       (SELECT array_agg(id) FROM mine WHERE marked) AS marked,
       (SELECT array_agg(id) FROM mine WHERE baseline AND NOT marked AND judged) AS baseline,
       (SELECT array_agg(id) FROM mine JOIN items_listen.storm s ON s.watch = id WHERE s.due_at <= (SELECT clock_timestamp())) AS storms,
       EXISTS (SELECT FROM items_listen.unread_edit) AS unread_edited,
       r.watch, r.key, r.rows, r.was_dirty, r.severity, r.episode,
       -- Whatever the numbers, a reading is one of 64 bits.
       least(greatest(r.sum, -9223372036854775808), 9223372036854775807)::bigint AS sum,
       r.breach_since, r.clear_since, r.said_at, r.deadline, r.last_at,
       (r.watch, r.key) IN (SELECT e.id, e.key FROM rejudged e) AS rejudged,
       own.threshold AS own_threshold, own.row, edit.threshold AS edited_threshold, coalesce(edit.found, false) AS is_edited,
       CASE WHEN r.key IS NOT NULL THEN nextval('items_listen.seq') END AS seq
FROM done
LEFT JOIN reading r ON true
LEFT JOIN LATERAL ({rows}) AS own (threshold, row) ON true
LEFT JOIN LATERAL ({thresholds}) AS edit (threshold, found) ON true
