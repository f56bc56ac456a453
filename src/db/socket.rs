//! The socket under a session, which notices silence.
//!
//! A connection may be silent for ever while TCP thinks well of it: where something in the way acknowledges every packet,
//! neither keepalives nor `tcp_user_timeout` end it. PostgreSQL answers whatever it is sent, at the latest when the
//! session's `statement_timeout` is over; so what was written and not answered for longer than that is lost, and the
//! socket says so, whoever waits on it for whatever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// A connected socket.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
    /// How long an answer may take; none, where a statement may take as long as it likes.
    patience: Option<Duration>,
    /// When what was written must be answered.
    deadline: Option<Pin<Box<Sleep>>>,
    text: Text,
    /// The last bytes that came: the end of an answer may come in two pieces.
    tail: Vec<u8>,
}

/// Whether what goes through can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    /// Nothing was written yet.
    Unknown,
    /// TLS was asked for.
    Asked,
    Plain,
    Encrypted,
}

/// What a client asks for TLS with, and what the end of an answer looks like: `ReadyForQuery`, without its last byte. See
/// <https://www.postgresql.org/docs/current/protocol-message-formats.html>
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const READY_FOR_QUERY: [u8; 5] = [b'Z', 0, 0, 0, 5];
const TLS_HANDSHAKE: u8 = 0x16;

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// It could not be connected: the first use of it says why, so that there is one kind of error for both.
    Failed(Option<io::Error>),
}

impl Socket {
    /// Connects to one of the hosts of a configuration, by its index.
    pub async fn connect(config: &Config, index: usize, patience: Option<Duration>) -> Socket {
        let stream = stream(config, index).await.unwrap_or_else(|error| Stream::Failed(Some(error)));
        Socket { stream, patience, deadline: None, text: Text::Unknown, tail: Vec::new() }
    }

    /// Something is asked, or not answered whole: it is from now on that the answer may take so long.
    fn expect_answer(&mut self, context: &mut Context<'_>) {
        if let Some(patience) = self.patience {
            let mut deadline = Box::pin(sleep_until(Instant::now() + patience));
            // Whoever writes is whoever reads: it is woken when the time is over.
            let _not_yet = deadline.as_mut().poll(context);
            self.deadline = Some(deadline);
        }
    }

    /// Something came: the answer, or a part of it, as far as that can be seen.
    fn take_in(&mut self, context: &mut Context<'_>, bytes: &[u8]) {
        match self.text {
            Text::Asked => self.text = if bytes.first() == Some(&b'S') { Text::Encrypted } else { Text::Plain },
            Text::Plain => {
                self.tail.extend_from_slice(bytes);
                let whole = self.tail.windows(READY_FOR_QUERY.len()).any(|window| window == READY_FOR_QUERY);
                let kept = if whole { 0 } else { READY_FOR_QUERY.len() - 1 };
                self.tail.drain(..self.tail.len().saturating_sub(kept));
                if !whole && self.deadline.is_some() {
                    return self.expect_answer(context);
                }
            }
            Text::Unknown | Text::Encrypted => {}
        }
        self.deadline = None;
    }
}

async fn stream(config: &Config, index: usize) -> io::Result<Stream> {
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
            return Ok(Stream::Unix(tokio::time::timeout(within, UnixStream::connect(path)).await.map_err(timed_out)??));
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
    Ok(Stream::Tcp(stream))
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Failed(error) => Poll::Ready(Err(taken(error))),
        };
        if polled.is_ready() {
            self.take_in(context, &buffer.filled()[before..]);
            return polled;
        }
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(context));
        let patience = self.patience.unwrap_or_default();
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, format!("the server has been silent for {patience:?}"))))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.text == Text::Unknown {
            self.text = match bytes {
                _ if bytes == SSL_REQUEST => Text::Asked,
                // A handshake without asking first (sslnegotiation=direct).
                [TLS_HANDSHAKE, ..] => Text::Encrypted,
                _ => Text::Plain,
            };
        }
        if self.deadline.is_none() {
            self.expect_answer(context);
        }
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Failed(error) => Poll::Ready(Err(taken(error))),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(context),
            Stream::Failed(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Failed(_) => Poll::Ready(Ok(())),
        }
    }
}

fn taken(error: &mut Option<io::Error>) -> io::Error {
    error.take().unwrap_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "not connected"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    async fn pair(patience: Option<Duration>) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mut config = Config::new();
        config.host("127.0.0.1").port(listener.local_addr().expect("an address").port());
        let (socket, accepted) = tokio::join!(Socket::connect(&config, 0, patience), listener.accept());
        (socket, accepted.expect("connected").0)
    }

    #[tokio::test]
    async fn what_is_written_must_be_answered_and_what_is_not_need_not() {
        let (mut socket, mut server) = pair(Some(Duration::from_millis(50))).await;
        // Nothing was asked: silence means nothing.
        let idle = tokio::time::timeout(Duration::from_millis(200), socket.read_u8()).await;
        assert!(idle.is_err(), "{idle:?}");
        // Asked and answered.
        socket.write_all(b"?").await.expect("written");
        server.write_all(b"Z\0").await.expect("a part of the answer");
        let mut answer = [0; 2];
        socket.read_exact(&mut answer).await.expect("a part of the answer");
        server.write_all(b"\0\0\x05I").await.expect("the rest");
        let mut answer = [0; 4];
        socket.read_exact(&mut answer).await.expect("the rest");
        let idle = tokio::time::timeout(Duration::from_millis(200), socket.read_u8()).await;
        assert!(idle.is_err(), "{idle:?}");
        // Asked, and not answered, on a connection that stands.
        socket.write_all(b"?").await.expect("written");
        let error = socket.read_u8().await.expect_err("silence");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn an_answer_that_stops_in_the_middle_is_noticed_too() {
        let (mut socket, mut server) = pair(Some(Duration::from_millis(50))).await;
        socket.write_all(b"?").await.expect("written");
        server.write_all(b"D").await.expect("a part of the answer");
        assert_eq!(socket.read_u8().await.expect("it came"), b'D');
        assert_eq!(socket.read_u8().await.expect_err("silence").kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn without_patience_an_answer_may_take_as_long_as_it_likes() {
        let (mut socket, _server) = pair(None).await;
        socket.write_all(b"?").await.expect("written");
        let waiting = tokio::time::timeout(Duration::from_millis(200), socket.read_u8()).await;
        assert!(waiting.is_err(), "{waiting:?}");
    }
}
