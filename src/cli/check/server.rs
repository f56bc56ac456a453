//! The server: its version, whether LISTEN works, its clock, its room, and what stands in the way of vacuum.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::database::Place;
use super::finding::{Findings, Id};
use crate::config::Doorbell;
use crate::db::horizon::{self, Holder};
use crate::db::session::Connector;
use crate::db::{migrate, quote};
use crate::error::Error;
use crate::journal::install;
use crate::source::listen;

/// The oldest that is supported.
const VERSION_MIN: u32 = 140_000;
/// A notification to oneself comes with the answer to NOTIFY, or never.
const HEARD_WITHIN: Duration = Duration::from_secs(3);
/// A clock that is further off than this makes times in logs and events a riddle.
const SKEW_SECONDS_MAX: i64 = 60;
/// What has held the vacuum horizon back for so long has been forgotten by somebody.
const HELD_FOR_MAX: Duration = Duration::from_secs(10 * 60);
/// The daemon stops ringing above this.
const QUEUE_USAGE_MAX: f64 = 0.1;
/// Sessions of a daemon besides its pool: it listens, folds, installs or asks queries, recounts, and guards a recount.
const SESSIONS_BESIDES: i64 = 5;

/// What must be known before any setting is made. The role that we are, or `None` where the finding says why nothing else
/// can be asked.
pub(super) async fn greet(client: &Client, connector: &Connector, findings: &mut Findings) -> Result<Option<String>, Error> {
    let said = client
        .simple_query(
            "SELECT current_setting('server_version'), current_setting('server_version_num'), pg_is_in_recovery(), current_user",
        )
        .await?;
    let row = said.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let text = |column| row.as_ref().and_then(|row| row.get(column)).unwrap_or_default().to_owned();
    let (version, number, standby, role) = (text(0), text(1).parse().unwrap_or(0), text(2) == "t", text(3));
    findings.ok(Id::Server, "database", format!("PostgreSQL {version}, as {role}"));
    if !is_supported(number, &version, findings) {
        return Ok(None);
    }
    if standby {
        findings.error(
            Id::Standby,
            "database",
            format!("{} is a standby: nothing can be listened to or written", connector.describe()),
            "point database.url at the primary; with several hosts, add target_session_attrs=read-write",
        );
        return Ok(None);
    }
    Ok(Some(role))
}

fn is_supported(number: u32, version: &str, findings: &mut Findings) -> bool {
    if number < VERSION_MIN {
        findings.error(
            Id::ServerVersion,
            "database",
            format!("PostgreSQL {version} is too old: 14 or newer is needed"),
            "upgrade the server, or use one that is newer",
        );
    }
    number >= VERSION_MIN
}

/// Looks at all of it: a question that is refused does not keep the others from being asked.
pub(super) async fn look(client: &Client, place: &Place<'_>, findings: &mut Findings) -> Result<(), Error> {
    listen(place, findings).await;
    for asked in [
        super::encryption::look(client, place.connector, findings).await,
        doorbell(client, place, findings).await,
        clock(client, findings).await,
        headroom(client, place, findings).await,
        replication_role(client, findings).await,
        queue(client, findings).await,
        vacuum(client, place, findings).await,
    ] {
        match asked {
            Err(error) if error.is_about_the_server() => return Err(error),
            Err(error) => super::database::interrupted(&error, place.connector, findings),
            Ok(()) => {}
        }
    }
    if let Err(error) = migrate::check_encoding(client).await {
        findings.error(Id::Encoding, "database", error.to_string(), "dump the database and restore it WITH ENCODING 'UTF8'");
    }
    if let Err(error) = install::check_publications(client, place.schema, false).await {
        findings.error(
            Id::Publication,
            "publication",
            error.to_string(),
            "give the publication a list of tables, or say install --allow-publication once the subscribers are prepared",
        );
    }
    Ok(())
}

/// LISTEN, really: a notification of our own must come back.
async fn listen(place: &Place<'_>, findings: &mut Findings) {
    let wrong = match hear_oneself(place.connector).await {
        Ok(true) => return findings.ok(Id::Listen, "database", "LISTEN works: a notification of our own came back"),
        Ok(false) => format!("LISTEN is accepted, but no notification came back within {HEARD_WITHIN:?}"),
        Err(error) => format!("LISTEN does not work: {error}"),
    };
    findings.error(
        Id::Listen,
        "database",
        wrong,
        "something between us and PostgreSQL swallows it (a pooler, a proxy): set database.url to the server's own host and port",
    );
}

async fn hear_oneself(connector: &Connector) -> Result<bool, Error> {
    let mut listening = listen::open(connector, HEARD_WITHIN).await?;
    // A channel of our own: nobody else is woken.
    let channel = format!("items_listen_check_{}", uuid::Uuid::now_v7().simple());
    listening.client.batch_execute(&format!("LISTEN {channel}; NOTIFY {channel}")).await?;
    let heard = tokio::time::timeout(HEARD_WITHIN, listening.heard.recv()).await;
    Ok(heard.is_ok_and(|heard| heard.is_some_and(|heard| heard.channel == channel)))
}

async fn doorbell(client: &Client, place: &Place<'_>, findings: &mut Findings) -> Result<(), Error> {
    let prepared: i32 = client.query_one("SELECT current_setting('max_prepared_transactions')::int", &[]).await?.get(0);
    match place.database.doorbell {
        Doorbell::Auto if prepared > 0 => findings.info(
            Id::Doorbell,
            "doorbell",
            "max_prepared_transactions is above 0: the doorbell is off, a quicker poll takes its place",
            Some("if nobody uses PREPARE TRANSACTION: doorbell = \"on\" under [database]".to_owned()),
        ),
        Doorbell::On if prepared > 0 => findings.info(
            Id::Doorbell,
            "doorbell",
            "the doorbell is on though max_prepared_transactions is above 0: PREPARE TRANSACTION fails after a write to a watched table",
            Some("if somebody uses PREPARE TRANSACTION: doorbell = \"auto\"".to_owned()),
        ),
        _ => {}
    }
    Ok(())
}

/// The database's clock against ours, which signs.
async fn clock(client: &Client, findings: &mut Findings) -> Result<(), Error> {
    let before = Timestamp::now();
    let theirs: Timestamp = client.query_one("SELECT clock_timestamp()", &[]).await?.get(0);
    let after = Timestamp::now();
    let skew = skew(theirs, before, after);
    if skew.unsigned_abs() > SKEW_SECONDS_MAX.unsigned_abs() {
        let off = if skew > 0 { format!("{skew} s behind") } else { format!("{} s ahead of", skew.unsigned_abs()) };
        findings.warn(
            Id::DatabaseClock,
            "clock",
            format!("this machine's clock is {off} the database's: alerts carry the database's time, signatures ours"),
            "set the clock that is wrong (NTP: timedatectl)",
        );
    }
    Ok(())
}

/// By how many seconds the other clock is certainly ahead, whenever between the two it was read.
fn skew(theirs: Timestamp, before: Timestamp, after: Timestamp) -> i64 {
    if theirs < before {
        theirs.duration_since(before).as_secs()
    } else if theirs > after {
        theirs.duration_since(after).as_secs()
    } else {
        0
    }
}

/// Whether a daemon's sessions fit in.
async fn headroom(client: &Client, place: &Place<'_>, findings: &mut Findings) -> Result<(), Error> {
    // What is our own is free in a moment; what a running daemon has it need not get.
    let sql = "WITH sessions AS (
                   SELECT datname = current_database() AS here, usename = current_user AS ours,
                          coalesce(application_name, '') = 'items-listen' AS daemons
                   FROM pg_stat_activity
                   -- What other roles' sessions are is not shown to everybody; those that have a role are clients.
                   WHERE coalesce(backend_type, 'client backend') = 'client backend' AND usesysid IS NOT NULL AND pid <> pg_backend_pid())
               SELECT current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint
                          - coalesce(current_setting('reserved_connections', true), '0')::bigint - count(*),
                      (SELECT nullif(rolconnlimit, -1)::bigint FROM pg_roles WHERE rolname = current_user) - count(*) FILTER (WHERE ours),
                      (SELECT nullif(datconnlimit, -1)::bigint FROM pg_database WHERE datname = current_database()) - count(*) FILTER (WHERE here),
                      count(*) FILTER (WHERE daemons AND here)
               FROM sessions";
    let row = client.query_one(sql, &[]).await?;
    let have: i64 = row.get(3);
    let need = (i64::try_from(place.database.pool_size).unwrap_or(i64::MAX)).saturating_add(SESSIONS_BESIDES) - have;
    let role = quote(&place.role);
    let limits = [
        (
            row.get::<_, Option<i64>>(0),
            "max_connections of the server".to_owned(),
            "raise max_connections (a restart)".to_owned(),
        ),
        (row.get(1), format!("CONNECTION LIMIT of the role {role}"), format!("ALTER ROLE {role} CONNECTION LIMIT -1;")),
        (row.get(2), "CONNECTION LIMIT of the database".to_owned(), "ALTER DATABASE … CONNECTION LIMIT -1;".to_owned()),
    ];
    for (free, limit, remedy) in limits {
        if let Some(free) = free.filter(|free| *free < need) {
            findings.warn(
                Id::Headroom,
                "connections",
                format!("{} connections are free within {limit}, and a daemon needs {need} more", free.max(0)),
                format!("{remedy}, close sessions, or set a smaller pool_size under [database]"),
            );
        }
    }
    Ok(())
}

/// Triggers do not fire for whoever works under `session_replication_role = replica`.
async fn replication_role(client: &Client, findings: &mut Findings) -> Result<(), Error> {
    let sql = "SELECT coalesce('the role ' || quote_ident(r.rolname), '') ||
                      CASE WHEN d.datname IS NULL THEN '' ELSE ' in the database ' || quote_ident(d.datname) END,
                      'ALTER ' || CASE WHEN r.oid IS NULL THEN 'DATABASE ' || quote_ident(d.datname)
                                       ELSE 'ROLE ' || quote_ident(r.rolname) || coalesce(' IN DATABASE ' || quote_ident(d.datname), '') END
                          || ' RESET session_replication_role;'
               FROM pg_db_role_setting s
               LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
               WHERE EXISTS (SELECT FROM unnest(s.setconfig) AS c WHERE c ILIKE 'session\\_replication\\_role=replica')
                 AND (d.oid IS NULL OR d.datname = current_database())";
    for row in client.query(sql, &[]).await? {
        let (who, remedy): (String, String) = (row.get(0), row.get(1));
        findings.warn(
            Id::ReplicationRole,
            "triggers",
            format!("session_replication_role is replica for {}: what it writes fires no trigger and is not counted", who.trim()),
            remedy,
        );
    }
    // Of the whole server; what a role or a database says for itself is told above.
    let all = "SELECT EXISTS (SELECT FROM pg_settings WHERE name = 'session_replication_role' AND setting = 'replica'
                              AND source NOT IN ('database', 'user', 'database user'))";
    if client.query_one(all, &[]).await?.get(0) {
        findings.warn(
            Id::ReplicationRole,
            "triggers",
            "session_replication_role is replica for the whole server: what is written fires no trigger and is not counted",
            "ALTER SYSTEM RESET session_replication_role; SELECT pg_reload_conf();",
        );
    }
    Ok(())
}

async fn queue(client: &Client, findings: &mut Findings) -> Result<(), Error> {
    let (usage, suspects) = horizon::queue(client).await?;
    let percent = format!("the notification queue is {:.0} % full", usage * 100.0);
    if usage <= QUEUE_USAGE_MAX {
        findings.ok(Id::NotificationQueue, "database", percent);
        return Ok(());
    }
    let named: Vec<String> = suspects.iter().map(|suspect| suspect.what.clone()).collect();
    let remedies: Vec<String> = suspects.iter().map(|suspect| suspect.remedy.clone()).collect();
    findings.warn(
        Id::NotificationQueue,
        "database",
        format!(
            "{percent}; above {:.0} % the daemon polls instead, and at 100 % every NOTIFY fails: {}",
            QUEUE_USAGE_MAX * 100.0,
            named.join("; ")
        ),
        format!("end the session that listens and is in a transaction: {}", remedies.join(" or ")),
    );
    Ok(())
}

async fn vacuum(client: &Client, place: &Place<'_>, findings: &mut Findings) -> Result<(), Error> {
    let holders = horizon::holders(client, HELD_FOR_MAX).await?;
    if holders.is_empty() {
        findings.ok(
            Id::VacuumHorizon,
            "vacuum",
            format!("nothing has held its horizon back for {} min", HELD_FOR_MAX.as_secs() / 60),
        );
    }
    for Holder { what, remedy } in holders {
        findings.warn(
            Id::VacuumHorizon,
            "vacuum",
            format!("{what}: dead rows stay, and tables grow; the daemon is not slowed by it"),
            remedy,
        );
    }
    if !horizon::sees_others(client).await? {
        findings.info(
            Id::VacuumHorizon,
            "vacuum",
            "this role does not see what other roles' sessions do",
            Some(format!("for a fuller answer: GRANT pg_read_all_stats TO {};", quote(&place.role))),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_server_is_named() {
        let mut findings = Findings::default();
        assert!(is_supported(140_000, "14.0", &mut findings) && findings.is_well());
        assert!(!is_supported(130_021, "13.21", &mut findings));
        assert!(findings.all[0].what.contains("13.21") && findings.all[0].id == Id::ServerVersion);
    }

    #[test]
    fn only_what_is_certain_of_a_clock_counts() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        assert_eq!(skew(at(105), at(100), at(110)), 0);
        assert_eq!(skew(at(40), at(100), at(110)), -60);
        assert_eq!(skew(at(200), at(100), at(110)), 90);
    }
}
