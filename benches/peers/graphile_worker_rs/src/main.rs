//! graphile_worker_rs with its local queue, the quickest peer that is known: each alert is a job of its own, sent with the
//! HTTP client of items-listen, and signed by its very code.
//!
//! Its guide recommends a local queue for many small jobs, and 1 to 5 ms for putting completions together. For throughput its
//! own benchmark has 500 jobs at once, 5 ms and a local queue of 5,000: so here. No refetch delay: that trades latency for
//! fewer queries.

#[path = "../../../../src/pusher/sign.rs"]
mod sign;

use std::sync::OnceLock;
use std::time::Duration;

use graphile_worker::{IntoTaskHandlerResult, LocalQueueConfig, TaskHandler, WorkerContext, WorkerOptions};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

/// As many requests at once as the daemon of items-listen has by default.
const IN_FLIGHT: usize = 8;

static ENDPOINT: OnceLock<Endpoint> = OnceLock::new();

struct Endpoint {
    http: reqwest::Client,
    url: String,
    app_id: String,
    key: String,
    secret: String,
}

impl Endpoint {
    fn new() -> Endpoint {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().expect("a client");
        let [url, app_id, key, secret] = ["ENDPOINT", "APP_ID", "APP_KEY", "APP_SECRET"].map(variable);
        Endpoint { http, url, app_id, key, secret }
    }

    async fn post(&self, body: String, event: Uuid) -> Result<(), String> {
        let path = format!("/apps/{}/events", self.app_id);
        let now = jiff::Timestamp::now().as_second();
        let query = sign::signed_query("POST", &path, &self.key, &self.secret, &[], body.as_bytes(), now);
        let request = self.http.post(format!("{}{path}?{query}", self.url)).header("content-type", "application/json");
        let request = request.header("X-Idempotency-Key", sign::idempotency_key(body.as_bytes(), event.as_bytes()));
        let response = request.body(body).send().await.and_then(reqwest::Response::error_for_status);
        let answer = response.map_err(|error| error.to_string())?.bytes().await;
        answer.map(drop).map_err(|error| error.to_string())
    }
}

#[derive(Deserialize, Serialize)]
struct Alert {
    id: i64,
    tenant_id: i32,
}

impl TaskHandler for Alert {
    const IDENTIFIER: &'static str = "alert";

    async fn run(self, _context: WorkerContext) -> impl IntoTaskHandlerResult {
        let event = Uuid::now_v7();
        ENDPOINT.get().expect("the endpoint is made first").post(body(&self, event), event).await
    }
}

/// The same fields as in the events of items-listen.
fn body(alert: &Alert, event: Uuid) -> String {
    let data = json!({
        "id": event, "alert": Uuid::now_v7(), "seq": alert.id, "watch": "alerts", "key": { "id": alert.id },
        "transition": "raised", "reason": "reading", "severity": "warning", "previous": "info", "count": 1, "threshold": 1,
        "percent": 100, "compare": ">=", "message": format!("alerts {{\"id\":{}}} at 1 of 1", alert.id), "row": null,
        "at": jiff::Timestamp::now().to_string(), "unread_count": 1,
    });
    json!({ "name": "alert", "channels": [format!("bench.{}", alert.id)], "data": data.to_string() }).to_string()
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

#[tokio::main]
async fn main() {
    ENDPOINT.set(Endpoint::new()).ok().expect("only once");
    let throughput = std::env::args().nth(1).as_deref() == Some("deliveries");
    let worker = WorkerOptions::default()
        .database_url(&variable("DATABASE_URL"))
        .max_pg_conn(20)
        .concurrency(if throughput { 500 } else { IN_FLIGHT })
        .local_queue(LocalQueueConfig::default().with_size(if throughput { 5_000 } else { 500 }))
        .complete_job_batch_delay(Duration::from_millis(if throughput { 5 } else { 1 }))
        .define_job::<Alert>()
        .init()
        .await
        .expect("the worker is made");
    println!("ready");
    worker.run().await.expect("the worker runs");
}
