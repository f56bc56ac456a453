//! The SQL of a watch's trigger functions and triggers, from the template in `sql/triggers.sql`.
//!
//! Pure: text in, text out.

use super::definition::Definition;
use crate::db::locks::Lock;
use crate::db::schema::Schema;

/// The template, readable on its own.
pub const TEMPLATE: &str = include_str!("../../sql/triggers.sql");

/// The statements that create or replace the functions of a watch.
pub fn functions(schema: &Schema, watch: i32, generation: i32, definition: &Definition) -> String {
    let events = ["insert", "delete", "update", "truncate"];
    let fill = |event: &str| fill(&section(&format!("function {event}")), schema, watch, generation, definition);
    let unused = format!(
        "CREATE OR REPLACE FUNCTION {}.watch_{watch}_update() RETURNS trigger\n\
         LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN NULL; END';\n",
        schema.name()
    );
    let mut sql = String::new();
    for event in events {
        sql.push_str(&if event == "update" && !definition.update { unused.clone() } else { fill(event) });
        sql.push_str(&format!("REVOKE ALL ON FUNCTION {}.watch_{watch}_{event}() FROM PUBLIC;\n", schema.name()));
    }
    sql
}

/// The statement that drops the functions of a watch, once no trigger uses them.
pub fn drop_functions(schema: &Schema, watch: i32) -> String {
    ["insert", "delete", "update", "truncate"]
        .map(|event| format!("DROP FUNCTION IF EXISTS {}.watch_{watch}_{event}();", schema.name()))
        .join("\n")
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
    let heading = format!("-- {{{title}}}\n");
    let start = TEMPLATE.find(&heading).map_or(TEMPLATE.len(), |at| at + heading.len());
    let rest = &TEMPLATE[start..];
    rest[..rest.find("\n-- {").unwrap_or(rest.len())].to_owned()
}

fn fill(text: &str, schema: &Schema, watch: i32, generation: i32, definition: &Definition) -> String {
    // The template's own placeholders first; the user's SQL last, so that nothing in it is replaced.
    let text = text
        .replace("{write}", section("write").trim())
        .replace("{ring}", section("ring").trim())
        .replace("{doorbell}", &Lock::Doorbell.base().to_string())
        .replace("{channel}", schema.name())
        .replace("{id}", &watch.to_string())
        .replace("{generation}", &generation.to_string());
    let tag = (0..).map(|n| format!("$items_listen_{n}$")).find(|tag| !definition.condition.contains(tag.as_str()));
    schema
        .sql(&text)
        .replace("$items_listen$", &tag.unwrap_or_default())
        .replace("{key}", &definition.key)
        .replace("{parts}", &definition.parts)
        .replace("{where}", &definition.condition)
}

/// `sql/recount.sql`, filled in.
pub fn recount(schema: &Schema, watch: i32, generation: i32, definition: &Definition) -> String {
    let text = include_str!("../../sql/recount.sql")
        .replace("{id}", &watch.to_string())
        .replace("{generation}", &generation.to_string());
    schema
        .sql(&text)
        .replace("{relation}", &definition.relation)
        .replace("{key}", &definition.key)
        .replace("{parts}", &definition.parts)
        .replace("{where}", &definition.condition)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(condition: &str) -> Definition {
        Definition {
            relation: "\"public\".\"items\"".into(),
            condition: condition.into(),
            parts: "jsonb_build_array(\"tenant_id\")::text".into(),
            key: "r.key".into(),
            update: true,
            types: vec![23],
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
        let hostile = "name <> '$items_listen_0$' AND note = '{key} {id}'";
        let sql = functions(&Schema::new("items_listen"), 7, 12, &definition(hostile));
        assert!(sql.contains(hostile));
        assert!(sql.contains("AS $items_listen_1$"));
    }

    #[test]
    fn no_trigger_touches_a_sequence_or_reads_a_table() {
        let sql = functions(&Schema::new("items_listen"), 7, 12, &definition("true"));
        assert!(!sql.contains("nextval"));
        let read = sql.lines().filter(|line| line.contains("FROM ")).filter(|line| {
            !["new_rows", "old_rows", "FROM (SELECT", "unnest(_keys", "FROM PUBLIC"].iter().any(|known| line.contains(known))
        });
        assert_eq!(read.collect::<Vec<_>>(), Vec::<&str>::new());
    }
}
