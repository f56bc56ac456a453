//! Watches counts in PostgreSQL and publishes threshold alerts to Pusher-compatible endpoints: once a transaction
//! that crosses a threshold commits, the alert reaches its endpoints at least once and in order per key, through
//! every crash, and the transaction itself is barely slowed by being watched.
//!
//! This page follows the data; so do the modules below, in the same order.
//!
//! ```text
//!  application's transaction                     items-listen (any number of replicas)                    endpoint
//! ┌──────────────────────────┐  ┌───────────────────────────────────────────────────────────────┐  ┌───────────┐
//! │ INSERT/UPDATE/DELETE/COPY │  │ source: listen ─┐                                             │  │ Reverb    │
//! │  └ trigger: journal row   │─▶│ source: poll   ─┴▶ fold ─▶ evaluate ─▶ outbox ─▶ dispatch     │─▶│ Soketi    │
//! │  └ rings the doorbell     │  │                    └──── one transaction ───┘   sign, send,   │  │ Sockudo   │
//! │    only if someone sleeps │  │                                                 retry, settle │  │ Pusher    │
//! └──────────────────────────┘  └───────────────────────────────────────────────────────────────┘  └───────────┘
//! ```
//!
//! 1. **What is watched** is a [`watch`]: a table, a query, or a NOTIFY that an application sends; rows, a sum or the level of
//!    each row; a key; a threshold; and publish rules, some of which listen to changes of rows. A [`lookup`] fetches what
//!    events need besides. [`config`] reads it, with every mistake in one run; [`ruletest`] tries it out in virtual time.
//! 2. **[`journal`]**: generated statement triggers append one small row per statement and key: by how much the number
//!    of rows changed. No counter row is locked, no sequence is touched, no table is read. A *recount* corrects the
//!    counts from one snapshot while all goes on; that is also how a table that has rows already is first counted.
//! 3. **[`source`]**: the daemon's own session LISTENs. While it sleeps it holds a lock that the triggers test: refused
//!    means that somebody sleeps, and only then do they NOTIFY. A slow poll is the bound on everything else, and the
//!    session's heartbeat.
//! 4. **[`engine`]**: the one transaction. Under a lock that one replica at a time may hold, it deletes journal rows,
//!    adds them to the counts, evaluates what changed ([`severity`], [`evaluate`]: pure, integer arithmetic), and
//!    writes episodes, events ([`event`]) and deliveries; changes of rows it tells as well, some of them put together
//!    ([`coalesce`]). Crash anywhere: either all of it happened or none.
//! 5. **[`outbox`]**: deliveries in the database, each with the exact bytes to be sent, in lanes of (endpoint, watch, key).
//! 6. **[`dispatch`]**: what a fold has just committed goes straight from its memory to the endpoint's task; what failed,
//!    and what others left behind, is claimed from the outbox. Signed anew on every attempt ([`pusher`]), tried again
//!    with back-off ([`retry`]), settled; and only then does its lane go on.
//! 7. **[`daemon`]** holds it together: sessions that come and go, tasks that stay, an orderly end. [`http`], [`metrics`] and
//!    [`status`] say how it is; [`cli`] is the command line. [`ruletest`] runs a configuration's rules without any of it, in virtual time.
//!
//! Pure modules, which know no clock, no I/O and no tokio: [`severity`], [`evaluate`], [`storm`], [`coalesce`], [`lookup`], [`json`],
//! [`plain`], [`retry`], [`pusher::sign`], [`pusher::encrypt`],
//! [`pusher::classify`], [`pusher::body`], [`event::channel`], [`dispatch::lanes`], [`dispatch::gate`],
//! [`db::dsn`], [`db::sslmode`], [`db::authentication`], [`source::payload`], [`journal::trigger`], [`journal::fold`], [`ruletest::simulate`].
//!
//! SQL that a DBA should read is in `sql/`: the tables, the triggers, the fold, the recount, the poll. The invariants of
//! each transaction and lock are at the head of the module that owns it; why things are as they are is in
//! `docs/decisions.md`.

pub mod config;
pub mod lookup;
pub mod watch;

pub mod journal;

pub mod source;

pub mod coalesce;
pub mod engine;
pub mod evaluate;
pub mod event;
pub mod severity;
pub mod storm;

pub mod outbox;
pub mod retention;

pub mod dispatch;
pub mod pusher;
pub mod retry;

pub mod ruletest;

pub mod daemon;
pub mod http;
pub mod metrics;
pub mod status;

pub mod chaos;
pub mod cli;
pub mod db;
pub mod error;
pub mod json;
pub mod logging;
pub mod memory;
pub mod pem;
pub mod plain;
pub mod version;
