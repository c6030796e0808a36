//! What stands for a claw: as quick as can be, so that what is before it is what is measured.

use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

const BIG: usize = 1 << 20;

/// Serves until the runtime ends.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
}

impl Upstream {
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let big = Bytes::from(vec![b'x'; BIG]);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let big = big.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(request, big.clone()));
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades();
                    // It ends when the other side does.
                    let _ = connection.await;
                });
            }
        });
        Ok(Self { address })
    }
}

async fn answer(mut request: Request<Incoming>, big: Bytes) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/ws" {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let Ok(upgraded) = upgraded.await else { return };
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        for (name, value) in [("connection", "Upgrade"), ("upgrade", "websocket")] {
            response.headers_mut().insert(name, hyper::header::HeaderValue::from_static(value));
        }
        return Ok(response);
    }
    let body = if request.uri().path() == "/big" { big } else { Bytes::from_static(b"ok\n") };
    Ok(Response::new(Full::new(body)))
}
