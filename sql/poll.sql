-- The slow beat: everything that can be waiting for the daemon, in one statement on the LISTEN session,
-- and at the same time the proof that this session is alive.
--
--   $1 $2  xmax and xip of the last complete fold      $3 $7  the endpoints of this replica, and from which due
--                                                              time on claims of each look
--   $8 $9  the same of the last time that all changes were taken
--   $4     this instance                               $5  whether it is ready    $6  its doorbell
WITH beat AS (
    UPDATE items_listen.instance SET beat_at = clock_timestamp(), ready = $5::boolean, doorbell = $6::text
    WHERE id = $4::uuid AND beat_at < clock_timestamp() - interval '0.9 s'
)
SELECT
    EXISTS (SELECT FROM items_listen.journal WHERE xid >= $1::text::xid8)
      OR EXISTS (SELECT FROM items_listen.journal WHERE xid = ANY ($2::text[]::xid8[]) AND xid < $1::text::xid8)
      OR EXISTS (SELECT FROM items_listen.threshold_edit)
      OR EXISTS (SELECT FROM items_listen.change WHERE xid >= $8::text::xid8)
      OR EXISTS (SELECT FROM items_listen.change WHERE xid = ANY ($9::text[]::xid8[]) AND xid < $8::text::xid8)
      AS journal_waits,
    EXISTS (SELECT FROM items_listen.count WHERE dirty > 0) AS dirty,
    EXISTS (SELECT FROM items_listen.count WHERE deadline <= (SELECT clock_timestamp()))
      OR EXISTS (SELECT FROM items_listen.storm WHERE due_at <= (SELECT clock_timestamp()))
      AS deadline_due,
    (SELECT extract(epoch FROM least((SELECT min(deadline) FROM items_listen.count WHERE deadline IS NOT NULL),
                                     (SELECT min(due_at) FROM items_listen.storm)) - clock_timestamp())::float8)
      AS next_deadline_seconds,
    (SELECT array_agg(DISTINCT c.watch) FROM items_listen.count c
     WHERE (c.dirty > 0 OR c.deadline <= (SELECT clock_timestamp()))
       AND c.watch IN (SELECT w.id FROM items_listen.watch w WHERE w.source = 'query')) AS sweeps,
    (SELECT array_agg(DISTINCT watch) FROM items_listen.marker) AS marked,
    (SELECT array_agg(DISTINCT watch) FROM ({coverage}) AS c WHERE finding <> 'gone') AS uncovered,
    (SELECT array_agg(DISTINCT watch) FROM ({coverage}) AS c WHERE finding = 'gone') AS gone,
    (SELECT array_agg(e.name)
     FROM unnest($3::text[], $7::timestamptz[]) AS e (name, floor)
     WHERE EXISTS (SELECT FROM items_listen.delivery d
                   WHERE d.endpoint = e.name AND d.state = 'pending' AND d.lease IS NULL
                     AND d.due_at <= (SELECT clock_timestamp()) AND d.due_at >= coalesce(e.floor, '-infinity'))
        OR EXISTS (SELECT FROM items_listen.delivery d
                   WHERE d.endpoint = e.name AND d.state = 'pending' AND d.lease IS NOT NULL
                     AND d.lease_until < (SELECT clock_timestamp()))) AS due,
    EXISTS (SELECT FROM items_listen.endpoint p WHERE p.state = 'paused' AND p.until > clock_timestamp()) AS any_paused,
    (SELECT coalesce(bool_or(c = '{channel}'), false) FROM pg_listening_channels() AS c) AS listening,
    (SELECT u.last_value <> c.unwritten FROM items_listen.unwritten u, items_listen.cluster c) AS unwritten,
    pg_notification_queue_usage() AS queue_usage,
    (SELECT array_agg(w.id || ' ' || w.generation || ' ' || w.policy) FROM items_listen.watch w) AS installed,
    (SELECT c.system_identifier = s.system_identifier FROM items_listen.cluster c, pg_control_system() s) AS same_cluster
