//! Says what is built: the commit and its date, the compiler, the target. Nothing in it depends on when or where
//! the build runs, so the same sources give the same binary. Without git, as in a tarball, commit and date are
//! "unknown".

use std::path::{Path, PathBuf};
use std::process::Command;

/// What the binary is made of: a change in one of these makes a commit dirty, a change in a document does not.
const SOURCES: [&str; 5] = ["src", "sql", "build.rs", "Cargo.toml", "Cargo.lock"];

fn main() {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let (commit, date) = commit(&root).unwrap_or_else(|| ("unknown".to_owned(), "unknown".to_owned()));
    println!("cargo::rustc-env=BUILD_COMMIT={commit}");
    println!("cargo::rustc-env=BUILD_COMMIT_DATE={date}");
    println!("cargo::rustc-env=BUILD_TARGET={}", variable("TARGET"));
    let rustc = said(&root, &variable("RUSTC"), &["--version"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=BUILD_RUSTC={}", rustc.trim_start_matches("rustc "));
}

/// The commit, short, with `-dirty` where sources differ from it; and its date.
fn commit(root: &Path) -> Option<(String, String)> {
    let git = |arguments: &[&str]| said(root, "git", arguments);
    // Unpacked inside somebody else's repository: its commits are not ours.
    let top = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?);
    if top.canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    watch_head(root, &git);
    let commit = git(&["rev-parse", "--short=9", "HEAD"])?;
    let date = git(&["log", "-1", "--format=%cs"])?;
    let clean = Command::new("git").current_dir(root).args(["diff", "--quiet", "HEAD", "--"]).args(SOURCES).status();
    let dirty = if clean.is_ok_and(|status| status.success()) { "" } else { "-dirty" };
    Some((format!("{commit}{dirty}"), date))
}

/// Runs again when another commit is checked out, or one is made, and not whenever some branch moves. HEAD's own log
/// grows with each; where none is kept, the branch that HEAD names, and the file of packed branches, say it.
fn watch_head(root: &Path, git: &dyn Fn(&[&str]) -> Option<String>) {
    let path = |name: &str| git(&["rev-parse", "--git-path", name]).map(|path| root.join(path)).filter(|path| path.exists());
    let changes_with_it = match path("logs/HEAD") {
        Some(log) => vec![log],
        None => git(&["symbolic-ref", "--quiet", "HEAD"])
            .iter()
            .filter_map(|branch| path(branch))
            .chain(path("packed-refs"))
            .collect(),
    };
    // Only what is there: of a file that is not, cargo would say on every build that it has changed.
    for path in path("HEAD").into_iter().chain(changes_with_it) {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

/// What a program says on one line, if it runs and ends well.
fn said(root: &Path, program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).current_dir(root).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| "unknown".to_owned())
}
