//! `items-listen status`: how everything stands, from the database alone; as a screen, or as JSON.

mod follow;
mod screen;
mod worst;

use clap::Args;
use jiff::Timestamp;

use super::print;
use super::terminal::Terminal;
use crate::config::Config;
use crate::db::schema::Schema;
use crate::db::session::Purpose;
use crate::error::Error;
use crate::status::{self, Status};
use worst::Worst;

/// How to say it.
#[derive(Args, Debug, Clone, Copy)]
pub(super) struct Show {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Again and again, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
}

/// Everything that is shown.
struct Seen {
    status: Status,
    /// The keys nearest to, or furthest beyond, their thresholds.
    worst: Vec<Worst>,
}

/// Prints how everything stands; 1 if something is paused, dead or degraded, or no daemon lives.
pub(super) async fn run(config: &Config, args: Show) -> Result<u8, Error> {
    if args.follow {
        return follow::run(config, args.json).await;
    }
    let (client, _, schema) = super::connect(config, Purpose::Work).await?;
    super::require_schema(&client, &schema).await?;
    let seen = read(&client, &schema, config, !args.json).await?;
    if args.json {
        print(&json(&seen.status));
    } else {
        print(screen::lines(&seen, Timestamp::now(), Terminal::of_stdout()).join("\n").as_str());
    }
    Ok(u8::from(!seen.status.is_well()))
}

fn json(status: &Status) -> String {
    crate::plain::json(&serde_json::to_string(status).unwrap_or_default())
}

/// The status; with the worst keys, where a person reads it.
async fn read(client: &tokio_postgres::Client, schema: &Schema, config: &Config, keys: bool) -> Result<Seen, Error> {
    let status = status::read(client, schema).await?;
    let worst = if keys { worst::read(client, schema, config).await? } else { Vec::new() };
    Ok(Seen { status, worst })
}
