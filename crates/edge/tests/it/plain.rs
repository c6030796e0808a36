//! Port 80, where authorities read proofs.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use clawfarm_edge::{BaseDomain, Limits, Plain, PlainListener, Proofs, serve_plain};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::farm::LIMIT;

/// More than there are places for one address, and fewer than for all.
const MANY: usize = 200;

struct One;

#[async_trait]
impl Proofs for One {
    async fn proof(&self, token: &str) -> Option<String> {
        (token == "a-token").then(|| "the proof".to_owned())
    }
}

async fn serve(limits: Limits) -> (SocketAddr, DropGuard) {
    let listener = PlainListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (address, stopping) = (listener.address().unwrap(), CancellationToken::new());
    let base = BaseDomain::new("claws.test").unwrap();
    let plain = Plain { base, port: 443, proofs: Some(Arc::new(One)), limits, proxies: None };
    tokio::spawn(serve_plain(listener, plain, stopping.clone()));
    (address, stopping.drop_guard())
}

async fn from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(source.parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

/// What is answered; empty when the connection is closed instead.
async fn asked(mut stream: TcpStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: claws.test\r\nconnection: close\r\n\r\n");
    let _ = stream.write_all(request.as_bytes()).await;
    let mut read = Vec::new();
    // A connection that is closed with something unread is reset.
    let _ = timeout(LIMIT, stream.read_to_end(&mut read)).await.expect("it ends");
    String::from_utf8(read).unwrap()
}

const PROOF: &str = "/.well-known/acme-challenge/a-token";

#[tokio::test]
async fn an_address_that_holds_many_connections_leaves_room_for_the_authority() {
    let (address, _ends) = serve(Limits::default()).await;
    let mut held = Vec::new();
    let full = async {
        while !asked(TcpStream::connect(address).await.unwrap(), PROOF).await.is_empty() {
            for _ in 0..MANY {
                held.push(TcpStream::connect(address).await.unwrap());
            }
        }
    };
    timeout(LIMIT, full).await.expect("an address has so many");
    let answer = asked(from("127.0.0.2:0", address).await, PROOF).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("the proof"), "{answer}");
    drop(held);
}

#[tokio::test]
async fn an_address_that_asks_too_often_is_told_so() {
    let (address, _ends) = serve(Limits { requests_per_address: 1, ..Limits::default() }).await;
    let mut refused = String::new();
    for _ in 0..1000 {
        refused = asked(TcpStream::connect(address).await.unwrap(), "/").await;
        if !refused.starts_with("HTTP/1.1 301 ") {
            break;
        }
    }
    assert!(refused.starts_with("HTTP/1.1 429 ") && refused.contains("retry-after: 1"), "{refused}");
    let answer = asked(from("127.0.0.2:0", address).await, PROOF).await;
    assert!(answer.ends_with("the proof"), "{answer}");
}
