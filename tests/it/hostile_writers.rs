//! Whatever a writer has set, made or looked up first: its statements are counted exactly, and none of them fails.

use crate::support::receiver::Receiver;
use crate::*;

/// Settings of a session that could change what a function of ours means, or how long it may take.
const SETTINGS: [&str; 27] = [
    "SET search_path = evil, public",
    "SET search_path = ''",
    "SET lock_timeout = '1ms'",
    "SET statement_timeout = '30s'",
    "SET idle_in_transaction_session_timeout = '1s'",
    "SET row_security = off",
    "SET default_transaction_isolation = serializable",
    "SET default_transaction_isolation = 'repeatable read'",
    "SET default_transaction_deferrable = on",
    "SET plpgsql.variable_conflict = 'error'",
    "SET plpgsql.variable_conflict = 'use_variable'",
    "SET plpgsql.extra_errors = 'all'",
    "SET plpgsql.extra_warnings = 'all'",
    "SET plpgsql.check_asserts = off",
    "SET plpgsql.print_strict_params = on",
    "SET DateStyle = 'German, DMY'",
    "SET TimeZone = 'Asia/Kathmandu'",
    "SET check_function_bodies = off",
    "SET standard_conforming_strings = off",
    "SET quote_all_identifiers = on",
    "SET transform_null_equals = on",
    "SET array_nulls = off",
    "SET client_encoding = 'LATIN1'",
    "SET client_min_messages = 'debug5'",
    "SET work_mem = '64kB'",
    "SET plan_cache_mode = 'force_custom_plan'",
    "SET enable_seqscan = off; SET jit = on; SET jit_above_cost = 0; SET from_collapse_limit = 1; SET geqo_threshold = 2",
];

/// What a writer may have made, to be found in place of what we mean.
const EVIL: &str = r#"
CREATE SCHEMA evil;
CREATE FUNCTION evil.no(a int, b int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'evil operator'; END $$;
CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.no);
CREATE FUNCTION evil.no(a text, b text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'evil operator'; END $$;
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.no);
CREATE OPERATOR evil.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.no);
CREATE FUNCTION evil.concat(VARIADIC "any") RETURNS text LANGUAGE internal AS 'text_concat';
CREATE FUNCTION evil.to_json(int) RETURNS json LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'evil to_json'; END $$;
CREATE FUNCTION evil.pg_try_advisory_lock_shared(bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'evil lock'; END $$;
CREATE FUNCTION evil.add(bigint, int) RETURNS bigint LANGUAGE sql AS 'SELECT 7';
CREATE AGGREGATE evil.count(*) (SFUNC = evil.nothing, STYPE = bigint, INITCOND = '7');
CREATE TABLE evil.new_rows (tenant_id int, status text);
CREATE TABLE evil.journal (x int);
GRANT USAGE ON SCHEMA evil TO PUBLIC;
"#;

/// Of the writer's session alone.
const TEMPORARY: &str = r#"
CREATE TEMP TABLE journal (x int); CREATE TEMP TABLE marker (x int); CREATE TEMP TABLE new_rows (tenant_id int, status text);
CREATE TEMP TABLE old_rows (tenant_id int, status text); CREATE TEMP TABLE pg_class (x int); CREATE TEMP TABLE unnest (x int);
CREATE FUNCTION pg_temp.concat(text, text, text) RETURNS text LANGUAGE sql AS $$ SELECT 'evil' $$;
CREATE FUNCTION pg_temp.array_agg(text) RETURNS text[] LANGUAGE sql AS $$ SELECT ARRAY['evil'] $$;
"#;

const STATEMENTS: [&str; 6] = [
    "INSERT INTO public.orders (tenant_id) VALUES (1)",
    "INSERT INTO public.orders (tenant_id) SELECT g % 9 FROM generate_series(1, 30) g",
    "UPDATE public.orders SET tenant_id = 3 WHERE id IN (SELECT max(id) FROM public.orders)",
    "UPDATE public.orders SET status = CASE status WHEN 'open' THEN 'done' ELSE 'open' END WHERE id % 7 OPERATOR(pg_catalog.=) 0",
    "DELETE FROM public.orders WHERE id IN (SELECT min(id) FROM public.orders)",
    "INSERT INTO public.orders (id, tenant_id) VALUES (5, 7) ON CONFLICT (id) DO UPDATE SET tenant_id = 8",
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_writer_has_set_or_made_its_statements_go_through_and_are_counted() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let summed = ORDERS
        .replace("name = \"orders\"", "name = \"summed\"\nsum = \"tenant_id * 2\"")
        .replace("orders.many", "summed")
        .replace("threshold = 20", "threshold = 1000000");
    let mut daemon = daemon(&config(&database, &receiver, &format!("{ORDERS}{summed}")));
    daemon.start().await;
    database
        .sql("CREATE SCHEMA IF NOT EXISTS evil; CREATE FUNCTION evil.nothing(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT $1'")
        .await;
    database
        .sql(
            &EVIL
                .replace("CREATE SCHEMA evil;", "")
                .replace("CREATE FUNCTION evil.concat(VARIADIC \"any\") RETURNS text LANGUAGE internal AS 'text_concat';", ""),
        )
        .await;
    // DDL of the application's is refused by this one: none of ours happens in a trigger.
    database
        .sql(
            "CREATE FUNCTION public.no_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no DDL: %', tg_tag; END $$;",
        )
        .await;
    let role = format!("writer_{}", database.name);
    database.sql(&format!("CREATE ROLE {role}; GRANT ALL ON orders, orders_id_seq TO {role}")).await;
    for setting in SETTINGS {
        let writer = database.session().await;
        writer.batch_execute("LOAD 'plpgsql'").await.expect("plpgsql is there");
        writer.batch_execute(setting).await.unwrap_or_else(|error| panic!("{setting}: {error:?}"));
        writer.batch_execute(&format!("SET ROLE {role}")).await.expect("the role");
        for statement in STATEMENTS {
            // Serializable and the like may be told to try again, by whatever they conflict with: alone here, they are not.
            writer.batch_execute(statement).await.unwrap_or_else(|error| panic!("{setting}; {statement}: {error:?}"));
        }
    }
    let writer = database.session().await;
    writer.batch_execute(TEMPORARY).await.expect("temporary objects");
    database.sql("CREATE EVENT TRIGGER no_ddl ON ddl_command_start EXECUTE FUNCTION public.no_ddl()").await;
    for statement in STATEMENTS {
        writer.batch_execute(statement).await.unwrap_or_else(|error| panic!("temporary objects; {statement}: {error:?}"));
    }
    writer.batch_execute("DISCARD PLANS").await.expect("discards");
    write_in_one_transaction(&writer).await;
    database.sql("DROP EVENT TRIGGER no_ddl").await;
    exact(&database, "orders", TRUE_ORDERS).await;
    let sums = "SELECT count(*) FROM (SELECT jsonb_build_array(tenant_id)::text AS key, sum(tenant_id * 2) AS sum FROM orders WHERE status = 'open' GROUP BY 1) t
                FULL JOIN (SELECT key, sum FROM items_listen.count c JOIN items_listen.watch w ON w.id = c.watch WHERE w.name = 'summed' AND c.rows <> 0) c
                USING (key) WHERE t.sum IS DISTINCT FROM c.sum";
    assert_eq!(database.one::<i64>(sums).await, 0);
    assert_eq!(
        database
            .one::<i64>("SELECT count(*) FROM pg_class WHERE relname = 'journal' AND relnamespace = 'evil'::regnamespace")
            .await,
        1
    );
    assert_eq!(daemon.lines("degraded"), 0);
    database.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// All of them in one transaction, with savepoints that are kept and given up, and a constraint that is looked at late.
async fn write_in_one_transaction(writer: &tokio_postgres::Client) {
    let kept = STATEMENTS.map(|statement| format!("SAVEPOINT s; {statement}; RELEASE s")).join("; ");
    let given_up = STATEMENTS.map(|statement| format!("SAVEPOINT s; {statement}; ROLLBACK TO s")).join("; ");
    writer
        .batch_execute(&format!("BEGIN; SET CONSTRAINTS ALL DEFERRED; {kept}; {given_up}; COMMIT"))
        .await
        .expect("goes through");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_of_very_many_rows_and_keys_goes_through_and_is_counted() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let watch = ORDERS.replace("threshold = 20", "threshold = 1000000");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    database.sql("SET work_mem = '64kB'; INSERT INTO orders (tenant_id, status) SELECT g % 200000, CASE WHEN g % 3 = 0 THEN 'done' ELSE 'open' END FROM generate_series(1, 300000) g").await;
    database.sql("UPDATE orders SET tenant_id = tenant_id + 1").await;
    exact(&database, "orders", TRUE_ORDERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn constraints_that_are_looked_at_late_fail_as_they_would_without_us() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("ALTER TABLE orders ADD parent int REFERENCES orders (id) DEFERRABLE INITIALLY DEFERRED").await;
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    database.sql("BEGIN; INSERT INTO orders (id, tenant_id, parent) VALUES (50, 1, 51); INSERT INTO orders (id, tenant_id) VALUES (51, 1); COMMIT").await;
    database.sql("BEGIN; INSERT INTO orders (id, tenant_id, parent) VALUES (60, 1, 61)").await;
    let error = database.client.batch_execute("COMMIT").await.expect_err("there is no 61");
    assert_eq!(error.code().map(|code| code.code()), Some("23503"));
    exact(&database, "orders", TRUE_ORDERS).await;
}
