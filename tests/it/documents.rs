//! The documentation: its commands run, its links lead somewhere, its configurations are read, and what it lists is what
//! there is in the code and in the database.

mod markdown;
mod messages;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use items_listen::config::environment::Variables;
use items_listen::config::read;
use items_listen::pusher::classify::Reason;

use crate::support::postgres::Database;
use markdown::{Block, page, pages, root};
use world::World;

/// Commands that are not run begin with one of these, and stand in blocks of `sh no-run`, or `console no-run`.
const NOT_RUN: [(&str, &str); 11] = [
    ("sudo", "needs root"),
    ("systemctl", "needs systemd"),
    ("systemd-analyze", "needs systemd"),
    ("journalctl", "needs systemd"),
    ("apt", "needs root"),
    ("dpkg", "needs root"),
    ("curl", "reaches elsewhere"),
    ("cargo", "takes minutes; the program under test was built by cargo"),
    ("npm", "downloads; tests/e2e has the same package"),
    ("openssl", "makes a certificate; tests/it/tls.rs makes them like that"),
    ("env", "builds and starts Sockudo; tests/e2e does"),
];

fn runnable(page: &str, block: &Block) -> bool {
    // README.md does not name the language of its blocks.
    block.info == "sh"
        || block.info == "console"
        || (page == "README.md" && block.info.is_empty() && block.text.starts_with("$ "))
}

/// Runs what a page says, section by section where each stands for itself.
async fn run(name: &str) {
    let page = page(name);
    let blocks: Vec<Block> = page.blocks().into_iter().filter(|block| runnable(name, block)).collect();
    assert!(!blocks.is_empty(), "{name} has nothing to run");
    let mut world: Option<(String, World)> = None;
    for block in &blocks {
        let own = if name == "README.md" { block.section.clone() } else { String::new() };
        if world.as_ref().is_none_or(|(section, _)| *section != own) {
            drop(world.take());
            let mut fresh = World::new().await;
            fresh.prepare(name, &own).await;
            world = Some((own, fresh));
        }
        eprintln!("{}", block.place);
        world.as_mut().expect("it was made").1.run(block).await;
    }
    // What it is all about.
    if let ("docs/getting-started.md", Some((_, world))) = (name, &world) {
        world.arrived(&[("manual", "high", 25), ("raised", "high", 24)]).await;
    }
}

macro_rules! pages_that_run {
    ($($test:ident $name:literal)*) => {
        /// The pages whose commands are run, one test each.
        const RUN: &[&str] = &[$($name),*];
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                run($name).await;
            }
        )*
    };
}

pages_that_run! {
    the_readme_runs "README.md"
    configuration_runs "docs/configuration.md"
    getting_started_runs "docs/getting-started.md"
    operating_runs "docs/operating.md"
    privileges_runs "docs/privileges.md"
    sources_and_triggers_runs "docs/sources-and-triggers.md"
    upgrading_runs "docs/upgrading.md"
}

#[test]
fn every_page_with_commands_is_run_and_what_is_not_has_a_reason() {
    let mut with_commands = BTreeSet::new();
    for page in pages() {
        for block in page.blocks() {
            if runnable(&page.name, &block) {
                with_commands.insert(page.name.clone());
            }
            let Some(("sh" | "console", how)) = block.info.split_once(' ') else { continue };
            assert_eq!(how, "no-run", "{}: a block is run, or says no-run", block.place);
            let whole = block.text.replace("\\\n", " ");
            for command in whole
                .lines()
                .map(|line| line.trim_start_matches("$ ").trim())
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
            {
                let first = command.split_whitespace().next().unwrap_or_default();
                assert!(NOT_RUN.iter().any(|(word, _)| *word == first), "{}: {command} has no reason not to be run", block.place);
            }
        }
    }
    assert_eq!(with_commands, RUN.iter().map(|name| (*name).to_owned()).collect());
}

#[test]
fn every_link_leads_somewhere() {
    let anchors: BTreeMap<String, BTreeSet<String>> = pages().iter().map(|page| (page.name.clone(), page.anchors())).collect();
    let mut links = 0;
    for page in pages() {
        for (line, target) in page.links() {
            if target.contains("://") {
                continue;
            }
            links += 1;
            let (file, anchor) = target.split_once('#').map_or((target.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let directory = Path::new(&page.name).parent().unwrap_or(Path::new(""));
            let path = if file.is_empty() { page.name.clone() } else { normal(&directory.join(file)) };
            let place = format!("{}:{line}: {target}", page.name);
            assert!(root().join(&path).exists(), "{place}: there is no {path}");
            if let Some(anchor) = anchor {
                let known = anchors.get(&path).unwrap_or_else(|| panic!("{place}: {path} is no page"));
                assert!(known.contains(anchor), "{place}: {path} has {known:?}");
            }
        }
    }
    assert!(links > 30, "{links}");
}

#[test]
fn the_index_has_every_page() {
    let index = page("docs/README.md");
    let linked: BTreeSet<String> = index.links().into_iter().map(|(_, target)| format!("docs/{target}")).collect();
    for page in pages().into_iter().filter(|page| !page.name.ends_with("README.md")) {
        assert!(linked.contains(&page.name), "docs/README.md does not name {}", page.name);
    }
}

/// Without "..".
fn normal(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.to_str().expect("UTF-8").split('/') {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/").trim_end_matches('/').to_owned()
}

#[test]
fn every_configuration_is_read() {
    let mut read = 0;
    for page in pages() {
        for block in page.blocks().into_iter().filter(|block| block.info == "toml" && !block.text.contains("[[test]]")) {
            let wrong = mistakes_of(&block.text);
            assert!(wrong.is_empty(), "{}: {wrong:#?}\n{}", block.place, block.text);
            read += 1;
        }
    }
    assert!(read >= 7, "{read}");
}

/// As for rule tests: no file of a secret is read, and the endpoint may be the reader's own. A block without a watch shows
/// a part of a configuration; what is missing there stands elsewhere.
fn mistakes_of(text: &str) -> Vec<String> {
    let none = BTreeMap::new();
    let found = read::rehearsal("config.toml", text, &Variables::new(&none, &none)).err().unwrap_or_default();
    let is_part = !text.contains("[[watch]]");
    found.iter().map(ToString::to_string).filter(|mistake| !(is_part && mistake.contains(": missing"))).collect()
}

/// They are about the configuration of examples/low-stock, if it told of every transition.
#[test]
fn every_rule_test_passes() {
    let directory = std::env::temp_dir().join(format!("items-listen-rule-tests-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("the directory is made");
    let example = std::fs::read_to_string(root().join("examples/low-stock/config.toml")).expect("there is an example");
    std::fs::write(directory.join("config.toml"), example.replace("on = \"raised\"", "on = \"transition\""))
        .expect("it is written");
    let all = pages().into_iter().flat_map(|page| page.blocks());
    let mut run = 0;
    for block in all.filter(|block| block.info == "toml" && block.text.contains("[[test]]")) {
        std::fs::write(directory.join("rules.toml"), &block.text).expect("the file is written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_items-listen"));
        let output =
            command.env_clear().current_dir(&directory).args(["test", "rules.toml"]).output().expect("the binary starts");
        assert!(output.status.success(), "{}: {}", block.place, String::from_utf8_lossy(&output.stdout));
        run += 1;
    }
    let _gone = std::fs::remove_dir_all(directory);
    assert!(run >= 2, "{run}");
}

#[test]
fn every_command_that_is_named_exists() {
    let mut named: BTreeMap<Vec<String>, String> = BTreeMap::new();
    for page in pages() {
        for (line, code) in page.code() {
            let Some(rest) = code.strip_prefix("items-listen ") else { continue };
            let is_word = |word: &&str| {
                !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with("--")
            };
            // What follows a command with arguments of its own is none.
            let words: Vec<String> = rest.split_whitespace().take_while(is_word).take(2).map(str::to_owned).collect();
            let takes_words = ["alerts", "deliveries", "config"].contains(&words.first().map_or("", String::as_str));
            let words = if takes_words { words } else { words.into_iter().take(1).collect() };
            named.entry(words).or_insert_with(|| format!("{}:{line}: {code}", page.name));
        }
    }
    assert!(named.len() >= 10, "{named:?}");
    for (words, place) in named {
        let mut command = Command::new(env!("CARGO_BIN_EXE_items-listen"));
        let output = command.args(&words).arg("--help").output().expect("the binary starts");
        assert!(output.status.success(), "{place}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_target_of_make_that_is_named_exists() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).expect("there is a Makefile");
    for page in pages() {
        let blocks = page.blocks().into_iter().flat_map(|block| block.text.lines().map(str::to_owned).collect::<Vec<_>>());
        let code = page.code().into_iter().map(|(_, code)| code);
        for line in blocks.chain(code) {
            let Some(target) = line.strip_prefix("make ").and_then(|rest| rest.split_whitespace().next()) else { continue };
            assert!(makefile.contains(&format!("\n{target}:")), "{}: make {target}", page.name);
        }
    }
}

#[test]
fn operating_lists_every_line_that_means_trouble() {
    let page = page("docs/operating.md");
    for level in ["error", "warn"] {
        let listed: BTreeSet<String> = page.rows(&format!("### {level}")).into_iter().map(|row| row[0].clone()).collect();
        let said = messages::of_level(&root().join("src"), level);
        assert!(said.len() > 8, "{said:?}");
        assert_eq!(listed, said, "level {level}: docs/operating.md, and src/");
    }
}

#[test]
fn operating_lists_every_reason_and_state() {
    let page = page("docs/operating.md");
    let listed: BTreeSet<String> = page.rows("## Reasons").into_iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    assert_eq!(listed, Reason::ALL.into_iter().map(|reason| reason.as_str().to_owned()).collect());
    let states: Vec<String> = page.rows("## States").into_iter().map(|row| row[0].clone()).collect();
    for state in
        ["no live daemon", "not ready", "degraded", "ok", "backing_off", "paused", "dead", "armed", "awake", "unarmed", "off"]
    {
        assert!(states.iter().any(|row| row.contains(state)), "{state}: {states:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sql_schema_is_what_is_in_the_database() {
    let database = Database::new().await;
    let daemon = crate::daemon(&format!("[database]\nurl = \"{}\"\n[endpoints.main]\nurl = \"log:\"\n", database.url()));
    let (code, _, errors) = daemon.run(&["install"]).await;
    assert_eq!(code, 0, "{errors}");
    let page = page("docs/sql-schema.md");
    let ours_alone: BTreeSet<String> = page
        .text
        .split("## Ours alone")
        .nth(1)
        .map(|rest| rest.split('`').skip(1).step_by(2).filter(|name| *name != "alert").map(str::to_owned).collect())
        .expect("the rest is listed");
    let relations =
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'items_listen'::regnamespace AND relkind IN ('r', 'v')";
    let mut documented = 0;
    for row in database.client.query(relations, &[]).await.expect("the catalogue is read") {
        let name: String = row.get(0);
        let heading = format!("### `items_listen.{name}`");
        assert_eq!(page.text.contains(&heading), !ours_alone.contains(&name), "{name}: described, or ours alone");
        if ours_alone.contains(&name) {
            continue;
        }
        documented += 1;
        let columns = "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute
                       WHERE attrelid = ('items_listen.' || $1)::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
        let columns = database.client.query(columns, &[&name]).await.expect("the columns are read");
        let columns: Vec<(String, String)> = columns.iter().map(|row| (row.get(0), short(row.get(1)))).collect();
        let listed: Vec<(String, String)> =
            page.rows(&heading).into_iter().map(|row| (row[0].trim_matches('`').to_owned(), row[1].clone())).collect();
        assert_eq!(listed, columns, "{name}");
    }
    assert_eq!(documented, page.text.matches("\n### `items_listen.").count(), "a table is described that is not there");
}

/// A type's name as one writes it.
fn short(name: String) -> String {
    name.replace("timestamp with time zone", "timestamptz")
}

#[test]
fn every_dependency_has_its_reason_and_every_reason_its_dependency() {
    let manifest: toml::Table = include_str!("../../Cargo.toml").parse().expect("a manifest");
    // What it brings for tests alone may stand in both.
    let built_on: BTreeSet<&str> = ["dependencies", "dev-dependencies"]
        .iter()
        .filter_map(|section| manifest[*section].as_table())
        .flat_map(|section| section.keys().map(String::as_str))
        .collect();
    let decisions = include_str!("../../docs/decisions.md");
    let table = decisions.split("| crate | what it is for |").nth(1).expect("the table of dependencies");
    let named: BTreeSet<&str> = table
        .lines()
        .skip(2)
        .map_while(|row| row.strip_prefix("| "))
        .flat_map(|row| row.split('|').next().unwrap_or_default().split('`').skip(1).step_by(2))
        .filter(|name| *name != "chaos")
        .collect();
    assert_eq!(named, built_on);
}

#[test]
fn every_test_that_is_named_exists() {
    let modules = |name: &str| {
        let tests = root().join("tests/it");
        let file = std::fs::read_to_string(tests.join(format!("{name}.rs"))).ok()?;
        let parts = std::fs::read_dir(tests.join(name)).into_iter().flatten().flatten();
        Some(parts.filter_map(|part| std::fs::read_to_string(part.path()).ok()).fold(file, |all, part| all + &part))
    };
    let mut named = 0;
    for page in pages() {
        for (_, name) in page.code() {
            let Some((module, test)) = name.split_once("::") else { continue };
            let Some(source) = modules(module) else {
                assert!(!page.name.ends_with("security.md"), "{}: {name}: there is no tests/it/{module}.rs", page.name);
                continue;
            };
            let test = test.rsplit("::").next().unwrap_or_default().trim_end_matches(['…', '*']);
            assert!(test.is_empty() || source.contains(&format!("fn {test}")), "{}: {name}", page.name);
            named += 1;
        }
    }
    assert!(named > 100, "{named}");
}
