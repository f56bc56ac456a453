//! Secrets are distinctive here, and everything that a full run says, writes or leaves is searched for them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::postgres::Server;
use crate::support::{PATIENCE, eventually, receiver};
use crate::*;

const DATABASE: &str = "CanaryDatabase7Qx";
const WRONG_DATABASE: &str = "CanaryWrongDatabase7Qx";
const ENDPOINT: &str = "CanaryEndpoint7Qx";
const URL_USER: &str = "CanaryUrlUser7Qx";
const URL_PASSWORD: &str = "CanaryUrlPassword7Qx";
const TOKEN: &str = "CanaryToken7QxWithoutSpaces";
const PROXY: &str = "CanaryProxy7Qx";
/// 32 bytes.
const ENCRYPTION: &str = "CanaryEncryption7Qx-012345678901";
const MISTAKEN: &str = "CanaryMistaken7Qx";
const ALL: [&str; 10] = [
    DATABASE,
    WRONG_DATABASE,
    ENDPOINT,
    URL_USER,
    URL_PASSWORD,
    TOKEN,
    PROXY,
    ENCRYPTION,
    MISTAKEN,
    // What the receiver knows.
    receiver::SECRET,
];

/// A secret in every form in which it could be said: as it is, in hexadecimal, and in base64 wherever it begins.
fn forms(secret: &str) -> Vec<String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut forms = vec![secret.to_lowercase(), hex(secret.as_bytes()), hex(secret.as_bytes()).to_uppercase()];
    for before in 0..3 {
        let text = STANDARD_NO_PAD.encode([&vec![0; before], secret.as_bytes()].concat());
        // What the neighbours have a part in is left out.
        let (first, last) = ((before * 8).div_ceil(6), (before + secret.len()) * 8 / 6);
        forms.push(text[first..last].to_owned());
    }
    forms
}

/// Everything that was said, and where.
#[derive(Default)]
struct Said(Vec<(String, String)>);

impl Said {
    fn add(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push((place.into(), text.into()));
    }

    /// Where a secret stands, with what is around it.
    fn leaks(&self) -> Vec<String> {
        let mut leaks = Vec::new();
        for secret in ALL {
            for (number, form) in forms(secret).into_iter().enumerate() {
                for (place, text) in &self.0 {
                    // The first form is looked for whatever its letters' case.
                    let text = if number == 0 { text.to_lowercase() } else { text.clone() };
                    if let Some(at) = text.find(&form) {
                        let around: String = text[text.floor_char_boundary(at.saturating_sub(80))..].chars().take(240).collect();
                        leaks.push(format!("{secret} in {place}: …{around}…"));
                    }
                }
            }
        }
        leaks
    }
}

#[test]
fn the_search_finds_a_secret_in_every_form() {
    for text in [
        format!("password={DATABASE}"),
        DATABASE.to_uppercase(),
        format!("{:?}", DATABASE.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
        STANDARD_NO_PAD.encode(format!("app:{DATABASE}")),
        STANDARD_NO_PAD.encode(format!("user:{DATABASE}!")),
        STANDARD_NO_PAD.encode(DATABASE),
        STANDARD_NO_PAD.encode(format!("x{DATABASE}yz")),
    ] {
        let mut said = Said::default();
        said.add("here", &text);
        assert!(said.leaks().iter().any(|leak| leak.starts_with(DATABASE)), "{text}");
    }
    let mut said = Said::default();
    said.add("here", "nothing of that kind, CanaryData base7Qx");
    assert_eq!(said.leaks(), Vec::<String>::new());
}

/// A server that asks for passwords, and writes down everything that is said to it.
async fn guarded() -> (Server, Database) {
    let server =
        Server::start(&["log_connections = on", "log_parameter_max_length = -1", "log_parameter_max_length_on_error = -1"]);
    let database = server.database().await;
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
    database.sql(&format!("CREATE ROLE canary LOGIN SUPERUSER PASSWORD '{DATABASE}'")).await;
    let hba = "host all canary 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\nlocal all all trust\n";
    std::fs::write(server.directory.join("data/pg_hba.conf"), hba).expect("pg_hba.conf is written");
    // From now on: what the test itself has said is not of interest.
    database.sql("ALTER SYSTEM SET log_statement = 'all'").await;
    database.sql("ALTER SYSTEM SET log_min_messages = 'debug1'").await;
    database.sql("SELECT pg_reload_conf()").await;
    let asks = async || {
        let url = format!("postgres://canary:wrong@127.0.0.1:{}/{}", database.port, database.name);
        tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_err().then_some(())
    };
    eventually("passwords are asked for", asks).await;
    (server, database)
}

/// The configuration: endpoints that work, refuse, are not there, and speak no TLS.
fn configuration(database: &Database, receiver: &Receiver, password: &str) -> String {
    let encryption = base64::engine::general_purpose::STANDARD.encode(ENCRYPTION);
    let (port, name, url) = (database.port, &database.name, receiver.url());
    let retry = "retry = { initial = \"20ms\", max = \"200ms\" }";
    let bad = |name: &str, url: &str| {
        format!("[endpoints.{name}]\nurl = \"{url}\"\napp_id = \"app-1\"\nkey = \"key-1\"\nsecret = \"{ENDPOINT}\"\n{retry}\n")
    };
    let credentials = format!("{URL_USER}:{URL_PASSWORD}");
    let endpoints = [
        format!("{}encryption_key = \"{encryption}\"\n{retry}\n", receiver.endpoint("main")),
        bad("refuses", &url.replace("http://", &format!("http://{credentials}@"))),
        bad("absent", &format!("http://{credentials}@127.0.0.1:1/some/path")),
        bad("no_tls", &url.replace("http://", &format!("https://{credentials}@"))),
        bad("nowhere", &format!("http://{credentials}@push.invalid")),
    ];
    format!(
        "[database]\nurl = \"postgres://canary:{password}@127.0.0.1:{port}/{name}\"\npoll = \"100ms\"\n{}
[[watch]]
name = \"orders\"
table = \"public.orders\"
key = [\"tenant_id\"]
threshold = 20
[[watch.publish]]
channels = [\"private-encrypted-{{{{ key.tenant_id }}}}\"]
event = \"orders.many\"
endpoint = \"main\"
[[watch.publish]]
channels = [\"private-{{{{ key.tenant_id }}}}\"]
event = \"orders.many\"
endpoint = [\"refuses\", \"absent\", \"no_tls\", \"nowhere\"]
[http]
listen = \"127.0.0.1:0\"
token = \"{TOKEN}\"
",
        endpoints.concat()
    )
}

/// What a route answers, to whoever has the token and whoever has not. Of the stream the first document.
async fn route(daemon: &Daemon, path: &str, token: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(daemon.address().expect("it listens")).await.expect("connects");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nCookie: x={MISTAKEN}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("asks");
    let (mut heard, mut some) = (Vec::new(), vec![0; 65_536]);
    loop {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut some)).await.expect("in time").unwrap_or(0);
        heard.extend_from_slice(&some[..read]);
        let text = String::from_utf8_lossy(&heard).into_owned();
        if read == 0 || (path == "/api/live" && text.matches("\n\n").count() > 1) {
            return text;
        }
    }
}

/// Every row of every table of ours, what our functions are made of, and what the server shows of our sessions.
async fn rows(database: &Database, said: &mut Said) {
    let tables = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'items_listen'";
    let mut statements: Vec<(String, String)> = Vec::new();
    for row in database.client.query(tables, &[]).await.expect("our tables") {
        let table: String = row.get(0);
        statements.push((table.clone(), format!("SELECT t::text FROM {table} t")));
        statements.push((format!("{table} as JSON"), format!("SELECT to_jsonb(t)::text FROM {table} t")));
    }
    assert!(statements.len() > 20, "there are tables: {statements:?}");
    statements.push(("functions".into(), "SELECT prosrc FROM pg_proc WHERE pronamespace = 'items_listen'::regnamespace".into()));
    statements.push(("sessions".into(), "SELECT a::text FROM pg_stat_activity a WHERE pid <> pg_backend_pid()".into()));
    for (place, statement) in statements {
        for row in database.client.query(&statement, &[]).await.expect("rows") {
            said.add(place.clone(), row.get::<_, Option<String>>(0).unwrap_or_default());
        }
    }
}

/// Configurations that are wrong just where a secret stands.
fn mistakes(good: &str) -> Vec<String> {
    let first = |from: &str, to: &str| good.replacen(from, to, 1);
    let url = good.lines().find(|line| line.starts_with("url = \"postgres")).expect("the database's");
    let secret = format!("secret = \"{ENDPOINT}\"");
    vec![
        first(&secret, &format!("secret = [\"{MISTAKEN}\"]")),
        first(&secret, &format!("secret = \"{MISTAKEN}")),
        first(&secret, &format!("secret = {MISTAKEN}")),
        first(&secret, &format!("secrt = \"{MISTAKEN}\"")),
        first(&secret, &format!("secret = \"\"\nencryption_key = \"{MISTAKEN}\"")),
        first(&secret, &format!("{secret}\nsecret_file = \"/nowhere\"")),
        first(&secret, "secret_file = \"/dev/null\""),
        first(url, &format!("url = \"postgres://canary:{MISTAKEN}@[bad/x\"")),
        first(url, &format!("url = \"postgres://canary:{MISTAKEN}@127.0.0.1:port/x?sslmode=perhaps\"")),
        first(url, &format!("url = \"host=127.0.0.1 user=canary password='{MISTAKEN}\"")),
        first(url, &format!("url = \"host=127.0.0.1 user=canary {MISTAKEN} password=x\"")),
        first(url, &format!("url = \"postgres://canary:{WRONG_DATABASE}@127.0.0.1:1/nowhere\"")),
        first("http://127", &format!("http://{URL_USER}:{MISTAKEN}@[bad")),
        first("http://127", &format!("ftp://{URL_USER}:{MISTAKEN}@127")),
        first("http://127", &format!("{URL_USER}:{MISTAKEN}@127")),
        first(&format!("token = \"{TOKEN}\""), &format!("token = \"{MISTAKEN} with spaces\"")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_said_written_or_left_anywhere() {
    let (server, database) = guarded().await;
    let receiver = Receiver::start().await;
    let good = configuration(&database, &receiver, DATABASE);
    let mut said = Said::default();
    let mut daemon = daemon(&configuration(&database, &receiver, WRONG_DATABASE));
    daemon.env("ITEMS_LISTEN_LOG", "trace");
    for (name, value) in [("HTTP_PROXY", "127.0.0.1:1"), ("http_proxy", "127.0.0.1:1"), ("HTTPS_PROXY", "127.0.0.1:1")] {
        daemon.env(name, &format!("http://proxy:{PROXY}@{value}"));
    }
    daemon.env("NO_PROXY", "127.0.0.1");
    daemon.env("no_proxy", "127.0.0.1");

    // A wrong password, which is mended.
    let (code, out, error) = daemon.run(&["check"]).await;
    assert_eq!(code, 69, "{out}{error}");
    said.add("check with a wrong password", out + &error);
    daemon.spawn();
    daemon.logged("no database session").await;
    daemon.terminate().await;
    said.add("log with a wrong password", format!("{:?}", daemon.log()));

    // A run with every kind of failure.
    daemon.configure(&good);
    daemon.spawn();
    daemon.logged("listening for HTTP").await;
    eventually("ready", async || daemon.get("/readyz").await.filter(|(status, _)| *status == 200)).await;
    insert(&database, 1, 30).await;
    receiver.wait_for(1).await;
    let reasons = "SELECT count(DISTINCT name) FROM items_listen.endpoint WHERE state <> 'ok'";
    eventually("the others fail", async || (database.one::<i64>(reasons).await == 4).then_some(())).await;
    for path in ["/", "/page.css", "/page.js", "/api/status", "/api/live", "/metrics", "/healthz", "/readyz", "/nowhere"] {
        for token in [TOKEN, MISTAKEN] {
            said.add(format!("GET {path}"), route(&daemon, path, token).await);
        }
    }
    said.add("cmdline", std::fs::read_to_string(format!("/proc/{}/cmdline", daemon.pid())).expect("it runs"));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).expect("it runs");
    if !rustix::process::geteuid().is_root() {
        let environment = std::fs::read(format!("/proc/{}/environ", daemon.pid()));
        assert!(environment.is_err(), "nobody of the same user reads its environment");
    }
    let core: Vec<&str> =
        limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit").split_whitespace().collect();
    assert_eq!(core[4..6], ["0", "0"], "no core file, and nobody may ask for one later: {limits}");
    for (number, mistaken) in mistakes(&good).into_iter().enumerate() {
        daemon.configure(&mistaken);
        daemon.signal("HUP");
        let refused = async || (daemon.lines("not reloaded: the configuration that runs stays in force") > number).then_some(());
        eventually(&format!("refused: {mistaken}"), refused).await;
        for arguments in [&["check", "--offline"][..], &["check", "--offline", "--json"], &["config"]] {
            let (_, out, error) = daemon.run(arguments).await;
            said.add(format!("{arguments:?} of mistake {number}"), out + &error);
        }
    }
    daemon.configure(&good);

    let id: i64 = database.one("SELECT max(id) FROM items_listen.delivery WHERE endpoint = 'refuses'").await;
    let (id, rules) = (id.to_string(), daemon.file.with_extension("test.toml"));
    std::fs::write(&rules, format!("config = \"{}\"\n", daemon.file.display())).expect("written");
    let rules_file = rules.display().to_string();
    for (arguments, works) in [
        (&["check"][..], false),
        (&["check", "--json"], false),
        (&["config"], true),
        (&["config", "--json"], true),
        (&["config", "schema"], true),
        (&["status"], false),
        (&["status", "--json"], false),
        (&["deliveries", "list"], true),
        (&["deliveries", "list", "--json"], true),
        (&["deliveries", "show", &id], true),
        (&["deliveries", "show", &id, "--json"], true),
        (&["alerts", "list"], true),
        (&["alerts", "list", "--json"], true),
        (&["--trigger", "50", "--watch", "orders", "--key", "tenant_id=2", "--json", "--timeout", "2s"], false),
        (&["--trigger", "50", "--watch", "orders", "--key", "tenant_id=2", "--dry-run"], true),
        (&["install", "--print"], true),
        (&["install"], true),
        (&["recount"], true),
        (&["init"], true),
        (&["test", &rules_file], false),
        (&["completions", "bash"], true),
        (&["man"], true),
        (&["--version"], true),
        (&["--help"], true),
    ] {
        let (code, out, error) = daemon.run(arguments).await;
        assert_eq!(code == 0, works, "{arguments:?}: {code} {out} {error}");
        said.add(format!("{arguments:?}"), out + &error);
    }
    rows(&database, &mut said).await;
    daemon.terminate().await;
    said.add("log", format!("{:?}", daemon.log()));
    let (code, out, error) = daemon.run(&["uninstall"]).await;
    assert_eq!(code, 0, "{out}{error}");
    said.add("uninstall", out + &error);
    let log = std::fs::read(server.directory.join("log")).expect("the server's log");
    said.add("the server's log", String::from_utf8_lossy(&log));
    std::fs::remove_file(rules).expect("removed");
    // What was searched is what was meant to be.
    let log = &said.0.iter().rfind(|(place, _)| place == "log").expect("the log").1;
    assert!(log.contains("TRACE") || log.contains("trace"), "the log tells all that it can");
    assert!(
        said.0.iter().any(|(place, text)| place == "the server's log" && text.contains("connection authorized: user=canary"))
    );
    let leaks = said.leaks();
    assert!(leaks.is_empty(), "{} leaks:\n{}", leaks.len(), leaks.join("\n"));
}

/// A directory of secrets, gone when it is.
struct Room(PathBuf);

impl Room {
    fn new() -> Room {
        let room = std::env::temp_dir().join(format!("items-listen-canary-{}", std::process::id()));
        std::fs::create_dir_all(&room).expect("a directory");
        Room(room)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("it is the owner's alone");
        path.display().to_string()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _removed = std::fs::remove_dir_all(&self.0);
    }
}

/// A name for it, the configuration, the environment, and what precedes the command.
type Way<'a> = (&'a str, String, Vec<(String, String)>, Vec<&'a str>);

const WATCH: &str =
    "[[watch]]\nname = \"n\"\nnotify = \"n\"\nthreshold = 3\n[[watch.publish]]\nchannels = [\"a\"]\nevent = \"e\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn however_a_secret_is_given_it_is_not_said() {
    let room = Room::new();
    let encryption = base64::engine::general_purpose::STANDARD.encode(ENCRYPTION);
    let url = format!("postgres://canary:{DATABASE}@127.0.0.1:1/nowhere");
    let push = format!("http://{URL_USER}:{URL_PASSWORD}@127.0.0.1:1");
    let plain = "app_id = \"a\"\nkey = \"k\"\n";
    let values: BTreeMap<&str, &str> =
        [("url", url.as_str()), ("push", &push), ("secret", ENDPOINT), ("encryption", &encryption), ("token", TOKEN)].into();
    let inline = format!(
        "[database]\nurl = \"{url}\"\n[endpoints.main]\nurl = \"{push}\"\n{plain}secret = \"{ENDPOINT}\"\nencryption_key = \"{encryption}\"\n\
         {WATCH}[http]\nlisten = \"127.0.0.1:0\"\ntoken = \"{TOKEN}\"\n"
    );
    let files = |name: &dyn Fn(&str) -> String| {
        format!(
            "[database]\nurl_file = \"{}\"\n[endpoints.main]\nurl_file = \"{}\"\n{plain}secret_file = \"{}\"\nencryption_key_file = \"{}\"\n\
             {WATCH}[http]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"{}\"\n",
            name("url"),
            name("push"),
            name("secret"),
            name("encryption"),
            name("token")
        )
    };
    for (name, value) in &values {
        room.file(name, &format!("{value}\n"));
    }
    let bare = format!("[endpoints.main]\n{plain}{WATCH}[http]\nlisten = \"127.0.0.1:0\"\n");
    let variables =
        |names: &[(&str, &str)]| names.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>();
    let ours = variables(&[
        ("ITEMS_LISTEN_DATABASE__URL", &url),
        ("ITEMS_LISTEN_ENDPOINTS__MAIN__URL", &push),
        ("ITEMS_LISTEN_ENDPOINTS__MAIN__SECRET", ENDPOINT),
        ("ITEMS_LISTEN_ENDPOINTS__MAIN__ENCRYPTION_KEY", &encryption),
        ("ITEMS_LISTEN_HTTP__TOKEN", TOKEN),
    ]);
    let laravel = format!(
        "DB_CONNECTION=pgsql\nDB_HOST=127.0.0.1\nDB_PORT=1\nDB_DATABASE=nowhere\nDB_USERNAME=canary\nDB_PASSWORD={DATABASE}\n\
         BROADCAST_CONNECTION=reverb\nREVERB_APP_ID=a\nREVERB_APP_KEY=k\nREVERB_APP_SECRET={ENDPOINT}\nREVERB_HOST=127.0.0.1\nREVERB_PORT=1\n\
         REVERB_SCHEME=http\n"
    );
    let env_file = room.file(".env", &laravel);
    let whole = |name: &str| room.0.join(name).display().to_string();
    let credentials = vec![("CREDENTIALS_DIRECTORY".to_owned(), room.0.display().to_string())];
    let ways: Vec<Way<'_>> = vec![
        ("in the file", inline, vec![], vec![]),
        ("files", files(&whole), vec![], vec![]),
        ("credentials", files(&str::to_owned), credentials, vec![]),
        ("variables", bare, ours, vec![]),
        ("an env-file", format!("{WATCH}[http]\nlisten = \"127.0.0.1:0\"\n"), vec![], vec!["--env-file", &env_file]),
    ];
    for (way, text, environment, more) in ways {
        let mut said = Said::default();
        let mut daemon = daemon(&text);
        daemon.environment = environment;
        daemon.env("ITEMS_LISTEN_LOG", "trace");
        for command in [&["config"][..], &["config", "--json"], &["check", "--offline"], &["check"], &["init"], &["status"]] {
            let (code, out, error) = daemon.run(&[&more, command].concat()).await;
            assert!(code != 78 && code != 2, "{way}, {command:?}: {code} {error}");
            said.add(format!("{command:?} with secrets in {way}"), out + &error);
        }
        assert_eq!(said.leaks(), Vec::<String>::new());
        // The same secrets, however they are given, in a file that all may read.
        let exposed = match way {
            "in the file" => daemon.file.display().to_string(),
            "an env-file" => env_file.clone(),
            "variables" => continue,
            _ => whole("secret"),
        };
        let chmod = |mode| {
            std::fs::set_permissions(&exposed, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("its mode is set")
        };
        chmod(0o644);
        let (code, out, _) = daemon.run(&[&more, &["check", "--offline"][..]].concat()).await;
        let warned = out.contains(&format!("{exposed} holds a secret and may be read by everybody"));
        // (What is another program's file is told, and is no failure.)
        assert!(code == i32::from(more.is_empty()) && warned, "{way}: {out}");
        daemon.arguments = if more.is_empty() { &["run"] } else { continue };
        daemon.spawn();
        let line = daemon.logged("a file of secrets or of the configuration is open to others").await;
        assert_eq!(line["file"], exposed, "{way}");
        daemon.terminate().await;
        chmod(0o600);
    }
}
