//! A stand-in for Telegram: as much of its Bot API as a bot in webhook mode asks for, and calls
//! of the bot's webhook as Telegram makes them, with retries until one is answered with success.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::pause;

/// The person who writes to the bot.
pub(crate) const PERSON: u64 = 123_456_789;
/// How long the bot's webhook may take; Telegram gives up after some more.
const ANSWER: Duration = Duration::from_secs(10);

/// The stand-in; its threads end with the test's process.
pub(crate) struct Telegram {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// What `setWebhook` said: the address and the secret.
    webhook: Option<(String, String)>,
    /// Every call of a method, with what it was given.
    calls: Vec<(String, Value)>,
    /// The number of the last update or message.
    last: u64,
}

/// A webhook's answer: its status, and how long it took.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) took: Duration,
}

impl Telegram {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(Mutex::new(State { last: 100, ..State::default() }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || attend(&stream, &state));
            }
        });
        Self { port, state }
    }

    /// What a bot is given as `apiRoot`.
    pub(crate) fn root(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the bot wants to be called, and with which secret.
    pub(crate) fn webhook(&self) -> Option<(String, String)> {
        self.state().webhook.clone()
    }

    /// The texts that the bot has sent.
    pub(crate) fn said(&self) -> Vec<String> {
        let state = self.state();
        let texts = state.calls.iter().filter_map(|(_, given)| given["text"].as_str());
        texts.map(str::to_owned).collect()
    }

    /// The methods that were called.
    pub(crate) fn called(&self) -> Vec<String> {
        self.state().calls.iter().map(|(method, _)| method.clone()).collect()
    }

    /// What a person writes, as an update.
    pub(crate) fn update(&self, text: &str) -> Value {
        let mut state = self.state();
        state.last += 1;
        json!({
            "update_id": state.last,
            "message": {
                "message_id": state.last, "date": 1_795_000_000, "text": text,
                "from": {"id": PERSON, "is_bot": false, "first_name": "Farm"},
                "chat": {"id": PERSON, "type": "private", "first_name": "Farm"},
            },
        })
    }

    /// Calls the webhook once with an update, with this secret.
    pub(crate) fn call(&self, url: &str, secret: &str, update: &Value) -> Option<Answered> {
        let begun = Instant::now();
        let headers = [("X-Telegram-Bot-Api-Secret-Token", secret)];
        let status = post(url, &headers, &update.to_string())?.0;
        Some(Answered { status, took: begun.elapsed() })
    }

    /// Sends what a person writes, again and again until it is taken; returns the answer that
    /// took it.
    pub(crate) fn deliver(&self, text: &str) -> Answered {
        let update = self.update(text);
        let begun = Instant::now();
        loop {
            let (url, secret) = self.webhook().expect("a webhook was set");
            match self.call(&url, &secret, &update) {
                Some(answered) if (200..300).contains(&answered.status) => return answered,
                answered => assert!(begun.elapsed() < ANSWER * 6, "it is not taken: {answered:?}"),
            }
            pause();
        }
    }
}

/// Posts to an address; the answer's status and body.
pub(crate) fn post(url: &str, headers: &[(&str, &str)], body: &str) -> Option<(u16, String)> {
    let rest = url.strip_prefix("http://")?;
    let (host, path) =
        rest.split_once('/').map_or((rest, String::new()), |(host, path)| (host, path.to_owned()));
    let port: u16 = host.rsplit_once(':')?.1.parse().ok()?;
    // Names below localhost are this machine; not every resolver of the system knows that.
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(ANSWER * 6)).ok()?;
    let mut request = format!(
        "POST /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\n"
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    // Who hangs up after the answer has answered.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split_whitespace().nth(1)?.parse().ok()?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Some((status, body))
}

fn attend(stream: &TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() {
        return;
    }
    let method = line.split_whitespace().nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
    let method = method.rsplit('/').next().unwrap_or_default().to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).unwrap_or(0) == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let given: Value = serde_json::from_slice(&body).unwrap_or_default();
    let answer = json!({ "ok": true, "result": result(&method, &given, state) }).to_string();
    let mut stream = stream;
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
        answer.len()
    );
}

fn result(method: &str, given: &Value, state: &Mutex<State>) -> Value {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.calls.push((method.to_owned(), given.clone()));
    let text = |name: &str| given[name].as_str().unwrap_or_default().to_owned();
    match method {
        "setWebhook" => {
            state.webhook = Some((text("url"), text("secret_token")));
            true.into()
        }
        "deleteWebhook" => {
            state.webhook = None;
            true.into()
        }
        "getWebhookInfo" => json!({
            "url": state.webhook.as_ref().map_or("", |(url, _)| url.as_str()),
            "has_custom_certificate": false, "pending_update_count": 0,
        }),
        "getMe" => json!({
            "id": 42, "is_bot": true, "first_name": "FarmBot", "username": "farm_bot",
            "can_join_groups": true, "can_read_all_group_messages": false, "supports_inline_queries": false,
        }),
        "sendMessage" | "editMessageText" => {
            state.last += 1;
            json!({
                "message_id": state.last, "date": 1_795_000_000, "text": given["text"],
                "chat": {"id": given["chat_id"], "type": "private"},
            })
        }
        _ => true.into(),
    }
}
