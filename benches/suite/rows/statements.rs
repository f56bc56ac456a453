//! One statement of 100,000 rows, watched beside unwatched: what the transition table and one journal row per key add.

use std::time::Instant;

use crate::context::Context;
use crate::figure::Bound::RatioAtLeast;
use crate::figure::{Figure, Goal};
use crate::support::postgres::Database;

/// The sink is never reached: the threshold is not either.
const NOWHERE: &str = "http://127.0.0.1:9";
const TABLES: [&str; 2] = ["watched", "plain"];

struct Statement {
    name: &'static str,
    sql: fn(table: &str, rows: u64) -> String,
}

/// In this order each finds what it needs: nothing, then the rows of the one before.
const STATEMENTS: [Statement; 3] = [
    Statement {
        name: "INSERT",
        sql: |table, rows| format!("INSERT INTO {table} (tenant_id) SELECT i % 100 FROM generate_series(1, {rows}) AS i"),
    },
    Statement { name: "UPDATE", sql: |table, _| format!("UPDATE {table} SET tenant_id = (tenant_id + 1) % 100") },
    Statement { name: "DELETE", sql: |table, _| format!("DELETE FROM {table}") },
];

pub async fn run(context: &Context) -> Vec<Figure> {
    let database = context.database().await;
    for table in TABLES {
        let columns = "id bigserial PRIMARY KEY, tenant_id int NOT NULL, status text NOT NULL DEFAULT 'open'";
        database.sql(&format!("CREATE TABLE {table} ({columns})")).await;
    }
    let mut daemon = context.daemon(&database, NOWHERE, WATCH);
    daemon.start().await;
    let rows = context.amount(100_000);
    // Of each table and statement, the rates of the rounds.
    let mut rates = vec![vec![Vec::new(); STATEMENTS.len()]; TABLES.len()];
    for round in 0..=context.pairs {
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for table in order {
            context.calm().await;
            let measured = table_round(&database, TABLES[table], rows).await;
            // The first round only fills caches.
            if round > 0 {
                measured.iter().zip(&mut rates[table]).for_each(|(rate, into)| into.push(*rate));
            }
        }
        context.say(&format!("statements: round {round} of {}", context.pairs));
    }
    settled(&database).await;
    let figure = |(place, statement): (usize, &Statement)| {
        let (watched, plain) = (("watched", &rates[0][place][..]), ("unwatched", &rates[1][place][..]));
        let measure = format!("{} of {rows} rows", statement.name);
        Figure::beside("statements", &measure, "rows/s", watched, plain).goal(Goal::new(RatioAtLeast(0.95)))
    };
    STATEMENTS.iter().enumerate().map(figure).collect()
}

const WATCH: &str = r#"
[[watch]]
name = "watched"
table = "public.watched"
key = ["tenant_id"]
threshold = 1000000000
[[watch.publish]]
channels = ["bench"]
event = "bench"
"#;

async fn table_round(database: &Database, table: &str, rows: u64) -> Vec<f64> {
    database.sql(&format!("VACUUM {table}")).await;
    database.sql("CHECKPOINT").await;
    let mut rates = Vec::new();
    for statement in &STATEMENTS {
        let sql = (statement.sql)(table, rows);
        let started = Instant::now();
        database.sql(&sql).await;
        #[allow(clippy::cast_precision_loss, reason = "a rate")]
        rates.push(rows as f64 / started.elapsed().as_secs_f64());
    }
    rates
}

/// Every row was inserted and deleted: the daemon must know of none.
async fn settled(database: &Database) {
    crate::ledger::dry(database).await;
    assert_eq!(crate::ledger::counted(database, "watched").await, 0, "the count is exact");
}
