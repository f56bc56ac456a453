//! `make demo`: the main job on a throw-away PostgreSQL, in about half a minute.
//!
//! A small shop whose tenants' open orders and stock move; a receiver that checks every signature for itself; and
//! the real daemon as a process. Half-way the endpoint goes away for some seconds, and the daemon is killed and
//! started again. At the end every crossing that was committed must have arrived, in order.
//!
//! `FOR=forever`: the shop stays open, and there is a page for a browser as well, see `page.rs`.

#![allow(unreachable_pub, reason = "support is shared with the tests by path")]
#![allow(clippy::print_stdout, reason = "it is a show")]
#![allow(clippy::disallowed_methods, reason = "latency is measured by the wall clock that the database shares")]

#[path = "../../tests/support/mod.rs"]
#[allow(dead_code, reason = "each user needs another part")]
mod support;

mod ledger;
mod page;
mod screen;
mod shop;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::daemon::Daemon;
use support::postgres::Server;
use support::receiver::Receiver;

use ledger::Ledger;
use page::Page;
use screen::Screen;

/// How long the shop is open, unless `FOR=forever`.
const OPEN_FOR: Duration = Duration::from_secs(24);
/// Between two changes in the shop.
const BETWEEN_CHANGES: Duration = Duration::from_millis(350);
/// How often the page's address is said again, since the shop's alerts push it off the screen.
const BETWEEN_HINTS: Duration = Duration::from_secs(20);
/// How long the endpoint is away.
const ENDPOINT_AWAY: Duration = Duration::from_secs(3);
/// After the last change, everything must have arrived within this.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

const CONFIG: &str = r#"
[[watch]]
name = "orders"
table = "public.orders"
key = ["tenant_id"]
where = "status = 'open'"
threshold = 20
message = "tenant {{ key.tenant_id }} has {{ count }} open orders ({{ percent }} % of {{ threshold }})"
[[watch.publish]]
channels = ["private-tenant.{{ key.tenant_id }}.orders"]
event = "orders.many"

[[watch]]
name = "stock"
table = "public.pallets"
key = ["tenant_id", "item"]
compare = "<"
threshold = 10
message = "{{ key.item }} of tenant {{ key.tenant_id }}: {{ count }} left"
[[watch.publish]]
channels = ["private-tenant.{{ key.tenant_id }}.stock-alerts"]
event = "stock.low"
"#;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let forever = std::env::var("FOR").is_ok_and(|word| word == "forever");
    tokio::select! {
        code = demo(forever) => code,
        // The reaper ends the database server; Drop ends the daemons and Sockudo, each by its id.
        code = interrupted() => {
            eprintln!("\ninterrupted: everything is being cleaned up");
            ExitCode::from(code)
        }
    }
}

/// Ctrl-C, or SIGTERM: what a shell says of such an end.
async fn interrupted() -> u8 {
    let mut terminate =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signals can be waited for");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => 130,
        _ = terminate.recv() => 143,
    }
}

async fn demo(forever: bool) -> ExitCode {
    let screen = Arc::new(Screen::new());
    screen.say("starting a throw-away PostgreSQL …");
    let server = Server::start(&["fsync = on"]);
    let database = server.database().await;
    database.sql(shop::SCHEMA).await;
    let ledger = Arc::new(Ledger::new(&database).await);
    let receiver = Receiver::start().await;
    let url = format!("[database]\nurl = \"{}\"\n", database.url());
    let retry = "retry = { initial = \"100ms\", max = \"1s\" }\n";
    let mut daemon = Daemon::new(binary(), &format!("{url}{}{retry}{CONFIG}", receiver.endpoint("main")));
    screen.say("starting items-listen …");
    daemon.start().await;
    let page = if forever { Some(Page::open(&server, binary()).await) } else { None };
    screen.say("ready: it watches open orders per tenant (20 are many) and pallets per item (under 10 is low)\n");
    if let Some(page) = &page {
        screen.say(&format!("A page for a browser, of examples/low-stock: {}", page.url));
        screen.say(&format!("Its rows, to be moved by hand: {}\nCtrl-C ends everything.\n", page.database_url));
    }
    screen.heading();

    let showing = tokio::spawn(show(Arc::clone(&screen), Arc::clone(&ledger), receiver.clone()));
    let opened = Instant::now();
    let mut shop = shop::Shop::new(&database).await;
    let (mut away, mut killed) = (None, false);
    let mut hinted = opened;
    while forever || opened.elapsed() < OPEN_FOR {
        if let Some(page) = page.as_ref().filter(|_| hinted.elapsed() > BETWEEN_HINTS) {
            screen.event(&format!("the page: {}", page.url));
            hinted = Instant::now();
        }
        shop.change().await;
        tokio::time::sleep(BETWEEN_CHANGES).await;
        let half = opened.elapsed() > OPEN_FOR / 2;
        if half && away.is_none() {
            screen.event("the endpoint goes away (it answers 503)");
            receiver.status(503);
            away = Some(Instant::now());
        }
        if away.is_some_and(|since: Instant| since.elapsed() > ENDPOINT_AWAY / 2) && !killed {
            screen.event("the daemon is killed (kill -9) while the endpoint is away; the shop goes on");
            daemon.kill();
            killed = true;
            for _ in 0..4 {
                shop.change().await;
                tokio::time::sleep(BETWEEN_CHANGES).await;
            }
            screen.event("the daemon is started again");
            daemon.start().await;
        }
        if away.is_some_and(|since| since.elapsed() > ENDPOINT_AWAY) && killed {
            if let Some(since) = away.replace(opened + Duration::from_secs(86_400)) {
                screen.event(&format!("the endpoint is back after {:.1} s", since.elapsed().as_secs_f64()));
            }
            receiver.status(200);
        }
    }
    screen.event("the shop closes");
    shop.close().await;
    let verdict = settle(&ledger, &receiver).await;
    showing.abort();
    screen.summary(&ledger, &receiver, &verdict).await;
    drop(daemon);
    match verdict {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The daemon's binary is built beside this example.
fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("this program has a path");
    own.ancestors().nth(2).expect("target/PROFILE/examples").join("items-listen")
}

/// Prints each alert as it arrives.
async fn show(screen: Arc<Screen>, ledger: Arc<Ledger>, receiver: Receiver) {
    let mut shown = 0;
    loop {
        let events = receiver.wait_for_more(shown).await;
        for event in &events[shown..] {
            screen.alert(event, ledger.latency(event).await);
        }
        shown = events.len();
    }
}

/// Waits until the outbox is empty, and compares what arrived with what was committed.
async fn settle(ledger: &Ledger, receiver: &Receiver) -> Result<(), String> {
    let deadline = Instant::now() + SETTLED_WITHIN;
    loop {
        let verdict = ledger.compare(&receiver.accepted()).await;
        if verdict.is_ok() || Instant::now() > deadline {
            return verdict;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
