//! A TCP proxy in this process that fails on demand: between the daemon and its database, or an endpoint.
//!
//! What it does is a matter of state, never of time: a test switches it, and looks at what becomes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They go through.
    Pass,
    /// New connections are reset at once; those that stand go on.
    Refuse,
    /// Nothing goes through in either direction, not even the end of a connection. New ones are taken, and hang.
    Stall,
    /// … in one direction only: what the server says is lost.
    StallAnswers,
    /// Everything comes so much later.
    Delay(Duration),
}

#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    target: u16,
    /// Connections with a smaller number are reset.
    cut_below: usize,
    /// Connections with a smaller number are silent for ever.
    stranded_below: usize,
    /// After so many answers more, all that stand are.
    strand_after: Option<usize>,
}

/// The proxy. It ends, with its connections, when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    state: Arc<watch::Sender<State>>,
    opened: Arc<AtomicUsize>,
    cut: Arc<AtomicUsize>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Starts one before a port of this host.
    pub async fn start(target: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let state = State { mode: Mode::Pass, target, cut_below: 0, stranded_below: 0, strand_after: None };
        let state = Arc::new(watch::Sender::new(state));
        let (opened, cut) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state), Arc::clone(&opened), Arc::clone(&cut)));
        Proxy { port, state, opened, cut, accepting }
    }

    /// From now on.
    pub fn mode(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }

    /// Mends everything. What waited in a stall goes on, as it does where packets are sent again.
    pub fn pass(&self) {
        self.mode(Mode::Pass);
    }

    /// Resets every connection that stands; new ones are taken as the mode has it.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cut_below = self.opened());
    }

    /// Every connection that stands is silent for ever, as when a firewall has forgotten it; new ones pass.
    pub fn strand(&self) {
        self.state.send_modify(|state| {
            state.stranded_below = self.opened();
            state.mode = Mode::Pass;
        });
    }

    /// … but only after so many more answers of the server: the fault falls into a certain step of a conversation.
    pub fn strand_after(&self, answers: usize) {
        self.state.send_modify(|state| state.strand_after = Some(answers));
    }

    /// How many connections are silent for ever, or were when they ended.
    pub fn stranded(&self) -> usize {
        self.state.borrow().stranded_below
    }

    /// New connections go to another port.
    pub fn retarget(&self, target: u16) {
        self.state.send_modify(|state| state.target = target);
    }

    /// How many connections were taken, refused ones included.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    /// How many connections were reset, those that were refused included.
    pub fn reset(&self) -> usize {
        self.cut.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<watch::Sender<State>>, opened: Arc<AtomicUsize>, cut: Arc<AtomicUsize>) {
    // Its connections end with it.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let number = opened.fetch_add(1, Ordering::SeqCst);
        let link = Link { number, state: state.subscribe(), switch: Arc::clone(&state) };
        let cut = Arc::clone(&cut);
        connections.spawn(async move {
            if connect(client, link).await {
                cut.fetch_add(1, Ordering::SeqCst);
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// One connection, to its end. Gives whether it was reset.
async fn connect(mut client: TcpStream, mut link: Link) -> bool {
    let mut other = link.clone();
    link.until(|link| link.passes(Direction::Asking) || link.is_cut() || link.refuses()).await;
    let server = if link.refuses() || link.is_cut() { None } else { TcpStream::connect(("127.0.0.1", link.target())).await.ok() };
    let Some(mut server) = server else {
        reset(&client);
        return true;
    };
    // The database's client waits for answers to small packets.
    let _best_effort = (client.set_nodelay(true), server.set_nodelay(true));
    let was_cut = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (asking, answering) = (link.clone(), link.clone());
        tokio::select! {
            () = async {
                tokio::join!(
                    pump(from_client, to_server, asking, Direction::Asking),
                    pump(from_server, to_client, answering, Direction::Answering),
                );
            } => false,
            () = other.until(Link::is_cut) => true,
        }
    };
    if was_cut {
        reset(&client);
        reset(&server);
    }
    was_cut
}

/// The connection is answered with RST when it is dropped, and not with an orderly end.
fn reset(stream: &TcpStream) {
    stream.set_zero_linger().expect("a socket");
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Asking,
    Answering,
}

/// A connection's view of the state.
#[derive(Clone, Debug)]
struct Link {
    number: usize,
    state: watch::Receiver<State>,
    switch: Arc<watch::Sender<State>>,
}

impl Link {
    fn target(&self) -> u16 {
        self.state.borrow().target
    }

    fn is_cut(&self) -> bool {
        self.number < self.state.borrow().cut_below
    }

    fn refuses(&self) -> bool {
        self.state.borrow().mode == Mode::Refuse
    }

    fn passes(&self, direction: Direction) -> bool {
        let state = *self.state.borrow();
        self.number >= state.stranded_below
            && match state.mode {
                Mode::Stall => false,
                Mode::StallAnswers => direction == Direction::Asking,
                Mode::Pass | Mode::Refuse | Mode::Delay(_) => true,
            }
    }

    fn delay(&self) -> Duration {
        match self.state.borrow().mode {
            Mode::Delay(delay) => delay,
            _ => Duration::ZERO,
        }
    }

    /// An answer is about to go through; it may be the one that does not.
    fn answers(&self) {
        self.switch.send_if_modified(|state| match state.strand_after {
            Some(0) => {
                state.strand_after = None;
                state.stranded_below = state.stranded_below.max(self.number + 1);
                true
            }
            Some(left) => {
                state.strand_after = Some(left - 1);
                false
            }
            None => false,
        });
    }

    /// Waits for a state; for ever, where the proxy is gone.
    async fn until(&mut self, condition: impl Fn(&Link) -> bool) {
        loop {
            self.state.mark_unchanged();
            if condition(self) {
                return;
            }
            if self.state.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Forwards one direction to its end; a connection that breaks by itself ends as if it had been closed.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut link: Link, direction: Direction) {
    let mut other = link.clone();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        link.until(|link| link.passes(direction)).await;
        let read = tokio::select! {
            biased;
            () = other.until(|link| !link.passes(direction)) => continue,
            read = from.read(&mut buffer) => read.unwrap_or(0),
        };
        let delay = link.delay();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if read > 0 && direction == Direction::Answering {
            link.answers();
        }
        // It may have been switched meanwhile.
        link.until(|link| link.passes(direction)).await;
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            let _gone_already = to.shutdown().await;
            return;
        }
    }
}
