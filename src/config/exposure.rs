//! Which files of secrets, and which configuration, are open to others.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::Config;

/// Everybody may read it.
const READABLE_BY_ALL: u32 = 0o004;
/// Its group may write it.
const WRITABLE_BY_GROUP: u32 = 0o020;
/// Everybody may write it.
const WRITABLE_BY_ALL: u32 = 0o002;
/// In such a directory nobody may take another's file away.
const STICKY: u32 = 0o1000;

/// A file that others may read or change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposed {
    /// Which.
    pub file: PathBuf,
    /// What is wrong, as a sentence that begins with the file's name.
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// It is the file given with `--env-file`, whose mode is its own program's affair first.
    pub is_borrowed: bool,
}

/// Looks at the configuration file, at the files of secrets that it names, and at the file given with `--env-file`.
pub fn of(config: &Config) -> Vec<Exposed> {
    let file = (PathBuf::from(&config.file), config.secret_places.in_file);
    let others = config.secret_places.files.iter().map(|file| (file.clone(), true));
    let own = std::iter::once(file).chain(others).filter_map(|(file, secret)| look(&file, secret));
    let borrowed =
        config.secret_places.env_file.iter().filter_map(|file| Some(Exposed { is_borrowed: true, ..look(file, true)? }));
    own.chain(borrowed).collect()
}

/// One file, by what it leads to. What cannot be looked at, such as a configuration that is no file, has nothing to complain of.
fn look(file: &Path, holds_secret: bool) -> Option<Exposed> {
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let (name, mode) = (file.display().to_string(), metadata.mode() & 0o7777);
    let quoted = format!("'{}'", name.replace('\'', "'\\''"));
    let us = rustix::process::geteuid().as_raw();
    let (what, remedy) = if holds_secret && mode & READABLE_BY_ALL != 0 {
        (
            format!("{name} holds a secret and may be read by everybody on this machine (mode {mode:o})"),
            format!("chmod o-rwx {quoted}, and give it to the user or group of the daemon"),
        )
    } else if mode & WRITABLE_BY_ALL != 0 {
        (format!("{name} may be changed by everybody on this machine (mode {mode:o})"), format!("chmod o-w {quoted}"))
    } else if holds_secret && mode & WRITABLE_BY_GROUP != 0 {
        (format!("{name} holds a secret and may be changed by its group (mode {mode:o})"), format!("chmod g-w {quoted}"))
    } else if us != 0 && metadata.uid() != 0 && metadata.uid() != us {
        // (Root, who runs `check` by hand, cannot know as whom the daemon runs.)
        let owner = metadata.uid();
        (format!("{name} belongs to the user {owner}, who may change it"), format!("chown it to root or to the user {us}"))
    } else {
        let directory = open_directory(file)?;
        (
            format!("{name} stands in {}, where everybody may put another in its place", directory.display()),
            format!("chmod o-w '{}'", directory.display().to_string().replace('\'', "'\\''")),
        )
    };
    Some(Exposed { file: file.to_owned(), what, remedy, is_borrowed: false })
}

/// The directory of the file, or of what it leads to, if everybody may take files out of it.
fn open_directory(file: &Path) -> Option<PathBuf> {
    let target = file.canonicalize().ok()?;
    let named = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    [Some(named), target.parent()].into_iter().flatten().map(Path::to_owned).find(|directory| {
        directory.metadata().is_ok_and(|metadata| {
            let mode = metadata.mode();
            mode & WRITABLE_BY_ALL != 0 && mode & STICKY == 0
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn files_are_private_or_it_is_said_how_they_are_not() {
        let root = std::env::temp_dir().join(format!("items-listen-exposure-{}", std::process::id()));
        let chmod = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("its mode is set");
        };
        std::fs::create_dir_all(&root).expect("a directory");
        chmod(&root, 0o700);
        let file = root.join("se'cret");
        std::fs::write(&file, "hush").expect("written");
        let said = |mode, secret| {
            chmod(&file, mode);
            look(&file, secret).map(|exposed| exposed.what)
        };
        for (mode, secret, expected) in [
            (0o600, true, None),
            (0o640, true, None),
            (0o400, true, None),
            (0o644, false, None),
            (0o664, false, None),
            (0o644, true, Some("may be read by everybody")),
            (0o604, true, Some("mode 604")),
            (0o660, true, Some("may be changed by its group")),
            (0o602, true, Some("may be changed by everybody")),
            (0o666, false, Some("may be changed by everybody")),
        ] {
            let what = said(mode, secret);
            match expected {
                None => assert_eq!(what, None, "{mode:o}"),
                Some(part) => assert!(what.as_ref().is_some_and(|what| what.contains(part)), "{mode:o}: {what:?}"),
            }
        }
        chmod(&file, 0o600);
        chmod(&root, 0o777);
        assert!(look(&file, true).is_some_and(|exposed| exposed.what.contains("put another in its place")));
        chmod(&root, 0o1777);
        assert_eq!(look(&file, true), None);
        // A link is as private as what it leads to, and as where it stands.
        let private = root.join("private");
        std::fs::create_dir_all(&private).expect("a directory");
        std::os::unix::fs::symlink(&file, private.join("link")).expect("a link");
        assert_eq!(look(&private.join("link"), true), None);
        chmod(&file, 0o644);
        assert!(look(&private.join("link"), true).is_some_and(|exposed| exposed.remedy.contains("chmod o-rwx '")));
        assert_eq!(look(&root.join("absent"), true), None);
        assert_eq!(look(&private, true), None);
        std::fs::remove_dir_all(root).expect("removed");
    }
}
