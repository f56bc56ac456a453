//! Whoever says too much, too little, or too slowly keeps nobody else out.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

use super::{ROUTES, ask, connect, hear, say};
use crate::support::eventually;
use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_or_no_question_is_refused_and_nothing_changes() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let ask = |line: &str, headers: &str| {
        format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n").into_bytes()
    };
    let filler = |name: &str, bytes: usize| format!("{name}: {}\r\n", "x".repeat(bytes));
    let many: String = (0..65).map(|number| format!("X-{number}: x\r\n")).collect();
    let long = |bytes: usize| format!("GET /{}", "x".repeat(bytes));
    for (what, bytes, status) in [
        ("an ordinary one", ask("GET /healthz", ""), Some(200)),
        ("many headers", ask("GET /healthz", &many), Some(431)),
        ("a long header", ask("GET /healthz", &filler("X", 40_000)), Some(431)),
        (
            "headers without end",
            [ask("GET /healthz", ""), filler("X", 4_000_000).into_bytes()].concat()[..3_000_000].to_vec(),
            Some(200),
        ),
        ("a header without end", format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(3_000_000)).into_bytes(), Some(431)),
        ("a long address", ask(&long(3_000), ""), Some(414)),
        ("a longer address", ask(&long(100_000), ""), Some(431)),
        ("a long query", ask(&format!("GET /metrics?{}", "x".repeat(3_000)), ""), Some(414)),
        ("HTTP/1.0", b"GET /healthz HTTP/1.0\r\n\r\n".to_vec(), Some(200)),
        ("HTTP/0.9", b"GET /healthz\r\n\r\n".to_vec(), Some(400)),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(), None),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\r\n\r\n".to_vec(), Some(400)),
        ("garbage", b"\0\xff\xfe garbage \r\n\r\n".to_vec(), Some(400)),
        ("a header with a zero", ask("GET /healthz", "X: a\0b\r\n"), Some(400)),
        ("a body that is announced and never comes", ask("GET /healthz", "Content-Length: 1000000000\r\n"), Some(200)),
        ("an unknown path", ask("GET /../../etc/passwd", ""), Some(404)),
    ] {
        let answer = say(connect(&daemon).await, &bytes, None).await;
        assert_eq!(answer.as_ref().map(|answer| answer.status), status, "{what}: {answer:?}");
    }
    // Half of a connection is enough to be answered; the other half may be closed before.
    for path in ["/healthz", "/api/status"] {
        let mut half = connect(&daemon).await;
        half.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.expect("asks");
        half.shutdown().await.expect("half closed");
        let heard = hear(&mut half, None).await;
        assert!(heard.starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&heard));
    }
    let before: String = database.one("SELECT string_agg(w::text, ';') FROM items_listen.watch w").await;
    for path in ROUTES {
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"] {
            let request = ask(&format!("{method} {path}"), "Origin: http://localhost\r\nContent-Length: 4\r\n");
            let answer = say(connect(&daemon).await, &[request, b"body".to_vec()].concat(), None).await;
            let answer = answer.unwrap_or_else(|| panic!("{method} {path}: no answer"));
            assert_eq!((answer.status, answer.header("allow")), (405, vec!["GET, HEAD"]), "{method} {path}: {answer:?}");
        }
        let answer = self::ask(&daemon, path, "Origin: http://localhost\r\n").await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.head.contains("access-control"), "no page of another site may read {path}: {}", answer.head);
        let head = say(connect(&daemon).await, &ask(&format!("HEAD {path}"), ""), None).await.expect("an answer");
        assert_eq!((head.status, head.body.as_str()), (200, ""), "HEAD {path}");
    }
    let after: String = database.one("SELECT string_agg(w::text, ';') FROM items_listen.watch w").await;
    assert_eq!(before, after);
    assert_eq!(daemon.lines("\"error\""), 0, "{:?}", daemon.log());
}

/// A request that comes a byte at a time and never ends.
async fn trickle(mut stream: TcpStream) {
    let bytes = format!("GET /{} HTTP/1.1\r\n", "x".repeat(100_000));
    for byte in bytes.bytes() {
        if stream.write_all(&[byte]).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_that_say_nothing_or_speak_slowly_keep_nobody_out() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    // Whoever watches the page stays connected all the while.
    let mut viewer = connect(&daemon).await;
    viewer.write_all(b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("asks");
    assert!(String::from_utf8_lossy(&hear(&mut viewer, Some("\n\n")).await).contains("200 OK"));
    let (mut idle, mut slow) = (Vec::new(), tokio::task::JoinSet::new());
    for number in 0..2_000 {
        let stream = connect(&daemon).await;
        match number % 3 {
            0 => drop(slow.spawn(trickle(stream))),
            1 => idle.push(stream),
            // Asked once, and kept.
            _ => {
                let mut stream = stream;
                stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("asks");
                idle.push(stream);
            }
        }
        if number % 100 == 99 {
            for path in ["/readyz", "/healthz", "/metrics"] {
                assert_eq!(daemon.get(path).await.map(|(status, _)| status), Some(200), "{path} beside {number} others");
            }
        }
    }
    assert!(String::from_utf8_lossy(&hear(&mut viewer, Some("\n\n")).await).contains("data: "), "whoever is answered stays");
    // So many of theirs are kept, whatever they do; those that said nothing for longest were sent away.
    let (_, metrics) = daemon.get("/metrics").await.expect("metrics");
    let files = metrics.lines().find_map(|line| line.strip_prefix("process_open_fds ")).expect("open files");
    let files: f64 = files.parse().expect("a number");
    assert!((1.0..350.0).contains(&files), "{files} open files");
    let ended = hear(&mut idle[0], None).await;
    assert!(ended.is_empty(), "the first that said nothing has ended");
    // Deliveries are not held up by it either.
    insert(&database, 1, 20).await;
    receiver.wait_for(1).await;
    // And all of them end by themselves.
    for mut stream in idle.into_iter().rev().take(3) {
        hear(&mut stream, None).await;
    }
    slow.abort_all();
}

/// The server's side of a connection from this port, as the kernel has it: its state and whether it is still a process's.
fn is_established(from: u16, to: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = |field: &str| u16::from_str_radix(field.rsplit(':').next().unwrap_or_default(), 16).unwrap_or(0);
        port(fields[1]) == to && port(fields[2]) == from && fields[3] == "01"
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_is_let_go() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    daemon.start().await;
    let address: std::net::SocketAddr = daemon.address().expect("it listens").parse().expect("an address");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("a small window");
    let mut stream = socket.connect(address).await.expect("connects");
    let port = stream.local_addr().expect("bound").port();
    // Far more than the kernel keeps for whoever does not read. What does not fit into our own send buffer waits.
    let asked = 2_000;
    let (mut read, mut write) = stream.split();
    let request = b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(asked);
    let send = async {
        let _refused = write.write_all(&request).await;
        std::future::pending::<()>().await;
    };
    let gone = eventually("the daemon has given it up", async || (!is_established(port, address.port())).then_some(()));
    tokio::select! {
        () = send => {}
        () = gone => {}
    }
    let heard = hear(&mut read, None).await;
    let answers = String::from_utf8_lossy(&heard).matches("HTTP/1.1 200").count();
    assert!((1..asked).contains(&answers), "{answers} answers");
    assert_eq!(daemon.get("/readyz").await.map(|(status, _)| status), Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_for_another_file_it_waits_and_goes_on() {
    let (database, receiver) = (shop().await, Receiver::start().await);
    let mut daemon = daemon(&config(&database, &receiver, ORDERS));
    // A process that may open few files.
    let script = daemon.file.with_extension("sh");
    std::fs::write(&script, format!("#!/bin/sh\nulimit -n 60\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_items-listen")))
        .expect("written");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it may be run");
    daemon.binary.clone_from(&script);
    daemon.env("ITEMS_LISTEN_LOG", "debug");
    daemon.start().await;
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(connect(&daemon).await);
    }
    daemon.logged("HTTP connections cannot be taken; trying again").await;
    // It waits for nobody's time to run out: those that say nothing are sent away for the others.
    daemon.logged("HTTP: a connection without a request gives way").await;
    eventually("whoever asks is answered", async || daemon.get("/readyz").await.filter(|(status, _)| *status == 200)).await;
    drop(crowd);
    eventually("it goes on", async || {
        let request = b"GET /api/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        say(connect(&daemon).await, request, None).await.filter(|answer| answer.status == 200)
    })
    .await;
    assert!(daemon.lines("HTTP connections cannot be taken") < 10, "it is said now and then, not for each");
    assert!(!daemon.has_ended());
    let _removed = std::fs::remove_file(script);
}
