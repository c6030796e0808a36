//! Port 80: proofs for a certificate authority (HTTP-01, RFC 8555 8.3), and everybody else is sent
//! on to TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use clawfarm_model::Result;
use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::host::{self, BaseDomain, Place};
use crate::limits::{Limits, Meter};
use crate::listener::{accept, bind};
use crate::proxied::Proxies;
use crate::told::{self, Reason};

/// Connections at a time: none has a reason to stay.
const CONNECTIONS_MAX: usize = 1024;
/// How many of them one address may have: a browser opens six, and many are behind one address. An
/// authority comes from several.
const PER_ADDRESS: u32 = 64;
/// How long the head of a request may take to arrive.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection may last in all.
const LIMIT: Duration = Duration::from_secs(30);
/// The largest head, in bytes; hyper takes no less than 8 KiB.
const HEAD_MAX: usize = 16 << 10;
/// Where an authority looks.
const PROOFS: &str = "/.well-known/acme-challenge/";

/// Proofs that are laid out for a certificate authority.
#[async_trait]
pub trait Proofs: Send + Sync + 'static {
    /// The proof that is laid out under a token; `None` when there is none.
    async fn proof(&self, token: &str) -> Option<String>;
}

/// Where callers without TLS come in.
pub struct PlainListener(TcpListener);

impl PlainListener {
    /// Binds an address.
    ///
    /// # Errors
    /// `Conflict` when it is taken, `InvalidInput` when it can't be bound.
    pub async fn bind(address: SocketAddr) -> Result<Self> {
        Ok(Self(bind(address, "edge_http").await?))
    }

    /// Where it is, with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.local_addr().ok()
    }
}

/// What callers without TLS are answered by.
pub struct Plain {
    /// The names that are ours.
    pub base: BaseDomain,
    /// Where TLS is, as people see it.
    pub port: u16,
    /// What an authority may read.
    pub proofs: Option<Arc<dyn Proofs>>,
    /// How much one address may have; of connections no more than suits this port.
    pub limits: Limits,
    /// Proxies of ours, which are many callers.
    pub proxies: Option<Proxies>,
}

/// Answers callers without TLS until `stopping` is cancelled.
pub async fn serve_plain(listener: PlainListener, plain: Plain, stopping: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tasks = TaskTracker::new();
    let mut limits = plain.limits.clone();
    limits.connections_per_address = match limits.connections_per_address {
        0 => PER_ADDRESS,
        most => most.min(PER_ADDRESS),
    };
    let shared = Arc::new((plain, Meter::new(limits)));
    loop {
        let (stream, address, place) = tokio::select! {
            () = stopping.cancelled() => break,
            accepted = accept(&listener.0, &places) => accepted,
        };
        let (plain, meter) = shared.as_ref();
        let address = address.ip();
        let ours = plain.proxies.as_ref().is_some_and(|it| it.are_at(address));
        let share = if ours { None } else { meter.connection(address) };
        if share.is_none() && !ours {
            told::refused(Reason::AddressConnections);
            continue;
        }
        let (shared, stopping) = (Arc::clone(&shared), stopping.clone());
        tasks.spawn(async move {
            let _held = (place, share);
            let service = service_fn(|request| {
                let shared = Arc::clone(&shared);
                async move {
                    let (plain, meter) = shared.as_ref();
                    if !ours && meter.request(address).is_err() {
                        return Ok(too_many());
                    }
                    Ok::<_, Infallible>(answer(plain, &request).await)
                }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(HEAD_MAX);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            let whole = async {
                tokio::select! {
                    _ = connection.as_mut() => {}
                    () = stopping.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        let _ = connection.as_mut().await;
                    }
                }
            };
            let _ = timeout(LIMIT, whole).await;
        });
    }
    tasks.close();
    let _ = timeout(HEAD_LIMIT / 5, tasks.wait()).await;
}

async fn answer(plain: &Plain, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if let (Some(token), Some(proofs)) = (request.uri().path().strip_prefix(PROOFS), &plain.proofs) {
        // An authority is answered whatever name it came by: what it reads proves one name alone.
        return match proofs.proof(token).await {
            Some(proof) => said(StatusCode::OK, proof),
            None => said(StatusCode::NOT_FOUND, "no such proof\n".to_owned()),
        };
    }
    redirect(&plain.base, plain.port, request)
}

fn too_many() -> Response<Full<Bytes>> {
    let text = "your address sends more requests than it may; try again after a second\n";
    let mut response = said(StatusCode::TOO_MANY_REQUESTS, text.to_owned());
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// To the same address over TLS, for names of ours alone: nobody is sent elsewhere.
fn redirect<B>(base: &BaseDomain, port: u16, request: &Request<B>) -> Response<Full<Bytes>> {
    let path = request.uri().path_and_query().map_or("/", |it| it.as_str());
    let host = match host::of(request) {
        Ok(host) => host,
        Err(why) => return said(StatusCode::BAD_REQUEST, format!("{why}\n")),
    };
    let name = match base.place(&host) {
        Place::Base | Place::AtPage => base.page().to_owned(),
        Place::Claw(id) => format!("{id}.{}", base.as_str()),
        Place::Unknown => return said(StatusCode::NOT_FOUND, "no claw has this address\n".to_owned()),
    };
    let path = if path.starts_with('/') { path } else { "/" };
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let Ok(location) = HeaderValue::from_str(&format!("https://{name}{port}{path}")) else {
        return said(StatusCode::BAD_REQUEST, "the address can't be passed on\n".to_owned());
    };
    // Programs repeat a request with its body after 308 only; old ones know 301 alone.
    let status = match *request.method() {
        Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
        _ => StatusCode::PERMANENT_REDIRECT,
    };
    let mut response = said(status, String::new());
    response.headers_mut().insert(LOCATION, location);
    response
}

fn said(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(method: &str, host: &str, path: &str, port: u16) -> (u16, String) {
        let base = BaseDomain::new("claws.test").unwrap();
        let request = Request::builder().method(method).uri(path).header("host", host).body(()).unwrap();
        let response = redirect(&base, port, &request);
        let location = response.headers().get(LOCATION).map_or("", |it| it.to_str().unwrap());
        (response.status().as_u16(), location.to_owned())
    }

    #[test]
    fn names_of_ours_are_sent_to_the_same_address_over_tls() {
        let to = |status: u16, location: &str| (status, location.to_owned());
        assert_eq!(sent("GET", "claws.test", "/a?b=c", 443), to(301, "https://claws.test/a?b=c"));
        assert_eq!(sent("HEAD", "CLAWS.test:80", "/", 8443), to(301, "https://claws.test:8443/"));
        assert_eq!(
            sent("POST", "alice-x7k2m.claws.test", "/hooks/x", 443),
            to(308, "https://alice-x7k2m.claws.test/hooks/x")
        );
        assert_eq!(sent("GET", "claws.test", "//evil.test/", 443), to(301, "https://claws.test//evil.test/"));
        assert_eq!(sent("GET", "claws.test", "http://claws.test/x", 443), to(301, "https://claws.test/x"));
    }

    #[test]
    fn nobody_is_sent_elsewhere() {
        for host in [
            "evil.test",
            "claws.test.evil.test",
            "claws.test@evil.test",
            "evil.test#claws.test",
            "",
            "a.b.claws.test",
            "127.0.0.1",
        ] {
            let (status, location) = sent("GET", host, "/", 443);
            assert!((400..500).contains(&status) && location.is_empty(), "{host}: {status} {location}");
        }
        assert_eq!(sent("GET", "claws.test", "http://evil.test/x", 443).1, "");
    }
}
