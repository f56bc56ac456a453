//! What the owner of a watched table, who has fewer rights than our roles, may make them run: with exactly the roles that the
//! script makes. Each of its functions says in the server's log as whom it was run, which no ROLLBACK takes back.

use super::World;
use crate::degraded::error_of;
use crate::support::postgres::connect;
use crate::*;

/// Tables of the role `clerk`, which owns nothing else.
const CLERKS: &str = r#"
CREATE ROLE clerk LOGIN;
GRANT CREATE ON SCHEMA shop TO clerk;
GRANT USAGE ON SCHEMA shop TO PUBLIC;
CREATE TABLE shop.tickets (id serial PRIMARY KEY, tenant_id int, status text NOT NULL DEFAULT 'open', tags text[]);
CREATE TABLE shop.stock (id int PRIMARY KEY, name text, quantity int, reorder_level int);
ALTER TABLE shop.tickets OWNER TO clerk;
ALTER TABLE shop.stock OWNER TO clerk;
"#;

const WATCHES: &str = r#"
[[watch]]
name = "tickets"
table = "shop.tickets"
key = ["tenant_id"]
where = "status = 'open' AND tags IS DISTINCT FROM '{hidden}'"
threshold = 20
[[watch.publish]]
channels = ["tickets.{{ key.tenant_id }}"]
event = "tickets.many"

[[watch]]
name = "stock"
table = "shop.stock"
value = "quantity"
compare = "<"
threshold_column = "reorder_level"
[[watch.publish]]
channels = ["stock.{{ key.id }}"]
event = "stock.low"
data = { name = "{{ row.name }}", count = "{{ count }}" }
"#;

/// What the clerk makes: a type with casts that call a function of its, and a domain whose check calls one.
const EVIL: &str = r#"
CREATE FUNCTION shop.say(what text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
    RAISE LOG 'SPY: % as % of %', what, current_user, session_user; RETURN 'open'; END $$;
CREATE FUNCTION shop.said(what text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
    PERFORM shop.say(what); RETURN true; END $$;
CREATE TYPE shop.evil AS ENUM ('open', 'done');
CREATE FUNCTION shop.evil_text(shop.evil) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN shop.say('a cast'); END $$;
CREATE FUNCTION shop.evil_json(shop.evil) RETURNS json LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN to_json(shop.say('a cast to json')); END $$;
CREATE CAST (shop.evil AS text) WITH FUNCTION shop.evil_text(shop.evil) AS IMPLICIT;
CREATE CAST (shop.evil AS json) WITH FUNCTION shop.evil_json(shop.evil);
CREATE DOMAIN shop.checked AS text CHECK (shop.said('a check of a domain'));
CREATE TYPE shop.composite AS (part shop.checked);
"#;

const TRUE_TICKETS: &str =
    "SELECT jsonb_build_array(tenant_id)::text, count(*) FROM shop.tickets WHERE status::text = 'open' GROUP BY 1";

/// Everything installed with three roles, a daemon that runs, and the clerk's session.
async fn clerks() -> (World, tokio_postgres::Client) {
    let mut world = World::new(WATCHES).await;
    world.database.sql(CLERKS).await;
    let name = &world.database.name;
    let grants =
        format!("GRANT CONNECT ON DATABASE {name} TO clerk; GRANT SELECT ON shop.tickets, shop.stock TO \"dba \"\"Ann\"\"\"");
    world.database.sql(&grants).await;
    let script = world.run(&["install", "--print", "--roles"]).await;
    // Who may make triggers on tables of others.
    world.psql("postgres", &script).await;
    world.daemon.configure(&world.config("items_listen_daemon", WATCHES));
    world.daemon.start().await;
    let clerk = connect(&world.url("clerk")).await;
    clerk.batch_execute(EVIL).await.expect("it may make types");
    (world, clerk)
}

impl World {
    /// How often code of the clerk's was run as one of our roles, and as whom it was last.
    fn spied(&self) -> (usize, usize) {
        let name = &self.database.name;
        (self.server.logged(name, "as items_listen_owner of "), self.server.logged(name, "as items_listen_daemon of "))
    }
}

async fn write(clerk: &tokio_postgres::Client, sql: &str) {
    clerk.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// Until the watch says something like this.
async fn degraded(world: &World, watch: &str, what: &str) {
    support::eventually(&format!("{watch} says {what}"), async || {
        error_of(&world.daemon, watch).await.filter(|error| error.contains(what))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_another_type_runs_no_code_of_the_tables_owner_as_ours() {
    let (world, clerk) = clerks().await;
    let insert = "INSERT INTO shop.tickets (tenant_id) SELECT 1 FROM generate_series(1, 3)";
    write(&clerk, insert).await;
    exact(&world.database, "tickets", TRUE_TICKETS).await;
    let types = [
        ("status", "shop.evil", "NULL::shop.evil"),
        ("status", "shop.composite", "NULL::shop.composite"),
        ("tags", "shop.checked[]", "NULL::shop.checked[]"),
        ("tenant_id", "shop.evil", "NULL::shop.evil"),
    ];
    for (column, kind, using) in types {
        let was: String = world
            .database
            .one(&format!("SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = 'shop.tickets'::regclass AND attname = '{column}'"))
            .await;
        write(&clerk, "ALTER TABLE shop.tickets ALTER status DROP NOT NULL, ALTER status DROP DEFAULT").await;
        write(&clerk, &format!("ALTER TABLE shop.tickets ALTER {column} TYPE {kind} USING {using}")).await;
        // Of one row and of several, of each kind; in a session whose functions are planned already, and in a new one.
        let another = connect(&world.url("clerk")).await;
        for session in [&clerk, &another] {
            write(session, "INSERT INTO shop.tickets DEFAULT VALUES").await;
            write(session, "INSERT INTO shop.tickets (id) SELECT nextval('shop.tickets_id_seq') FROM generate_series(1, 3)")
                .await;
            write(session, "UPDATE shop.tickets SET id = -id WHERE id = (SELECT max(id) FROM shop.tickets)").await;
            write(
                session,
                "UPDATE shop.tickets SET id = -id; DELETE FROM shop.tickets WHERE id = (SELECT max(id) FROM shop.tickets)",
            )
            .await;
        }
        let (_, out, err) = world.daemon.run(&["recount", "tickets"]).await;
        world.daemon.run(&["check", "--recount"]).await;
        assert_eq!(world.spied(), (0, 0), "{column} {kind}: {out}{err}");
        degraded(&world, "tickets", "clerk could let that type run its own code").await;
        write(&clerk, "DELETE FROM shop.tickets").await;
        write(&clerk, &format!("ALTER TABLE shop.tickets ALTER {column} TYPE {was} USING NULL")).await;
    }
    // What it was again, it is counted again.
    write(&clerk, "ALTER TABLE shop.tickets ALTER status SET DEFAULT 'open'").await;
    write(&clerk, insert).await;
    support::eventually("it is well again", async || error_of(&world.daemon, "tickets").await.is_none().then_some(())).await;
    exact(&world.database, "tickets", TRUE_TICKETS).await;
    assert_eq!(world.spied(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_in_the_place_of_a_table_runs_no_code_of_its_owner_as_ours() {
    let (world, clerk) = clerks().await;
    write(&clerk, "INSERT INTO shop.stock VALUES (1, 'screws', 5, 10), (2, 'nails', 50, 10)").await;
    let low = |events: &[support::receiver::Event]| events.iter().any(|event| event.name == "stock.low");
    world.receiver.wait("low stock", low).await;
    write(
        &clerk,
        "BEGIN; INSERT INTO shop.tickets (tenant_id) VALUES (1); UPDATE shop.stock SET quantity = 4;
         ALTER TABLE shop.stock RENAME TO stock_was; ALTER TABLE shop.tickets RENAME TO tickets_was;
         CREATE VIEW shop.stock AS SELECT id, shop.say('a view') AS name, quantity, reorder_level FROM shop.stock_was;
         CREATE VIEW shop.tickets AS SELECT id, tenant_id, shop.say('a view') AS status, tags FROM shop.tickets_was;
         GRANT SELECT ON shop.stock, shop.tickets TO items_listen_daemon; COMMIT",
    )
    .await;
    support::eventually("the fold is through", async || {
        let waiting = "SELECT count(*) FROM items_listen.journal";
        (world.database.one::<i64>(waiting).await == 0).then_some(())
    })
    .await;
    world.daemon.run(&["recount"]).await;
    world.daemon.run(&["check", "--recount"]).await;
    world.daemon.run(&["status"]).await;
    assert_eq!(world.spied(), (0, 0));
    degraded(&world, "stock", "").await;
    write(
        &clerk,
        "BEGIN; DROP VIEW shop.stock, shop.tickets; ALTER TABLE shop.stock_was RENAME TO stock;
         ALTER TABLE shop.tickets_was RENAME TO tickets; COMMIT",
    )
    .await;
    support::eventually("all is well again", async || (world.daemon.run(&["status"]).await.0 == 0).then_some(())).await;
    world
        .receiver
        .wait("what was written meanwhile", |events| {
            events.iter().any(|event| event.name == "stock.low" && event.number("count") == 4)
        })
        .await;
    exact(&world.database, "tickets", TRUE_TICKETS).await;
    // Nor is a part of the table read that is none of PostgreSQL's tables.
    world.database.sql("CREATE FOREIGN DATA WRAPPER far; GRANT USAGE ON FOREIGN DATA WRAPPER far TO clerk").await;
    write(
        &clerk,
        "CREATE SERVER far FOREIGN DATA WRAPPER far; CREATE FOREIGN TABLE shop.far () INHERITS (shop.tickets) SERVER far",
    )
    .await;
    degraded(&world, "tickets", "").await;
    let (_, out, err) = world.daemon.run(&["recount", "tickets"]).await;
    assert!(!format!("{out}{err}").contains("handler"), "it was read: {out}{err}");
    write(&clerk, "DROP FOREIGN TABLE shop.far").await;
    support::eventually("all is well again", async || (world.daemon.run(&["status"]).await.0 == 0).then_some(())).await;
    assert_eq!(world.spied(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_templates_tell_of_a_row_runs_no_code_of_the_tables_owner_as_ours() {
    let (world, clerk) = clerks().await;
    write(
        &clerk,
        "CREATE FUNCTION shop.composite_json(shop.composite) RETURNS json LANGUAGE plpgsql AS $$ BEGIN RETURN to_json(shop.say('a cast')); END $$;
         CREATE CAST (shop.composite AS json) WITH FUNCTION shop.composite_json(shop.composite);
         CREATE TYPE shop.word AS ENUM ('screws', 'nails')",
    )
    .await;
    write(&clerk, "INSERT INTO shop.stock VALUES (1, 'screws', 5, 10)").await;
    let told = |count: i64| {
        move |events: &[support::receiver::Event]| {
            events.iter().any(|event| event.number("count") == count && event.text("name") == "screws")
        }
    };
    world.receiver.wait("low stock", told(5)).await;
    for kind in ["shop.composite", "shop.evil"] {
        // In one transaction, so that the fold sees the change and the type at once.
        let change = "ALTER TABLE shop.stock ALTER name TYPE";
        write(&clerk, &format!("BEGIN; {change} {kind} USING NULL; UPDATE shop.stock SET quantity = quantity + 10; COMMIT"))
            .await;
        degraded(&world, "stock", "has a column of another type").await;
        // It is tried again, and stays refused.
        let refused = "SELECT count(*) FROM items_listen.count c JOIN items_listen.watch w ON w.id = c.watch WHERE w.name = 'stock' AND c.dirty > 0";
        beats(&world, 3).await;
        // Nor by a person who looks.
        world.daemon.run(&["status"]).await;
        world.daemon.run(&["--trigger", "3", "--watch", "stock", "--key", "id=1"]).await;
        assert_eq!((world.spied(), world.database.one::<i64>(refused).await), ((0, 0), 1), "{kind}");
        write(&clerk, "ALTER TABLE shop.stock ALTER name TYPE text USING 'screws'").await;
        support::eventually("it is read again", async || error_of(&world.daemon, "stock").await.is_none().then_some(())).await;
    }
    // The words of an ordinary type are told, whatever casts its owner adds; the daemon finds it at its start.
    write(&clerk, "ALTER TABLE shop.stock ALTER name TYPE shop.word USING 'screws'; UPDATE shop.stock SET quantity = 4").await;
    world.receiver.wait("low stock again", told(4)).await;
    write(
        &clerk,
        "CREATE FUNCTION shop.word_json(shop.word) RETURNS json LANGUAGE plpgsql AS $$ BEGIN RETURN to_json(shop.say('a cast')); END $$;
         CREATE CAST (shop.word AS json) WITH FUNCTION shop.word_json(shop.word);
         UPDATE shop.stock SET quantity = 50; ",
    )
    .await;
    exact(&world.database, "stock", "SELECT jsonb_build_array(id)::text, 1 FROM shop.stock").await;
    write(&clerk, "UPDATE shop.stock SET quantity = 3").await;
    world.receiver.wait("low stock once more", told(3)).await;
    assert_eq!(world.spied(), (0, 0));
}

/// Waits for some seconds' beats of the daemon.
async fn beats(world: &World, number: i64) {
    let beat = "SELECT max(extract(epoch FROM beat_at))::int8 FROM items_listen.instance";
    let first: i64 = world.database.one(beat).await;
    support::eventually("it has beaten", async || (world.database.one::<i64>(beat).await >= first + number).then_some(())).await;
}

/// What a superuser's daemon was made to run for the clerk, in triggers.
fn as_superuser(world: &World) -> usize {
    world.server.logged(&world.database.name, "as postgres of clerk")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_installs_by_itself_trusts_no_other_type_than_it_found() {
    let mut world = World::new(WATCHES).await;
    world.database.sql(CLERKS).await;
    let name = &world.database.name;
    world.database.sql(&format!("GRANT CONNECT ON DATABASE {name} TO clerk")).await;
    world.daemon.configure(&config(&world.database, &world.receiver, WATCHES));
    world.daemon.start().await;
    let clerk = connect(&world.url("clerk")).await;
    write(&clerk, EVIL).await;
    let insert = "INSERT INTO shop.tickets (tenant_id, status) VALUES (1, 'open')";
    let well = async |world: &World| {
        support::eventually("it is well", async || error_of(&world.daemon, "tickets").await.is_none().then_some(())).await;
    };
    // What runs nobody's code is put right by itself: another of PostgreSQL's own types, an ordinary type of words.
    for change in [
        "ALTER TABLE shop.tickets ALTER tags TYPE varchar[]",
        "CREATE TYPE shop.word AS ENUM ('open', 'done'); ALTER TABLE shop.tickets ALTER status DROP DEFAULT,
         ALTER status TYPE shop.word USING status::shop.word, ALTER status SET DEFAULT 'open'",
    ] {
        write(&clerk, change).await;
        write(&clerk, insert).await;
        exact(&world.database, "tickets", TRUE_TICKETS).await;
        well(&world).await;
    }
    // What does is not, neither by the daemon that runs nor by the next.
    write(&clerk, "ALTER TABLE shop.tickets ALTER status DROP DEFAULT, ALTER status TYPE shop.evil USING 'open'").await;
    for _ in 0..2 {
        write(&clerk, insert).await;
        degraded(&world, "tickets", "run items-listen install by hand").await;
        world.daemon.terminate().await;
        world.daemon.start().await;
    }
    assert_eq!((as_superuser(&world), world.server.logged(&world.database.name, "as postgres of postgres")), (0, 0));
    // By hand it is trusted, which is said.
    world.daemon.terminate().await;
    let (code, out, err) = world.daemon.run(&["install"]).await;
    assert!(
        code == 0 && out.contains("\"status\" is of type shop.evil, which clerk could let run code of its own"),
        "{code} {out}{err}"
    );
    let (code, out, _) = world.daemon.run(&["check"]).await;
    assert!(code == 1 && out.contains("which clerk could let run code of its own"), "{code} {out}");
    world.daemon.start().await;
    write(&clerk, insert).await;
    support::eventually("it is run", async || (as_superuser(&world) > 0).then_some(())).await;
    exact(&world.database, "tickets", "SELECT jsonb_build_array(tenant_id)::text, count(*) FROM shop.tickets GROUP BY 1").await;
}

/// What else the owner of a table may hang on it; how it goes away again; and whether PostgreSQL evaluates it for whoever plans
/// a query on the table, which a recount does.
const HUNG: [(&str, &str, bool); 9] = [
    ("CREATE INDEX hung ON shop.tickets ((id + shop.number('an index')))", "DROP INDEX shop.hung", true),
    ("CREATE INDEX hung ON shop.tickets (id) WHERE id > shop.number('a predicate')", "DROP INDEX shop.hung", true),
    (
        "CREATE STATISTICS shop.hung ON (id + shop.number('statistics')), status FROM shop.tickets",
        "DROP STATISTICS shop.hung",
        true,
    ),
    (
        "ALTER TABLE shop.tickets ADD CONSTRAINT hung CHECK (id <> -shop.number('a check'))",
        "ALTER TABLE shop.tickets DROP CONSTRAINT hung",
        false,
    ),
    (
        "ALTER TABLE shop.tickets ALTER status SET DEFAULT shop.say('a default')",
        "ALTER TABLE shop.tickets ALTER status SET DEFAULT 'open'",
        false,
    ),
    (
        "ALTER TABLE shop.tickets ADD hung int GENERATED ALWAYS AS (shop.number('a column')) STORED",
        "ALTER TABLE shop.tickets DROP hung",
        false,
    ),
    ("CREATE RULE hung AS ON INSERT TO shop.tickets DO ALSO SELECT shop.say('a rule')", "DROP RULE hung ON shop.tickets", false),
    (
        "CREATE DOMAIN shop.hung AS text CHECK (shop.said('a domain')); ALTER TABLE shop.tickets ALTER status TYPE shop.hung",
        "ALTER TABLE shop.tickets ALTER status TYPE text",
        false,
    ),
    (
        "ALTER TABLE shop.tickets ENABLE ROW LEVEL SECURITY; CREATE POLICY hung ON shop.tickets USING (shop.said('a policy'))",
        "DROP POLICY hung ON shop.tickets; ALTER TABLE shop.tickets DISABLE ROW LEVEL SECURITY",
        false,
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_on_a_table_is_never_run_by_triggers_and_by_a_recount_only_what_planning_evaluates() {
    let (world, clerk) = clerks().await;
    write(
        &clerk,
        "CREATE FUNCTION shop.number(what text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM shop.say(what); RETURN 0; END $$;
         GRANT ALL ON shop.tickets, shop.tickets_id_seq TO writer",
    )
    .await;
    for (make, undo, planned) in HUNG {
        let before = world.spied();
        write(&clerk, make).await;
        let writer = connect(&world.url("writer")).await;
        write(&writer, "INSERT INTO shop.tickets (tenant_id) VALUES (1)").await;
        write(&writer, "UPDATE shop.tickets SET tenant_id = 2; DELETE FROM shop.tickets").await;
        assert_eq!(world.spied().0, before.0, "{make}: in triggers");
        world.daemon.run(&["recount", "tickets"]).await;
        assert_eq!(world.spied().1 > before.1, planned, "{make}: in a recount");
        write(&clerk, undo).await;
    }
    assert_eq!(world.spied().0, 0);
}
