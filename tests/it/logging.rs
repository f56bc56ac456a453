//! What is logged, in which form.

use std::os::unix::fs::MetadataExt as _;

use crate::support::daemon::Daemon;
use crate::support::receiver::Receiver;
use crate::*;

fn raw(daemon: &Daemon) -> Vec<String> {
    let text = std::fs::read_to_string(daemon.file.with_extension("log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_has_a_line_with_the_fields_that_it_has_everywhere() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    insert(&database, 7, 25).await;
    let events = receiver.wait_for(1).await;
    let line = daemon.logged("alert raised").await;
    assert_eq!(line["alert_id"], events[0].text("alert"));
    let of = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        (of("watch"), of("key"), of("severity"), of("previous")),
        ("orders".into(), "[7]".into(), "high".into(), "info".into())
    );
    assert_eq!((line["count"].as_i64(), line["threshold"].as_i64()), (Some(25), Some(20)));
    // A flood has some lines, and the number of the others.
    database.sql("INSERT INTO orders (tenant_id) SELECT t FROM generate_series(100, 399) t, generate_series(1, 20)").await;
    receiver.wait_for(301).await;
    assert!(daemon.lines("alert raised") < 150, "{}", daemon.lines("alert raised"));
    let mut tenant = 1_000;
    support::eventually("the rest is summed up with what comes next", async || {
        tenant += 1;
        insert(&database, tenant, 20).await;
        (daemon.lines("more alerts changed") >= 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn journald_gets_priorities_and_nobody_else() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    for journal in [true, false] {
        let mut daemon = daemon(&config(&database, &receiver, ORDERS));
        let log = std::fs::File::create(daemon.file.with_extension("log")).expect("made");
        let is = log.metadata().expect("it is there");
        // The variable is inherited by whatever is started; it counts only where stderr is what it names.
        let inode = if journal { is.ino() } else { is.ino() + 1 };
        daemon.env("JOURNAL_STREAM", &format!("{}:{inode}", is.dev()));
        daemon.spawn();
        support::eventually("it is ready", async || {
            raw(&daemon).iter().any(|line| line.contains("\"msg\":\"ready\"")).then_some(())
        })
        .await;
        daemon.configure("what is this?");
        daemon.signal("HUP");
        support::eventually("it complains", async || raw(&daemon).iter().any(|line| line.contains("not reloaded")).then_some(()))
            .await;
        for line in raw(&daemon) {
            let level = if line.contains("\"level\":\"error\"") { "<3>{" } else { "<6>{" };
            assert!(if journal { line.starts_with(level) } else { line.starts_with('{') }, "{line}");
        }
    }
}

/// Runs a command of a shell in the daemon's environment, and gives what it says.
async fn shell(daemon: &Daemon, command: &str) -> String {
    let mut process = std::process::Command::new("sh");
    for (name, value) in daemon.command(&[]).get_envs() {
        match value {
            Some(value) => process.env(name, value),
            None => process.env_remove(name),
        };
    }
    process.args(["-c", command]).stdin(std::process::Stdio::null());
    let output = tokio::task::spawn_blocking(move || process.output()).await.expect("no panic").expect("it runs");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_reads_lines_and_a_program_json_whatever_stderr_is() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    // What it logs on its way is the same each time.
    let program = format!("{} --config {}", daemon.binary.display(), daemon.file.display());
    let install = format!("{program} uninstall; {program} install");
    let human = " info  definition installed  watch=orders  generation=1";
    // In a pipe, …
    let said = shell(&daemon, &install).await;
    assert!(said.contains("\"msg\":\"definition installed\",\"watch\":\"orders\""), "{said}");
    let said = shell(&daemon, &format!("{program} uninstall; {program} --log-format human install")).await;
    assert!(said.contains(human) && !said.contains('\u{1b}'), "{said}");
    // … and on a terminal, which script makes.
    let terminal = |lines: &str| format!("script -qec '{lines}' /dev/null");
    let said = shell(&daemon, &terminal(&install)).await;
    assert!(said.contains("\u{1b}[32minfo \u{1b}[0m definition installed  watch=orders"), "{said}");
    let said = shell(&daemon, &terminal(&format!("{program} uninstall; {program} --log-format json install"))).await;
    assert!(said.contains("\"msg\":\"definition installed\""), "{said}");
    let said = shell(&daemon, &format!("NO_COLOR=1 {}", terminal(&install))).await;
    assert!(said.contains(human) && !said.contains('\u{1b}'), "{said}");
}
