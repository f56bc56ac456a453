//! Rules that listen to changes of rows: each committed change is told once, as it was and as it is, to whom it concerns;
//! and those that coalesce are told no more often than is asked for, with the last state never lost.

use serde_json::json;

use crate::*;

const SERVERS: &str = "CREATE TABLE servers (id bigint PRIMARY KEY, owner_id int, step text, status text, note text)";

fn watch(rule: &str) -> String {
    format!(
        "[[watch]]\nname = \"servers\"\ntable = \"public.servers\"\n[[watch.publish]]\n\
         channels = [\"private-servers.{{{{ key.id }}}}.provision\"]\nevent = 'App\\Events\\Changed'\n{rule}\n"
    )
}

async fn servers() -> Database {
    let database = Database::new().await;
    database.sql(SERVERS).await;
    database
}

/// The transition, and what `data` says of the row.
fn told(events: &[support::receiver::Event]) -> Vec<(String, serde_json::Value)> {
    events.iter().map(|event| (event.text("transition"), event.data["row"].clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_told_once_in_order_as_it_was_and_as_it_is() {
    let (database, receiver) = (servers().await, Receiver::start().await);
    let rule = r#"on = "change"
data = { transition = "{{ transition }}", row = { step = "{{ row.step }}", before = "{{ old.step }}" }, key = "{{ key }}", count = "{{ count }}", seq = "{{ seq }}" }"#;
    let mut daemon = daemon(&config(&database, &receiver, &watch(rule)));
    database.sql("INSERT INTO servers VALUES (1, 1, 'was there', 'x')").await;
    daemon.start().await;
    database.sql("INSERT INTO servers VALUES (7, 1, 'a', 'x')").await;
    database.sql("BEGIN; UPDATE servers SET step = 'b' WHERE id = 7; UPDATE servers SET step = 'c' WHERE id = 7; COMMIT").await;
    database.sql("BEGIN; UPDATE servers SET step = 'never' WHERE id = 7; ROLLBACK").await;
    database.sql("UPDATE servers SET id = 8 WHERE id = 7").await;
    database.sql("DELETE FROM servers WHERE id = 8").await;
    let all = receiver.wait_for(6).await;
    let row = |step: &str, before: Option<&str>| json!({"step": step, "before": before});
    let mut expected = vec![
        ("insert", row("a", None)),
        ("update", row("b", Some("a"))),
        ("update", row("c", Some("b"))),
        // Another primary key is another row.
        ("insert", row("c", None)),
        ("delete", row("c", Some("c"))),
        ("delete", row("c", Some("c"))),
    ];
    let mut came: Vec<(String, serde_json::Value)> = told(&all);
    came.sort_by_key(|(what, row)| (what.clone(), row.to_string()));
    expected.sort_by_key(|(what, row)| ((*what).to_owned(), row.to_string()));
    assert_eq!(came, expected.into_iter().map(|(what, row)| (what.to_owned(), row)).collect::<Vec<_>>());
    let of_7: Vec<_> = all.iter().filter(|event| event.data["key"] == json!({"id": 7})).collect();
    assert_eq!(of_7.iter().map(|event| event.text("transition")).collect::<Vec<_>>(), ["insert", "update", "update", "delete"]);
    assert!(of_7.windows(2).all(|two| two[0].number("seq") < two[1].number("seq")));
    assert!(all.iter().all(|event| event.data["count"].is_null()));
    assert_eq!(database.one::<i64>("SELECT count(*) FROM items_listen.count").await, 0, "nothing is counted");
    assert_eq!(database.one::<i64>("SELECT count(*) FROM items_listen.change").await, 0);
    let (code, out, _) = daemon.run(&["deliveries", "list", "--json", "--watch", "servers"]).await;
    let line: serde_json::Value = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
    assert_eq!((code, &line["watch"], &line["key"]), (0, &json!("servers"), &json!({"id": 7})));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_comes_under_the_condition_is_an_insert_and_one_that_leaves_it_a_delete() {
    let (database, receiver) = (servers().await, Receiver::start().await);
    let rule = "on = [\"insert\", \"delete\"]\ndata = { transition = \"{{ transition }}\", row = \"{{ row.note }}\" }";
    let conditional = watch(rule).replace("table = \"public.servers\"", "table = \"public.servers\"\nwhere = \"status = 'up'\"");
    let mut daemon = daemon(&config(&database, &receiver, &conditional));
    daemon.start().await;
    for sql in [
        "INSERT INTO servers VALUES (1, 1, 'a', 'down', 'n1')",
        "UPDATE servers SET status = 'up', note = 'n2'",
        "UPDATE servers SET note = 'n3'",
        "UPDATE servers SET status = 'down', note = 'n4'",
        "INSERT INTO servers VALUES (1, 1, 'a', 'up', 'n5') ON CONFLICT (id) DO UPDATE SET status = 'up', note = 'n6'",
        "DELETE FROM servers",
    ] {
        database.sql(sql).await;
    }
    let came = told(&receiver.wait_for(4).await);
    let expected = [("insert", "n2"), ("delete", "n3"), ("insert", "n6"), ("delete", "n6")];
    assert_eq!(came, expected.map(|(what, note)| (what.to_owned(), json!(note))));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_counts_only_if_a_named_column_changed_and_the_others_hear_of_it_too() {
    let (database, receiver) = (servers().await, Receiver::start().await);
    let watch = format!(
        "{}[[watch.publish]]\nchannels = [\"all\"]\nevent = \"any\"\non = \"update\"\n{}",
        watch("on = \"update\"\ncolumns = [\"step\", \"status\"]\ndata = { row = \"{{ row.step }}\" }"),
        "data = { row = \"{{ row.note }}\" }\nchannels_unused = 1\n".lines().next().unwrap_or_default()
    );
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    database.sql("INSERT INTO servers VALUES (1, 1, 'a', 'x', 'n')").await;
    database.sql("UPDATE servers SET note = 'm'").await;
    database.sql("UPDATE servers SET step = 'b', status = NULL").await;
    let all = receiver.wait_for(3).await;
    let mut names: Vec<_> = all.iter().map(|event| (event.name.clone(), event.data["row"].clone())).collect();
    names.sort_by_key(|(name, row)| (name.clone(), row.to_string()));
    assert_eq!(names, [("App\\Events\\Changed".to_owned(), json!("b")), ("any".into(), json!("m")), ("any".into(), json!("m"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_are_those_of_the_old_row_and_of_the_new_one() {
    let (database, receiver) = (servers().await, Receiver::start().await);
    let rule = "on = \"change\"\ndata = \"thin\"";
    let watch = watch(rule).replace("private-servers.{{ key.id }}.provision", "user.{{ row.owner_id }}");
    let mut daemon = daemon(&config(&database, &receiver, &watch));
    daemon.start().await;
    database.sql("INSERT INTO servers VALUES (1, 7, 'a', 'x', 'n')").await;
    database.sql("UPDATE servers SET owner_id = 8").await;
    database.sql("UPDATE servers SET owner_id = NULL").await;
    let all = receiver.wait_for(3).await;
    let channels: Vec<_> = all.iter().map(|event| event.channels.clone()).collect();
    assert_eq!(channels, [vec!["user.7".to_owned()], vec!["user.8".into(), "user.7".into()], vec!["user.8".into()]]);
    assert_eq!(all[0].data["severity"], serde_json::Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_follow_one_another_are_one_event_and_the_last_state_is_never_lost() {
    let (database, receiver) = (servers().await, Receiver::start().await);
    let rule = "on = [\"insert\", \"update\"]\ncolumns = [\"step\", \"status\"]\ncoalesce = \"400ms\"\n\
                data = { server_id = \"{{ key.id }}\", step = \"{{ row.step }}\", steps = [\"{{ row.step }}\"] }";
    let mut daemon = daemon(&config_with(&database, &receiver, "poll = \"60s\"", &watch(rule)));
    // No poll comes before it is over: what waits for its time has a timer.
    daemon.start().await;
    let beat = "SELECT max(beat_at)::text FROM items_listen.instance";
    let before: String = database.one(beat).await;
    for id in [1, 2] {
        database.sql(&format!("INSERT INTO servers VALUES ({id}, 1, 's0', 'x', 'n')")).await;
        for step in 1..=9 {
            database.sql(&format!("UPDATE servers SET step = 's{step}' WHERE id = {id}")).await;
        }
    }
    let all = receiver.wait_for(4).await;
    assert_eq!(database.one::<String>(beat).await, before, "a timer, and no poll, told it");
    for id in [1, 2] {
        let of: Vec<_> = all.iter().filter(|event| event.data["server_id"] == json!(id)).collect();
        assert_eq!(of.iter().map(|event| event.text("step")).collect::<Vec<_>>(), ["s0", "s9"], "{id}");
        let steps: Vec<String> = (1..=9).map(|step| format!("s{step}")).collect();
        assert_eq!(of[1].data["steps"], json!(steps), "lists are united");
    }
    // By the clock that set the times: arrivals say nothing where the first one was held up.
    support::eventually("each after its time was over, and settled", async || {
        let kept = "SELECT count(*) FILTER (WHERE settled_at >= due_at) = 4 AND bool_and(apart) FROM (
                        SELECT *, max(due_at) OVER lane > min(due_at) OVER lane AS apart FROM items_listen.delivery
                        WINDOW lane AS (PARTITION BY channels)) AS d";
        database.one::<bool>(kept).await.then_some(())
    })
    .await;
    // Its time is over: the next goes out at once, and is the only one.
    support::eventually("its time is over", async || {
        let over = "SELECT bool_and(last_due < clock_timestamp() - interval '400 ms') FROM items_listen.audience";
        database.one::<bool>(over).await.then_some(())
    })
    .await;
    database.sql("UPDATE servers SET step = 'last' WHERE id = 1").await;
    assert_eq!(receiver.wait_for(5).await[4].text("step"), "last");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_to_be_told_takes_later_changes_in_while_the_endpoint_is_down_and_survives_a_kill() {
    let (database, receiver) = (servers().await, Receiver::start().await);
    let rule = "on = [\"insert\", \"update\"]\ncoalesce = \"200ms\"\ndata = { step = \"{{ row.step }}\" }";
    let mut daemon = daemon(&config(&database, &receiver, &watch(rule)));
    daemon.start().await;
    receiver.status(503);
    database.sql("INSERT INTO servers VALUES (1, 1, 's0', 'x', 'n')").await;
    // What has been tried stays what it is.
    support::eventually("the first is tried", async || (!receiver.requests().is_empty()).then_some(())).await;
    for step in 1..=50 {
        database.sql(&format!("UPDATE servers SET step = 's{step}'")).await;
        if step == 25 {
            daemon.kill();
            daemon.start().await;
        }
    }
    // All of it is folded.
    support::eventually("folded", async || {
        (database.one::<i64>("SELECT count(*) FROM items_listen.change").await == 0).then_some(())
    })
    .await;
    let pending: i64 = database.one("SELECT count(*) FROM items_listen.delivery WHERE state = 'pending'").await;
    assert!(pending <= 3, "{pending} wait");
    receiver.status(200);
    let all = receiver.wait("the last state", |events| events.last().is_some_and(|event| event.text("step") == "s50")).await;
    assert_eq!(all[0].text("step"), "s0");
    assert!(all.len() <= 3, "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_are_united_across_tables_per_channel() {
    let database = Database::new().await;
    database
        .sql(
            "CREATE TABLE bookings (id serial PRIMARY KEY, user_id int, trainer_id int);
             CREATE TABLE schedules (id serial PRIMARY KEY, trainer_id int)",
        )
        .await;
    let receiver = Receiver::start().await;
    let of = |table: &str, channels: &str| {
        format!(
            "[[watch]]\nname = \"{table}\"\ntable = \"public.{table}\"\n[[watch.publish]]\non = \"change\"\ncoalesce = \"300ms\"\n\
             channels = [{channels}, \"private-live-refresh.admin\"]\nevent = \"LiveRefreshContextsUpdated\"\n\
             data = {{ contexts = [\"{table}\"] }}\n"
        )
    };
    let watches = of("bookings", "\"private-live-refresh.{{ row.user_id }}\", \"private-live-refresh.{{ row.trainer_id }}\"")
        + &of("schedules", "\"private-live-refresh.{{ row.trainer_id }}\"");
    let mut daemon = daemon(&config(&database, &receiver, &watches));
    daemon.start().await;
    database.sql("INSERT INTO bookings (user_id, trainer_id) VALUES (7, 9)").await;
    receiver.wait_for(3).await;
    database.sql("INSERT INTO schedules (trainer_id) VALUES (9); INSERT INTO bookings (user_id, trainer_id) VALUES (8, 9)").await;
    let all = receiver
        .wait("all is told", |events| {
            let united = |channel: &str| {
                events.iter().any(|event| {
                    event.channels == [channel] && event.data["contexts"].as_array().is_some_and(|contexts| contexts.len() == 2)
                })
            };
            united("private-live-refresh.9") && united("private-live-refresh.admin")
        })
        .await;
    let mut seen: Vec<(String, String)> =
        all.iter().map(|event| (event.channels[0].clone(), event.data["contexts"].to_string())).collect();
    seen.sort();
    let expected = [
        ("7", "[\"bookings\"]"),
        ("8", "[\"bookings\"]"),
        ("9", "[\"bookings\"]"),
        ("9", "[\"schedules\",\"bookings\"]"),
        ("admin", "[\"bookings\"]"),
        ("admin", "[\"schedules\",\"bookings\"]"),
    ];
    assert_eq!(seen, expected.map(|(user, contexts)| (format!("private-live-refresh.{user}"), contexts.to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_rule_tells_what_was_not_told_yet() {
    let (database, receiver) = (servers().await, Receiver::start().await);
    let rule = "on = \"update\"\ndata = { step = \"{{ row.step }}\" }";
    let mut old = daemon(&config(&database, &receiver, &watch(rule)));
    old.start().await;
    database.sql("INSERT INTO servers VALUES (1, 1, 's0', 'x', 'n')").await;
    old.kill();
    database.sql("UPDATE servers SET step = 's1'").await;
    let rule = "on = \"update\"\ndata = { step = \"{{ row.step }}\", note = \"{{ row.note }}\" }";
    let mut new = daemon(&config(&database, &receiver, &watch(rule)));
    new.start().await;
    database.sql("UPDATE servers SET step = 's2'").await;
    let all = receiver.wait_for(2).await;
    let said: Vec<_> = all.iter().map(|event| (event.text("step"), event.data["note"].clone())).collect();
    assert_eq!(said, [("s1".to_owned(), serde_json::Value::Null), ("s2".into(), json!("n"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_changes_are_each_told() {
    let (database, receiver) = (servers().await, Receiver::start().await);
    let watch =
        watch("on = \"insert\"\ndata = { id = \"{{ key.id }}\" }").replace("private-servers.{{ key.id }}.provision", "all");
    let mut daemon = daemon(
        &config(&database, &receiver, &watch)
            .replace("\n[[watch]]", "\nmax_batch = 1000\nmax_request_bytes = 1000000\n[[watch]]"),
    );
    daemon.start().await;
    database.sql("INSERT INTO servers SELECT i, 1, 'a', 'x', 'n' FROM generate_series(1, 20000) AS i").await;
    let ids = |events: &[crate::support::receiver::Event]| {
        events.iter().map(|event| event.number("id")).collect::<std::collections::HashSet<_>>().len()
    };
    // At least once: what an endpoint answers late comes twice.
    receiver.wait_from(20_000, "each of 20,000 changes", |events| ids(events) == 20_000).await;
}

/// A writer of its own: counts up the version of one row after another, and takes some of it back.
async fn write(database: &Database, seed: u64, rounds: usize) -> tokio::task::JoinHandle<()> {
    let mut session = database.session().await;
    tokio::spawn(async move {
        for round in 0..rounds {
            let transaction = session.transaction().await.expect("begins");
            let mut ids = [seed * 7 + round as u64 * 3, seed + round as u64 * 5].map(|id| i64::try_from(id % 12).expect("small"));
            // Always in the same order, so that writers never wait for each other in a circle.
            ids.sort_unstable();
            for id in ids {
                let sql = "UPDATE servers SET step = (step::int + 1)::text WHERE id = $1";
                transaction.execute(sql, &[&id]).await.expect("writes");
            }
            if round % 5 == 4 { transaction.rollback().await } else { transaction.commit().await }.expect("ends");
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_each_row_arrive_in_order_through_kills_and_failures_with_two_replicas() {
    let (database, receiver) = (servers().await, Receiver::start().await);
    let rules = format!(
        "{}[[watch.publish]]\nchannels = [\"private-servers.{{{{ key.id }}}}.latest\"]\nevent = \"latest\"\non = \"update\"\n\
         coalesce = \"100ms\"\ndata = {{ step = \"{{{{ row.step | int }}}}\", all = [\"{{{{ row.step | int }}}}\"] }}\n",
        watch(
            "on = \"update\"\ndata = { id = \"{{ id }}\", key = \"{{ key }}\", seq = \"{{ seq }}\", step = \"{{ row.step | int }}\", was = \"{{ old.step | int }}\" }"
        )
    );
    let text = config(&database, &receiver, &rules);
    let (mut one, mut two) = (daemon(&text), daemon(&text));
    one.start().await;
    two.start().await;
    database.sql("INSERT INTO servers SELECT i, 1, '0', 'x', 'n' FROM generate_series(0, 11) AS i").await;
    let count = std::sync::atomic::AtomicUsize::new(0);
    receiver.answer(move |_| {
        let statuses = [200, 200, 500, 200, 503, 200];
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (statuses[number % statuses.len()], "{}".into())
    });
    let mut writers = Vec::new();
    for seed in 0..4 {
        writers.push(write(&database, seed, 150).await);
    }
    for round in 0..6 {
        // Something has arrived since the last kill.
        let before = receiver.accepted().len();
        receiver
            .wait("something arrives", |events| events.len() > before || writers.iter().all(tokio::task::JoinHandle::is_finished))
            .await;
        let daemon = if round % 2 == 0 { &mut one } else { &mut two };
        daemon.kill();
        daemon.spawn();
    }
    for writer in writers {
        writer.await.expect("it writes");
    }
    let truth = database.client.query("SELECT id, step::int8 FROM servers ORDER BY id", &[]).await.expect("asks");
    let truth: Vec<(i64, i64)> = truth.iter().map(|row| (row.get(0), row.get(1))).collect();
    support::eventually("all is told", async || {
        let waiting = "SELECT (SELECT count(*) FROM items_listen.change) + (SELECT count(*) FROM items_listen.delivery WHERE state = 'pending')";
        (database.one::<i64>(waiting).await == 0).then_some(())
    })
    .await;
    let accepted = receiver.accepted();
    let (latest, each): (Vec<_>, Vec<_>) = accepted.into_iter().partition(|event| event.name == "latest");
    crash::check_history(&each);
    for (id, version) in truth {
        let mut seen = std::collections::HashSet::new();
        let of_row = each.iter().filter(|event| event.data["key"]["id"] == id && seen.insert(event.text("id")));
        let steps: Vec<(i64, i64)> = of_row.map(|event| (event.number("was"), event.number("step"))).collect();
        assert_eq!(steps, (0..version).map(|was| (was, was + 1)).collect::<Vec<_>>(), "row {id}: each once, in order");
        // The last state is never lost, and nothing is told of an older one after a newer.
        let of_row = || latest.iter().filter(|event| event.channels == [format!("private-servers.{id}.latest")]);
        let steps: Vec<i64> = of_row().map(|event| event.number("step")).collect();
        assert_eq!(steps.iter().max(), Some(&version), "row {id}: {steps:?}");
        let mut first = Vec::new();
        steps.iter().for_each(|step| {
            if !first.contains(step) {
                first.push(*step)
            }
        });
        assert!(first.is_sorted(), "row {id}: {first:?}");
        let all: std::collections::BTreeSet<i64> = of_row()
            .flat_map(|event| event.data["all"].as_array().cloned().unwrap_or_default())
            .filter_map(|step| step.as_i64())
            .collect();
        assert_eq!(all, (1..=version).collect(), "row {id}: lists are united, and lose nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_takes_nothing_in() {
    let (database, receiver) = (servers().await, Receiver::start().await);
    let rule = "on = [\"insert\", \"update\"]\ncoalesce = \"50ms\"\ndata = { step = \"{{ row.step }}\" }";
    let mut daemon = daemon(&config(&database, &receiver, &watch(rule)));
    daemon.start().await;
    receiver.delay(std::time::Duration::from_millis(700));
    database.sql("INSERT INTO servers VALUES (1, 1, 's0', 'x', 'n')").await;
    support::eventually("it is under way", async || {
        (database.one::<i64>("SELECT count(*) FROM items_listen.delivery WHERE lease IS NOT NULL").await == 1).then_some(())
    })
    .await;
    database.sql("UPDATE servers SET step = 's1'").await;
    let all = receiver.wait_for(2).await;
    assert_eq!(all.iter().map(|event| event.text("step")).collect::<Vec<_>>(), ["s0", "s1"]);
    // Nor what was tried: its bytes may have been seen.
    receiver.delay(std::time::Duration::ZERO);
    receiver.status(500);
    database.sql("UPDATE servers SET step = 's2'").await;
    support::eventually("it was tried", async || {
        (database.one::<i64>("SELECT coalesce(max(attempts), 0)::int8 FROM items_listen.delivery WHERE state = 'pending'").await
            > 0)
        .then_some(())
    })
    .await;
    database.sql("UPDATE servers SET step = 's3'").await;
    support::eventually("it waits", async || {
        (database.one::<i64>("SELECT count(*) FROM items_listen.delivery WHERE state = 'pending'").await == 2).then_some(())
    })
    .await;
    receiver.status(200);
    let all = receiver.wait_for(4).await;
    assert_eq!(all.iter().map(|event| event.text("step")).collect::<Vec<_>>(), ["s0", "s1", "s2", "s3"]);
}
