//! Everything that brings a row of the table `alerts` to the endpoint as an event of its own: items-listen, its peers, and the
//! floor under all of them.

use std::sync::Arc;
use std::time::Duration;

use items_listen::config::{Pusher, Secret};
use items_listen::pusher::classify::Answer;
use items_listen::pusher::client::Client;
use serde_json::json;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::context::Context;
use crate::listen::Listener;
use crate::peers::{self, Peer, Running};
use crate::sink::{Sink, Taken};
use crate::support::daemon::Daemon;
use crate::support::postgres::Database;
use crate::support::receiver::{APP_ID, KEY, SECRET, is_signed};

/// Who sends.
#[derive(Clone, Copy, PartialEq)]
pub enum Sender {
    /// LISTEN, then a signed POST: nothing is stored, nothing is tried again, what happens while nobody listens is lost.
    Floor,
    /// items-listen, with so many events in a request at most.
    Ours {
        max_batch: usize,
    },
    Peer(Peer),
}

impl Sender {
    pub fn name(self) -> String {
        match self {
            Sender::Floor => "floor: LISTEN, then POST".to_owned(),
            Sender::Ours { max_batch: 10 } => "items-listen".to_owned(),
            Sender::Ours { max_batch } => format!("items-listen, max_batch = {max_batch}"),
            Sender::Peer(peer) => peer.name().to_owned(),
        }
    }

    /// The peers that are installed.
    pub fn peers() -> Vec<Sender> {
        if peers::installed() { Peer::ALL.map(Sender::Peer).to_vec() } else { Vec::new() }
    }

    /// Starts it in a database of its own, with the table `alerts`. It is ready when this returns.
    pub async fn start(self, context: &Context, sink: &Sink, purpose: &str) -> Started {
        let database = context.database().await;
        database.sql("CREATE TABLE alerts (id bigint PRIMARY KEY, tenant_id int NOT NULL)").await;
        let process = match self {
            Sender::Floor => {
                database.sql(FLOOR).await;
                Process::Floor(floor(&database, sink).await)
            }
            Sender::Ours { max_batch } => {
                let mut daemon = context.daemon(&database, &sink.url(), &format!("max_batch = {max_batch}\n{WATCH}"));
                daemon.start().await;
                Process::Ours(daemon)
            }
            Sender::Peer(peer) => {
                let running = peer.start(&database, &sink.url(), purpose);
                database.sql(&peer.trigger()).await;
                Process::Peer(running)
            }
        };
        // Some say that they are ready a little before they are.
        tokio::time::sleep(Duration::from_millis(500)).await;
        Started { database, process }
    }
}

/// A sender at work, in its database.
pub struct Started {
    pub database: Database,
    process: Process,
}

enum Process {
    Floor(JoinHandle<()>),
    Ours(Daemon),
    Peer(Running),
}

impl Started {
    /// Ends the sender; its database goes too, so that it costs nobody else anything.
    pub async fn end(self, context: &Context) {
        match self.process {
            Process::Floor(task) => task.abort(),
            Process::Ours(mut daemon) => drop(daemon.terminate().await),
            Process::Peer(running) => drop(running),
        }
        let admin = context.server.connect("postgres").await;
        let drop_database = format!("DROP DATABASE {} WITH (FORCE)", self.database.name);
        admin.batch_execute(&drop_database).await.expect("the database is dropped");
    }
}

/// Every row is a key of its own, which crosses its threshold at once.
const WATCH: &str = r#"
[[watch]]
name = "alerts"
table = "public.alerts"
key = ["id"]
threshold = 1
[[watch.publish]]
channels = ["bench.{{ key.id }}"]
event = "alert"
on = "raised"
"#;

const FLOOR: &str = "
    CREATE FUNCTION floor() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_notify('floor', NEW.id::text); RETURN NULL; END $$;
    CREATE TRIGGER floor AFTER INSERT ON alerts FOR EACH ROW EXECUTE FUNCTION floor();";

async fn floor(database: &Database, sink: &Sink) -> JoinHandle<()> {
    let mut listener = Listener::new(&database.url(), "floor").await;
    let client = Arc::new(client(sink));
    tokio::spawn(async move {
        while let Some(id) = listener.next().await {
            let client = Arc::clone(&client);
            tokio::spawn(async move { post_one(&client, &id).await });
        }
    })
}

/// The daemon's own HTTP client, for the sink.
pub fn client(sink: &Sink) -> Client {
    let pusher = Pusher {
        url: sink.url().parse().expect("a URL"),
        app_id: APP_ID.to_owned(),
        key: KEY.to_owned(),
        secret: Secret::new(SECRET),
        sign_path: false,
        issuers: Vec::new(),
    };
    Client::new(&pusher, Duration::from_secs(10)).expect("a client")
}

async fn post_one(client: &Client, id: &str) {
    let event = Uuid::now_v7();
    let body = json!({ "name": "alert", "channels": [format!("bench.{id}")], "data": data(id, event) }).to_string();
    accepted(&client.post("events", body, event.as_bytes()).await);
}

/// Panics where the sink did not accept it.
pub fn accepted(answer: &Answer) {
    assert!(matches!(answer, Answer::Http { status: 200, .. }), "{answer:?}");
}

/// The same fields as in the events of items-listen, as the text that `data` is on the wire.
pub fn data(id: &str, event: Uuid) -> String {
    let message = format!("alerts {{\"id\":{id}}} at 1 of 1");
    let data = json!({
        "id": event, "alert": Uuid::now_v7(), "seq": 1, "watch": "alerts", "key": { "id": id }, "transition": "raised",
        "reason": "reading", "severity": "warning", "previous": "info", "count": 1, "threshold": 1, "percent": 100,
        "compare": ">=", "message": message, "row": null, "at": jiff::Timestamp::now().to_string(), "unread_count": 1,
    });
    data.to_string()
}

/// A sender that does not sign, or sends less, would have it easier.
pub fn inspect(sender: &str, taken: &Taken) {
    let (head, body) = taken.first.as_ref().expect("at least one request came");
    let uri = head.split(' ').nth(1).and_then(|uri| uri.parse().ok()).expect("a request line");
    assert!(is_signed(&axum::http::Method::POST, &uri, body.as_bytes(), 0), "{sender}: {head}");
    assert!(body.len() > 400, "{sender} sends less than the others: {body}");
}
