//! A message of the claw's user, over a chat endpoint as OpenAI has it.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use clawfarm_model::{Code, Error, Result};
use futures::stream::{self, BoxStream, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::http::{Http, collect, no_answer};
use super::sse::Parser;
use super::text::shown;
use crate::{Dial, SendEvent};

/// How long a turn may be silent: OpenClaw's own limit for a turn is 10 minutes, and a tool
/// that works says nothing meanwhile.
const SILENCE: Duration = Duration::from_secs(660);
/// How long a claw that says "try again" is asked again: longer than the moment that asking
/// for its activity takes, and shorter than a person's patience.
const TRY_AGAIN: Duration = Duration::from_secs(3);
/// The largest answer in all, in bytes.
const ANSWER_MAX: usize = 16 << 20;
/// The largest refusal that is read, in bytes.
const REFUSAL_MAX: usize = 64 << 10;
/// The longest message, in bytes. OpenClaw takes bodies of 20 MiB.
const MESSAGE_MAX: usize = 1 << 20;
/// Names the conversation: the same user, the same conversation.
const USER: &str = "clawfarm";

/// Sends a message and streams the answer. `request` makes a request of a body; `model` is what
/// the claw's endpoint calls itself; `other` says from a refusal by which name it wants to be asked
/// instead.
///
/// # Errors
/// `InvalidInput` for a message that is empty or too long; `Unavailable` when it does not answer.
pub(crate) async fn send(
    dial: &dyn Dial,
    model: &str,
    message: &str,
    request: impl Fn(&Value) -> Result<http::Request<Full<Bytes>>> + Send,
    other: impl Fn(http::StatusCode, &[u8]) -> Option<String> + Send,
) -> Result<BoxStream<'static, Result<SendEvent>>> {
    if message.trim().is_empty() || message.len() > MESSAGE_MAX {
        return Err(Error::invalid("message", format!("a message of {} bytes can't be sent", message.len()))
            .fix(format!("send 1 to {MESSAGE_MAX} bytes of text")));
    }
    let mut body = json!({
        "model": model,
        "stream": true,
        "stream_options": { "include_usage": true },
        "user": USER,
        "messages": [{ "role": "user", "content": message }],
    });
    let deadline = Instant::now() + TRY_AGAIN;
    loop {
        let mut http = Http::open(dial).await?;
        let response = http.start(request(&body)?, SILENCE).await?;
        let status = response.status();
        if status.is_success() {
            return answer(http, response).await;
        }
        let refusal = collect(response.into_body(), REFUSAL_MAX).await.unwrap_or_default();
        if body["model"] == model
            && let Some(other) = other(status, &refusal)
        {
            body["model"] = other.into();
            continue;
        }
        // 503 comes before the message was looked at, so that sending it again can't double it.
        if status != http::StatusCode::SERVICE_UNAVAILABLE || Instant::now() >= deadline {
            return Err(refused(status, &refusal));
        }
        sleep(Duration::from_millis(250)).await;
    }
}

async fn answer(
    http: Http,
    response: http::Response<Incoming>,
) -> Result<BoxStream<'static, Result<SendEvent>>> {
    let kind =
        response.headers().get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("text/event-stream") {
        let kind = shown(kind);
        // Read and dropped: what it says is a page, not an error.
        let _ = collect(response.into_body(), REFUSAL_MAX).await;
        return Err(Error::new(
            Code::Unavailable,
            format!("the claw's chat endpoint answers with '{kind}': it is switched off"),
        )
        .fix("restart it, so that its configuration is mended: clawfarm restart <id>"));
    }
    let turn = Turn {
        _http: http,
        body: response.into_body(),
        parser: Parser::default(),
        answer: Answer::default(),
        ready: VecDeque::new(),
        size: 0,
        over: false,
    };
    Ok(stream::unfold(turn, |mut turn| async move { turn.next().await.map(|event| (event, turn)) }).boxed())
}

fn refused(status: http::StatusCode, body: &[u8]) -> Error {
    let said = match serde_json::from_slice::<Value>(body) {
        Ok(body) => shown(body["error"]["message"].as_str().unwrap_or("it did not say why")),
        Err(_) => shown(&String::from_utf8_lossy(body)),
    };
    let (code, fix) = match status.as_u16() {
        401 => (Code::Unavailable, "restart it, so that it takes the present token: clawfarm restart <id>"),
        429 => (Code::Overloaded, "try again in a minute"),
        503 => (Code::Unavailable, "it drains or restarts: try again when it is ready"),
        400..=499 => (Code::InvalidInput, "change the message"),
        _ => (Code::ClawFailed, "look at what it prints: clawfarm logs <id>"),
    };
    Error::new(code, format!("the claw did not take the message: {said} ({})", status.as_u16())).fix(fix)
}

/// A turn under way. Holds the connection: dropping it hangs up.
struct Turn {
    _http: Http,
    body: Incoming,
    parser: Parser,
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

    /// Reads the next piece, and what it completes.
    async fn read(&mut self) -> Result<()> {
        let frame = timeout(SILENCE, self.body.frame())
            .await
            .map_err(|_| no_answer("it was silent in the middle of a turn", SILENCE))?;
        let Some(frame) = frame else {
            return Err(Error::new(Code::Unavailable, "the claw hung up in the middle of its answer")
                .fix("send the message again; look at what it prints: clawfarm logs <id>"));
        };
        let frame = frame.map_err(|e| {
            Error::new(Code::Unavailable, "the connection to the claw broke in the middle of its answer")
                .fix("send the message again; look at what it prints: clawfarm logs <id>")
                .source(e)
        })?;
        let Ok(bytes) = frame.into_data() else { return Ok(()) };
        self.size += bytes.len();
        if self.size > ANSWER_MAX {
            return Err(Error::new(
                Code::Unavailable,
                format!("the claw's answer has more than {ANSWER_MAX} bytes"),
            ));
        }
        for data in self.parser.push(&bytes)? {
            self.over = self.answer.take(&data, &mut self.ready);
            if self.over {
                break;
            }
        }
        Ok(())
    }
}

/// What the events of one answer said so far.
#[derive(Default)]
struct Answer {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

impl Answer {
    /// Takes one event's data; says whether it was the last.
    fn take(&mut self, data: &str, out: &mut VecDeque<Result<SendEvent>>) -> bool {
        if data.trim() == "[DONE]" {
            out.push_back(Ok(SendEvent::Done {
                input_tokens: self.input_tokens,
                output_tokens: self.output_tokens,
            }));
            return true;
        }
        let Ok(event) = serde_json::from_str::<Value>(data) else {
            out.push_back(Err(Error::new(
                Code::ClawFailed,
                format!("the claw sent an event that is no JSON: {}", shown(data)),
            )));
            return true;
        };
        if let Some(error) = event.get("error").filter(|e| !e.is_null()) {
            let said = error["message"].as_str().or(error.as_str()).unwrap_or("it did not say why");
            out.push_back(Err(Error::new(
                Code::ClawFailed,
                format!("the claw could not answer: {}", shown(said)),
            )
            .fix("look at what it prints: clawfarm logs <id>")));
            return true;
        }
        if let Some(usage) = event.get("usage") {
            self.input_tokens = usage["prompt_tokens"].as_u64().or(self.input_tokens);
            self.output_tokens = usage["completion_tokens"].as_u64().or(self.output_tokens);
        }
        if let Some(text) = event["choices"][0]["delta"]["content"].as_str().filter(|t| !t.is_empty()) {
            out.push_back(Ok(SendEvent::Text { text: text.to_owned() }));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(events: &[&str]) -> (Vec<Result<SendEvent, String>>, bool) {
        let mut answer = Answer::default();
        let mut out = VecDeque::new();
        let over = events.iter().any(|e| answer.take(e, &mut out));
        (out.into_iter().map(|e| e.map_err(|e| e.to_string())).collect(), over)
    }

    #[test]
    fn fuzz_events_of_an_answer() {
        let seeds = [
            r#"{"choices":[{"delta":{"content":"hi"}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
            r#"{"error":{"message":"no"}}"#,
            "[DONE]",
        ];
        clawfarm_fuzz::fuzz_text(&seeds, |data| {
            let (events, over) = said(&[data]);
            assert!(events.len() <= 1 && (over || events.iter().all(Result::is_ok)), "{events:?}");
            if let Some(Err(why)) = events.first() {
                assert!(why.len() < 8_000 && !why.contains(char::is_control), "{why:?}");
            }
        });
    }

    #[test]
    fn text_usage_and_the_end() {
        let (events, over) = said(&[
            r#"{"choices":[{"index":0,"delta":{"role":"assistant"},"finish_reason":null}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"hel"},"finish_reason":null}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":null}]}"#,
            r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":15102,"completion_tokens":14}}"#,
            "[DONE]",
        ]);
        let text = |t: &str| Ok(SendEvent::Text { text: t.into() });
        let done = Ok(SendEvent::Done { input_tokens: Some(15102), output_tokens: Some(14) });
        assert_eq!(events, [text("hel"), text("lo"), done]);
        assert!(over);
    }

    #[test]
    fn an_error_event_ends_it() {
        let (events, over) =
            said(&[r#"{"error":{"message":"no model\u001b[31m","type":"api_error"}}"#, "[DONE]"]);
        assert!(over && events.len() == 1);
        let error = events[0].as_ref().unwrap_err();
        assert!(error.contains("no model") && !error.contains('\u{1b}'), "{error}");
        assert!(said(&["<html>"]).0[0].is_err());
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let body = br#"{"error":{"message":"Gateway is temporarily unavailable while suspending or restarting","type":"service_unavailable"}}"#;
        let error = refused(http::StatusCode::SERVICE_UNAVAILABLE, body);
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.message().contains("suspending") && error.fix_text().is_some());
        assert_eq!(refused(http::StatusCode::BAD_REQUEST, b"{}").code(), Code::InvalidInput);
    }
}
