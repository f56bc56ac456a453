//! An endpoint that does as little as can be: it answers, and notes which key came when. Its work must not be what is
//! measured, so it checks no signature and parses no JSON: `\"k\":` in a body is a key.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
const KEY: &[u8] = br#"\"k\":"#;

/// A key, and when its event came.
pub type Arrival = (i64, Instant);

/// The endpoint; its thread of work ends with the process.
pub struct Endpoint {
    pub port: u16,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
}

impl Endpoint {
    /// One that answers at once.
    pub async fn start() -> Endpoint {
        Endpoint::new(true).await
    }

    /// One that takes connections and never answers.
    pub async fn silent() -> Endpoint {
        Endpoint::new(false).await
    }

    async fn new(answers: bool) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&arrivals);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _no_delay = stream.set_nodelay(true);
                tokio::spawn(serve(stream, answers, Arc::clone(&into)));
            }
        });
        Endpoint { port, arrivals }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How many events came since they were last taken.
    pub fn count(&self) -> usize {
        self.arrivals.lock().expect("no panic").len()
    }

    /// What came, in its order; it is forgotten.
    pub fn take(&self) -> Vec<Arrival> {
        std::mem::take(&mut self.arrivals.lock().expect("no panic"))
    }

    /// Waits until so many came.
    pub async fn wait_for(&self, count: usize) {
        let complete = async || (self.count() >= count).then_some(());
        crate::support::eventually(&format!("{count} events"), complete).await;
    }
}

async fn serve(mut stream: TcpStream, answers: bool, arrivals: Arc<Mutex<Vec<Arrival>>>) {
    let mut buffer: Vec<u8> = Vec::with_capacity(16 * 1024);
    while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
        while let Some(length) = request(&buffer) {
            let came = Instant::now();
            arrivals.lock().expect("no panic").extend(keys(&buffer[..length]).map(|key| (key, came)));
            buffer.drain(..length);
            if answers && stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
    }
}

/// The length of the first request, once it is whole.
fn request(buffer: &[u8]) -> Option<usize> {
    let head = find(buffer, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&buffer[..head]).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let body: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
    (buffer.len() >= head + body).then_some(head + body)
}

fn keys(body: &[u8]) -> impl Iterator<Item = i64> {
    let mut rest = body;
    std::iter::from_fn(move || {
        rest = &rest[find(rest, KEY)? + KEY.len()..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
        Some(digits.fold(0, |key, digit| key * 10 + i64::from(digit - b'0')))
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
