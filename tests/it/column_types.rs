//! Columns of every kind of type in an expression: no statement of the writer's is without its row in the journal.

use crate::support::receiver::Receiver;
use crate::*;

const TYPES: &str = "
    CREATE EXTENSION citext; CREATE EXTENSION hstore;
    CREATE TYPE word AS ENUM ('open', 'done'); CREATE DOMAIN dword AS word NOT NULL DEFAULT 'open'; CREATE DOMAIN ddword AS dword;
    CREATE TYPE pair AS (a int, b text); CREATE DOMAIN dpair AS pair; CREATE TYPE span AS RANGE (subtype = float8);
    CREATE DOMAIN dspan AS span; CREATE DOMAIN dtext AS text CHECK (VALUE <> ''); CREATE DOMAIN dint AS int; CREATE DOMAIN dtexts AS text[]";

#[tokio::test(flavor = "multi_thread")]
async fn whatever_type_a_column_has_its_statements_are_journalled() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database.sql(TYPES).await;
    let types = [
        "int",
        "bigint",
        "numeric",
        "float8",
        "text",
        "varchar(9)",
        "char(3)",
        "name",
        "\"char\"",
        "boolean",
        "uuid",
        "bytea",
        "date",
        "time",
        "timestamptz",
        "timestamp",
        "interval",
        "money",
        "oid",
        "regclass",
        "bit(3)",
        "varbit",
        "inet",
        "cidr",
        "macaddr",
        "point",
        "json",
        "jsonb",
        "xml",
        "tsvector",
        "pg_lsn",
        "int[]",
        "text[]",
        "int4range",
        "int4multirange",
        "citext",
        "hstore",
        "word",
        "word[]",
        "dword",
        "dword[]",
        "ddword",
        "pair",
        "pair[]",
        "dpair",
        "dpair[]",
        "span",
        "dspan",
        "dspan[]",
        "dtext",
        "dtext[]",
        "dint",
        "dtexts",
    ];
    let columns: Vec<String> = types.iter().enumerate().map(|(number, kind)| format!("c{number} {kind}")).collect();
    let nothing = |number: usize| types[number] == "dword" || types[number] == "ddword";
    let given: Vec<String> = (0..types.len()).filter(|number| nothing(*number)).map(|number| format!("c{number}")).collect();
    database
        .sql(&format!(
            "CREATE TABLE t (id serial PRIMARY KEY, gone int, {}, made int GENERATED ALWAYS AS (c0 + 1) STORED); ALTER TABLE t DROP gone",
            columns.join(", ")
        ))
        .await;
    let counted = |number: usize| {
        format!(
            "[[watch]]\nname = \"w{number}\"\ntable = \"public.t\"\nwhere = \"c{number} IS NOT NULL OR id > 0\"\nthreshold = 1000\n\
             [[watch.publish]]\nchannels = [\"c\"]\nevent = \"e\"\n"
        )
    };
    let made = counted(0).replace("w0", "made").replace("c0", "made");
    let watches: String = (0..types.len()).map(counted).chain([made]).collect();
    let daemon = daemon(&config(&database, &receiver, &watches));
    let (code, out, err) = daemon.run(&["install"]).await;
    assert_eq!(code, 0, "{out}{err}");
    database.sql("DELETE FROM items_listen.marker").await;
    let (into, values) = (given.join(", "), vec!["'open'"; given.len()].join(", "));
    database
        .sql(&format!(
            "INSERT INTO t ({into}) VALUES ({values}); INSERT INTO t ({into}) SELECT {values} FROM generate_series(1, 3);
             UPDATE t SET id = id + 100 WHERE id = 1; DELETE FROM t WHERE id = 2; DELETE FROM t"
        ))
        .await;
    let broken: Vec<String> = database
        .client
        .query(
            "SELECT DISTINCT w.name || ' ' || m.sqlstate FROM items_listen.marker m JOIN items_listen.watch w ON w.id = m.watch",
            &[],
        )
        .await
        .expect("asks")
        .iter()
        .map(|row| row.get::<_, String>(0))
        .collect();
    assert_eq!(broken, Vec::<String>::new(), "{types:?}");
}
