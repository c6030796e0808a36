//! Connections to claws, and who keeps them going.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::claw::Claw;
use crate::farm::{Answer, Farm, LIMIT, State, bearer};

#[tokio::test]
async fn one_is_kept_for_the_next_request() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    for _ in 0..20 {
        assert_eq!(farm.get("a-1", "/").await.status, 200);
        let head = farm.request("HEAD", "a-1", "/").header("authorization", bearer("a-1"));
        assert_eq!(farm.ask(head.body(Full::default()).unwrap()).await.status(), 200);
    }
    // On a slow machine one may get too old between two of them.
    let connections = claw.connections.load(Ordering::Relaxed);
    assert!((1..=10).contains(&connections), "{connections}");
}

#[tokio::test]
async fn an_answer_that_is_not_taken_holds_up_no_body() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let mut stream = TcpStream::connect(farm.address).await.unwrap();
    let length = 16 << 20;
    let head = format!(
        "POST /both HTTP/1.1\r\nhost: {}\r\nauthorization: {}\r\ncontent-length: {length}\r\n\r\n",
        farm.host("a-1"),
        bearer("a-1")
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    timeout(LIMIT, stream.read_u8()).await.expect("the answer begins").unwrap();
    let body = vec![b'x'; length];
    timeout(LIMIT, stream.write_all(&body)).await.expect("the claw reads it").unwrap();
    let (mut rest, mut nowhere) = (stream.take(64 << 20), tokio::io::sink());
    let read = tokio::io::copy(&mut rest, &mut nowhere);
    assert_eq!(timeout(LIMIT, read).await.expect("it is all there").unwrap(), 64 << 20);
}

#[tokio::test]
async fn answers_of_many_streams_come_beside_each_other() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let stream = TcpStream::connect(farm.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let ask = |path: &str| {
        let request = http::Request::get(format!("http://{}{path}", farm.host("a-1")));
        let request = request.header("authorization", bearer("a-1")).body(Full::<Bytes>::default()).unwrap();
        let mut sender = sender.clone();
        async move { timeout(LIMIT, sender.send_request(request)).await.expect("it is answered").unwrap() }
    };
    // One that says nothing yet, and one that nobody reads.
    let mut events = ask("/sse").await.into_body();
    let unread = ask("/big").await;
    for _ in 0..5 {
        assert_eq!(Answer::of(ask("/").await).await.status, 200);
    }
    claw.say.add_permits(1);
    let event = timeout(LIMIT, events.frame()).await.expect("it comes").unwrap().unwrap();
    assert_eq!(event.into_data().unwrap(), "data: 0\n\n");
    drop(unread);
}
