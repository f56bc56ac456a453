//! Sends one request's worth of deliveries to an endpoint, whatever kind it is.

use std::io::Write as _;

use crate::chaos::{self, Mutation};
use crate::config::{Endpoint, Target};
use crate::error::Error;
use crate::outbox::Parcel;
use crate::pusher::body;
use crate::pusher::classify::Answer;
use crate::pusher::client::Client;

/// Where an endpoint's requests go.
#[derive(Clone, Debug)]
pub enum Sender {
    /// A Pusher-compatible server.
    Pusher(Client),
    /// Lines on stdout.
    Log(String),
}

impl Sender {
    /// A sender for this endpoint.
    ///
    /// # Errors
    /// TLS that cannot be set up.
    pub fn new(endpoint: &Endpoint) -> Result<Sender, Error> {
        Ok(match &endpoint.target {
            Target::Pusher(pusher) => Sender::Pusher(Client::new(pusher, endpoint.timeout)?),
            Target::Log => Sender::Log(endpoint.name.clone()),
        })
    }

    /// Sends: one delivery to `/events`, several to `/batch_events`.
    pub async fn send(&self, load: Load) -> Answer {
        let Load { bodies, carries } = load;
        match self {
            Sender::Log(endpoint) => {
                // Whoever reads stdout may take his time; everything else goes on meanwhile.
                let endpoint = endpoint.clone();
                let written = tokio::task::spawn_blocking(move || log(&endpoint, &bodies)).await;
                written.unwrap_or_else(|error| Answer::NoConnection(format!("stdout: {error}")))
            }
            Sender::Pusher(client) => {
                if let [_] = bodies.as_slice() {
                    return client.post("events", bodies.into_iter().next().unwrap_or_default(), &carries).await;
                }
                let batch = body::batch(bodies.iter().map(String::as_str));
                let batch = if chaos::is(Mutation::IdempotencyKeyPerItem) { keyed(&bodies) } else { batch };
                match batch {
                    Ok(body) => client.post("batch_events", body, &carries).await,
                    Err(error) => {
                        let body = format!("a stored body is damaged: {error}");
                        Answer::Http { status: 400, body, retry_after: None, skew: None }
                    }
                }
            }
        }
    }

    /// By how many seconds the endpoint's clock is ahead of ours, as far as it is known.
    pub fn skew(&self) -> i64 {
        match self {
            Sender::Pusher(client) => client.skew(),
            Sender::Log(_) => 0,
        }
    }

    /// … where that is more than endpoints allow.
    pub fn intolerable_skew(&self) -> Option<i64> {
        match self {
            Sender::Pusher(client) => client.intolerable_skew(),
            Sender::Log(_) => None,
        }
    }
}

/// Wrong on purpose: a batch in which each event has a key of its own.
fn keyed(bodies: &[String]) -> Result<String, serde_json::Error> {
    let item = |body: &String| {
        let mut item: serde_json::Value = serde_json::from_str(body)?;
        item["channel"] = item["channels"][0].clone();
        item["idempotency_key"] = crate::pusher::sign::idempotency_key(body.as_bytes(), b"").into();
        Ok(item)
    };
    let items = bodies.iter().map(item).collect::<Result<Vec<_>, serde_json::Error>>()?;
    serde_json::to_string(&serde_json::json!({ "batch": items }))
}

/// What one request carries.
#[derive(Debug)]
pub struct Load {
    /// The stored bodies.
    pub bodies: Vec<String>,
    /// What tells these deliveries from others with the same bytes.
    pub carries: Vec<u8>,
}

impl Load {
    /// Of these deliveries.
    pub fn of(request: &[Parcel]) -> Load {
        let identity = |parcel: &Parcel| [parcel.event_id.into_bytes().as_slice(), &parcel.id.to_be_bytes()].concat();
        Load {
            bodies: request.iter().map(|parcel| parcel.body.clone()).collect(),
            carries: request.iter().flat_map(identity).collect(),
        }
    }
}

/// One JSON object per line: endpoint, event, channels, data.
fn log(endpoint: &str, bodies: &[String]) -> Answer {
    let mut lines = String::new();
    for body in bodies {
        let Ok(stored) = serde_json::from_str::<serde_json::Value>(body) else { continue };
        let data = stored["data"].as_str().and_then(|data| serde_json::from_str(data).ok()).unwrap_or(serde_json::Value::Null);
        let line = serde_json::json!({
            "endpoint": endpoint, "event": stored["name"], "channels": stored["channels"], "data": data,
        });
        // A person may be looking at it on a terminal.
        lines.push_str(&crate::plain::json(&line.to_string()));
        lines.push('\n');
    }
    let mut out = std::io::stdout().lock();
    match out.write_all(lines.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Answer::Http { status: 200, body: String::new(), retry_after: None, skew: None },
        Err(error) => Answer::NoConnection(format!("stdout: {error}")),
    }
}
