//! What a lookup asks with where its answer has columns of the same names, where the row is gone, and where it is NULL.

use serde_json::json;

use crate::*;

/// Items, whose suppliers are elsewhere: 3 buys from 4, who buys from 5.
async fn stock() -> Database {
    let database = Database::new().await;
    database
        .sql(
            "CREATE TABLE suppliers (id int PRIMARY KEY, name text, buys_from int);
             INSERT INTO suppliers VALUES (3, 'Smith', 4), (4, 'Jones', 5), (5, 'Miller', NULL);
             CREATE TABLE items (id int PRIMARY KEY, quantity int, supplier_id int)",
        )
        .await;
    database
}

/// Low stock, told with what this lookup finds.
fn low(lookup: &str) -> String {
    format!(
        "[[watch]]\nname = \"low\"\ntable = \"public.items\"\nvalue = \"quantity\"\ncompare = \"<\"\nthreshold = 50\nlookup = \"{lookup}\"\n\
         [[watch.publish]]\nchannels = [\"low\"]\nevent = \"low\"\n\
         data = {{ transition = \"{{{{ transition }}}}\", found = \"{{{{ lookup }}}}\", row = \"{{{{ row }}}}\" }}\n"
    )
}

/// The last event says this transition and this answer.
fn says(events: &[support::receiver::Event], transition: &str, found: &serde_json::Value) {
    let last = events.last().expect("an event");
    assert_eq!((last.text("transition").as_str(), &last.data["found"]), (transition, found), "{:#}", last.data);
}

/// The answer's column has the name of the parameter: it is not what the next question is asked with.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_named_like_its_parameter_is_no_parameter_when_the_row_is_gone() {
    let (database, receiver) = (stock().await, Receiver::start().await);
    let watch = low("SELECT name AS supplier_id FROM suppliers WHERE id = :supplier_id");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    database.sql("INSERT INTO items VALUES (1, 40, 3)").await;
    says(&receiver.wait_for(1).await, "raised", &json!({ "supplier_id": "Smith" }));
    // While the row is there, what it says is asked with.
    database.sql("UPDATE items SET quantity = 5, supplier_id = 4").await;
    says(&receiver.wait_for(2).await, "escalated", &json!({ "supplier_id": "Jones" }));
    database.sql("DELETE FROM items").await;
    let last = receiver.wait_for(3).await;
    says(&last, "resolved", &last[1].data["row"]);
    assert_eq!(last[2].data["found"]["supplier_id"], json!("Jones"));
    assert_eq!(daemon.lines("degraded"), 0, "{:?}", daemon.log());
}

/// The same where another number would be asked with, and nobody would notice.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_found_for_a_row_that_is_gone_is_not_asked_with() {
    let (database, receiver) = (stock().await, Receiver::start().await);
    let watch = low("SELECT buys_from AS supplier_id FROM suppliers WHERE id = :supplier_id");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    database.sql("INSERT INTO items VALUES (1, 5, 3)").await;
    says(&receiver.wait_for(1).await, "raised", &json!({ "supplier_id": 4 }));
    database.sql("TRUNCATE items").await;
    let last = receiver.wait_for(2).await;
    assert_eq!((last[1].text("transition"), &last[1].data["found"]["supplier_id"]), ("resolved".into(), &json!(4)));
}

/// A key's column is always the key's, and where nothing is overwritten a row that is gone is asked for anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_gone_is_asked_for_anew_with_its_key_and_what_it_last_was() {
    let (database, receiver) = (stock().await, Receiver::start().await);
    let watch = low(
        "SELECT name AS id, (SELECT max(id) FROM suppliers) AS newest FROM suppliers WHERE id = :supplier_id AND :id::int = 1",
    );
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    database.sql("INSERT INTO items VALUES (1, 5, 3)").await;
    says(&receiver.wait_for(1).await, "raised", &json!({ "id": "Smith", "newest": 5 }));
    database.sql("INSERT INTO suppliers VALUES (6, 'New', NULL); DELETE FROM items").await;
    says(&receiver.wait_for(2).await, "resolved", &json!({ "id": "Smith", "newest": 6 }));
}

/// NULL is asked with as NULL; so is a key that has never had a row.
#[tokio::test(flavor = "multi_thread")]
async fn null_is_asked_with_as_null() {
    let (database, receiver) = (stock().await, Receiver::start().await);
    let watch =
        low("SELECT name AS supplier_id, :supplier_id::int IS NULL AS none FROM suppliers WHERE id = coalesce(:supplier_id, 5)");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    database.sql("INSERT INTO items VALUES (1, 5, NULL)").await;
    says(&receiver.wait_for(1).await, "raised", &json!({ "supplier_id": "Miller", "none": true }));
    database.sql("DELETE FROM items").await;
    let last = receiver.wait_for(2).await;
    assert_eq!((last[1].text("transition"), &last[1].data["found"]["none"]), ("resolved".into(), &json!(true)));
    // No row of the answer, and a NULL in it.
    database.sql("DELETE FROM suppliers; INSERT INTO items VALUES (2, 5, 3)").await;
    says(&receiver.wait_for(3).await, "raised", &json!({ "supplier_id": null, "none": null }));
    database.sql("DELETE FROM items").await;
    let last = receiver.wait_for(4).await;
    assert_eq!((last[3].text("transition"), &last[3].data["found"]["supplier_id"]), ("resolved".into(), &json!(null)));
    let (code, out, err) = daemon.run(&["--trigger", "5", "--watch", "low", "--key", "id=77"]).await;
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(daemon.lines("degraded"), 0, "{:?}", daemon.log());
}

/// What was told under another definition cannot be read as what is asked with now: its end is told all the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_row_is_told_though_its_lookup_is_another_since() {
    let (database, receiver) = (stock().await, Receiver::start().await);
    let before = low("SELECT name AS supplier_id FROM suppliers WHERE id = :supplier_id");
    let mut daemon = daemon(&config(&database, &receiver, &before));
    daemon.start().await;
    database.sql("INSERT INTO items VALUES (1, 5, 3)").await;
    receiver.wait_for(1).await;
    daemon.terminate().await;
    daemon.configure(&config(&database, &receiver, &low("SELECT name FROM suppliers WHERE id = :supplier_id")));
    daemon.start().await;
    database.sql("DELETE FROM items").await;
    let last = receiver.wait_for(2).await;
    assert_eq!((last[1].text("transition"), &last[1].data["found"]["name"]), ("resolved".into(), &json!(null)));
    assert_eq!(daemon.lines("degraded"), 0, "{:?}", daemon.log());
}

/// A query's row is gone when the query no longer gives it.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_a_query_no_longer_gives_is_told_with_what_was_found_last() {
    let (database, receiver) = (stock().await, Receiver::start().await);
    let table = low("SELECT name AS supplier_id FROM suppliers WHERE id = :supplier_id");
    let query = "query = \"SELECT id, quantity, supplier_id FROM items\"\nevery = \"200ms\"\nkey = [\"id\"]";
    let mut daemon = daemon(&config(&database, &receiver, &table.replace("table = \"public.items\"", query)));
    daemon.start().await;
    database.sql("INSERT INTO items VALUES (1, 5, 3)").await;
    says(&receiver.wait_for(1).await, "raised", &json!({ "supplier_id": "Smith" }));
    database.sql("DELETE FROM items").await;
    let last = receiver.wait_for(2).await;
    assert_eq!((last[1].text("transition"), &last[1].data["found"]["supplier_id"]), ("resolved".into(), &json!("Smith")));
    assert_eq!(daemon.lines("degraded"), 0, "{:?}", daemon.log());
}

/// A deleted row is told with its own values: they are in the journal.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_row_asks_with_what_it_was() {
    let (database, receiver) = (stock().await, Receiver::start().await);
    let watch = "[[watch]]\nname = \"items\"\ntable = \"public.items\"\nlookup = \"SELECT name AS supplier_id FROM suppliers WHERE id = :supplier_id\"\n\
                 [[watch.publish]]\non = \"change\"\nchannels = [\"items\"]\nevent = \"item\"\ndata = { found = \"{{ lookup.supplier_id }}\" }\n";
    let mut daemon = daemon(&config(&database, &receiver, watch));
    daemon.start().await;
    for (sql, found) in [
        ("INSERT INTO items VALUES (1, 5, 3)", json!("Smith")),
        ("UPDATE items SET supplier_id = 4", json!("Jones")),
        ("DELETE FROM items", json!("Jones")),
        ("INSERT INTO items VALUES (2, 5, NULL)", json!(null)),
        ("DELETE FROM items", json!(null)),
    ] {
        let known = receiver.accepted().len();
        database.sql(sql).await;
        let told = receiver.wait_for_more(known).await;
        assert_eq!(told.last().expect("an event").data["found"], found, "{sql}");
    }
    assert_eq!(daemon.lines("degraded"), 0, "{:?}", daemon.log());
}
