-- `items-listen status`, from the database alone, as one JSON document.
SELECT jsonb_build_object(
    'ready', EXISTS (SELECT FROM items_listen.instance WHERE ready AND beat_at > clock_timestamp() - interval '10 s'),
    'instances', (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
                   'host', host, 'pid', pid, 'version', version, 'config_hash', config_hash, 'beat_at', beat_at)
                   ORDER BY started_at), '[]')
        FROM items_listen.instance WHERE beat_at > clock_timestamp() - interval '10 s'),
    'watches', (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
                   'name', w.name, 'source', w.source, 'keys', coalesce(k.keys, 0),
                   'open', jsonb_build_object('warning', coalesce(k.warning, 0), 'high', coalesce(k.high, 0), 'critical', coalesce(k.critical, 0)),
                   'last_transition_at', (
                       SELECT e.at FROM items_listen.event e
                       WHERE e.watch = w.name AND e.previous IS NOT NULL ORDER BY e.seq DESC LIMIT 1),
                   'error', w.error) ORDER BY w.name), '[]')
        FROM items_listen.watch w
        LEFT JOIN (
            SELECT watch, count(*) AS keys, count(*) FILTER (WHERE severity = 1) AS warning,
                   count(*) FILTER (WHERE severity = 2) AS high, count(*) FILTER (WHERE severity = 3) AS critical
            FROM items_listen.count GROUP BY watch) k ON k.watch = w.id),
    'endpoints', (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
                   'name', n.name, 'state', coalesce(e.state, 'ok'), 'reason', e.reason, 'until', e.until,
                   'pending', coalesce(p.pending, 0), 'oldest_pending_at', p.oldest,
                   'dead', (SELECT count(*) FROM items_listen.delivery d WHERE d.endpoint = n.name AND d.state = 'dead'),
                   'last_success_at', e.last_success_at, 'last_error', e.last_error) ORDER BY n.name), '[]')
        FROM (SELECT name FROM items_listen.endpoint
              UNION SELECT unnest(endpoints) FROM items_listen.instance
              UNION SELECT endpoint FROM items_listen.delivery WHERE state IN ('pending', 'dead')) n
        LEFT JOIN items_listen.endpoint e USING (name)
        LEFT JOIN (
            SELECT endpoint, count(*) AS pending, min(created_at) AS oldest
            FROM items_listen.delivery WHERE state = 'pending' GROUP BY endpoint) p ON p.endpoint = n.name),
    'database', jsonb_build_object(
        'listen_heartbeat_at', (SELECT max(beat_at) FROM items_listen.instance),
        'doorbell', (SELECT doorbell FROM items_listen.instance WHERE beat_at > clock_timestamp() - interval '10 s'
                     ORDER BY doorbell <> 'armed', beat_at DESC LIMIT 1),
        'journal_rows', (SELECT count(*) FROM items_listen.journal) + (SELECT count(*) FROM items_listen.change))
)
