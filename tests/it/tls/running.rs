//! The whole daemon under TLS, with everything that can be asked for; certificates that change under it.

use super::*;
use crate::support::daemon::Daemon;
use crate::support::proxy::{Mode, Proxy};

/// A database with the table `orders` that the role `certified` owns.
async fn shop(place: &Place) -> Database {
    let database = place.server.database().await;
    database.sql(&format!("ALTER DATABASE {} OWNER TO certified", database.name)).await;
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
    database.sql("ALTER TABLE orders OWNER TO certified").await;
    database
}

/// The daemon's configuration: everything that can be asked for. The files are named as beside the configuration.
fn strict(place: &Place, database: &Database, port: u16, receiver: &Receiver) -> String {
    let directory = place.files.0.display();
    let url = format!(
        "postgres://certified:{PASSWORD}@127.0.0.1:{port}/{}?sslmode=verify-full&sslrootcert={directory}/root.crt\
         &sslcert={directory}/daemon.crt&sslkey={directory}/daemon.key&channel_binding=require&require_auth=scram-sha-256",
        database.name
    );
    config(database, receiver, ORDERS).replace(&database.url(), &url)
}

/// How many sessions the daemon has, and how many of them are without TLS or without our certificate.
async fn sessions(database: &Database) -> (i64, i64) {
    let row = database
        .client
        .query_one(
            "SELECT count(*), count(*) FILTER (WHERE NOT s.ssl OR s.client_dn IS DISTINCT FROM '/CN=certified')
             FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid) WHERE a.usename = 'certified'",
            &[],
        )
        .await
        .expect("sessions");
    (row.get(0), row.get(1))
}

fn has_no_password(daemon: &Daemon) {
    assert_eq!(daemon.lines(PASSWORD), 0, "{:?}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_asks_for_everything_runs_and_takes_renewed_certificates() {
    let (place, receiver) = (Place::new().await, Receiver::start().await);
    let database = shop(&place).await;
    place.files.client("daemon", &place.clients.client("certified", Validity::Good));
    let mut daemon = daemon(&strict(&place, &database, place.server.port, &receiver));
    let (code, out, err) = daemon.run(&["check", "--json"]).await;
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("database-tls") && out.contains("the server is verified (sslmode=verify-full)"), "{out}");
    daemon.start().await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    let (all, wrong) = sessions(&database).await;
    assert!(all >= 2 && wrong == 0, "{wrong} of {all}");
    let (code, out, _) = daemon.run(&["recount"]).await;
    assert_eq!(code, 0, "{out}");

    // The server's issuer changes: nobody is let in who is not known. Then the file is renewed, and nothing else is done.
    let next = Authority::new("our next issuer");
    place.server.show(&next.server(&["127.0.0.1"], Validity::Good)).await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'certified'";
    database.sql(end).await;
    let line = daemon.logged("UnknownIssuer").await;
    assert!(line["remedy"].as_str().is_some_and(|remedy| remedy.contains("sslrootcert")), "{line}");
    insert(&database, 2, 20).await;
    place.files.write("root.crt", &next.certificate);
    receiver.wait_for(2).await;

    // A file that cannot be used is named, and tried again.
    place.files.write("daemon.key", "nothing");
    database.sql(end).await;
    let line = daemon.logged("holds no key").await;
    assert!(line.to_string().contains("daemon.key"), "{line}");
    insert(&database, 3, 20).await;
    place.files.client("daemon", &place.clients.client("certified", Validity::Good));
    receiver.wait_for(3).await;

    // A reload with a file that cannot be used stays without effect; with one that can, it is in force.
    place.files.write("root.crt", "nothing");
    daemon.signal("HUP");
    let line = daemon.logged("not reloaded").await;
    assert!(line.to_string().contains("root.crt"), "{line}");
    let last = Authority::new("our last issuer");
    place.files.write("root.crt", &last.certificate);
    place.server.show(&last.server(&["127.0.0.1"], Validity::Good)).await;
    let before = daemon.log().iter().filter(|line| line["msg"] == "ready").count();
    daemon.signal("HUP");
    support::eventually("it is ready again", async || {
        (daemon.log().iter().filter(|line| line["msg"] == "ready").count() > before).then_some(())
    })
    .await;
    insert(&database, 4, 20).await;
    receiver.wait_for(4).await;
    let (all, wrong) = sessions(&database).await;
    assert!(all >= 2 && wrong == 0, "{wrong} of {all}");
    has_no_password(&daemon);
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn under_tls_a_connection_that_is_silent_is_noticed_and_replaced() {
    let (place, receiver) = (Place::new().await, Receiver::start().await);
    let database = shop(&place).await;
    place.files.client("daemon", &place.clients.client("certified", Validity::Good));
    let proxy = Proxy::start(place.server.port).await;
    let mut daemon = daemon(&strict(&place, &database, proxy.port, &receiver));
    daemon.start().await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    for (tenant, mode) in [(2, Mode::Stall), (3, Mode::StallAnswers)] {
        proxy.mode(mode);
        insert(&database, tenant, 20).await;
        support::eventually("it is not ready", async || daemon.get("/readyz").await.filter(|(status, _)| *status == 503)).await;
        // Their sockets stay open, and silent.
        proxy.strand();
        receiver.wait_for(usize::try_from(tenant).expect("few")).await;
        daemon.ready().await;
    }
    // At any step: the handshake, the authentication, or the middle of an answer.
    for (tenant, answers) in [(4, 1), (5, 2), (6, 4), (7, 7), (8, 16)] {
        let before = proxy.stranded();
        proxy.strand_after(answers);
        proxy.cut();
        support::eventually("one is silent", async || (proxy.stranded() > before).then_some(())).await;
        insert(&database, tenant, 20).await;
        receiver.wait(&format!("silent after {answers}"), |events| events.len() >= usize::try_from(tenant).expect("few")).await;
    }
    has_no_password(&daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_in_the_middle_gets_nothing_of_a_daemon_that_verifies() {
    let (place, receiver) = (Place::new().await, Receiver::start().await);
    let database = shop(&place).await;
    place.files.client("daemon", &place.clients.client("certified", Validity::Good));
    let wrong = Authority::new("somebody else's issuer").server(&["127.0.0.1"], Validity::Good);
    let middle = Middle::start(place.server.port, Trick::Terminate(wrong)).await;
    let mut daemon = daemon(&strict(&place, &database, middle.port, &receiver));
    let (code, out, _) = daemon.run(&["check", "--json"]).await;
    assert!(code == 69 && out.contains("database-certificate") && out.contains("somebody may be in the middle"), "{code} {out}");
    assert!(!out.contains(PASSWORD));
    daemon.spawn();
    daemon.logged("UnknownIssuer").await;
    middle.now(Trick::Strip);
    daemon.logged("does not support TLS").await;
    middle.now(Trick::AskInClear);
    let before = middle.opened();
    support::eventually("it has tried again", async || (middle.opened() > before + 1).then_some(())).await;
    assert_eq!(middle.heard(), "", "not a word was said");
    has_no_password(&daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_where_tls_is_asked_for_and_does_not_reach_the_server() {
    let (place, receiver) = (Place::new().await, Receiver::start().await);
    let database = shop(&place).await;
    let good = place.ours.server(&["127.0.0.1"], Validity::Good);
    let middle = Middle::start(place.server.port, Trick::Terminate(good)).await;
    let look = async |host: &str, port: u16, parameters: &str| {
        let url = format!("host={host} port={port} user=postgres dbname={} {parameters}", database.name);
        let daemon = daemon(&config(&database, &receiver, ORDERS).replace(&database.url(), &url));
        let (_, out, err) = daemon.run(&["check", "--json"]).await;
        let all: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
        let findings = all["findings"].as_array().expect("findings").clone();
        let found = findings.into_iter().find(|finding| finding["id"] == "database-tls").expect("it is said");
        (found["level"].as_str().expect("a level").to_owned(), found.to_string())
    };
    let verified = format!("sslmode=verify-full sslrootcert={}", place.root);
    let directory = place.server.directory.display().to_string();
    for (host, port, parameters, level, says) in [
        // Whoever ends TLS was not verified: it may be anybody.
        ("127.0.0.1", middle.port, "sslmode=require", "error", "before it reaches the server"),
        // Whoever ends TLS was verified, such as a pooler: what is behind it is for the administrator to know.
        ("127.0.0.1", middle.port, &verified, "warning", "before it reaches the server"),
        ("127.0.0.1", place.server.port, &verified, "ok", "is verified"),
        ("127.0.0.1", place.server.port, "sslmode=disable", "ok", "nothing leaves this machine"),
        (&directory, place.server.port, &verified, "ok", "nothing leaves this machine"),
    ] {
        let (found, text) = look(host, port, parameters).await;
        assert!(found == level && text.contains(says), "{host} {parameters}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_tls_a_question_that_is_not_answered_whole_is_given_up() {
    let place = Place::new().await;
    let proxy = Proxy::start(place.server.port).await;
    let url = place.url(proxy.port, "app", &format!("sslmode=verify-full sslrootcert={}", place.root));
    let connector = Connector::new(&Secret::new(url), "items_listen").expect("a URL");
    let purpose = Purpose::Read { at_most: std::time::Duration::from_secs(1) };
    // Not at all; and no further than into the middle, which is in the middle of TLS's own frames as well.
    for answers in [0, 1, 3] {
        let (client, driver) = connector.open(purpose).await.expect("a session");
        let driving = tokio::spawn(driver);
        let before = proxy.stranded();
        proxy.strand_after(answers);
        let asked = client.simple_query("SELECT repeat('x', 1000) FROM generate_series(1, 20000)");
        let answered = tokio::time::timeout(support::PATIENCE, asked).await.expect("it is given up");
        assert!(answered.is_err() && proxy.stranded() > before, "{answers}");
        let said = driving.await.expect("no panic").expect_err("it is lost");
        assert!(format!("{said:?}").contains("has been silent for 4s"), "{said:?}");
    }
}
