-- items-listen: everything that it keeps in your database, in one schema.
--
-- The way of the data:  journal -> count -> episode, event -> delivery.
-- Triggers write `journal` and `marker`, and nothing else. Only the daemon writes the rest, one
-- transaction at a time (it holds an advisory lock; see docs/decisions.md and sql/fold.sql).
-- An application needs no right on anything here to be watched; for an inbox it may be given
-- SELECT and UPDATE (read_at) on the view `alert`.

CREATE SCHEMA IF NOT EXISTS items_listen;

-- Which cluster this is. A copy restored elsewhere has another identifier: its outbox is then held
-- until somebody says `items-listen deliveries retry`, since its alerts are about the original.
CREATE TABLE items_listen.cluster (
    only_row           boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    system_identifier  bigint  NOT NULL,
    -- `install --allow-publication` was said: a FOR ALL TABLES publication may carry these tables.
    allow_publication  boolean NOT NULL DEFAULT false
);
INSERT INTO items_listen.cluster (system_identifier) SELECT system_identifier FROM pg_control_system();

-- What is watched. `generation` names one definition of the triggers: journal rows carry it, and rows
-- of a generation that is no longer here are deleted unread. `policy` is a hash of how readings are
-- judged; a replica folds a watch only if both are its own.
CREATE TABLE items_listen.watch (
    id           integer     PRIMARY KEY,
    name         text        NOT NULL UNIQUE,
    source       text        NOT NULL CHECK (source IN ('table', 'query', 'notify')),
    relation     text,
    key_columns  text[]      NOT NULL,
    -- Their types when the triggers were made: another type may give a key another text.
    key_types    oid[]       NOT NULL DEFAULT '{}',
    definition   text        NOT NULL,
    generation   integer     NOT NULL UNIQUE,
    policy       text        NOT NULL,
    -- The events that have a trigger, and the relations (root and partitions) that must have them: another
    -- set of relations than this is counted anew, since attaching or detaching one runs no trigger.
    events       text[]      NOT NULL DEFAULT '{}',
    covered      oid[]       NOT NULL DEFAULT '{}',
    -- `install --baseline`: what the next evaluation finds beyond its threshold counts as already said.
    baseline     boolean     NOT NULL DEFAULT false,
    -- Why the watch is degraded, if it is.
    error        text,
    error_at     timestamptz,
    installed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE SEQUENCE items_listen.watch_id AS integer;
CREATE SEQUENCE items_listen.generation AS integer;

-- One small row per (statement, key): by how much the number of rows changed. No identity column, so
-- that no trigger touches a sequence (lastval() belongs to the application). The transaction's own
-- id is what a fold looks rows up by: it never walks over dead rows.
CREATE TABLE items_listen.journal (
    xid         xid8    NOT NULL DEFAULT pg_current_xact_id(),
    generation  integer NOT NULL,
    rows        bigint  NOT NULL,
    sum         numeric,
    key         text COLLATE "C" NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
        autovacuum_vacuum_cost_delay = 0);
CREATE INDEX journal_xid ON items_listen.journal (xid);
-- Without a replica identity a publication FOR ALL TABLES would make every fold fail.
ALTER TABLE items_listen.journal REPLICA IDENTITY FULL;

-- "This watch must be counted anew": a first installation, a TRUNCATE, a statement whose expression
-- failed (with its SQLSTATE). Plain inserts; only the recount that has seen a marker deletes it.
CREATE TABLE items_listen.marker (
    watch     integer     NOT NULL,
    reason    text        NOT NULL CHECK (reason IN ('install', 'truncate', 'broken', 'coverage', 'recount')),
    sqlstate  text,
    at        timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE items_listen.marker REPLICA IDENTITY FULL;

-- The reading of each key and the state of its alert. `key` is the JSON array of the key columns'
-- values, in the order of the configuration; a watch without a key has the one key [].
CREATE TABLE items_listen.count (
    watch         integer  NOT NULL,
    key           text COLLATE "C" NOT NULL,
    rows          bigint   NOT NULL,
    sum           numeric  NOT NULL DEFAULT 0,
    -- 1: folded, but not evaluated since. 2: to be judged anew, since a threshold or policy changed.
    dirty         smallint NOT NULL,
    severity      smallint NOT NULL DEFAULT 0 CHECK (severity BETWEEN 0 AND 3),
    -- The open episode.
    episode       uuid,
    breach_since  timestamptz,
    clear_since   timestamptz,
    said_at       timestamptz,
    deadline      timestamptz,
    last_at       timestamptz,
    PRIMARY KEY (watch, key)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX count_dirty ON items_listen.count (watch) WHERE dirty > 0;
CREATE INDEX count_deadline ON items_listen.count (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX count_open ON items_listen.count (watch, severity) WHERE severity > 0;

-- Grows along each watch and key. A fold takes one value per reading, which serves up to eight
-- events of that reading, so that their numbers need no second round trip.
CREATE SEQUENCE items_listen.seq AS bigint INCREMENT BY 8 CACHE 1;

-- One row per episode, from raised to resolved. The daemon's: an application that marks an alert read
-- writes `alert_read` through the view `alert`, and so never holds a row that a fold wants to write.
CREATE TABLE items_listen.episode (
    id           uuid        PRIMARY KEY,
    watch        text        NOT NULL,
    key          jsonb       NOT NULL,
    severity     text        NOT NULL,
    peak         text        NOT NULL,
    count        bigint      NOT NULL,
    threshold    bigint,
    percent      bigint,
    message      text,
    raised_at    timestamptz NOT NULL,
    changed_at   timestamptz NOT NULL,
    resolved_at  timestamptz,
    reason       text        NOT NULL,
    -- The number of the event that last made it unread: it was raised, or escalated.
    unread_seq   bigint      NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX episode_watch ON items_listen.episode (watch, raised_at);

CREATE TABLE items_listen.alert_read (
    episode   uuid        PRIMARY KEY,
    read_at   timestamptz NOT NULL,
    -- What the reader had seen: an escalation since then makes the alert unread again.
    read_seq  bigint      NOT NULL
);

-- The history and the inbox: one row per episode. UPDATE ... SET read_at = now() marks it read.
CREATE VIEW items_listen.alert AS
SELECT e.id, e.watch, e.key, e.severity, e.peak, e.count, e.threshold, e.percent, e.message,
       e.raised_at, e.changed_at, e.resolved_at, e.reason,
       CASE WHEN r.read_seq = e.unread_seq THEN r.read_at END AS read_at,
       e.unread_seq
FROM items_listen.episode e
LEFT JOIN items_listen.alert_read r ON r.episode = e.id;

CREATE FUNCTION items_listen.alert_mark_read() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (to_jsonb(new) - 'read_at') IS DISTINCT FROM (to_jsonb(old) - 'read_at') THEN
        RAISE EXCEPTION 'only read_at of an alert may be changed'
            USING ERRCODE = 'feature_not_supported', HINT = 'UPDATE ... SET read_at = now() marks it read.';
    END IF;
    IF new.read_at IS NULL THEN
        DELETE FROM items_listen.alert_read WHERE episode = old.id;
    ELSE
        INSERT INTO items_listen.alert_read (episode, read_at, read_seq)
        VALUES (old.id, new.read_at, old.unread_seq)
        ON CONFLICT (episode) DO UPDATE SET read_at = excluded.read_at, read_seq = excluded.read_seq;
    END IF;
    RETURN new;
END
$$;
REVOKE ALL ON FUNCTION items_listen.alert_mark_read() FROM PUBLIC;
CREATE TRIGGER alert_mark_read INSTEAD OF UPDATE ON items_listen.alert
    FOR EACH ROW EXECUTE FUNCTION items_listen.alert_mark_read();

-- One row per transition (and per manual trigger or published reading).
CREATE TABLE items_listen.event (
    id          uuid        PRIMARY KEY,
    episode     uuid,
    seq         bigint      NOT NULL,
    watch       text        NOT NULL,
    key         jsonb       NOT NULL,
    transition  text        NOT NULL,
    reason      text,
    severity    text        NOT NULL,
    previous    text,
    count       bigint      NOT NULL,
    threshold   bigint,
    percent     bigint,
    message     text,
    at          timestamptz NOT NULL
);
CREATE INDEX event_watch ON items_listen.event (watch, seq);

-- The outbox: one row per event and publish rule, with the exact bytes to be sent. A lane is
-- (endpoint, watch, key): its rows are sent in the order of their ids, and one at a time.
CREATE TABLE items_listen.delivery (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id     uuid        NOT NULL,
    endpoint     text        NOT NULL,
    watch        text        NOT NULL,
    key          text COLLATE "C" NOT NULL,
    channels     text[]      NOT NULL,
    event        text        NOT NULL,
    body         text        NOT NULL,
    state        text        NOT NULL DEFAULT 'pending'
                             CHECK (state IN ('pending', 'delivered', 'dead', 'superseded')),
    attempts     integer     NOT NULL DEFAULT 0,
    due_at       timestamptz NOT NULL,
    lease        uuid,
    lease_until  timestamptz,
    leased_by    uuid,
    created_at   timestamptz NOT NULL,
    settled_at   timestamptz,
    reason       text,
    status       integer,
    answer       text,
    CHECK ((state = 'pending') = (settled_at IS NULL)),
    CHECK ((lease IS NULL) = (lease_until IS NULL))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX delivery_due  ON items_listen.delivery (endpoint, due_at, id) WHERE state = 'pending';
CREATE INDEX delivery_lane ON items_listen.delivery (endpoint, watch, key, id) WHERE state = 'pending';
CREATE INDEX delivery_dead ON items_listen.delivery (endpoint, id) WHERE state = 'dead';

-- How each endpoint is; a pause is shared by all replicas.
CREATE TABLE items_listen.endpoint (
    name             text PRIMARY KEY,
    state            text NOT NULL DEFAULT 'ok' CHECK (state IN ('ok', 'backing_off', 'paused')),
    reason           text,
    until            timestamptz,
    last_success_at  timestamptz,
    last_error       text
);

-- One row per running daemon.
CREATE TABLE items_listen.instance (
    id                   uuid        PRIMARY KEY,
    host                 text        NOT NULL,
    pid                  integer     NOT NULL,
    -- Tells a process of this kernel that has ended from one that merely does not answer.
    process              text        NOT NULL,
    version              text        NOT NULL,
    config_hash          text        NOT NULL,
    watches              text[]      NOT NULL,
    endpoints            text[]      NOT NULL,
    ready                boolean     NOT NULL DEFAULT false,
    doorbell             text        NOT NULL,
    started_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    beat_at              timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
