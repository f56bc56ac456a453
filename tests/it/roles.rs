//! Three roles: a DBA who is no superuser runs the printed script, and everything runs with exactly these rights. Each of
//! them is then taken away by itself, and something fails.

mod needed;
mod row_security;
mod too_much;

use std::process::Stdio;

use crate::support::postgres::{Server, connect};
use crate::support::receiver::Receiver;
use crate::*;

const DBA: &str = "dba \"Ann\"";

/// The application's tables, which the DBA owns, and who works with them: `writer` has no right on anything of ours, `app`
/// is a member of the application role.
const SHOP: &str = r#"
CREATE SCHEMA shop;
CREATE SCHEMA hidden;
CREATE TABLE shop.orders (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open', amount numeric NOT NULL DEFAULT 1);
CREATE TABLE shop.items (id bigint PRIMARY KEY, name text, quantity int, reorder_level int, supplier int);
CREATE TABLE hidden.suppliers (id int PRIMARY KEY, name text, password text);
INSERT INTO hidden.suppliers SELECT g, 'supplier ' || g, 'secret' FROM generate_series(1, 3) g;
CREATE TABLE shop.parts (id int, region text) PARTITION BY LIST (region);
CREATE TABLE shop.parts_north PARTITION OF shop.parts FOR VALUES IN ('north');
CREATE TABLE shop.parts_south PARTITION OF shop.parts FOR VALUES IN ('south');
CREATE TABLE shop.servers (id int PRIMARY KEY, status text);
CREATE TABLE hidden.jobs (id int PRIMARY KEY, state text, cost numeric, note text);
CREATE FUNCTION shop.is_open(status text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT status = 'open' $$;
REVOKE EXECUTE ON FUNCTION shop.is_open(text) FROM PUBLIC;
CREATE ROLE writer LOGIN;
CREATE ROLE app LOGIN;
GRANT USAGE ON SCHEMA shop, hidden TO writer;
GRANT ALL ON ALL TABLES IN SCHEMA shop, hidden TO writer;
GRANT ALL ON ALL SEQUENCES IN SCHEMA shop TO writer;
"#;

/// Everything that a watch can be.
const WATCHES: &str = r#"
[[watch]]
name = "orders"
table = "shop.orders"
key = ["tenant_id"]
where = "shop.is_open(status)"
threshold = 20
storm = { limit = 3, per = "1s" }
[[watch.publish]]
channels = ["orders"]
event = "orders.many"

[[watch]]
name = "amounts"
table = "shop.orders"
key = ["tenant_id"]
sum = "amount"
threshold = 1000
[[watch.publish]]
channels = ["amounts.{{ key.tenant_id }}"]
event = "amounts.many"

[[watch]]
name = "stock"
table = "shop.items"
value = "quantity"
compare = "<"
threshold_column = "reorder_level"
lookup = "SELECT name AS supplier_name FROM hidden.suppliers WHERE id = :supplier"
[[watch.publish]]
channels = ["stock"]
event = "stock.low"
data = { name = "{{ row.name }}", supplier = "{{ row.supplier_name }}" }

[[watch]]
name = "parts"
table = "shop.parts"
key = ["region"]
threshold = 10
[[watch.publish]]
channels = ["parts"]
event = "parts.many"

[[watch]]
name = "servers"
table = "shop.servers"
[[watch.publish]]
channels = ["servers"]
event = "servers.changed"
on = "change"
coalesce = "200ms"
data = { id = "{{ key.id }}", status = "{{ row.status }}" }

[[watch]]
name = "jobs"
query = "SELECT state, cost FROM hidden.jobs"
every = "200ms"
key = ["state"]
sum = "cost"
threshold = 5
[[watch.publish]]
channels = ["jobs"]
event = "jobs.many"

[[watch]]
name = "told"
notify = "item_count"
threshold = 5
[[watch.publish]]
channels = ["told"]
event = "told"
"#;

/// A cluster of its own, since roles belong to the cluster.
struct World {
    server: Server,
    database: Database,
    receiver: Receiver,
    daemon: Daemon,
}

impl World {
    async fn new(watches: &str) -> World {
        let server =
            Server::start(&["log_statement = 'all'", "log_line_prefix = '%m [%p] %d %u '", "log_parameter_max_length = 0"]);
        let (database, receiver) = (server.database().await, Receiver::start().await);
        let name = database.name.clone();
        // Nobody has anything by default: what is needed must be granted.
        database
            .sql(&format!(
                "CREATE ROLE \"dba \"\"Ann\"\"\" LOGIN CREATEROLE; ALTER DATABASE {name} OWNER TO \"dba \"\"Ann\"\"\";
                 REVOKE ALL ON DATABASE {name} FROM PUBLIC"
            ))
            .await;
        let mut world = World { daemon: daemon(""), server, database, receiver };
        world.psql(DBA, SHOP).await;
        world.database.sql(&format!("GRANT CONNECT ON DATABASE {name} TO writer, app")).await;
        world.daemon = daemon(&world.config(DBA, watches));
        world
    }

    fn url(&self, user: &str) -> String {
        format!("host=127.0.0.1 port={} user='{user}' dbname={}", self.server.port, self.database.name)
    }

    fn config(&self, user: &str, watches: &str) -> String {
        let url = self.url(user).replace('"', "\\\"");
        config_with(&self.database, &self.receiver, "install = \"manual\"", watches).replace(&self.database.url(), &url)
    }

    /// Runs SQL through psql, as the DBA would: once more where a lock was not to be had in time, as the script says.
    async fn psql(&self, user: &str, sql: &str) {
        let file = self.daemon.file.with_extension("sql");
        std::fs::write(&file, sql).expect("the script is written");
        support::eventually("the script gets its locks", async || {
            let mut command = self.server.program("psql", &self.database.name);
            command.env("PGUSER", user).args(["-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&file).stdout(Stdio::null());
            let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("psql starts");
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() || told.contains("lock timeout"), "{told}");
            output.status.success().then_some(())
        })
        .await;
        let _removed = std::fs::remove_file(file);
    }

    async fn run(&self, arguments: &[&str]) -> String {
        let (code, out, err) = self.daemon.run(arguments).await;
        assert_eq!(code, 0, "{arguments:?}: {out}{err}");
        out
    }

    /// Has the DBA run the script, twice, and lets the daemon's role take over.
    async fn installed(&mut self, watches: &str, options: &[&str], user: &str) -> String {
        let script = self.run(&[&["install", "--print", "--roles"], options].concat()).await;
        self.psql(DBA, &script).await;
        self.psql(DBA, &script).await;
        self.daemon.configure(&self.config(user, watches));
        script
    }
}

/// For `exact`.
const TRUE_OPEN: &str = "SELECT jsonb_build_array(tenant_id)::text, count(*) FROM shop.orders WHERE status = 'open' GROUP BY 1";

#[tokio::test(flavor = "multi_thread")]
async fn everything_runs_with_exactly_these_rights_and_each_one_taken_away_is_needed() {
    let mut world = World::new(WATCHES).await;
    let script = world.installed(WATCHES, &[], "items_listen_daemon").await;
    assert!(script.contains("GRANT SELECT (\"id\", \"name\") ON \"hidden\".\"suppliers\" TO"), "no password: {script}");
    world.psql(DBA, "GRANT items_listen_app TO app").await;
    let owned: i64 = world
        .database
        .one(
            "SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'items_listen'::regnamespace AND relowner <> 'items_listen_owner'::regrole)
                  + (SELECT count(*) FROM pg_proc WHERE pronamespace = 'items_listen'::regnamespace AND proowner <> 'items_listen_owner'::regrole)",
        )
        .await;
    assert_eq!(owned, 0, "everything belongs to the owner");
    well(&world).await;

    whole_way(&mut world).await;
    commands(&mut world).await;
    world.daemon.terminate().await;
    applications(&world).await;
    needed::each(&world, &script).await;
    // And away with it, as the documentation says.
    let page = include_str!("../../docs/privileges.md");
    let away = page.split_once("## Away with it").and_then(|(_, rest)| rest.split_once("```sql\n")).expect("a block").1;
    world.psql(DBA, away.split_once("```").expect("its end").0).await;
    let left = "SELECT (SELECT count(*) FROM pg_roles WHERE rolname LIKE 'items_listen%')
                     + (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'items_listen%')";
    assert_eq!(world.database.one::<i64>(left).await, 0);
    connect(&world.url("writer")).await.batch_execute("INSERT INTO shop.orders (tenant_id) VALUES (1)").await.expect("as before");
}

/// `check` has nothing to mend, and finds nothing that is too much.
async fn well(world: &World) {
    let report: serde_json::Value = serde_json::from_str(&world.run(&["check", "--json"]).await).expect("JSON");
    let found = report["findings"].as_array().expect("findings");
    let too_much = ["role-rights", "function-rights", "schema-grants", "ownership"];
    assert!(!found.iter().any(|finding| too_much.iter().any(|id| finding["id"] == *id)), "{report:#}");
}

/// The daemon serves watches of every kind, as applications that know nothing of it write.
async fn whole_way(world: &mut World) {
    world.daemon.start().await;
    let (receiver, database) = (&world.receiver, &world.database);
    let writer = connect(&world.url("writer")).await;
    let write = async |sql: &str| writer.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let heard = async |name: &str, channel: &str| {
        let of = |event: &support::receiver::Event| event.name == name && event.channels.iter().any(|told| told == channel);
        receiver.wait(&format!("{name} on {channel}"), |events| events.iter().any(of)).await;
    };
    write("INSERT INTO shop.orders (tenant_id, amount) SELECT 1, 100 FROM generate_series(1, 20)").await;
    heard("orders.many", "orders").await;
    heard("amounts.many", "amounts.1").await;
    write("INSERT INTO shop.items VALUES (1, 'screws', 5, 10, 1)").await;
    let low = receiver.wait("low stock", |events| events.iter().any(|event| event.name == "stock.low")).await;
    let low = low.iter().find(|event| event.name == "stock.low").expect("it came");
    assert_eq!((low.text("name"), low.text("supplier")), ("screws".into(), "supplier 1".into()));
    write("INSERT INTO shop.parts SELECT g, CASE WHEN g < 12 THEN 'north' ELSE 'south' END FROM generate_series(1, 13) g").await;
    heard("parts.many", "parts").await;
    for status in ["new", "up", "down"] {
        write(&format!(
            "INSERT INTO shop.servers VALUES (1, '{status}') ON CONFLICT (id) DO UPDATE SET status = excluded.status"
        ))
        .await;
    }
    receiver
        .wait("the last status", |events| {
            events.iter().any(|event| event.name == "servers.changed" && event.text("status") == "down")
        })
        .await;
    write("INSERT INTO hidden.jobs SELECT g, 'failed', 1 FROM generate_series(1, 6) g").await;
    heard("jobs.many", "jobs").await;
    write("NOTIFY item_count, '7'").await;
    heard("told", "told").await;
    // A storm, and its digest.
    write("INSERT INTO shop.orders (tenant_id) SELECT t FROM generate_series(100, 110) t, generate_series(1, 25)").await;
    receiver.wait("a digest", |events| events.iter().any(|event| event.text("transition") == "digest")).await;
    // Keys that are gone, and a recount.
    write("DELETE FROM shop.orders WHERE tenant_id > 100; DELETE FROM shop.items; DELETE FROM hidden.jobs; TRUNCATE shop.parts")
        .await;
    exact(database, "orders", TRUE_OPEN).await;
    exact(database, "parts", "SELECT jsonb_build_array(region)::text, count(*) FROM shop.parts GROUP BY 1").await;
    assert!(world.run(&["recount"]).await.contains("orders: exact"));
    assert!(world.run(&["check", "--recount"]).await.contains("exactly those of the table"));
    // What no trigger saw.
    database
        .sql(
            "SET session_replication_role = replica; DELETE FROM shop.orders WHERE tenant_id = 1; RESET session_replication_role",
        )
        .await;
    assert!(world.run(&["recount", "orders"]).await.contains("corrected"));
}

/// The commands that an operator uses, the page, a reload and what retention removes.
async fn commands(world: &mut World) {
    world.run(&["--trigger", "31", "--watch", "orders", "--key", "tenant_id=1"]).await;
    // What could not be written.
    let locker = world.database.session().await;
    locker
        .batch_execute(
            "SET deadlock_timeout = '10min'; BEGIN; LOCK TABLE items_listen.journal, items_listen.marker IN SHARE MODE",
        )
        .await
        .expect("locks");
    world.database.sql("INSERT INTO shop.orders (tenant_id) VALUES (1)").await;
    locker.batch_execute("COMMIT").await.expect("lets go");
    world.daemon.logged("triggers could write neither journal nor marker").await;
    assert_eq!(world.daemon.get("/metrics").await.map(|(status, _)| status), Some(200));
    live(&world.daemon).await;
    let log = world.daemon.lines("configuration");
    world.daemon.signal("HUP");
    support::eventually("a reload is said", async || (world.daemon.lines("configuration") > log).then_some(())).await;
    world.daemon.ready().await;
    // Refused for good, by hand again, and put away.
    world.receiver.status(400);
    let (_, out, err) = world.daemon.run(&["--trigger", "40", "--watch", "orders", "--key", "tenant_id=1"]).await;
    assert!(out.contains("dead"), "{out}{err}");
    assert!(world.run(&["deliveries", "list", "--state", "dead"]).await.contains("orders"));
    let dead: i64 = world.database.one("SELECT max(id) FROM items_listen.delivery WHERE state = 'dead'").await;
    world.run(&["deliveries", "show", &dead.to_string()]).await;
    world.run(&["deliveries", "discard", &dead.to_string()]).await;
    world.receiver.status(200);
    world.run(&["deliveries", "retry"]).await;
    let alert: uuid::Uuid = world.database.one("SELECT min(id::text)::uuid FROM items_listen.alert").await;
    world.run(&["alerts", "list"]).await;
    world.run(&["alerts", "read", &alert.to_string()]).await;
    support::eventually("all is well", async || (world.daemon.run(&["status"]).await.0 == 0).then_some(())).await;
    world.run(&["status", "--json"]).await;
    world.run(&["install", "--print"]).await;
    retire(world).await;
    again(world).await;
    // A watch that nobody has installed.
    let uninstalled = format!("{WATCHES}{}", ORDERS.replace("public.orders", "shop.later").replace("\"orders\"", "\"later\""));
    world.daemon.terminate().await;
    world.daemon.configure(&world.config("items_listen_daemon", &uninstalled));
    world.daemon.start().await;
    world.daemon.logged("watch degraded").await;
    let noted = "SELECT count(*) FROM items_listen.watch WHERE error IS NOT NULL AND name = 'later'";
    support::eventually("it is noted", async || (world.database.one::<i64>(noted).await == 1).then_some(())).await;
    world.daemon.terminate().await;
    world.database.sql("DELETE FROM items_listen.watch WHERE name = 'later'").await;
    world.daemon.configure(&world.config("items_listen_daemon", WATCHES));
    world.daemon.start().await;
}

/// The script once more, while the daemon works: it never is without a right that it needs.
async fn again(world: &World) {
    let script = world.run(&["install", "--print", "--roles"]).await;
    world.psql(DBA, &script).await;
    let known = world.receiver.accepted().len();
    world.psql(DBA, "INSERT INTO shop.orders (tenant_id) SELECT 500 FROM generate_series(1, 20)").await;
    world.receiver.wait_for_more(known).await;
    exact(&world.database, "orders", TRUE_OPEN).await;
    assert_eq!(world.daemon.lines("permission denied"), 0, "{:?}", world.daemon.log());
}

/// Reads the page's stream until it has said something.
async fn live(daemon: &Daemon) {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    let mut stream = tokio::net::TcpStream::connect(daemon.address().expect("it listens")).await.expect("connects");
    stream.write_all(b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("asks");
    let mut lines = BufReader::new(stream).lines();
    let said = async {
        while let Ok(Some(line)) = lines.next_line().await {
            if line.starts_with("data: ") && line.contains("\"orders\"") {
                return;
            }
        }
        panic!("the stream ended");
    };
    tokio::time::timeout(support::PATIENCE, said).await.expect("a document");
}

/// Retention, as the daemon does it, with nothing to be kept.
async fn retire(world: &World) {
    use items_listen::config::Secret;
    use items_listen::db::{pool::Pool, schema::Schema, session::Connector};
    use items_listen::retention::{Retention, sweep};
    let connector = Connector::new(&Secret::new(world.url("items_listen_daemon")), "items_listen").expect("a URL");
    let pool = Pool::new(&connector, 1).expect("a pool");
    let none =
        Retention { events: std::time::Duration::ZERO, delivered: std::time::Duration::ZERO, dead: std::time::Duration::ZERO };
    assert!(sweep(&pool, &Schema::new("items_listen"), &none).await.expect("the daemon's role may") > 0);
}

/// What the application may do with its own role, and what it may not; a writer may do nothing with ours.
async fn applications(world: &World) {
    let app = connect(&world.url("app")).await;
    let writer = connect(&world.url("writer")).await;
    let allowed = [
        "SELECT * FROM items_listen.alert",
        "UPDATE items_listen.alert SET read_at = now()",
        "INSERT INTO items_listen.threshold VALUES ('orders', '{\"tenant_id\": 7}', 3)",
        "UPDATE items_listen.threshold SET threshold = 4 WHERE key = '{\"tenant_id\": 7}'",
        "DELETE FROM items_listen.threshold",
    ];
    for sql in allowed {
        app.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        denied(&writer, sql).await;
    }
    denied(&app, "UPDATE items_listen.alert SET severity = 'info'").await;
    denied(&app, "TRUNCATE items_listen.threshold").await;
    denied(&app, "CREATE TABLE items_listen.mine (n int)").await;
    denied(&app, "SELECT nextval('items_listen.seq')").await;
    denied(&app, "SELECT items_listen.not_whole(1.5)").await;
    denied(&app, "CREATE TEMP TABLE t (n int)").await;
    let ours = "SELECT relname::text FROM pg_class WHERE relnamespace = 'items_listen'::regnamespace AND relkind IN ('r', 'v')";
    for row in world.database.client.query(ours, &[]).await.expect("the catalog") {
        let table: String = row.get(0);
        for client in [&app, &writer] {
            let is_app = std::ptr::eq(client, &raw const app);
            if !(is_app && ["alert", "threshold"].contains(&table.as_str())) {
                denied(client, &format!("SELECT * FROM items_listen.{table}")).await;
                // What cannot be changed by anybody is refused for another reason.
                if table != "alert" {
                    denied(client, &format!("DELETE FROM items_listen.{table}")).await;
                    denied(client, &format!("INSERT INTO items_listen.{table} DEFAULT VALUES")).await;
                }
            }
        }
    }
    // Nor does it get in by calling what triggers call.
    denied(&writer, "CREATE TRIGGER mine AFTER INSERT ON shop.orders EXECUTE FUNCTION items_listen.watch_1_insert()").await;
}

async fn denied(client: &tokio_postgres::Client, sql: &str) {
    let error = client.batch_execute(sql).await.expect_err(sql);
    assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("42501"), "{sql}: {error:?}");
}
