//! What `install` says while it waits for a table, and what is left when it is stopped.

use std::process::Stdio;

use crate::support::receiver::Receiver;
use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn install_says_who_is_in_the_way_and_may_be_stopped_at_any_time() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let long = database.session().await;
    let pid: i32 = long.query_one("SELECT pg_backend_pid()", &[]).await.expect("its pid").get(0);
    long.batch_execute("SET application_name = 'nightly report'").await.expect("sets");
    long.batch_execute("BEGIN").await.expect("begins");
    long.batch_execute("INSERT INTO orders (tenant_id) VALUES (1)").await.expect("a long transaction");
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    let said = daemon.file.with_extension("install");
    let mut command = daemon.command(&["install"]);
    command.stdout(Stdio::null()).stderr(std::fs::File::create(&said).expect("a file"));
    let mut install = command.spawn().expect("it starts");
    let line = support::eventually("it says who is in the way", async || {
        let text = std::fs::read_to_string(&said).unwrap_or_default();
        text.lines().find(|line| line.contains("waiting for a lock without queueing")).map(str::to_owned)
    })
    .await;
    for part in ["public", "orders", &format!("pid {pid}"), "nightly report", "idle in transaction", "s old"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    // What it runs is nobody's to read in a log, since there are values in it.
    assert!(!line.contains("INSERT INTO"), "{line}");
    // And each round again, on a line of its own.
    support::eventually("it tries again", async || {
        let text = std::fs::read_to_string(&said).unwrap_or_default();
        (text.contains("trying again") && text.contains(&format!("pid {pid}"))).then_some(())
    })
    .await;
    let interrupted = rustix::process::Pid::from_raw(i32::try_from(install.id()).expect("a pid")).expect("a pid");
    rustix::process::kill_process(interrupted, rustix::process::Signal::INT).expect("Ctrl-C");
    let status = tokio::task::spawn_blocking(move || install.wait()).await.expect("no panic").expect("it ends");
    assert!(!status.success());
    support::eventually("nothing waits, and nobody holds the install lock", async || {
        let left = "SELECT count(*) FROM pg_locks WHERE (NOT granted OR locktype = 'advisory') AND pid <> pg_backend_pid()
                    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        (database.one::<i64>(left).await == 0).then_some(())
    })
    .await;
    insert(&database, 1, 1).await;
    long.batch_execute("COMMIT").await.expect("ends");
    // What was begun is done whole the next time.
    let mut daemon = daemon;
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    daemon.start().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    let _removed = std::fs::remove_file(said);
}
