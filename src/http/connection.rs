//! Connections: how they are taken, what each of them may cost, and how it ends.
//!
//! Whoever connects may be anybody. A connection costs a bounded number of bytes, has a bounded time for a request, and a bounded
//! time for taking its answer; there is a bounded number of them, and when all are taken nobody is kept out (`places`).

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bind::{Bound, Stream};
use super::places::{Answering, Place, Places};

/// So many connections at once.
const CONNECTIONS_MAX: usize = 256;
/// A request has to be whole after so long, and a connection on which nothing is asked ends after so long.
const REQUEST_MAX: Duration = Duration::from_secs(20);
/// What has been said has to be taken within this time.
const TAKEN_MAX: Duration = Duration::from_secs(20);
/// A request, its first line included, may have so many bytes …
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// … of which so many are kept until it is whole (what follows it may have come with them) …
const BUFFER_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX;
/// … and so many headers.
const HEADERS_MAX: usize = 64;
/// Where there is no room for another file, it is tried again after this.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(100);
/// … and said no more often than this.
const NO_ROOM_SAID_EVERY: Duration = Duration::from_secs(60);

/// Takes connections until it is to stop; then until those that are answered have their answers.
pub(super) async fn take(listener: Bound, app: Router, stop: CancellationToken) {
    let (places, connections) = (Places::new(CONNECTIONS_MAX), TaskTracker::new());
    let mut said: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(stream) => {
                connections.spawn(serve(stream, places.take(), app.clone(), stop.clone()));
                // A crowd at the door is not let in before those who are in have had their turn.
                tokio::task::yield_now().await;
            }
            // It has gone again.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
            Err(error) => {
                if said.is_none_or(|at| at.elapsed() >= NO_ROOM_SAID_EVERY) {
                    tracing::warn!(%error, "HTTP connections cannot be taken; trying again");
                    said = Some(Instant::now());
                }
                if places.shed() {
                    tracing::debug!("HTTP: a connection without a request gives way");
                }
                tokio::time::sleep(NO_ROOM_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// One connection, to its end.
async fn serve(stream: Stream, place: Arc<Place>, app: Router, stop: CancellationToken) {
    let (routes, held) = (TowerToHyperService::new(app), Arc::clone(&place));
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let answering = held.answer();
        let answered = routes.call(request);
        async move { Ok::<_, Infallible>(answered.await?.map(|body| Held { body, _answering: answering })) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(REQUEST_MAX).max_headers(HEADERS_MAX);
    http.max_header_size(HEAD_BYTES_MAX).max_buf_size(BUFFER_BYTES_MAX);
    // Whoever has said all that it has to say still wants its answer.
    http.half_close(true);
    let mut connection = pin!(http.serve_connection(TokioIo::new(Paced { stream, owed: None }), service));
    tokio::select! {
        // How it ended is the other side's affair.
        _ended = &mut connection => {}
        () = place.gone.cancelled() => {}
        () = stop.cancelled() => {
            if place.is_answered() {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    _ended = connection => {}
                    () = place.gone.cancelled() => {}
                }
            }
        }
    }
}

/// An answer's body. While it is there the request is being answered.
struct Held {
    body: Body,
    _answering: Answering,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose other side has to take what it is given.
struct Paced {
    stream: Stream,
    /// Runs from when something could not be sent until all is.
    owed: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    fn pace(&mut self, sent: Poll<io::Result<usize>>, of: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let is_whole = matches!(&sent, Poll::Ready(Ok(bytes)) if *bytes >= of);
        if is_whole && self.owed.is_none() {
            return sent;
        }
        let owed = self.owed.get_or_insert_with(|| Box::pin(tokio::time::sleep(TAKEN_MAX)));
        if owed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(ErrorKind::TimedOut.into()));
        }
        sent
    }
}

impl AsyncRead for Paced {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.pace(sent, bytes.len(), cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let of = bytes.iter().map(|slice| slice.len()).sum();
        let sent = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.pace(sent, of, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Whoever writes flushes once all is written: then nothing is owed any more.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.owed = None;
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
