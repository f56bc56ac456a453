//! Whether the connection to the database is encrypted and to whom, and how long the certificates last.

use tokio_postgres::Client;

use super::endpoints::CERTIFICATE_DAYS_MIN;
use super::finding::{Findings, Id};
use crate::db::session::Connector;
use crate::error::Error;

/// What protects from whoever is in between.
const REMEDY: &str =
    "write sslmode=verify-full and sslrootcert=FILE (the issuer of the server's certificate) in database.url: docs/tls.md";

/// What is to be done where TLS does not reach the server.
const ENDS_BEFORE: &str = "find out what ends TLS in between: a pooler or proxy of your own is to be verified (sslmode=verify-full) and to \
                           speak TLS to the server as well; anything else is somebody in the middle, whom channel_binding=require keeps \
                           out: docs/tls.md";

/// Looks at this session, which is as the others are.
pub(super) async fn look(client: &Client, connector: &Connector, findings: &mut Findings) -> Result<(), Error> {
    // Everybody sees their own.
    let row = client
        .query_opt(
            "SELECT coalesce(version, ''), coalesce(cipher, '') FROM pg_catalog.pg_stat_ssl \
             WHERE pid = pg_catalog.pg_backend_pid() AND ssl",
            &[],
        )
        .await?;
    let over_tcp = connector.has_tcp()
        && (!connector.has_sockets()
            || client.query_one("SELECT pg_catalog.inet_server_addr() IS NOT NULL", &[]).await?.get::<_, bool>(0));
    let mode = connector.tls().settings().mode;
    let encrypted = row.map(|row| format!("{} ({})", row.get::<_, String>(0), row.get::<_, String>(1)));
    let name = mode.as_str();
    match encrypted {
        Some(tls) if mode.verifies() => {
            findings.ok(Id::DatabaseTls, "database", format!("{tls}, the server is verified (sslmode={name})"));
        }
        Some(tls) if connector.is_local() => findings.ok(Id::DatabaseTls, "database", format!("{tls}, on this machine")),
        Some(tls) => findings.info(
            Id::DatabaseTls,
            "database",
            format!("{tls}, but the server is not verified (sslmode={name}): whoever is in the middle could be it"),
            Some(REMEDY.to_owned()),
        ),
        // TLS was asked for and must have been there, or nothing would have been said: somebody ended it before the server.
        None if mode.insists() && over_tcp => ends_before(connector, findings),
        None if connector.is_local() => findings.ok(Id::DatabaseTls, "database", "no TLS, and nothing leaves this machine"),
        None => findings.warn(
            Id::DatabaseTls,
            "database",
            format!("the connection is not encrypted (sslmode={name}): whoever is in between reads and changes what is said"),
            format!("set ssl = on on the server, and {REMEDY}"),
        ),
    }
    for (what, certificate) in connector.tls().certificates().iter().filter(|(_, about)| about.ends_within(CERTIFICATE_DAYS_MIN))
    {
        findings.warn(
            Id::DatabaseTls,
            "database",
            format!("{what} is {certificate}: soon over"),
            "renew it: ours is read again for every connection, and nothing has to be restarted",
        );
    }
    Ok(())
}

/// TLS is insisted on, and the server has not seen any.
fn ends_before(connector: &Connector, findings: &mut Findings) {
    let mode = connector.tls().settings().mode;
    let what = format!("TLS ends before it reaches the server (sslmode={})", mode.as_str());
    let is_verified = mode.verifies() && connector.tls().was_shown();
    if is_verified {
        let what = format!(
            "{what}: whoever ends it was verified, and whether the rest of the way is encrypted cannot be seen from here"
        );
        findings.warn(Id::DatabaseTls, "database", what, ENDS_BEFORE);
    } else {
        let what = format!("{what}: whoever ends it was not verified, and reads and changes what is said");
        findings.error(Id::DatabaseTls, "database", what, ENDS_BEFORE);
    }
}
