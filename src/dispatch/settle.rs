//! What becomes of deliveries after a request, and how it is written down; together with how the endpoint is.

use std::time::Duration;

use super::Context;
use crate::chaos::point;
use crate::error::Error;
use crate::outbox::{self, Parcel, Settlement};
use crate::pusher::classify::{Answer, Reason};

/// So much of an answer is kept with the delivery, in characters.
const ANSWER_CHARS_KEPT: usize = 500;

/// What is to be written into `items_listen.endpoint`.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) state: &'static str,
    pub(super) reason: Option<&'static str>,
    pub(super) until: Option<Duration>,
    pub(super) succeeded: bool,
    pub(super) error: Option<String>,
    pub(super) hasten: bool,
}

/// Whether one that waits behind it says all that it would, and more recently.
pub(super) fn is_superseded(parcel: &Parcel, behind: &[Parcel]) -> bool {
    // (Something older may stand behind it: dead, and sent again by hand.)
    parcel.collapse.is_some() && behind.iter().any(|later| later.id > parcel.id && later.collapse == parcel.collapse)
}

pub(super) fn settled(parcel: &Parcel, state: &'static str, reason: Option<Reason>, answer: Option<String>) -> Settlement {
    Settlement {
        id: parcel.id,
        lease: parcel.lease,
        state,
        attempted: parcel.resent + 1,
        delay: Duration::ZERO,
        reason: reason.map(Reason::as_str),
        status: None,
        answer,
    }
}

pub(super) fn given_back(
    parcel: &Parcel,
    delay: Duration,
    answer: Option<(Reason, Option<i32>, Option<String>)>,
    attempted: i32,
) -> Settlement {
    let (reason, status, answer) =
        answer.map_or((None, None, None), |(reason, status, answer)| (Some(reason.as_str()), status, answer));
    Settlement { id: parcel.id, lease: parcel.lease, state: "pending", attempted, delay, reason, status, answer }
}

/// The status, and the beginning of what was said.
pub(super) fn describe(answer: &Answer) -> (Option<i32>, Option<String>) {
    let excerpt = |text: &str| Some(text.chars().take(ANSWER_CHARS_KEPT).collect()).filter(|text: &String| !text.is_empty());
    match answer {
        Answer::Http { status, body, .. } => (Some(i32::from(*status)), excerpt(body)),
        Answer::NoConnection(error) => (None, excerpt(error)),
        Answer::TimedOut => (None, Some("no answer in time".to_owned())),
    }
}

pub(super) async fn settle(
    context: &Context,
    endpoint: &str,
    settlements: &[Settlement],
    row: Option<&Row>,
) -> Result<Vec<i64>, Error> {
    let mut matched = Vec::new();
    if !settlements.is_empty() {
        matched = context
            .pool
            .run(async |client| {
                point!("settle.before");
                let matched = outbox::settle(client, &context.schema, settlements).await;
                point!("settle.after");
                matched
            })
            .await?;
    }
    if let Some(row) = row {
        context.pool.run(async |client| store_row(client, context, endpoint, row).await).await?;
    }
    Ok(matched)
}

async fn store_row(client: &tokio_postgres::Client, context: &Context, endpoint: &str, row: &Row) -> Result<(), Error> {
    let sql = context.schema.sql(
        "INSERT INTO items_listen.endpoint AS e (name, state, reason, until, last_success_at, last_error)
         VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4), CASE WHEN $5 THEN clock_timestamp() END, $6)
         ON CONFLICT (name) DO UPDATE SET state = excluded.state, reason = excluded.reason, until = excluded.until,
             last_success_at = coalesce(excluded.last_success_at, e.last_success_at),
             last_error = coalesce(excluded.last_error, e.last_error)",
    );
    let until = row.until.map(|until| until.as_secs_f64());
    client.execute(sql.as_str(), &[&endpoint, &row.state, &row.reason, &until, &row.succeeded, &row.error]).await?;
    if row.hasten {
        outbox::hasten(client, &context.schema, endpoint).await?;
    }
    Ok(())
}
