//! The endpoint of all contenders: an HTTP server that notes which event came when, and nothing else. A process of its
//! own, so that it takes no part in what it measures; one thread, since its work per request is a search for channel
//! names. Everything that is sent to it goes to a channel `bench.N`, of which N is what it notes.
//!
//! `GET /count` gives how many came, `GET /take` all that came since it was last asked, with the first request of them, from
//! which one can see whether it was signed.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, ExitCode, Stdio};
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What the suite's own program is called with to be one.
pub const ARGUMENT: &str = "--be-the-sink";
const MARK: &[u8] = br#""bench."#;

/// Nanoseconds on the clock that all processes of this machine share.
pub fn now() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// What came.
#[derive(Default, Deserialize, Serialize)]
pub struct Taken {
    pub requests: u64,
    /// The first request: its head up to the headers' end, and its body.
    pub first: Option<(String, String)>,
    /// The number in the channel's name, and when it came.
    pub arrivals: Vec<(u64, i64)>,
}

impl Taken {
    /// From the first to the last, in seconds.
    pub fn span(&self) -> f64 {
        let times = || self.arrivals.iter().map(|(_, at)| *at);
        seconds(times().min().unwrap_or(0), times().max().unwrap_or(0))
    }

    pub fn last(&self) -> i64 {
        self.arrivals.iter().map(|(_, at)| *at).max().unwrap_or(0)
    }
}

/// Between two times of [`now`].
#[allow(clippy::cast_precision_loss, reason = "a time")]
pub fn seconds(from: i64, to: i64) -> f64 {
    (to - from) as f64 / 1e9
}

/// The process.
pub fn be() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let taken = Rc::new(RefCell::new(Taken::default()));
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        println!("{}", listener.local_addr().expect("an address").port());
        // Nobody holds the other end of the pipe any more: the suite has ended, in whatever way.
        std::thread::spawn(|| {
            let _ended = std::io::stdin().read(&mut [0; 1]);
            std::process::exit(0);
        });
        while let Ok((stream, _)) = listener.accept().await {
            let _fine_without = stream.set_nodelay(true);
            tokio::task::spawn_local(serve(stream, Rc::clone(&taken)));
        }
    });
    ExitCode::SUCCESS
}

async fn serve(mut stream: TcpStream, taken: Rc<RefCell<Taken>>) {
    let mut buffer = Vec::with_capacity(64 * 1_024);
    while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
        let arrived = now();
        while let Some((head, end)) = whole(&buffer) {
            let answer = answer(&buffer[..head], &buffer[head..end], arrived, &taken);
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
            buffer.drain(..end);
        }
    }
}

/// Where the headers and the body of the first request end, once all of it is there.
fn whole(buffer: &[u8]) -> Option<(usize, usize)> {
    let head = buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&buffer[..head]).ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let end = head + length.unwrap_or(0);
    (buffer.len() >= end).then_some((head, end))
}

fn answer(head: &[u8], body: &[u8], arrived: i64, taken: &RefCell<Taken>) -> String {
    if head.starts_with(b"POST") {
        note(&mut taken.borrow_mut(), head, body, arrived);
        return framed("{}");
    }
    if head.starts_with(b"GET /count") {
        return framed(&taken.borrow().arrivals.len().to_string());
    }
    if head.starts_with(b"GET /take") {
        let all = taken.take();
        return framed(&serde_json::to_string(&all).expect("plain data"));
    }
    framed("{}")
}

fn note(taken: &mut Taken, head: &[u8], body: &[u8], arrived: i64) {
    taken.requests += 1;
    if taken.first.is_none() {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        taken.first = Some((text(head), text(body)));
    }
    let mut rest = body;
    while let Some(at) = rest.windows(MARK.len()).position(|window| window == MARK) {
        rest = &rest[at + MARK.len()..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
        let number = digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        taken.arrivals.push((number, arrived));
    }
}

fn framed(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// The running process, seen from the suite.
pub struct Sink {
    pub port: u16,
    child: Child,
}

impl Sink {
    pub fn start() -> Sink {
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new(program);
        let mut child =
            command.arg(ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("this program starts again");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        stdout.read_line(&mut line).expect("it says its port");
        Sink { port: line.trim().parse().expect("a port"), child }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("the sink listens");
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: sink\r\n\r\n").as_bytes()).await.expect("it reads");
        let mut answer = Vec::new();
        while whole(&answer).is_none() {
            let read = stream.read_buf(&mut answer).await.expect("it answers");
            assert!(read > 0, "the sink broke off");
        }
        let (head, end) = whole(&answer).expect("just seen");
        String::from_utf8_lossy(&answer[head..end]).into_owned()
    }

    pub async fn count(&self) -> usize {
        self.get("/count").await.parse().expect("a number")
    }

    /// All that came since this was last asked.
    pub async fn take(&self) -> Taken {
        serde_json::from_str(&self.get("/take").await).expect("its own data")
    }

    /// Waits until so many came; `None` if that takes longer than `patience`.
    pub async fn wait_for(&self, count: usize, patience: Duration) -> Option<()> {
        let deadline = tokio::time::Instant::now() + patience;
        while self.count().await < count {
            if tokio::time::Instant::now() > deadline {
                return None;
            }
            // Rare enough that the question costs nothing that counts.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}
