//! The outbox: deliveries in the database, how they are claimed, and how they are settled.
//!
//! Invariants. A lane (endpoint, watch, key) is claimed only at its head: a row is taken only if no earlier
//! unsettled row of its lane exists, whatever that row's due time or lease. Ids grow in the order of commits,
//! since deliveries are inserted under the fold's lock. A settlement needs the token of the lease.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::db::prepare::Session;
use crate::db::schema::Schema;
use crate::error::Error;

/// A delivery in memory, leased to this process.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// `items_listen.delivery.id`.
    pub id: i64,
    /// The event.
    pub event_id: Uuid,
    /// Which lane it is in.
    pub lane: Lane,
    /// How many channels it goes to.
    pub channels: usize,
    /// The exact bytes for `/events`.
    pub body: String,
    /// Attempts so far, as the database has them.
    pub attempts: i32,
    /// Attempts since, which the database does not know of yet.
    pub resent: i32,
    /// How old it is, when it was read.
    pub age: Duration,
    /// The lease's token.
    pub lease: Uuid,
    /// By [`crate::dispatch::clock`]: no attempt may outlast it.
    pub lease_end: Duration,
    /// The delivery before it in its lane that was unsettled when this one was written.
    pub after: Option<i64>,
    /// Its publish rule, where a later one of its lane and rule may take its place while the endpoint is down.
    pub collapse: Option<String>,
}

/// What keeps deliveries in order: one endpoint, one watch, one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// The watch's name. Shared: each delivery in memory has its lane in several places.
    pub watch: Arc<str>,
    /// The key's text.
    pub key: Arc<str>,
}

/// How a delivery is to be settled.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Which.
    pub id: i64,
    /// The token under which it was sent.
    pub lease: Uuid,
    /// `delivered`, `dead`, `superseded`, or `pending` with a delay.
    pub state: &'static str,
    /// How many requests were made.
    pub attempted: i32,
    /// When it is due again, from now.
    pub delay: Duration,
    /// Why not delivered.
    pub reason: Option<&'static str>,
    /// The HTTP status.
    pub status: Option<i32>,
    /// The beginning of the answer.
    pub answer: Option<String>,
}

/// From where a claim looks (but for leases that are over): what is settled leaves dead entries at the beginning of the index, and some forgotten
/// session may keep them from being vacuumed. `None`: from the beginning.
pub type Floor = Option<Timestamp>;

/// A delivery's due time is taken before its transaction commits: nothing that is still to come is older than this.
const COMMITTED_WITHIN_SECONDS: f64 = 120.0;

/// Claims the due heads of an endpoint's lanes for this process, looking from `floor` on. Gives them, and from where
/// the next claim may look.
///
/// # Errors
/// The database cannot be asked.
pub async fn claim(
    session: &impl Session,
    schema: &Schema,
    endpoint: &str,
    instance: Uuid,
    lease: Duration,
    limit: i64,
    floor: Floor,
) -> Result<(Vec<Parcel>, Floor), Error> {
    // Counted from before the claim is sent: whatever the network takes, the lease is not over earlier.
    let lease_end = crate::dispatch::clock::now() + lease;
    let token = Uuid::new_v4();
    // (OFFSET 0: for each row by the index of lanes. A join would be planned for an outbox that is as empty as it usually is.)
    let sql = schema.sql(
        "WITH found AS MATERIALIZED (
             (SELECT d.id FROM items_listen.delivery d
              WHERE d.state = 'pending' AND d.lease IS NULL AND d.endpoint = $1 AND d.due_at <= (SELECT clock_timestamp())
                AND d.due_at >= coalesce($6::timestamptz, '-infinity')
                AND NOT EXISTS (SELECT FROM items_listen.delivery e
                                WHERE e.state = 'pending' AND e.endpoint = d.endpoint AND e.watch = d.watch
                                  AND e.key = d.key AND e.id < d.id OFFSET 0)
              ORDER BY d.due_at, d.id
              LIMIT $5)
             UNION ALL
             -- Leased, but no more.
             (SELECT d.id FROM items_listen.delivery d
              WHERE d.state = 'pending' AND d.lease IS NOT NULL AND d.endpoint = $1
                AND d.lease_until < (SELECT clock_timestamp())
                AND NOT EXISTS (SELECT FROM items_listen.delivery e
                                WHERE e.state = 'pending' AND e.endpoint = d.endpoint AND e.watch = d.watch
                                  AND e.key = d.key AND e.id < d.id OFFSET 0)
              ORDER BY d.lease_until
              LIMIT $5)),
         head AS (
             SELECT d.id FROM items_listen.delivery d
             WHERE d.id = ANY (ARRAY(SELECT id FROM found))
               AND d.state = 'pending' AND d.due_at <= (SELECT clock_timestamp())
               AND (d.lease_until IS NULL OR d.lease_until < clock_timestamp())
             ORDER BY d.due_at, d.id
             LIMIT $5
             FOR UPDATE SKIP LOCKED),
         claimed AS (
             UPDATE items_listen.delivery d
             SET lease = $2, lease_until = clock_timestamp() + make_interval(secs => $3), leased_by = $4
             FROM head
             WHERE d.id = head.id
             RETURNING d.id, d.event_id, d.watch, d.key, cardinality(d.channels) AS channels, d.body, d.attempts,
                       extract(epoch FROM clock_timestamp() - d.created_at)::float8 AS age, d.collapse)
         SELECT c.id, c.event_id, c.watch, c.key, c.channels, c.body, c.attempts, c.age, floor.at, c.collapse
         FROM (SELECT least(clock_timestamp() - make_interval(secs => $7),
                            (SELECT d.due_at FROM items_listen.delivery d
                             WHERE d.state = 'pending' AND d.lease IS NULL AND d.endpoint = $1
                               AND d.due_at >= coalesce($6::timestamptz, '-infinity')
                             ORDER BY d.due_at LIMIT 1)) AS at) AS floor
         LEFT JOIN claimed c ON true",
    );
    let lease_seconds = lease.as_secs_f64();
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
        [&endpoint, &token, &lease_seconds, &instance, &limit, &floor, &COMMITTED_WITHIN_SECONDS];
    let rows = session.client().query(&session.statement(&sql).await?, &parameters).await?;
    let next = rows.first().and_then(|row| row.get(8));
    let mut parcels: Vec<Parcel> = rows
        .iter()
        .filter(|row| row.get::<_, Option<i64>>(0).is_some())
        .map(|row| Parcel {
            id: row.get(0),
            event_id: row.get(1),
            lane: Lane { watch: row.get::<_, &str>(2).into(), key: row.get::<_, &str>(3).into() },
            channels: usize::try_from(row.get::<_, i32>(4)).unwrap_or(0),
            body: row.get(5),
            attempts: row.get(6),
            resent: 0,
            age: Duration::try_from_secs_f64(row.get::<_, f64>(7)).unwrap_or_default(),
            lease: token,
            lease_end,
            after: None,
            collapse: row.get(9),
        })
        .collect();
    parcels.sort_by_key(|parcel| parcel.id);
    Ok((parcels, next))
}

/// Settles deliveries, and gives those that were: what is no longer leased under its token is left alone.
///
/// # Errors
/// The database cannot be reached: nothing is settled.
pub async fn settle(session: &impl Session, schema: &Schema, settlements: &[Settlement]) -> Result<Vec<i64>, Error> {
    let sql = schema.sql(
        "UPDATE items_listen.delivery d
         SET state = s.state, attempts = d.attempts + s.attempted,
             due_at = CASE WHEN s.state = 'pending' THEN clock_timestamp() + make_interval(secs => s.delay) ELSE d.due_at END,
             settled_at = CASE WHEN s.state <> 'pending' THEN clock_timestamp() END,
             lease = NULL, lease_until = NULL, leased_by = NULL,
             reason = CASE WHEN s.state = 'delivered' THEN NULL ELSE coalesce(s.reason, d.reason) END,
             status = coalesce(s.status, d.status), answer = coalesce(s.answer, d.answer)
         FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::int[], $5::float8[], $6::text[], $7::int[], $8::text[])
              AS s (id, lease, state, attempted, delay, reason, status, answer)
         WHERE d.id = s.id AND d.lease = s.lease AND d.state = 'pending'
         RETURNING d.id",
    );
    let column = |pick: &dyn Fn(&Settlement) -> Option<String>| settlements.iter().map(pick).collect::<Vec<_>>();
    let ids: Vec<i64> = settlements.iter().map(|settlement| settlement.id).collect();
    let leases: Vec<Uuid> = settlements.iter().map(|settlement| settlement.lease).collect();
    let states: Vec<&str> = settlements.iter().map(|settlement| settlement.state).collect();
    let attempted: Vec<i32> = settlements.iter().map(|settlement| settlement.attempted).collect();
    let delays: Vec<f64> = settlements.iter().map(|settlement| settlement.delay.as_secs_f64()).collect();
    let reasons = column(&|settlement| settlement.reason.map(str::to_owned));
    let statuses: Vec<Option<i32>> = settlements.iter().map(|settlement| settlement.status).collect();
    // A NUL cannot be stored as text; an endpoint may well answer one.
    let answers = column(&|settlement| settlement.answer.as_ref().map(|answer| answer.replace('\0', "\u{fffd}")));
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 8] =
        [&ids, &leases, &states, &attempted, &delays, &reasons, &statuses, &answers];
    let rows = session.client().query(&session.statement(&sql).await?, &parameters).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Frees what was leased by transactions whose COMMIT was never acknowledged.
///
/// # Errors
/// The database cannot be reached.
pub async fn free_tokens(client: &Client, schema: &Schema, tokens: &[Uuid]) -> Result<u64, Error> {
    let sql = schema.sql(
        "UPDATE items_listen.delivery
         SET lease = NULL, lease_until = NULL, leased_by = NULL, due_at = greatest(due_at, clock_timestamp())
         WHERE state = 'pending' AND lease = ANY ($1)",
    );
    Ok(client.execute(sql.as_str(), &[&tokens]).await?)
}

/// Frees what is leased to a process that is known to have ended.
///
/// # Errors
/// The database cannot be reached.
pub async fn free(client: &Client, schema: &Schema, instance: Uuid) -> Result<u64, Error> {
    let sql = schema.sql(
        "UPDATE items_listen.delivery
         SET lease = NULL, lease_until = NULL, leased_by = NULL, due_at = greatest(due_at, clock_timestamp())
         WHERE state = 'pending' AND leased_by = $1",
    );
    Ok(client.execute(sql.as_str(), &[&instance]).await?)
}

/// Makes an endpoint's deliveries due at once, now that it answers again.
///
/// # Errors
/// The database cannot be reached.
pub async fn hasten(client: &Client, schema: &Schema, endpoint: &str) -> Result<u64, Error> {
    let sql = schema.sql(
        "UPDATE items_listen.delivery SET due_at = clock_timestamp()
         WHERE state = 'pending' AND endpoint = $1 AND due_at > clock_timestamp() AND lease IS NULL
           AND reason IN ('network', 'timeout', 'auth', 'unknown_app', 'protocol')",
    );
    Ok(client.execute(sql.as_str(), &[&endpoint]).await?)
}

/// The endpoints that something waits for, but that no live daemon has.
///
/// # Errors
/// The database cannot be reached.
pub async fn orphaned_endpoints(client: &Client, schema: &Schema) -> Result<Vec<String>, Error> {
    let sql = schema.sql(
        "SELECT DISTINCT d.endpoint FROM items_listen.delivery d
         WHERE d.state = 'pending'
           AND NOT EXISTS (SELECT FROM items_listen.instance i
                           WHERE d.endpoint = ANY (i.endpoints) AND i.beat_at > clock_timestamp() - interval '1 min')",
    );
    Ok(client.query(sql.as_str(), &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Declares dead what is older than the endpoint's `give_up_after`.
///
/// # Errors
/// The database cannot be reached.
pub async fn expire(client: &Client, schema: &Schema, endpoint: &str, give_up_after: Duration) -> Result<u64, Error> {
    let sql = schema.sql(
        "UPDATE items_listen.delivery SET state = 'dead', settled_at = clock_timestamp(), reason = 'expired',
                lease = NULL, lease_until = NULL, leased_by = NULL
         WHERE id IN (SELECT id FROM items_listen.delivery
                      WHERE state = 'pending' AND endpoint = $1 AND (lease IS NULL OR lease_until < clock_timestamp())
                        AND created_at < clock_timestamp() - make_interval(secs => $2)
                      ORDER BY id LIMIT 1000 FOR UPDATE SKIP LOCKED)",
    );
    Ok(client.execute(sql.as_str(), &[&endpoint, &give_up_after.as_secs_f64()]).await?)
}
