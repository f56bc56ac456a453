//! Other programs that deliver what happens in a database. `scripts/peers` installs them and prints the directory that
//! `PEERS` names; each is configured in its own file below `benches/peers`.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::support::postgres::Database;
use crate::support::receiver::{APP_ID, KEY, SECRET};

/// Where they are.
fn directory() -> Option<PathBuf> {
    std::env::var_os("PEERS").filter(|named| !named.is_empty()).map(PathBuf::from)
}

/// Whether there are any: without them the rows go without them.
pub fn installed() -> bool {
    directory().is_some()
}

/// One of them.
#[derive(Clone, Copy, PartialEq)]
pub enum Peer {
    GraphileWorker,
    GraphileWorkerRs,
    PgBoss,
}

impl Peer {
    pub const ALL: [Peer; 3] = [Peer::GraphileWorkerRs, Peer::GraphileWorker, Peer::PgBoss];

    pub fn name(self) -> &'static str {
        match self {
            Peer::GraphileWorker => "graphile-worker 0.18 + pusher",
            Peer::GraphileWorkerRs => "graphile_worker_rs 0.14, local queue",
            Peer::PgBoss => "pg-boss 12 + pusher",
        }
    }

    fn command(self) -> Command {
        let directory = directory().expect("PEERS names the directory that scripts/peers prints");
        let script = match self {
            Peer::GraphileWorkerRs => return Command::new(directory.join("bin/peer")),
            Peer::GraphileWorker => "graphile-worker.mjs",
            Peer::PgBoss => "pg-boss.mjs",
        };
        let mut command = Command::new(directory.join("node_modules/node/bin/node"));
        command.arg(directory.join(script));
        command
    }

    /// Starts it, and waits until it says that it is ready. It installs its own schema; `purpose` is `latency` or
    /// `deliveries`, for which its documentation recommends different settings.
    pub fn start(self, database: &Database, endpoint: &str, purpose: &str) -> Running {
        let mut command = self.command();
        command.arg(purpose).env("DATABASE_URL", database.url()).env("ENDPOINT", endpoint).env("NO_LOG_SUCCESS", "1");
        command.env("APP_ID", APP_ID).env("APP_KEY", KEY).env("APP_SECRET", SECRET).env("NODE_ENV", "production");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the peer starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let ready = lines.any(|line| line == "ready");
        assert!(ready, "{} ended before it was ready", self.name());
        // Whatever else it says must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Running { child }
    }

    /// The trigger through which the table `alerts (id, tenant_id)` reaches it: one for a whole statement, since each of
    /// them takes many jobs at once much more quickly than one by one.
    pub fn trigger(self) -> String {
        let enqueue = match self {
            // Both have the schema and the functions of Graphile Worker.
            Peer::GraphileWorker | Peer::GraphileWorkerRs => {
                "PERFORM graphile_worker.add_jobs((SELECT array_agg(
                     json_populate_record(NULL::graphile_worker.job_spec, json_build_object('identifier', 'alert',
                         'payload', json_build_object('id', id, 'tenant_id', tenant_id)))) FROM new_rows));"
            }
            // As its documentation has it for SQL, with the NOTIFY of its own `send` to a queue with `notify`.
            Peer::PgBoss => {
                "INSERT INTO pgboss.job (name, data)
                     SELECT 'alert', jsonb_build_object('id', id, 'tenant_id', tenant_id) FROM new_rows;
                 PERFORM pg_notify('pgboss_' || left(encode(sha224('pgboss'::bytea), 'hex'), 24), 'alert');"
            }
        };
        format!(
            "CREATE FUNCTION enqueue() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {enqueue} RETURN NULL; END $$;
             CREATE TRIGGER enqueue AFTER INSERT ON alerts REFERENCING NEW TABLE AS new_rows
                 FOR EACH STATEMENT EXECUTE FUNCTION enqueue();"
        )
    }
}

/// A peer that runs, until this is dropped.
pub struct Running {
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Graphile Worker's schema without any worker, for writers whose triggers add jobs.
pub fn graphile_schema(database: &Database) {
    let directory = directory().expect("PEERS names the directory that scripts/peers prints");
    let mut command = Command::new(directory.join("node_modules/node/bin/node"));
    command.arg(directory.join("node_modules/graphile-worker/dist/cli.js")).args(["--schema-only", "-c", &database.url()]);
    let output = command.stdin(Stdio::null()).output().expect("node starts");
    assert!(output.status.success(), "graphile-worker: {}", String::from_utf8_lossy(&output.stderr));
}
