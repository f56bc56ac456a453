//! The statements of the writing half, and the columns that each takes: one array per column, whatever the number of
//! rows.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::Served;
use super::decide::Decision;
use super::tell::{Outgoing, Told};
use crate::evaluate::Transition;
use crate::severity::{Severity, percent};

#[derive(Default)]
pub(super) struct DeliveryColumns {
    pub(super) event_ids: Vec<Uuid>,
    pub(super) endpoints: Vec<String>,
    pub(super) watches: Vec<String>,
    pub(super) keys: Vec<String>,
    pub(super) channels: Vec<String>,
    pub(super) names: Vec<String>,
    pub(super) bodies: Vec<String>,
    pub(super) leases: Vec<Option<Duration>>,
    pub(super) unsendable: Vec<Option<String>>,
    pub(super) collapse: Vec<Option<String>>,
    due: Vec<Option<Timestamp>>,
    about: Vec<Option<Value>>,
}

impl DeliveryColumns {
    pub(super) fn push(&mut self, told: &Told, outgoing: &Outgoing, lease: Option<Duration>) {
        self.event_ids.push(told.event.id);
        self.endpoints.push(outgoing.endpoint.clone());
        let lane = outgoing.lane(told);
        self.watches.push(lane.watch.to_string());
        self.keys.push(lane.key.to_string());
        self.due.push(outgoing.due);
        self.about.push(outgoing.about(told));
        // An array of arrays must be rectangular in SQL; a list as JSON need not be.
        self.channels.push(serde_json::to_string(&outgoing.channels).unwrap_or_else(|_| "[]".to_owned()));
        self.names.push(outgoing.name.clone());
        self.bodies.push(outgoing.body.clone());
        self.leases.push(lease);
        self.unsendable.push(outgoing.unsendable.clone());
        self.collapse.push(outgoing.collapse.clone());
    }

    /// When each is due that waits, and what each is about whose lane does not say it.
    pub(super) fn waiting(&self) -> (&Vec<Option<Timestamp>>, &Vec<Option<Value>>) {
        (&self.due, &self.about)
    }
}

#[derive(Default)]
pub(super) struct EventColumns {
    pub(super) ids: Vec<Uuid>,
    episodes: Vec<Option<Uuid>>,
    seqs: Vec<i64>,
    pub(super) watches: Vec<String>,
    pub(super) keys: Vec<Value>,
    transitions: Vec<&'static str>,
    reasons: Vec<Option<&'static str>>,
    severities: Vec<&'static str>,
    previous: Vec<Option<&'static str>>,
    counts: Vec<i64>,
    rows: Vec<Option<tokio_postgres::types::Json<Value>>>,
    thresholds: Vec<Option<i64>>,
    percents: Vec<Option<i64>>,
    messages: Vec<Option<String>>,
    ats: Vec<Timestamp>,
    digests: Vec<bool>,
}

impl EventColumns {
    /// Transitions always; readings and manual triggers only if somebody is to be told.
    pub(super) fn of(chunk: &[Told]) -> EventColumns {
        let mut columns = EventColumns::default();
        for Told { event, parcels, digest, stored, .. } in chunk {
            if *stored || parcels.is_empty() && event.previous.is_none() {
                continue;
            }
            columns.digests.push(*digest);
            columns.ids.push(event.id);
            columns.episodes.push(event.alert);
            columns.seqs.push(event.seq);
            columns.watches.push(event.watch.clone());
            columns.keys.push(Value::Object(event.key.clone()));
            columns.transitions.push(event.transition);
            columns.reasons.push(event.reason);
            let (Some(severity), Some(count)) = (event.severity, event.count) else { continue };
            columns.rows.push(event.row.clone().map(tokio_postgres::types::Json));
            columns.severities.push(severity.as_str());
            columns.previous.push(event.previous.map(Severity::as_str));
            columns.counts.push(count);
            columns.thresholds.push(event.threshold);
            columns.percents.push(event.percent);
            columns.messages.push(event.message.clone());
            columns.ats.push(event.at);
        }
        columns
    }

    pub(super) fn parameters(&self) -> [&(dyn ToSql + Sync); 16] {
        [
            &self.ids,
            &self.episodes,
            &self.seqs,
            &self.watches,
            &self.keys,
            &self.transitions,
            &self.reasons,
            &self.severities,
            &self.previous,
            &self.counts,
            &self.thresholds,
            &self.percents,
            &self.messages,
            &self.ats,
            &self.digests,
            &self.rows,
        ]
    }
}

#[derive(Default)]
pub(super) struct EpisodeColumns {
    pub(super) ids: Vec<Uuid>,
    pub(super) watches: Vec<String>,
    pub(super) keys: Vec<Value>,
    severities: Vec<&'static str>,
    counts: Vec<i64>,
    thresholds: Vec<Option<i64>>,
    percents: Vec<Option<i64>>,
    ats: Vec<Timestamp>,
    reasons: Vec<&'static str>,
    seqs: Vec<i64>,
    unread_again: Vec<bool>,
    resolved: Vec<bool>,
    messages: Vec<Option<String>>,
}

impl EpisodeColumns {
    pub(super) fn push(&mut self, served: &Served, decision: &Decision, messages: &HashMap<Uuid, String>, now: Timestamp) {
        let (Some(change), Some(id)) = (decision.change, decision.about) else { return };
        self.ids.push(id);
        self.watches.push(served.watch.name.clone());
        self.keys.push(Value::Object(served.watch.key_from_text(&decision.key).object));
        self.severities.push(change.severity.as_str());
        self.counts.push(decision.count);
        self.thresholds.push(decision.threshold);
        self.percents.push(percent(decision.count, decision.threshold));
        self.ats.push(decision.state.last_at.unwrap_or(now));
        self.reasons.push(change.reason.as_str());
        self.seqs.push(decision.seq + 1);
        self.unread_again.push(change.transition == Transition::Escalated && !decision.silent);
        self.resolved.push(change.transition == Transition::Resolved);
        self.messages.push(messages.get(&id).cloned());
    }

    pub(super) fn parameters(&self) -> [&(dyn ToSql + Sync); 13] {
        [
            &self.ids,
            &self.watches,
            &self.keys,
            &self.severities,
            &self.counts,
            &self.thresholds,
            &self.percents,
            &self.ats,
            &self.reasons,
            &self.seqs,
            &self.unread_again,
            &self.resolved,
            &self.messages,
        ]
    }
}

#[derive(Default)]
pub(super) struct StateColumns {
    pub(super) watches: Vec<i32>,
    pub(super) keys: Vec<String>,
    severities: Vec<i16>,
    episodes: Vec<Option<Uuid>>,
    breach_since: Vec<Option<Timestamp>>,
    clear_since: Vec<Option<Timestamp>>,
    said_at: Vec<Option<Timestamp>>,
    deadlines: Vec<Option<Timestamp>>,
    last_at: Vec<Option<Timestamp>>,
}

impl StateColumns {
    /// The last state of each key: several readings of one key may have been evaluated in turn.
    pub(super) fn of(decisions: &[Decision]) -> StateColumns {
        let last: HashMap<(i32, &str), &Decision> =
            decisions.iter().map(|decision| ((decision.watch, decision.key.as_str()), decision)).collect();
        let mut last: Vec<&Decision> = last.into_values().filter(|decision| decision.state_changed).collect();
        last.sort_by_key(|decision| (decision.watch, &decision.key));
        let mut columns = StateColumns::default();
        for decision in last {
            columns.watches.push(decision.watch);
            columns.keys.push(decision.key.clone());
            columns.severities.push(decision.state.severity.rank());
            columns.episodes.push(decision.episode);
            columns.breach_since.push(decision.state.breach_since);
            columns.clear_since.push(decision.state.clear_since);
            columns.said_at.push(decision.state.said_at);
            columns.deadlines.push(decision.state.deadline);
            columns.last_at.push(decision.state.last_at);
        }
        columns
    }

    pub(super) fn parameters(&self) -> [&(dyn ToSql + Sync); 9] {
        [
            &self.watches,
            &self.keys,
            &self.severities,
            &self.episodes,
            &self.breach_since,
            &self.clear_since,
            &self.said_at,
            &self.deadlines,
            &self.last_at,
        ]
    }
}

/// Counted from the rows, never kept in a counter: of each watch ($1) within the columns ($2, a JSON list) that its alerts
/// are counted by, as far as somebody is to be told ($4 of $3). An alert that escalates in this transaction ($5) is unread
/// again.
pub(super) const UNREAD: &str = "
    SELECT u.watch, u.within::text, count(*)
    FROM (SELECT e.watch, ARRAY(SELECT coalesce(e.key -> c.name, 'null') FROM jsonb_array_elements_text(b.columns) WITH ORDINALITY AS c (name, ord)
                                ORDER BY c.ord) AS parts
          FROM unnest($1::text[], $2::jsonb[]) AS b (watch, columns)
          JOIN items_listen.episode e ON e.watch = b.watch
          LEFT JOIN items_listen.alert_read r ON r.episode = e.id
          WHERE r.read_seq IS DISTINCT FROM e.unread_seq OR e.id = ANY ($5::uuid[])) AS p,
         LATERAL (SELECT p.watch, to_jsonb(p.parts) AS within) AS u
    WHERE (u.watch, u.within) IN (SELECT w.watch, w.within FROM unnest($3::text[], $4::jsonb[]) AS w (watch, within))
    GROUP BY u.watch, u.within";

/// The same of whole watches: all there are, which an index knows, less those that were read.
pub(super) const UNREAD_WHOLE: &str = "
    SELECT w.name, (SELECT count(*) FROM items_listen.episode e WHERE e.watch = w.name)
                 - (SELECT count(*) FROM items_listen.alert_read r JOIN items_listen.episode e ON e.id = r.episode
                    WHERE e.watch = w.name AND r.read_seq = e.unread_seq AND e.id <> ALL ($2::uuid[]))
    FROM unnest($1::text[]) AS w (name)";

/// That alerts were read or removed is taken note of.
pub(super) const UNREAD_EDITS: &str = "DELETE FROM items_listen.unread_edit";

/// The next fold evaluates these.
pub(super) const LEAVE: &str = "
    UPDATE items_listen.count c SET dirty = greatest(c.dirty, l.dirty)
    FROM unnest($1::int[], $2::text[], $3::smallint[]) AS l (watch, key, dirty)
    WHERE c.watch = l.watch AND c.key = l.key";

/// In the order in which rows were changed, which is now that of the clock alone.
pub(super) const GIVE_BACK: &str = "
    INSERT INTO items_listen.change (generation, at, depth, change, key, old, new)
    SELECT b.generation, b.at, 1, b.change, b.key, b.old, b.new
    FROM unnest($1::int[], $2::timestamptz[], $3::text[], $4::text[], $5::json[], $6::json[])
         WITH ORDINALITY AS b (generation, at, change, key, old, new, ord)
    ORDER BY b.ord";

/// The row of the last event of each episode.
pub(super) const ROWS: &str = "
    SELECT e.id, (SELECT v.row::text FROM items_listen.event v
                  WHERE v.episode = e.id AND v.row IS NOT NULL ORDER BY v.seq DESC LIMIT 1)
    FROM unnest($1::uuid[]) AS e (id)";

/// The last that each audience was told, and that is still to be told if nobody has tried it yet.
pub(super) const AUDIENCES: &str = "
    SELECT a.endpoint, a.lane, a.last_due, d.id, d.body
    FROM unnest($1::text[], $2::text[]) AS w (endpoint, lane)
    JOIN items_listen.audience a ON a.endpoint = w.endpoint AND a.lane = w.lane
    LEFT JOIN LATERAL (SELECT d.id, d.body FROM items_listen.delivery d
                       WHERE d.id = a.delivery AND d.state = 'pending' AND d.attempts = 0 AND d.lease IS NULL
                       FOR UPDATE SKIP LOCKED) AS d ON true";

/// What an audience is to be told takes later changes in.
pub(super) const REPLACE: &str = "
    UPDATE items_listen.delivery d
    SET body = n.body, event_id = n.event_id, about = n.about,
        -- A clock that was set back holds nothing up for longer than was asked for.
        due_at = least(d.due_at, clock_timestamp() + make_interval(secs => n.seconds))
    FROM unnest($1::bigint[], $2::text[], $3::uuid[], $4::jsonb[], $5::float8[]) AS n (id, body, event_id, about, seconds)
    WHERE d.id = n.id";

/// One that is told at once is told now, and not when the fold began.
pub(super) const AUDIENCE: &str = "
    INSERT INTO items_listen.audience (endpoint, lane, last_due, delivery)
    SELECT a.endpoint, a.lane, coalesce(a.due, clock_timestamp()), a.delivery
    FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::bigint[]) AS a (endpoint, lane, due, delivery)
    ON CONFLICT (endpoint, lane) DO UPDATE SET last_due = excluded.last_due, delivery = excluded.delivery";

/// What is unsettled in these lanes. Lane by lane, each by its index: a join would be planned for an outbox that is as empty
/// as it usually is.
pub(super) const LANES: &str = "
    SELECT l.endpoint, l.watch, l.key, unsettled.ids
    FROM unnest($1::text[], $2::text[], $3::text[]) AS l (endpoint, watch, key),
         LATERAL (SELECT array_agg(d.id) AS ids FROM items_listen.delivery d
                  WHERE d.endpoint = l.endpoint AND d.watch = l.watch AND d.key = l.key AND d.state = 'pending') AS unsettled
    WHERE unsettled.ids IS NOT NULL";

pub(super) const RAISE: &str = "
    INSERT INTO items_listen.episode (id, watch, key, severity, peak, count, threshold, percent, raised_at, changed_at, reason, unread_seq, message)
    SELECT id, watch, key, severity, severity, count, threshold, percent, at, at, reason, seq, message
    FROM unnest($1::uuid[], $2::text[], $3::jsonb[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::timestamptz[],
                $9::text[], $10::bigint[], $11::bool[], $12::bool[], $13::text[])
         AS c (id, watch, key, severity, count, threshold, percent, at, reason, seq, unread_again, resolved, message)";

pub(super) const CHANGE: &str = "
    UPDATE items_listen.episode e
    SET severity = c.severity, count = c.count, threshold = c.threshold, percent = c.percent, changed_at = c.at, reason = c.reason,
        message = coalesce(c.message, e.message),
        peak = CASE WHEN array_position(ARRAY['info', 'warning', 'high', 'critical'], c.severity)
                       > array_position(ARRAY['info', 'warning', 'high', 'critical'], e.peak) THEN c.severity ELSE e.peak END,
        unread_seq = CASE WHEN c.unread_again THEN c.seq ELSE e.unread_seq END,
        resolved_at = CASE WHEN c.resolved THEN c.at END
    FROM unnest($1::uuid[], $2::text[], $3::jsonb[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::timestamptz[],
                $9::text[], $10::bigint[], $11::bool[], $12::bool[], $13::text[])
         AS c (id, watch, key, severity, count, threshold, percent, at, reason, seq, unread_again, resolved, message)
    WHERE e.id = c.id";

pub(super) const EVENTS: &str = "
    INSERT INTO items_listen.event
           (id, episode, seq, watch, key, transition, reason, severity, previous, count, threshold, percent, message, at, digest, row)
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::jsonb[], $6::text[], $7::text[], $8::text[],
                         $9::text[], $10::bigint[], $11::bigint[], $12::bigint[], $13::text[], $14::timestamptz[], $15::bool[], $16::json[])";

/// In the order given: ids grow along each lane.
pub(super) const DELIVERIES: &str = "
    INSERT INTO items_listen.delivery
           (event_id, endpoint, watch, key, channels, event, body, state, due_at, lease, lease_until, leased_by,
            created_at, settled_at, reason, answer, collapse, about)
    SELECT d.event_id, d.endpoint, d.watch, d.key, ARRAY(SELECT jsonb_array_elements_text(d.channels::jsonb)), d.event, d.body,
           CASE WHEN d.unsendable IS NULL THEN 'pending' ELSE 'dead' END, coalesce(d.due, now.at),
           CASE WHEN d.lease IS NOT NULL THEN $10::uuid END, now.at + make_interval(secs => d.lease),
           CASE WHEN d.lease IS NOT NULL THEN $11::uuid END, now.at,
           CASE WHEN d.unsendable IS NOT NULL THEN now.at END, CASE WHEN d.unsendable IS NOT NULL THEN $12::text END, d.unsendable,
           d.collapse, d.about
    FROM (SELECT clock_timestamp() AS at) AS now,
         unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::float8[], $9::text[],
                $13::text[], $14::timestamptz[], $15::jsonb[])
         WITH ORDINALITY AS d (event_id, endpoint, watch, key, channels, event, body, lease, unsendable, collapse, due, about, ord)
    ORDER BY d.ord
    RETURNING id";

/// What waits in the same lane, is of the same rule, and is nobody's: the later one says it all.
pub(super) const SUPERSEDE: &str = "
    UPDATE items_listen.delivery
    SET state = 'superseded', settled_at = clock_timestamp(), reason = $2, lease = NULL, lease_until = NULL, leased_by = NULL
    WHERE id IN (SELECT o.id
                 FROM unnest($1::bigint[]) AS n (id)
                 JOIN items_listen.delivery l ON l.id = n.id
                 JOIN items_listen.delivery o ON o.endpoint = l.endpoint AND o.watch = l.watch AND o.key = l.key
                                             AND o.collapse = l.collapse AND o.id < l.id
                 WHERE o.state = 'pending' AND (o.lease_until IS NULL OR o.lease_until < clock_timestamp())
                 FOR UPDATE OF o SKIP LOCKED)";

pub(super) const STORMS: &str = "
    SELECT watch, began_at, told, critical, due_at, from_seq FROM items_listen.storm WHERE watch = ANY ($1::int[])";

pub(super) const STORM: &str = "
    INSERT INTO items_listen.storm (watch, began_at, told, critical, due_at, from_seq) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (watch) DO UPDATE SET began_at = excluded.began_at, told = excluded.told, critical = excluded.critical,
        due_at = excluded.due_at, from_seq = excluded.from_seq";

/// What the keys of which something was left to a digest went through since then, key by key and in order.
pub(super) const DIGEST: &str = "
    DECLARE digest NO SCROLL CURSOR FOR
    SELECT e.id, e.episode, e.seq, e.key, e.transition, e.reason, e.severity, e.previous, e.count, e.threshold, e.percent,
           e.message, e.at, e.digest, e.row
    FROM (SELECT *, bool_or(digest) OVER (PARTITION BY key) AS is_in FROM items_listen.event
          WHERE watch = {watch} AND seq >= {from_seq} AND previous IS NOT NULL) AS e
    WHERE e.is_in
    ORDER BY e.key, e.seq";

pub(super) const SEQS: &str = "SELECT nextval('items_listen.seq') FROM generate_series(1, $1::bigint)";

pub(super) const STATES: &str = "
    UPDATE items_listen.count c
    SET severity = s.severity, episode = s.episode, breach_since = s.breach_since, clear_since = s.clear_since,
        said_at = s.said_at, deadline = s.deadline, last_at = s.last_at
    FROM unnest($1::int[], $2::text[], $3::smallint[], $4::uuid[], $5::timestamptz[], $6::timestamptz[], $7::timestamptz[],
                $8::timestamptz[], $9::timestamptz[])
         AS s (watch, key, severity, episode, breach_since, clear_since, said_at, deadline, last_at)
    WHERE c.watch = s.watch AND c.key = s.key";

/// These have just been evaluated.
pub(super) const CLEAN: &str = "
    UPDATE items_listen.count c SET dirty = 0 FROM unnest($1::int[], $2::text[]) AS e (watch, key)
    WHERE c.watch = e.watch AND c.key = e.key";

pub(super) const EMPTY: &str = "
    DELETE FROM items_listen.count c
    USING unnest($1::int[], $2::text[]) AS e (watch, key)
    WHERE c.watch = e.watch AND c.key = e.key
      AND c.rows = 0 AND c.sum = 0 AND c.severity = 0 AND c.dirty = 0 AND c.deadline IS NULL";

pub(super) const BASELINE: &str = "UPDATE items_listen.watch SET baseline = false WHERE id = ANY ($1::int[])";
