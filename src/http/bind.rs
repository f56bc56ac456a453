//! Where connections come from: a TCP address or a Unix socket, and its file.

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::config::Listen;
use crate::error::Error;

/// The socket is for its owner and its group.
const SOCKET_MODE: u32 = 0o660;

/// A listener that is bound.
pub enum Bound {
    /// At an address and a port.
    Tcp(TcpListener),
    /// At a file.
    Unix(UnixListener, SocketFile),
}

/// Where a connection's bytes come from and go to.
pub(super) type Stream = Box<dyn Duplex>;

/// Both ways.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Bound {
    /// Binds. A socket file that nobody listens on is in the way of nobody, and is removed.
    ///
    /// # Errors
    /// It cannot be bound: the address is taken, somebody listens there, or something else has that name.
    pub async fn bind(listen: &Listen) -> Result<Bound, Error> {
        let cannot = |why: String| Error::Failed(format!("http.listen: {listen} cannot be bound: {why}"));
        match listen {
            Listen::Tcp(address) => TcpListener::bind(address).await.map(Bound::Tcp).map_err(|error| cannot(error.to_string())),
            Listen::Unix(path) => {
                remove_stale(path).await.map_err(cannot)?;
                let listener = bind_unix(path).map_err(|error| cannot(error.to_string()))?;
                let is = identity(path).map_err(|error| cannot(error.to_string()))?;
                Ok(Bound::Unix(listener, SocketFile { path: path.clone(), is }))
            }
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// It went away before it was taken, or there is no room for another file in this process or on this machine.
    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Bound::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // An answer is small and whole: nothing is gained by waiting for more of it.
                let _as_it_is = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
            Bound::Unix(listener, _) => Ok(Box::new(listener.accept().await?.0)),
        }
    }

    /// Whether it is a Unix socket, which no browser reaches by itself.
    pub(super) fn is_unix(&self) -> bool {
        matches!(self, Bound::Unix(..))
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Tcp(listener) => match listener.local_addr() {
                Ok(address) => write!(f, "{address}"),
                Err(error) => write!(f, "unknown: {error}"),
            },
            Bound::Unix(_, file) => write!(f, "unix:{}", file.path.display()),
        }
    }
}

/// Removes what a daemon that was killed has left; never what is no socket, nor what somebody listens on.
async fn remove_stale(path: &Path) -> Result<(), String> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    if !metadata.file_type().is_socket() {
        return Err("something that is no socket has that name".to_owned());
    }
    match tokio::net::UnixStream::connect(path).await {
        Ok(_) => Err("somebody listens there".to_owned()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| error.to_string())
        }
        Err(error) => Err(format!("a socket has that name, and it cannot be found out whether somebody listens there: {error}")),
    }
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    // It has its mode from the first moment on. The umask is that of the whole process, which does nothing else yet.
    let before = rustix::process::umask(Mode::from_raw_mode(0o777 & !SOCKET_MODE));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    bound
}

/// The file of a Unix socket: it is removed with the listener, unless another has taken its name.
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    is: (u64, u64),
}

/// What tells a file from another of the same name.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.is) {
            let _gone_already = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_stale_socket_gives_way_and_nothing_else_does() {
        let directory = std::env::temp_dir().join(format!("items-listen-bind-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join("http.sock");
        let listen = Listen::Unix(path.clone());
        let refused = async || Bound::bind(&listen).await.err().map(|error| error.to_string()).unwrap_or_default();

        std::fs::write(&path, "not yours").expect("written");
        assert!(refused().await.contains("something that is no socket"));
        assert_eq!(std::fs::read_to_string(&path).expect("it is still there"), "not yours");
        std::fs::remove_file(&path).expect("removed");

        // What was killed leaves its file behind.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let bound = Bound::bind(&listen).await.expect("a stale one gives way");
        assert_eq!(std::fs::metadata(&path).expect("it is there").mode() & 0o7777, SOCKET_MODE);
        assert_eq!(bound.to_string(), listen.to_string());
        assert!(refused().await.contains("somebody listens there"));
        drop(bound);
        assert!(!path.exists(), "it is removed with the listener");

        // What takes the name between the look and the bind keeps its mode, and so does what a link leads to.
        let (other, link) = (directory.join("other"), directory.join("link"));
        std::fs::write(&other, "another's").expect("written");
        std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o600)).expect("its owner's alone");
        std::os::unix::fs::symlink(&other, &link).expect("a link");
        for taken in [&other, &link] {
            assert!(bind_unix(taken).is_err());
            assert_eq!(std::fs::metadata(&other).expect("it is there").mode() & 0o7777, 0o600, "{}", taken.display());
        }

        let bound = Bound::bind(&listen).await.expect("bound");
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "another's").expect("written");
        drop(bound);
        assert!(path.exists(), "what has taken its name stays");
        std::fs::remove_dir_all(directory).expect("removed");
    }
}
