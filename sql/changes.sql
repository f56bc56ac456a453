-- The changes of rows that nobody has told yet, in the order of the triggers' clock.
--
-- It runs in the fold's transaction, after the fold's own statement, with the fold's lock held.
--   $1 $2 $3  id, generation and policy of the watches that this replica knows
--   $4 $5     xmax and xip of the snapshot of the last time that all of them were taken ('0' and {}: from the beginning)
--   $6        the limit. Fewer rows than this: there are no more.
--   $7        watches whose lookup cannot be asked at present: their changes wait.
--
-- What was written under a former definition of a watch is told by the one that it has now. What belongs to no definition,
-- present or former, is deleted unread.
WITH mine AS MATERIALIZED (
    SELECT DISTINCT w.id, unnest(w.generation || w.former) AS generation
    FROM items_listen.watch w
    JOIN unnest($1::int[], $2::int[], $3::text[]) AS known (id, generation, policy)
      ON w.id = known.id AND w.generation = known.generation AND w.policy = known.policy
    WHERE w.id <> ALL ($7::int[])
),
anybodys AS MATERIALIZED (
    SELECT unnest(w.generation || w.former) AS generation FROM items_listen.watch w
),
waiting AS (
    (SELECT c.ctid, c.at FROM items_listen.change c
     WHERE c.xid >= $4::text::xid8
       AND (c.generation IN (SELECT generation FROM mine)
            OR c.generation NOT IN (SELECT generation FROM anybodys))
     ORDER BY c.at LIMIT $6::bigint)
    UNION ALL
    (SELECT c.ctid, c.at FROM items_listen.change c
     WHERE c.xid = ANY ($5::text[]::xid8[]) AND c.xid < $4::text::xid8
       AND (c.generation IN (SELECT generation FROM mine)
            OR c.generation NOT IN (SELECT generation FROM anybodys))
     ORDER BY c.at LIMIT $6::bigint)
    ORDER BY at LIMIT $6::bigint
),
taken AS (
    DELETE FROM items_listen.change
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM waiting))
    RETURNING xid, generation, at, depth, change, key, old, new
),
done AS MATERIALIZED (
    SELECT count(*) < $6::bigint AS complete FROM taken
)
SELECT done.complete, t.xid::text AS xid, t.at, t.depth, t.watch, t.change, t.key, t.old::text AS old, t.new::text AS new,
       CASE WHEN t.key IS NOT NULL THEN nextval('items_listen.seq') END AS seq
FROM done LEFT JOIN (SELECT m.id AS watch, taken.* FROM taken JOIN mine m USING (generation) ORDER BY taken.at) AS t ON true
ORDER BY t.at
