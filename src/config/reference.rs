//! docs/configuration.md, made of the table of keys.

use std::fmt::Write as _;

use super::keys::{Fallback, Key, Kind, ROOT, Reload, Table};

const HEAD: &str = "\
# Configuration

<!-- Made by `make docs` from src/config/keys.rs. A test compares them. -->

One file, in TOML: `--config FILE`, else `$ITEMS_LISTEN_CONFIG`, else `./config.toml`, else
`/etc/items-listen/config.toml`. [config.example.toml](../config.example.toml) has every key with its default and loads
as it is.

**Order.** A flag beats the environment, which beats the file, which beats other programs' names. In the environment a key
is called `ITEMS_LISTEN_` and its path with `__` for each dot: `ITEMS_LISTEN_DATABASE__URL`,
`ITEMS_LISTEN_ENDPOINTS__MAIN__SECRET`, `ITEMS_LISTEN_WATCH__0__THRESHOLD` for the first watch. Other programs' names are
`DATABASE_URL`, `DB_URL`, `DB_*` and `PG*` for the database; `BROADCAST_CONNECTION` or `BROADCAST_DRIVER` with `REVERB_*` or
`PUSHER_*` for an endpoint `main` where the file has none; and `INVENTORY_NOTIFICATION_THRESHOLD` for watches without a
threshold. `--env-file .env` reads these other names from a file.

**What is in force**, and where each value comes from:

```sh
items-listen config
items-listen config --json
```

No secret is shown. What is not shown whole is commented out.

**In an editor.** The JSON Schema completes keys and marks mistakes (taplo, Even Better TOML):

```sh
items-listen config schema > config.schema.json
```

and as the first line of the configuration `#:schema ./config.schema.json`.

**Durations** are strings with a unit: `ms`, `s`, `m`, `h` or `d`, as in `\"500ms\"` or `\"24h\"`.

**Reload.** A running daemon that gets SIGHUP reads the file again. `yes`: the new value is taken. `tried`: it is taken
once it works, else the old one stays. `restart`: it waits for a restart.
";

/// The whole page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    tables(&mut page, &ROOT, "");
    page
}

/// The tables below `table`, each with those below it.
fn tables(page: &mut String, table: &Table, path: &str) {
    for key in table.keys {
        let name = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        let (inner, name, header) = match key.kind {
            Kind::Table(inner) => (inner, name.clone(), format!("[{name}]")),
            Kind::Named(inner) => (inner, format!("{name}.NAME"), format!("[{name}.NAME]")),
            Kind::Tables(inner) => (inner, name.clone(), format!("[[{name}]]")),
            _ => continue,
        };
        let _ = write!(
            page,
            "\n## `{header}`\n\n{}\n\n| key | type | default | reload | meaning |\n|---|---|---|---|---|\n",
            inner.about
        );
        for key in inner.keys.iter().filter(|key| !is_table(key)) {
            let _ = writeln!(page, "{}", row(key));
        }
        tables(page, inner, &name);
    }
}

fn is_table(key: &Key) -> bool {
    matches!(key.kind, Kind::Table(_) | Kind::Named(_) | Kind::Tables(_))
}

fn row(key: &Key) -> String {
    let fallback = match key.fallback {
        Fallback::Required => "required".to_owned(),
        Fallback::Value(text) => format!("`{text}`"),
        Fallback::Depends(words) | Fallback::Unset(words) => words.to_owned(),
    };
    let reload = match key.reload {
        Reload::Yes => "yes",
        Reload::Tried => "tried",
        Reload::Restart => "restart",
    };
    let cells = [format!("`{}`", key.name), kind(key.kind), fallback, reload.to_owned(), key.about.to_owned()];
    format!("| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
}

fn kind(kind: Kind) -> String {
    match kind {
        Kind::Text => "string".to_owned(),
        Kind::Address => "URL".to_owned(),
        Kind::Secret => "secret".to_owned(),
        Kind::SecretFile | Kind::File => "file".to_owned(),
        Kind::Boolean => "`true` or `false`".to_owned(),
        Kind::Integer(i64::MIN, i64::MAX) => "whole number".to_owned(),
        Kind::Integer(min, max) => format!("{} to {}", grouped(min), grouped(max)),
        Kind::Duration("", "") => "duration".to_owned(),
        Kind::Duration(min, "") => format!("duration from `{min}`"),
        Kind::Duration(min, max) => format!("duration, `{min}` to `{max}`"),
        Kind::Word(words) => listed(words, " or "),
        Kind::Words(words) => format!("one or a list of {}", listed(words, " and ")),
        Kind::Texts => "string or list of strings".to_owned(),
        Kind::Data => "string or table".to_owned(),
        Kind::Overrides => "list of tables".to_owned(),
        Kind::Table(_) | Kind::Named(_) | Kind::Tables(_) => "table".to_owned(),
    }
}

fn listed(words: &[&str], last: &str) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    let (end, rest) = quoted.split_last().expect("there are words");
    format!("{}{last}{end}", rest.join(", "))
}

/// 100000000 as 100,000,000.
fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or_default()).collect();
    groups.join(",")
}
