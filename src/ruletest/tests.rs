//! Each feature that a rule test can show, through the file as a person writes it.

use std::collections::BTreeMap;

use super::{Outcome, read, report, run};
use crate::config::environment::Variables;
use crate::config::read::rehearsal;
use crate::error::Error;

const LOW: &str = r#"
[[watch]]
name = "low-stock"
table = "items"
value = "quantity"
compare = "<"
threshold = 50
message = "{{ row.name }}: {{ count }} left"
[[watch.publish]]
channels = ["notifications"]
event = "NotificationCreated"
data = { unread_count = "{{ unread_count }}", message = "{{ message }}", row = "{{ row }}" }
"#;

const ORDERS: &str = r#"
[[watch]]
name = "orders"
notify = "orders"
key = ["tenant"]
threshold = 20
[[watch.publish]]
channels = ["t.{{ key.tenant }}"]
event = "many"
data = "thin"
"#;

const REFRESH: &str = r#"
[[watch]]
name = "bookings"
table = "bookings"
[[watch.publish]]
on = "change"
channels = ["u.{{ row.user_id }}"]
event = "refresh"
coalesce = "500ms"
data = { contexts = ["bookings"], last = "{{ row.state }}" }
[[watch]]
name = "notes"
table = "notes"
[[watch.publish]]
on = ["insert", "update"]
channels = ["u.{{ row.user_id }}"]
event = "refresh"
coalesce = "500ms"
columns = ["text"]
data = { contexts = ["notes"] }
"#;

fn try_run(config: &str, suite: &str) -> Result<Vec<Outcome>, String> {
    let none = BTreeMap::new();
    let suite = read::suite("t.toml", suite).map_err(Error::Config);
    let load = || rehearsal("config.toml", config, &Variables::new(&none, &none)).map_err(Error::Config);
    suite.and_then(|suite| run("t.toml", &suite, load)).map_err(|error| error.to_string())
}

/// What is said of the one test with these steps.
fn said(config: &str, steps: &str) -> Vec<String> {
    let outcomes = try_run(config, &format!("[[test]]\nname = \"x\"\n{steps}")).unwrap_or_else(|error| panic!("{error}"));
    report::text(&outcomes[0])
}

fn passes(config: &str, steps: &str) {
    assert_eq!(said(config, steps), ["ok    x"]);
}

fn wrong(config: &str, suite: &str) -> String {
    try_run(config, suite).expect_err("it cannot be run")
}

/// Settings of the watch `orders`.
fn orders(settings: &str) -> String {
    ORDERS.replace("threshold = 20", &format!("threshold = 20\n{settings}"))
}

#[test]
fn an_item_runs_low_once_and_is_gone() {
    passes(
        LOW,
        r#"
        [[test.step]]
        count = 60
        key = { id = 7 }
        row = { id = 7, name = "Screws", quantity = 60 }
        expect = []
        [[test.step]]
        at = "1s"
        count = 40
        key = { id = 7 }
        row = { id = 7, name = "Screws", quantity = 40 }
        expect = [{ at = "1s", transition = "raised", severity = "warning", previous = "info", reason = "reading", channels = "notifications", event = "NotificationCreated", endpoint = "main", count = 40, threshold = 50, percent = 80, key = { id = 7 }, message = "Screws: 40 left", data = { unread_count = 1, row = { name = "Screws" } } }]
        [[test.step]]
        count = 39
        key = { id = 7 }
        expect = []
        [[test.step]]
        at = "10s"
        gone = true
        key = { id = 7 }
        expect = [{ transition = "resolved", reason = "gone", data = { message = "Screws: 0 left" } }]
        "#,
    );
}

#[test]
fn the_row_of_a_table_is_what_templates_name_and_no_more() {
    let steps = "[[test.step]]\ncount = 1\nrow = { id = 7, quantity = 1 }\nexpect = [{ row = { quantity = 1 } }]";
    let said = said(LOW, steps);
    assert_eq!(said[3..], ["        - row.quantity = 1", "        + row.quantity = (there is none)"], "{said:?}");
    passes(LOW, &steps.replace("{ row = { quantity = 1 } }", "{ row = { name = \"{{ none }}\" } }"));
}

#[test]
fn time_raises_clears_and_repeats_at_its_own_moment() {
    passes(
        &orders("hold = \"10s\"\nclear_hold = \"5s\"\nrepeat = \"30s\""),
        r#"
        [[test.step]]
        count = 25
        key = { tenant = 1 }
        expect = []
        [[test.step]]
        at = "80s"
        expect = [
            { at = "10s", transition = "raised", reason = "deadline", severity = "high" },
            { at = "40s", transition = "repeated" },
            { at = "70s", transition = "repeated" },
        ]
        [[test.step]]
        count = 1
        key = { tenant = 1 }
        expect = []
        [[test.step]]
        at = "1h"
        expect = [{ at = "85s", transition = "resolved", reason = "deadline", count = 1 }]
        "#,
    );
}

#[test]
fn what_time_does_comes_before_a_step_at_the_same_time() {
    let steps = r#"
        [[test.step]]
        count = 25
        key = { tenant = 1 }
        [[test.step]]
        at = "10s"
        count = 1
        key = { tenant = 1 }
        expect = [{ transition = "raised" }, { transition = "resolved" }]
        "#;
    passes(&orders("hold = \"10s\""), steps);
    passes(&orders("hold = \"11s\""), &steps.replace("[{ transition = \"raised\" }, { transition = \"resolved\" }]", "[]"));
}

#[test]
fn the_most_specific_threshold_wins_and_an_edit_is_in_force_at_once() {
    passes(
        &orders("thresholds = [{ tenant = 2, threshold = 100 }]"),
        r#"
        [[test.step]]
        count = 30
        key = { tenant = 1 }
        expect = [{ threshold = 20, severity = "critical" }]
        [[test.step]]
        count = 30
        key = { tenant = 2 }
        expect = []
        [[test.step]]
        count = 30
        key = { tenant = 2 }
        threshold = 30
        expect = [{ threshold = 30, severity = "warning" }]
        [[test.step]]
        threshold = "none"
        expect = [{ transition = "resolved", reason = "disabled", key = { tenant = 1 } }]
        [[test.step]]
        threshold = 10
        key = { tenant = 1 }
        expect = [{ transition = "raised", reason = "threshold", threshold = 10 }]
        [[test.step]]
        count = 200
        key = { tenant = 3 }
        expect = []
        "#,
    );
}

#[test]
fn a_threshold_in_the_row_is_taken_from_the_row() {
    let config = LOW.replace("threshold = 50", "threshold = 50\nthreshold_column = \"reorder\"");
    let step = |row: &str, expect: &str| format!("[[test.step]]\ncount = 7\n{row}\nexpect = {expect}\n");
    passes(
        &config,
        &[
            step("row = { id = 1, reorder = 8 }", "[{ threshold = 8, transition = \"raised\" }]"),
            step("row = { id = 1, reorder = \"{{ none }}\" }", "[{ reason = \"disabled\" }]"),
            step("key = { id = 1 }\nthreshold = 8", "[{ transition = \"raised\" }]"),
        ]
        .concat(),
    );
    let error = wrong(&config, "[[test]]\nname = \"x\"\n[[test.step]]\ncount = 7\nrow = { id = 1 }");
    assert!(error.contains("t.toml:3:1") && error.contains("say row.reorder, or threshold"), "{error}");
}

#[test]
fn unread_is_counted_within_what_is_asked_for_and_read_marks_all() {
    let config = LOW.replace("threshold = 50", "threshold = 50\nkey = [\"tenant\", \"id\"]\nunread_by = [\"tenant\"]");
    let step = |tenant: i64, id: i64, count: i64, expect: &str| {
        format!(
            "[[test.step]]\ncount = {count}\nkey = {{ tenant = {tenant}, id = {id} }}\nexpect = [{{ data = {{ unread_count = {expect} }} }}]\n"
        )
    };
    let read = "[[test.step]]\nread = true\nexpect = []\n";
    let steps = [
        step(1, 1, 40, "1"),
        step(1, 2, 40, "2"),
        step(2, 3, 40, "1"),
        read.to_owned(),
        step(1, 4, 40, "1"),
        // An escalation is unread again; that something is over is not.
        step(1, 1, 20, "2"),
        step(1, 2, 60, "2"),
    ];
    passes(&config, &steps.concat());
}

#[test]
fn changes_within_the_time_are_one_event_across_watches() {
    passes(
        REFRESH,
        r#"
        [[test.step]]
        watch = "bookings"
        insert = { id = 1, user_id = 7, state = "new" }
        expect = [{ at = "0s", transition = "insert", data = { contexts = ["bookings"] }, row = { user_id = 7 } }]
        [[test.step]]
        at = "100ms"
        watch = "bookings"
        update = { old = { id = 1, user_id = 7, state = "new" }, new = { id = 1, user_id = 8, state = "paid" } }
        expect = [{ channels = ["u.8"], data = { contexts = ["bookings"], last = "paid" } }]
        [[test.step]]
        at = "200ms"
        watch = "notes"
        insert = { id = 5, user_id = 7, text = "x" }
        expect = []
        [[test.step]]
        watch = "notes"
        update = { old = { id = 5, user_id = 7, text = "x" }, new = { id = 5, user_id = 7, text = "x", seen = true } }
        [[test.step]]
        at = "10s"
        expect = [{ at = "500ms", channels = ["u.7"], data = { contexts = ["bookings", "notes"], last = "paid" } }]
        [[test.step]]
        watch = "bookings"
        delete = { id = 1, user_id = 8 }
        expect = [{ transition = "delete", data = { last = "{{ none }}" } }]
        "#,
    );
}

#[test]
fn a_changed_row_is_what_templates_name_and_no_more() {
    let steps =
        "[[test.step]]\nwatch = \"bookings\"\ninsert = { id = 1, user_id = 7 }\nexpect = [{ row = { user_id = 7, id = 1 } }]";
    let said = said(REFRESH, steps);
    assert_eq!(said[3..], ["        - row.id = 1", "        + row.id = (there is none)"], "{said:?}");
}

#[test]
fn a_lookup_says_what_the_step_says() {
    let config = orders("lookup = \"SELECT name FROM tenants WHERE id = :tenant\"\nmessage = \"{{ row.name }} has {{ count }}\"");
    passes(
        &config,
        r#"
        [[test.step]]
        count = 25
        key = { tenant = 1 }
        lookup = { name = "Acme" }
        expect = [{ message = "Acme has 25" }]
        [[test.step]]
        count = 40
        key = { tenant = 1 }
        expect = [{ message = "Acme has 40" }]
        "#,
    );
    let error = wrong(&config, "[[test]]\nname = \"x\"\n[[test.step]]\ncount = 25\nkey = { tenant = 1 }");
    assert!(error.contains("orders asks a lookup; say what it finds"), "{error}");
}

#[test]
fn readings_are_passed_on() {
    passes(
        &ORDERS.replace("data = \"thin\"", "on = \"reading\""),
        r#"
        [[test.step]]
        count = 1
        key = { tenant = 1 }
        expect = [{ transition = "reading", severity = "info", data = { count = 1 } }]
        [[test.step]]
        count = 1
        key = { tenant = 1 }
        expect = [{ transition = "reading" }]
        "#,
    );
}

#[test]
fn what_differs_is_shown_and_only_that() {
    let said = said(
        ORDERS,
        r#"
        [[test.step]]
        count = 25
        key = { tenant = 1 }
        expect = [{ transition = "raised", severity = "warning", data = { key = { tenant = 2 } } }]
        [[test.step]]
        at = "90s"
        count = 1
        key = { tenant = 1 }
        expect = []
        [[test.step]]
        expect = [{ transition = "repeated", at = "2m" }]
        "#,
    );
    let expected = [
        "FAIL  x",
        "      t.toml:4:9: step 1, at 0s: 1 event expected, 1 sent",
        "      event 1",
        "        - severity = \"warning\"",
        "        + severity = \"high\"",
        "        - data.key.tenant = 2",
        "        + data.key.tenant = 1",
        "      t.toml:8:9: step 2, at 90s: 0 events expected, 1 sent",
        "      + { at = \"90s\", transition = \"resolved\", severity = \"info\", count = 1, key = { tenant = 1 }, endpoint = \"main\", channels = [\"t.1\"], event = \"many\", data = ",
        "      t.toml:13:9: step 3, at 90s: 1 event expected, 0 sent",
        "      - { transition = \"repeated\", at = \"2m\" }",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (line, expected) in said.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}\n{expected}");
    }
}

#[test]
fn what_cannot_be_sent_fails_whatever_is_expected() {
    let said = said(
        &ORDERS.replace("\"many\"", "\"{{ row.name }}\"").replace("notify = \"orders\"", "table = \"o\"\nvalue = \"v\""),
        "[[test.step]]\ncount = 25\nkey = { tenant = 1 }\nrow = { name = \"\" }",
    );
    assert_eq!(said[1], "      t.toml:3:1: step 1, at 0s");
    assert!(said[2].contains("! {{ row.name }} to main cannot be sent: the event name is empty"), "{said:?}");
}

#[test]
fn encrypted_channels_are_compared_in_clear() {
    let config =
        format!("[endpoints.e]\nurl = \"log:\"\nencryption_key_file = \"/nowhere\"\nsecret_file = \"/nowhere\"\n{ORDERS}");
    let config = config.replace("\"t.{{", "\"private-encrypted-t.{{");
    passes(
        &config,
        "[[test.step]]\ncount = 25\nkey = { tenant = 1 }\nexpect = [{ endpoint = \"e\", data = { severity = \"high\" } }]",
    );
}

#[test]
fn every_mistake_is_named_with_its_place() {
    let suite = r#"
confg = "x.toml"
[[test]]
name = "one"
steps = []
[[test.step]]
at = "10"
cuont = 3
[[test.step]]
at = "10s"
count = 3
gone = true
[[test.step]]
at = "5s"
count = "many"
expect = [{ transitoin = "raised", at = "soon" }]
[[test.step]]
key = { id = 1 }
update = { old = 3 }
[[test.step]]
key = { id = 1 }
row = { id = 1 }
[[test]]
"#;
    let found = wrong(ORDERS, suite);
    for expected in [
        "t.toml:2:1: unknown key \"confg\" in the file, did you mean \"config\"?",
        "t.toml:5:1: unknown key \"steps\" in [test], did you mean \"step\"?",
        "t.toml:7:6: test.step.at: a duration with its unit",
        "t.toml:8:1: unknown key \"cuont\" in [test.step], did you mean \"count\"?; known are at, count, delete, expect,",
        "t.toml:9:1: test.step: count and gone exclude each other",
        "t.toml:13:1: test.step.at: time does not go backwards; the step before is at \"10s\"",
        "t.toml:15:9: test.step.count: a whole number is wanted, this is \"many\"",
        "t.toml:16:13: unknown key \"transitoin\" in [test.step.expect], did you mean \"transition\"?",
        "t.toml:16:41: test.step.expect.at: a time since the beginning",
        "t.toml:19:18: test.step.update.old: a table is wanted, this is 3",
        "{ old = { … }, new = { … } } is wanted",
        "t.toml:20:1: test.step.key: nothing happens to it",
        "test.step.row: it is that of a reading; say count",
        "t.toml:23:1: test.name: missing",
        "t.toml:23:1: test.step: there is no [[test.step]]",
    ] {
        assert!(found.contains(expected), "{expected}\n\n{found}");
    }
    assert!(wrong(ORDERS, "").contains("there is no [[test]]"));
    assert!(wrong(ORDERS, "[[test]\n").contains("t.toml:1:"));
}

#[test]
fn steps_that_do_not_fit_the_configuration_are_mistakes_too() {
    let step = |step: &str| format!("[[test]]\nname = \"x\"\n[[test.step]]\n{step}");
    for (config, lines, expected) in [
        (
            ORDERS,
            "watch = \"ordres\"\ncount = 1",
            "t.toml:4:9: there is no watch \"ordres\", did you mean \"orders\"?; there are orders",
        ),
        (REFRESH, "insert = { id = 1 }", "t.toml:3:1: which watch? Say watch = "),
        (REFRESH, "watch = \"notes\"\ncount = 1", "notes has rules for changes of rows alone"),
        (ORDERS, "insert = { id = 1 }", "orders has no rule for changes"),
        (ORDERS, "count = 1", "\"tenant\" of the key is missing; the key of orders is tenant"),
        (ORDERS, "count = 1\nkey = { tenat = 1 }", "\"tenat\" is no column of the key"),
        (ORDERS, "count = 1\nkey = { tenant = 1 }\nrow = { a = 1 }", "has no single row"),
        (ORDERS, "gone = true\nkey = { tenant = 1 }", "say count = 0"),
        (ORDERS, "threshold = 1\nkey = { id = 1 }", "\"id\" is no column of the key (tenant)"),
        (ORDERS, "lookup = { a = 1 }", "orders has none"),
        (LOW, "count = 1\nrow = { quantity = 1 }", "\"id\" of the key is missing"),
    ] {
        let found = wrong(config, &step(lines));
        assert!(found.contains(expected), "{expected}\n\n{found}");
    }
    let both = "[[test]]\nname = \"x\"\n[[test.step]]\ncount = 1\n[[test]]\nname = \"y\"\n[[test.step]]\ngone = true";
    assert_eq!(wrong(ORDERS, both).lines().count(), 2, "all of them in one run");
    let endless = step("count = 25\nkey = { tenant = 1 }\n[[test.step]]\nat = \"365d\"");
    assert!(wrong(&orders("repeat = \"1ms\""), &endless).contains("more than 10000 things are due"));
}

#[test]
fn a_primary_key_is_what_the_test_says_or_the_first_key_that_is_given() {
    let with = |lines: &str, key: &str| {
        format!(
            "{lines}\n[[test.step]]\ncount = 1\nkey = {key}\nexpect = [{{ key = {key} }}]\n[[test.step]]\ncount = 1\nrow = {{ sku = \"a\", id = 4 }}"
        )
    };
    passes(LOW, &with("", "{ sku = \"a\" }"));
    passes(LOW, &with("primary_key = [\"sku\", \"id\"]", "{ sku = \"a\", id = 4 }"));
    passes(LOW, &with("[[test.step]]\nthreshold = 60", "{ sku = \"a\" }"));
}

#[test]
fn a_rehearsal_needs_no_endpoint_and_no_secret_and_the_daemon_does() {
    let none = BTreeMap::new();
    let variables = Variables::new(&none, &none);
    assert!(rehearsal("c", ORDERS, &variables).is_ok());
    let found = crate::config::read::config("c", true, ORDERS, &variables).expect_err("it needs an endpoint");
    assert!(found.iter().any(|mistake| mistake.what.contains("there is no endpoint")), "{found:?}");
    let files = format!("[database]\nurl_file = \"/nowhere\"\n[endpoints.main]\nurl_file = \"/nowhere\"\n{ORDERS}");
    assert!(rehearsal("c", &files, &variables).is_ok());
    assert!(crate::config::read::config("c", true, &files, &variables).is_err());
}

#[test]
fn the_examples_of_the_documentation_are_right() {
    for text in [include_str!("../../docs/rule-tests.md"), include_str!("../../README.md")] {
        let examples: Vec<&str> = text.split("```toml\n").filter_map(|part| part.split("```").next()).collect();
        let example = examples.into_iter().find(|example| example.contains("[[test]]")).expect("an example");
        let outcomes = try_run(LOW, example).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(report::text(&outcomes[0]), ["ok    an item runs low once"]);
    }
}
