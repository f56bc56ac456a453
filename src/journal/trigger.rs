//! The SQL of a watch's trigger functions and triggers, from the template in `sql/triggers.sql`.
//!
//! Pure: text in, text out.

use super::definition::{Changes, Definition};
use crate::db::locks::Lock;
use crate::db::schema::Schema;
use crate::db::{literal, unused_tag};

/// What may happen to a table.
pub const EVENTS: [&str; 4] = ["insert", "delete", "update", "truncate"];

/// The template, readable on its own.
pub const TEMPLATE: &str = include_str!("../../sql/triggers.sql");

/// What the rows mean that these functions write, which is part of every definition: another meaning is another generation,
/// with a lock on each table and a recount.
pub const MEANING: &str = "7cf1272e8011";

/// The edition of the template, which stands in each function: the same rows, otherwise made. Functions of a lower one are
/// replaced where they are, without a lock on any table; those of a higher one are a newer program's, and stay.
pub const EDITION: u32 = 3;

/// A function of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name, without the schema.
    pub name: String,
    /// The statement that creates or replaces it.
    pub create: String,
}

impl Function {
    /// Its settings, as `pg_proc.proconfig` has them: each `SET name = value` of its statement.
    pub fn settings(&self) -> Vec<String> {
        let head = self.create.split_once(" AS ").map_or("", |(head, _)| head);
        head.split(" SET ").skip(1).map(|setting| setting.trim().replacen(" = ", "=", 1)).collect()
    }

    /// Its body, as `pg_proc.prosrc` has it: what stands between the first quotes of its statement.
    pub fn body(&self) -> &str {
        let start = self.create.find(" AS ").map_or(0, |at| at + 4);
        let rest = &self.create[start..];
        let tag = rest.strip_prefix('$').and_then(|rest| rest.split_once('$')).map(|(tag, _)| format!("${tag}$"));
        let quote = tag.unwrap_or_else(|| "'".to_owned());
        let rest = &rest[quote.len()..];
        &rest[..rest.rfind(&format!("{quote};")).unwrap_or(rest.len())]
    }
}

/// The edition that a function's body says it is of; 1, which did not say so, where there is none.
pub fn edition(body: &str) -> u32 {
    let said = body.trim_start().strip_prefix("-- Edition ").and_then(|rest| rest.split(' ').next()?.parse().ok());
    said.unwrap_or(1)
}

/// The functions of a watch, one for each event.
pub fn each_function(schema: &Schema, watch: i32, generation: i32, definition: &Definition) -> [Function; EVENTS.len()] {
    let needed = definition.events();
    EVENTS.map(|event| {
        let name = format!("watch_{watch}_{event}");
        let text = section(&format!("function {event}"));
        let create = if needed.iter().any(|needed| needed == event) {
            fill(&text, event, schema, watch, generation, definition)
        } else {
            format!(
                "CREATE OR REPLACE FUNCTION {}.{name}() RETURNS trigger\n\
                 LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN NULL; END';\n",
                schema.name()
            )
        };
        Function { name, create }
    })
}

/// The statements that create or replace the functions of a watch.
pub fn functions(schema: &Schema, watch: i32, generation: i32, definition: &Definition) -> String {
    let mut sql = String::new();
    for Function { name, create } in each_function(schema, watch, generation, definition) {
        sql.push_str(&create);
        sql.push_str(&format!("REVOKE ALL ON FUNCTION {}.{name}() FROM PUBLIC;\n", schema.name()));
    }
    sql
}

/// The statement that drops the functions of a watch, once no trigger uses them.
pub fn drop_functions(schema: &Schema, watch: i32) -> String {
    EVENTS.map(|event| format!("DROP FUNCTION IF EXISTS {}.watch_{watch}_{event}();", schema.name())).join("\n")
}

/// The name of a trigger.
pub fn name(schema: &Schema, watch: i32, event: &str) -> String {
    format!("{}_{watch}_{event}", schema.name())
}

/// The statement that creates a trigger on one relation, which is given quoted.
pub fn create(schema: &Schema, watch: i32, event: &str, relation: &str) -> String {
    let rows = match event {
        "insert" => " REFERENCING NEW TABLE AS new_rows",
        "delete" => " REFERENCING OLD TABLE AS old_rows",
        "update" => " REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
        _ => "",
    };
    format!(
        "CREATE TRIGGER {} AFTER {} ON {relation}{rows} FOR EACH STATEMENT EXECUTE FUNCTION {}.watch_{watch}_{event}()",
        name(schema, watch, event),
        event.to_uppercase(),
        schema.name()
    )
}

fn section(title: &str) -> String {
    section_of(TEMPLATE, title)
}

fn section_of(template: &str, title: &str) -> String {
    let heading = format!("-- {{{title}}}\n");
    let start = template.find(&heading).map_or(template.len(), |at| at + heading.len());
    let rest = &template[start..];
    rest[..rest.find("\n-- {").unwrap_or(rest.len())].to_owned()
}

/// The lines whose conditions hold.
fn chosen(text: &str, event: &str, definition: &Definition) -> String {
    let told = definition.tells(event);
    let holds = |word: &str| match word {
        "counts" => definition.counts,
        "sum" => definition.counts && definition.measure.is_some(),
        "touch" => definition.touch,
        "changes" => told,
        "paired" => told && event == "update",
        "columns" => definition.changes.as_ref().is_some_and(|changes| changes.columns.is_some()),
        _ => false,
    };
    let condition = |condition: &str| {
        condition.split(", ").all(|word| word.strip_prefix("not ").map_or_else(|| holds(word), |word| !holds(word)))
    };
    let mut chosen = String::with_capacity(text.len());
    for line in text.lines() {
        match line.rsplit_once(" --? ") {
            Some((line, words)) if condition(words) => chosen.push_str(line.trim_end()),
            Some(_) => continue,
            None => chosen.push_str(line),
        }
        chosen.push('\n');
    }
    chosen
}

fn fill(text: &str, event: &str, schema: &Schema, watch: i32, generation: i32, definition: &Definition) -> String {
    let changes = definition.changes.as_ref();
    let wanted =
        changes.map(|changes| changes.wanted.iter().map(|change| literal(change.as_str())).collect::<Vec<_>>().join(", "));
    // The template's own placeholders first; the user's SQL last, so that nothing in it is replaced.
    let text = text
        .replace("{write}", section("write").trim())
        .replace("{lock}", section("lock").trim())
        .replace("{marker}", section("marker").trim())
        .replace("{unwritten}", section("unwritten").trim())
        .replace("{ring}", section("ring").trim())
        .replace("{edition}", &EDITION.to_string());
    let text = chosen(&text, event, definition)
        .replace("{bell}", &bell())
        .replace("{channel}", schema.name())
        .replace("{id}", &watch.to_string())
        .replace("{generation}", &generation.to_string())
        .replace("{what}", &literal(event))
        .replace("{delta}", delta(event))
        .replace("{wanted}", &wanted.unwrap_or_default());
    let measure = definition.measure.as_ref().map(|measure| measure.sql(schema)).unwrap_or_default();
    let part = |pick: fn(&Changes) -> &str| changes.map(pick).unwrap_or_default();
    let filling = [
        ("{identity}", part(|changes| &changes.identity)),
        ("{columns}", part(|changes| changes.columns.as_deref().unwrap_or("''"))),
        ("{row}", part(|changes| &changes.row)),
        ("{key}", &definition.key),
        ("{parts}", &definition.parts),
        ("{measure}", &measure),
        ("{counted}", &definition.counted),
        ("{where}", &definition.condition),
    ];
    let all = filling.map(|(_, sql)| sql).concat();
    let text = schema.sql(&text).replace("$items_listen$", &unused_tag("items_listen", &all));
    // A backslash in a text means what it means to us, whatever the writer's session says. (Every setting costs its time.)
    let safe = "SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS";
    let text = if all.contains('\\') { text.replace("SET search_path = pg_catalog, pg_temp AS", safe) } else { text };
    put_in(&text, &filling)
}

/// The doorbell's lock. Derived from the schema where the trigger runs: a restored copy of it has another oid.
fn bell() -> String {
    format!("{} | 'items_listen'::regnamespace::oid::bigint", Lock::Doorbell.base())
}

/// By how much one row changes the number of rows.
fn delta(event: &str) -> &'static str {
    match event {
        "insert" => "1",
        "delete" => "-1",
        // That depends on where the row was and is.
        _ => "_delta",
    }
}

/// Puts each text in the place of its name, in one pass: nothing in what was put in is taken for a name.
fn put_in(text: &str, filling: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        match filling.iter().find(|(name, _)| rest.starts_with(name)) {
            Some((name, sql)) => {
                filled.push_str(sql);
                rest = &rest[name.len()..];
            }
            None => {
                filled.push('{');
                rest = &rest[1..];
            }
        }
    }
    filled + rest
}

/// `sql/recount.sql`, filled in: the statement that counts, and the one that corrects.
pub fn recount(schema: &Schema, watch: i32, generation: i32, definition: &Definition) -> [String; 2] {
    const RECOUNT: &str = include_str!("../../sql/recount.sql");
    ["truth", "correction"].map(|title| counting(&section_of(RECOUNT, title), schema, watch, generation, definition))
}

/// `sql/drift.sql`, filled in: by how much the counts are wrong.
pub fn drift(schema: &Schema, watch: i32, generation: i32, definition: &Definition) -> String {
    counting(include_str!("../../sql/drift.sql"), schema, watch, generation, definition)
}

/// A statement that counts a table, filled in.
fn counting(text: &str, schema: &Schema, watch: i32, generation: i32, definition: &Definition) -> String {
    let measure = definition.measure.as_ref().map(|measure| measure.sql(schema));
    let sum = measure.map_or_else(|| "0::numeric".to_owned(), |measure| format!("coalesce(sum({measure}), 0)"));
    let grouped: String = definition.grouping.iter().map(|(expression, name)| format!("{expression} AS {name}, ")).collect();
    let expressions: Vec<&str> = definition.grouping.iter().map(|(expression, _)| expression.as_str()).collect();
    let group = if expressions.is_empty() { String::new() } else { format!("GROUP BY {}", expressions.join(", ")) };
    let text = text
        .replace("{id}", &watch.to_string())
        .replace("{generation}", &generation.to_string())
        .replace("{touch}", if definition.touch { "true" } else { "false" });
    put_in(
        &schema.sql(&text),
        &[
            ("{relation}", &definition.relation),
            ("{key}", &definition.key),
            ("{parts}", &definition.parts),
            ("{grouped}", &grouped),
            ("{group}", &group),
            ("{sum}", &sum),
            ("{counted}", &definition.counted),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(condition: &str) -> Definition {
        Definition {
            relation: "\"public\".\"items\"".into(),
            condition: condition.into(),
            counted: condition.into(),
            parts: "concat('[', \"tenant_id\", ']')".into(),
            key: "r.key".into(),
            counts: true,
            measure: None,
            touch: false,
            update: true,
            changes: None,
            types: vec![23],
            grouping: vec![("\"tenant_id\"".into(), "\"tenant_id\"".into())],
        }
    }

    #[test]
    fn the_template_is_filled_whole() {
        let sql = functions(&Schema::new("items_listen"), 7, 12, &definition("true"));
        assert!(!sql.contains('{'), "{sql}");
        assert_eq!(sql.matches("CREATE OR REPLACE FUNCTION").count(), 4);
        assert_eq!(sql.matches("SECURITY DEFINER SET search_path = pg_catalog, pg_temp").count(), 4);
        assert_eq!(sql.matches("NOTIFY items_listen;").count(), 4);
        let other = functions(&Schema::new("alerts"), 7, 12, &definition("true"));
        assert!(!other.contains("items_listen."), "{other}");
        assert!(other.contains("'alerts'::regnamespace") && other.contains("NOTIFY alerts;"));
    }

    #[test]
    fn a_condition_is_taken_literally() {
        let hostile = "name <> '$items_listen$' AND note = '{key} {id}'";
        let sql = functions(&Schema::new("items_listen"), 7, 12, &definition(hostile));
        assert!(sql.contains(hostile));
        assert!(sql.contains("AS $items_listen_0$"));
    }

    #[test]
    fn another_text_is_another_edition() {
        let known = (3, "7013689a17b4");
        let now = crate::watch::short_hash(TEMPLATE);
        assert_eq!(
            (EDITION, now.as_str()),
            known,
            "raise EDITION with the text; MEANING only where the rows mean something else"
        );
        for function in each_function(&Schema::new("items_listen"), 7, 12, &definition("note <> '$items_listen_0$; AS $$'")) {
            let body = function.body();
            let is_unused = body == "BEGIN RETURN NULL; END";
            assert!(is_unused || edition(body) == EDITION && body.ends_with("END\n"), "{body}");
            assert!(function.create.contains(&format!("{}()", function.name)));
        }
        assert_eq!(edition("\n#variable_conflict use_column\n"), 1);
    }

    #[test]
    fn no_trigger_draws_from_a_sequence_or_reads_a_table() {
        let sql = functions(&Schema::new("items_listen"), 7, 12, &definition("true"));
        assert!(!sql.contains("nextval"));
        let read = sql.lines().filter(|line| line.contains("FROM ")).filter(|line| {
            !["new_rows", "old_rows", "FROM (SELECT", "unnest(_keys", "FROM PUBLIC"].iter().any(|known| line.contains(known))
        });
        assert_eq!(read.collect::<Vec<_>>(), Vec::<&str>::new());
    }
}
