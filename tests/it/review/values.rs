//! Keys, numbers and names that are unusual: none fails a fold.

use std::time::Duration;

use super::{soon, value_watch};
use crate::*;

/// J2: `infinityZ` and `… BCZ` are no timestamps: the fold of every watch fails for ever.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_key_of_infinity_fails_no_fold() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE prices (id int, until timestamptz, name text, quantity int, PRIMARY KEY (id, until))").await;
    let watch = value_watch("prices", "threshold = 50", "{{ row.name }}");
    let mut daemon = daemon(&config(&database, &receiver, &format!("{watch}{ORDERS}")));
    daemon.start().await;
    database.sql("INSERT INTO prices VALUES (1, 'infinity', 'a', 5), (2, '0044-03-15 BC', 'b', 5)").await;
    insert(&database, 1, 20).await;
    soon(&receiver, &daemon, "other watches go on", |events| events.iter().any(|event| event.text("watch") == "orders")).await;
    soon(&receiver, &daemon, "both are told", |events| events.iter().filter(|event| event.text("watch") == "low").count() == 2)
        .await;
}

/// `::character` is `character(1)`.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_key_of_char_n_finds_its_row() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database.sql("CREATE TABLE skus (sku char(8) PRIMARY KEY, name text, quantity int, lim int)").await;
    let watch = value_watch("skus", "threshold_column = \"lim\"", "{{ row.name }}");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    database.sql("INSERT INTO skus VALUES ('ABC', 'Screws', 5, 50)").await;
    let all = soon(&receiver, &daemon, "it is told", |events| !events.is_empty()).await;
    assert_eq!(all[0].text("message"), "Screws");
}

/// A long key is stored as its hash, of one part: NULL for a domain that is NOT NULL.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_key_of_a_domain_fails_no_fold() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database
        .sql(
            "CREATE DOMAIN code AS text NOT NULL CHECK (VALUE ~ '^[A-Z]+$');
             CREATE TABLE stock (code code PRIMARY KEY, name text, quantity int)",
        )
        .await;
    let watch = value_watch("stock", "threshold = 50", "{{ row.name }}");
    let mut daemon = daemon(&config(&database, &receiver, &format!("{watch}{ORDERS}")));
    daemon.start().await;
    database.sql("INSERT INTO stock VALUES (repeat('A', 2500), 'a', 5)").await;
    insert(&database, 1, 20).await;
    soon(&receiver, &daemon, "other watches go on", |events| events.iter().any(|event| event.text("watch") == "orders")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r_numbers_that_cannot_be_added_fail_no_fold() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE items (id int PRIMARY KEY, quantity numeric)").await;
    let watch = value_watch("items", "threshold = 50", "x").replace("value =", "sum =");
    let mut daemon = daemon(&config(&database, &receiver, &format!("{watch}{ORDERS}")));
    daemon.start().await;
    for id in [1, 2] {
        database.sql(&format!("INSERT INTO items VALUES ({id}, 9e131071)")).await;
    }
    insert(&database, 1, 20).await;
    soon(&receiver, &daemon, "other watches go on", |events| events.iter().any(|event| event.text("watch") == "orders")).await;
}

/// A json column may hold \u0000, and text may not.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_nul_in_json_fails_no_fold() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE items (id int PRIMARY KEY, payload json, quantity int)").await;
    let watch = value_watch("items", "threshold = 50", "{{ row.payload.name }}");
    let mut daemon = daemon(&config(&database, &receiver, &format!("{watch}{ORDERS}")));
    daemon.start().await;
    database.sql(r#"INSERT INTO items VALUES (1, '{"name": "a\u0000b"}', 5)"#).await;
    insert(&database, 1, 20).await;
    soon(&receiver, &daemon, "other watches go on", |events| events.iter().any(|event| event.text("watch") == "orders")).await;
}

/// The same in the name of a change's event.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_nul_in_the_name_of_an_event_fails_no_fold() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE items (id int PRIMARY KEY, payload json)").await;
    let watch = "[[watch]]\nname = \"items\"\ntable = \"public.items\"\n[[watch.publish]]\non = \"insert\"\nchannels = [\"x\"]\n\
                 event = \"item.{{ row.payload.kind }}\"\n";
    let mut daemon = daemon(&config(&database, &receiver, &format!("{watch}{ORDERS}")));
    daemon.start().await;
    database.sql(r#"INSERT INTO items VALUES (1, '{"kind": "a\u0000b"}')"#).await;
    insert(&database, 1, 20).await;
    soon(&receiver, &daemon, "other watches go on", |events| events.iter().any(|event| event.text("watch") == "orders")).await;
}

/// A key of a table is hashed where it is long; one of a query is not, and no index takes it.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_long_key_of_a_query_fails_nothing_else() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    database.sql("CREATE TABLE items (name text, quantity int)").await;
    let watch = "[[watch]]\nname = \"low\"\nquery = \"SELECT name, quantity FROM items\"\nevery = \"300ms\"\nkey = [\"name\"]\nvalue = \"quantity\"\n\
                 compare = \"<\"\nthreshold = 50\n[[watch.publish]]\nchannels = [\"low\"]\nevent = \"low\"\n";
    let mut daemon = daemon(&config(&database, &receiver, &format!("{watch}{ORDERS}")));
    daemon.start().await;
    database.sql("INSERT INTO items SELECT string_agg(md5(i::text), ''), 5 FROM generate_series(1, 400) AS i").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let lost = daemon.lines("no database session");
    assert_eq!(lost, 0, "{:#?}", daemon.log().iter().rev().take(3).collect::<Vec<_>>());
    soon(&receiver, &daemon, "it is told", |events| events.iter().any(|event| event.text("watch") == "low")).await;
}

/// A numeric that no f64 holds: its row is told as if there were none, and the event dies.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_huge_number_in_a_row_kills_no_event() {
    let (database, receiver) = (Database::new().await, Receiver::start().await);
    database.sql("CREATE TABLE items (id int PRIMARY KEY, name text, amount numeric)").await;
    let watch = "[[watch]]\nname = \"items\"\ntable = \"public.items\"\n[[watch.publish]]\non = \"insert\"\nchannels = [\"x\"]\nevent = \"e\"\n\
                 data = { name = \"{{ row.name }}\", amount = \"{{ row.amount }}\" }\n";
    let mut daemon = daemon(&config(&database, &receiver, watch));
    daemon.start().await;
    database.sql("INSERT INTO items VALUES (1, 'a', 1e400)").await;
    soon(&receiver, &daemon, "it is told", |events| !events.is_empty()).await;
}

/// The same in a lookup's answer: the watch waits for ever.
#[tokio::test(flavor = "multi_thread")]
async fn r_a_huge_number_in_an_answer_stops_no_watch() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let watch =
        ORDERS.replace("threshold = 20", "threshold = 20\nlookup = \"SELECT CASE WHEN :tenant_id::int = 1 THEN 1e400 END AS x\"");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    insert(&database, 1, 20).await;
    insert(&database, 2, 20).await;
    soon(&receiver, &daemon, "the other key is told", |events| !events.is_empty()).await;
}
