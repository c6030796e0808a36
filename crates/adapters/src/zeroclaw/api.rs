//! What ZeroClaw's gateway is asked and told once it runs.

use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::shared::http::{Http, Response, request};
use crate::shared::text::shown;
use crate::{Access, Activity, SendEvent};

/// How long one question may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long a turn may take: as long as its gateway waits for one.
const TURN: Duration = Duration::from_secs(670);
/// The largest answer, in bytes.
const MAX: usize = 16 << 20;
/// The longest message, in bytes: its gateway takes bodies of 64 KiB.
const MESSAGE_MAX: usize = 60 << 10;
/// Names the conversation: the same one, the same conversation.
const SESSION: &str = "clawfarm";
/// How often a drain is looked at.
const POLL: Duration = Duration::from_millis(500);

/// What its conversations are doing.
pub(super) async fn activity(access: &Access<'_>) -> Result<Activity> {
    let mut http = Http::open(access.dial).await?;
    let request = request(Method::GET, "/api/sessions/running", Some(access.token), None)?;
    let answer = told(&http.whole(request, LIMIT, MAX).await?)?;
    Ok(busy(&answer))
}

fn busy(answer: &Value) -> Activity {
    let sessions = answer["sessions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let running: Vec<String> = sessions
        .iter()
        .take(20)
        .map(|session| {
            format!("a turn of {}", shown(session["session_id"].as_str().unwrap_or("a conversation")))
        })
        .collect();
    if running.is_empty() { Activity::Idle } else { Activity::Busy(running) }
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

/// Sends a message; its answer comes whole.
pub(super) async fn send(
    access: &Access<'_>,
    message: &str,
) -> Result<BoxStream<'static, Result<SendEvent>>> {
    if message.trim().is_empty() || message.len() > MESSAGE_MAX {
        return Err(Error::invalid("message", format!("a message of {} bytes can't be sent", message.len()))
            .fix(format!("send 1 to {MESSAGE_MAX} bytes of text")));
    }
    let body = json!({ "message": message });
    let mut asked = request(Method::POST, "/webhook", Some(access.token), Some(&body))?;
    asked.headers_mut().insert("x-session-id", http::HeaderValue::from_static(SESSION));
    let mut http = Http::open(access.dial).await?;
    let answer = told(&http.whole(asked, TURN, MAX).await?)?;
    let Some(text) = answer["response"].as_str() else {
        return Err(Error::new(Code::ClawFailed, "the claw's answer has no text")
            .fix("look at what it prints: clawfarm logs <id>"));
    };
    let events = [
        Ok(SendEvent::Text { text: text.to_owned() }),
        Ok(SendEvent::Done { input_tokens: None, output_tokens: None }),
    ];
    Ok(stream::iter(events).boxed())
}

/// What an answer says, or why there is none.
fn told(response: &Response) -> Result<Value> {
    let body = serde_json::from_slice::<Value>(&response.body).unwrap_or_default();
    let status = response.status.as_u16();
    if response.status.is_success() && body.is_object() {
        return Ok(body);
    }
    let said = shown(body["error"].as_str().unwrap_or("it did not say why"));
    let (code, fix) = match status {
        401 | 403 => {
            (Code::Unavailable, "restart it, so that it takes the present token: clawfarm restart <id>")
        }
        429 => (Code::Overloaded, "try again in a minute"),
        400 | 413 | 422 => (Code::InvalidInput, "change the message"),
        200..=299 => (Code::ClawFailed, "use the version that clawfarm knows"),
        _ => (Code::ClawFailed, "look at what it prints: clawfarm logs <id>"),
    };
    Err(Error::new(code, format!("the claw did not answer: {said} ({status})")).fix(fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &str) -> Response {
        Response { status: status.try_into().unwrap(), body: body.to_owned().into() }
    }

    #[test]
    fn what_it_answers_is_told() {
        assert_eq!(told(&response(200, r#"{"response": "hi"}"#)).unwrap()["response"], "hi");
        for (status, body, code) in [
            (401, r#"{"error": "Unauthorized"}"#, Code::Unavailable),
            (429, "{}", Code::Overloaded),
            (400, r#"{"error": "no\u001b[31m"}"#, Code::InvalidInput),
            (500, r#"{"error": "LLM request failed"}"#, Code::ClawFailed),
            (200, "<html>", Code::ClawFailed),
        ] {
            let error = told(&response(status, body)).unwrap_err();
            assert_eq!(error.code(), code, "{status}");
            assert!(error.fix_text().is_some() && !error.message().contains('\u{1b}'));
        }
        assert_eq!(busy(&json!({"sessions": []})), Activity::Idle);
        let running = json!({"sessions": [{"session_id": "a", "message_count": 2}]});
        assert_eq!(busy(&running), Activity::Busy(vec!["a turn of a".into()]));
    }

    #[test]
    fn fuzz_answers_of_zeroclaw() {
        clawfarm_fuzz::fuzz_text(
            &[r#"{"response": "hi"}"#, r#"{"sessions": [{"session_id": "a"}]}"#],
            |body| {
                for status in [200, 500] {
                    if let Err(error) = told(&response(status, body)) {
                        assert!(error.message().len() < 1_000 && !error.message().contains(char::is_control));
                    }
                }
                let _ = busy(&serde_json::from_str(body).unwrap_or_default());
            },
        );
    }
}
