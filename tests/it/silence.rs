//! Sessions whose statements may take as long as they like, and whose connection is lost in silence: TCP thinks well of it, and
//! no answer ever comes.

use std::process::Stdio;

use crate::support::proxy::Proxy;
use crate::support::receiver::Receiver;
use crate::*;

/// Whoever calls it waits until the gate, an advisory lock, is open. (It is no lock that `lock_timeout` is about.)
const GATE: &str = "
    CREATE FUNCTION public.gate() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN
        WHILE NOT pg_catalog.pg_try_advisory_xact_lock_shared(4242) LOOP PERFORM pg_catalog.pg_sleep(0.01); END LOOP;
        RETURN true;
    END $$;";

/// A command through the proxy that waits at the gate, until its connections are lost and the gate is open; and its exit code,
/// which it gives by itself.
async fn is_cut_off(database: &Database, proxy: &Proxy, daemon: &Daemon, command: &str) -> Option<i32> {
    let keeper = database.session().await;
    keeper.batch_execute("SELECT pg_advisory_lock(4242)").await.expect("nobody else has it");
    let mut running = daemon.command(&[command]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep')";
    support::eventually("it waits at the gate", async || database.one::<bool>(waits).await.then_some(())).await;
    proxy.strand();
    keeper.batch_execute("SELECT pg_advisory_unlock(4242)").await.expect("it has it");
    let code = support::eventually("it notices", async || running.try_wait().expect("it is asked")).await.code();
    proxy.pass();
    code
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recount_whose_answer_is_lost_is_noticed() {
    let (database, receiver, proxy) = (shop().await, Receiver::start().await, Proxy::start(shared_port()).await);
    database.sql(GATE).await;
    insert(&database, 1, 1).await;
    let config = config(&database, &receiver, &ORDERS.replace("status = 'open'", "public.gate()"));
    let through = config.replace(&format!(":{}/", database.port), &format!(":{}/", proxy.port));
    let daemon = daemon(&through);
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    assert_eq!(is_cut_off(&database, &proxy, &daemon, "recount").await, Some(69));
    // Nothing of it holds the next one up.
    assert_eq!(daemon.run(&["recount"]).await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_whose_answer_is_lost_is_noticed() {
    let (database, receiver, proxy) = (shop().await, Receiver::start().await, Proxy::start(shared_port()).await);
    database
        .sql(&format!(
            "{GATE}
             CREATE FUNCTION public.at_gate() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM public.gate(); END $$;
             CREATE EVENT TRIGGER gate ON ddl_command_start WHEN TAG IN ('CREATE SCHEMA') EXECUTE FUNCTION public.at_gate()"
        ))
        .await;
    let config = config(&database, &receiver, ORDERS);
    let through = config.replace(&format!(":{}/", database.port), &format!(":{}/", proxy.port));
    let daemon = daemon(&through);
    assert_eq!(is_cut_off(&database, &proxy, &daemon, "install").await, Some(69));
    // Not even the lock of installers.
    assert_eq!(daemon.run(&["install"]).await.0, 0);
}

fn shared_port() -> u16 {
    support::postgres::shared().port
}
