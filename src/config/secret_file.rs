//! Where a file of a secret is, when it is named without a directory.

use std::path::{Path, PathBuf};

use super::document::Origin;

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
pub(crate) fn beside(name: &str, config: &str) -> PathBuf {
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
