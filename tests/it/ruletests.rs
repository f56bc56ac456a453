//! Rule tests as a person and CI run them: the exit codes, the diff, and that nothing but files is needed.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// Without an endpoint and without a database.
const CONFIG: &str = r#"
[[watch]]
name = "low-stock"
query = "SELECT id, name, quantity FROM items"
key = ["id"]
value = "quantity"
compare = "<"
threshold = 50
[[watch.publish]]
channels = ["notifications"]
event = "NotificationCreated"
data = { item = "{{ row }}", unread_count = "{{ unread_count }}" }
"#;

const GOOD: &str = r#"
config = "rules/config.toml"
[[test]]
name = "an item runs low once"
watch = "low-stock"
[[test.step]]
count = 40
key = { id = 7 }
row = { id = 7, name = "Screws", quantity = 40 }
expect = [{ transition = "raised", severity = "warning", channels = ["notifications"], event = "NotificationCreated", data = { unread_count = 1, item = { quantity = 40 } } }]
[[test.step]]
at = "10s"
gone = true
key = { id = 7 }
expect = [{ transition = "resolved" }]
"#;

/// A directory of files that is gone at the end.
struct Files(PathBuf);

impl Files {
    fn new(files: &[(&str, &str)]) -> Files {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("items-listen-rules-{}-{number}", std::process::id()));
        std::fs::create_dir_all(directory.join("rules")).expect("a directory");
        for (name, text) in files {
            std::fs::write(directory.join(name), text).expect("written");
        }
        Files(directory)
    }

    /// Runs the program elsewhere, in an environment that says nothing else.
    fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
        let named = |argument: &&str| match argument.strip_suffix(".toml") {
            Some(_) => self.0.join(argument).display().to_string(),
            None => (*argument).to_owned(),
        };
        let output = Command::new(env!("CARGO_BIN_EXE_items-listen"))
            .args(arguments.iter().map(named))
            .env_clear()
            .envs(environment.iter().copied())
            .current_dir(std::env::temp_dir())
            .output()
            .expect("the binary starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&format!("{}/", self.0.display()), "");
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _removed = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_is_as_expected_is_0_and_needs_nothing_but_files() {
    let files = Files::new(&[("good.toml", GOOD), ("rules/config.toml", CONFIG)]);
    let (code, out, err) = files.run(&["test", "good.toml", "good.toml"], &[]);
    let ok = "ok    an item runs low once\n";
    assert_eq!((code, out, err.as_str()), (0, format!("{ok}{ok}2 tests, all as expected\n"), ""));
}

#[test]
fn a_difference_is_1_and_is_shown() {
    let bad = GOOD
        .replace("severity = \"warning\"", "severity = \"high\"")
        .replace("expect = [{ transition = \"resolved\" }]", "expect = []");
    let files = Files::new(&[
        ("bad.toml", &format!("{bad}{}", &GOOD[GOOD.find("[[test]]").unwrap_or(0)..])),
        ("rules/config.toml", CONFIG),
    ]);
    let (code, out, _) = files.run(&["test", "bad.toml"], &[]);
    let expected = "FAIL  an item runs low once
      bad.toml:6:1: step 1, at 0s: 1 event expected, 1 sent
      event 1
        - severity = \"high\"
        + severity = \"warning\"
      bad.toml:11:1: step 2, at 10s: 0 events expected, 1 sent
      + { at = \"10s\", transition = \"resolved\", severity = \"info\", count = 0, key = { id = 7 }, endpoint = \"main\", \
        channels = [\"notifications\"], event = \"NotificationCreated\", data = { item = { id = 7, name = \"Screws\", quantity = 40 }, unread_count = 1 } }
ok    an item runs low once
2 tests, 1 failed
";
    assert_eq!((code, out.as_str()), (1, expected));

    let (code, out, _) = files.run(&["test", "--json", "bad.toml"], &[]);
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((code, lines.len()), (1, 2), "one object per test");
    assert_eq!((&lines[0]["ok"], &lines[1]["ok"], &lines[1]["failures"]), (&false.into(), &true.into(), &serde_json::json!([])));
    assert_eq!((&lines[0]["failures"][0]["step"], &lines[0]["failures"][1]["at"]), (&1.into(), &"10s".into()));
    assert_eq!(
        lines[0]["failures"][0]["diff"],
        serde_json::json!(["event 1", "  - severity = \"high\"", "  + severity = \"warning\""])
    );
}

#[test]
fn what_cannot_be_read_is_78_and_no_file_is_usage() {
    let broken = CONFIG.replace("threshold", "treshold");
    let unknown = GOOD.replace("watch = \"low-stock\"", "watch = \"low-stok\"");
    let files = Files::new(&[
        ("good.toml", GOOD),
        ("broken.toml", &GOOD.replace("rules/config.toml", "rules/broken.toml")),
        ("unknown.toml", &unknown),
        ("nowhere.toml", &GOOD.replace("rules/config.toml", "rules/none.toml")),
        ("rules/config.toml", CONFIG),
        ("rules/broken.toml", &broken),
    ]);
    for (arguments, expected) in [
        (&["test", "none.toml"][..], "none.toml: cannot be read"),
        (&["test", "nowhere.toml"], "rules/none.toml: cannot be read"),
        (
            &["test", "good.toml", "broken.toml"],
            "rules/broken.toml:8:1: unknown key \"treshold\" in [watch], did you mean \"threshold\"?",
        ),
        (
            &["test", "unknown.toml"],
            "unknown.toml:5:9: there is no watch \"low-stok\", did you mean \"low-stock\"?; there are low-stock",
        ),
    ] {
        let (code, out, err) = files.run(arguments, &[]);
        assert!(code == 78 && out.is_empty() && err.contains(expected), "{code} {out}{err}");
    }
    let (_, _, err) = files.run(&["test", "broken.toml", "unknown.toml", "broken.toml"], &[]);
    assert_eq!((err.matches("treshold").count(), err.matches("low-stok").count()), (1, 1), "each once, in one run: {err}");
    assert_eq!(files.run(&["test"], &[]).0, 2);
    // A flag names the configuration for all files; the daemon goes on wanting an endpoint.
    assert_eq!(files.run(&["test", "--config", "rules/config.toml", "broken.toml"], &[]).0, 0);
    let (code, _, err) = files.run(&["check", "--offline", "--config", "rules/config.toml"], &[]);
    assert!(code == 78 && err.contains("there is no endpoint"), "{code} {err}");
}

#[test]
fn variables_of_the_file_win_over_the_environment() {
    let config = CONFIG.replace("threshold = 50\n", "");
    let with = GOOD.replace("[[test]]", "[env]\nINVENTORY_NOTIFICATION_THRESHOLD = \"50\"\n[[test]]");
    let files = Files::new(&[("with.toml", &with), ("without.toml", GOOD), ("rules/config.toml", &config)]);
    assert_eq!(files.run(&["test", "with.toml"], &[("INVENTORY_NOTIFICATION_THRESHOLD", "1")]).0, 0);
    assert_eq!(files.run(&["test", "without.toml"], &[("INVENTORY_NOTIFICATION_THRESHOLD", "50")]).0, 0);
    assert_eq!(files.run(&["test", "without.toml"], &[("INVENTORY_NOTIFICATION_THRESHOLD", "1")]).0, 1);
}
