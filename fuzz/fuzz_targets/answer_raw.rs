//! The raw bytes of an HTTP answer, served over loopback to the real client.
//!
//! An input that begins with `!` leaves the connection open after its last byte, so that only the time ends it.
#![no_main]

use std::cell::OnceCell;
use std::time::{Duration, Instant};

use items_listen::config::{Pusher, Secret};
use items_listen::pusher::classify::{Answer, classify};
use items_listen::pusher::client::Client;
use libfuzzer_sys::{Corpus, fuzz_target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

const TIMEOUT: Duration = Duration::from_millis(20);
/// What a busy machine may add to it.
const MARGIN: Duration = Duration::from_secs(2);
/// 4,096 bytes are read; each that is no UTF-8 becomes a replacement character of three.
const BODY_BYTES_MAX: usize = 3 * 4_096;
const REQUEST: &str = r#"{"name":"n","channels":["c"],"data":"{}"}"#;

struct Stage {
    runtime: Runtime,
    listener: TcpListener,
    client: Client,
}

thread_local! {
    static STAGE: OnceCell<Stage> = const { OnceCell::new() };
}

fuzz_target!(|bytes: &[u8]| -> Corpus {
    STAGE.with(|stage| {
        let Stage { runtime, listener, client } = stage.get_or_init(set_up);
        let started = Instant::now();
        let answer = runtime.block_on(async {
            let answer = client.post("events", REQUEST.to_owned(), b"1");
            tokio::pin!(answer);
            // Every request comes on a connection of its own: the one before was closed by both sides.
            tokio::select! {
                answer = &mut answer => answer,
                never = serve(listener, bytes) => match never {},
            }
        });
        assert!(started.elapsed() < TIMEOUT + MARGIN, "it took {:?}", started.elapsed());
        let _verdict = classify(&answer);
        if let Answer::Http { status, body, .. } = answer {
            assert!((100..1_000).contains(&status), "status {status}");
            assert!(body.len() <= BODY_BYTES_MAX, "{} bytes of body", body.len());
        }
    });
    Corpus::Keep
});

fn set_up() -> Stage {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port of loopback");
    let address = listener.local_addr().expect("the port has a number");
    let pusher = Pusher {
        url: url::Url::parse(&format!("http://{address}")).expect("a URL"),
        app_id: "app".to_owned(),
        key: "key".to_owned(),
        secret: Secret::new("secret"),
        sign_path: false,
        issuers: Vec::new(),
    };
    let client = Client::new(&pusher, TIMEOUT).expect("a client");
    Stage { runtime, listener, client }
}

/// Answers every connection with these bytes, for as long as somebody waits for it.
async fn serve(listener: &TcpListener, bytes: &[u8]) -> std::convert::Infallible {
    let (bytes, stays) = bytes.strip_prefix(b"!").map_or((bytes, false), |bytes| (bytes, true));
    loop {
        let Ok((mut connection, _)) = listener.accept().await else { continue };
        let mut request = Vec::new();
        while !request.ends_with(REQUEST.as_bytes()) && connection.read_buf(&mut request).await.is_ok_and(|read| read > 0) {}
        // The client may have had enough, and closed: that is its right.
        let _sent = connection.write_all(bytes).await;
        if !stays {
            let _closed = connection.shutdown().await;
        }
        while connection.read_buf(&mut request).await.is_ok_and(|read| read > 0) {}
    }
}
