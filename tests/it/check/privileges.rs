//! What a role may not do that it must: each with the GRANT.

use super::{SUMMED, check, drop_role, finding, findings, of, role};
use crate::support::receiver::Receiver;
use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn each_missing_privilege_comes_with_the_grant_that_mends_it() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database
        .sql(
            "CREATE SCHEMA hidden; CREATE TABLE hidden.names (id int, name text);
             CREATE TABLE orders (id int, tenant_id int, status text NOT NULL DEFAULT 'open') PARTITION BY LIST (tenant_id);
             CREATE TABLE orders_1 PARTITION OF orders FOR VALUES IN (1);
             CREATE TABLE \"Orders 2\" PARTITION OF orders FOR VALUES IN (2);
             CREATE TABLE asked (n int)",
        )
        .await;
    database.sql(&format!("REVOKE TEMPORARY ON DATABASE {} FROM public", database.name)).await;
    let role = role(&database, "bare").await;
    let watches = format!(
        "{}lookup = \"SELECT name FROM hidden.names WHERE id = :tenant_id\"\n{}",
        ORDERS.split("[[watch.publish]]").next().unwrap_or_default(),
        ORDERS.split_once("[[watch.publish]]").map(|(_, rest)| format!("[[watch.publish]]{rest}")).unwrap_or_default()
    ) + "[[watch]]\nname = \"asked\"\nquery = \"SELECT n FROM public.asked\"\nsum = \"n\"\nevery = \"1s\"\nthreshold = 5\n\
         [[watch.publish]]\nchannels = [\"a\"]\nevent = \"e\"\n";
    let daemon = daemon(&config(&database, &receiver, &watches).replace("postgres@", &format!("{role}@")));
    let mut run = Vec::new();
    // Each GRANT is run as it is said, until nothing is missing.
    for _ in 0..8 {
        let (code, report) = check(&daemon, &[]).await;
        let grants: Vec<String> = findings(&report)
            .filter(|finding| finding["id"] == "privileges")
            .map(|finding| of(finding, "remedy").split(" or let a DBA").next().unwrap_or_default().to_owned())
            .collect();
        if grants.is_empty() {
            assert_eq!(code, 0, "{report:#}");
            break;
        }
        assert_eq!(code, 1);
        for grant in grants {
            database.sql(&grant).await;
            run.push(grant);
        }
    }
    run.sort();
    let name = &database.name;
    let expected = [
        format!("GRANT CREATE ON DATABASE \"{name}\" TO \"{role}\";"),
        format!("GRANT SELECT (\"id\", \"name\") ON \"hidden\".\"names\" TO \"{role}\";"),
        format!("GRANT SELECT ON \"public\".\"asked\" TO \"{role}\";"),
        format!("GRANT SELECT ON \"public\".\"orders\" TO \"{role}\";"),
        format!("GRANT TEMPORARY ON DATABASE \"{name}\" TO \"{role}\";"),
        format!("GRANT TRIGGER ON \"public\".\"orders\", \"public\".\"Orders 2\", \"public\".\"orders_1\" TO \"{role}\";"),
        format!("GRANT USAGE ON SCHEMA \"hidden\" TO \"{role}\";"),
    ];
    assert_eq!(run, expected);
    // And then it works.
    let (code, out, err) = daemon.run(&["install"]).await;
    assert_eq!(code, 0, "{out}{err}");
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");
    finding(&report, "ownership", "info");
    // Rows that are hidden could not be counted.
    database.sql("ALTER TABLE orders ENABLE ROW LEVEL SECURITY").await;
    let (_, report) = check(&daemon, &[]).await;
    assert!(of(finding(&report, "row-security", "error"), "remedy").contains("BYPASSRLS"));
    database.sql("DROP SCHEMA items_listen CASCADE").await;
    drop_role(&database, &role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_only_works_in_the_schema_needs_what_is_said_and_no_more() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let watches = format!("{ORDERS}{SUMMED}");
    let owner = daemon(&config(&database, &receiver, &watches));
    assert_eq!(owner.run(&["install"]).await.0, 0);
    let role = role(&database, "worker").await;
    database.sql(&format!("GRANT SELECT ON orders TO {role}")).await;
    let as_role = |lines: &str| config_with(&database, &receiver, lines, &watches).replace("postgres@", &format!("{role}@"));
    let mut daemon = daemon(&as_role("install = \"manual\""));
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 1);
    database.sql(of(finding(&report, "schema-privileges", "error"), "remedy")).await;
    let (code, report) = check(&daemon, &[]).await;
    assert_eq!(code, 0, "{report:#}");
    daemon.start().await;
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    exact(&database, "orders", TRUE_ORDERS).await;
    let (code, out, err) = daemon.run(&["recount"]).await;
    assert_eq!(code, 0, "{out}{err}");
    daemon.terminate().await;
    // With install = "auto" it would have to own the schema.
    daemon.configure(&as_role(""));
    let (_, report) = check(&daemon, &[]).await;
    assert!(of(finding(&report, "schema-privileges", "warning"), "remedy").contains("manual"), "{report:#}");
    drop_role(&database, &role).await;
}
