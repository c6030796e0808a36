//! `POST /v1/chat/completions`: an echo, whole or word by word.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{Request, Response, StatusCode};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};

use super::http::{Body, event_stream, failure, json_response, read_json};
use super::{Chat, Gateway, Moment};
use crate::disk::now;

impl Gateway {
    pub(super) async fn chat(
        &self,
        request: Request<Incoming>,
        moment: &Moment,
    ) -> io::Result<Response<Body>> {
        if moment.up.suspension(moment.now).is_some() {
            let message = "Gateway is temporarily unavailable while suspending or restarting";
            return Ok(failure(StatusCode::SERVICE_UNAVAILABLE, message, "gateway_unavailable"));
        }
        if moment.now < moment.up.ready_at {
            return Ok(failure(
                StatusCode::SERVICE_UNAVAILABLE,
                "Gateway is starting",
                "gateway_unavailable",
            ));
        }
        let ask: Value = match read_json(request).await {
            Ok(ask) => ask,
            Err(message) => return Ok(failure(StatusCode::BAD_REQUEST, &message, "invalid_request_error")),
        };
        let Some(said) = last_message(&ask) else {
            return Ok(failure(StatusCode::BAD_REQUEST, "no user message", "invalid_request_error"));
        };
        let nth = self.chats.asked.fetch_add(1, Ordering::Relaxed);
        let behaviour = self.world.behaviour().map_err(io::Error::other)?;
        let time = moment
            .claw
            .answer_ms
            .map_or(0, |range| behaviour.draw(range, &[self.id.as_str(), "answer"], nth));
        let reply = Reply::new(self, nth, &said, Duration::from_millis(time));
        if ask["stream"] == json!(true) { Ok(reply.streamed()) } else { reply.whole().await }
    }
}

/// An answer under way.
struct Reply {
    gateway: Gateway,
    chat_id: String,
    words: Vec<String>,
    asked_tokens: usize,
    pause: Duration,
    _chat: Chat,
}

impl Reply {
    fn new(gateway: &Gateway, nth: u64, said: &str, time: Duration) -> Self {
        let text = format!("sim says: {said}");
        let words: Vec<String> = text.split_inclusive(' ').map(str::to_owned).collect();
        let pause = time / u32::try_from(words.len()).unwrap_or(u32::MAX).max(1);
        Self {
            chat_id: format!("chatcmpl_sim-{nth}"),
            asked_tokens: said.split_whitespace().count(),
            words,
            pause,
            _chat: gateway.chats.begin(&gateway.id),
            gateway: gateway.clone(),
        }
    }

    fn usage(&self) -> Value {
        let answered = self.words.len();
        json!({"prompt_tokens": self.asked_tokens, "completion_tokens": answered,
            "total_tokens": self.asked_tokens + answered})
    }

    async fn whole(self) -> io::Result<Response<Body>> {
        tokio::time::sleep(self.pause * u32::try_from(self.words.len()).unwrap_or(u32::MAX)).await;
        self.gateway.moment().await?;
        let body = json!({"id": self.chat_id, "object": "chat.completion", "created": now() / 1000,
            "model": "openclaw", "usage": self.usage(),
            "choices": [{"index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": self.words.concat()}}]});
        Ok(json_response(StatusCode::OK, &body))
    }

    fn streamed(self) -> Response<Body> {
        let chunks = stream::unfold((self, 0_usize), |(reply, nth)| async move {
            if nth > reply.words.len() {
                return None;
            }
            let chunk = reply.chunk(nth).await;
            Some((chunk.map(|text| Frame::data(Bytes::from(text))), (reply, nth + 1)))
        });
        event_stream(chunks)
    }

    /// The nth word, and behind the last one the end and the usage.
    async fn chunk(&self, nth: usize) -> io::Result<String> {
        let event = |choices: Value, usage: Option<Value>| {
            let mut event = json!({"id": self.chat_id, "object": "chat.completion.chunk",
                "created": now() / 1000, "model": "openclaw", "choices": choices});
            if let Some(usage) = usage {
                event["usage"] = usage;
            }
            format!("data: {event}\n\n")
        };
        let Some(word) = self.words.get(nth) else {
            let end = json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]);
            return Ok(event(end, None) + &event(json!([]), Some(self.usage())) + "data: [DONE]\n\n");
        };
        tokio::time::sleep(self.pause).await;
        // Frozen, it stops in the middle of the answer; ended, the connection breaks off.
        self.gateway.moment().await?;
        let mut delta = json!({"content": word});
        if nth == 0 {
            delta["role"] = json!("assistant");
        }
        Ok(event(json!([{"index": 0, "delta": delta, "finish_reason": null}]), None))
    }
}

/// The text of the last message of a user.
fn last_message(ask: &Value) -> Option<String> {
    let message = ask["messages"].as_array()?.iter().rev().find(|m| m["role"] == "user")?;
    match &message["content"] {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => Some(parts.iter().filter_map(|part| part["text"].as_str()).collect()),
        _ => None,
    }
}
