-- What a daemon's status line says of the database. Counted through partial indexes, and no further than anybody would
-- read: this is asked every few seconds.
--
--   $1  the endpoints of this daemon      $2  how far is counted
SELECT
    (SELECT count(*) FROM (SELECT FROM items_listen.count WHERE severity > 0 LIMIT $2) AS c) AS open,
    (SELECT count(*) FROM (SELECT FROM items_listen.delivery WHERE state = 'dead' LIMIT $2) AS d) AS dead,
    p.pending,
    extract(epoch FROM clock_timestamp() - p.oldest)::float8 AS oldest_seconds,
    (SELECT array_agg(e.name || CASE e.state WHEN 'paused' THEN ' paused' ELSE ' backing off' END || coalesce(': ' || e.reason, '')
                      ORDER BY e.state = 'paused' DESC, e.name)
     FROM items_listen.endpoint e WHERE e.name = ANY ($1) AND e.state <> 'ok') AS troubles
FROM (SELECT count(*) AS pending, min(created_at) AS oldest
      FROM (SELECT created_at FROM items_listen.delivery WHERE state = 'pending' LIMIT $2) AS d) AS p
