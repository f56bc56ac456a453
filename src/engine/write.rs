//! Writes what was decided: episodes, events, deliveries, states; and, once the COMMIT is acknowledged,
//! hands the deliveries that were born leased to the dispatcher's memory.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use super::Served;
use super::decide::{Decision, Evaluated, Manual};
use crate::db::schema::Schema;
use crate::dispatch::Dispatch;
use crate::error::Error;
use crate::evaluate::Transition;
use crate::event::Event;
use crate::event::rule::Rule;
use crate::outbox::{Lane, Parcel};
use crate::pusher::body;
use crate::pusher::classify::Reason;
use crate::severity::{Severity, percent};

/// So many decisions are told and inserted at a time.
const DECISIONS_PER_CHUNK: usize = 500;

type Parameters<'a> = [&'a (dyn ToSql + Sync)];

/// The prepared statements of the writing half.
pub(super) struct Writer {
    instance: Uuid,
    dispatch: Dispatch,
    unread: Statement,
    lanes: Statement,
    raise: Statement,
    change: Statement,
    events: Statement,
    deliveries: Statement,
    states: Statement,
    clean: Statement,
    empty: Statement,
    baseline: Statement,
}

/// One event, to whom it goes, and the row of its history.
struct Told {
    event: Event,
    lane_key: String,
    parcels: Vec<Outgoing>,
}

/// A delivery that is to be inserted.
struct Outgoing {
    endpoint: String,
    channels: Vec<String>,
    name: String,
    body: String,
    unsendable: Option<String>,
}

impl Writer {
    pub(super) async fn prepare(client: &Client, schema: &Schema, instance: Uuid, dispatch: Dispatch) -> Result<Writer, Error> {
        let prepare = async |sql: &str| client.prepare(&schema.sql(sql)).await;
        Ok(Writer {
            instance,
            dispatch,
            unread: prepare(UNREAD).await?,
            lanes: prepare(LANES).await?,
            raise: prepare(RAISE).await?,
            change: prepare(CHANGE).await?,
            events: prepare(EVENTS).await?,
            deliveries: prepare(DELIVERIES).await?,
            states: prepare(STATES).await?,
            clean: prepare(CLEAN).await?,
            empty: prepare(EMPTY).await?,
            baseline: prepare(BASELINE).await?,
        })
    }

    /// Writes everything and commits.
    pub(super) async fn write(
        &self,
        client: &Client,
        served: &HashMap<i32, Served>,
        evaluated: Evaluated,
        now: Timestamp,
    ) -> Result<(), Error> {
        let unread = self.unread(client, served, &evaluated).await?;
        let mut told = Telling::new(self, client);
        let mut messages = HashMap::new();
        // Chunk by chunk: a storm takes no more memory than one, and the server is not left waiting in a transaction.
        for chunk in evaluated.decisions.chunks(DECISIONS_PER_CHUNK) {
            let mut events = Vec::new();
            for decision in chunk.iter().filter(|decision| !decision.silent) {
                let Some(served) = served.get(&decision.watch) else { continue };
                events.extend(tell_decision(served, decision, unread.get(served.watch.name.as_str()).copied(), now));
            }
            messages.extend(events.iter().filter_map(|told| Some((told.event.alert?, told.event.message.clone()?))));
            told.store(&events).await?;
        }
        let born = told.born;
        self.store_episodes(client, served, &evaluated.decisions, &messages, now).await?;
        self.store_states(client, &evaluated).await?;
        self.commit(client, born).await
    }

    /// Writes a manual trigger and commits; gives the ids of its deliveries.
    pub(super) async fn write_manual(
        &self,
        client: &Client,
        served: &HashMap<i32, Served>,
        evaluated: Evaluated,
        now: Timestamp,
    ) -> Result<Vec<i64>, Error> {
        let unread = self.unread(client, served, &evaluated).await?;
        let mut told = Telling::new(self, client);
        if let Some(manual) = &evaluated.manual
            && let Some(served) = served.get(&manual.watch)
        {
            told.store(&[tell_manual(served, manual, unread.get(served.watch.name.as_str()).copied(), now)]).await?;
        }
        let born = told.born;
        let ids = born.ids.clone();
        self.commit(client, born).await?;
        Ok(ids)
    }

    async fn commit(&self, client: &Client, born: Born) -> Result<(), Error> {
        // Until it is acknowledged it may have been committed or not; if we are never told, what this token leases is
        // freed by the next session, and not sent from here.
        if let Some(token) = born.token {
            self.dispatch.doubt(token);
        }
        client.batch_execute("COMMIT").await?;
        self.dispatch.accept(born.parcels);
        if let Some(token) = born.token {
            self.dispatch.trust(token);
        }
        born.waiting.iter().for_each(|endpoint| self.dispatch.wake(endpoint));
        Ok(())
    }

    /// Alerts that nobody has read, per watch, as they will be once this transaction is committed.
    async fn unread(
        &self,
        client: &Client,
        served: &HashMap<i32, Served>,
        evaluated: &Evaluated,
    ) -> Result<HashMap<String, i64>, Error> {
        let watches =
            evaluated.decisions.iter().map(|decision| decision.watch).chain(evaluated.manual.iter().map(|manual| manual.watch));
        let wanting = watches.filter_map(|id| served.get(&id)).filter(|served| served.watch.wants_unread());
        let mut names: Vec<&str> = wanting.map(|served| served.watch.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return Ok(HashMap::new());
        }
        let of = |transition: Transition| {
            let changed = evaluated
                .decisions
                .iter()
                .filter(move |decision| decision.change.is_some_and(|change| change.transition == transition));
            changed.filter(|decision| !decision.silent)
        };
        let escalated: Vec<Uuid> = of(Transition::Escalated).filter_map(|decision| decision.about).collect();
        let rows = client.query(&self.unread, &[&names, &escalated]).await?;
        let mut unread: HashMap<String, i64> = names.iter().map(|name| ((*name).to_owned(), 0)).collect();
        unread.extend(rows.iter().map(|row| (row.get::<_, String>(0), row.get::<_, i64>(1))));
        for raised in of(Transition::Raised) {
            if let Some(served) = served.get(&raised.watch) {
                *unread.entry(served.watch.name.clone()).or_default() += 1;
            }
        }
        Ok(unread)
    }

    async fn insert_deliveries(
        &self,
        client: &Client,
        columns: &DeliveryColumns,
        token: Uuid,
    ) -> Result<Vec<i64>, tokio_postgres::Error> {
        if columns.bodies.is_empty() {
            return Ok(Vec::new());
        }
        let leases: Vec<Option<f64>> = columns.leases.iter().map(|lease| lease.map(|lease| lease.as_secs_f64())).collect();
        let parameters: &Parameters<'_> = &[
            &columns.event_ids,
            &columns.endpoints,
            &columns.watches,
            &columns.keys,
            &columns.channels,
            &columns.names,
            &columns.bodies,
            &leases,
            &columns.unsendable,
            &token,
            &self.instance,
            &Reason::Unsendable.as_str(),
        ];
        let rows = client.query(&self.deliveries, parameters).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn store_episodes(
        &self,
        client: &Client,
        served: &HashMap<i32, Served>,
        decisions: &[Decision],
        messages: &HashMap<Uuid, String>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut raised = EpisodeColumns::default();
        let mut changed = EpisodeColumns::default();
        for decision in decisions {
            let (Some(change), Some(served)) = (decision.change, served.get(&decision.watch)) else { continue };
            let into = if change.transition == Transition::Raised { &mut raised } else { &mut changed };
            into.push(served, decision, messages, now);
        }
        if !raised.ids.is_empty() {
            client.execute(&self.raise, &raised.parameters()).await?;
        }
        if !changed.ids.is_empty() {
            client.execute(&self.change, &changed.parameters()).await?;
        }
        Ok(())
    }

    async fn store_states(&self, client: &Client, evaluated: &Evaluated) -> Result<(), Error> {
        let states = StateColumns::of(&evaluated.decisions);
        if !states.watches.is_empty() {
            client.execute(&self.states, &states.parameters()).await?;
        }
        if evaluated.was_dirty {
            client.execute(&self.clean, &[&evaluated.clean]).await?;
        }
        if !evaluated.empty.is_empty() {
            let (watches, keys): (Vec<i32>, Vec<&str>) =
                evaluated.empty.iter().map(|(watch, key)| (*watch, key.as_str())).unzip();
            client.execute(&self.empty, &[&watches, &keys]).await?;
        }
        if !evaluated.baseline.is_empty() {
            client.execute(&self.baseline, &[&evaluated.baseline]).await?;
        }
        Ok(())
    }
}

/// The events of one transaction on their way into the database.
struct Telling<'a> {
    writer: &'a Writer,
    client: &'a Client,
    /// One token for all that this transaction leases.
    token: Uuid,
    /// Leases are counted from before they are sent.
    before: Duration,
    lanes: HashMap<(String, Lane), Birth>,
    born: Born,
}

impl<'a> Telling<'a> {
    fn new(writer: &'a Writer, client: &'a Client) -> Telling<'a> {
        Telling {
            writer,
            client,
            token: Uuid::new_v4(),
            before: crate::dispatch::clock::now(),
            lanes: HashMap::new(),
            born: Born::default(),
        }
    }

    async fn store(&mut self, chunk: &[Told]) -> Result<(), Error> {
        if chunk.is_empty() {
            return Ok(());
        }
        self.look_up_lanes(chunk).await?;
        self.insert(chunk).await
    }

    /// Decides, for each lane that this chunk is the first to use, whether its deliveries are born leased:
    /// only if nothing earlier of the lane is unsettled but what is queued in this process's memory.
    async fn look_up_lanes(&mut self, chunk: &[Told]) -> Result<(), Error> {
        let dispatch = &self.writer.dispatch;
        let (mut endpoints, mut watches, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for (told, outgoing) in sendable(chunk) {
            let lane = (outgoing.endpoint.clone(), lane(told));
            if self.lanes.contains_key(&lane) {
                continue;
            }
            let room = dispatch.has_room(&outgoing.endpoint, self.born.parcels.len());
            if room {
                endpoints.push(outgoing.endpoint.clone());
                watches.push(told.event.watch.clone());
                keys.push(told.lane_key.clone());
            }
            self.lanes.insert(lane, Birth { leased: room, after: None });
        }
        if endpoints.is_empty() {
            return Ok(());
        }
        for row in self.client.query(&self.writer.lanes, &[&endpoints, &watches, &keys]).await? {
            let endpoint: String = row.get(0);
            let unsettled: Vec<i64> = row.get(3);
            let birth = Birth { leased: dispatch.holds_all(&endpoint, &unsettled), after: unsettled.iter().max().copied() };
            self.lanes.insert((endpoint, Lane { watch: row.get(1), key: row.get(2) }), birth);
        }
        Ok(())
    }

    async fn insert(&mut self, chunk: &[Told]) -> Result<(), Error> {
        let dispatch = &self.writer.dispatch;
        let events = EventColumns::of(chunk);
        let mut columns = DeliveryColumns::default();
        for (told, outgoing) in all(chunk) {
            let leased = outgoing.unsendable.is_none()
                && self.lanes.get(&(outgoing.endpoint.clone(), lane(told))).is_some_and(|birth| birth.leased);
            columns.push(told, outgoing, leased.then(|| dispatch.lease(&outgoing.endpoint)));
        }
        let event_parameters = events.parameters();
        let (stored, rows) = tokio::join!(biased;
            self.client.execute(&self.writer.events, &event_parameters),
            self.writer.insert_deliveries(self.client, &columns, self.token),
        );
        stored?;
        let ids = rows?;
        for ((told, outgoing), (id, lease)) in all(chunk).zip(ids.iter().zip(&columns.leases)) {
            self.born.ids.push(*id);
            let Some(lease) = lease else {
                if outgoing.unsendable.is_none() && !dispatch.is_held() {
                    self.born.waiting.insert(outgoing.endpoint.clone());
                }
                continue;
            };
            let lane = lane(told);
            let birth = self.lanes.get_mut(&(outgoing.endpoint.clone(), lane.clone()));
            let parcel = Parcel {
                id: *id,
                event_id: told.event.id,
                lane,
                channels: outgoing.channels.len(),
                body: outgoing.body.clone(),
                attempts: 0,
                age: Duration::ZERO,
                lease: self.token,
                lease_end: self.before + *lease,
                after: birth.and_then(|birth| birth.after.replace(*id)),
            };
            self.born.token = Some(self.token);
            self.born.parcels.push((outgoing.endpoint.clone(), parcel));
        }
        Ok(())
    }
}

/// What was inserted.
#[derive(Default)]
struct Born {
    /// The lease's token, if anything was leased.
    token: Option<Uuid>,
    ids: Vec<i64>,
    parcels: Vec<(String, Parcel)>,
    /// Endpoints with deliveries that were not born leased: somebody has to claim them.
    waiting: HashSet<String>,
}

/// How the deliveries of a lane are born in this transaction.
struct Birth {
    leased: bool,
    after: Option<i64>,
}

fn lane(told: &Told) -> Lane {
    Lane { watch: told.event.watch.clone(), key: told.lane_key.clone() }
}

fn all(chunk: &[Told]) -> impl Iterator<Item = (&Told, &Outgoing)> {
    chunk.iter().flat_map(|told| told.parcels.iter().map(move |outgoing| (told, outgoing)))
}

fn sendable(chunk: &[Told]) -> impl Iterator<Item = (&Told, &Outgoing)> {
    all(chunk).filter(|(_, outgoing)| outgoing.unsendable.is_none())
}

/// The events of one decision, in the order of their numbers: its reading, where a rule wants every reading and does
/// not get the transition; and its transition.
fn tell_decision(served: &Served, decision: &Decision, unread: Option<i64>, now: Timestamp) -> Vec<Told> {
    let rules = &served.watch.rules;
    let at = decision.state.last_at.filter(|_| decision.change.is_some()).unwrap_or(now);
    let mut told = Vec::new();
    let wants_change = |rule: &&Rule| {
        decision.change.is_some_and(|change| rule.wants_transition(change.transition, change.previous, change.severity))
    };
    let wants_reading = |rule: &&Rule| rule.on.reading() && !wants_change(rule);
    if rules.iter().any(|rule| wants_reading(&rule)) {
        let mut event = event(served, &decision.key, decision.count, decision.threshold, decision.seq, now, unread);
        event.severity = decision.severity_now;
        event.alert = decision.about;
        told.push(publish(event, &decision.key.text, served, rules.iter().filter(wants_reading)));
    }
    if let Some(change) = decision.change {
        let mut event = event(served, &decision.key, decision.count, decision.threshold, decision.seq + 1, at, unread);
        event.transition = change.transition.as_str();
        event.reason = Some(change.reason.as_str());
        event.previous = Some(change.previous);
        event.severity = change.severity;
        event.alert = decision.about;
        told.push(publish(event, &decision.key.text, served, rules.iter().filter(wants_change)));
    }
    told
}

fn tell_manual(served: &Served, manual: &Manual, unread: Option<i64>, now: Timestamp) -> Told {
    let watch = &served.watch;
    let threshold = watch.threshold_of(&manual.key);
    let severity = watch.policy.scale.classify(manual.count, threshold).unwrap_or(Severity::Info);
    let mut event = event(served, &manual.key, manual.count, threshold, manual.seq, now, unread);
    event.transition = "manual";
    event.severity = severity;
    publish(event, &manual.key.text, served, watch.rules.iter().filter(|rule| rule.wants_manual(severity)))
}

fn event(
    served: &Served,
    key: &crate::watch::Key,
    count: i64,
    threshold: Option<i64>,
    seq: i64,
    at: Timestamp,
    unread_count: Option<i64>,
) -> Event {
    let watch = &served.watch;
    Event {
        id: Uuid::now_v7(),
        alert: None,
        seq,
        watch: watch.name.clone(),
        key: key.object.clone(),
        transition: "reading",
        reason: None,
        severity: Severity::Info,
        previous: None,
        count,
        threshold,
        percent: percent(count, threshold),
        compare: watch.policy.scale.compare.as_str(),
        message: None,
        row: None,
        at,
        unread_count,
    }
}

fn publish<'a>(mut event: Event, lane_key: &str, served: &Served, rules: impl Iterator<Item = &'a Rule>) -> Told {
    event.message = served.watch.message.render(&minijinja::Value::from_serialize(&event)).ok();
    let mut parcels = Vec::new();
    for rule in rules {
        let (channels, name, body, unsendable) = match rule.render(&event) {
            Ok(None) => continue,
            Ok(Some(message)) => {
                let body = body::single(&message.event, &message.channels, &message.data).unwrap_or_default();
                (message.channels, message.event, body, None)
            }
            Err(what) => (Vec::new(), rule.event.source().to_owned(), String::new(), Some(what)),
        };
        for endpoint in &rule.endpoints {
            parcels.push(Outgoing {
                endpoint: endpoint.clone(),
                channels: channels.clone(),
                name: name.clone(),
                body: body.clone(),
                unsendable: unsendable.clone(),
            });
        }
    }
    Told { event, lane_key: lane_key.to_owned(), parcels }
}

#[derive(Default)]
struct DeliveryColumns {
    event_ids: Vec<Uuid>,
    endpoints: Vec<String>,
    watches: Vec<String>,
    keys: Vec<String>,
    channels: Vec<String>,
    names: Vec<String>,
    bodies: Vec<String>,
    leases: Vec<Option<Duration>>,
    unsendable: Vec<Option<String>>,
}

impl DeliveryColumns {
    fn push(&mut self, told: &Told, outgoing: &Outgoing, lease: Option<Duration>) {
        self.event_ids.push(told.event.id);
        self.endpoints.push(outgoing.endpoint.clone());
        self.watches.push(told.event.watch.clone());
        self.keys.push(told.lane_key.clone());
        // An array of arrays must be rectangular in SQL; a list as JSON need not be.
        self.channels.push(serde_json::to_string(&outgoing.channels).unwrap_or_else(|_| "[]".to_owned()));
        self.names.push(outgoing.name.clone());
        self.bodies.push(outgoing.body.clone());
        self.leases.push(lease);
        self.unsendable.push(outgoing.unsendable.clone());
    }
}

#[derive(Default)]
struct EventColumns {
    ids: Vec<Uuid>,
    episodes: Vec<Option<Uuid>>,
    seqs: Vec<i64>,
    watches: Vec<String>,
    keys: Vec<Value>,
    transitions: Vec<&'static str>,
    reasons: Vec<Option<&'static str>>,
    severities: Vec<&'static str>,
    previous: Vec<Option<&'static str>>,
    counts: Vec<i64>,
    thresholds: Vec<Option<i64>>,
    percents: Vec<Option<i64>>,
    messages: Vec<Option<String>>,
    ats: Vec<Timestamp>,
}

impl EventColumns {
    /// Transitions always; readings and manual triggers only if somebody is to be told.
    fn of(chunk: &[Told]) -> EventColumns {
        let mut columns = EventColumns::default();
        for Told { event, parcels, .. } in chunk {
            if parcels.is_empty() && event.previous.is_none() {
                continue;
            }
            columns.ids.push(event.id);
            columns.episodes.push(event.alert);
            columns.seqs.push(event.seq);
            columns.watches.push(event.watch.clone());
            columns.keys.push(Value::Object(event.key.clone()));
            columns.transitions.push(event.transition);
            columns.reasons.push(event.reason);
            columns.severities.push(event.severity.as_str());
            columns.previous.push(event.previous.map(Severity::as_str));
            columns.counts.push(event.count);
            columns.thresholds.push(event.threshold);
            columns.percents.push(event.percent);
            columns.messages.push(event.message.clone());
            columns.ats.push(event.at);
        }
        columns
    }

    fn parameters(&self) -> [&(dyn ToSql + Sync); 14] {
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
        ]
    }
}

#[derive(Default)]
struct EpisodeColumns {
    ids: Vec<Uuid>,
    watches: Vec<String>,
    keys: Vec<Value>,
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
    fn push(&mut self, served: &Served, decision: &Decision, messages: &HashMap<Uuid, String>, now: Timestamp) {
        let (Some(change), Some(id)) = (decision.change, decision.about) else { return };
        self.ids.push(id);
        self.watches.push(served.watch.name.clone());
        self.keys.push(Value::Object(decision.key.object.clone()));
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

    fn parameters(&self) -> [&(dyn ToSql + Sync); 13] {
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
struct StateColumns {
    watches: Vec<i32>,
    keys: Vec<String>,
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
    fn of(decisions: &[Decision]) -> StateColumns {
        let last: HashMap<(i32, &str), &Decision> =
            decisions.iter().map(|decision| ((decision.watch, decision.key.text.as_str()), decision)).collect();
        let mut last: Vec<&Decision> = last.into_values().filter(|decision| decision.state_changed).collect();
        last.sort_by_key(|decision| (decision.watch, &decision.key.text));
        let mut columns = StateColumns::default();
        for decision in last {
            columns.watches.push(decision.watch);
            columns.keys.push(decision.key.text.clone());
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

    fn parameters(&self) -> [&(dyn ToSql + Sync); 9] {
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

/// Counted from the rows, never kept in a counter. An alert that escalates in this transaction is unread again.
const UNREAD: &str = "
    SELECT e.watch, count(*)
    FROM items_listen.episode e LEFT JOIN items_listen.alert_read r ON r.episode = e.id
    WHERE e.watch = ANY ($1::text[]) AND (r.read_seq IS DISTINCT FROM e.unread_seq OR e.id = ANY ($2::uuid[]))
    GROUP BY e.watch";

/// What is unsettled in these lanes.
const LANES: &str = "
    SELECT d.endpoint, d.watch, d.key, array_agg(d.id)
    FROM unnest($1::text[], $2::text[], $3::text[]) AS l (endpoint, watch, key)
    JOIN items_listen.delivery d ON d.endpoint = l.endpoint AND d.watch = l.watch AND d.key = l.key
    WHERE d.state = 'pending'
    GROUP BY d.endpoint, d.watch, d.key";

const RAISE: &str = "
    INSERT INTO items_listen.episode (id, watch, key, severity, peak, count, threshold, percent, raised_at, changed_at, reason, unread_seq, message)
    SELECT id, watch, key, severity, severity, count, threshold, percent, at, at, reason, seq, message
    FROM unnest($1::uuid[], $2::text[], $3::jsonb[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::timestamptz[],
                $9::text[], $10::bigint[], $11::bool[], $12::bool[], $13::text[])
         AS c (id, watch, key, severity, count, threshold, percent, at, reason, seq, unread_again, resolved, message)";

const CHANGE: &str = "
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

const EVENTS: &str = "
    INSERT INTO items_listen.event
           (id, episode, seq, watch, key, transition, reason, severity, previous, count, threshold, percent, message, at)
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::jsonb[], $6::text[], $7::text[], $8::text[],
                         $9::text[], $10::bigint[], $11::bigint[], $12::bigint[], $13::text[], $14::timestamptz[])";

/// In the order given: ids grow along each lane.
const DELIVERIES: &str = "
    INSERT INTO items_listen.delivery
           (event_id, endpoint, watch, key, channels, event, body, state, due_at, lease, lease_until, leased_by,
            created_at, settled_at, reason, answer)
    SELECT d.event_id, d.endpoint, d.watch, d.key, ARRAY(SELECT jsonb_array_elements_text(d.channels::jsonb)), d.event, d.body,
           CASE WHEN d.unsendable IS NULL THEN 'pending' ELSE 'dead' END, now.at,
           CASE WHEN d.lease IS NOT NULL THEN $10::uuid END, now.at + make_interval(secs => d.lease),
           CASE WHEN d.lease IS NOT NULL THEN $11::uuid END, now.at,
           CASE WHEN d.unsendable IS NOT NULL THEN now.at END, CASE WHEN d.unsendable IS NOT NULL THEN $12::text END, d.unsendable
    FROM (SELECT clock_timestamp() AS at) AS now,
         unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::float8[], $9::text[])
         WITH ORDINALITY AS d (event_id, endpoint, watch, key, channels, event, body, lease, unsendable, ord)
    ORDER BY d.ord
    RETURNING id";

const STATES: &str = "
    UPDATE items_listen.count c
    SET severity = s.severity, episode = s.episode, breach_since = s.breach_since, clear_since = s.clear_since,
        said_at = s.said_at, deadline = s.deadline, last_at = s.last_at
    FROM unnest($1::int[], $2::text[], $3::smallint[], $4::uuid[], $5::timestamptz[], $6::timestamptz[], $7::timestamptz[],
                $8::timestamptz[], $9::timestamptz[])
         AS s (watch, key, severity, episode, breach_since, clear_since, said_at, deadline, last_at)
    WHERE c.watch = s.watch AND c.key = s.key";

/// Every dirty key of these watches has just been evaluated.
const CLEAN: &str = "UPDATE items_listen.count SET dirty = 0 WHERE dirty > 0 AND watch = ANY ($1::int[])";

const EMPTY: &str = "
    DELETE FROM items_listen.count c
    USING unnest($1::int[], $2::text[]) AS e (watch, key)
    WHERE c.watch = e.watch AND c.key = e.key
      AND c.rows = 0 AND c.sum = 0 AND c.severity = 0 AND c.dirty = 0 AND c.deadline IS NULL";

const BASELINE: &str = "UPDATE items_listen.watch SET baseline = false WHERE id = ANY ($1::int[])";
