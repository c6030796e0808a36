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

/// Sends bytes that say that the connection is to end, and returns all that comes.
async fn raw_answer(farm: &Farm, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(farm.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("it ends");
    String::from_utf8_lossy(&answer).into_owned()
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
async fn no_spelling_of_a_closed_path_gets_in() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let (host, token) = (farm.host("a-1"), bearer("a-1"));
    for path in [
        "/api/v1/admin",
        "/api/v1/admin/rpc?x=1",
        "/API/V1/ADMIN/rpc",
        "/api/v1/%61dmin/rpc",
        "/api/v1/%2561dmin/rpc",
        "/api%2fv1%2fadmin",
        "//api/v1/admin",
        "/api//v1/./admin",
        "/x/../api/v1/admin",
        "/x/%2e%2e/api/v1/admin",
        "/api/v1;x=y/admin;z",
        "/api\\v1\\admin",
        "/__openclaw__/cap/x/api/v1/admin/rpc",
        "http://a-1.claws.test/api/v1/admin",
    ] {
        let ask = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: {token}\r\ncontent-length: 0\r\n\r\n"
        );
        let status = raw(&farm, ask.as_bytes()).await;
        assert!(matches!(status, 404 | 400), "{path}: {status}");
    }
    assert_eq!(claw.seen(), 0);
}

#[tokio::test]
async fn what_ends_at_the_edge_does_not_come_to_the_claw() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    farm.put("b-1", State::Awake, claw.address);
    let (host, token) = (farm.host("a-1"), bearer("a-1"));
    let last = "connection: close\r\n";
    let chunked = |how: &str, body: &str| {
        format!(
            "POST / HTTP/1.1\r\nhost: {host}\r\nauthorization: {token}\r\n{how}transfer-encoding: chunked\r\n\r\n{body}"
        )
    };
    // An extension of a chunk is for the next one only (RFC 9112, 7.1.1); so is a trailer.
    let whole = chunked(last, "5;secret=\"x\"\r\nhello\r\n0\r\nx-trailer: y\r\n\r\n");
    let answer = raw_answer(&farm, whole.as_bytes()).await;
    assert!(
        answer.contains("\"body\":\"hello\"") && !answer.contains("secret") && !answer.contains("x-trailer"),
        "{answer}"
    );
    let seen = claw.seen();
    // Half a chunk, and its sender hangs up: the claw hears of no end.
    let mut stream = TcpStream::connect(farm.address).await.unwrap();
    stream.write_all(chunked("", "ff\r\nhalf").as_bytes()).await.unwrap();
    drop(stream);
    // Another claw's token is nobody's here.
    let wrong = format!("GET / HTTP/1.1\r\nhost: {host}\r\nauthorization: {}\r\n\r\n", bearer("b-1"));
    assert_eq!(raw(&farm, wrong.as_bytes()).await, 401);
    // One that takes two requests for one body sees the second, and its sender the answer to it.
    let two = format!("{}GET /second HTTP/1.1\r\nhost: {host}\r\n{last}\r\n", chunked("", "0\r\n\r\n"));
    raw_answer(&farm, two.as_bytes()).await;
    assert!(
        !claw.targets.lock().unwrap().iter().any(|it| it == "/second"),
        "without a token it is a stranger's"
    );
    assert!(claw.seen() <= seen + 2);
}

/// A frame of HTTP/2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Headers as they are, each literal and new (RFC 7541, 6.2.2).
fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// What becomes of a request over HTTP/2 that no client would send: `reset`, `gone`, `closed`, or
/// the first byte of the answer's headers.
async fn over_http_2(farm: &Farm, headers: &[(&str, &str)]) -> String {
    const HEADERS: u8 = 1;
    const RESET: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    let mut stream = TcpStream::connect(farm.address).await.unwrap();
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(SETTINGS, 0, 0, &[]));
    // The end of the headers and of the request.
    sent.extend(frame(HEADERS, 0x5, 1, &block(headers)));
    stream.write_all(&sent).await.unwrap();
    loop {
        let mut head = [0; 9];
        if timeout(LIMIT, stream.read_exact(&mut head)).await.expect("it answers").is_err() {
            return "closed".into();
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        timeout(LIMIT, stream.read_exact(&mut payload)).await.expect("it goes on").unwrap();
        match head[3] {
            HEADERS => return format!("{:#x}", payload[0]),
            RESET => return "reset".into(),
            GOAWAY => return "gone".into(),
            _ => {}
        }
    }
}

#[tokio::test]
async fn http_2_that_would_be_another_request_in_http_1_is_refused() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let (host, token) = (farm.host("a-1"), bearer("a-1"));
    let usual = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", host.as_str()),
        ("authorization", token.as_str()),
    ];
    let with = |more: &[(&'static str, &'static str)]| -> Vec<(&str, &str)> {
        usual.iter().copied().chain(more.iter().copied()).collect()
    };
    // 0x88 is 200, 0x8c is 400 (RFC 7541, A).
    assert_eq!(over_http_2(&farm, &with(&[])).await, "0x88", "this is how it would be well");
    assert_eq!(claw.seen(), 1);
    for more in [
        &[("transfer-encoding", "chunked")][..],
        &[("connection", "keep-alive")],
        &[("upgrade", "h2c")],
        &[("te", "gzip")],
        &[("host", "b-1.claws.test")],
        &[("host", "b-1.claws.test"), ("host", "c-1.claws.test")],
        &[("content-length", "10")],
        &[("content-length", "0"), ("content-length", "5")],
        &[("X-Upper", "x")],
        &[("x", "a\r\nhost: b-1.claws.test")],
        &[("x", "a\0b")],
        &[("x y", "a")],
        &[(":path", "/again")],
        &[(":authority", "b-1.claws.test")],
        &[(":other", "x")],
    ] {
        let what = over_http_2(&farm, &with(more)).await;
        assert!(["reset", "gone", "closed", "0x8c"].contains(&what.as_str()), "{more:?}: {what}");
    }
    let without =
        |name: &str| -> Vec<(&str, &str)> { usual.iter().copied().filter(|it| it.0 != name).collect() };
    for name in [":method", ":path", ":authority"] {
        let what = over_http_2(&farm, &without(name)).await;
        assert!(["reset", "gone", "closed", "0x8c"].contains(&what.as_str()), "no {name}: {what}");
    }
    assert_eq!(claw.seen(), 1, "the claw sees none of it");
}

#[tokio::test]
async fn a_hundred_thousand_names_of_nobody_cost_nothing_that_stays() {
    let farm = Farm::limited(|limits| {
        limits.requests_per_address = 0;
        // A machine that has much else to do is no slow caller.
        limits.head = LIMIT;
    })
    .await;
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
                    let mark = "HTTP/1.1 401";
                    found += String::from_utf8_lossy(&kept).matches(mark).count();
                    kept.drain(..kept.len().saturating_sub(mark.len() - 1));
                }
                found
            };
            let (_write, found) = tokio::join!(asks, answers);
            found
        }
    };
    // Each in a task of its own: one that always has something to do keeps no other from its turn.
    let all = futures::future::join_all((0..4).map(|worker| tokio::spawn(each(worker)))).await;
    let found: usize = all.into_iter().map(Result::unwrap).sum();
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
