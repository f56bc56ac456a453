//! `status` in a terminal and off one: what it shows, in which colours, how wide, and that following survives everything.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::support::proxy::{Mode, Proxy};
use crate::support::receiver::Receiver;
use crate::*;

/// A watch of the level of each row, whose names come from people.
const LOW: &str = "[[watch]]\nname = \"low\"\ntable = \"public.items\"\nvalue = \"quantity\"\nkey = [\"name\"]\nthreshold = 50\n\
                   compare = \"<=\"\n[[watch.publish]]\nchannels = [\"a\"]\nevent = \"e\"\n";

/// A process in a pseudo-terminal of so many columns; what it writes is collected.
struct InTerminal {
    child: Child,
    written: Arc<Mutex<Vec<u8>>>,
}

impl InTerminal {
    fn start(daemon: &Daemon, arguments: &str, columns: u32, environment: &[(&str, &str)]) -> InTerminal {
        let line = format!(
            "stty cols {columns} rows 40 && exec '{}' --config '{}' {arguments}",
            daemon.binary.display(),
            daemon.file.display()
        );
        let mut command = Command::new("script");
        command.args(["-qefc", &line, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR").env_remove("CLICOLOR");
        command.envs(environment.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("script (util-linux) starts");
        let written: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (mut from, to) = (child.stdout.take().expect("piped"), Arc::clone(&written));
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(read @ 1..) = from.read(&mut some) {
                to.lock().expect("no panic").extend_from_slice(&some[..read]);
            }
        });
        InTerminal { child, written }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().expect("no panic")).into_owned()
    }

    async fn shows(&self, what: &str) {
        let seen = || self.text();
        support::eventually(&format!("the terminal shows {what}"), async || seen().contains(what).then_some(())).await;
    }

    fn type_in(&mut self, keys: &str) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        stdin.write_all(keys.as_bytes()).and_then(|()| stdin.flush()).expect("typed");
    }

    async fn end(mut self) -> (i32, String) {
        let child = &mut self.child;
        let status = support::eventually("it ends", async || child.try_wait().expect("asks")).await;
        // The last of what was written comes after its end.
        let mut before = String::new();
        let text = support::eventually("all was read", async || {
            let now = self.text();
            let same = now == before && !now.is_empty();
            before.clone_from(&now);
            same.then_some(now)
        })
        .await;
        (status.code().unwrap_or(-1), text)
    }
}

impl Drop for InTerminal {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn without_escapes(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c == '\u{1b}' {
            let _sequence = rest.by_ref().find(|c| c.is_ascii_alphabetic());
        } else {
            plain.push(c);
        }
    }
    plain
}

/// Two watches with open alerts, one of them with hostile names, and an endpoint that refuses.
async fn shop_with_alerts() -> (Database, Receiver, Daemon) {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE items (name text PRIMARY KEY, quantity int)").await;
    let mut daemon = daemon(&config(&database, &receiver, &format!("{ORDERS}{LOW}")));
    daemon.start().await;
    insert(&database, 7, 31).await;
    insert(&database, 8, 21).await;
    database.sql("INSERT INTO items VALUES (E'\\x1b[2Jboom\\u202eterces', 3), ('fine', 500)").await;
    receiver.wait_for(3).await;
    (database, receiver, daemon)
}

#[tokio::test(flavor = "multi_thread")]
async fn off_a_terminal_it_is_plain_and_says_what_matters() {
    let (database, receiver, mut daemon) = shop_with_alerts().await;
    let (code, out, err) = daemon.run(&["status"]).await;
    assert_eq!(code, 0, "{out}{err}");
    assert!(!out.contains('\u{1b}') && !out.contains('█') && !out.contains('\u{202e}'), "{out:?}");
    for expected in [
        "ready: ",
        &format!("pid {}, version {}", daemon.pid(), env!("CARGO_PKG_VERSION")),
        "2 keys  1 warning  0 high  1 critical",
        "tenant_id=7  31 of 20    155 %  critical",
        "tenant_id=8  21 of 20    105 %  warning",
        "3 of 50      6 %  critical",
        "boom",
        "endpoint  main  ok   0 pending",
    ] {
        assert!(out.contains(expected), "{expected}: {out}");
    }
    assert!(!out.contains("fine"), "what is well is not shown beside what is not: {out}");
    // The contract: the names, and nothing else.
    let (_, out, _) = daemon.run(&["status", "--json"]).await;
    let status: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let names = |value: &serde_json::Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>().join(",");
    assert_eq!(names(&status), "version,ready,instances,watches,endpoints,database");
    assert_eq!(names(&status["instances"][0]), "host,pid,version,config_hash,beat_at");
    assert_eq!(names(&status["watches"][0]), "name,source,keys,open,last_transition_at,error");
    assert_eq!(names(&status["watches"][0]["open"]), "warning,high,critical");
    assert_eq!(
        names(&status["endpoints"][0]),
        "name,state,reason,until,pending,oldest_pending_at,dead,last_success_at,last_error"
    );
    assert_eq!(names(&status["database"]), "listen_heartbeat_at,doorbell,journal_rows");

    // What is wrong, and until when.
    receiver.answer(|_| (401, "who are you".into()));
    insert(&database, 9, 20).await;
    let out = support::eventually("it is paused", async || {
        let (code, out, _) = daemon.run(&["status"]).await;
        (code == 1 && out.contains("paused (auth) until in ") && out.contains("1 pending, oldest ")).then_some(out)
    })
    .await;
    assert!(out.contains("\n          who are you"), "the last error: {out}");
    database.sql("UPDATE items_listen.watch SET error = E'it\\x07 broke' WHERE name = 'low'").await;
    let (code, out, _) = daemon.run(&["status"]).await;
    assert!(code == 1 && out.contains("degraded: it\\u{7} broke"), "{out}");
    daemon.kill();
    database.sql("UPDATE items_listen.instance SET beat_at = beat_at - interval '1 minute'").await;
    let (code, out, _) = daemon.run(&["status"]).await;
    assert!(code == 1 && out.starts_with("no live daemon"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_terminal_it_has_colours_bars_and_its_width() {
    let (_database, _receiver, daemon) = shop_with_alerts().await;
    let (code, text) = InTerminal::start(&daemon, "status", 120, &[]).end().await;
    assert_eq!(code, 0, "{text}");
    // Critical is red and bold, a warning yellow; a bar has four bands.
    for expected in ["\u{1b}[31m", "\u{1b}[33m", "\u{1b}[35m", "\u{1b}[32m", "█", "░"] {
        assert!(text.contains(expected), "{expected:?}: {text:?}");
    }
    assert!(!text.contains("\u{1b}[2J") && !text.contains('\u{202e}'), "a name steers the terminal: {text:?}");

    let (_, narrow) = InTerminal::start(&daemon, "status", 40, &[]).end().await;
    let lines: Vec<String> = without_escapes(&narrow).lines().map(str::to_owned).collect();
    assert!(lines.iter().all(|line| line.trim_end_matches('\r').chars().count() <= 40), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains('…')), "{lines:#?}");

    let (_, plain) = InTerminal::start(&daemon, "status", 120, &[("NO_COLOR", "1")]).end().await;
    assert!(!plain.contains('\u{1b}') && plain.contains('█'), "{plain:?}");
    let (_, text) = InTerminal::start(&daemon, "check", 120, &[]).end().await;
    assert!(text.contains("\u{1b}[32mok     \u{1b}[0m"), "{text:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn following_in_a_terminal_survives_the_database_and_ends_with_control_c() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let proxy = Proxy::start(database.port).await;
    let mut direct = daemon(&config(&database, &receiver, ORDERS));
    direct.start().await;
    let through = config(&database, &receiver, ORDERS).replace(&format!(":{}/", database.port), &format!(":{}/", proxy.port));
    let follower = daemon(&through);
    let mut terminal = InTerminal::start(&follower, "status --follow", 100, &[]);
    terminal.shows("ready").await;
    assert!(terminal.text().contains("\u{1b}[?1049h"), "a screen of its own: {:?}", terminal.text());
    insert(&database, 1, 40).await;
    terminal.shows("40 of 20").await;
    proxy.mode(Mode::Refuse);
    proxy.cut();
    terminal.shows("no answer from the database").await;
    proxy.pass();
    insert(&database, 1, 1).await;
    terminal.shows("41 of 20").await;
    terminal.type_in("\u{3}");
    let (code, text) = terminal.end().await;
    assert_eq!(code, 0, "{text:?}");
    assert!(text.trim_end().ends_with("\u{1b}[?1049l"), "the terminal is as it was: {text:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn following_into_a_file_says_a_change_once_and_json_a_line_each_second() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let file = daemon.file.with_extension("followed");
    let follow = |arguments: &[&str]| {
        let out = std::fs::File::create(&file).expect("a file");
        daemon.command(arguments).stdout(out).stderr(Stdio::null()).spawn().expect("starts")
    };
    let text = || std::fs::read_to_string(&file).unwrap_or_default();
    let interrupt = |mut child: Child| {
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().is_ok_and(|status| status.success()));
        assert_eq!(child.wait().expect("ends").code(), Some(0));
    };
    let child = follow(&["status", "--follow", "--json"]);
    support::eventually("three lines", async || (text().lines().count() >= 3).then_some(())).await;
    interrupt(child);
    for line in text().lines() {
        let status: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(status["ready"], true);
    }
    let child = follow(&["status", "--follow"]);
    support::eventually("the first block", async || text().contains("0 critical").then_some(())).await;
    // So often it has looked since, and said nothing.
    let beats = "SELECT extract(epoch FROM max(beat_at))::bigint FROM items_listen.instance";
    let began: i64 = database.one(beats).await;
    while database.one::<i64>(beats).await < began + 6 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let before = text().matches("watch     orders").count();
    insert(&database, 1, 40).await;
    support::eventually("the change", async || text().contains("40 of 20").then_some(())).await;
    interrupt(child);
    // What is being started may change for a moment; what rests does not.
    assert!(before <= 2 && !text().contains('\u{1b}'), "{before}: {}", text());
    let _removed = std::fs::remove_file(&file);
}
