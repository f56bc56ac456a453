//! `FOR=forever`: the page of `examples/low-stock` beside the shop, with a real Sockudo, the daemon with that example's
//! own configuration, and items that are sold every second.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;

use crate::support::daemon::Daemon;
use crate::support::postgres::Server;

const SCHEMA: &str = include_str!("../low-stock/schema.sql");
const CONFIG: &str = include_str!("../low-stock/config.toml");
const ITEMS: &str = "
    INSERT INTO items (name, sku, quantity) VALUES
    ('Wood screws', 'SC-40', 74), ('Hex nuts', 'NU-08', 91), ('Washers', 'WA-10', 66), ('Wall plugs', 'PL-06', 83),
    ('Cup hooks', 'HO-02', 58), ('Hinges', 'HI-55', 97), ('Brackets', 'BR-12', 70), ('Nails', 'NA-65', 88)";
/// Two of these items are sold, or filled up when they are nearly out. Others, made by hand, are left alone.
const SELL: &str = "
    UPDATE items SET quantity = CASE WHEN quantity < 15 THEN 80 + floor(random() * 20) ELSE quantity - 4 - floor(random() * 9) END,
                     updated_at = now()
    WHERE id IN (SELECT id FROM items WHERE id <= 8 ORDER BY random() LIMIT 2)";
const BETWEEN_SALES: Duration = Duration::from_secs(1);

/// What the application's own back end would answer with: the inbox, from the view.
const NOTIFICATIONS: &str = "
    SELECT json_build_object(
        'unread_count', (SELECT count(*) FROM items_listen.alert WHERE watch = 'low-stock' AND read_at IS NULL),
        'notifications', (
            SELECT coalesce(json_agg(json_build_object(
                'id', a.id, 'message', a.message, 'created_at', a.raised_at, 'read_at', a.read_at,
                'item', json_build_object('id', i.id, 'name', i.name, 'sku', i.sku, 'quantity', a.count)) ORDER BY a.raised_at DESC), '[]')
            FROM (SELECT * FROM items_listen.alert WHERE watch = 'low-stock' ORDER BY raised_at DESC LIMIT 50) AS a
            JOIN items i ON i.id = (a.key ->> 'id')::bigint)
    )::text";
const MARK_READ: &str = "UPDATE items_listen.alert SET read_at = now() WHERE watch = 'low-stock' AND read_at IS NULL";

/// Everything that belongs to the page; it ends with it.
pub struct Page {
    pub url: String,
    pub database_url: String,
    _daemon: Daemon,
    _sockudo: Sockudo,
}

/// What the requests need.
struct Shared {
    session: tokio_postgres::Client,
    packages: PathBuf,
    sockudo_port: u16,
}

impl Page {
    pub async fn open(server: &Server, binary: PathBuf) -> Page {
        let packages = PathBuf::from(told("PACKAGES"));
        let database = server.database().await;
        database.sql(SCHEMA).await;
        database.sql(ITEMS).await;
        let sockudo = Sockudo::start().await;
        let mut daemon = Daemon::new(binary, CONFIG);
        for (name, value) in [
            ("DATABASE_URL", database.url()),
            ("BROADCAST_CONNECTION", "reverb".into()),
            ("REVERB_APP_ID", Sockudo::APP.into()),
            ("REVERB_APP_KEY", Sockudo::APP.into()),
            ("REVERB_APP_SECRET", Sockudo::APP.into()),
            ("REVERB_HOST", "127.0.0.1".into()),
            ("REVERB_PORT", sockudo.port.to_string()),
            ("REVERB_SCHEME", "http".into()),
        ] {
            daemon.env(name, &value);
        }
        daemon.start().await;
        let url = serve(Shared { session: database.session().await, packages, sockudo_port: sockudo.port }).await;
        tokio::spawn(sell(database.session().await));
        Page { url, database_url: database.url(), _daemon: daemon, _sockudo: sockudo }
    }
}

/// `make demo FOR=forever` says where things are.
fn told(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; start this with: make demo FOR=forever"))
}

async fn sell(session: tokio_postgres::Client) {
    loop {
        tokio::time::sleep(BETWEEN_SALES).await;
        if session.batch_execute(SELL).await.is_err() {
            return;
        }
    }
}

async fn serve(shared: Shared) -> String {
    let routes = Router::new()
        .route("/", get(async |state| file(state, Path("index.html".to_owned())).await))
        .route("/{name}", get(file))
        .route("/vendor/{name}", get(vendor))
        .route("/settings.json", get(settings))
        .route("/notifications", get(notifications))
        .route("/notifications/read", post(mark_read))
        .with_state(Arc::new(shared));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

type Given = State<Arc<Shared>>;

/// The page's own files, read anew each time: who edits them, reloads.
async fn file(State(shared): Given, Path(name): Path<String>) -> Response {
    let kind = match name.as_str() {
        "index.html" => "text/html; charset=utf-8",
        "page.css" => "text/css; charset=utf-8",
        "page.js" => "text/javascript; charset=utf-8",
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    // Nothing is fetched from anywhere else, and nothing runs that is not in these files.
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self' ws://127.0.0.1:{}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        shared.sockudo_port
    );
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/low-stock/page");
    answer_file(directory.join(name), kind, &policy)
}

/// What a bundler would put into the page.
async fn vendor(State(shared): Given, Path(name): Path<String>) -> Response {
    let path = match name.as_str() {
        "pusher.js" => "pusher-js/dist/web/pusher.min.js",
        "echo.js" => "laravel-echo/dist/echo.js",
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    answer_file(shared.packages.join(path), "text/javascript; charset=utf-8", "default-src 'none'")
}

fn answer_file(path: PathBuf, kind: &str, policy: &str) -> Response {
    match std::fs::read(&path) {
        Ok(bytes) => {
            let headers =
                [(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, policy), (header::CACHE_CONTROL, "no-store")];
            (headers, bytes).into_response()
        }
        Err(error) => (StatusCode::NOT_FOUND, format!("{}: {error}", path.display())).into_response(),
    }
}

async fn settings(State(shared): Given) -> Response {
    axum::Json(json!({ "key": Sockudo::APP, "host": "127.0.0.1", "port": shared.sockudo_port })).into_response()
}

async fn notifications(State(shared): Given) -> Response {
    match shared.session.query_one(NOTIFICATIONS, &[]).await {
        Ok(row) => ([(header::CONTENT_TYPE, "application/json")], row.get::<_, String>(0)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn mark_read(State(shared): Given) -> Response {
    match shared.session.execute(MARK_READ, &[]).await {
        Ok(_) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.expect("a free port").port()
}

/// A real Sockudo, on ports of its own.
struct Sockudo {
    port: u16,
    process: Child,
    directory: PathBuf,
}

impl Sockudo {
    /// The application's id, its key and its secret: all of it is on loopback, and gone at the end.
    const APP: &str = "demo";

    async fn start() -> Sockudo {
        let (port, metrics_port) = (free_port(), free_port());
        let directory = std::env::temp_dir().join(format!("items-listen-sockudo-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("a directory for Sockudo");
        let log = std::fs::File::create(directory.join("log")).expect("a log for Sockudo");
        let process = Command::new(told("SOCKUDO"))
            // It would read a configuration beside it, and variables of the same names.
            .current_dir(&directory)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &directory)
            .envs([("HOST", "127.0.0.1"), ("METRICS_HOST", "127.0.0.1"), ("RATE_LIMITER_ENABLED", "false")])
            .envs([("PORT", port.to_string()), ("METRICS_PORT", metrics_port.to_string())])
            .envs(["ID", "KEY", "SECRET"].map(|part| (format!("SOCKUDO_DEFAULT_APP_{part}"), Self::APP)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("one log for both"))
            .stderr(log)
            .spawn()
            .expect("Sockudo starts");
        let sockudo = Sockudo { port, process, directory };
        crate::support::eventually("Sockudo is up", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok())
            .await;
        sockudo
    }
}

impl Drop for Sockudo {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _ended = self.process.wait();
        let _removed = std::fs::remove_dir_all(&self.directory);
    }
}
