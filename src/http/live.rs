//! The stream of documents, by server-sent events: one reader for all who watch, and none while nobody does.
//!
//! The reader has a session of its own, so that a page never takes one of those that deliver, and rests at least as long as
//! to be at work for a tenth of the time. It never gives a question up to ask it again: while the database is silent it
//! says so, and goes on waiting for the one answer.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::{Extension, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::document::{self, Reader};
use super::token::Trusted;
use crate::config::Hide;
use crate::daemon::Current;
use crate::dispatch::lock;

/// So many pages may be open at once.
const VIEWERS_MAX: usize = 16;
/// A document is read at most this often.
const READ_EVERY: Duration = Duration::from_secs(1);
/// After a reading the pause is at least so many times as long as the reading.
const PAUSE_FACTOR: u32 = 9;
/// After so long without an answer the page says that there is none.
const SILENCE_SAID_AFTER: Duration = Duration::from_secs(2);
/// A comment keeps proxies from taking a quiet stream for a dead one.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);
/// After so long a browser that lost the stream asks again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A document, and what was left out of it.
#[derive(Clone)]
struct Document {
    text: Arc<str>,
    hide: Hide,
}

/// What all streams share.
#[derive(Clone)]
pub(super) struct Live(Arc<Inner>);

struct Inner {
    current: Current,
    /// Cancelled when the process is to end.
    stop: CancellationToken,
    seats: Arc<Semaphore>,
    latest: watch::Sender<Option<Document>>,
    /// Whether the reader is there. Held while it is decided that it goes, and that it must come.
    reading: Mutex<bool>,
    /// Whoever reads next waits until then: viewers that come and go do not make it read more often.
    not_before: Mutex<Instant>,
}

/// `GET /api/live`
pub(super) async fn listen(State(live): State<Live>, Extension(trusted): Extension<Trusted>) -> Response {
    let Ok(seat) = Arc::clone(&live.0.seats).try_acquire_owned() else {
        let full = format!("{VIEWERS_MAX} status pages are open already: close one of them\n");
        return (StatusCode::SERVICE_UNAVAILABLE, full).into_response();
    };
    let viewer = Viewer { documents: live.watch(), seat, live, trusted, is_new: true };
    let events = stream::unfold(viewer, |mut viewer| async move {
        let document = viewer.next().await?;
        let event = Event::default().retry(RETRY_AFTER).data(&*document.text);
        Some((Ok::<Event, Infallible>(event), viewer))
    });
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), "no");
    let headers = [(header::CACHE_CONTROL, "no-store"), unbuffered];
    (headers, Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE_EVERY))).into_response()
}

struct Viewer {
    documents: watch::Receiver<Option<Document>>,
    live: Live,
    /// What it was let in with.
    trusted: Trusted,
    is_new: bool,
    #[expect(dead_code, reason = "it is given back when the stream ends")]
    seat: OwnedSemaphorePermit,
}

impl Viewer {
    /// The next document; none once the daemon is to end, or another token is wanted.
    async fn next(&mut self) -> Option<Document> {
        let stop = self.live.0.stop.clone();
        // What the others see already, a new one sees at once.
        if !std::mem::take(&mut self.is_new) {
            self.changed(&stop).await?;
        }
        loop {
            let daemon = self.live.0.current.daemon();
            if !self.trusted.holds(&daemon) {
                return None;
            }
            // A document that tells what has been hidden since is not shown.
            let latest = self.documents.borrow_and_update().clone();
            if let Some(document) = latest.filter(|document| document.hide == super::hidden(&daemon)) {
                return Some(document);
            }
            self.changed(&stop).await?;
        }
    }

    /// There is another document; nothing once the daemon is to end.
    async fn changed(&mut self, stop: &CancellationToken) -> Option<()> {
        tokio::select! {
            changed = self.documents.changed() => changed.ok(),
            () = stop.cancelled() => None,
        }
    }
}

/// Whatever ends the reader, the next who watches brings another.
struct Gone(Live);

impl Drop for Gone {
    fn drop(&mut self) {
        if std::thread::panicking() {
            *lock(&self.0.0.reading) = false;
        }
    }
}

impl Live {
    /// Nobody watches yet.
    pub(super) fn new(current: Current, stop: CancellationToken) -> Live {
        let seats = Arc::new(Semaphore::new(VIEWERS_MAX));
        Live(Arc::new(Inner {
            current,
            stop,
            seats,
            latest: watch::Sender::new(None),
            reading: Mutex::new(false),
            not_before: Mutex::new(Instant::now()),
        }))
    }

    /// One more watches.
    fn watch(&self) -> watch::Receiver<Option<Document>> {
        let mut reading = lock(&self.0.reading);
        let documents = self.0.latest.subscribe();
        if !std::mem::replace(&mut *reading, true) {
            tokio::spawn(self.clone().read());
        }
        documents
    }

    /// Whether anybody does. If not, the reader goes, and what it read is not shown to whoever comes later.
    fn is_watched(&self) -> bool {
        let mut reading = lock(&self.0.reading);
        let is_watched = self.0.latest.receiver_count() > 0;
        if !is_watched {
            *reading = false;
            self.0.latest.send_replace(None);
        }
        is_watched
    }

    /// The reader.
    async fn read(self) {
        let _gone = Gone(self.clone());
        let mut reader = Reader::default();
        let stop = self.0.stop.clone();
        while self.is_watched() {
            let not_before = *lock(&self.0.not_before);
            tokio::select! {
                () = tokio::time::sleep_until(not_before.into()) => {}
                () = stop.cancelled() => return,
            }
            let began = Instant::now();
            // To its end, though everybody may go meanwhile: the server would work on, and whoever comes next would ask again.
            tokio::select! {
                () = self.refresh(&mut reader) => {}
                () = stop.cancelled() => return,
            }
            let pause = READ_EVERY.saturating_sub(began.elapsed()).max(began.elapsed() * PAUSE_FACTOR);
            *lock(&self.0.not_before) = Instant::now() + pause;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.0.latest.closed() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Reads one document, and shows it.
    async fn refresh(&self, reader: &mut Reader) {
        // Anew for every document: a reload makes another one.
        let daemon = self.0.current.daemon();
        let hide = super::hidden(&daemon);
        let began = Instant::now();
        let found = {
            let mut reading = pin!(reader.read(&daemon));
            loop {
                match tokio::time::timeout(SILENCE_SAID_AFTER, &mut reading).await {
                    Ok(found) => break found,
                    Err(_) => {
                        let silence = format!("the database has not answered for {} s", began.elapsed().as_secs());
                        self.show(hide, document::without_database(&daemon, &silence));
                    }
                }
            }
        };
        let text = match found {
            // (Large ones take their time, and the daemon has one thread.)
            Ok(found) => {
                let built = tokio::task::spawn_blocking(move || document::build(&daemon, &found)).await;
                built.unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
            }
            Err(error) => document::without_database(&daemon, &error.to_string()),
        };
        self.show(hide, text);
    }

    fn show(&self, hide: Hide, text: String) {
        self.0.latest.send_replace(Some(Document { text: text.into(), hide }));
    }
}
