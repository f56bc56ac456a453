//! The configuration: every mistake in one run, each with its place, what is allowed, and the nearest known key.

use std::collections::{BTreeMap, BTreeSet};

use items_listen::config::environment::Variables;
use items_listen::config::{Config, Mistake, read};

pub(crate) const GOOD: &str = r#"
[database]
url = "postgres://app@localhost/app"
[endpoints.main]
url = "http://127.0.0.1:8080"
app_id = "app-id"
key = "app-key"
secret = "hush-hush"
[[watch]]
name = "items"
table = "public.items"
threshold = 20
[[watch.publish]]
channels = ["alerts"]
event = "items.many"
"#;

fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<Mistake>> {
    let real: BTreeMap<String, String> = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let none = BTreeMap::new();
    read::config("config.toml", !text.is_empty(), text, &Variables::new(&real, &none))
}

fn mistakes(text: &str) -> Vec<String> {
    load(text, &[]).expect_err("it has mistakes").iter().map(Mistake::to_string).collect()
}

#[test]
fn every_mistake_is_said_in_one_run_with_its_place() {
    let text = r#"
[database]
url = "postgres://app@localhost/app"
pol = "1s"
pool_size = "four"
[endpoints.main]
url = "ftp://example.org"
app_id = 7
[http]
listen = "somewhere"
[[watch]]
name = "items"
tabel = "public.items"
threshold = 2.5
bands = { warning = 150, high = 120 }
compare = "=>"
[[watch.publish]]
channels = ["has space", "t.{{ key.tenant_id }}", "{{ cuont }}"]
event = "x"
on = "raise"
min_severity = "hihg"
endpoint = "mian"
"#;
    let found = mistakes(text);
    let expected = [
        ("config.toml:4:1:", "unknown key \"pol\"", "did you mean \"poll\"?"),
        ("config.toml:5:13:", "database.pool_size", "a whole number from 1 to 100 is wanted, this is \"four\""),
        ("config.toml:7:7:", "endpoints.main.url", "http"),
        ("config.toml:8:10:", "endpoints.main.app_id", "a string is wanted, this is 7"),
        ("config.toml:10:10:", "http.listen", "127.0.0.1:9786"),
        ("config.toml:13:1:", "unknown key \"tabel\"", "did you mean \"table\"?"),
        ("config.toml:11:1:", "a source is missing", "table = "),
        ("config.toml:14:13:", "watch.threshold", "a whole number is wanted, this is a number with a fraction"),
        ("config.toml:15:9:", "bands", "warning <= high <= critical"),
        ("config.toml:16:11:", "watch.compare", ">=, >, <=, <"),
        ("config.toml:18:13:", "watch.publish.channels", "illegal ' '"),
        ("config.toml:18:26:", "there is no key.tenant_id", "this watch has no key"),
        ("config.toml:18:51:", "there is no cuont", "did you mean \"count\"?"),
        ("config.toml:20:6:", "watch.publish.on", "did you mean \"raised\"?"),
        ("config.toml:21:16:", "watch.publish.min_severity", "did you mean \"high\"?"),
        ("config.toml:22:12:", "there is no [endpoints.mian]", ""),
    ];
    for (place, what, allowed) in expected {
        assert!(
            found.iter().any(|line| line.starts_with(place) && line.contains(what) && line.contains(allowed)),
            "{place} {what} {allowed}\n{found:#?}"
        );
    }
}

#[test]
fn syntax_is_named_with_line_and_column() {
    let found = mistakes("[database]\nurl = \n");
    assert!(found[0].starts_with("config.toml:2:"), "{found:?}");
    for nonsense in ["\u{0}", "[", "a = 1\na = 2", "[[watch]]\nname = \"x\n"] {
        assert!(!mistakes(nonsense).is_empty(), "{nonsense:?}");
    }
}

#[test]
fn the_environment_beats_the_file_and_other_programs_names_fill_gaps() {
    let config = load(
        GOOD,
        &[
            ("ITEMS_LISTEN_DATABASE__POOL_SIZE", "9"),
            ("ITEMS_LISTEN_WATCH__0__THRESHOLD", "33"),
            ("ITEMS_LISTEN_HTTP__ENABLED", "false"),
            ("DATABASE_URL", "postgres://elsewhere/x"),
            ("INVENTORY_NOTIFICATION_THRESHOLD", "5"),
        ],
    )
    .expect("it is right");
    let database = config.database.as_ref().expect("a database");
    assert_eq!((database.pool_size, config.watches[0].threshold, config.http), (9, Some(33), None));
    assert_eq!(database.url.expose(), "postgres://app@localhost/app", "the file's stands");
    let wrong = load(GOOD, &[("ITEMS_LISTEN_DATABASE__POOL_SIZE", "many")]).expect_err("no number");
    assert_eq!(wrong[0].place, "ITEMS_LISTEN_DATABASE__POOL_SIZE");
    let unknown = load(GOOD, &[("ITEMS_LISTEN_DATABASE__POOLSIZE", "9")]).expect_err("no such key");
    assert!(unknown[0].to_string().contains("did you mean \"pool_size\"?"), "{unknown:?}");
}

#[test]
fn a_laravel_applications_own_names_choose_database_and_endpoint() {
    let variables = [
        ("DB_CONNECTION", "pgsql"),
        ("DB_HOST", "db.example.org"),
        ("DB_DATABASE", "shop"),
        ("DB_USERNAME", "app"),
        ("DB_PASSWORD", "it's \\ secret"),
        ("BROADCAST_DRIVER", "pusher"),
        ("PUSHER_APP_ID", "1"),
        ("PUSHER_APP_KEY", "k"),
        ("PUSHER_APP_SECRET", "s"),
        ("PUSHER_APP_CLUSTER", "eu"),
    ];
    let config = load("", &variables).expect("no file is needed");
    assert!(format!("{:?}", config.endpoints).contains("api-eu.pusher.com"));
    assert_eq!((config.watches.len(), config.watches[0].threshold), (1, Some(20)));
    assert_eq!(
        config.database.expect("a database").url.expose(),
        r"host='db.example.org' dbname='shop' user='app' password='it\'s \\ secret'"
    );
    let log = load("", &[("BROADCAST_CONNECTION", "log")]).expect("a log");
    assert!(format!("{:?}", log.endpoints).contains("Log"));
}

#[test]
fn no_secret_is_ever_shown() {
    let config = load(&GOOD.replace("app@localhost", "app:hush-hush@localhost"), &[]).expect("it is right");
    assert!(!format!("{config:?}").contains("hush-hush"));
    let wrong = GOOD
        .replace("http://127.0.0.1:8080", "http://user:hush-hush@host:port/")
        .replace("postgres://app@localhost/app", "postgres://user:hush-hush@host:port/db");
    assert!(!mistakes(&wrong).join("\n").contains("hush-hush"));
    let file = std::env::temp_dir().join(format!("items-listen-secret-{}", std::process::id()));
    std::fs::write(&file, "from-a-file\n").expect("written");
    let with_file = GOOD.replace("secret = \"hush-hush\"", &format!("secret_file = \"{}\"", file.display()));
    let config = load(&with_file, &[]).expect("a secret from a file");
    match &config.endpoints[0].target {
        items_listen::config::Target::Pusher(pusher) => assert_eq!(pusher.secret.expose(), "from-a-file"),
        items_listen::config::Target::Log => panic!("not a log"),
    }
    let _removed = std::fs::remove_file(file);
    assert!(mistakes(&with_file)[0].contains("cannot be read"));
    assert!(
        mistakes(&GOOD.replace("secret = \"hush-hush\"", "secret = \"a\"\nsecret_file = \"b\""))[0]
            .contains("exclude each other")
    );
}

/// `key =` lines of the example, with the table that each stands in.
fn keys_of_example(text: &str) -> BTreeSet<String> {
    let mut table = String::new();
    let mut keys = BTreeSet::new();
    for line in text.lines() {
        let line = line.trim_start_matches("# ").trim();
        if line.starts_with('[') && line.contains(']') {
            table = line.trim_matches(['[', ']']).split(']').next().unwrap_or_default().replace("endpoints.main", "endpoints");
        } else if let Some((key, rest)) = line.split_once(" =")
            && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
            && !key.is_empty()
        {
            keys.insert(format!("{table}.{key}"));
            for inner in ["bands", "retry", "storm"].into_iter().filter(|inner| *inner == key) {
                for part in rest.trim_start_matches(" {").split(',') {
                    let name = part.split('=').next().unwrap_or_default().trim();
                    keys.insert(format!("{table}.{inner}.{name}"));
                }
            }
        }
    }
    keys
}

/// What the reader knows, asked of the reader itself: an unknown key is answered with the list.
pub(crate) fn keys_of_code() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for (table, text) in [
        ("database", GOOD.replace("[database]", "[database]\nzzz = 1")),
        ("database.retention", GOOD.replace("[database]", "[database]\nretention = { zzz = 1 }")),
        ("endpoints", GOOD.replace("[endpoints.main]", "[endpoints.main]\nzzz = 1")),
        ("endpoints.retry", GOOD.replace("[endpoints.main]", "[endpoints.main]\nretry = { zzz = 1 }")),
        ("watch", GOOD.replace("[[watch]]", "[[watch]]\nzzz = 1")),
        ("watch.bands", GOOD.replace("[[watch]]", "[[watch]]\nbands = { zzz = 1 }")),
        ("watch.storm", GOOD.replace("[[watch]]", "[[watch]]\nstorm = { zzz = 1 }")),
        ("watch.publish", GOOD.replace("[[watch.publish]]", "[[watch.publish]]\nzzz = 1")),
        ("http", format!("{GOOD}[http]\nzzz = 1")),
    ] {
        let found = mistakes(&text);
        let line = found.iter().find(|line| line.contains("unknown key \"zzz\"")).expect("it is unknown");
        let known = line.split("known are ").nth(1).expect("the list");
        keys.extend(known.split(", ").filter(|key| !["publish", "retention"].contains(key)).map(|key| format!("{table}.{key}")));
    }
    keys
}

#[test]
fn the_example_lists_every_key_and_no_other_and_is_right() {
    let text = include_str!("../../config.example.toml");
    assert_eq!(keys_of_example(text), keys_of_code());
    if let Err(mistakes) = load(text, &[]) {
        panic!("{mistakes:#?}");
    }
}

/// A watch in the place of the good one's.
fn watching(lines: &str, rule: &str) -> String {
    let at = GOOD.find("[[watch]]").expect("there is one");
    format!("{}[[watch]]\nname = \"w\"\n{lines}\n[[watch.publish]]\nchannels = [\"c\"]\nevent = \"e\"\n{rule}\n", &GOOD[..at])
}

#[test]
fn measures_changes_and_lookups_that_cannot_be_are_each_explained() {
    let table = "table = \"items\"\nthreshold = 1";
    let value = "table = \"items\"\nvalue = \"quantity\"\nthreshold = 1";
    for (lines, rule, expected) in [
        ("table = \"items\"\nquery = \"SELECT 1\"\nthreshold = 1", "", "table, query and notify exclude each other"),
        ("query = \" ; \"\nthreshold = 1", "", "a SELECT is wanted"),
        ("query = \"SELECT 1\"\nevery = \"1ms\"\nthreshold = 1", "", "from 100ms to"),
        ("query = \"SELECT 1\"\nwhere = \"true\"\nthreshold = 1", "", "only a watch of a table has a condition"),
        ("table = \"items\"\nevery = \"1s\"\nthreshold = 1", "", "only a query is asked again"),
        ("table = \"items\"\nsum = \"a\"\nvalue = \"b\"\nthreshold = 1", "", "sum and value exclude each other"),
        ("notify = \"n\"\nvalue = \"b\"\nthreshold = 1", "", "is the count itself"),
        ("table = \"items\"\nthreshold_column = \"t\"", "", "needs value"),
        ("notify = \"n\"\nthreshold_column = \"t\"", "", "has no columns"),
        (table, "data = { n = \"{{ row.name }}\" }", "row.name is not at hand"),
        (table, "data = { n = \"{{ old.name }}\" }", "only at hand in rules that listen to changes"),
        (table, "data = { n = \"{{ lookup.name }}\" }", "this watch has no lookup"),
        (table, "on = [\"raised\", \"insert\"]", "write two rules"),
        (table, "columns = [\"a\"]", "only for rules that listen to changes"),
        (table, "coalesce = \"1s\"", "only for rules that listen to changes"),
        (value, "on = \"change\"\ncoalesce = \"2h\"", "from 10ms to 3600s"),
        ("notify = \"n\"\nthreshold = 1", "on = \"insert\"", "only a table's rows are seen to change"),
        ("table = \"items\"\nthreshold = 1\ninclude = [\"a\"]", "", "has no single row"),
        ("table = \"items\"\nthreshold = 1\nlookup = \"SELECT :id\"", "", ":id is not at hand"),
        ("table = \"items\"\nthreshold = 1\nlookup = \"SELECT 'x\"", "", "does not end"),
        ("table = \"items\"\nthreshold = 1\nunread_by = [\"a\"]", "", "no column of the key"),
        ("table = \"items\"", "", "watch.threshold: missing"),
        (value, "socket_id = \"{{ rwo.s }}\"", "there is no rwo"),
    ] {
        let found = mistakes(&watching(lines, rule));
        assert!(found.iter().any(|line| line.contains(expected)), "{lines} {rule}: {found:#?}");
    }
    for (lines, rule) in [
        (value, "data = { n = \"{{ row.name }}\", i = \"{{ key.id }}\" }"),
        (
            "table = \"items\"",
            "on = \"change\"\ndata = { n = \"{{ row.name }} {{ old.name }} {{ key.id }}\" }\ncoalesce = \"1s\"",
        ),
        ("table = \"items\"\nvalue = \"q\"\nthreshold_column = \"t\"", ""),
        (
            "query = \"SELECT 1 AS a;\"\nkey = \"a\"\nthreshold = 1\nlookup = \"SELECT :a::int AS b\"",
            "data = { n = \"{{ row.b }}\" }",
        ),
        ("table = \"items\"\nkey = \"t\"\nthresholds = [{ t = 1, threshold = 2 }]", ""),
    ] {
        load(&watching(lines, rule), &[]).unwrap_or_else(|mistakes| panic!("{lines} {rule}: {mistakes:#?}"));
    }
    let key = GOOD.replace("[endpoints.main]", "[endpoints.main]\nencryption_key = \"hush-hush\"");
    assert!(mistakes(&key)[0].contains("32 bytes in base64") && !mistakes(&key)[0].contains("hush"), "{:?}", mistakes(&key));
}

/// Configurations that differ from [`GOOD`] in nothing but a secret; the URLs have a password, or none is known to be one.
fn other_secrets() -> Vec<String> {
    let keyed = GOOD.replace("secret = ", "encryption_key = \"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\"\nsecret = ");
    let guarded = format!("{GOOD}\n[http]\ntoken = \"0123456789abcdef\"\n");
    let word = GOOD.replace("app@", "app:word@");
    let account = GOOD.replace("//127", "//user:word@127");
    vec![
        GOOD.replace("hush-hush", "hush"),
        keyed.replace("MDEy", "MTEy"),
        keyed,
        guarded.replace("9abc", "9abd"),
        guarded,
        word.replace("word@", "another@"),
        word,
        account.replace("word@", "another@"),
        account,
    ]
}

#[test]
fn the_published_hash_changes_with_whatever_changes_but_with_no_secret() {
    let hash = |text: &String| load(text, &[]).unwrap_or_else(|mistakes| panic!("{text}: {mistakes:?}")).hash;
    let different = [
        GOOD.to_owned(),
        GOOD.replace("= 20", "= 21"),
        GOOD.replace("many", "more"),
        GOOD.replace("app@", "another@"),
        GOOD.replace("app-key", "another-key"),
        format!("{GOOD}\n[http]\nlisten = \"127.0.0.1:9000\"\n"),
    ];
    assert_eq!(different.iter().map(hash).collect::<BTreeSet<String>>().len(), different.len(), "{different:?}");
    assert_eq!(hash(&GOOD.to_owned()), hash(&format!("# a remark\n{GOOD}")));
    // Each pair differs in a secret alone.
    let others = other_secrets();
    assert_eq!(hash(&GOOD.to_owned()), hash(&others[0]));
    for pair in others[1..].chunks(2) {
        assert_eq!(hash(&pair[0]), hash(&pair[1]), "{pair:?}");
    }
    // Nor does it say where a secret is kept.
    let file = std::env::temp_dir().join(format!("items-listen-hash-{}", std::process::id()));
    std::fs::write(&file, "hush-hush").expect("a file");
    let kept = GOOD.replace("secret = \"hush-hush\"", &format!("secret_file = \"{}\"", file.display()));
    assert_eq!(hash(&GOOD.to_owned()), hash(&kept));
    let _removed = std::fs::remove_file(file);
}

#[test]
fn a_reload_notices_another_secret_all_the_same() {
    let whole = |text: &String| load(text, &[]).expect("it is right").whole;
    let mut all = other_secrets();
    all.push(GOOD.to_owned());
    for (index, one) in all.iter().enumerate() {
        assert!(whole(one) == whole(&format!("# a remark\n{one}")));
        assert!(all[..index].iter().all(|other| whole(one) != whole(other)), "{one}");
    }
}

#[test]
fn a_file_that_was_found_is_the_one_that_is_read_again() {
    use items_listen::config::Location;
    let config = load(GOOD, &[]).expect("it is right");
    assert_eq!(Location::default().settled(&config).config.as_deref(), Some(std::path::Path::new("config.toml")));
    let named = Location { config: Some("other.toml".into()), env_file: None };
    assert_eq!(named.settled(&config).config, named.config);
    let without =
        load("", &[("BROADCAST_CONNECTION", "log")]).map(|config| Config { file: "(no configuration file)".into(), ..config });
    assert_eq!(Location::default().settled(&without.expect("the watch there is without a file")).config, None);
}

#[test]
fn a_rate_is_so_many_requests_in_so_long() {
    let with = |rate: &str| load(&GOOD.replace("secret =", &format!("rate = \"{rate}\"\nsecret =")), &[]);
    for (good, requests, seconds) in [("100/60s", 100, 60), (" 1 / 1h ", 1, 3_600), ("100000/1000ms", 100_000, 1)] {
        let rate = with(good).expect(good).endpoints[0].rate.expect("there is one");
        assert_eq!((rate.requests, rate.per.as_secs()), (requests, seconds), "{good}");
    }
    for bad in ["", "100", "0/60s", "100001/60s", "10/s", "10/999ms", "10/2h", "-1/60s", "1.5/60s", "10/60s/2"] {
        let mistakes = with(bad).expect_err(bad);
        let said = mistakes[0].to_string();
        assert!(mistakes.len() == 1 && said.contains("endpoints.main.rate") && said.contains("\"100/60s\""), "{bad}: {said}");
    }
}

#[test]
fn what_might_be_a_secret_is_not_repeated_where_it_is_wrong() {
    let url = |url: &str| GOOD.replace("postgres://app@localhost/app", url);
    for text in [
        GOOD.replace("\"hush-hush\"", "12345678"),
        format!("{GOOD}\n[http]\ntoken = 12345678"),
        url("postgres://u:p@12345678@h/d"),
        url("postgres://u:a@b?12345678=x@h/d"),
        url("postgres://u:a@b?Sup3r12345678=x"),
        url("postgres://h/d?sslmode=require;password=12345678"),
        url("postgres://h/d?channel_binding=require;password=12345678"),
    ] {
        let said = mistakes(&text).join("\n");
        assert!(!said.is_empty() && !said.contains("12345678"), "{said}");
    }
}
