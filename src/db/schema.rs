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
