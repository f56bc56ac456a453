//! What is served, what was received, and what a fold says it did.

use std::sync::Arc;

use crate::journal::install;
use crate::watch::{Key, Watch};

/// A watch that this replica serves: the one in its configuration and the one in the database are the same.
#[derive(Clone, Debug)]
pub struct Served {
    /// `items_listen.watch.id`.
    pub id: i32,
    /// The generation of its definition.
    pub generation: i32,
    /// The watch.
    pub watch: Arc<Watch>,
    /// How its readings are judged, as the database has it; hashed once and not at every fold.
    policy: String,
    /// What identifies the definition of what is received; nothing, where it is counted.
    source: Arc<str>,
    /// Its events tell how many alerts are unread; looked for once and not at every fold.
    wants_unread: bool,
}

impl Served {
    /// A watch of the configuration, as it stands in the database.
    pub fn new(id: i32, generation: i32, watch: Arc<Watch>) -> Served {
        let policy = watch.policy_hash();
        let wants_unread = watch.wants_unread();
        let source = install::text(&watch, None).into();
        Served { id, generation, watch, policy, source, wants_unread }
    }

    /// What identifies the definition of what is received.
    pub fn source(&self) -> Arc<str> {
        Arc::clone(&self.source)
    }

    /// Whether any of its events tells how many alerts are unread.
    pub fn wants_unread(&self) -> bool {
        self.wants_unread
    }

    /// The hash of its policy.
    pub fn policy(&self) -> &str {
        &self.policy
    }
}

/// A reading that an application sent, or that a query gave.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// `items_listen.watch.id`.
    pub watch: i32,
    /// The definition under which it came: [`Served::source`]. Under another its key and its count mean something else.
    pub source: Arc<str>,
    /// Which key.
    pub key: Key,
    /// What it said.
    pub count: i64,
    /// The key exists no more.
    pub gone: bool,
    /// The threshold of its own row, where the watch has a column for it: `Some(None)` is NULL.
    pub threshold: Option<Option<i64>>,
    /// Its row, where it has one.
    pub row: Option<serde_json::Map<String, serde_json::Value>>,
}

/// What a fold did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folded {
    /// Another replica is folding.
    Busy,
    /// It committed.
    Done {
        /// Journal rows taken.
        rows: i64,
        /// The journal was dry.
        complete: bool,
        /// There is more than one fold does.
        more: bool,
        /// Watches that wait to be counted anew.
        marked: Vec<i32>,
    },
}
