//! A file that holds a secret: where it is when it is named without a directory, and what it may be.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::document::Origin;
use super::secret::Secret;

/// No secret is longer, but many a file that was named by mistake.
const BYTES_MAX: usize = 64 * 1024;

/// A name that is no whole path is looked for among the credentials that systemd has put out for this service
/// (`$CREDENTIALS_DIRECTORY`), then beside the configuration file. So one configuration serves the daemon, which may not
/// read what belongs to root, and root, who runs `check` by hand without the service's credentials; and it serves several
/// instances, whose credentials are in different places. A name from the environment has no file to stand beside: it is
/// looked for where the program runs.
pub(super) fn find(name: &str, config: &str, origin: &Origin) -> PathBuf {
    match origin {
        Origin::File { .. } => beside(name, config),
        Origin::Variable(_) => credential(name).unwrap_or_else(|| name.into()),
    }
}

/// Where a file is that the configuration file itself names.
fn beside(name: &str, config: &str) -> PathBuf {
    credential(name).unwrap_or_else(|| Path::new(config).with_file_name(name))
}

/// A whole path, or one of the service's credentials.
fn credential(name: &str) -> Option<PathBuf> {
    let name = Path::new(name);
    if name.is_absolute() {
        return Some(name.to_owned());
    }
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY").map(|directory| Path::new(&directory).join(name));
    credential.filter(|path| path.exists())
}

/// Reads a secret from its file, without the line's end that editors put there.
///
/// # Errors
/// What is wrong with the file, said behind its name; nothing of what stands in it.
pub(super) fn read(path: &Path) -> Result<Secret, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    // Looked at before it is opened: opening a pipe waits for somebody who writes.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("is no regular file, which a secret has to stand in".to_owned());
    }
    let too_long = || format!("has more than {} KiB: is it the right file?", BYTES_MAX / 1024);
    if metadata.len() > BYTES_MAX as u64 {
        return Err(too_long());
    }
    // As long as it may become, so that no copy is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES_MAX + 1));
    File::open(path).and_then(|file| file.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() > BYTES_MAX {
        return Err(too_long());
    }
    let text = std::str::from_utf8(&bytes).ok().filter(|text| !text.contains('\0'));
    let text = text.ok_or("is no text in UTF-8")?.trim_end_matches(['\r', '\n']);
    if text.trim().is_empty() {
        return Err("is empty; a secret is wanted in it".to_owned());
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_secret_can_stand_in_is_refused_without_repeating_it() {
        let directory = std::env::temp_dir().join(format!("items-listen-secret-file-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let read = |name: &str, bytes: &[u8]| {
            let path = directory.join(name);
            std::fs::write(&path, bytes).expect("written");
            super::read(&path).map(|secret| secret.expose().to_owned())
        };
        assert_eq!(read("line", b"hush hush \r\n"), Ok("hush hush ".to_owned()));
        let most = vec![b'x'; BYTES_MAX];
        assert_eq!(read("most", &most).map(|secret| secret.len()), Ok(BYTES_MAX));
        for (name, bytes, why) in [
            ("empty", &b""[..], "empty"),
            ("blank", b" \n", "empty"),
            ("zero", b"hush\0", "UTF-8"),
            ("latin", b"hush\xff", "UTF-8"),
            ("long", &vec![b'x'; BYTES_MAX + 1], "64 KiB"),
        ] {
            let error = read(name, bytes).expect_err(name);
            assert!(error.contains(why) && !error.contains("hush"), "{name}: {error}");
        }
        let pipe = directory.join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).expect("a pipe");
        for path in [pipe.as_path(), &directory, Path::new("/dev/null")] {
            assert!(super::read(path).is_err_and(|error| error.contains("no regular file")), "{}", path.display());
        }
        assert!(super::read(&directory.join("absent")).is_err_and(|error| error.contains("cannot be read")));
        std::fs::remove_dir_all(directory).expect("removed");
    }
}
