//! What callers send who mean harm: each with what becomes of it.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::claw::Claw;
use crate::farm::{Farm, LIMIT, State, bearer};

/// Sends bytes and returns the status line's number; 0 when the connection is closed instead.
async fn raw(farm: &Farm, bytes: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(farm.address).await.unwrap();
    // The edge may close before it has read all.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while !answer.windows(2).any(|two| two == b"\r\n") {
        match timeout(LIMIT, stream.read(&mut piece)).await.expect("it is answered or closed") {
            Ok(0) | Err(_) => return 0,
            Ok(read) => answer.extend_from_slice(&piece[..read]),
        }
    }
    std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_request_that_two_readers_would_read_differently_is_refused() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let (host, token) = (farm.host("a-1"), bearer("a-1"));
    let head = |rest: &str| {
        format!("POST / HTTP/1.1\r\nhost: {host}\r\nauthorization: {token}\r\nconnection: close\r\n{rest}")
    };
    let hidden = format!("GET /hidden HTTP/1.1\r\nhost: {host}\r\n\r\n");
    // Of a length beside chunks the chunks count (RFC 9112, 6.3), and the claw is told of them alone:
    // both read the same.
    let cases: Vec<(&str, String, &[u16])> = vec![
        (
            "length and chunks",
            head(&format!("content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}")),
            &[200, 400],
        ),
        (
            "chunks and length",
            head(&format!("transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n{hidden}")),
            &[200, 400],
        ),
        ("two lengths", head("content-length: 5\r\ncontent-length: 6\r\n\r\nhello!"), &[400]),
        ("a list of lengths", head("content-length: 5, 6\r\n\r\nhello!"), &[400]),
        ("a signed length", head("content-length: +5\r\n\r\nhello"), &[400]),
        ("a length in hex", head("content-length: 0x5\r\n\r\nhello"), &[400]),
        ("a space before the colon", head("transfer-encoding : chunked\r\n\r\n0\r\n\r\n"), &[400]),
        ("a folded header", head("transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n"), &[400]),
        (
            "chunked twice",
            head("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n"),
            &[400],
        ),
        ("another encoding", head("transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), &[400]),
        ("something like chunked", head("transfer-encoding: xchunked\r\n\r\n0\r\n\r\n"), &[400]),
        (
            "a tab before it",
            head("transfer-encoding:\tchunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n"),
            &[200, 400],
        ),
        (
            "a chunk size that overflows",
            head("transfer-encoding: chunked\r\n\r\nffffffffffffffff1\r\nx\r\n0\r\n\r\n"),
            &[400, 502],
        ),
        (
            "a chunk size with a sign",
            head("transfer-encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n"),
            &[400, 502],
        ),
        ("no host", format!("GET / HTTP/1.1\r\nauthorization: {token}\r\n\r\n"), &[400]),
        ("two hosts", format!("GET / HTTP/1.1\r\nhost: {host}\r\nhost: b-1.claws.test\r\n\r\n"), &[400]),
        (
            "another host in the target",
            format!("GET http://b-1.claws.test/ HTTP/1.1\r\nhost: {host}\r\n\r\n"),
            &[400],
        ),
        ("a user in the target", format!("GET http://x@{host}/ HTTP/1.1\r\nhost: {host}\r\n\r\n"), &[400]),
        ("a host that is a path", "GET / HTTP/1.1\r\nhost: a-1.claws.test/../x\r\n\r\n".into(), &[400]),
        ("a name of nobody's", "GET / HTTP/1.1\r\nhost: evil.test\r\n\r\n".into(), &[404]),
        ("an address for a name", format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", farm.address), &[404]),
        (
            "CONNECT",
            format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\nauthorization: {token}\r\n\r\n"),
            &[400, 405],
        ),
        ("TRACE", format!("TRACE / HTTP/1.1\r\nhost: {host}\r\nauthorization: {token}\r\n\r\n"), &[405]),
        ("no HTTP", "hello\r\n\r\n".into(), &[0, 400]),
        ("a newer HTTP", format!("GET / HTTP/3.0\r\nhost: {host}\r\n\r\n"), &[0, 400]),
        // A line may end so (RFC 9112, 2.2); the claw gets two headers, as the edge read them.
        ("a bare line feed in a value", head("x: a\nb: c\r\n\r\n"), &[200]),
        ("a NUL in a value", head("x: a\0b\r\n\r\n"), &[400]),
        ("101 headers", head(&format!("{}\r\n", "x: y\r\n".repeat(101))), &[400, 431]),
        ("a head of 100 KiB", head(&format!("x: {}\r\n\r\n", "y".repeat(100 << 10))), &[400, 431]),
        (
            "an address of 100 KiB",
            format!("GET /{} HTTP/1.1\r\nhost: {host}\r\n\r\n", "y".repeat(100 << 10)),
            &[400, 414, 431],
        ),
    ];
    for (what, request, expected) in &cases {
        let status = raw(&farm, request.as_bytes()).await;
        assert!(expected.contains(&status), "{what}: {status}");
    }
    let targets = claw.targets.lock().unwrap().clone();
    assert!(targets.iter().all(|target| target == "/"), "{targets:?}");
}

#[tokio::test]
async fn a_hundred_thousand_names_of_nobody_cost_nothing_that_stays() {
    let farm = Farm::limited(|limits| limits.requests_per_address = 0).await;
    let claw = Claw::new().await;
    farm.put("a-1", State::Awake, claw.address);
    let before = resident();
    let each = |worker: usize| {
        let address = farm.address;
        async move {
            let stream = TcpStream::connect(address).await.unwrap();
            let (mut read, mut write) = stream.into_split();
            let asks = async move {
                for n in 0..25_000 {
                    let ask = format!("GET / HTTP/1.1\r\nhost: x{worker}-{n}.claws.test\r\n\r\n");
                    write.write_all(ask.as_bytes()).await.unwrap();
                }
                write
            };
            let answers = async move {
                let (mut found, mut kept, mut piece) = (0, Vec::new(), vec![0; 64 << 10]);
                while found < 25_000 {
                    let read = timeout(LIMIT, read.read(&mut piece)).await.expect("it answers").unwrap();
                    assert!(read > 0, "closed after {found}");
                    kept.extend_from_slice(&piece[..read]);
                    let mark = b"HTTP/1.1 401";
                    found += kept.windows(mark.len()).filter(|it| it == mark).count();
                    kept.drain(..kept.len().saturating_sub(mark.len() - 1));
                }
                found
            };
            let (_write, found) = tokio::join!(asks, answers);
            found
        }
    };
    let found: usize = futures::future::join_all((0..4).map(each)).await.into_iter().sum();
    assert_eq!(found, 100_000);
    let grown = resident().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
    assert_eq!((farm.wakes(), farm.looks(), claw.seen()), (0, 0, 0));
    assert_eq!(farm.get("a-1", "/").await.status, 200);
}

/// The memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
