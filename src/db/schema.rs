//! SQL files name the schema `items_listen`, so that a DBA can read and run them as they are; where
//! the configuration names another, this is where it is put in.

/// The name of our schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    name: String,
}

/// The name in the SQL files.
const DEFAULT: &str = "items_listen";

impl Schema {
    /// A schema of that name: a–z, 0–9 and `_`, as the configuration has checked.
    pub fn new(name: &str) -> Schema {
        Schema { name: name.to_owned() }
    }

    /// Its name, which is also the channel of the doorbell and the prefix of trigger names.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `sql` with the schema's name put in.
    pub fn sql(&self, sql: &str) -> String {
        if self.name == DEFAULT {
            return sql.to_owned();
        }
        sql.replace(&format!("{DEFAULT}."), &format!("{}.", self.name))
            .replace(&format!("'{DEFAULT}'"), &format!("'{}'", self.name))
            .replace(&format!("SCHEMA IF NOT EXISTS {DEFAULT}"), &format!("SCHEMA IF NOT EXISTS {}", self.name))
    }
}

/// Why a name can be no schema of ours, though it is well formed.
pub fn taken(schema: &str) -> Option<&'static str> {
    if schema.starts_with("pg_") || schema == "information_schema" {
        return Some("is PostgreSQL's own");
    }
    if schema == "public" {
        return Some("is everybody's, and uninstall drops the schema with all that is in it");
    }
    RESERVED.split_whitespace().any(|word| word == schema).then_some("is a word of SQL")
}

/// The words that PostgreSQL 14 to 18 take for no schema's name (`pg_get_keywords()`, `catcode` R and T).
const RESERVED: &str = "all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate \
    collation column concurrently constraint create cross current_catalog current_date current_role current_schema current_time \
    current_timestamp current_user default deferrable desc distinct do else end except false fetch for foreign freeze from full \
    grant group having ilike in initially inner intersect into is isnull join lateral leading left like limit localtime \
    localtimestamp natural not notnull null offset on only or order outer overlaps placing primary references returning right \
    select session_user similar some symmetric system_user table tablesample then to trailing true union unique user using \
    variadic verbose when where window with";
