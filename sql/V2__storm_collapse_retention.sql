-- Storms, collapsing, retention.

-- The window of a watch with `storm = { limit, per }`: how many transitions went out singly in it, and whether the
-- others of it (event.digest, from `from_seq` on) wait to be told in one digest at `due_at`.
CREATE TABLE items_listen.storm (
    watch     integer     PRIMARY KEY REFERENCES items_listen.watch (id) ON DELETE CASCADE,
    began_at  timestamptz NOT NULL,
    told      bigint      NOT NULL,
    critical  bigint      NOT NULL,
    due_at    timestamptz,
    from_seq  bigint,
    CHECK ((due_at IS NULL) = (from_seq IS NULL))
) WITH (fillfactor = 50);

-- It was left to a digest. Of a key's events in a window only the last counts, and only if it is one of these.
ALTER TABLE items_listen.event ADD COLUMN digest boolean NOT NULL DEFAULT false;

-- To which audience and under which name a delivery goes, where a later one of its key may take its place while the
-- endpoint is down: a front end that fetches the resource itself needs to be told but once.
ALTER TABLE items_listen.delivery ADD COLUMN collapse text;
CREATE INDEX delivery_collapse ON items_listen.delivery (endpoint, watch, key, collapse, id)
    WHERE state = 'pending' AND collapse IS NOT NULL;

-- What retention looks for. (Events are found by their ids, which begin with the time.)
CREATE INDEX delivery_settled ON items_listen.delivery (settled_at) WHERE state IN ('delivered', 'superseded');
CREATE INDEX delivery_died ON items_listen.delivery (settled_at) WHERE state = 'dead';
CREATE INDEX episode_resolved ON items_listen.episode (resolved_at) WHERE resolved_at IS NOT NULL;
