//! The keys of each watch that matter most: those that are worst, with their thresholds.

use std::sync::Arc;

use tokio_postgres::Client;

use crate::config::Config;
use crate::db::schema::Schema;
use crate::engine::facts;
use crate::error::Error;
use crate::severity::{Scale, Severity, percent};
use crate::watch::{Key, Measure, Watch};

/// So many keys of each watch are shown.
const KEYS_MAX: i64 = 3;

/// A key, and how it stands.
#[derive(Clone, Debug)]
pub(super) struct Worst {
    pub(super) watch: String,
    /// `tenant_id=7`; nothing for the whole.
    pub(super) key: String,
    pub(super) count: i64,
    pub(super) threshold: Option<i64>,
    pub(super) percent: Option<i64>,
    pub(super) severity: Severity,
    pub(super) scale: Scale,
}

/// Those of the configured watches: the open ones, or the one that comes next.
pub(super) async fn read(client: &Client, schema: &Schema, config: &Config) -> Result<Vec<Worst>, Error> {
    let mut all = Vec::new();
    for watch in config.watches.iter().filter(|watch| watch.counts()) {
        all.extend(of(client, schema, watch).await?);
    }
    Ok(all)
}

async fn of(client: &Client, schema: &Schema, watch: &Arc<Watch>) -> Result<Vec<Worst>, Error> {
    let scale = watch.policy.scale;
    let sql = schema.sql(&format!(
        "SELECT c.key, least(greatest(c.{reading}, -9223372036854775808), 9223372036854775807)::bigint, c.severity, w.key_columns
         FROM items_listen.watch w JOIN items_listen.count c ON c.watch = w.id
         WHERE w.name = $1 ORDER BY c.severity DESC, c.{reading} {order}, c.key LIMIT $2",
        reading = if watch.measure == Measure::Rows { "rows" } else { "sum" },
        order = if scale.compare.is_low() { "ASC" } else { "DESC" },
    ));
    let rows = client.query(sql.as_str(), &[&watch.name, &KEYS_MAX]).await?;
    // Where nothing is open, the one that is next is enough.
    let open = rows.iter().filter(|row| row.get::<_, i16>(2) > 0).count().max(1);
    let mut worst = Vec::with_capacity(open);
    for row in rows.iter().take(open) {
        let (text, count, rank): (String, i64, i16) = (row.get(0), row.get(1), row.get(2));
        if watch.key.is_unknown() {
            watch.key.set(row.get(3));
        }
        let key = Key::from_text(watch.key(), &text);
        // A table that is gone, or a threshold that cannot be asked, hides the threshold and nothing else.
        let threshold = match facts::of_key(client, schema, watch, &key).await {
            Ok((threshold, _)) => scale.enables(threshold),
            Err(error) if error.is_about_the_server() => return Err(error),
            Err(_) => None,
        };
        worst.push(Worst {
            watch: watch.name.clone(),
            key: key.display(),
            count,
            threshold,
            percent: percent(count, threshold),
            severity: Severity::from_rank(rank),
            scale,
        });
    }
    Ok(worst)
}
