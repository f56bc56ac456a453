//! Roles that are there before the script: what would void the separation ends it, what weakens it is a warning.

use std::process::Stdio;

use super::too_much::OPEN_ORDERS;
use super::{DBA, World};

/// What psql says of a script as this role: whether it ran to its end, and the lines with warnings and errors.
async fn told(world: &World, user: &str, sql: String) -> (bool, Vec<String>) {
    let mut command = world.server.program("psql", &world.database.name);
    command.env("PGUSER", user).args(["-q", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || {
        let mut psql = command.spawn().expect("psql starts");
        let mut input = psql.stdin.take().expect("its input");
        std::io::Write::write_all(&mut input, sql.as_bytes()).expect("written");
        drop(input);
        psql.wait_with_output().expect("psql ends")
    });
    let output = output.await.expect("no panic");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines = text.lines().filter(|line| line.contains("WARNING:") || line.contains("ERROR:"));
    (output.status.success(), lines.map(str::to_owned).collect())
}

/// Roles that each have one thing too much, and what is said of it: a warning, or else the end.
const CASES: &[(&str, bool, &str)] = &[
    ("ALTER ROLE o SUPERUSER", true, "o (the owner) is a superuser: where, sum and value would run as a superuser"),
    ("ALTER ROLE d SUPERUSER", true, "d (the daemon) is a superuser"),
    ("ALTER ROLE a SUPERUSER", true, "a (the application) is a superuser"),
    ("GRANT o TO a", true, "a (the application) is a member of o (the owner): what only the owner may do"),
    ("CREATE ROLE middle; GRANT o TO middle; GRANT middle TO a", true, "a (the application) is a member of o (the owner)"),
    ("ALTER ROLE a NOINHERIT; GRANT o TO a", true, "a (the application) is a member of o (the owner)"),
    ("GRANT d TO a", true, "a (the application) is a member of d (the daemon): it may write journal"),
    ("GRANT o TO d", true, "d (the daemon) is a member of o (the owner)"),
    ("GRANT a TO d", false, "d (the daemon) is a member of a (the application)"),
    ("GRANT d TO o", false, "o (the owner) is a member of d (the daemon): what runs in writers' statements"),
    ("GRANT a TO o", false, "o (the owner) is a member of a (the application)"),
    ("GRANT pg_write_all_data TO a", true, "a (the application) is a member of pg_write_all_data"),
    ("GRANT pg_write_all_data TO d", false, "d (the daemon) is a member of pg_write_all_data"),
    ("GRANT pg_read_all_data TO a", false, "a (the application) is a member of pg_read_all_data"),
    ("GRANT pg_execute_server_program TO d", true, "d (the daemon) is a member of pg_execute_server_program"),
    ("ALTER ROLE o BYPASSRLS", false, "o (the owner) has BYPASSRLS"),
    ("ALTER ROLE d BYPASSRLS", false, "d (the daemon) has BYPASSRLS: nothing that is watched here"),
    ("ALTER ROLE a REPLICATION", false, "a (the application) has REPLICATION"),
    ("ALTER ROLE o CREATEROLE", false, "o (the owner) has CREATEROLE"),
    ("ALTER ROLE o LOGIN", false, "o (the owner) may log in"),
    ("ALTER ROLE d NOLOGIN", false, "d (the daemon) may not log in"),
    (
        "ALTER TABLE shop.orders OWNER TO a",
        false,
        "a (the application) owns shop.orders, or is a member of who does: it may disable",
    ),
    ("CREATE ROLE team; ALTER TABLE shop.orders OWNER TO team; GRANT team TO d", false, "d (the daemon) owns shop.orders"),
    ("GRANT INSERT ON shop.orders TO o", false, "o (the owner) may write shop.orders, which it need not"),
    ("GRANT TRIGGER ON shop.orders TO d", false, "d (the daemon) may write shop.orders"),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_in_a_role_that_is_there_is_said_and_what_voids_the_separation_ends_the_script() {
    let world = World::new(OPEN_ORDERS).await;
    let names = ["--owner", "o", "--daemon", "d", "--application", "a"];
    let script = world.run(&[&["install", "--print", "--roles"][..], &names].concat()).await;
    let (roles, _) = script.split_once("\n-- 2. ").expect("its parts");
    let after = async |setup: &str| {
        let made = "CREATE ROLE o NOLOGIN; CREATE ROLE d LOGIN; CREATE ROLE a NOLOGIN";
        told(&world, "postgres", format!("BEGIN;\n{made};\n{setup};\n{roles}\nROLLBACK;\n")).await
    };
    assert_eq!(after("SELECT 1").await, (true, vec![]), "roles as they should be need no word");
    for (setup, voids, said) in CASES {
        let (is_done, lines) = after(setup).await;
        let level = if *voids { "ERROR:" } else { "WARNING:" };
        let is_said = matches!(lines.as_slice(), [line] if line.contains(level) && line.contains(said));
        assert!(is_said && is_done != *voids, "{setup}: {is_done} {lines:#?}");
    }
    // Until PostgreSQL 15 who may create roles may make himself a member of any.
    let version: i32 = world.database.one("SELECT current_setting('server_version_num')::int").await;
    for role in ["d", "a"] {
        let (is_done, lines) = after(&format!("ALTER ROLE {role} CREATEROLE")).await;
        assert!(is_done == (version >= 160_000) && lines.len() == 1 && lines[0].contains("has CREATEROLE"), "{lines:#?}");
    }
    // What a watch needs is not too much.
    assert_eq!(after("ALTER ROLE d BYPASSRLS; ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY").await, (true, vec![]));
    // All that is wrong is said at once.
    let (_, lines) = after("GRANT o TO a; GRANT o TO d; ALTER ROLE o LOGIN").await;
    assert!(
        lines.len() == 2
            && lines[0].contains("WARNING:")
            && lines[1].contains("d (the daemon)")
            && lines[1].contains("a (the app"),
        "{lines:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_as_an_existing_application_or_with_one_that_owns_the_tables() {
    let world = World::new(OPEN_ORDERS).await;
    // Who runs the script becomes a member of the owner: it cannot be the application, nor a group that the application is in.
    world.database.sql("CREATE ROLE screens LOGIN; GRANT \"dba \"\"Ann\"\"\" TO screens").await;
    for application in [DBA, "screens"] {
        let script = world.run(&["install", "--print", "--roles", "--application", application]).await;
        let (is_done, lines) = told(&world, DBA, script).await;
        assert!(
            !is_done
                && lines.iter().any(|line| line
                    .contains("(the application) is a member of items_listen_owner (the owner), as whoever runs this becomes")),
            "{lines:#?}"
        );
        let made = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'items_listen%'";
        assert_eq!(world.database.one::<i64>(made).await, 0, "nothing is left of it");
    }
    world.database.sql("ALTER TABLE shop.orders OWNER TO app").await;
    // A warning ends nothing.
    let script = world.run(&["install", "--print", "--roles", "--application", "app"]).await;
    let (is_done, lines) = told(&world, "postgres", script).await;
    assert!(
        is_done && matches!(lines.as_slice(), [line] if line.contains("app (the application) owns shop.orders")),
        "{lines:#?}"
    );
    // A watch that is not configured any more goes, its functions as their owner.
    world.daemon.configure(&world.config("postgres", &OPEN_ORDERS.replace("name = \"orders\"", "name = \"open\"")));
    let script = world.run(&["install", "--print", "--roles", "--application", "app"]).await;
    let (is_done, lines) = told(&world, "postgres", format!("{script}\n{script}")).await;
    assert!(is_done && lines.len() == 2, "the warning, twice: {lines:#?}");
    let left =
        "SELECT concat_ws(' ', (SELECT string_agg(name, ' ') FROM items_listen.watch), count(*), min(split_part(tgname, '_', 3)))
                FROM pg_trigger WHERE tgname LIKE 'items\\_listen\\_%'";
    assert_eq!(world.database.one::<String>(left).await, "open 4 2");
    let functions = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'watch\\_1\\_%'";
    assert_eq!(world.database.one::<i64>(functions).await, 0);
}
