//! Keeps the owner of a watched table from running code of theirs as our roles.
//!
//! The owner of a table may give a column a type of their own, whose casts and domains call functions of theirs; an expression
//! that was written for the old type would then run them, in triggers as our schema's owner and in recounts as the daemon. It
//! need not even be executed: PostgreSQL reads a literal of a domain's array, and so runs the domain's checks, while it parses.
//!
//! Invariants. No statement with a person's expression is parsed while a column that it uses is of another kind than when its
//! triggers were made. In triggers [`sql`] sees to it, which costs nothing where it is not needed; everywhere else the table is
//! locked, its catalog compared with what the triggers note of themselves ([`note`]), and only then the expression is parsed.
//!
//! Types that mean the same to us and run nobody's code are of one kind: a `varchar` that becomes `text` stops nobody.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::trigger;
use crate::db::quote;
use crate::db::schema::Schema;
use crate::error::Error;

/// A column that expressions use, and of which kind it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typed {
    /// Its name.
    pub column: String,
    /// The type that stands for its kind, quoted, with its schema.
    pub kind: String,
    /// Only this very type is of this kind: its array type, quoted, or its own if it is an array.
    pub exact: Option<Exact>,
    /// As a person calls its type.
    pub shown: String,
    /// Whose code the type could run who is neither a superuser nor one of our roles; `None` where there is nobody.
    pub strange: Option<String>,
}

/// How a type that nothing else stands for is compared with another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exact {
    /// It is an array.
    Array,
    /// By its array type, quoted.
    ByArray(String),
}

/// The kinds of columns, by name: what the triggers note of themselves.
pub type Kinds = BTreeMap<String, String>;

/// The columns, among those that the table has, which expressions may use: whose names stand in one of them as a word.
/// One too many costs nothing but a recount when its type changes.
pub fn used<'a>(expressions: &[&str], columns: impl Iterator<Item = &'a str>) -> Vec<String> {
    let texts: Vec<String> = expressions.iter().map(|text| text.to_lowercase()).collect();
    // A name may be spelt as U&"\0061".
    let spelt = texts.iter().any(|text| text.contains("u&\""));
    columns.filter(|name| spelt || texts.iter().any(|text| has_word(text, name))).map(str::to_owned).collect()
}

fn has_word(text: &str, name: &str) -> bool {
    let name = name.to_lowercase().replace('"', "\"\"");
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '$';
    text.match_indices(&name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// Expressions over the columns of `n` that PostgreSQL only understands where all are of their kinds. They need not be
/// executed, nor planned, and so call nothing.
pub fn sql(columns: &[Typed]) -> String {
    let each = columns.iter().map(|typed| {
        let column = quote(&typed.column);
        match &typed.exact {
            // Values of different categories have no common type, and nobody but a superuser puts a type into these.
            None => format!("coalesce(n.{column}, NULL::{})", typed.kind),
            Some(Exact::Array) => format!("array_eq(n.{column}, NULL::{})", typed.kind),
            Some(Exact::ByArray(array)) => format!("array_eq(ARRAY[n.{column}], NULL::{array})"),
        }
    });
    each.collect::<Vec<_>>().join(", ")
}

/// What a function notes of the columns that it uses: one line.
pub fn note(columns: &[Typed]) -> String {
    let kinds: Kinds = columns.iter().map(|typed| (typed.column.clone(), typed.kind.clone())).collect();
    serde_json::to_string(&kinds).unwrap_or_else(|_| "{}".to_owned())
}

/// What a function of a watch has noted; `None` where it is of an edition that did not.
pub fn noted(body: &str) -> Option<Kinds> {
    if trigger::edition(body) < trigger::EDITION_GUARDED {
        return None;
    }
    let line = body.lines().find_map(|line| line.strip_prefix("-- Columns: "));
    Some(line.and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default())
}

/// The kinds of columns that the triggers of a watch were made for; `None` where nothing is known of them: it is not installed,
/// or by a program that took no note of them.
///
/// # Errors
/// The database cannot be asked.
pub async fn installed(client: &Client, schema: &Schema, watch: &str) -> Result<Option<Kinds>, Error> {
    let is_there = "SELECT to_regclass($1) IS NOT NULL";
    if !client.query_one(is_there, &[&format!("{}.watch", schema.name())]).await?.get::<_, bool>(0) {
        return Ok(None);
    }
    let sql = schema.sql(
        "SELECT p.prosrc FROM items_listen.watch w JOIN pg_namespace n ON n.nspname = $2 JOIN pg_proc p ON p.pronamespace = n.oid
         WHERE w.name = $1 AND p.pronargs = 0
           AND p.proname IN (format('watch_%s_insert', w.id), format('watch_%s_delete', w.id), format('watch_%s_update', w.id))",
    );
    let rows = client.query(sql.as_str(), &[&watch, &schema.name()]).await?;
    Ok(rows.iter().find_map(|row| noted(row.get(0))))
}

/// The kinds of these columns of a table.
///
/// # Errors
/// The database cannot be asked.
pub async fn of_columns(client: &Client, schema: &Schema, oid: u32, columns: &[String]) -> Result<Vec<Typed>, Error> {
    const SQL: &str = "
        WITH RECURSIVE base (num, name, own, typ) AS (
            SELECT a.attnum, a.attname::text, a.atttypid, a.atttypid FROM pg_attribute a
            WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attname::text = ANY ($2)
            UNION ALL
            SELECT b.num, b.name, b.own, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.typ WHERE t.typtype = 'd'),
        trusted AS (
            SELECT r.oid FROM pg_roles r
            WHERE r.rolsuper OR r.rolname = current_user OR r.oid = (SELECT nspowner FROM pg_namespace WHERE nspname = $3))
        SELECT b.name, s.typname::text, n.nspname::text, t.typtype::text, e.oid IS NOT NULL, x.typname::text, y.nspname::text,
               format_type(b.own, NULL), t.oid < 16384,
               CASE WHEN c.oid >= 16384 AND c.typowner NOT IN (SELECT oid FROM trusted)
                         AND (c.typtype <> 'e'
                              OR EXISTS (SELECT FROM pg_cast k JOIN pg_proc p ON p.oid = k.castfunc
                                         WHERE c.oid IN (k.castsource, k.casttarget) AND p.proowner NOT IN (SELECT oid FROM trusted)))
                    THEN c.typowner::regrole::text END
        FROM base b JOIN pg_type t ON t.oid = b.typ
        -- What is compared by its array type is itself, though it be a domain: an array of a domain is none of its base.
        JOIN pg_type s ON s.oid = CASE WHEN t.typtype IN ('c', 'e', 'r', 'm') THEN b.own ELSE b.typ END
        JOIN pg_namespace n ON n.oid = s.typnamespace
        LEFT JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
        LEFT JOIN pg_type x ON x.oid = s.typarray LEFT JOIN pg_namespace y ON y.oid = x.typnamespace
        JOIN pg_type c ON c.oid = coalesce(e.oid, t.oid)
        WHERE t.typtype <> 'd' ORDER BY b.num";
    let rows = client.query(SQL, &[&oid, &columns, &schema.name()]).await?;
    let typed = rows.iter().map(|row| {
        let (name, space, kind): (&str, &str, &str) = (row.get(1), row.get(2), row.get(3));
        let exact = match (row.get(4), row.get::<_, Option<&str>>(5), row.get::<_, Option<&str>>(6)) {
            (true, _, _) => Some(Exact::Array),
            (false, Some(array), Some(space)) if "cerm".contains(kind) => Some(Exact::ByArray(qualified(space, array))),
            _ => None,
        };
        let name = if row.get(8) && exact.is_none() { alike(name) } else { name };
        Typed { column: row.get(0), kind: qualified(space, name), exact, shown: row.get(7), strange: row.get(9) }
    });
    Ok(typed.collect())
}

fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quote(schema), quote(name))
}

/// The type that stands for those of PostgreSQL's own which have a common one with it.
fn alike(name: &str) -> &str {
    match name {
        "varchar" | "bpchar" | "name" => "text",
        "int2" | "int4" | "int8" | "float4" | "float8" => "numeric",
        "date" | "timestamp" => "timestamptz",
        other => other,
    }
}

/// How the kinds of columns now differ from those that the triggers were made for, in words.
fn difference(relation: &str, known: &Kinds, now: &[Typed]) -> Option<(String, Option<String>)> {
    let differs = now.iter().find(|typed| known.get(&typed.column).is_some_and(|kind| *kind != typed.kind))?;
    let was = known.get(&differs.column).map(|kind| kind.replace("\"pg_catalog\".", "").replace('"', "")).unwrap_or_default();
    let what = format!(
        "the column \"{}\" of {} is of type {} now, and its triggers were made for {was}",
        differs.column,
        relation.replace('"', ""),
        differs.shown
    );
    Some((what, differs.strange.clone()))
}

/// The columns whose types could run the code of somebody other than a superuser or our own roles, in words.
pub fn strange(guarded: &[Typed]) -> Vec<String> {
    let strange = guarded.iter().filter_map(|typed| typed.strange.as_ref().map(|owner| (typed, owner)));
    strange
        .map(|(typed, owner)| {
            format!("the column \"{}\" is of type {}, which {owner} could let run code of its own", typed.column, typed.shown)
        })
        .collect()
}

/// Refuses types that could run the code of somebody other than a superuser or our own roles, where the triggers were made for
/// others: no program decides by itself to trust them.
///
/// # Errors
/// There is such a column: which, and what to do.
pub fn refuse_strange(relation: &str, known: &Kinds, now: &[Typed]) -> Result<(), Error> {
    let strange: Vec<Typed> = now.iter().filter(|typed| typed.strange.is_some()).cloned().collect();
    let Some((what, owner)) = difference(relation, known, &strange) else { return Ok(()) };
    Err(Error::Failed(format!(
        "{what}; {} could let that type run its own code as our roles: give the column another type, or run items-listen install by \
         hand, if you trust that role as far",
        owner.unwrap_or_default()
    )))
}

/// Refuses a copy of the table, of this name, whose columns are not of these kinds any more.
///
/// # Errors
/// The table was changed meanwhile.
pub async fn refuse_copy(client: &Client, schema: &Schema, copy: &str, guarded: &[Typed]) -> Result<(), Error> {
    let oid: u32 = client.query_one("SELECT $1::text::regclass::oid", &[&copy]).await?.get(0);
    let columns: Vec<String> = guarded.iter().map(|typed| typed.column.clone()).collect();
    let known: Kinds = guarded.iter().map(|typed| (typed.column.clone(), typed.kind.clone())).collect();
    match difference("the table", &known, &of_columns(client, schema, oid, &columns).await?) {
        Some((what, _)) => Err(Error::Failed(format!("{what}: it was changed while it was looked at; try again"))),
        None => Ok(()),
    }
}

/// Refuses what is about to be read and is not what the triggers were made for: anything but tables, and columns of other kinds.
/// The caller has it locked against ALTER TABLE.
///
/// # Errors
/// What is another than it was, and what to do.
pub async fn refuse_changed(client: &Client, schema: &Schema, watch: &str, relation: &str) -> Result<(), Error> {
    const NO_TABLE: &str = "
        WITH RECURSIVE tree (relid) AS (
            SELECT to_regclass($1)::oid
            UNION SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.relid)
        SELECT c.oid::regclass::text, to_regclass($1)::oid, c.relkind IN ('r', 'p') FROM tree t JOIN pg_class c ON c.oid = t.relid
        ORDER BY c.relkind IN ('r', 'p') LIMIT 1";
    let Some(row) = client.query_opt(NO_TABLE, &[&relation]).await? else {
        return Err(Error::Failed(format!("the table {relation} does not exist, or this role may not see its schema")));
    };
    let (worst, oid): (String, u32) = (row.get(0), row.get(1));
    if !row.get::<_, bool>(2) {
        return Err(Error::Failed(format!(
            "{worst} is no table any more, and reading it could run anybody's code: put a table in its place, or use query"
        )));
    }
    let Some(known) = installed(client, schema, watch).await? else { return Ok(()) };
    let columns: Vec<String> = known.keys().cloned().collect();
    let now = of_columns(client, schema, oid, &columns).await?;
    refuse_strange(relation, &known, &now)?;
    match difference(relation, &known, &now) {
        Some((what, _)) => Err(Error::Failed(format!("{what}: run items-listen install"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(column: &str, kind: &str, exact: Option<Exact>) -> Typed {
        Typed { column: column.into(), kind: kind.into(), exact, shown: kind.into(), strange: None }
    }

    #[test]
    fn a_column_is_used_where_its_name_is_a_word() {
        let columns = ["id", "Status", "a b", "said \"x\"", "ä", "no"];
        let used = |expression: &str| used(&[expression], columns.into_iter());
        assert_eq!(used("paid AND valid_id AND id_2 AND $id"), Vec::<String>::new());
        assert_eq!(used("ID>1 AND \"Status\"='open'"), ["id", "Status"]);
        assert_eq!(used("\"a b\" = 1 OR \"said \"\"x\"\"\" OR länge OR ä"), ["a b", "said \"x\"", "ä"]);
        assert_eq!(used("U&\"\\0069d\" = 1").len(), columns.len(), "it may be any of them");
    }

    #[test]
    fn what_is_noted_is_read_again() {
        let columns =
            [typed("line\nbreak \"x\"", "pg_catalog.text", None), typed("b", "shop.e", Some(Exact::ByArray("shop._e".into())))];
        let body = format!("\n-- Edition {} of these functions.\n-- Columns: {}\nBEGIN END", trigger::EDITION, note(&columns));
        let read = noted(&body).expect("it is there");
        assert_eq!(read.get("line\nbreak \"x\"").map(String::as_str), Some("pg_catalog.text"));
        assert_eq!(read.len(), 2);
        assert_eq!(noted("\n-- Edition 3 of these functions.\nBEGIN END"), None);
        assert_eq!(
            sql(&columns),
            "coalesce(n.\"line\nbreak \"\"x\"\"\", NULL::pg_catalog.text), array_eq(ARRAY[n.\"b\"], NULL::shop._e)"
        );
    }

    #[test]
    fn only_another_kind_is_a_difference() {
        let known = Kinds::from([("a".to_owned(), "\"pg_catalog\".\"text\"".to_owned())]);
        let of = |kind: &str, strange: Option<&str>| Typed { strange: strange.map(str::to_owned), ..typed("a", kind, None) };
        assert_eq!(difference("t", &known, &[of("\"pg_catalog\".\"text\"", None)]), None);
        assert_eq!(difference("t", &Kinds::new(), &[of("evil", Some("clerk"))]), None, "nothing is known of it");
        let (what, owner) = difference("t", &known, &[of("evil", Some("clerk"))]).expect("another");
        assert!(what.contains("made for text") && owner.as_deref() == Some("clerk"), "{what}");
        assert!(refuse_strange("t", &known, &[of("other", None)]).is_ok());
        assert!(refuse_strange("t", &known, &[of("evil", Some("clerk"))]).is_err());
    }
}
