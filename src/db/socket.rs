//! The socket under a session: TCP or Unix, with the keepalives that the connection string asks for.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// To a port.
    Tcp(TcpStream),
    /// To a socket of this machine.
    Unix(UnixStream),
    /// It could not be connected: the first use of it says why, so that there is one kind of error for both.
    Failed(Option<io::Error>),
}

impl Socket {
    /// Connects to one of the hosts of a configuration, by its index.
    pub async fn connect(config: &Config, index: usize) -> Socket {
        connect(config, index).await.unwrap_or_else(|error| Socket::Failed(Some(error)))
    }

    /// Whether what is sent goes where others may listen.
    pub fn leaves_this_machine(&self) -> bool {
        let Socket::Tcp(stream) = self else { return false };
        match (stream.local_addr(), stream.peer_addr()) {
            (Ok(ours), Ok(theirs)) => ours.ip() != theirs.ip() && !theirs.ip().is_loopback(),
            _ => true,
        }
    }
}

async fn connect(config: &Config, index: usize) -> io::Result<Socket> {
    let port = config.get_ports().get(index).or(config.get_ports().first()).copied().unwrap_or(5432);
    let hosts = config.get_hosts().len().max(config.get_hostaddrs().len()).max(1);
    // Each host its share: one that swallows everything must not use up the time of the next.
    let within = config.get_connect_timeout().copied().unwrap_or(Duration::from_secs(10)) / u32::try_from(hosts).unwrap_or(1);
    let timed_out = |_| io::Error::new(io::ErrorKind::TimedOut, "connecting timed out");
    let host = match (config.get_hostaddrs().get(index), config.get_hosts().get(index)) {
        (Some(address), _) => address.to_string(),
        (None, Some(Host::Tcp(host))) => host.clone(),
        (None, Some(Host::Unix(directory))) => {
            let path = directory.join(format!(".s.PGSQL.{port}"));
            return Ok(Socket::Unix(tokio::time::timeout(within, UnixStream::connect(path)).await.map_err(timed_out)??));
        }
        (None, None) => return Err(io::Error::new(io::ErrorKind::InvalidInput, "a host is missing")),
    };
    let stream = tokio::time::timeout(within, TcpStream::connect((host.as_str(), port))).await.map_err(timed_out)??;
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(&stream);
    if config.get_keepalives() {
        let mut keepalive = socket2::TcpKeepalive::new().with_time(config.get_keepalives_idle());
        if let Some(interval) = config.get_keepalives_interval() {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(retries) = config.get_keepalives_retries() {
            keepalive = keepalive.with_retries(retries);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(config.get_tcp_user_timeout().copied())?;
    Ok(Socket::Tcp(stream))
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Socket::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Socket::Failed(error) => Poll::Ready(Err(taken(error))),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Socket::Failed(error) => Poll::Ready(Err(taken(error))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(context),
            Socket::Failed(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Socket::Failed(_) => Poll::Ready(Ok(())),
        }
    }
}

fn taken(error: &mut Option<io::Error>) -> io::Error {
    error.take().unwrap_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "not connected"))
}
