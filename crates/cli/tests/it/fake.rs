//! A server that says what a test wants it to say, at a home's socket.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::support::Home;

/// An answer.
pub(crate) enum Answer {
    /// A status and a document.
    Json(u16, Value),
    /// No room; the pause in seconds after which to ask again.
    Later(u16),
    /// An event stream, whole.
    Stream(String),
    /// None until the client goes away.
    Never,
}

/// What was asked: method, path with query, body.
pub(crate) type Asked = (String, String, String);

/// A number that Linux gives to no process (its greatest is 2^22).
pub(crate) const NO_PROCESS: u32 = 1 << 30;

/// The server; its threads end with the test's process.
pub(crate) struct Fake {
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    /// Serves `home` as a server of `version`; `answer` answers all but `GET /server`.
    pub(crate) fn serve(
        home: &Home,
        version: &str,
        answer: impl Fn(&str, &str) -> Answer + Send + Sync + 'static,
    ) -> Self {
        fs::create_dir_all(home.farm()).expect("a folder");
        fs::write(home.farm().join("admin.token"), "tok\n").expect("written");
        let listener = UnixListener::bind(home.farm().join("clawfarm.sock")).expect("bound");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let info = json!({
            "version": version, "pid": NO_PROCESS, "home": home.farm(), "started_at": "2026-11-21T00:00:00Z",
        });
        let answer = Arc::new(answer);
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, log, info) = (Arc::clone(&answer), Arc::clone(&log), info.clone());
                thread::spawn(move || attend(stream.expect("accepted"), &*answer, &log, &info));
            }
        });
        Self { asked }
    }

    /// What was asked so far, `GET /server` left out.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

fn attend(
    stream: UnixStream,
    answer: &(dyn Fn(&str, &str) -> Answer + Send + Sync),
    log: &Mutex<Vec<Asked>>,
    info: &Value,
) {
    let mut writer = stream.try_clone().expect("cloned");
    let mut reader = BufReader::new(stream);
    while let Some((method, path, body)) = request(&mut reader) {
        let answer = if path == "/api/v1/server" {
            Answer::Json(200, info.clone())
        } else {
            let answer = answer(&method, &path);
            log.lock().expect("not poisoned").push((method, path, body));
            answer
        };
        let text = match answer {
            Answer::Json(status, value) => {
                let body = value.to_string();
                let kind = if status < 400 { "json" } else { "problem+json" };
                format!(
                    "HTTP/1.1 {status} X\r\ncontent-type: application/{kind}\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                )
            }
            Answer::Later(secs) => {
                let body = json!({
                    "type": "urn:clawfarm:problem:overloaded", "title": "t", "status": 429, "detail": "full",
                    "code": "overloaded", "reason": "full", "fix": "try again", "request_id": "r",
                })
                .to_string();
                format!(
                    "HTTP/1.1 429 X\r\nretry-after: {secs}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                )
            }
            Answer::Stream(body) => format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            ),
            Answer::Never => {
                // The client sends nothing more: this returns when it goes away.
                let _ = reader.read(&mut [0]);
                return;
            }
        };
        if writer.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

fn request(reader: &mut BufReader<UnixStream>) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|n| *n > 0)?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((method, path, String::from_utf8_lossy(&body).into_owned()))
}

/// An instance as the API shows it.
pub(crate) fn instance(id: &str, phase: &str) -> Value {
    json!({
        "id": id, "name": id.split('-').next(), "tenant": "default", "project": "default",
        "image": "openclaw:2026.9.6", "claw_type": "openclaw", "version": "2026.9.6",
        "runtime": "process", "target": "local", "phase": phase, "phase_since": "2026-11-21T07:00:00Z",
        "desired": "running", "generation": 1, "health": "passing", "gateway": "http://127.0.0.1:18790",
        "port": 18790, "pid": 4242, "started_at": "2026-11-21T07:00:00Z",
        "resources": { "cpus": 1.0, "memory_mib": 2048 }, "config": {}, "config_mode": "seeded",
        "restart": { "mode": "always", "max_restarts": 5, "window_secs": 600 }, "ready_timeout_secs": 300,
        "restarts": 0, "restarts_total": 0, "resource_version": 1,
        "created_at": "2026-11-21T06:59:00Z", "updated_at": "2026-11-21T07:36:40.500Z",
    })
}

/// An operation as the API shows it.
pub(crate) fn operation(kind: &str, id: &str, state: &str, steps: &Value) -> Value {
    json!({
        "id": "op-1", "kind": kind, "instance": id, "generation": 1, "state": state, "steps": steps,
        "created_at": "2026-11-21T07:00:00Z", "updated_at": "2026-11-21T07:00:10Z",
        "ended_at": if state == "running" { Value::Null } else { json!("2026-11-21T07:00:10Z") },
    })
}

/// A problem as the API answers it.
pub(crate) fn problem(status: u16, code: &str, reason: &str, fix: &str) -> Answer {
    Answer::Json(
        status,
        json!({
            "type": format!("urn:clawfarm:problem:{code}"), "title": "t", "status": status, "detail": reason,
            "code": code, "reason": reason, "fix": fix, "request_id": "r",
        }),
    )
}
