//! systemd: what a service manager is told, and that the units are right.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use items_listen::daemon::systemd::SILENCE_MAX;

use crate::support::proxy::{Mode, Proxy};
use crate::support::receiver::Receiver;
use crate::support::systemd::Systemd;
use crate::*;

const WATCHDOG: &str = "WATCHDOG=1";
/// Two seconds: a sign of life every 200 ms.
const SHORT_USEC: &str = "2000000";

fn with(text: &str, messages: &[String]) -> usize {
    messages.iter().filter(|message| message.contains(text)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_comes_once_with_the_first_session_and_the_status_follows_alerts_and_pauses() {
    let (database, receiver, systemd) = (shop().await, Receiver::start().await, Systemd::new());
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    systemd.watch_over(&mut daemon, "360000000");
    daemon.start().await;
    let before = systemd.until("READY=1").await;
    assert!(before[0].starts_with("STATUS=connecting to 127.0.0.1:"), "{before:?}");
    assert!(with("EXTEND_TIMEOUT_USEC=333000000", &before) > 0, "a long first count is no failed start: {before:?}");
    let mut after = systemd.until("STATUS=1 watch, 0 alerts open, nothing pending").await;

    insert(&database, 7, 25).await;
    after.extend(systemd.until("STATUS=1 watch, 1 alert open, nothing pending").await);
    receiver.status(401);
    insert(&database, 8, 40).await;
    after.extend(systemd.until("1 watch, 2 alerts open, 1 pending, oldest ").await);
    after.extend(systemd.until("; main paused: auth").await);

    assert!(daemon.terminate().await.success());
    after.extend(systemd.until("STOPPING=1").await);
    assert_eq!(with("READY=1", &after), 0, "said once");
    assert_eq!(with("EXTEND_TIMEOUT_USEC", &after), 0, "and no more time is asked for: {after:?}");
    assert_eq!(daemon.lines("this daemon may be killed"), 0, "six minutes are enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_is_no_failed_start_and_no_hanging_daemon() {
    let (database, receiver, systemd) = (shop().await, Receiver::start().await, Systemd::new());
    let proxy = Proxy::start(database.port).await;
    proxy.mode(Mode::Refuse);
    let text = config(&database, &receiver, ORDERS).replace(&format!(":{}/", database.port), &format!(":{}/", proxy.port));
    let mut daemon = daemon(&text);
    systemd.watch_over(&mut daemon, SHORT_USEC);
    daemon.spawn();
    let ready = systemd.until("READY=1").await.pop().expect("a message");
    assert!(ready.contains("\nSTATUS=no database session: "), "{ready}");
    assert_eq!(daemon.get("/readyz").await.map(|(status, _)| status), Some(503), "started, not ready");
    for _ in 0..5 {
        systemd.until(WATCHDOG).await;
    }
    proxy.pass();
    let mended = systemd.until("STATUS=1 watch, 0 alerts open").await;
    // A session that is lost, and comes back: said in the status alone.
    proxy.mode(Mode::Refuse);
    proxy.cut();
    let lost = systemd.until("STATUS=no database session: ").await;
    proxy.pass();
    let back = systemd.until("STATUS=1 watch, 0 alerts open").await;
    assert_eq!(with("READY=1", &[mended, lost, back].concat()), 0);
    assert_eq!(daemon.lines("this daemon may be killed"), 1, "two seconds are not enough, and that is said");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_does_not_turn_gives_no_sign_of_life_although_the_session_beats() {
    let (database, receiver, systemd) = (shop().await, Receiver::start().await, Systemd::new());
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    systemd.watch_over(&mut daemon, SHORT_USEC);
    insert(&database, 7, 1).await;
    daemon.start().await;
    systemd.until("READY=1").await;
    for _ in 0..5 {
        systemd.until(WATCHDOG).await;
    }
    // Nobody but the fold wants this row: the beat goes on, the fold waits.
    let other = database.session().await;
    other.batch_execute("BEGIN; SELECT FROM items_listen.count WHERE key = '[7]' FOR UPDATE").await.expect("the row is held");
    insert(&database, 7, 1).await;
    let waits = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let held = support::eventually("the fold waits", async || {
        database.client.query_opt(waits, &[]).await.expect("the question").map(|row| row.get::<_, i32>(0))
    })
    .await;
    systemd.waiting();
    // The next sign is given only when this fold no longer waits: here, when PostgreSQL has ended its waiting after 5 s.
    // A timer would give one in 200 ms.
    systemd.until(WATCHDOG).await;
    let still = database.client.query(waits, &[]).await.expect("the question");
    let waiting = still.iter().any(|row| row.get::<_, i32>(0) == held);
    // (Unless the session was lost meanwhile, on a machine that is slow enough: then nobody waits for the server's process.)
    assert!(!waiting || daemon.lines("no database session") > 0, "a sign of life while the pipeline waits");
    other.batch_execute("ROLLBACK").await.expect("the row is let go");
    exact(&database, "orders", TRUE_ORDERS).await;
    for _ in 0..5 {
        systemd.until(WATCHDOG).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_is_announced_with_its_time_and_over_whatever_came_of_it() {
    let (database, receiver, systemd) = (shop().await, Receiver::start().await, Systemd::new());
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    systemd.watch_over(&mut daemon, "360000000");
    daemon.start().await;
    systemd.until("STATUS=1 watch, 0 alerts open").await;
    let two = format!("{ORDERS}{}", ORDERS.replace("name = \"orders\"", "name = \"more\""));
    for (configuration, over, then) in [
        (config(&database, &receiver, &two), "STATUS=reloaded", "STATUS=2 watches, 0 alerts open, nothing pending\n"),
        ("[database]\nurl = 7\n".to_owned(), "STATUS=not reloaded", "nothing pending; the last reload was refused"),
        (config(&database, &receiver, ORDERS), "STATUS=reloaded", "STATUS=1 watch, 0 alerts open, nothing pending\n"),
    ] {
        daemon.configure(&configuration);
        daemon.signal("HUP");
        let announced = systemd.until("RELOADING=1").await;
        assert_eq!(with("READY=1", &announced), 0);
        // From systemd 253 on it must be in the same message.
        assert!(announced.last().is_some_and(|message| message.contains("\nMONOTONIC_USEC=")), "{announced:?}");
        let ready = systemd.until("READY=1").await.pop().expect("a message");
        assert!(ready.contains(over), "{ready}");
        let after = systemd.until(then).await;
        assert_eq!(with("READY=1", &after), 0, "said once for each reload: {after:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_during_the_start_ends_no_start() {
    let (database, receiver, systemd) = (shop().await, Receiver::start().await, Systemd::new());
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    assert_eq!(daemon.run(&["install"]).await.0, 0);
    // Nothing is ready before the first fold, and somebody has its lock.
    let holder = database.session().await;
    let key = items_listen::db::locks::Lock::Fold.sql(&items_listen::db::schema::Schema::new("items_listen"));
    holder.batch_execute(&format!("SELECT pg_advisory_lock({key})")).await.expect("the lock is free");
    systemd.watch_over(&mut daemon, "360000000");
    daemon.spawn();
    let mut said = systemd.until("STATUS=connected").await;
    daemon.signal("HUP");
    said.extend(systemd.until("STATUS=reloaded").await);
    let text = std::fs::read_to_string(&daemon.file).expect("its configuration");
    std::fs::write(&daemon.file, "[database]\nurl = 7\n").expect("written");
    daemon.signal("HUP");
    said.extend(systemd.until("STATUS=not reloaded").await);
    std::fs::write(&daemon.file, text).expect("written");
    assert_eq!(with("READY=1", &said) + with("RELOADING=1", &said), 0, "{said:?}");
    holder.batch_execute("SELECT pg_advisory_unlock_all()").await.expect("it lets go");
    systemd.until("READY=1").await;
    daemon.signal("HUP");
    systemd.until("RELOADING=1").await;
    systemd.until("READY=1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watchdog_of_another_process_is_none_of_ours() {
    let (database, receiver, systemd) = (shop().await, Receiver::start().await, Systemd::new());
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    let binary = daemon.binary.clone();
    systemd.watch_over(&mut daemon, SHORT_USEC);
    daemon.binary = binary;
    daemon.env("WATCHDOG_PID", "1");
    daemon.start().await;
    let mut said = systemd.until("READY=1").await;
    for _ in 0..2 {
        said.extend(systemd.until("STATUS=1 watch").await);
    }
    assert_eq!(with(WATCHDOG, &said), 0, "{said:?}");
}

fn systemd_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

fn unit(name: &str) -> String {
    std::fs::read_to_string(systemd_directory().join(name)).expect("the unit")
}

const UNITS: [&str; 2] = ["items-listen.service", "items-listen@.service"];

/// A copy of both units as they would be installed, but for the program's place.
fn installed(directory: &Path, edit: impl Fn(String) -> String) {
    std::fs::create_dir_all(directory).expect("a directory");
    for name in UNITS {
        let text = unit(name).replace("/usr/bin/items-listen ", concat!(env!("CARGO_BIN_EXE_items-listen"), " "));
        std::fs::write(directory.join(name), edit(text)).expect("written");
    }
}

fn analyze(arguments: &[&str], directory: &Path) -> (bool, String) {
    let program = std::env::var("SYSTEMD_ANALYZE").unwrap_or("systemd-analyze".into());
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .env("SYSTEMD_UNIT_PATH", format!("{}:", directory.display()))
        .output();
    let output = output.expect("systemd-analyze: run `make test`, or set SYSTEMD_ANALYZE to what scripts/systemd-analyze prints");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

#[test]
fn the_units_are_understood_without_a_word_and_expose_little() {
    let directory = std::env::temp_dir().join(format!("items-listen-units-{}", std::process::id()));
    // The lines for secrets, too: they are to work as they stand.
    for edit in [|text: String| text, |text: String| text.replace("\n#LoadCredential", "\nLoadCredential")] {
        installed(&directory, edit);
        for unit in ["items-listen.service", "items-listen@shop.service"] {
            let name = if unit.contains('@') { "items-listen@.service" } else { unit };
            let file = directory.join(name.replace("@.", "@shop."));
            let (ok, said) = analyze(&["verify", "--man=no", "--recursive-errors=no", &file.display().to_string()], &directory);
            assert!(ok && said.is_empty(), "{unit}: {said}");
            // In tenths, as the tool wants it: 2.0.
            let file = directory.join(name).display().to_string();
            let (ok, said) = analyze(&["security", "--offline=true", "--threshold=20", "--no-pager", &file], &directory);
            assert!(ok, "{unit}: {said}");
        }
    }
    let _removed = std::fs::remove_dir_all(&directory);
}

#[test]
fn the_template_is_the_unit_but_for_its_configuration() {
    let settings = |name: &str| -> Vec<String> {
        unit(name).lines().filter(|line| !line.is_empty() && !line.starts_with("# ") && *line != "#").map(str::to_owned).collect()
    };
    let (unit, template) = (settings(UNITS[0]), settings(UNITS[1]));
    assert_eq!(unit.len(), template.len());
    let other: Vec<&String> =
        template.iter().zip(&unit).filter(|(template, unit)| template != unit).map(|(line, _)| line).collect();
    assert!(other.iter().all(|line| line.contains("%i")), "{other:#?}");
    assert_eq!(other.len(), 4, "Description, ExecStart and two credentials: {other:#?}");
}

#[test]
fn a_fold_that_takes_as_long_as_it_may_is_over_before_the_watchdog() {
    for name in UNITS {
        let text = unit(name);
        let minutes = text.lines().find_map(|line| line.strip_prefix("WatchdogSec=")?.strip_suffix("min")).expect("WatchdogSec");
        let watchdog = std::time::Duration::from_secs(60 * minutes.parse::<u64>().expect("minutes"));
        // Signs of life are given once a second at most.
        assert!(watchdog > SILENCE_MAX + std::time::Duration::from_secs(1), "{name}: {watchdog:?}, {SILENCE_MAX:?}");
        assert!(text.contains(&format!("less than {} s", SILENCE_MAX.as_secs())), "{name}: the comment");
    }
}

#[test]
fn the_package_has_the_version_of_the_program() {
    let changelog = std::fs::read_to_string(systemd_directory().with_file_name("packaging").join("debian/changelog"));
    let newest = concat!("items-listen (", env!("CARGO_PKG_VERSION"), "-");
    assert!(changelog.is_ok_and(|changelog| changelog.starts_with(newest)), "packaging/debian/changelog: {newest}1) is missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_without_a_directory_is_a_credential_or_stands_beside_the_configuration() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let place = std::env::temp_dir().join(format!("items-listen-credentials-{}-{}", std::process::id(), database.name));
    let (etc, credentials) = (place.join("etc"), place.join("credentials"));
    for directory in [&etc, &credentials] {
        std::fs::create_dir_all(directory).expect("a directory");
    }
    let mut daemon = daemon("");
    let _unused = std::fs::remove_file(&daemon.file);
    daemon.file = etc.join("config.toml");
    let url = format!("url = \"{}\"", database.url());
    let secret = format!("secret = \"{}\"", support::receiver::SECRET);
    let named = config(&database, &receiver, ORDERS)
        .replace(&url, "url_file = \"database-url\"")
        .replace(&secret, "secret_file = \"endpoint-secret\"");
    daemon.configure(&named);

    let (code, _, err) = daemon.run(&["check", "--offline"]).await;
    let missing = etc.join("database-url").display().to_string();
    assert!(code == 78 && err.contains(&format!("{missing} cannot be read")), "{code} {err}");
    std::fs::write(credentials.join("database-url"), format!("{}\n", database.url())).expect("written");
    std::fs::write(credentials.join("endpoint-secret"), support::receiver::SECRET).expect("written");
    daemon.env("CREDENTIALS_DIRECTORY", &credentials.display().to_string());
    let (code, out, _) = daemon.run(&["check", "--offline"]).await;
    assert!(code == 1 && out.contains("may be read by everybody"), "the credentials themselves are looked at: {code} {out}");
    for file in ["database-url", "endpoint-secret"] {
        std::fs::set_permissions(credentials.join(file), std::fs::Permissions::from_mode(0o600)).expect("its mode");
    }
    daemon.environment.clear();
    daemon.env("CREDENTIALS_DIRECTORY", &credentials.display().to_string());
    let (code, out, err) = daemon.run(&["check"]).await;
    assert!(code == 0 && out.contains("accepts our signature"), "{code} {out} {err}");

    // As root by hand: what the credentials were made of stands beside the configuration.
    daemon.environment.clear();
    for file in ["database-url", "endpoint-secret"] {
        std::fs::rename(credentials.join(file), etc.join(file)).expect("moved");
    }
    let (code, out, err) = daemon.run(&["check"]).await;
    assert!(code == 0 && out.contains("accepts our signature"), "{code} {out} {err}");
    // A name from the environment has no configuration to stand beside.
    daemon.configure(&named.replace("url_file = \"database-url\"\n", ""));
    daemon.env("ITEMS_LISTEN_DATABASE__URL_FILE", "database-url");
    assert_eq!(daemon.run(&["check", "--offline"]).await.0, 78);
    daemon.env("CREDENTIALS_DIRECTORY", &etc.display().to_string());
    assert_eq!(daemon.run(&["check"]).await.0, 0);
    let _removed = std::fs::remove_dir_all(&place);
}
