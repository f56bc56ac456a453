-- The correction that makes a watch exact: per key, what the table says in this snapshot less what the
-- counts and the journal say in the same snapshot. It is appended to the journal like any other change.
--
-- It deletes no journal row and writes no count: a fold moves rows from the one to the other atomically,
-- so their sum is the same in every snapshot, and writers, folds and recounts never wait for each other.
-- {...} is filled in by the program: the watch's id and generation, and its relation, condition (a level that is NULL is none), key and measure; and
-- whether every key is to be judged anew, since more than its count may have changed while nobody saw.

-- {truth}
-- By itself, and by the columns as they are: so PostgreSQL may use several processes, and makes the text of a key once
-- for each key and not for each row.
CREATE TEMP TABLE items_listen_truth ON COMMIT DROP AS
SELECT {grouped}count(*) AS items_listen_rows, {sum} AS items_listen_sum
FROM {relation} AS watched WHERE {counted}
{group}

-- {correction}
WITH truth AS (
    SELECT key, sum(rows) AS rows, sum(sum) AS sum
    FROM (SELECT {key} AS key, r.rows, r.sum
          FROM (SELECT {parts} AS key, items_listen_rows AS rows, items_listen_sum AS sum
                FROM pg_temp.items_listen_truth WHERE items_listen_rows > 0) AS r) AS keyed
    GROUP BY key
),
known AS (
    SELECT key, sum(rows) AS rows, sum(sum) AS sum
    FROM (SELECT key, rows, sum FROM items_listen.count WHERE watch = {id}
          UNION ALL
          SELECT key, rows, coalesce(sum, 0) FROM items_listen.journal WHERE generation = {generation}) AS k
    GROUP BY key
)
INSERT INTO items_listen.journal (generation, key, rows, sum)
SELECT {generation}, key, coalesce(truth.rows, 0) - coalesce(known.rows, 0), coalesce(truth.sum, 0) - coalesce(known.sum, 0)
FROM truth FULL JOIN known USING (key)
WHERE coalesce(truth.rows, 0) <> coalesce(known.rows, 0) OR coalesce(truth.sum, 0) <> coalesce(known.sum, 0) OR {touch}
