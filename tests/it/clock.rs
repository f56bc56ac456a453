//! The host's clock jumps: time is the database's, pauses are the kernel's, and only signatures need the clock, which an
//! endpoint's answers correct.

use std::path::PathBuf;

use crate::answers::{QUICK, Raw, config_for, text};
use crate::support::receiver::Receiver;
use crate::*;

/// The library that gives a process another clock. `scripts/faketime` finds or fetches it.
fn library() -> PathBuf {
    if let Some(named) = std::env::var_os("LIBFAKETIME") {
        return PathBuf::from(named);
    }
    let home = std::env::var("HOME").unwrap_or_default();
    let cache = std::env::var("XDG_CACHE_HOME").unwrap_or(format!("{home}/.cache"));
    let roots = ["/usr/lib".to_owned(), format!("{cache}/items-listen/faketime/root/usr/lib")];
    let below = roots.iter().flat_map(|root| std::fs::read_dir(root).into_iter().flatten().flatten());
    let found = below.map(|entry| entry.path().join("faketime/libfaketime.so.1")).find(|library| library.exists());
    found.expect("no libfaketime: run `make test`, or set LIBFAKETIME to what scripts/faketime prints")
}

/// A host whose clock is wrong by as much as is said, from the next look at it on.
struct Clock {
    file: PathBuf,
}

impl Clock {
    fn of(daemon: &mut Daemon) -> Clock {
        let clock = Clock { file: daemon.file.with_extension("clock") };
        clock.is_off("+0");
        daemon.env("LD_PRELOAD", &library().display().to_string());
        daemon.env("FAKETIME_TIMESTAMP_FILE", &clock.file.display().to_string());
        daemon.env("FAKETIME_NO_CACHE", "1");
        // As on a real host: only the wall clock jumps.
        daemon.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        clock
    }

    fn is_off(&self, by: &str) {
        // By a rename, so that nobody reads half of it.
        let next = self.file.with_extension("next");
        std::fs::write(&next, by).and_then(|()| std::fs::rename(&next, &self.file)).expect("the clock is set");
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let _removed = std::fs::remove_file(&self.file);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_arrive_though_the_hosts_clock_jumps_by_hours_and_the_endpoint_minds() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    let clock = Clock::of(&mut daemon);
    daemon.start().await;
    insert(&database, 0, 20).await;
    receiver.wait_for(1).await;
    for (tenant, by) in [(1, "+5h"), (2, "-5h"), (3, "+0"), (4, "-5h")] {
        // Nothing is under way: an answer that comes after the jump would tell of it before anybody minds.
        faults::all_arrived_once(&database, &receiver).await;
        let (refused, events) = (receiver.refused_signatures(), receiver.accepted().len());
        clock.is_off(by);
        insert(&database, tenant, 20).await;
        receiver.wait(&format!("the clock is off by {by}"), |accepted| accepted.len() > events).await;
        assert!(receiver.refused_signatures() > refused, "{by}: the endpoint minds what was right before");
        let refused = receiver.refused_signatures();
        insert(&database, tenant, 4).await;
        receiver.wait(&format!("a second one, {by}"), |accepted| accepted.len() > events + 1).await;
        assert_eq!(receiver.refused_signatures(), refused, "{by}: the next is signed by the endpoint's clock");
        // Wrong, wrong in another way, right, and wrong again.
        let said = daemon.lines("the clock of this host differs");
        let (least, most) = [(1, 1), (1, 2), (1, 2), (2, 3)][usize::try_from(tenant).expect("small") - 1];
        assert!((least..=most).contains(&said), "{by}: named {said} times: {:?}", daemon.log());
    }
    exact(&database, "orders", TRUE_ORDERS).await;
    faults::all_arrived_once(&database, &receiver).await;
    support::eventually("all is well", async || (daemon.run(&["status"]).await.0 == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_starts_with_a_wrong_clock_sends_all_the_same() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    let clock = Clock::of(&mut daemon);
    clock.is_off("-5h");
    daemon.start().await;
    database.sql("INSERT INTO orders (tenant_id) SELECT t FROM generate_series(1, 40) t, generate_series(1, 20)").await;
    receiver.wait_for(40).await;
    daemon.logged("clock").await;
    exact(&database, "orders", TRUE_ORDERS).await;
    faults::all_arrived_once(&database, &receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jump_ends_no_hold_no_back_off_and_no_lease() {
    let database = shop().await;
    let busy = vec![text("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")];
    // It does not mind when it is; it only fails in between.
    let server = Raw::start([vec![busy; 6], Vec::new()].concat()).await;
    let held = ORDERS.replace("threshold = 20", "threshold = 20\nhold = \"4s\"");
    let later = held.replace("\"orders\"", "\"later\"").replace("hold = \"4s\"", "hold = \"1h\"").replace("orders.many", "later");
    let mut daemon = daemon(&config_for(&database, &server.endpoint("main", QUICK), &format!("{held}{later}")));
    let clock = Clock::of(&mut daemon);
    daemon.start().await;
    insert(&database, 1, 20).await;
    for by in ["+5h", "-5h", "+300d", "+0"] {
        clock.is_off(by);
        // It looks at its clock, folds, and beats meanwhile.
        insert(&database, 2, 1).await;
        exact(&database, "orders", TRUE_ORDERS).await;
    }
    let early: i64 = database
        .one("SELECT count(*) FROM items_listen.event WHERE watch = 'later' OR at < (SELECT min(installed_at) FROM items_listen.watch) + interval '4 s'")
        .await;
    assert_eq!(early, 0, "a hold is the database's time");
    support::eventually("it is raised when its hold is over", async || {
        (database.one::<i64>("SELECT count(*) FROM items_listen.event WHERE watch = 'orders'").await == 1).then_some(())
    })
    .await;
    for by in ["-5h", "+5h"] {
        clock.is_off(by);
    }
    support::eventually("it is delivered", async || {
        (database.one::<i64>("SELECT count(*) FROM items_listen.delivery WHERE state = 'delivered'").await == 1).then_some(())
    })
    .await;
    let came = server.came();
    assert!(came.len() == 7 && came.iter().all(|one| *one == came[0]), "{came:?}");
    assert_eq!(database.one::<i64>("SELECT count(*) FROM items_listen.event WHERE watch = 'later'").await, 0);
    assert_eq!(daemon.lines("no database session"), 0, "no session is lost by it");
}
