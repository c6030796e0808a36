//! How much one caller, and one claw, may have.

use std::time::Duration;

use bytes::Bytes;
use clawfarm_model::ClawId;
use http::StatusCode;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::claw::Claw;
use crate::farm::{Answer, Farm, LIMIT, State, bearer};

/// Reads until the other side ends the connection; what came.
async fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    // A connection that is cut with something unread is reset.
    let _ = timeout(LIMIT, stream.read_to_end(&mut read)).await.expect("the edge ends it");
    read
}

async fn until_idle(farm: &Farm, id: &str) {
    let id = ClawId::new(id).unwrap();
    let idle = async {
        while farm.edge.load(&id).is_some_and(|load| load.requests + load.sockets > 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, idle).await.expect("nothing is held any more");
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_again() {
    let farm = Farm::limited(|limits| limits.requests_per_address = 1).await;
    let claw = Claw::new().await;
    farm.put("a-1", State::Awake, claw.address);
    let mut refused = None;
    for _ in 0..1000 {
        let answer = farm.get("a-1", "/").await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("a thousand are too many");
    assert_eq!((refused.status, refused.json()["code"].as_str()), (429, Some("overloaded")));
    assert!(refused.headers.contains_key("x-request-id"));
    let after: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    tokio::time::sleep(Duration::from_secs(after)).await;
    assert_eq!(farm.get("a-1", "/").await.status, 200);
}

#[tokio::test]
async fn a_claw_is_not_asked_more_than_it_may_be() {
    let farm = Farm::limited(|limits| {
        limits.at_once_per_claw = 2;
        limits.websockets_per_claw = 1;
    })
    .await;
    let claw = Claw::new().await;
    farm.put("a-1", State::Awake, claw.address);
    farm.put("b-1", State::Awake, claw.address);
    let events = |id: &str| {
        let request = farm.request("GET", id, "/sse").header("authorization", bearer(id));
        farm.ask(request.body(Full::default()).unwrap())
    };
    let held = [events("a-1").await, events("a-1").await];
    let third = Answer::of(events("a-1").await).await;
    assert_eq!(third.status, 429);
    assert!(third.headers.contains_key("retry-after"));
    assert_eq!(events("b-1").await.status(), 200, "another claw's places are its own");
    let socket = || {
        let request = farm.request("GET", "a-1", "/ws").header("authorization", bearer("a-1"));
        let request = request.header("connection", "Upgrade").header("upgrade", "websocket");
        let request = request.header("sec-websocket-version", "13");
        farm.ask(
            request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==").body(Full::default()).unwrap(),
        )
    };
    let mut first = socket().await;
    assert_eq!(first.status(), 101, "beside the requests");
    let open = hyper::upgrade::on(&mut first).await.unwrap();
    assert_eq!(socket().await.status(), 429);
    drop((open, held));
    until_idle(&farm, "a-1").await;
    assert_eq!(
        (farm.get("a-1", "/").await.status, socket().await.status()),
        (200, StatusCode::SWITCHING_PROTOCOLS)
    );
}

#[tokio::test]
async fn strangers_messages_take_no_place_of_the_claw_s_people() {
    let farm = Farm::limited(|limits| {
        limits.at_once_per_claw = 1;
        limits.messages_per_claw = 2;
    })
    .await;
    let claw = Claw::new().await;
    farm.put("a-1", State::Awake, claw.address);
    let begun = format!("POST /hooks/x HTTP/1.1\r\nhost: {}\r\ncontent-length: 9\r\n\r\na", farm.host("a-1"));
    let mut strangers = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(farm.address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        strangers.push(stream);
    }
    let message = async |wanted: bool| {
        loop {
            let request = farm.request("POST", "a-1", "/hooks/x").body(Full::from("whole")).unwrap();
            if (farm.ask(request).await.status() == 429) == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, message(true)).await.expect("both are under way");
    assert_eq!(farm.get("a-1", "/").await.status, 200, "its people's place is free");
    let proven = farm.request("POST", "a-1", "/hooks/x").header("authorization", "Bearer hook");
    let answer = farm.ask(proven.body(Full::from("whole")).unwrap()).await;
    assert_eq!(answer.status(), 200, "so are those of who has shown who it is");
    drop(strangers);
    timeout(LIMIT, message(false)).await.expect("the places are free again");
}

#[tokio::test]
async fn an_address_s_unfinished_messages_leave_room_for_others() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    farm.put("b-1", State::Awake, claw.address);
    let message = |id: &str, length: usize| {
        let host = farm.host(id);
        format!("POST /hooks/x HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n\r\nabc")
    };
    // The status of a whole message.
    let status = async |mut stream: TcpStream| {
        stream.write_all(message("b-1", 3).as_bytes()).await.unwrap();
        let mut head = [0; 12];
        timeout(LIMIT, stream.read_exact(&mut head)).await.expect("it is answered").unwrap();
        String::from_utf8(head.to_vec()).unwrap()
    };
    let mut strangers = Vec::new();
    let full = async {
        while status(TcpStream::connect(farm.address).await.unwrap()).await != "HTTP/1.1 429" {
            // Far fewer than all that are read at once (64).
            if strangers.len() == 24 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let mut stream = TcpStream::connect(farm.address).await.unwrap();
            stream.write_all(message("a-1", 9).as_bytes()).await.unwrap();
            strangers.push(stream);
        }
    };
    timeout(LIMIT, full).await.expect("an address has its share");
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let other = socket.connect(farm.address).await.unwrap();
    assert_ne!(status(other).await, "HTTP/1.1 429", "another one has its own");
}

#[tokio::test]
async fn who_lets_nothing_come_over_http2_holds_no_claw() {
    let farm = Farm::limited(|limits| limits.silence = Duration::from_secs(1)).await;
    let claw = Claw::new().await;
    farm.put("a-1", State::Awake, claw.address);
    let stream = TcpStream::connect(farm.address).await.unwrap();
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(format!("http://{}/big", farm.host("a-1")));
    let request = request.header("authorization", bearer("a-1")).body(Full::<Bytes>::default()).unwrap();
    let answer = timeout(LIMIT, sender.send_request(request)).await.expect("it begins").unwrap();
    assert_eq!(answer.status(), 200);
    // Its connection is open, and answers pings; only what it asked for is not taken.
    until_idle(&farm, "a-1").await;
    assert!(!sender.is_closed());
    assert!(timeout(LIMIT, answer.into_body().collect()).await.expect("it ends").is_err());
}

#[tokio::test]
async fn an_address_has_so_many_connections() {
    let farm = Farm::limited(|limits| limits.connections_per_address = 2).await;
    let ask = b"GET /healthz HTTP/1.1\r\nhost: claws.test\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(farm.address).await.unwrap();
        stream.write_all(ask).await.unwrap();
        // It is counted when it answers.
        timeout(LIMIT, stream.read_u8()).await.expect("it answers").unwrap();
        held.push(stream);
    }
    let mut third = TcpStream::connect(farm.address).await.unwrap();
    let _ = third.write_all(ask).await;
    assert_eq!(until_closed(&mut third).await, b"");
    drop(held);
    let again = async {
        loop {
            let mut stream = TcpStream::connect(farm.address).await.unwrap();
            let _ = stream.write_all(ask).await;
            if stream.read_u8().await.is_ok() {
                return;
            }
        }
    };
    timeout(LIMIT, again).await.expect("the places are free again");
}

#[tokio::test]
async fn a_head_that_does_not_end_is_not_waited_for() {
    let farm = Farm::limited(|limits| limits.head = Duration::from_secs(1)).await;
    for begun in [&b""[..], b"G", b"GET / HTTP/1.1\r\nhost: a-1.claws.te", b"PRI * HTTP/2.0\r\n\r\nSM"] {
        let mut stream = TcpStream::connect(farm.address).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let answer = until_closed(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{}", answer.escape_ascii());
    }
    // One that comes letter by letter has no more time.
    let mut stream = TcpStream::connect(farm.address).await.unwrap();
    let (mut read, mut write) = stream.split();
    let drip = async {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let mut rest = Vec::new();
    tokio::select! {
        () = drip => {}
        ended = timeout(LIMIT, read.read_to_end(&mut rest)) => { let _ = ended.expect("the edge ends it"); }
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_and_an_answer_that_is_not_taken_are_broken_off() {
    let farm = Farm::limited(|limits| limits.silence = Duration::from_secs(1)).await;
    let claw = Claw::new().await;
    farm.put("a-1", State::Awake, claw.address);
    let head = |method: &str, path: &str, more: &str| {
        let (host, token) = (farm.host("a-1"), bearer("a-1"));
        format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: {token}\r\n{more}\r\n")
    };
    let mut sends = TcpStream::connect(farm.address).await.unwrap();
    sends.write_all(head("POST", "/", "content-length: 100\r\n").as_bytes()).await.unwrap();
    sends.write_all(b"a part").await.unwrap();
    let answer = until_closed(&mut sends).await;
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", answer.escape_ascii());
    // 64 MiB are more than all buffers on the way.
    let mut takes = TcpStream::connect(farm.address).await.unwrap();
    takes.write_all(head("GET", "/big", "").as_bytes()).await.unwrap();
    timeout(LIMIT, takes.read_u8()).await.expect("it begins").unwrap();
    until_idle(&farm, "a-1").await;
    let rest = until_closed(&mut takes).await;
    assert!(rest.len() < 64 << 20, "{}", rest.len());
    // A claw that thinks is no silent caller.
    let mut waits = TcpStream::connect(farm.address).await.unwrap();
    waits
        .write_all(head("POST", "/read", "content-length: 5\r\nconnection: close\r\n").as_bytes())
        .await
        .unwrap();
    waits.write_all(b"whole").await.unwrap();
    timeout(LIMIT, claw.reading.notified()).await.expect("it was asked");
    tokio::time::sleep(Duration::from_secs(2)).await;
    claw.say.add_permits(1);
    let answer = until_closed(&mut waits).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
}

#[tokio::test]
async fn tokens_can_t_be_tried_out_at_the_door() {
    let farm = Farm::limited(|limits| limits.sign_ins_per_address = 3).await;
    let base = format!("claws.test:{}", farm.address.port());
    let attempt = || {
        let request = http::Request::post("/_clawfarm/sign-in").header("host", &base);
        let request = request.header("origin", format!("http://{base}"));
        farm.ask(request.body(Full::from("token=guess")).unwrap())
    };
    let refused = async {
        loop {
            match attempt().await {
                answer if answer.status() == 403 => {}
                answer => return answer,
            }
        }
    };
    let refused = timeout(LIMIT, refused).await.expect("not for ever");
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn a_method_that_there_is_not_is_told_with_those_that_there_are() {
    let farm = Farm::new().await;
    let base = format!("claws.test:{}", farm.address.port());
    for (method, path, allowed) in [
        ("POST", "/", "GET, HEAD"),
        ("DELETE", "/_clawfarm/go", "GET, HEAD"),
        ("GET", "/_clawfarm/sign-in", "POST"),
        ("PUT", "/_clawfarm/sign-out", "POST"),
    ] {
        let request = http::Request::builder().method(method).uri(path).header("host", &base);
        let answer = farm.ask(request.body(Full::default()).unwrap()).await;
        assert_eq!((answer.status().as_u16(), answer.headers()["allow"].to_str().unwrap()), (405, allowed));
    }
    let request = http::Request::head("/").header("host", &base).body(Full::default()).unwrap();
    let answer = Answer::of(farm.ask(request).await).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, ""));
    let request = farm.request("POST", "a-1", "/_clawfarm/enter?ticket=x").body(Full::default()).unwrap();
    assert_eq!(farm.ask(request).await.status(), 405);
}
