//! A connection that notices silence.
//!
//! A connection may be silent for ever while TCP thinks well of it: where something in the way acknowledges every packet,
//! neither keepalives nor `tcp_user_timeout` end it. PostgreSQL answers whatever it is sent, at the latest when the
//! session's `statement_timeout` is over; so what was asked and not answered for longer than that is lost, and the
//! connection says so, whoever waits on it for whatever.
//!
//! Under TLS there are two of these: one under it, for the question whether there is TLS and for the handshake, and one
//! above it, which sees the questions and answers themselves.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

use super::answers::Answers;
use super::authentication::Guard;

/// A stream whose other end must answer within its patience.
#[derive(Debug)]
pub struct Patient<S> {
    stream: S,
    /// How long an answer may take; none, where a statement may take as long as it likes.
    patience: Option<Duration>,
    /// When what was asked must be answered.
    deadline: Option<Pin<Box<Sleep>>>,
    text: Text,
    /// Reads how the server wants us to authenticate, where it can be read.
    guard: Option<Box<Guard>>,
    /// Of the last bytes that were to be written, not all were: what is written next begins in the middle.
    is_cut: bool,
}

/// Whether what goes through can be read.
#[derive(Debug)]
enum Text {
    /// Nothing was written yet.
    Unknown,
    /// TLS was asked for, and the server has not said whether it has it.
    Asked,
    /// TLS is being agreed on.
    Handshake,
    Plain(Answers),
    /// Whoever is above the encryption watches.
    Encrypted,
}

/// What a client asks for TLS with. See <https://www.postgresql.org/docs/current/protocol-message-formats.html>
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// What a frame of TLS begins with. See RFC 8446, 5.1: `ContentType`.
const TLS_FRAMES: std::ops::RangeInclusive<u8> = 0x14..=TLS_APPLICATION_DATA;
const TLS_HANDSHAKE: u8 = 0x16;
const TLS_APPLICATION_DATA: u8 = 0x17;

impl<S> Patient<S> {
    /// Watches a connection of which nothing is known yet.
    pub fn new(stream: S, patience: Option<Duration>) -> Patient<S> {
        Patient { stream, patience, deadline: None, text: Text::Unknown, guard: None, is_cut: false }
    }

    /// Takes no part in an authentication that the guard objects to.
    pub fn guarded(self, guard: Guard) -> Patient<S> {
        Patient { guard: Some(Box::new(guard)), ..self }
    }

    /// From now on the answer may take so long.
    fn expect_answer(&mut self, context: &mut Context<'_>) {
        if let Some(patience) = self.patience {
            let mut deadline = Box::pin(sleep_until(Instant::now() + patience));
            // Whoever writes is whoever reads: it is woken when the time is over.
            let _not_yet = deadline.as_mut().poll(context);
            self.deadline = Some(deadline);
        }
    }

    /// Something is being asked, though perhaps not whole yet.
    fn asks(&mut self, context: &mut Context<'_>, bytes: &[u8]) {
        if matches!(self.text, Text::Unknown) {
            self.text = match bytes {
                _ if bytes == SSL_REQUEST => Text::Asked,
                // A handshake without asking first (sslnegotiation=direct).
                [TLS_HANDSHAKE, ..] => Text::Handshake,
                _ => Text::Plain(Answers::default()),
            };
        }
        if let (Text::Asked | Text::Handshake, false, Some(first)) = (&self.text, self.is_cut, bytes.first()) {
            if *first == TLS_APPLICATION_DATA {
                self.text = Text::Encrypted;
                self.deadline = None;
            } else if !TLS_FRAMES.contains(first) && bytes != SSL_REQUEST {
                // Whoever speaks has given TLS up, and nobody above watches: then what is answered is watched here.
                self.text = Text::Plain(Answers::default());
            }
        }
        if self.deadline.is_none() && !matches!(self.text, Text::Encrypted) {
            self.expect_answer(context);
        }
    }

    /// Something came: the answer, or a part of it, as far as that can be seen.
    ///
    /// # Errors
    /// It must not be answered.
    fn take_in(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        self.deadline = None;
        match &mut self.text {
            Text::Asked => {
                if let Some(answer) = bytes.first() {
                    self.text = agreed(*answer)?;
                }
            }
            Text::Plain(answers) => {
                if let Some(guard) = &mut self.guard {
                    guard.take_in(bytes).map_err(|what| io::Error::new(io::ErrorKind::PermissionDenied, what))?;
                }
                answers.answered(bytes);
                // What is left, or the rest of this one, may take as long again.
                if answers.are_due() {
                    self.expect_answer(context);
                }
            }
            Text::Unknown | Text::Handshake | Text::Encrypted => {}
        }
        Ok(())
    }
}

/// What follows from the answer to whether there is TLS. It is final: tokio-postgres takes whatever is not yes for no.
///
/// # Errors
/// It is neither yes nor no. Nothing more is said to whoever answers so.
fn agreed(answer: u8) -> io::Result<Text> {
    match answer {
        b'S' => Ok(Text::Handshake),
        b'N' => Ok(Text::Unknown),
        // What it says besides could be anybody's, and is not read: as with libpq.
        b'E' => Err(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "asked whether it has TLS, the server answered with an error: it may be short of processes or memory",
        )),
        other => Err(io::Error::new(io::ErrorKind::InvalidData, NotPostgres(other))),
    }
}

/// What answers is no PostgreSQL.
#[derive(Debug)]
pub struct NotPostgres(u8);

impl std::fmt::Display for NotPostgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "asked whether it has TLS, it answered neither S (yes) nor N (no), but {:#04x}: this is no PostgreSQL", self.0)
    }
}

impl std::error::Error for NotPostgres {}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_ready() {
            self.take_in(context, &buffer.filled()[before..])?;
            return polled;
        }
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(context));
        let patience = self.patience.unwrap_or_default();
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, format!("the server has been silent for {patience:?}"))))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.asks(context, bytes);
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.is_cut = written < bytes.len();
        if let Text::Plain(answers) = &mut self.text {
            answers.asked(&bytes[..written]);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Patient<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

/// TLS, watched from above as well.
#[derive(Debug)]
pub struct PatientTls<T> {
    /// What makes it.
    pub tls: T,
    /// How long an answer may take.
    pub patience: Option<Duration>,
    /// What it may be asked for.
    pub guard: Guard,
}

impl<S, T> TlsConnect<S> for PatientTls<T>
where
    T: TlsConnect<S>,
    T::Future: Send + 'static,
{
    type Stream = Patient<T::Stream>;
    type Error = T::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, Self::Error>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        let PatientTls { tls, patience, guard } = self;
        let connecting = tls.connect(stream);
        Box::pin(async move { Ok(Patient::new(connecting.await?, patience).guarded(guard)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    /// A question, and the end of every answer.
    const SYNC: &[u8] = b"S\0\0\0\x04";
    const READY: &[u8] = b"Z\0\0\0\x05I";

    /// A connection past its start-up.
    async fn pair(patience: Option<Duration>) -> (Patient<DuplexStream>, DuplexStream) {
        let (client, mut server) = tokio::io::duplex(1_000);
        let mut client = Patient::new(client, patience);
        client.write_all(b"\0\0\0\x08\0\x03\0\0").await.expect("the start-up message");
        server.write_all(READY).await.expect("answered");
        client.read_exact(&mut [0; 6]).await.expect("answered");
        (client, server)
    }

    async fn is_silent(client: &mut Patient<DuplexStream>) -> bool {
        let waited = tokio::time::timeout(Duration::from_secs(60), client.read_u8()).await;
        waited.is_ok_and(|read| read.expect_err("nothing comes").kind() == io::ErrorKind::TimedOut)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_must_be_answered_and_what_is_not_need_not() {
        let (mut client, mut server) = pair(Some(Duration::from_secs(5))).await;
        // Nothing was asked: silence means nothing.
        assert!(!is_silent(&mut client).await);
        // Asked and answered, in two pieces.
        client.write_all(SYNC).await.expect("asked");
        server.write_all(&READY[..2]).await.expect("a part of the answer");
        client.read_exact(&mut [0; 2]).await.expect("a part of the answer");
        server.write_all(&READY[2..]).await.expect("the rest");
        client.read_exact(&mut [0; 4]).await.expect("the rest");
        assert!(!is_silent(&mut client).await);
        // Asked, and not answered, on a connection that stands.
        client.write_all(SYNC).await.expect("asked");
        assert!(is_silent(&mut client).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_of_two_questions_at_once_must_be_answered_too() {
        let (mut client, mut server) = pair(Some(Duration::from_secs(5))).await;
        client.write_all(&[SYNC, SYNC].concat()).await.expect("asked");
        server.write_all(READY).await.expect("answered");
        client.read_exact(&mut [0; 6]).await.expect("answered");
        assert!(is_silent(&mut client).await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_stops_in_the_middle_is_noticed_too() {
        let (mut client, mut server) = pair(Some(Duration::from_secs(5))).await;
        client.write_all(SYNC).await.expect("asked");
        server.write_all(b"D").await.expect("a part of the answer");
        assert_eq!(client.read_u8().await.expect("it came"), b'D');
        assert!(is_silent(&mut client).await);
    }

    #[tokio::test(start_paused = true)]
    async fn without_patience_an_answer_may_take_as_long_as_it_likes() {
        let (mut client, _server) = pair(None).await;
        client.write_all(SYNC).await.expect("asked");
        assert!(!is_silent(&mut client).await);
    }

    /// A client that has asked for TLS, and what it read of the answer.
    async fn asked(answer: &[u8]) -> (Patient<DuplexStream>, DuplexStream, io::Result<u8>) {
        let (client, mut server) = tokio::io::duplex(1_000);
        let methods = super::super::authentication::Methods::read("scram-sha-256").expect("a list");
        let policy = super::super::authentication::Policy { methods: Some(methods), is_exposed: true };
        let mut client = Patient::new(client, Some(Duration::from_secs(5))).guarded(Guard::new(policy, false));
        client.write_all(&SSL_REQUEST).await.expect("asked");
        server.write_all(answer).await.expect("answered");
        let read = client.read_u8().await;
        (client, server, read)
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_to_whether_there_is_tls_is_yes_or_no() {
        for answer in 0..=u8::MAX {
            let (.., read) = asked(&[answer]).await;
            match answer {
                b'S' | b'N' => assert_eq!(read.expect("it is an answer"), answer),
                _ => assert_ne!(read.expect_err("it is none").kind(), io::ErrorKind::UnexpectedEof, "{answer}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_on_in_plain_text_is_guarded_and_watched() {
        // After a no; and after a yes, which whoever is above took for a no.
        for answer in [b"N", b"S"] {
            let (mut client, mut server, _) = asked(answer).await;
            client.write_all(b"\0\0\0\x08\0\x03\0\0").await.expect("the start-up message");
            assert!(is_silent(&mut client).await, "{answer:?}");
            server.write_all(b"R\0\0\0\x08\0\0\0\x03").await.expect("asked for the password");
            let said = client.read_exact(&mut [0; 9]).await.expect_err("it is refused");
            assert_eq!(said.kind(), io::ErrorKind::PermissionDenied, "{answer:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_of_tls_that_is_written_in_pieces_is_no_plain_text() {
        let (client, mut server) = tokio::io::duplex(8);
        let mut client = Patient::new(client, None);
        client.write_all(&SSL_REQUEST).await.expect("asked");
        server.read_exact(&mut [0; 8]).await.expect("asked");
        server.write_all(b"S").await.expect("answered");
        client.read_u8().await.expect("answered");
        let hello = [&[TLS_HANDSHAKE, 3, 1, 0, 20][..], &[0x42; 20]].concat();
        let reading = tokio::spawn(async move { server.read_exact(&mut [0; 25]).await.map(drop) });
        client.write_all(&hello).await.expect("written");
        reading.await.expect("no panic").expect("read");
        assert!(matches!(client.text, Text::Handshake), "{:?}", client.text);
    }

    #[tokio::test(start_paused = true)]
    async fn under_tls_the_handshake_is_watched_and_then_only_what_is_above_it() {
        let (client, mut server) = tokio::io::duplex(1_000);
        let mut client = Patient::new(client, Some(Duration::from_secs(5)));
        client.write_all(&SSL_REQUEST).await.expect("asked");
        server.write_all(b"S").await.expect("answered");
        client.read_u8().await.expect("answered");
        client.write_all(&[TLS_APPLICATION_DATA, 3, 3]).await.expect("written");
        assert!(!is_silent(&mut client).await);
        let (client, _server) = tokio::io::duplex(1_000);
        let mut client = Patient::new(client, Some(Duration::from_secs(5)));
        client.write_all(&SSL_REQUEST).await.expect("asked");
        assert!(is_silent(&mut client).await);
    }
}
