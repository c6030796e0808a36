//! A stand-in of Cloudflare's API for DNS records, which has pebble's DNS server say what it holds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::port80::tell;
use crate::support::local;

const ZONE: &str = "023e105f4ecef8ad9ca31a8372d0c353";

#[derive(Default)]
struct State {
    records: BTreeMap<String, Value>,
    made: usize,
}

pub(crate) struct StandIn {
    pub(crate) api: String,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl StandIn {
    pub(crate) async fn start(manage: u16) -> Self {
        let listener = TcpListener::bind(local(0)).await.unwrap();
        let api = format!("http://{}/client/v4", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = service_fn(|request| {
                        let state = Arc::clone(&state);
                        async move {
                            let (status, value) = answer(&state, manage, request).await;
                            let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
                            *response.status_mut() = status;
                            Ok::<_, std::convert::Infallible>(response)
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { api, state, task }
    }

    pub(crate) fn records(&self) -> Vec<Value> {
        self.state.lock().unwrap().records.values().cloned().collect()
    }

    pub(crate) fn made(&self) -> usize {
        self.state.lock().unwrap().made
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn refused(status: u16, code: i64, message: &str) -> (StatusCode, Value) {
    let answer = json!({ "success": false, "errors": [{ "code": code, "message": message }], "messages": [], "result": null });
    (StatusCode::from_u16(status).unwrap(), answer)
}

async fn answer(state: &Mutex<State>, manage: u16, request: Request<Incoming>) -> (StatusCode, Value) {
    if request.headers().get("authorization").is_none_or(|it| it != "Bearer cf-token-of-the-test") {
        return refused(403, 1000, "Invalid API Token");
    }
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let query = parts.uri.query().unwrap_or_default();
    let asked =
        |key: &str| query.split('&').find_map(|it| it.strip_prefix(&format!("{key}="))).unwrap_or_default();
    let records = format!("/client/v4/zones/{ZONE}/dns_records");
    let path = parts.uri.path();
    let result = if parts.method == Method::GET && path == "/client/v4/zones" {
        // It has the zone above the domain, not the domain's own.
        match asked("name") {
            "claws.test" => json!([{ "id": ZONE, "name": "claws.test" }]),
            _ => json!([]),
        }
    } else if parts.method == Method::POST && path == records {
        let record: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(record["type"], "TXT");
        let content = record["content"].as_str().unwrap().to_owned();
        {
            let mut state = state.lock().unwrap();
            if state
                .records
                .values()
                .any(|it| it["content"] == record["content"] && it["name"] == record["name"])
            {
                return refused(400, 81_058, "An identical record already exists.");
            }
            state.made += 1;
            let id = format!("{:032x}", state.made);
            let mut kept = record.clone();
            kept["id"] = json!(id);
            state.records.insert(id, kept);
        }
        let host = format!("{}.", record["name"].as_str().unwrap());
        tell(manage, "/set-txt", json!({ "host": host, "value": content.trim_matches('"') })).await;
        record
    } else if parts.method == Method::GET && path == records {
        let name = asked("name");
        let state = state.lock().unwrap();
        state.records.values().filter(|it| it["name"] == name).cloned().collect()
    } else if let Some(id) =
        path.strip_prefix(&format!("{records}/")).filter(|_| parts.method == Method::DELETE)
    {
        match state.lock().unwrap().records.remove(id) {
            Some(gone) => json!({ "id": gone["id"] }),
            None => return refused(404, 81_044, "Record does not exist."),
        }
    } else {
        return refused(405, 10_000, "no such thing here");
    };
    (StatusCode::OK, json!({ "success": true, "errors": [], "messages": [], "result": result }))
}
