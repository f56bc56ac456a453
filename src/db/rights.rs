//! What a daemon may do in our schema: one table, which `install --print --roles` grants, `check` compares with what the
//! role has, and a test takes away piece by piece.
//!
//! Nothing is in it that the program can do without. Where a row is only locked (`FOR UPDATE`), PostgreSQL wants UPDATE on
//! any one column: then it is one.

use tokio_postgres::Client;

use super::quote;
use super::schema::Schema;
use crate::error::Error;

/// What kind of object a right is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A table or a view.
    Table,
    /// A sequence.
    Sequence,
    /// A function, with the types of its arguments.
    Function,
}

/// One privilege on one object of our schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// The kind of the object.
    pub kind: Kind,
    /// Its name, without the schema.
    pub object: &'static str,
    /// `SELECT`, `INSERT` and so on.
    pub privilege: &'static str,
    /// Of these columns alone; none: of the whole object.
    pub columns: &'static [&'static str],
    /// Who needs it.
    pub why: &'static str,
}

const fn table(object: &'static str, privilege: &'static str, why: &'static str) -> Right {
    Right { kind: Kind::Table, object, privilege, columns: &[], why }
}

const fn columns(object: &'static str, privilege: &'static str, columns: &'static [&'static str], why: &'static str) -> Right {
    Right { kind: Kind::Table, object, privilege, columns, why }
}

const fn sequence(object: &'static str, privilege: &'static str, why: &'static str) -> Right {
    Right { kind: Kind::Sequence, object, privilege, columns: &[], why }
}

/// What the daemon's role needs, and with it every command but those that install.
pub const DAEMON: &[Right] = &[
    table("schema_history", "SELECT", "which version is installed"),
    table("cluster", "SELECT", "whether this is a copy of another cluster's database"),
    columns(
        "cluster",
        "UPDATE",
        &["system_identifier", "own_tables", "unwritten"],
        "deliveries retry, in a copy; what triggers could not write",
    ),
    sequence("unwritten", "SELECT", "whether triggers could write"),
    table("watch", "SELECT", "what is watched"),
    table("watch", "INSERT", "why a watch that is not installed cannot be served"),
    columns("watch", "UPDATE", &["policy", "baseline", "error", "error_at"], "how readings are judged, why a watch is degraded"),
    sequence("watch_id", "USAGE", "a row for a watch that is not installed"),
    sequence("watch_id", "SELECT", "install --print"),
    sequence("generation", "USAGE", "a row for a watch that is not installed"),
    sequence("generation", "SELECT", "install --print"),
    table("journal", "SELECT", "the fold"),
    table("journal", "INSERT", "a recount's corrections"),
    table("journal", "DELETE", "the fold"),
    table("change", "SELECT", "changes of rows"),
    table("change", "INSERT", "changes that are told later are given back"),
    table("change", "DELETE", "changes that are told"),
    table("marker", "SELECT", "which watches are to be counted anew"),
    table("marker", "INSERT", "what triggers could not write is to be counted anew"),
    table("marker", "DELETE", "a recount"),
    table("count", "SELECT", "the fold"),
    table("count", "INSERT", "the fold"),
    table("count", "UPDATE", "the fold"),
    table("count", "DELETE", "keys that are gone"),
    sequence("seq", "USAGE", "numbers of events"),
    table("episode", "SELECT", "the alerts"),
    table("episode", "INSERT", "an alert is raised"),
    table("episode", "UPDATE", "an alert escalates, eases or is resolved"),
    table("episode", "DELETE", "retention"),
    table("alert_read", "SELECT", "how many alerts are unread"),
    columns("alert_read", "UPDATE", &["read_at"], "retention locks what it removes"),
    table("alert_read", "DELETE", "retention"),
    table("alert", "SELECT", "alerts list"),
    columns("alert", "UPDATE", &["read_at"], "alerts read"),
    table("event", "SELECT", "status, digests"),
    table("event", "INSERT", "each transition"),
    columns("event", "UPDATE", &["digest"], "retention locks what it removes"),
    table("event", "DELETE", "retention"),
    table("delivery", "SELECT", "the outbox"),
    table("delivery", "INSERT", "the outbox"),
    table("delivery", "UPDATE", "claims and settlements"),
    table("delivery", "DELETE", "retention"),
    table("endpoint", "SELECT", "how endpoints are"),
    table("endpoint", "INSERT", "how endpoints are"),
    table("endpoint", "UPDATE", "how endpoints are"),
    table("instance", "SELECT", "which daemons run"),
    table("instance", "INSERT", "this daemon runs"),
    table("instance", "UPDATE", "its heartbeat"),
    table("instance", "DELETE", "it has ended"),
    table("storm", "SELECT", "storms and their digests"),
    table("storm", "INSERT", "storms and their digests"),
    table("storm", "UPDATE", "storms and their digests"),
    table("audience", "SELECT", "coalesced changes"),
    table("audience", "INSERT", "coalesced changes"),
    table("audience", "UPDATE", "coalesced changes"),
    table("audience", "DELETE", "retention"),
    table("threshold", "SELECT", "thresholds that the application edits"),
    table("threshold_edit", "SELECT", "that a threshold was edited"),
    table("threshold_edit", "DELETE", "that a threshold was edited"),
    table("unread_edit", "SELECT", "that an alert was read"),
    table("unread_edit", "DELETE", "that an alert was read"),
    Right {
        kind: Kind::Function,
        object: "not_whole(numeric)",
        privilege: "EXECUTE",
        columns: &[],
        why: "sums and values of numeric columns, where they are counted anew or come from a query",
    },
];

/// What an application may be given for its inbox.
pub const APPLICATION_INBOX: &[Right] =
    &[table("alert", "SELECT", "the inbox"), columns("alert", "UPDATE", &["read_at"], "marking an alert read")];

/// What an application may be given besides, if its own screens edit thresholds.
pub const APPLICATION_THRESHOLDS: &[Right] = &[
    table("threshold", "SELECT", "screens that edit thresholds"),
    table("threshold", "INSERT", "screens that edit thresholds"),
    table("threshold", "UPDATE", "screens that edit thresholds"),
    table("threshold", "DELETE", "screens that edit thresholds"),
];

impl Right {
    /// `SELECT`, or `UPDATE (policy, error)`.
    pub fn what(&self) -> String {
        let columns: Vec<String> = self.columns.iter().map(|column| quote(column)).collect();
        if columns.is_empty() { self.privilege.to_owned() } else { format!("{} ({})", self.privilege, columns.join(", ")) }
    }

    /// The object as GRANT and REVOKE name it.
    pub fn on(&self, schema: &Schema) -> String {
        let kind = match self.kind {
            Kind::Table => "",
            Kind::Sequence => "SEQUENCE ",
            Kind::Function => "FUNCTION ",
        };
        // A function's name is followed by its arguments.
        let (name, arguments) = self.object.split_at(self.object.find('(').unwrap_or(self.object.len()));
        format!("{kind}{}.{}{arguments}", quote(schema.name()), quote(name))
    }
}

/// The GRANTs of these rights, one line for each object. The role is given quoted.
pub fn grants(schema: &Schema, rights: &[Right], role: &str) -> Vec<String> {
    by_object(rights)
        .into_iter()
        .map(|of_one| {
            let what: Vec<String> = of_one.iter().map(Right::what).collect();
            format!("GRANT {} ON {} TO {role};", what.join(", "), of_one[0].on(schema))
        })
        .collect()
}

/// In the order given, those of one object together.
fn by_object(rights: &[Right]) -> Vec<Vec<Right>> {
    let mut objects: Vec<Vec<Right>> = Vec::new();
    for right in rights {
        // A sequence and a table may not have one name, so the name is enough.
        match objects.iter_mut().find(|of_one| of_one[0].object == right.object) {
            Some(of_one) => of_one.push(*right),
            None => objects.push(vec![*right]),
        }
    }
    objects
}

/// Those of these rights that this session's role has not. An object that is not there is not asked for.
///
/// # Errors
/// The database cannot be asked.
pub async fn missing(client: &Client, schema: &Schema, rights: &[Right]) -> Result<Vec<Right>, Error> {
    let sql = "SELECT r.ord
               FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::int[]) AS r (kind, object, columns, privilege, ord)
               JOIN pg_namespace n ON n.nspname = $1
               LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = r.object
               LEFT JOIN pg_proc p ON p.pronamespace = n.oid AND p.proname || '(' || oidvectortypes(p.proargtypes) || ')' = r.object
               WHERE NOT CASE WHEN r.columns <> '' THEN has_column_privilege(c.oid, r.columns, r.privilege)
                              WHEN r.kind = 'table' THEN has_table_privilege(c.oid, r.privilege)
                              WHEN r.kind = 'sequence' THEN has_sequence_privilege(c.oid, r.privilege)
                              ELSE has_function_privilege(p.oid, r.privilege) END";
    let (mut kinds, mut objects, mut columns) = (Vec::new(), Vec::new(), Vec::new());
    let (mut privileges, mut ords) = (Vec::new(), Vec::new());
    for (ord, right) in (0_i32..).zip(rights) {
        let kind = match right.kind {
            Kind::Table => "table",
            Kind::Sequence => "sequence",
            Kind::Function => "function",
        };
        for column in if right.columns.is_empty() { &[""] } else { right.columns } {
            kinds.push(kind);
            objects.push(right.object);
            columns.push(*column);
            privileges.push(right.privilege);
            ords.push(ord);
        }
    }
    let rows = client.query(sql, &[&schema.name(), &kinds, &objects, &columns, &privileges, &ords]).await?;
    let lacking: std::collections::BTreeSet<i32> = rows.iter().map(|row| row.get(0)).collect();
    Ok((0_i32..).zip(rights).filter(|(ord, _)| lacking.contains(ord)).map(|(_, right)| *right).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_grant_for_each_object() {
        let schema = Schema::new("items_listen");
        let all = grants(&schema, DAEMON, "\"d\"");
        assert!(all.contains(
            &"GRANT SELECT, UPDATE (\"system_identifier\", \"own_tables\", \"unwritten\") ON \"items_listen\".\"cluster\" TO \"d\";".to_owned()
        ));
        assert!(all.contains(&"GRANT USAGE, SELECT ON SEQUENCE \"items_listen\".\"watch_id\" TO \"d\";".to_owned()));
        assert!(all.contains(&"GRANT EXECUTE ON FUNCTION \"items_listen\".\"not_whole\"(numeric) TO \"d\";".to_owned()));
        let objects: std::collections::HashSet<&str> = DAEMON.iter().map(|right| right.object).collect();
        assert_eq!(all.len(), objects.len());
    }

    #[test]
    fn nothing_stands_there_twice_and_nothing_is_an_owners() {
        let mut seen = std::collections::HashSet::new();
        for right in DAEMON {
            assert!(seen.insert((right.object, right.privilege)), "{right:?}");
            assert!(!["TRUNCATE", "REFERENCES", "TRIGGER", "ALL"].contains(&right.privilege), "{right:?}");
        }
    }
}
