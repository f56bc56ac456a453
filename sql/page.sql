-- What the status page shows, as one JSON document, read at most once a second while somebody looks at it.
--
-- However large the tables are, this reads a bounded part of them, through indexes: every inner SELECT has a LIMIT, and a
-- number that reaches its LIMIT is shown as "more than". Where an order looks needless it names the index, which statistics
-- of a table that is empty most of the time would not. `src/http/document.rs` adds what only the configuration knows.
--
--   $1 $2 $3  the watches of this daemon's configuration, in its order: name, whether low readings are the bad ones,
--             whether the reading is a sum (or a level) and not a number of rows
--   $4        the endpoints of its configuration
--   $5  $6    this instance, and all that this process is or was: one per configuration
WITH RECURSIVE waiting (name) AS (
    -- The endpoints that something waits for, or was given up for, one index lookup each.
    (SELECT d.endpoint FROM items_listen.delivery d WHERE d.state = 'pending' ORDER BY d.endpoint LIMIT 1)
    UNION ALL
    SELECT (SELECT d.endpoint FROM items_listen.delivery d WHERE d.state = 'pending' AND d.endpoint > waiting.name
            ORDER BY d.endpoint LIMIT 1)
    FROM waiting WHERE waiting.name IS NOT NULL
), given_up (name) AS (
    (SELECT d.endpoint FROM items_listen.delivery d WHERE d.state = 'dead' ORDER BY d.endpoint LIMIT 1)
    UNION ALL
    SELECT (SELECT d.endpoint FROM items_listen.delivery d WHERE d.state = 'dead' AND d.endpoint > given_up.name
            ORDER BY d.endpoint LIMIT 1)
    FROM given_up WHERE given_up.name IS NOT NULL
), live AS (
    SELECT i.* FROM items_listen.instance i WHERE i.beat_at > clock_timestamp() - interval '10 s'
), watches AS (
    SELECT w.id, w.name, w.source, w.key_columns, w.error, w.error_at, c.ord,
           coalesce(c.low, false) AS low, coalesce(c.sums, false) AS sums
    FROM items_listen.watch w
    LEFT JOIN unnest($1::text[], $2::boolean[], $3::boolean[]) WITH ORDINALITY AS c (name, low, sums, ord) ON c.name = w.name
    ORDER BY c.ord NULLS LAST, w.name LIMIT 100
), counted AS MATERIALIZED (
    SELECT w.*, (SELECT count(*) FROM (SELECT FROM items_listen.count k WHERE k.watch = w.id LIMIT 10001) AS k) AS keys
    FROM watches w
), events AS MATERIALIZED (
    -- The recent past, per watch.
    SELECT w.id AS watch, e.seq, e.key, e.count, e.threshold, e.severity, e.at
    FROM watches w
    CROSS JOIN LATERAL (
        SELECT e.* FROM items_listen.event e WHERE e.watch = w.name ORDER BY e.seq DESC LIMIT 200) AS e
), candidates AS (
    -- Open ones, the worst first.
    SELECT w.id AS watch, k.key FROM counted w
    CROSS JOIN LATERAL (
        SELECT k.key FROM (
            SELECT k.key, k.severity, CASE WHEN w.sums THEN k.sum ELSE k.rows END AS reading
            FROM items_listen.count k WHERE k.watch = w.id AND k.severity > 0 ORDER BY k.severity DESC LIMIT 200) AS k
        ORDER BY k.severity DESC, CASE WHEN w.low THEN k.reading ELSE -k.reading END LIMIT 40) AS k
    UNION
    -- The nearest to their thresholds, where there are few enough to look at them all.
    SELECT w.id, k.key FROM counted w
    CROSS JOIN LATERAL (
        SELECT k.key FROM (
            SELECT k.key, CASE WHEN w.sums THEN k.sum ELSE k.rows END AS reading
            FROM items_listen.count k WHERE k.watch = w.id LIMIT 1000) AS k
        ORDER BY CASE WHEN w.low THEN k.reading ELSE -k.reading END LIMIT 40) AS k
    WHERE w.keys <= 1000
    UNION
    -- Otherwise those that something happened to.
    SELECT w.id, k.key FROM counted w
    CROSS JOIN LATERAL (
        SELECT coalesce((SELECT jsonb_agg(r.key -> c.name ORDER BY c.ord) FROM unnest(w.key_columns) WITH ORDINALITY AS c (name, ord)), '[]')::text AS key
        FROM (SELECT e.key, max(e.seq) AS seq FROM events e WHERE e.watch = w.id GROUP BY e.key ORDER BY seq DESC LIMIT 20) AS r) AS k
    WHERE w.keys > 1000
), recent AS MATERIALIZED (
    -- An event's id begins with its time. Readings that are published one by one are no alerts.
    SELECT e.* FROM (SELECT e.* FROM items_listen.event e ORDER BY e.id DESC LIMIT 500) AS e
    WHERE e.transition <> 'reading' ORDER BY e.id DESC LIMIT 12
), deliveries AS MATERIALIZED (
    SELECT d.id, d.event_id, d.endpoint, d.event, d.channels, d.state, d.attempts, d.due_at, d.created_at, d.settled_at, d.reason,
           d.status, d.lease IS NOT NULL AS under_way
    FROM items_listen.delivery d ORDER BY d.id DESC LIMIT 500
), settled AS (
    SELECT extract(epoch FROM d.settled_at - d.created_at)::float8 AS seconds, d.settled_at
    FROM items_listen.delivery d WHERE d.state IN ('delivered', 'superseded') ORDER BY d.settled_at DESC LIMIT 200
)
SELECT jsonb_build_object(
    'now', clock_timestamp(),
    'database', jsonb_build_object(
        'version', current_setting('server_version'),
        'journal_rows', (SELECT count(*) FROM (SELECT FROM items_listen.journal ORDER BY xid LIMIT 100001) AS j)
                      + (SELECT count(*) FROM (SELECT FROM items_listen.change ORDER BY xid LIMIT 100001) AS c),
        'heartbeat_at', (SELECT i.beat_at FROM items_listen.instance i WHERE i.id = $5::uuid),
        'doorbell', (SELECT i.doorbell FROM items_listen.instance i WHERE i.id = $5::uuid),
        'queue_usage', pg_notification_queue_usage(),
        'others', (SELECT coalesce(jsonb_agg(jsonb_build_object('host', i.host, 'pid', i.pid, 'version', i.version, 'config_hash', i.config_hash,
                              'ready', i.ready, 'doorbell', i.doorbell, 'beat_at', i.beat_at) ORDER BY i.started_at), '[]')
                   FROM live i WHERE i.id <> ALL ($6::uuid[]))),
    'watches', (SELECT coalesce(jsonb_agg(jsonb_build_object(
        'name', w.name, 'source', w.source, 'columns', w.key_columns, 'error', w.error, 'error_at', w.error_at, 'keys', w.keys,
        'open', jsonb_build_array(
            (SELECT count(*) FROM (SELECT FROM items_listen.count k WHERE k.watch = w.id AND k.severity = 1 LIMIT 10001) AS k),
            (SELECT count(*) FROM (SELECT FROM items_listen.count k WHERE k.watch = w.id AND k.severity = 2 LIMIT 10001) AS k),
            (SELECT count(*) FROM (SELECT FROM items_listen.count k WHERE k.watch = w.id AND k.severity = 3 LIMIT 10001) AS k)),
        'dirty', (SELECT count(*) FROM (SELECT FROM items_listen.count k WHERE k.watch = w.id AND k.dirty > 0 LIMIT 10001) AS k),
        'recount', (SELECT m.reason FROM items_listen.marker m WHERE m.watch = w.id LIMIT 1),
        'digest_due_at', (SELECT s.due_at FROM items_listen.storm s WHERE s.watch = w.id),
        'last_transition_at', (
            SELECT e.at FROM items_listen.event e WHERE e.watch = w.name AND e.previous IS NOT NULL ORDER BY e.seq DESC LIMIT 1),
        'thresholds', (
            SELECT coalesce(jsonb_agg(jsonb_build_array(t.key, t.threshold)), '[]')
            FROM (SELECT t.key, t.threshold FROM items_listen.threshold t WHERE t.watch = w.name LIMIT 201) AS t),
        'rows', (
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'key', k.key,
                'reading', least(greatest(CASE WHEN w.sums THEN k.sum ELSE k.rows END, -9223372036854775808), 9223372036854775807)::bigint, 'severity', k.severity,
                'raised_at', p.raised_at, 'threshold', p.threshold,
                'breach_since', k.breach_since, 'clear_since', k.clear_since, 'deadline', k.deadline)), '[]')
            FROM candidates c
            CROSS JOIN LATERAL (SELECT k.* FROM items_listen.count k WHERE k.watch = c.watch AND k.key = c.key OFFSET 0) AS k
            LEFT JOIN LATERAL (SELECT p.raised_at, p.threshold FROM items_listen.episode p WHERE p.id = k.episode OFFSET 0) AS p ON true
            WHERE c.watch = w.id),
        'events', (
            SELECT coalesce(jsonb_agg(jsonb_build_array(e.key, e.at, e.count, e.severity, e.threshold) ORDER BY e.seq), '[]')
            FROM events e WHERE e.watch = w.id)
        ) ORDER BY w.ord NULLS LAST, w.name), '[]') FROM counted w),
    'watches_left_out', greatest(0, (SELECT count(*) FROM items_listen.watch) - 100),
    'endpoints', (SELECT coalesce(jsonb_agg(jsonb_build_object(
        'name', n.name, 'state', coalesce(e.state, 'ok'), 'reason', e.reason, 'until', e.until,
        'last_success_at', e.last_success_at, 'last_error', left(e.last_error, 500),
        'served', n.name = ANY ($4::text[]) OR EXISTS (SELECT FROM live i WHERE n.name = ANY (i.endpoints)),
        'pending', (SELECT count(*) FROM (
            SELECT FROM items_listen.delivery d WHERE d.endpoint = n.name AND d.state = 'pending' ORDER BY d.watch, d.key, d.id LIMIT 10001) AS d),
        'oldest_pending_at', least(
            (SELECT min(d.created_at) FROM (
                SELECT d.created_at FROM items_listen.delivery d WHERE d.endpoint = n.name AND d.state = 'pending' AND d.lease IS NULL
                ORDER BY d.due_at, d.id LIMIT 1001) AS d),
            (SELECT min(d.created_at) FROM (
                SELECT d.created_at FROM items_listen.delivery d WHERE d.endpoint = n.name AND d.state = 'pending' AND d.lease IS NOT NULL
                ORDER BY d.lease_until LIMIT 1001) AS d)),
        'dead', (SELECT count(*) FROM (
            SELECT FROM items_listen.delivery d WHERE d.endpoint = n.name AND d.state = 'dead' ORDER BY d.id LIMIT 10001) AS d),
        'next', (SELECT jsonb_build_object('watch', d.watch, 'attempts', d.attempts, 'reason', d.reason, 'status', d.status, 'due_at', d.due_at)
            FROM items_listen.delivery d WHERE d.endpoint = n.name AND d.state = 'pending' AND d.lease IS NULL
            ORDER BY d.due_at, d.id LIMIT 1),
        'last_dead', (SELECT jsonb_build_object('watch', d.watch, 'reason', d.reason, 'status', d.status, 'at', d.settled_at)
            FROM items_listen.delivery d WHERE d.endpoint = n.name AND d.state = 'dead' ORDER BY d.id DESC LIMIT 1)
        ) ORDER BY array_position($4::text[], n.name) NULLS LAST, n.name), '[]')
        FROM (SELECT u.name FROM (
                  SELECT unnest($4::text[]) AS name UNION SELECT e.name FROM items_listen.endpoint e
                  UNION SELECT unnest(i.endpoints) FROM live i UNION SELECT w.name FROM waiting w UNION SELECT g.name FROM given_up g) AS u
              WHERE u.name IS NOT NULL ORDER BY array_position($4::text[], u.name) NULLS LAST, u.name LIMIT 50) AS n
        LEFT JOIN items_listen.endpoint e USING (name)),
    'delay', (SELECT jsonb_build_object('deliveries', count(*), 'median', percentile_disc(0.5) WITHIN GROUP (ORDER BY s.seconds),
                  'slowest', max(s.seconds), 'since', min(s.settled_at)) FROM settled s),
    'alerts', (SELECT coalesce(jsonb_agg(jsonb_build_object(
        'id', e.id, 'at', e.at, 'watch', e.watch, 'key', e.key, 'transition', e.transition, 'reason', e.reason, 'severity', e.severity,
        'previous', e.previous, 'count', e.count, 'threshold', e.threshold, 'message', left(e.message, 500), 'digest', e.digest,
        -- What is older than the last 500 deliveries is not looked for: then it is not known.
        'known', e.at >= coalesce((SELECT min(d.created_at) FROM deliveries d HAVING count(*) = 500), '-infinity'),
        'deliveries', (
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'id', d.id, 'endpoint', d.endpoint, 'event', d.event, 'channels', to_jsonb(d.channels[1:3]),
                'more_channels', greatest(0, cardinality(d.channels) - 3), 'state', d.state, 'attempts', d.attempts, 'due_at', d.due_at,
                'settled_at', d.settled_at, 'reason', d.reason, 'status', d.status, 'under_way', d.under_way,
                'seconds', extract(epoch FROM d.settled_at - d.created_at)::float8) ORDER BY d.id), '[]')
            FROM (SELECT d.* FROM deliveries d WHERE d.event_id = e.id ORDER BY d.id LIMIT 10) AS d)
        ) ORDER BY e.id DESC), '[]') FROM recent e)
)::text
