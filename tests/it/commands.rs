//! The commands: what they print, and the exit codes that scripts rely on.

use std::process::Command;

use crate::support::receiver::Receiver;
use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn trigger_classifies_sends_and_ends_in_a_verdict() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    let (code, out, err) = daemon.run(&["--trigger", "25", "--key", "tenant_id=7"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("high (125 %) → main, private-tenant.7.orders, 200 in "), "{out}");
    assert!(out.contains("Echo.private('tenant.7.orders').listen('.orders.many'"), "{out}");
    assert!(out.contains("nobody is subscribed"), "{out}");
    let event = receiver.wait_for(1).await.remove(0);
    assert_eq!((event.text("transition"), event.number("count"), event.text("severity")), ("manual".into(), 25, "high".into()));

    let (code, out, _) = daemon.run(&["--trigger", "31", "--key", "tenant_id=7", "--json"]).await;
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(code, 0);
    assert_eq!(report["severity"], "critical");
    assert_eq!((report["percent"].as_i64(), report["threshold"].as_i64()), (Some(155), Some(20)));
    assert_eq!(report["deliveries"][0]["state"], "delivered");
    assert_eq!(report["deliveries"][0]["status"], 200);

    let (code, out, _) = daemon.run(&["--trigger", "3", "--key", "tenant_id=7"]).await;
    assert_eq!((code, out.trim()), (0, "info (15 %): below min_severity, nothing sent"));
    let (code, out, _) = daemon.run(&["--trigger", "25", "--key", "tenant_id=7", "--dry-run"]).await;
    assert!(code == 0 && out.contains("dry run"), "{out}");
    assert_eq!(receiver.all().len(), 2);
    assert_eq!(database.one::<i64>("SELECT count(*) FROM items_listen.count").await, 0, "count and state are left alone");

    for (arguments, expected) in [
        (&["--trigger", "25"][..], "--key tenant_id"),
        (&["--trigger", "25", "--key", "nobody=1"], "nobody"),
        (&["--trigger", "25", "--key", "tenant_id=7", "--watch", "none"], "there are orders"),
    ] {
        let (code, _, err) = daemon.run(arguments).await;
        assert!(code == 2 && err.contains(expected), "{code} {err}");
    }
    assert_eq!(daemon.run(&["--trigger", "many"]).await.0, 2);
    assert_eq!(daemon.run(&["--trigger", "1", "status"]).await.0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn trigger_says_dead_refused_late_and_unreachable_by_its_exit_code() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    receiver.answer(|_| (422, "no".into()));
    let (code, out, _) = daemon.run(&["--trigger", "25", "--key", "tenant_id=1"]).await;
    assert!(code == 1 && out.contains("dead, rejected"), "{code} {out}");
    receiver.status(401);
    let (code, out, _) = daemon.run(&["--trigger", "25", "--key", "tenant_id=2"]).await;
    assert!(code == 1 && out.contains("refused, auth"), "{code} {out}");
    receiver.status(503);
    let (code, out, _) = daemon.run(&["--trigger", "25", "--key", "tenant_id=3", "--timeout", "500ms"]).await;
    assert!(code == 69 && out.contains("kept in the outbox"), "{code} {out}");
    // What is left in the outbox is the next daemon's.
    receiver.status(200);
    let mut next = crate::daemon(&config(&database, &receiver, ORDERS));
    next.start().await;
    receiver.wait_for(2).await;
    next.terminate().await;
    daemon.configure(&config(&database, &receiver, ORDERS).replace(&format!(":{}/", database.port), ":1/"));
    let (code, _, err) = daemon.run(&["--trigger", "25", "--key", "tenant_id=1"]).await;
    assert!(code == 69 && err.contains("cannot be reached"), "{code} {err}");
    // Without a database it sends directly.
    let no_database = config(&database, &receiver, ORDERS).replace(&format!("[database]\nurl = \"{}\"\n", database.url()), "");
    daemon.configure(&no_database);
    receiver.forget();
    let (code, out, _) = daemon.run(&["--trigger", "25", "--key", "tenant_id=4"]).await;
    assert_eq!((code, receiver.accepted().len()), (0, 1), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_and_says_the_remedy() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    let (code, out, _) = daemon.run(&["check"]).await;
    assert!(code == 0 && out.contains("All is well") && out.contains("accepts our signature"), "{code} {out}");
    daemon.start().await;
    let (code, out, _) = daemon.run(&["check", "--json"]).await;
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, report["ok"].as_bool()), (0, Some(true)), "{out}");
    assert!(out.contains("triggers in place"), "{out}");
    daemon.kill();
    database.sql("ALTER TABLE orders DISABLE TRIGGER items_listen_1_insert; DROP TRIGGER items_listen_1_delete ON orders").await;
    insert(&database, 1, 1).await;
    let (_, out, _) = daemon.run(&["check"]).await;
    assert!(out.contains("missing on public.orders") && out.contains("disabled on public.orders"), "{out}");
    daemon.start().await;
    exact(&database, "orders", TRUE_ORDERS).await;
    support::eventually("all triggers are back", async || {
        daemon.run(&["check"]).await.1.contains("triggers in place").then_some(())
    })
    .await;

    daemon.terminate().await;
    daemon.configure(&config(&database, &receiver, ORDERS).replace(support::receiver::SECRET, "another"));
    let (code, out, _) = daemon.run(&["check"]).await;
    assert!(code == 1 && out.contains("refuses our signature") && out.contains("→"), "{code} {out}");
    daemon.configure(&config(&database, &receiver, ORDERS).replace(&receiver.url(), "http://127.0.0.1:1"));
    assert_eq!(daemon.run(&["check"]).await.0, 69);
    assert_eq!(daemon.run(&["check", "--offline"]).await.0, 0);
    let role = format!("reader_{}", database.name);
    database.sql(&format!("CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {} TO {role}", database.name)).await;
    daemon.configure(&config(&database, &receiver, ORDERS).replace("postgres@", &format!("{role}@")));
    let (code, out, _) = daemon.run(&["check"]).await;
    assert!(code == 1 && out.contains(&format!("GRANT SELECT ON \"public\".\"orders\" TO \"{role}\"")), "{code} {out}");
    database.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_is_78_and_a_newer_schema_too() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let daemon = daemon("[database]\nurl = 7\n");
    for command in [&["run"][..], &["check"], &["status"], &["install"], &["--trigger", "1"]] {
        let (code, _, err) = daemon.run(command).await;
        assert!(code == 78 && err.contains(":2:7: database.url"), "{code} {err}");
    }
    daemon.configure(&config(&database, &receiver, ORDERS));
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    database.sql("INSERT INTO items_listen.schema_history (version, name) VALUES (99, 'from the future')").await;
    for command in ["run", "install", "status"] {
        let (code, _, err) = daemon.run(&[command]).await;
        assert!(code == 78 && err.contains("version 99"), "{command}: {code} {err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn run_fails_only_when_its_listener_cannot_be_bound() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let taken = format!("{}\n[http]\nlisten = \"127.0.0.1:{}\"\n", config(&database, &receiver, ORDERS), receiver.port);
    let mut daemon = daemon(&taken);
    let (code, _, err) = daemon.run(&["run"]).await;
    assert!(code == 1 && err.contains("cannot be bound"), "{code} {err}");
    // A database that is not there yet is waited for.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    daemon.configure(&config(&database, &receiver, ORDERS).replace(&format!(":{}/", database.port), &format!(":{port}/")));
    daemon.spawn();
    daemon.logged("trying again").await;
    assert_eq!(daemon.get("/healthz").await.map(|(status, _)| status), Some(200));
    assert_eq!(daemon.get("/readyz").await.map(|(status, _)| status), Some(503));
    assert!(daemon.terminate().await.success());
    assert_eq!(daemon.log().iter().filter(|line| line.to_string().contains("trying again")).count(), 1, "said once, not per try");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_api_say_the_same_and_ten_installers_do_not_collide() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    let (code, _, err) = daemon.run(&["status"]).await;
    assert!(code == 1 && err.contains("nothing is installed"), "{err}");
    let installs = (0..10).map(|_| daemon.run(&["install"]));
    for (code, out, err) in futures_util::future::join_all(installs).await {
        assert_eq!(code, 0, "{out}{err}");
    }
    let (code, out, _) = daemon.run(&["status"]).await;
    assert!(code == 1 && out.contains("no live daemon"), "{out}");
    daemon.start().await;
    insert(&database, 1, 30).await;
    receiver.wait_for(1).await;
    let (code, out, _) = daemon.run(&["status", "--json"]).await;
    assert_eq!(code, 0, "{out}");
    let status: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(status["watches"][0]["open"], serde_json::json!({ "warning": 0, "high": 0, "critical": 1 }));
    assert_eq!((status["watches"][0]["source"].as_str(), status["watches"][0]["keys"].as_i64()), (Some("table"), Some(1)));
    assert_eq!((status["ready"].as_bool(), status["instances"][0]["pid"].as_u64()), (Some(true), Some(u64::from(daemon.pid()))));
    let names: Vec<&String> = status.as_object().expect("an object").keys().collect();
    assert_eq!(names, ["version", "ready", "instances", "watches", "endpoints", "database"]);
    let (_, api) = daemon.get("/api/status").await.expect("answers");
    let api: serde_json::Value = serde_json::from_str(&api).expect("JSON");
    assert_eq!(api["watches"], status["watches"]);
    assert_eq!(daemon.run(&["uninstall"]).await.0, 1, "a daemon would only install it again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_script_installs_what_a_manual_daemon_needs_twice_if_need_be() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    insert(&database, 1, 25).await;
    let manual = config_with(&database, &receiver, "install = \"manual\"", ORDERS);
    let mut daemon = daemon(&manual);
    daemon.spawn();
    daemon.logged("run items-listen install").await;
    daemon.kill();
    let (code, script, err) = daemon.run(&["install", "--print"]).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(
        database.one::<i64>("SELECT count(*) FROM pg_namespace WHERE nspname = 'items_listen'").await,
        0,
        "printing changes nothing"
    );
    let file = std::env::temp_dir().join(format!("items-listen-script-{}-{}.sql", std::process::id(), database.name));
    for script in [script, daemon.run(&["install", "--print"]).await.1] {
        std::fs::write(&file, script).expect("written");
        for _ in 0..2 {
            let output = support::postgres::shared()
                .program("psql", &database.name)
                .args(["-v", "ON_ERROR_STOP=1", "-q", "-f"])
                .arg(&file)
                .output()
                .expect("psql");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    let _removed = std::fs::remove_file(&file);
    daemon.start().await;
    assert_eq!(said(&receiver.wait_for(1).await), expected(&[("raised", "high", 25)]));
    insert(&database, 1, 5).await;
    receiver.wait_for(2).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    assert_eq!(receiver.all().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn init_prints_a_configuration_that_is_right() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    let (code, out, err) = daemon.run(&["init", "--table", "public.orders"]).await;
    assert!(code == 0 && err.contains("items-listen check"), "{err}");
    daemon.configure(&out);
    assert_eq!(daemon.run(&["check", "--offline"]).await.0, 0);
    assert_eq!(daemon.run(&["init", "--table", "a.b.c"]).await.0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_endpoint_writes_one_object_per_line() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let daemon = daemon(&format!("[database]\nurl = \"{}\"\n[endpoints.main]\nurl = \"log:\"\n{ORDERS}", database.url()));
    let (code, out, err) = daemon.run(&["--trigger", "25", "--key", "tenant_id=7"]).await;
    assert_eq!(code, 0, "{err}");
    let line: serde_json::Value = serde_json::from_str(out.lines().next().expect("a line")).expect("JSON");
    assert_eq!(line["endpoint"], "main");
    assert_eq!((&line["event"], &line["channels"][0]), (&"orders.many".into(), &"private-tenant.7.orders".into()));
    assert_eq!(line["data"]["count"], 25);
    assert_eq!(receiver.all().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_says_what_was_built_from_what() {
    let daemon = daemon("");
    let (code, long, _) = daemon.run(&["--version"]).await;
    let lines: Vec<&str> = long.lines().collect();
    let value = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {long}"));
    assert_eq!((code, lines[0], lines.len()), (0, concat!("items-listen ", env!("CARGO_PKG_VERSION")), 5), "{long}");
    let (commit, date) = (value("commit: "), value("commit date: "));
    let rustc = Command::new(std::env::var("RUSTC").unwrap_or("rustc".into())).arg("--version").output().expect("rustc");
    assert_eq!(format!("rustc {}\n", value("rustc: ")), String::from_utf8_lossy(&rustc.stdout));
    assert!(value("target: ").contains(std::env::consts::ARCH), "{long}");
    let (code, short, _) = daemon.run(&["-V"]).await;
    assert_eq!((code, short), (0, format!("{} ({commit} {date})\n", lines[0])));

    // Said by git itself; a tarball has none, and says so.
    let git = |arguments: &[&str]| -> Option<String> {
        let output = Command::new("git").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().expect("it is there");
    let top = git(&["rev-parse", "--show-toplevel"]).is_some_and(|top| std::fs::canonicalize(top).is_ok_and(|top| top == root));
    let head = git(&["rev-parse", "--short=9", "HEAD"]).filter(|_| top);
    assert_eq!(commit.trim_end_matches("-dirty"), head.as_deref().unwrap_or("unknown"));
    assert_eq!(date, git(&["log", "-1", "--format=%cs"]).filter(|_| top).as_deref().unwrap_or("unknown"));
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_and_man_pages_are_those_of_the_command_line() {
    // What was written for another configuration, or is wrong, is in nobody's way.
    let daemon = daemon("[database]\nurl = 7\n");
    let (code, script, err) = daemon.run(&["completions", "bash"]).await;
    assert_eq!(code, 0, "{err}");
    let script_file = daemon.file.with_extension("bash");
    std::fs::write(&script_file, script).expect("written");
    let ask = "source \"$1\"; [[ $(complete -p items-listen) =~ -F\\ ([^ ]+) ]]; COMP_WORDS=(items-listen deliveries l); COMP_CWORD=2; \
               ${BASH_REMATCH[1]} items-listen l deliveries; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let answer = Command::new("bash").args(["-c", ask, "bash"]).arg(&script_file).output().expect("bash");
    assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), "list", "{}", String::from_utf8_lossy(&answer.stderr));
    let _removed = std::fs::remove_file(&script_file);
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let (code, script, _) = daemon.run(&["completions", shell]).await;
        assert!(code == 0 && script.contains("deliveries"), "{shell}");
    }
    assert_eq!(daemon.run(&["completions", "tcsh"]).await.0, 2);

    let (code, page, _) = daemon.run(&["man"]).await;
    assert!(code == 0 && page.contains(".TH ITEMS-LISTEN 1") && page.contains("items\\-listen\\-deliveries(1)"), "{page}");
    let directory = daemon.file.with_extension("man");
    let (code, _, err) = daemon.run(&["man", &directory.display().to_string()]).await;
    assert_eq!(code, 0, "{err}");
    let pages: Vec<String> = std::fs::read_dir(&directory)
        .expect("there")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    for page in ["items-listen.1", "items-listen-run.1", "items-listen-deliveries.1", "items-listen-deliveries-list.1"] {
        assert!(pages.iter().any(|name| name == page), "{page}: {pages:?}");
    }
    assert!(
        std::fs::read_to_string(directory.join("items-listen-deliveries-list.1")).is_ok_and(|page| page.contains("\\-\\-state"))
    );
    let _removed = std::fs::remove_dir_all(&directory);
}
