//! TLS to endpoints, and proxies on the way: what is wrong is said and tried again, and nothing is lost.

use serde_json::Value;

use crate::support::certificates::{Authority, Files, Validity};
use crate::support::daemon::Daemon;
use crate::support::http_proxy::HttpProxy;
use crate::support::middle::{Middle, Trick};
use crate::support::postgres::Database;
use crate::*;

/// A configuration whose endpoint has another address, and further lines.
fn at(database: &Database, receiver: &Receiver, url: &str, lines: &str) -> String {
    let endpoint = format!("url = \"{}\"\n", receiver.url());
    config(database, receiver, ORDERS).replace(&endpoint, &format!("url = \"{url}\"\n{lines}"))
}

/// What `check` found of this kind: its level, and its text.
async fn found(daemon: &Daemon, id: &str) -> Vec<(String, String)> {
    let (_, out, err) = daemon.run(&["check", "--json"]).await;
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    let all = report["findings"].as_array().expect("findings").iter().filter(|finding| finding["id"] == id);
    all.map(|finding| {
        let text = format!("{} {}", finding["what"].as_str().unwrap_or_default(), finding["remedy"].as_str().unwrap_or_default());
        (finding["level"].as_str().unwrap_or_default().to_owned(), text)
    })
    .collect()
}

async fn says(daemon: &Daemon, id: &str, level: &str, words: &[&str]) {
    let found = found(daemon, id).await;
    let [(found_level, text)] = found.as_slice() else { panic!("{id}: {found:?}") };
    assert!(found_level == level && words.iter().all(|word| text.contains(word)), "{id} {words:?}: {found:?}");
}

/// Waits until a delivery was tried, and kept, for want of a connection.
async fn is_kept(database: &Database) -> String {
    support::eventually("it was tried and kept", async || {
        let row = database
            .client
            .query_opt("SELECT answer FROM items_listen.delivery WHERE state = 'pending' AND reason = 'network' LIMIT 1", &[]);
        row.await.expect("a query").and_then(|row| row.get::<_, Option<String>>(0))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_accepted_keeps_everything_until_it_is_renewed() {
    let (database, receiver, files) = (shop().await, Receiver::start().await, Files::new());
    let ours = Authority::new("our issuer");
    let stranger = Authority::new("somebody else's issuer");
    let root = files.write("ca.crt", &ours.certificate);
    let wrong = [
        (stranger.server(&["localhost"], Validity::Good), "UnknownIssuer", "ca_file"),
        (ours.server(&["localhost"], Validity::Expired), "certificate expired", "renew it"),
        (ours.server(&["localhost"], Validity::Early), "not valid yet", "clock"),
        (ours.server(&["push.example.org"], Validity::Good), "not valid for name", "subjectAltName"),
    ];
    let front = Middle::start(receiver.port, Trick::Direct(wrong[0].0.clone())).await;
    let url = format!("https://localhost:{}", front.port);
    let mut daemon = daemon(&at(&database, &receiver, &url, &format!("ca_file = \"{root}\"\n")));
    daemon.start().await;
    for (tenant, (issued, sign, remedy)) in wrong.iter().enumerate() {
        front.now(Trick::Direct(issued.clone()));
        says(&daemon, "endpoint-tls", "error", &[sign, remedy]).await;
        insert(&database, i32::try_from(tenant).expect("few"), 20).await;
        support::eventually(sign, async || is_kept(&database).await.contains(sign).then_some(())).await;
    }
    assert_eq!(receiver.all().len(), 0, "nothing was said to any of them");
    front.now(Trick::Direct(ours.server(&["localhost"], Validity::Days(5))));
    receiver.wait_for(wrong.len()).await;
    all_delivered(&database).await;
    assert_eq!(receiver.accepted().len(), wrong.len(), "each once");
    says(&daemon, "endpoint-certificate", "warning", &["our issuer", "soon over"]).await;
    front.now(Trick::Direct(ours.server(&["localhost"], Validity::Good)));
    says(&daemon, "endpoint-certificate", "ok", &["our issuer", "2090-01-01"]).await;

    // Another issuer: the file is read again with a reload.
    front.now(Trick::Direct(stranger.server(&["localhost"], Validity::Good)));
    insert(&database, 9, 20).await;
    support::eventually("unknown", async || is_kept(&database).await.contains("UnknownIssuer").then_some(())).await;
    files.write("ca.crt", &format!("{}{}", ours.certificate, stranger.certificate));
    daemon.signal("HUP");
    receiver.wait_for(wrong.len() + 1).await;
    // One that cannot be read is a mistake with a place, and the one that runs stays.
    files.write("ca.crt", "nothing");
    daemon.signal("HUP");
    let line = daemon.logged("not reloaded").await.to_string();
    assert!(line.contains("endpoints.main.ca_file") && line.contains("holds no certificate"), "{line}");
    let (code, _, err) = daemon.run(&["check"]).await;
    assert!(code == 78 && err.contains("ca_file"), "{code} {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_issuers_of_this_machine_are_those_of_ssl_cert_file() {
    let (database, receiver, files) = (shop().await, Receiver::start().await, Files::new());
    let ours = Authority::new("our issuer");
    let root = files.write("ca.crt", &ours.certificate);
    let front = Middle::start(receiver.port, Trick::Direct(ours.server(&["localhost"], Validity::Good))).await;
    let url = format!("https://localhost:{}", front.port);
    let mut daemon = daemon(&at(&database, &receiver, &url, ""));
    says(&daemon, "endpoint-tls", "error", &["UnknownIssuer"]).await;
    daemon.env("SSL_CERT_FILE", &root);
    says(&daemon, "endpoint", "ok", &["accepts our signature"]).await;
    // Where no issuer is known at all, that is what is said, before anything is tried.
    daemon.env("SSL_CERT_FILE", "/no/such/file");
    says(&daemon, "endpoint-tls", "error", &["no certificates of issuers are found", "/no/such/file", "ca_file"]).await;
    let (code, _, err) = daemon.run(&["run"]).await;
    assert!(code != 0 && err.contains("no certificates of issuers are found"), "{code} {err}");
    // With one of one's own none of them is needed, and plain text needs none.
    daemon.configure(&at(&database, &receiver, &url, &format!("ca_file = \"{root}\"\n")));
    says(&daemon, "endpoint", "ok", &["accepts our signature"]).await;
    daemon.configure(&config(&database, &receiver, ORDERS));
    says(&daemon, "endpoint", "ok", &["accepts our signature"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_versions_than_tls_1_2_are_refused() {
    let (database, receiver, files) = (shop().await, Receiver::start().await, Files::new());
    let ours = Authority::new("our issuer");
    let issued = ours.server(&["localhost"], Validity::Good);
    let root = files.write("ca.crt", &ours.certificate);
    let (certificate, key) = (files.write("s.crt", &issued.certificate), files.write("s.key", &issued.key));
    for (version, accepted) in [("-tls1_1", false), ("-tls1_2", true)] {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let server = std::process::Command::new("openssl")
            .args(["s_server", "-www", version, "-cipher", "ALL:@SECLEVEL=0", "-cert", &certificate, "-key", &key])
            .args(["-accept", &format!("127.0.0.1:{port}")])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
        let Ok(mut server) = server else {
            eprintln!("there is no openssl here: not tried");
            return;
        };
        support::eventually("it listens", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()).await;
        let url = format!("https://localhost:{port}");
        let daemon = daemon(&at(&database, &receiver, &url, &format!("ca_file = \"{root}\"\n")));
        let (_, out, _) = daemon.run(&["check", "--json"]).await;
        let _gone = (server.kill(), server.wait());
        assert_eq!(out.contains("accepts our signature"), accepted, "{version}: {out}");
        assert_eq!(out.contains("endpoint-tls") && out.contains("1.2 is the least"), !accepted, "{version}: {out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_the_environment_names_is_used_and_its_refusals_are_not_the_endpoints() {
    let (database, receiver, files) = (shop().await, Receiver::start().await, Files::new());
    let ours = Authority::new("our issuer");
    let root = files.write("ca.crt", &ours.certificate);
    let front = Middle::start(receiver.port, Trick::Direct(ours.server(&["push.example.test"], Validity::Good))).await;
    let proxy = HttpProxy::start().await;
    proxy.protect("proxy-user", "proxy-hush");
    // A name that only the proxy knows.
    let secure =
        at(&database, &receiver, &format!("https://push.example.test:{}", front.port), &format!("ca_file = \"{root}\"\n"));
    let plain = at(&database, &receiver, &format!("http://push.example.test:{}", receiver.port), "");
    let mut daemon = daemon(&secure);
    says(&daemon, "endpoint-connection", "error", &["not known here"]).await;
    for (number, (config, variable, port)) in
        [(secure, "HTTPS_PROXY", front.port), (plain, "HTTP_PROXY", receiver.port)].iter().enumerate()
    {
        daemon.configure(config);
        daemon.environment.clear();
        // Without its password: the proxy refuses, and that is what is said.
        daemon.env(variable, &format!("http://127.0.0.1:{}", proxy.port));
        let found = found(&daemon, "endpoint-proxy").await;
        let levels: Vec<&str> = found.iter().map(|(level, _)| level.as_str()).collect();
        assert_eq!(levels, ["info", "error"], "{found:?}");
        assert!(found[1].1.contains("user"), "{found:?}");
        daemon.env(variable, &format!("http://proxy-user:proxy-hush@127.0.0.1:{}", proxy.port));
        says(&daemon, "endpoint-proxy", "info", &[&format!("http://127.0.0.1:{},", proxy.port)]).await;
        says(&daemon, "endpoint", "ok", &["accepts our signature"]).await;
        let (_, out, err) = daemon.run(&["check"]).await;
        assert!(!format!("{out}{err}").contains("proxy-hush") && !out.contains("proxy-user"), "{out}{err}");

        // What it refuses is kept: 407 and 502, of which the endpoint knows nothing.
        daemon.start().await;
        for (step, status) in [407, 502].into_iter().enumerate() {
            proxy.refuse(Some(status));
            let asked = proxy.asked().len();
            insert(&database, i32::try_from(10 * number + step).expect("few"), 20).await;
            support::eventually("it was tried again", async || (proxy.asked().len() > asked + 1).then_some(())).await;
            proxy.refuse(None);
            receiver.wait_for(2 * number + step + 1).await;
        }
        let words = if *variable == "HTTPS_PROXY" { "CONNECT push.example.test:" } else { "POST http://push.example.test:" };
        assert!(proxy.asked().iter().any(|line| line.starts_with(&format!("{words}{port}"))), "{:?}", proxy.asked());
        let log = daemon.log().iter().map(Value::to_string).collect::<String>();
        assert!(!log.contains("proxy-hush") && !log.contains("proxy-user"), "{log}");
        assert!(daemon.terminate().await.success());
        let paused: i64 = database.one("SELECT count(*) FROM items_listen.delivery WHERE state <> 'delivered'").await;
        assert_eq!(paused, 0);
    }

    // NO_PROXY, and this machine itself, are gone to directly.
    let asked = proxy.asked().len();
    daemon.env("NO_PROXY", "example.test");
    says(&daemon, "endpoint-connection", "error", &["not known here"]).await;
    daemon.environment.retain(|(name, _)| name != "NO_PROXY");
    daemon.configure(&config(&database, &receiver, ORDERS));
    says(&daemon, "endpoint", "ok", &["accepts our signature"]).await;
    assert_eq!(proxy.asked().len(), asked, "{:?}", &proxy.asked()[asked..]);
    // ALL_PROXY is for both; a kind that is not spoken is an error and no way around.
    daemon.environment.clear();
    daemon.env("ALL_PROXY", &format!("http://proxy-user:proxy-hush@127.0.0.1:{}", proxy.port));
    daemon.configure(&at(&database, &receiver, &format!("http://push.example.test:{}", receiver.port), ""));
    says(&daemon, "endpoint", "ok", &["accepts our signature"]).await;
    daemon.env("ALL_PROXY", &format!("socks5://127.0.0.1:{}", proxy.port));
    assert!(found(&daemon, "endpoint").await.is_empty());
    assert_eq!(receiver.refused_signatures(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_that_leaves_this_machine_is_said() {
    let (database, receiver, proxy) = (shop().await, Receiver::start().await, HttpProxy::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    assert_eq!(found(&daemon, "endpoint-plain").await, []);
    daemon.env("HTTP_PROXY", &format!("http://127.0.0.1:{}", proxy.port));
    for (host, level) in [("push.example.org", "warning"), ("reverb", "info"), ("10.0.0.7", "info")] {
        daemon.configure(&at(&database, &receiver, &format!("http://{host}:{}", receiver.port), ""));
        says(&daemon, "endpoint-plain", level, &["not encrypted", "https://"]).await;
    }
}
