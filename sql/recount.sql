-- The correction that makes a watch exact: per key, what the table says in this snapshot less what the
-- counts and the journal say in the same snapshot. It is appended to the journal like any other change.
--
-- It deletes no journal row and writes no count: a fold moves rows from the one to the other atomically,
-- so their sum is the same in every snapshot, and writers, folds and recounts never wait for each other.
-- {...} is filled in by the program: the watch's id and generation, and its relation, condition and key.
WITH truth AS (
    SELECT key, count(*) AS rows
    FROM (SELECT {key} AS key FROM (SELECT {parts} AS key FROM {relation} AS watched WHERE {where}) AS r) AS keyed
    GROUP BY key
),
known AS (
    SELECT key, sum(rows) AS rows
    FROM (SELECT key, rows FROM items_listen.count WHERE watch = {id}
          UNION ALL
          SELECT key, rows FROM items_listen.journal WHERE generation = {generation}) AS k
    GROUP BY key
)
INSERT INTO items_listen.journal (generation, key, rows)
SELECT {generation}, key, coalesce(truth.rows, 0) - coalesce(known.rows, 0)
FROM truth FULL JOIN known USING (key)
WHERE coalesce(truth.rows, 0) <> coalesce(known.rows, 0)
