//! What nanobot is asked and told once it runs, in the way of its own page: short-lived tokens
//! for the gateway token, then HTTP and a `WebSocket`. What is known here was read and tried on 0.3.5.

use std::collections::VecDeque;
use std::time::Duration;

use clawfarm_model::{Code, Error, Result, Timestamp};
use futures::stream::{self, BoxStream};
use futures::{SinkExt as _, StreamExt as _};
use http::Method;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::config::WS_PATH;
use crate::shared::http::{Http, no_answer, request};
use crate::shared::text::shown;
use crate::{Access, Activity, Connection, Rest, SendEvent};

/// How long one question may take.
const LIMIT: Duration = Duration::from_secs(10);
/// The largest answer, in bytes.
const MAX: usize = 8 << 20;
/// How long a turn may be silent: a tool that works says nothing meanwhile.
const SILENCE: Duration = Duration::from_secs(660);
/// The largest answer of a turn in all, in bytes.
const ANSWER_MAX: usize = 16 << 20;
/// The longest message, in bytes: what its endpoint takes ("max_text_bytes").
const MESSAGE_MAX: usize = 64 << 10;
/// The largest frame, in bytes.
const FRAME_MAX: usize = 4 << 20;
/// Names the conversation: the same one, the same conversation.
const CHAT: &str = "clawfarm";
/// How often a drain is looked at.
const POLL: Duration = Duration::from_millis(500);

/// Short-lived tokens: of the `WebSocket`, and of the page's own API.
struct Tokens {
    socket: String,
    api: SecretString,
}

async fn get(access: &Access<'_>, path: &str, token: &SecretString) -> Result<Value> {
    let mut http = Http::open(access.dial).await?;
    let response = http.whole(request(Method::GET, path, Some(token), None)?, LIMIT, MAX).await?;
    let status = response.status.as_u16();
    if status == 401 {
        return Err(Error::new(Code::Unavailable, "the claw does not take the present token")
            .fix("restart it: clawfarm restart <id>"));
    }
    if status == 404 {
        return Err(Error::new(Code::Unsupported, format!("the claw's version has no {path}"))
            .fix("use the version that clawfarm was tested with"));
    }
    let answer = serde_json::from_slice(&response.body).ok().filter(|_| response.status.is_success());
    answer.ok_or_else(|| {
        Error::new(Code::Unavailable, format!("the claw answers {status} at {path}"))
            .fix("look at what it prints: clawfarm logs <id>")
    })
}

async fn tokens(access: &Access<'_>) -> Result<Tokens> {
    let given = get(access, "/webui/bootstrap", access.token).await?;
    let text = |name: &str| {
        // Nothing else goes into a query or a header.
        let token = given[name].as_str().filter(|token| {
            (1..=200).contains(&token.len())
                && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        });
        token.map(str::to_owned).ok_or_else(|| {
            Error::new(Code::ClawFailed, "the claw gives no token for its own page's API")
                .fix("use the version that clawfarm was tested with")
        })
    };
    Ok(Tokens { socket: text("token")?, api: text("api_token")?.into() })
}

/// What its conversations are doing. Those of its channels are told too late to be told here;
/// they don't count.
pub(super) async fn activity(access: &Access<'_>) -> Result<Activity> {
    let tokens = tokens(access).await?;
    Ok(busy(&get(access, "/api/sessions", &tokens.api).await?))
}

fn busy(answer: &Value) -> Activity {
    let sessions = answer["sessions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let running: Vec<String> = sessions
        .iter()
        .filter(|session| session["run_started_at"].is_number())
        .map(|session| format!("a turn of {}", shown(session["key"].as_str().unwrap_or("a conversation"))))
        .take(20)
        .collect();
    if running.is_empty() { Activity::Idle } else { Activity::Busy(running) }
}

/// Whether it works, and when its next job is due.
pub(super) async fn rest(access: &Access<'_>) -> Result<Rest> {
    let tokens = tokens(access).await?;
    let activity = busy(&get(access, "/api/sessions", &tokens.api).await?);
    let jobs = get(access, "/api/webui/automations", &tokens.api).await?;
    Ok(Rest { activity, last_active: None, next_wake: next(&jobs) })
}

/// The earliest time at which a job that is on is due.
fn next(answer: &Value) -> Option<Timestamp> {
    let jobs = answer["jobs"].as_array().or_else(|| answer["automations"].as_array())?;
    let due = jobs.iter().filter(|job| job["enabled"] != json!(false));
    due.filter_map(|job| job["state"]["next_run_at_ms"].as_i64()).min().map(Timestamp::from_millis)
}

/// It can't be told to take nothing more: what it has is waited for.
pub(super) async fn drain(access: &Access<'_>, wait: Duration) -> Result<Activity> {
    let deadline = Instant::now() + wait;
    loop {
        let found = activity(access).await?;
        if found == Activity::Idle || Instant::now() >= deadline {
            return Ok(found);
        }
        sleep(POLL).await;
    }
}

/// Sends a message and streams the answer.
pub(super) async fn send(
    access: &Access<'_>,
    message: &str,
) -> Result<BoxStream<'static, Result<SendEvent>>> {
    if message.trim().is_empty() || message.len() > MESSAGE_MAX {
        return Err(Error::invalid("message", format!("a message of {} bytes can't be sent", message.len()))
            .fix(format!("send 1 to {MESSAGE_MAX} bytes of text")));
    }
    let envelope = json!({ "type": "message", "chat_id": CHAT, "content": message });
    let socket = begin(access, &envelope).await?;
    let turn = Turn { socket, answer: Answer::default(), ready: VecDeque::new(), size: 0, over: false };
    Ok(stream::unfold(turn, |mut turn| async move { turn.next().await.map(|event| (event, turn)) }).boxed())
}

/// Opens a conversation, and says the first thing in it.
async fn begin(access: &Access<'_>, envelope: &Value) -> Result<WebSocketStream<Box<dyn Connection>>> {
    let tokens = tokens(access).await?;
    let connection = timeout(LIMIT, access.dial.dial())
        .await
        .map_err(|_| no_answer("the connection was not accepted", LIMIT))??;
    let url = format!("ws://127.0.0.1{WS_PATH}?client_id={CHAT}&token={}", tokens.socket);
    let limits = WebSocketConfig::default().max_message_size(Some(FRAME_MAX)).max_frame_size(Some(FRAME_MAX));
    let opening = tokio_tungstenite::client_async_with_config(url, connection, Some(limits));
    let (mut socket, _) = timeout(LIMIT, opening)
        .await
        .map_err(|_| no_answer("the conversation was not opened", LIMIT))?
        .map_err(|e| broken("the conversation could not be opened", e))?;
    timeout(LIMIT, socket.send(Message::text(envelope.to_string())))
        .await
        .map_err(|_| no_answer("the message was not taken", LIMIT))?
        .map_err(|e| broken("the message could not be sent", e))?;
    Ok(socket)
}

/// What it says of its settings.
pub(super) enum Settings {
    /// What it has read from its file, and goes by.
    Read(Value),
    /// It has no use for its file; with why.
    Refused(String),
    /// It can't be asked: another version.
    Unknown,
}

/// Has it read its file now, as its own page has when somebody changes a setting there: a change
/// of nothing, which writes nothing.
pub(super) async fn settings(access: &Access<'_>) -> Result<Settings> {
    // An id that was used before is answered with what was answered then.
    let id = format!("clawfarm-{}", Timestamp::now().as_millis());
    let envelope = json!({
        "type": "webui_request", "request_id": id, "action": "settings.agent.update", "payload": {},
    });
    let mut socket = begin(access, &envelope).await?;
    let answer = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    if let Some(told) = answered(&text, &id) {
                        return Ok(told);
                    }
                }
                Some(Ok(Message::Close(_))) | None => {
                    return Err(Error::new(Code::Unavailable, "the claw hung up instead of an answer")
                        .fix("look at what it prints: clawfarm logs <id>"));
                }
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(broken("the conversation broke before its answer", e)),
            }
        }
    };
    timeout(LIMIT, answer).await.map_err(|_| no_answer("it did not say what it goes by", LIMIT))?
}

/// The answer to a request; `None` for everything else that it says meanwhile.
fn answered(frame: &str, id: &str) -> Option<Settings> {
    let event = serde_json::from_str::<Value>(frame).ok()?;
    if event["event"] == "error" && event["detail"].is_string() {
        return Some(Settings::Refused(shown(event["detail"].as_str().unwrap_or_default())));
    }
    if event["event"] != "webui_response" || event["request_id"] != id {
        return None;
    }
    if event["ok"] == true {
        return Some(Settings::Read(event["result"].clone()));
    }
    if event["error"]["status"] == 404 {
        return Some(Settings::Unknown);
    }
    let why = event["error"]["message"].as_str().unwrap_or("it did not say why");
    Some(Settings::Refused(shown(why)))
}

fn broken(what: &str, error: tokio_tungstenite::tungstenite::Error) -> Error {
    Error::new(Code::Unavailable, format!("the claw does not answer: {what}"))
        .fix("look at what it prints: clawfarm logs <id>")
        .source(error)
}

/// A turn under way. Holds the connection: dropping it hangs up.
struct Turn {
    socket: WebSocketStream<Box<dyn Connection>>,
    answer: Answer,
    ready: VecDeque<Result<SendEvent>>,
    size: usize,
    over: bool,
}

impl Turn {
    async fn next(&mut self) -> Option<Result<SendEvent>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            if let Err(error) = self.read().await {
                self.over = true;
                return Some(Err(error));
            }
        }
    }

    async fn read(&mut self) -> Result<()> {
        let frame = timeout(SILENCE, self.socket.next())
            .await
            .map_err(|_| no_answer("it was silent in the middle of a turn", SILENCE))?;
        match frame {
            Some(Ok(Message::Text(text))) => {
                self.size += text.len();
                if self.size > ANSWER_MAX {
                    return Err(Error::new(
                        Code::Unavailable,
                        format!("the claw's answer has more than {ANSWER_MAX} bytes"),
                    ));
                }
                self.over = self.answer.take(&text, &mut self.ready);
                Ok(())
            }
            Some(Ok(Message::Close(_))) | None => {
                Err(Error::new(Code::Unavailable, "the claw hung up in the middle of its answer")
                    .fix("send the message again; look at what it prints: clawfarm logs <id>"))
            }
            Some(Ok(_)) => Ok(()),
            Some(Err(e)) => Err(broken("the conversation broke in the middle of its answer", e)),
        }
    }
}

/// What the events of one turn said so far.
#[derive(Default)]
struct Answer {
    /// Something of the answer was streamed, so that the whole of it says nothing new.
    streamed: bool,
}

impl Answer {
    /// Takes one event; says whether it was the last.
    fn take(&mut self, frame: &str, out: &mut VecDeque<Result<SendEvent>>) -> bool {
        let Ok(event) = serde_json::from_str::<Value>(frame) else {
            out.push_back(Err(Error::new(
                Code::ClawFailed,
                format!("the claw sent an event that is no JSON: {}", shown(frame)),
            )));
            return true;
        };
        // The connection has a conversation of its own, which is not ours.
        if event["chat_id"].as_str().is_some_and(|chat| chat != CHAT) {
            return false;
        }
        match event["event"].as_str().unwrap_or_default() {
            "delta" => {
                if let Some(text) = event["text"].as_str().filter(|text| !text.is_empty()) {
                    self.streamed = true;
                    out.push_back(Ok(SendEvent::Text { text: text.to_owned() }));
                }
                false
            }
            "message" if !self.streamed && event["kind"].as_str().unwrap_or("answer") == "answer" => {
                if let Some(text) = event["text"].as_str().filter(|text| !text.is_empty()) {
                    out.push_back(Ok(SendEvent::Text { text: text.to_owned() }));
                }
                false
            }
            "turn_end" => {
                let usage = &event["usage"];
                out.push_back(Ok(SendEvent::Done {
                    input_tokens: usage["prompt_tokens"].as_u64(),
                    output_tokens: usage["completion_tokens"].as_u64(),
                }));
                true
            }
            "error" => {
                let said =
                    event["reason"].as_str().or(event["detail"].as_str()).unwrap_or("it did not say why");
                out.push_back(Err(Error::new(
                    Code::ClawFailed,
                    format!("the claw did not take the message: {}", shown(said)),
                )
                .fix("look at what it prints: clawfarm logs <id>")));
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(frames: &[&str]) -> (Vec<Result<SendEvent, String>>, bool) {
        let mut answer = Answer::default();
        let mut out = VecDeque::new();
        let over = frames.iter().any(|frame| answer.take(frame, &mut out));
        (out.into_iter().map(|e| e.map_err(|e| e.to_string())).collect(), over)
    }

    /// As 0.3.5 sent them.
    #[test]
    fn a_turn_is_told_in_its_pieces() {
        let (events, over) = said(&[
            r#"{"event": "ready", "chat_id": "ff412d15", "client_id": "clawfarm"}"#,
            r#"{"event": "goal_status", "chat_id": "clawfarm", "status": "running", "started_at": 1795308284.87}"#,
            r#"{"event": "delta", "chat_id": "clawfarm", "text": "hel", "stream_id": "s"}"#,
            r#"{"event": "delta", "chat_id": "another", "text": "not mine", "stream_id": "s"}"#,
            r#"{"event": "delta", "chat_id": "clawfarm", "text": "lo", "stream_id": "s"}"#,
            r#"{"event": "stream_end", "chat_id": "clawfarm", "stream_id": "s"}"#,
            r#"{"event": "message", "chat_id": "clawfarm", "text": "hello"}"#,
            r#"{"event": "turn_end", "chat_id": "clawfarm", "usage": {"prompt_tokens": 32444, "completion_tokens": 15}}"#,
        ]);
        let text = |t: &str| Ok(SendEvent::Text { text: t.into() });
        let done = Ok(SendEvent::Done { input_tokens: Some(32444), output_tokens: Some(15) });
        assert_eq!(events, [text("hel"), text("lo"), done]);
        assert!(over);
        // An answer that was not streamed comes whole.
        let (events, _) = said(&[r#"{"event": "message", "chat_id": "clawfarm", "text": "hello"}"#]);
        assert_eq!(events, [text("hello")]);
        let (events, over) = said(&[
            r#"{"event": "error", "detail": "message_rejected", "reason": "too long", "chat_id": "clawfarm"}"#,
        ]);
        assert!(over && events[0].as_ref().unwrap_err().contains("too long"));
    }

    #[test]
    fn an_answer_about_settings_is_told_from_what_else_it_says() {
        let of = |frame: &str| match answered(frame, "clawfarm-1") {
            None => "nothing".to_owned(),
            Some(Settings::Read(told)) => told["model_presets"].to_string(),
            Some(Settings::Refused(why)) => why,
            Some(Settings::Unknown) => "another version".to_owned(),
        };
        for (frame, says) in [
            (r#"{"event": "ready", "chat_id": "x"}"#, "nothing"),
            (
                r#"{"event": "webui_response", "request_id": "clawfarm-2", "ok": true, "result": {}}"#,
                "nothing",
            ),
            (
                r#"{"event": "webui_response", "request_id": "clawfarm-1", "ok": true, "result": {"model_presets": []}}"#,
                "[]",
            ),
            (
                r#"{"event": "webui_response", "request_id": "clawfarm-1", "ok": false, "error": {"status": 500, "message": "no"}}"#,
                "no",
            ),
            (
                r#"{"event": "webui_response", "request_id": "clawfarm-1", "ok": false, "error": {"status": 404, "message": "no"}}"#,
                "another version",
            ),
            (r#"{"event": "error", "detail": "invalid webui request_id"}"#, "invalid webui request_id"),
            ("no JSON", "nothing"),
        ] {
            assert_eq!(of(frame), says, "{frame}");
        }
    }

    #[test]
    fn what_it_works_on_and_when_it_is_next_due() {
        let sessions = json!({"sessions": [
            {"key": "websocket:a", "updated_at": "2026-11-22T00:44:53"},
            {"key": "websocket:b", "run_started_at": 1795308284.87},
        ]});
        assert_eq!(busy(&sessions), Activity::Busy(vec!["a turn of websocket:b".into()]));
        assert_eq!(busy(&json!({"sessions": []})), Activity::Idle);
        let jobs = json!({"jobs": [
            {"enabled": true, "state": {"next_run_at_ms": 2000}},
            {"enabled": true, "state": {"next_run_at_ms": 1000}},
            {"enabled": false, "state": {"next_run_at_ms": 1}},
            {"enabled": true, "state": {"next_run_at_ms": null}},
        ]});
        assert_eq!(next(&jobs), Some(Timestamp::from_millis(1000)));
        assert_eq!(next(&json!({"jobs": []})), None);
    }

    #[test]
    fn fuzz_events_of_nanobot() {
        let seeds = [
            r#"{"event": "delta", "chat_id": "clawfarm", "text": "hel"}"#,
            r#"{"event": "turn_end", "chat_id": "clawfarm", "usage": {"prompt_tokens": 1}}"#,
            r#"{"event": "error", "detail": "x"}"#,
        ];
        clawfarm_fuzz::fuzz_text(&seeds, |frame| {
            let (events, over) = said(&[frame]);
            assert!(events.len() <= 1 && (over || events.iter().all(Result::is_ok)), "{events:?}");
        });
    }
}
