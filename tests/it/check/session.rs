//! Why no session is to be had: each reason is named with its remedy.

use super::{check, finding, has, of};
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::Server;
use crate::support::receiver::Receiver;
use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn every_reason_for_no_session_is_named_with_its_remedy_and_the_daemon_logs_the_same() {
    let receiver = Receiver::start().await;
    let server = Server::start(&[]);
    let database = server.database().await;
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
    database
        .sql(
            "CREATE ROLE known LOGIN PASSWORD 'right'; CREATE ROLE nologin PASSWORD 'right';
             CREATE ROLE full LOGIN CONNECTION LIMIT 0",
        )
        .await;
    database.sql("CREATE DATABASE closed").await;
    database.sql("REVOKE CONNECT ON DATABASE closed FROM public").await;
    let hba = "local all all trust\nhost all known 127.0.0.1/32 scram-sha-256\nhost all stranger 127.0.0.1/32 reject\n\
               host all all 127.0.0.1/32 trust\n";
    std::fs::write(server.directory.join("data/pg_hba.conf"), hba).expect("pg_hba.conf is written");
    database.sql("SELECT pg_reload_conf()").await;
    support::eventually("the new pg_hba.conf is in force", async || {
        let url = format!("postgres://stranger@127.0.0.1:{}/postgres", server.port);
        let refused = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.err()?;
        (refused.code()?.code() == "28000").then_some(())
    })
    .await;
    let directory = server.directory.display().to_string();
    let (port, name) = (server.port, database.name.as_str());
    let tcp = |user: &str, database: &str| format!("postgres://{user}@127.0.0.1:{port}/{database}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    for (url, id, remedy) in [
        (tcp("known:wrong", name), "database-password", "ALTER ROLE \"known\" PASSWORD"),
        (tcp("nobody", name), "database-role", "CREATE ROLE \"nobody\" LOGIN"),
        (tcp("nologin", name), "database-role", "ALTER ROLE \"nologin\" LOGIN"),
        (tcp("stranger", name), "database-admission", "pg_hba.conf"),
        (tcp("postgres", "nothing"), "database-name", "CREATE DATABASE \"nothing\""),
        (tcp("known:right", "closed"), "database-connect", "GRANT CONNECT ON DATABASE \"closed\" TO \"known\""),
        (tcp("full", name), "database-connections", "CONNECTION LIMIT"),
        (format!("{}?sslmode=require", tcp("postgres", name)), "database-no-tls", "ssl = on"),
        (format!("postgres://postgres@127.0.0.1:{free}/{name}"), "database-refused", "start PostgreSQL"),
        (format!("postgres://postgres@no-such-host.invalid:{port}/{name}"), "database-host", "DNS"),
        (format!("host={directory}/none port={port} user=postgres dbname={name}"), "database-socket", "socket"),
    ] {
        let configured = config(&database, &receiver, ORDERS).replace(&database.url(), &url);
        let mut daemon = daemon(&configured);
        let (code, report) = check(&daemon, &[]).await;
        let found = finding(&report, id, "error");
        assert_eq!((code, of(found, "depth")), (69, "database"), "{url}: {report:#}");
        assert!(of(found, "remedy").contains(remedy), "{url}: {found:#}");
        assert!(
            !report.to_string().contains("wrong\"") && !report.to_string().contains(":right"),
            "no password is said: {report:#}"
        );
        // The endpoint is asked all the same.
        finding(&report, "endpoint", "ok");
        daemon.spawn();
        let line = daemon.logged("no database session").await;
        assert_eq!(of(&line, "remedy"), of(found, "remedy"), "{url}: {line:#}");
        daemon.kill();
    }
    // Over its socket it can be reached.
    let url = format!("host={directory} port={port} user=postgres dbname={name}");
    let daemon = daemon(&config(&database, &receiver, ORDERS).replace(&database.url(), &url));
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_accepts_and_says_nothing_is_given_up_within_ten_seconds() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    // It accepts connections by its backlog alone.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let daemon = daemon(&config(&database, &receiver, ORDERS).replace(&format!(":{}/", database.port), &format!(":{port}/")));
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 69);
    assert!(of(finding(&report, "database-silent", "error"), "what").contains("8s"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_and_a_pooler_are_named_and_a_pool_of_sessions_is_not() {
    let receiver = Receiver::start().await;
    let primary = Server::start(&["max_prepared_transactions = 5"]);
    let database = primary.database().await;
    database.sql("CREATE TABLE orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open')").await;
    let daemon = daemon(&config(&database, &receiver, ORDERS));
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");
    assert!(of(finding(&report, "doorbell", "info"), "what").contains("the doorbell is off"));
    let standby = primary.standby();
    daemon.configure(
        &config(&database, &receiver, ORDERS).replace(&format!(":{}/", database.port), &format!(":{}/", standby.port)),
    );
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 1);
    assert!(of(finding(&report, "standby", "error"), "remedy").contains("primary"), "{report:#}");

    let mut pooler = PgBouncer::start(database.port, "transaction");
    let url = format!("postgres://postgres@127.0.0.1:{}/{}", pooler.port, database.name);
    drop(support::postgres::connect(&url).await);
    daemon.configure(&config(&database, &receiver, ORDERS).replace(&database.url(), &url));
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 1);
    assert!(of(finding(&report, "pooler", "error"), "what").contains("PgBouncer"), "{report:#}");
    pooler.restart("session");
    drop(support::postgres::connect(&url).await);
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");
    finding(&report, "listen", "ok");
    assert!(!has(&report, "pooler"), "{report:#}");
}
