//! The application: a table, writers that write to it in every way, and the oracle's own history of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use tokio_postgres::Client;

use crate::support::postgres::connect;

/// Keys that always have the same count, though all their rows are replaced again and again: whoever looks at half a
/// transaction sees another.
pub const CONSTANT: [(i32, i64); 2] = [(0, 100), (1, 15)];
/// Keys that go up and down.
pub const ORDINARY: std::ops::RangeInclusive<i32> = 2..=9;
/// Of this one no channel name can be made for one of the endpoints.
pub const UNSENDABLE: i32 = 8;
/// The events of this one are refused by an endpoint at times.
pub const POISON: i32 = 9;
/// All keys.
pub const KEYS: std::ops::RangeInclusive<i32> = 0..=9;

/// The table, and the oracle's history. Every transaction holds its keys' locks until it commits: the order of a key's
/// rows in the history is then the order of its commits.
pub const SCHEMA: &str = "
    CREATE TABLE stock (id bigserial, k int NOT NULL, open boolean NOT NULL DEFAULT true) PARTITION BY LIST (k);
    CREATE TABLE stock_rest PARTITION OF stock DEFAULT;
    CREATE INDEX ON stock (k);
    CREATE SCHEMA oracle;
    CREATE TABLE oracle.change (id bigserial PRIMARY KEY, xid xid8 NOT NULL DEFAULT pg_current_xact_id(), k int NOT NULL, delta bigint NOT NULL);
    CREATE FUNCTION oracle.added() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO oracle.change (k, delta) SELECT k, count(*) FROM new_rows WHERE open GROUP BY k; RETURN NULL; END $$;
    CREATE FUNCTION oracle.removed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO oracle.change (k, delta) SELECT k, -count(*) FROM old_rows WHERE open GROUP BY k; RETURN NULL; END $$;
    CREATE FUNCTION oracle.changed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO oracle.change (k, delta) SELECT k, sum(d) FROM (
            SELECT k, 1 AS d FROM new_rows WHERE open UNION ALL SELECT k, -1 FROM old_rows WHERE open) AS r GROUP BY k; RETURN NULL; END $$;
    CREATE FUNCTION oracle.emptied() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO oracle.change (k, delta) SELECT k, -sum(delta) FROM oracle.change GROUP BY k HAVING sum(delta) <> 0; RETURN NULL; END $$;
    CREATE TRIGGER oracle_a AFTER INSERT ON stock REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION oracle.added();
    CREATE TRIGGER oracle_b AFTER DELETE ON stock REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION oracle.removed();
    CREATE TRIGGER oracle_c AFTER UPDATE ON stock REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION oracle.changed();
    CREATE TRIGGER oracle_d AFTER TRUNCATE ON stock FOR EACH STATEMENT EXECUTE FUNCTION oracle.emptied();
    INSERT INTO stock (k) SELECT 0 FROM generate_series(1, 100);
    INSERT INTO stock (k) SELECT 1 FROM generate_series(1, 15);
";

fn locks(keys: &[i32]) -> String {
    let mut keys = keys.to_vec();
    keys.sort_unstable();
    keys.dedup();
    keys.iter().map(|key| format!("SELECT pg_advisory_xact_lock(77, {key}); ")).collect()
}

fn fill(key: i32, count: i64) -> String {
    format!("INSERT INTO stock (k) SELECT {key} FROM generate_series(1, {count}); ")
}

fn take(key: i32, count: i64) -> String {
    format!("DELETE FROM stock WHERE id IN (SELECT id FROM stock WHERE k = {key} LIMIT {count}) AND k = {key}; ")
}

/// All of a constant key's rows are replaced, in several statements.
pub fn replace(random: &mut StdRng) -> String {
    let (key, count) = CONSTANT[random.random_range(0..CONSTANT.len())];
    let parts = random.random_range(1..6);
    let removing: String = (0..parts).map(|_| take(key, count / parts + 1)).collect();
    let adding: String = (0..parts).map(|part| fill(key, (count * (part + 1)) / parts - (count * part) / parts)).collect();
    format!("BEGIN; {}{removing}{}{adding}COMMIT", locks(&[key]), take(key, count))
}

/// The whole table is emptied and filled anew, which causes it to be counted anew.
pub fn truncate(random: &mut StdRng) -> String {
    let all: Vec<i32> = KEYS.collect();
    let constant: String = CONSTANT.iter().map(|(key, count)| fill(*key, *count)).collect();
    let ordinary: String = ORDINARY.map(|key| fill(key, [0, 10, 22, 27, 40][random.random_range(0..5)])).collect();
    format!("BEGIN; {}TRUNCATE stock; {constant}{ordinary}COMMIT", locks(&all))
}

/// One transaction of any kind. Some wait a moment between their statement and their commit.
pub fn transaction(random: &mut StdRng) -> Vec<String> {
    let key = random.random_range(ORDINARY);
    let count = random.random_range(1..15);
    let (one, other) = (key, random.random_range(ORDINARY));
    let body = match random.random_range(0..12) {
        0..=3 => fill(key, count),
        4 | 5 => take(key, count * 2),
        6 => take(key, 10_000),
        7 => format!("UPDATE stock SET open = NOT open WHERE k = {key} AND id % 3 = 0; "),
        8 => format!("UPDATE stock SET k = {other} WHERE k = {one} AND id % 2 = 0; "),
        9 => format!("SAVEPOINT s; {}ROLLBACK TO s; {}", fill(key, 50), fill(key, 1)),
        10 => {
            return vec![format!("BEGIN; {}{}{}ROLLBACK", locks(&[one]), fill(one, 30), take(one, 3))];
        }
        _ => return vec![replace(random)],
    };
    let bounded = format!("DELETE FROM stock WHERE k = {one} AND (SELECT count(*) FROM stock WHERE k = {one}) > 80; ");
    let whole = format!("{}{body}{bounded}", locks(&[one, other]));
    if random.random_ratio(1, 4) {
        // In two round trips, so that something may happen in between.
        return vec![format!("BEGIN; {whole}"), "COMMIT".into()];
    }
    vec![format!("BEGIN; {whole}COMMIT")]
}

/// A transaction that certainly changes a key's severity: far above, or nothing.
pub fn toggle(key: i32, up: bool) -> String {
    format!("{}{}{}", locks(&[key]), take(key, 10_000), if up { fill(key, 25) } else { String::new() })
}

/// Writers at work.
pub struct Writers {
    stop: Arc<AtomicBool>,
    rest: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

/// While the server is away, a writer's failure is the server's.
pub type Away = Arc<AtomicBool>;

impl Writers {
    /// Starts some, each with a pause between its transactions.
    pub fn start(
        url: &str,
        count: u64,
        pause: Duration,
        away: &Away,
        committed: &Arc<AtomicU64>,
        random: &mut StdRng,
    ) -> Writers {
        use rand::SeedableRng as _;
        let (stop, rest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let spawn = |_| {
            let (url, away, committed) = (url.to_owned(), Arc::clone(away), Arc::clone(committed));
            let (stop, rest) = (Arc::clone(&stop), Arc::clone(&rest));
            let mut random = StdRng::seed_from_u64(random.random());
            tokio::spawn(async move {
                let mut failures = Vec::new();
                let mut session: Option<Client> = None;
                while !stop.load(Ordering::SeqCst) {
                    if rest.load(Ordering::SeqCst) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        continue;
                    }
                    if session.as_ref().is_none_or(Client::is_closed) {
                        session = try_connect(&url, &away).await;
                    }
                    let Some(client) = &session else { continue };
                    if let Err(failure) = write(client, &mut random).await {
                        session = None;
                        if !away.load(Ordering::SeqCst) {
                            failures.push(failure);
                        }
                        continue;
                    }
                    committed.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(pause.mul_f64(random.random_range(0.2..1.8))).await;
                }
                failures
            })
        };
        let tasks = (0..count).map(spawn).collect();
        Writers { stop, rest, tasks }
    }

    /// For so long nobody writes: a daemon falls asleep then, and is woken afterwards.
    pub async fn rest(&self, pause: Duration) {
        self.rest.store(true, Ordering::SeqCst);
        tokio::time::sleep(pause).await;
        self.rest.store(false, Ordering::SeqCst);
    }

    /// Ends them. Gives what failed though the server was there.
    pub async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        let mut failures = Vec::new();
        for task in self.tasks {
            failures.extend(task.await.expect("no writer panics"));
        }
        failures
    }
}

async fn try_connect(url: &str, away: &Away) -> Option<Client> {
    if away.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        return None;
    }
    Some(connect(url).await)
}

async fn write(client: &Client, random: &mut StdRng) -> Result<(), String> {
    for (index, part) in transaction(random).iter().enumerate() {
        if index > 0 {
            tokio::time::sleep(Duration::from_millis(random.random_range(1..120))).await;
        }
        if let Err(error) = client.batch_execute(part).await {
            return Err(format!("a writer failed: {error:?}; in {part}"));
        }
    }
    Ok(())
}
