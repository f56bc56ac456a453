-- By how much a watch's counts are wrong, which should be not at all: per key, what the table says in this snapshot beside
-- what the counts and the journal say in the same one. As sql/recount.sql, but it changes nothing, and may be asked in a
-- transaction that only reads: rows of the journal that are not folded yet count as folded.
-- {...} is filled in by the program, as there. The first row tells how many keys differ.
WITH counted AS (
    SELECT {grouped}count(*) AS items_listen_rows, {sum} AS items_listen_sum
    FROM {relation} AS watched WHERE {counted}
    {group}
),
truth AS (
    SELECT key, sum(rows) AS rows, sum(sum) AS sum
    FROM (SELECT {key} AS key, r.rows, r.sum
          FROM (SELECT {parts} AS key, items_listen_rows AS rows, items_listen_sum AS sum
                FROM counted WHERE items_listen_rows > 0) AS r) AS keyed
    GROUP BY key
),
known AS (
    SELECT key, sum(rows) AS rows, sum(sum) AS sum
    FROM (SELECT key, rows, sum FROM items_listen.count WHERE watch = {id}
          UNION ALL
          SELECT key, rows, coalesce(sum, 0) FROM items_listen.journal WHERE generation = {generation}) AS k
    GROUP BY key
)
SELECT key, coalesce(truth.rows, 0)::text, coalesce(known.rows, 0)::text, coalesce(truth.sum, 0)::text, coalesce(known.sum, 0)::text,
       count(*) OVER ()
FROM truth FULL JOIN known USING (key)
WHERE coalesce(truth.rows, 0) <> coalesce(known.rows, 0) OR coalesce(truth.sum, 0) <> coalesce(known.sum, 0)
ORDER BY abs(coalesce(truth.rows, 0) - coalesce(known.rows, 0)) DESC, key COLLATE "C"
LIMIT 3
