//! Every key of the configuration, described once: the JSON Schema, docs/configuration.md and the effective configuration
//! are made of this table, and a test holds it to the reader.

/// A table of the configuration file.
#[derive(Debug)]
pub struct Table {
    /// What it is about, in Markdown.
    pub about: &'static str,
    /// Its keys, in the order in which they are shown.
    pub keys: &'static [Key],
}

/// A key of a table.
#[derive(Debug)]
pub struct Key {
    /// Its name in the file.
    pub name: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// What holds where the file says nothing.
    pub fallback: Fallback,
    /// What it means, in Markdown.
    pub about: &'static str,
    /// Whether a running daemon takes another value.
    pub reload: Reload,
}

/// What a key may hold.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A string.
    Text,
    /// A connection string or URL, in which a password may stand.
    Address,
    /// A string that is never shown.
    Secret,
    /// The name of a file that holds a secret.
    SecretFile,
    /// The name of a file that holds nothing secret.
    File,
    /// true or false.
    Boolean,
    /// A whole number within bounds, both included.
    Integer(i64, i64),
    /// A duration within bounds, both included; an empty string is no bound.
    Duration(&'static str, &'static str),
    /// One of a few words.
    Word(&'static [&'static str]),
    /// One of a few words, or a list of them.
    Words(&'static [&'static str]),
    /// A string, or a list of strings.
    Texts,
    /// `"full"`, `"thin"`, one expression, or a table whose strings are templates.
    Data,
    /// A list of tables, each with `threshold` and columns of the key.
    Overrides,
    /// A table.
    Table(&'static Table),
    /// Tables whose names the user chooses.
    Named(&'static Table),
    /// A list of tables.
    Tables(&'static Table),
}

/// What holds where the file says nothing.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// The key, or one that stands for it, has to be given.
    Required,
    /// This value, as it is written in the file.
    Value(&'static str),
    /// A value that depends on other keys, said in words.
    Depends(&'static str),
    /// No value; what that means, in words.
    Unset(&'static str),
}

/// Whether a running daemon takes another value of a key when it reads the configuration again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// It does.
    Yes,
    /// It does once the new value has been tried and works; else the old one stays.
    Tried,
    /// It needs a restart.
    Restart,
}

impl Key {
    const fn new(name: &'static str, kind: Kind, fallback: Fallback, about: &'static str) -> Key {
        Key { name, kind, fallback, about, reload: Reload::Yes }
    }

    const fn reload(self, reload: Reload) -> Key {
        Key { reload, ..self }
    }
}

/// The tables that have a key of this name, as they are written in the file.
pub fn tables_with(name: &str) -> Vec<String> {
    fn walk(table: &'static Table, path: &str, name: &str, found: &mut Vec<String>) {
        for key in table.keys {
            let below = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
            let (inner, below, header) = match key.kind {
                Kind::Table(inner) => (inner, below.clone(), format!("[{below}]")),
                Kind::Named(inner) => (inner, format!("{below}.NAME"), format!("[{below}.NAME]")),
                Kind::Tables(inner) => (inner, below.clone(), format!("[[{below}]]")),
                _ => continue,
            };
            if inner.keys.iter().any(|key| key.name == name) {
                found.push(header);
            }
            walk(inner, &below, name, found);
        }
    }
    let mut found = Vec::new();
    walk(&ROOT, "", name, &mut found);
    found
}

use Fallback::{Depends, Required, Unset, Value};
use Kind::{
    Address, Boolean, Data, Duration, File, Integer, Named, Overrides, Secret, SecretFile, Tables, Text, Texts, Word, Words,
};

/// The whole file.
pub static ROOT: Table = Table {
    about: "",
    keys: &[
        Key::new("database", Kind::Table(&DATABASE), Unset("none"), "The database."),
        Key::new("endpoints", Named(&ENDPOINT), Unset("none"), "Where events go, one table each."),
        Key::new("watch", Tables(&WATCH), Unset("none"), "What is watched, any number of them."),
        Key::new("http", Kind::Table(&HTTP), Unset("none"), "Health and status over HTTP."),
    ],
};

static DATABASE: Table = Table {
    about: "Where the watched tables are, and what is done there.",
    keys: &[
        Key::new(
            "url",
            Address,
            Unset("`DATABASE_URL`, `DB_URL`, `DB_*`, `PG*`"),
            "How to connect: a URL, or libpq's `host=… dbname=…`. It must lead to the server itself, not through a pooler in \
             transaction mode. `sslmode` may be `disable`, `prefer`, `require`, `verify-ca` or `verify-full`; with `sslrootcert` a \
             certificate is always verified. Those and the other parameters about TLS are in [tls.md](tls.md).",
        )
        .reload(Reload::Tried),
        Key::new("url_file", SecretFile, Unset("none"), "A file that holds the URL; without a directory a systemd credential, or a file beside the configuration. Excludes `url`.").reload(Reload::Tried),
        Key::new(
            "schema",
            Text,
            Value("\"items_listen\""),
            "The schema that holds everything of ours: a–z, 0–9 and `_`, at most 32 characters.",
        )
        .reload(Reload::Restart),
        Key::new(
            "install",
            Word(&["auto", "manual"]),
            Value("\"auto\""),
            "`auto`: the daemon creates schema and triggers and keeps them in place. `manual`: somebody runs `items-listen install`.",
        ),
        Key::new(
            "pool_size",
            Integer(1, 100),
            Value("4"),
            "Connections for claims, settlements and questions, besides the few that listen, fold and recount.",
        ),
        Key::new(
            "doorbell",
            Word(&["auto", "on", "off"]),
            Value("\"auto\""),
            "Whether writers may be made to NOTIFY a sleeping daemon. `auto` is on, unless the server's \
             `max_prepared_transactions` is above 0. Where it is off, the poll is at most 50 ms.",
        ),
        Key::new(
            "poll",
            Duration("10ms", "60s"),
            Value("\"1s\""),
            "The slow beat, which bounds everything that the doorbell does not announce.",
        ),
        Key::new("retention", Kind::Table(&RETENTION), Unset("the defaults below"), "How long what is over is kept."),
    ],
};

static RETENTION: Table = Table {
    about: "How long what is over is kept. What is pending, and alerts that are open, are always kept.",
    keys: &[
        Key::new("events", Duration("", ""), Value("\"30d\""), "Events; and alerts, since they were resolved."),
        Key::new("delivered", Duration("", ""), Value("\"7d\""), "Deliveries, since they were delivered."),
        Key::new("dead", Duration("", ""), Value("\"90d\""), "Deliveries, since they died."),
    ],
};

static ENDPOINT: Table = Table {
    about: "Where events go, one table each; the name is yours. Without any, `BROADCAST_CONNECTION` (or `BROADCAST_DRIVER`) in \
            the environment makes the endpoint `main` of `REVERB_*`, `PUSHER_*` or the log.",
    keys: &[
        Key::new(
            "url",
            Address,
            Required,
            "The HTTP API of a Pusher-compatible server, or `\"log:\"` for one JSON object per line on stdout, which needs none \
             of `app_id`, `key` and `secret`. A path goes before `/apps/…`. Or give `url_file` or `cluster`.",
        ),
        Key::new("url_file", SecretFile, Unset("none"), "A file that holds the URL. Excludes `url`."),
        Key::new("cluster", Text, Unset("none"), "A cluster of Pusher itself, such as `eu`. Excludes `url` and `url_file`."),
        Key::new("app_id", Text, Required, "The application's id on that server."),
        Key::new("key", Text, Required, "The application's key, which browsers know too."),
        Key::new("secret", Secret, Required, "The application's secret, with which requests are signed. Or give `secret_file`."),
        Key::new(
            "secret_file",
            SecretFile,
            Unset("none"),
            "A file that holds the secret, looked for as `database.url_file` is. Excludes `secret`.",
        ),
        Key::new(
            "encryption_key",
            Secret,
            Unset("none: what goes to `private-encrypted-*` is dead, never sent in clear"),
            "The master key of `private-encrypted-*` channels, 32 bytes in base64, the same as the application's.",
        ),
        Key::new(
            "encryption_key_file",
            SecretFile,
            Unset("none"),
            "A file that holds the master key. Excludes `encryption_key`.",
        ),
        Key::new(
            "ca_file",
            File,
            Unset("none: the issuers that this machine knows"),
            "A file of further issuers' certificates (PEM), looked for as `secret_file` is, which are accepted besides those \
             that this machine knows.",
        ),
        Key::new("sign_path", Boolean, Value("false"), "Whether a path in the URL is signed too, as Soketi wants it."),
        Key::new(
            "timeout",
            Duration("100ms", "5m"),
            Value("\"10s\""),
            "The whole request, from connecting to the end of the answer.",
        ),
        Key::new("in_flight", Integer(1, 1_000), Value("8"), "Requests under way at once."),
        Key::new(
            "rate",
            Text,
            Unset("no limit"),
            "No more requests in any span of time than the endpoint takes, such as `\"100/60s\"`: 1 to 100,000 in 1 s to 1 h. Each \
             replica counts its own.",
        ),
        Key::new("max_batch", Integer(1, 1_000), Value("10"), "Events in one request; Pusher and Reverb take 10."),
        Key::new(
            "max_request_bytes",
            Integer(500, 100_000_000),
            Value("9400"),
            "Bytes of a request's body. Reverb counts 10,000 with the request line and the headers. A single event that is longer \
             is still sent, alone.",
        ),
        Key::new("retry", Kind::Table(&RETRY), Unset("the defaults below"), "When a failed delivery is tried again."),
    ],
};

static RETRY: Table = Table {
    about: "When a failed delivery is tried again. The delay doubles from `initial` up to `max`, and half of it is drawn at \
            random; a Retry-After is honoured up to `max`.",
    keys: &[
        Key::new("initial", Duration("1ms", ""), Value("\"500ms\""), "The first delay; not longer than `max`."),
        Key::new("max", Duration("", ""), Value("\"5m\""), "The longest delay."),
        Key::new("give_up_after", Duration("", ""), Value("\"24h\""), "An older delivery is dead, with the reason `expired`."),
    ],
};

static WATCH: Table = Table {
    about: "What is watched: exactly one of `table`, `query` and `notify`, a threshold, and at least one rule. With no \
            configuration file at all there is one watch, `items`, of `NOTIFY item_count`.",
    keys: &[
        Key::new("name", Text, Required, "Unique: letters, digits, `_`, `-` and `.`, at most 64. It is in every event."),
        Key::new(
            "table",
            Text,
            Unset("none"),
            "A table, or a partitioned table by its root, whose rows are counted; without a schema, `public`.",
        ),
        Key::new(
            "query",
            Text,
            Unset("none"),
            "A SELECT that is asked again and again and read as if its answer were a table of at most 100,000 keys. Nothing is \
             installed on the tables behind it. A key that it no longer gives is gone.",
        ),
        Key::new(
            "every",
            Duration("100ms", "1d"),
            Depends("`\"30s\"` with `query`"),
            "How often the query is asked, a tenth more or less.",
        ),
        Key::new(
            "notify",
            Text,
            Unset("none"),
            "A channel on which the application itself sends NOTIFY with a whole number, or with JSON such as \
             `{\"count\": 25, \"key\": {\"tenant_id\": 7}}`.",
        ),
        Key::new("where", Text, Unset("every row"), "An SQL condition on the row, for watches of a table; it must be immutable."),
        Key::new(
            "sum",
            Text,
            Unset("rows are counted"),
            "The sum of this SQL expression is measured, whole numbers only. Excludes `value`.",
        ),
        Key::new(
            "value",
            Text,
            Unset("rows are counted"),
            "The level of each single row is measured, which the key must tell from the others. A level that is NULL is none. \
             Excludes `sum`.",
        ),
        Key::new(
            "key",
            Texts,
            Unset("one count for all; the primary key with `value`, and where all rules listen to changes"),
            "Columns: one count, and one alert, for each distinct combination of their values.",
        ),
        Key::new(
            "threshold",
            Integer(i64::MIN, i64::MAX),
            Depends(
                "`INVENTORY_NOTIFICATION_THRESHOLD`, else required where something is counted, unless one of the next two is given",
            ),
            "The number that 100 % stands for. With `>=` and `>` a threshold of 0 or less disables the key.",
        ),
        Key::new(
            "thresholds",
            Overrides,
            Unset("none"),
            "Other thresholds for some keys, such as `[{ tenant_id = 42, threshold = 100 }]`; the one that names most columns of \
             the key wins. The table `items_listen.threshold`, which may be edited at any time, wins over these.",
        ),
        Key::new(
            "threshold_column",
            Text,
            Unset("none"),
            "A column that holds the row's own threshold, with `value` or `query`. It wins over all others; NULL disables.",
        ),
        Key::new(
            "include",
            Texts,
            Unset("those that templates name"),
            "Further columns that are at hand as `row.*`: in the events of `value`, and of changes.",
        ),
        Key::new(
            "lookup",
            Text,
            Unset("none"),
            "A SELECT that fetches what events need besides, asked before each is told. `:name` is a column of the key or of the \
             row. Its columns join `row.*`, and stand before the row's own of the same names; it is asked with the row's. \
             For a row that is gone it is asked with what the row was last; where its answer hid that, its last answer is told. \
             It may take 2 s; while it fails the watch is degraded, and its events wait.",
        ),
        Key::new("unread_by", Texts, Unset("the whole watch"), "The columns of the key within which `unread_count` counts."),
        Key::new(
            "compare",
            Word(&[">=", ">", "<=", "<"]),
            Value("\">=\""),
            "`>=` or `>` where too many are bad, `<=` or `<` where too few are.",
        ),
        Key::new(
            "hold",
            Duration("", ""),
            Value("\"0s\""),
            "A breach must last this long before an alert is raised. An open alert escalates at once.",
        ),
        Key::new(
            "recover",
            Integer(1, 1_000),
            Value("100"),
            "A severity is left only beyond this percentage of its edge: 1 to 100 with `>=` and `>`, 100 to 1,000 with `<=` and `<`.",
        ),
        Key::new("clear_hold", Duration("", ""), Value("\"0s\""), "… and only after this long."),
        Key::new("repeat", Duration("1ms", ""), Unset("never"), "Say an open alert again after this long."),
        Key::new(
            "message",
            Text,
            Value("\"{{ watch }} {{ key }} at {{ count }} of {{ threshold }}\""),
            "The event's `message`, a template over the event's fields, and over `row.*` where a reading has a row.",
        ),
        Key::new("storm", Kind::Table(&STORM), Unset("every alert is sent"), "What is done when many keys cross at once."),
        Key::new("bands", Kind::Table(&BANDS), Unset("the defaults below"), "Where the severities begin."),
        Key::new("publish", Tables(&PUBLISH), Required, "What is sent where, at least one."),
    ],
};

static STORM: Table = Table {
    about: "When many keys cross at once: beyond `limit` transitions within `per` only critical ones go out singly, up to \
            `limit` more; one digest for each rule and channel tells of all others when `per` is over. \
            `storm = { limit = 100, per = \"10s\" }` on one line.",
    keys: &[
        Key::new("limit", Integer(1, 1_000_000), Required, "So many transitions go out singly."),
        Key::new("per", Duration("100ms", "1d"), Required, "The window in which they are counted."),
    ],
};

static BANDS: Table = Table {
    about: "Where the severities begin, in percent of the threshold. With `<=` and `<` they run downwards, and a count of 0 or \
            less is always critical. `bands = { warning = 100, high = 120, critical = 150 }` on one line.",
    keys: &[
        Key::new("warning", Integer(0, 1_000_000), Depends("`100`"), "From here on it is a warning."),
        Key::new("high", Integer(0, 1_000_000), Depends("`120`; `50` with `<=` and `<`"), "From here on it is high."),
        Key::new("critical", Integer(0, 1_000_000), Depends("`150`; `20` with `<=` and `<`"), "From here on it is critical."),
    ],
};

static PUBLISH: Table = Table {
    about: "What is sent where. At least one for each watch.",
    keys: &[
        Key::new(
            "channels",
            Texts,
            Required,
            "1 to 100 templates. Each byte of a value other than A–Z a–z 0–9 `_` and `-` becomes `=XX`. A list makes one channel \
             for each element, null leaves the channel out. What goes to `private-encrypted-*` is encrypted.",
        ),
        Key::new(
            "event",
            Text,
            Required,
            "The event's name on the wire, a template. Echo hears `stock.low` with `.listen('.stock.low', …)`.",
        ),
        Key::new(
            "data",
            Data,
            Value("\"full\""),
            "`full`: the whole event. `thin`: `id`, `seq`, `watch`, `key`, `transition`, `severity` and `at`. Or a table of your \
             own, whose strings are templates, or one expression `{{ … }}` that gives an object.",
        ),
        Key::new(
            "on",
            Words(&[
                "transition",
                "raised",
                "escalated",
                "eased",
                "resolved",
                "repeated",
                "reading",
                "change",
                "insert",
                "update",
                "delete",
            ]),
            Value("\"transition\""),
            "What is told. `transition` stands for the five that follow it; `reading` is every evaluated reading; `change` stands \
             for the committed changes of a table's rows, `insert`, `update` and `delete`.",
        ),
        Key::new(
            "columns",
            Texts,
            Unset("every update"),
            "An update counts only if one of these columns changed. Only for rules that listen to changes.",
        ),
        Key::new(
            "coalesce",
            Duration("10ms", "1h"),
            Unset("each is told"),
            "The first change goes out at once; those that follow within this time are one event at its end. Only for rules that \
             listen to changes.",
        ),
        Key::new("socket_id", Text, Unset("none"), "The connection that is to hear nothing of it, a template."),
        Key::new(
            "min_severity",
            Word(&["info", "warning", "high", "critical"]),
            Value("\"warning\""),
            "A transition is published when it comes from or goes to at least this severity.",
        ),
        Key::new(
            "endpoint",
            Texts,
            Depends("the only endpoint; required where there are several"),
            "One or more names of `[endpoints.…]`.",
        ),
    ],
};

static HTTP: Table = Table {
    about: "Health, metrics and the status page over HTTP. Nothing can be changed there. Without `token` nobody is asked who is \
            there: keep it on loopback, on a Unix socket, or behind a proxy. [operating.md](operating.md) says more.",
    keys: &[
        Key::new("enabled", Boolean, Value("true"), "Whether there is any.").reload(Reload::Restart),
        Key::new(
            "listen",
            Text,
            Value("\"127.0.0.1:9786\""),
            "An address and a port. Port 0 takes any free one; the log says which. Or a Unix socket by its whole path, \
             `\"unix:/run/items-listen/http.sock\"`, open to the daemon's user and group (mode 660).",
        )
        .reload(Reload::Restart),
        Key::new(
            "token",
            Secret,
            Unset("nobody is asked"),
            "What whoever asks has to know, except for `/healthz` and `/readyz`: sent as `Authorization: Bearer …`, or by a browser \
             as the password of any user. Or give `token_file`. A reload with another one ends the pages \
             that are open.",
        ),
        Key::new("token_file", SecretFile, Unset("none"), "A file that holds the token."),
        Key::new(
            "hide",
            Words(&["keys", "counts"]),
            Unset("nothing is hidden"),
            "What the page, `/api/status`, `/api/live` and `/metrics` do not tell. `keys`: keys, and every text in which one may \
             stand: messages, channels, errors. `counts`: readings, thresholds and percentages, how many keys there are and are \
             open, and how many rows and alerts there were.",
        ),
    ],
};
