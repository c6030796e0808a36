//! Requests and answers on their way through.

use std::time::Duration;

use bytes::Bytes;
use clawfarm_model::edge::Identity;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::claw::Claw;
use crate::farm::{Answer, Farm, LIMIT, State, USER_HEADER, bearer};

#[tokio::test]
async fn a_claw_is_told_who_asks_by_the_edge_alone() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let cookie = farm.session("a-1").await;
    let request = farm
        .request("POST", "a-1", "/x/y?z=%2F")
        .header("cookie", format!("theme=dark; {cookie}"))
        .header("origin", format!("http://{}", farm.host("a-1")))
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-user", "root")
        .header(USER_HEADER, "mallory")
        .header("forwarded", "for=6.6.6.6")
        .header("connection", "x-gone")
        .header("x-gone", "1")
        .header("x-request-id", "forged")
        .header("accept", "*/*");
    let answer = Answer::of(farm.ask(request.body(Full::from("hello")).unwrap()).await).await;
    let told = answer.json();
    let number = answer.headers["x-request-id"].to_str().unwrap();
    assert!(number.len() == 32 && told["headers"]["x-request-id"] == number, "{number}");
    assert_eq!((told["method"].as_str(), told["target"].as_str()), (Some("POST"), Some("/x/y?z=%2F")));
    assert_eq!(told["body"], "hello");
    let headers = told["headers"].as_object().unwrap();
    let mut names: Vec<&str> = headers.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "content-length",
            "cookie",
            "host",
            "origin",
            USER_HEADER,
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-request-id"
        ]
    );
    assert_eq!(headers[USER_HEADER], "owner");
    assert_eq!(headers["x-forwarded-for"], "192.0.2.1", "from this machine");
    assert_eq!(headers["cookie"], "theme=dark");
    assert_eq!(headers["origin"], "http://clawfarm.internal");
    assert_eq!(headers["host"], farm.host("a-1"));

    // One that takes no proxy's word has its token, and is told nothing else.
    farm.change("a-1", |known| known.identity = Identity::Token);
    let request = farm.request("GET", "a-1", "/").header("cookie", cookie).header("x-real-ip", "1");
    let told = Answer::of(farm.ask(request.body(Full::default()).unwrap()).await).await.json();
    let headers = told["headers"].as_object().unwrap();
    assert_eq!(headers.keys().collect::<Vec<_>>(), ["authorization", "host", "x-request-id"]);
    assert_eq!(headers["authorization"], bearer("a-1"));
}

#[tokio::test]
async fn a_claw_s_answer_is_about_itself() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let answer = farm.get("a-1", "/cookies").await;
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["mine=1; Path=/"]);
    assert!(!answer.headers.contains_key("alt-svc") && !answer.headers.contains_key("x-private"));
    assert_eq!(farm.get("a-1", "/unasked").await.status, 502);
}

#[tokio::test]
async fn events_come_one_by_one() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let request = farm.request("GET", "a-1", "/sse").header("authorization", bearer("a-1"));
    let mut answer = farm.ask(request.body(Full::default()).unwrap()).await;
    for n in 0..3 {
        claw.say.add_permits(1);
        let frame = timeout(LIMIT, answer.body_mut().frame()).await.expect("it comes").unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), Bytes::from(format!("data: {n}\n\n")));
    }
    assert!(timeout(LIMIT, answer.body_mut().frame()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_claw_that_does_not_read_stops_who_sends() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let mut stream = TcpStream::connect(farm.address).await.unwrap();
    let size: usize = 256 << 20;
    let head = format!(
        "POST /read HTTP/1.1\r\nhost: {}\r\nauthorization: {}\r\ncontent-length: {size}\r\n\r\n",
        farm.host("a-1"),
        bearer("a-1")
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    timeout(LIMIT, claw.reading.notified()).await.expect("it was asked");
    // What is written until nothing goes any more fits into the sockets' and the edge's buffers.
    let piece = vec![b'x'; 64 << 10];
    let mut written = 0;
    while let Ok(sent) = timeout(Duration::from_secs(2), stream.write(&piece)).await {
        written += sent.unwrap();
        assert!(written < 64 << 20, "{written} bytes are somewhere");
    }
    claw.say.add_permits(1);
    while written < size {
        let piece = &piece[..piece.len().min(size - written)];
        written += timeout(LIMIT, stream.write(piece)).await.expect("it goes on").unwrap();
    }
    let mut answer = vec![0; 4096];
    let read = timeout(LIMIT, stream.read(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(&size.to_string()), "{answer}");
}

#[tokio::test]
async fn connections_are_used_again_and_a_lost_one_is_not_noticed() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    for _ in 0..3 {
        assert_eq!(farm.get("a-1", "/").await.status, 200);
    }
    // The claw was started anew, at the same name: what is open leads to nobody.
    let again = Claw::new().await;
    farm.change("a-1", |known| known.address = again.address);
    drop(claw);
    for _ in 0..3 {
        assert_eq!(farm.get("a-1", "/").await.status, 200);
    }
    assert_eq!(again.seen(), 3);
}

#[tokio::test]
async fn many_requests_share_a_connection_over_http_2() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let stream = TcpStream::connect(farm.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let asks = (0..50).map(|n| {
        let mut sender = sender.clone();
        let request = http::Request::builder()
            .uri(format!("http://{}/{n}", farm.host("a-1")))
            .header("authorization", bearer("a-1"))
            .body(Full::<Bytes>::default())
            .unwrap();
        async move { Answer::of(sender.send_request(request).await.unwrap()).await }
    });
    for (n, answer) in futures::future::join_all(asks).await.into_iter().enumerate() {
        assert_eq!((answer.status, answer.json()["target"].as_str()), (200, Some(format!("/{n}").as_str())));
    }
    let big = {
        let mut sender = sender.clone();
        let request = http::Request::builder()
            .uri(format!("http://{}/big", farm.host("a-1")))
            .header("authorization", bearer("a-1"))
            .body(Full::<Bytes>::default())
            .unwrap();
        Answer::of(sender.send_request(request).await.unwrap()).await
    };
    assert_eq!(big.text.len(), 64 << 20);
}

#[tokio::test]
async fn what_is_under_way_is_finished_when_the_server_ends() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let request = farm.request("GET", "a-1", "/sse").header("authorization", bearer("a-1"));
    let mut answer = farm.ask(request.body(Full::default()).unwrap()).await;
    farm.stopping.cancel();
    claw.say.add_permits(3);
    let mut heard = 0;
    while let Some(frame) = timeout(LIMIT, answer.body_mut().frame()).await.expect("it comes") {
        frame.unwrap();
        heard += 1;
    }
    assert_eq!(heard, 3);
    let refused = async {
        while TcpStream::connect(farm.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, refused).await.expect("nothing is accepted any more");
}
