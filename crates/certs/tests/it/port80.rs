//! Port 80 of a server, and a word to pebble's DNS server.

use std::sync::Arc;

use clawfarm_certs::acme::AcmeSource;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::local;

/// Tells pebble's DNS server something.
pub(crate) async fn tell(manage: u16, path: &str, what: serde_json::Value) {
    let stream = tokio::net::TcpStream::connect(local(manage)).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request =
        Request::post(path).header("host", "x").body(Full::new(Bytes::from(what.to_string()))).unwrap();
    assert!(sender.send_request(request).await.unwrap().status().is_success());
}

/// Port 80 of a server: answers to proofs from a source that is given later.
pub(crate) struct Port80 {
    pub(crate) port: u16,
    source: Arc<std::sync::Mutex<Option<Arc<AcmeSource>>>>,
    other: Arc<std::sync::Mutex<Option<&'static str>>>,
    task: JoinHandle<()>,
}

impl Port80 {
    pub(crate) async fn bind() -> Self {
        let listener = TcpListener::bind(local(0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let source = Arc::new(std::sync::Mutex::new(None::<Arc<AcmeSource>>));
        let other = Arc::new(std::sync::Mutex::new(None));
        let (shared, elsewhere) = (Arc::clone(&source), Arc::clone(&other));
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let source = shared.lock().unwrap().clone();
                let elsewhere = *elsewhere.lock().unwrap();
                tokio::spawn(async move {
                    let service = service_fn(|request: Request<hyper::body::Incoming>| {
                        let source = source.clone();
                        async move {
                            let host = request.headers().get("host").and_then(|it| it.to_str().ok());
                            let ours =
                                elsewhere.is_none_or(|it| host.is_none_or(|host| !host.starts_with(it)));
                            let source = source.filter(|_| ours);
                            let token = request.uri().path().strip_prefix("/.well-known/acme-challenge/");
                            let answer = match (source, token) {
                                (Some(source), Some(token)) => source.answer(token).await,
                                _ => None,
                            };
                            let mut response =
                                Response::new(Full::new(Bytes::from(answer.clone().unwrap_or_default())));
                            if answer.is_none() {
                                *response.status_mut() = StatusCode::NOT_FOUND;
                            }
                            Ok::<_, std::convert::Infallible>(response)
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { port, source, other, task }
    }

    pub(crate) fn of(&self, source: &Arc<AcmeSource>) {
        *self.source.lock().unwrap() = Some(Arc::clone(source));
    }

    /// A name that does not lead here.
    pub(crate) fn not_for(&self, name: &'static str) {
        *self.other.lock().unwrap() = Some(name);
    }
}

impl Drop for Port80 {
    fn drop(&mut self) {
        self.task.abort();
    }
}
