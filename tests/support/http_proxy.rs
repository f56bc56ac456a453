//! A small HTTP proxy: CONNECT, and requests with a whole address. It knows every name: all of them are this host.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// It ends, with its connections, when this is dropped.
pub struct HttpProxy {
    pub port: u16,
    state: Arc<Mutex<State>>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// What `Proxy-Authorization` has to be.
    credentials: Option<String>,
    /// Answers every request with this status.
    refuse: Option<u16>,
    asked: Vec<String>,
    /// Cancelled when what stands is to end.
    standing: CancellationToken,
}

impl HttpProxy {
    pub async fn start() -> HttpProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::<Mutex<State>>::default();
        let serving = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&serving);
                let standing = state.lock().expect("no panic").standing.clone();
                connections.spawn(async move {
                    // Who turns away is what is being tested.
                    let _ended = standing.run_until_cancelled(serve(client, &state)).await;
                });
            }
        });
        HttpProxy { port, state, accepting }
    }

    /// From now on only for this user and password.
    pub fn protect(&self, user: &str, password: &str) {
        let token = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        self.state.lock().expect("no panic").credentials = Some(format!("basic {token}"));
    }

    /// From now on every request is refused with this status, or none. What stands is ended: a tunnel is not asked about again.
    pub fn refuse(&self, status: Option<u16>) {
        let mut state = self.state.lock().expect("no panic");
        state.refuse = status;
        std::mem::take(&mut state.standing).cancel();
    }

    /// The first lines of the requests that came.
    pub fn asked(&self) -> Vec<String> {
        self.state.lock().expect("no panic").asked.clone()
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut client: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let first = text.lines().next().unwrap_or_default().to_owned();
    let refused = {
        let mut state = state.lock().expect("no panic");
        state.asked.push(first.clone());
        let shown = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("proxy-authorization").then(|| value.trim().to_owned())
        });
        let fits = state.credentials.as_ref().is_none_or(|wanted| {
            shown.is_some_and(|shown| shown.split_at(6).1 == wanted.split_at(6).1 && shown.to_lowercase().starts_with("basic "))
        });
        state.refuse.or((!fits).then_some(407))
    };
    if let Some(status) = refused {
        let answer = format!("HTTP/1.1 {status} Refused\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return client.write_all(answer.as_bytes()).await;
    }
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let place = target.trim_start_matches("http://").split('/').next().unwrap_or_default();
    let port = place.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(80);
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    if method == "CONNECT" {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    } else {
        // A server understands a whole address, too.
        server.write_all(&head).await?;
    }
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
}
