//! The pure parts, each by itself: what one event costs before anything is sent or stored.
//!
//! `make bench-micro`. What these figures add up to is small beside one round trip to the database; they are here so
//! that it stays so.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use divan::Bencher;
use items_listen::config::{self, Config};
use items_listen::engine::decide::{self, Known};
use items_listen::engine::{Received, Served};
use items_listen::evaluate::{Policy, Reading, State, step};
use items_listen::event::{Event, Facts};
use items_listen::pusher::{body, sign};
use items_listen::severity::{Bands, Compare, Scale, Severity};
use items_listen::source::payload;
use items_listen::watch::Key;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use uuid::Uuid;

fn main() {
    // Long enough, and many calls to a sample, so that neither the clock nor a neighbour makes the figure.
    divan::Divan::default().min_time(Duration::from_millis(200)).sample_size(50).config_with_args().main();
}

const RISING: Scale = Scale { compare: Compare::AtLeast, bands: Bands::RISING };

/// A reading of a key that is fine, that crosses, that stands as it stood: a fold sees mostly the first.
const COUNTS: [i64; 3] = [5, 25, 40];

#[divan::bench(args = COUNTS)]
fn classify(count: i64) -> Option<Severity> {
    RISING.classify(black_box(count), black_box(Some(20)))
}

mod step_of {
    use super::*;

    fn policy() -> Policy {
        let hold = SignedDuration::ZERO;
        Policy { scale: RISING, hold, recover: 100, clear_hold: hold, repeat: None }
    }

    fn reading(count: i64) -> Reading {
        Reading { count, threshold: Some(20), gone: false, rejudged: false }
    }

    #[divan::bench]
    fn nothing_to_say(bencher: Bencher<'_, '_>) {
        let policy = policy();
        bencher.bench(|| step(black_box(&State::NEW), black_box(reading(5)), &policy, Timestamp::UNIX_EPOCH));
    }

    #[divan::bench]
    fn raised(bencher: Bencher<'_, '_>) {
        let policy = policy();
        bencher.bench(|| step(black_box(&State::NEW), black_box(reading(25)), &policy, Timestamp::UNIX_EPOCH));
    }

    #[divan::bench]
    fn open_as_before(bencher: Bencher<'_, '_>) {
        let policy = policy();
        let (open, _) = step(&State::NEW, reading(25), &policy, Timestamp::UNIX_EPOCH);
        bencher.bench(|| step(black_box(&open), black_box(reading(26)), &policy, Timestamp::UNIX_EPOCH));
    }

    #[divan::bench]
    fn escalated(bencher: Bencher<'_, '_>) {
        let policy = policy();
        let (open, _) = step(&State::NEW, reading(25), &policy, Timestamp::UNIX_EPOCH);
        bencher.bench(|| step(black_box(&open), black_box(reading(31)), &policy, Timestamp::UNIX_EPOCH));
    }

    /// With what the engine puts beside the state machine: the key, its threshold, the episode.
    #[divan::bench]
    fn a_whole_decision(bencher: Bencher<'_, '_>) {
        let config = rules();
        let served = Served::new(1, 1, config.watches[0].clone());
        let received = Received { watch: 1, key: tenant(), count: 25, ..Received::default() };
        bencher
            .with_inputs(|| Known { state: State::NEW, episode: None, rejudged: false, edited: None })
            .bench_refs(|known| decide::received(&served, black_box(&received), known, 8, Timestamp::UNIX_EPOCH));
    }
}

mod render {
    use super::*;

    #[divan::bench]
    fn message(bencher: Bencher<'_, '_>) {
        let config = rules();
        let context = Facts::default().context(&raised(None));
        bencher.bench(|| config.watches[0].message.render(black_box(&context)));
    }

    /// What every rendering begins with: the event as templates see it.
    #[divan::bench]
    fn context(bencher: Bencher<'_, '_>) {
        let (facts, event) = (Facts::default(), raised(Some(row())));
        bencher.bench(|| facts.context(black_box(&event)));
    }

    #[divan::bench]
    fn full(bencher: Bencher<'_, '_>) {
        rule(bencher, 0, 0, &raised(None));
    }

    #[divan::bench]
    fn thin(bencher: Bencher<'_, '_>) {
        rule(bencher, 0, 1, &raised(None));
    }

    #[divan::bench]
    fn own_data_with_row(bencher: Bencher<'_, '_>) {
        rule(bencher, 1, 0, &raised(Some(row())));
    }

    fn rule(bencher: Bencher<'_, '_>, watch: usize, rule: usize, event: &Event) {
        let (config, facts) = (rules(), Facts::default());
        let rule = &config.watches[watch].rules[rule];
        let rendered = rule.render(event, &facts);
        assert!(rendered.as_ref().is_ok_and(Option::is_some), "{rendered:?}");
        bencher.bench(|| rule.render(black_box(event), &facts));
    }
}

mod encode {
    use super::*;

    #[divan::bench]
    fn body_of_one(bencher: Bencher<'_, '_>) {
        let (channels, data) = published();
        bencher.bench(|| body::sealed(black_box(&of(&channels, &data)), None));
    }

    #[divan::bench(args = [2, 10])]
    fn batch_of_stored(bencher: Bencher<'_, '_>, events: usize) {
        let stored = vec![stored(); events];
        bencher.bench(|| body::batch(black_box(&stored).iter().map(String::as_str)));
    }
}

/// One request's signature; the body is hashed with MD5, so its length matters.
#[divan::bench(args = [1, 10])]
fn sign(bencher: Bencher<'_, '_>, events: usize) {
    let stored = vec![stored(); events];
    let body = body::batch(stored.iter().map(String::as_str)).expect("one channel each");
    bencher.counter(divan::counter::BytesCount::of_str(&body)).bench(|| {
        sign::signed_query("POST", "/apps/1/batch_events", "key", "secret", &[], black_box(body.as_bytes()), 1_353_088_179)
    });
}

#[divan::bench(args = [1, 10])]
fn idempotency_key(bencher: Bencher<'_, '_>, events: usize) {
    let stored = vec![stored(); events];
    let body = body::batch(stored.iter().map(String::as_str)).expect("one channel each");
    bencher.bench(|| sign::idempotency_key(black_box(body.as_bytes()), b"1,2,3"));
}

mod parse {
    use super::*;

    #[divan::bench]
    fn integer() -> Result<(Key, i64), String> {
        payload::parse(black_box("25"), &[])
    }

    #[divan::bench]
    fn object(bencher: Bencher<'_, '_>) {
        let columns = ["tenant_id".to_owned()];
        bencher.bench(|| payload::parse(black_box(r#"{"count":25,"key":{"tenant_id":7}}"#), &columns));
    }

    /// A key as the journal has it.
    #[divan::bench]
    fn key_of_the_journal(bencher: Bencher<'_, '_>) {
        let config = rules();
        bencher.bench(|| config.watches[0].key_from_text(black_box("[42]")));
    }
}

/// The rules of `benches/micro.toml`.
fn rules() -> Config {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/micro.toml");
    config::load_rehearsal(&file, None, &BTreeMap::new()).expect("the configuration is right")
}

fn tenant() -> Key {
    Key::from_object(&["tenant_id".to_owned()], &object(json!({ "tenant_id": 42 }))).expect("a key")
}

fn row() -> Value {
    json!({ "id": 42, "name": "Widget, large", "warehouse": "north", "stock": 3 })
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// An alert that was just raised.
fn raised(row: Option<Value>) -> Event {
    let key = if row.is_some() { json!({ "id": 42 }) } else { json!({ "tenant_id": 42 }) };
    Event {
        id: Uuid::from_u128(0x0193_4a5b_6c7d_7e8f_9012_3456_789a_bcde),
        alert: Some(Uuid::from_u128(0x0193_4a5b_6c7d_7e8f_9012_3456_789a_bcdf)),
        seq: 4_242_424,
        watch: "orders".to_owned(),
        key: object(key),
        transition: "raised",
        reason: Some("reading"),
        severity: Some(Severity::High),
        previous: Some(Severity::Info),
        count: Some(25),
        threshold: Some(20),
        percent: Some(125),
        compare: Some(">="),
        message: Some("tenant 42 has 25 open orders (125 % of 20)".to_owned()),
        row,
        at: Timestamp::UNIX_EPOCH,
        unread_count: Some(3),
    }
}

/// Channels and data of one full event.
fn published() -> (Vec<String>, String) {
    (vec!["private-tenant.42.orders".to_owned()], serde_json::to_string(&raised(None)).expect("JSON"))
}

fn of<'a>(channels: &'a [String], data: &'a str) -> body::Body<'a> {
    body::Body { name: "orders.many", channels, data, socket_id: None }
}

/// A body as the outbox has it.
fn stored() -> String {
    let (channels, data) = published();
    body::sealed(&of(&channels, &data), None).expect("nothing to encrypt")
}
