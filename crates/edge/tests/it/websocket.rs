//! WebSockets, over HTTP/1.1 and HTTP/2.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::claw::Claw;
use crate::farm::{Farm, LIMIT, State, bearer};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

async fn echoes(io: hyper::upgrade::Upgraded) {
    let mut io = TokioIo::new(io);
    for text in ["hello", "and again"] {
        io.write_all(text.as_bytes()).await.unwrap();
        let mut heard = vec![0; text.len()];
        timeout(LIMIT, io.read_exact(&mut heard)).await.expect("it answers").unwrap();
        assert_eq!(heard, text.as_bytes());
    }
}

#[tokio::test]
async fn a_websocket_goes_both_ways_until_it_ends() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let id = clawfarm_model::ClawId::new("a-1").unwrap();
    let request = farm
        .request("GET", "a-1", "/ws")
        .header("connection", "Upgrade")
        .header("upgrade", "WebSocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", KEY)
        .header("authorization", bearer("a-1"));
    let mut answer = farm.ask(request.body(Full::default()).unwrap()).await;
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let io = hyper::upgrade::on(&mut answer).await.unwrap();
    assert_eq!(farm.edge.load(&id).unwrap().sockets, 1, "it keeps its claw awake");
    echoes(io).await;
    let gone = async {
        while farm.edge.load(&id).unwrap().sockets > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, gone).await.expect("it counts no more when it has ended");
}

#[tokio::test]
async fn a_websocket_over_http_2_is_one_for_the_claw() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let stream = TcpStream::connect(farm.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let ask = |protocol: &'static str| {
        let mut request = http::Request::builder()
            .method("CONNECT")
            .uri(format!("http://{}/ws", farm.host("a-1")))
            .header("sec-websocket-version", "13")
            .header("authorization", bearer("a-1"))
            .body(Empty::<Bytes>::new().boxed())
            .unwrap();
        request.extensions_mut().insert(Protocol::from_static(protocol));
        request
    };
    // The server's settings, by which it says that it understands, may come after our first word.
    let mut answer = loop {
        match sender.send_request(ask("websocket")).await {
            Ok(answer) => break answer,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(answer.status(), 200);
    echoes(hyper::upgrade::on(&mut answer).await.unwrap()).await;
    assert_eq!(sender.send_request(ask("connect-udp")).await.unwrap().status(), 405);
}

#[tokio::test]
async fn nothing_else_becomes_of_a_request() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    for upgrade in ["h2c", "websocket, h2c", "TLS/1.0"] {
        let request = farm
            .request("GET", "a-1", "/")
            .header("connection", "Upgrade, HTTP2-Settings")
            .header("upgrade", upgrade)
            .header("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA")
            .header("authorization", bearer("a-1"));
        let answer = crate::farm::Answer::of(farm.ask(request.body(Full::default()).unwrap()).await).await;
        assert_eq!(answer.status, 200);
        let headers = answer.json()["headers"].clone();
        assert!(headers.get("upgrade").is_none() && headers.get("http2-settings").is_none(), "{headers}");
    }
}
