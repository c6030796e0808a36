//! TLS handshakes: each costs a signature, and one that does not end holds a place.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::farm::LIMIT;
use crate::renewal::Secure;

/// The beginning of a record that holds a handshake's message, which is longer than this.
const BEGUN: &[u8] = &[22, 3, 1, 2, 0, 1, 0];

/// Waits until the other side has ended the connection; what came before that.
async fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    let _ = timeout(LIMIT, stream.read_to_end(&mut read)).await.expect("the edge ends it");
    read
}

async fn from_another(secure: &Secure) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    socket.connect(secure.farm.address).await.unwrap()
}

#[tokio::test]
async fn one_that_does_not_end_is_cut() {
    let secure = Secure::new(|limits| limits.head = Duration::from_secs(1)).await;
    for begun in [&b""[..], b"\x16", BEGUN] {
        let mut stream = TcpStream::connect(secure.farm.address).await.unwrap();
        // On a slow machine it may be cut by now.
        let _ = stream.write_all(begun).await;
        assert_eq!(until_closed(&mut stream).await, b"", "{begun:?}");
    }
    // One that comes letter by letter has no more time.
    let mut stream = TcpStream::connect(secure.farm.address).await.unwrap();
    let _ = stream.write_all(BEGUN).await;
    let (mut read, mut write) = stream.split();
    let drip = async {
        while write.write_all(&[0]).await.is_ok() {
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
async fn those_of_one_address_take_no_place_of_others() {
    let secure = Secure::new(|limits| limits.connections_per_address = 2).await;
    let mut held = Vec::new();
    let full = async {
        loop {
            let mut stream = TcpStream::connect(secure.farm.address).await.unwrap();
            stream.write_all(BEGUN).await.unwrap();
            // One that has a place is waited for; the edge says nothing to it.
            if timeout(Duration::from_millis(500), stream.read_u8()).await.is_ok_and(|it| it.is_err()) {
                return;
            }
            held.push(stream);
        }
    };
    timeout(LIMIT, full).await.expect("an address has so many");
    let other = from_another(&secure).await;
    secure.over(other, b"h2").await.expect("another one's places are its own");
}

#[tokio::test]
async fn an_address_has_so_many_a_second() {
    let secure = Secure::new(|limits| limits.handshakes_per_address = 1).await;
    let refused = async {
        loop {
            // Together, so that a slow machine does not spread them over seconds.
            let many = (0..20).map(|_| async {
                let tcp = TcpStream::connect(secure.farm.address).await.unwrap();
                secure.over(tcp, b"h2").await.is_err()
            });
            if futures::future::join_all(many).await.contains(&true) {
                return;
            }
        }
    };
    timeout(LIMIT, refused).await.expect("more than one a second are too many");
    secure.over(from_another(&secure).await, b"h2").await.expect("another one has its own");
}
