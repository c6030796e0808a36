//! clawfarm's demo model: answers without a key, thinks nothing, and says so.
//!
//! It speaks as much of OpenAI's chat protocol as a claw asks of a model, so that a newcomer
//! sees the whole way of a message: person, claw, model, claw, person. Pure functions: the
//! server's handler reads the request, and sends (and waits) as it is told here.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

/// The model's name, as in `/demo/v1/models`.
pub const MODEL: &str = "demo";
/// The largest request body that is worth reading, in bytes. OpenClaw's first request has
/// 60 kB, most of it instructions and tools; a long conversation a few times that.
pub const MAX_REQUEST_BYTES: usize = 8 << 20;
/// The longest it can be asked to take, in seconds.
pub const MAX_WAIT_SECS: u64 = 120;
/// How many characters of a message are echoed.
const ECHO_CHARS: usize = 500;
/// How many characters of the first message are quoted.
const BEGAN_CHARS: usize = 120;
/// While it waits it says that it is still there this often.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// A request for a chat completion, as far as the demo model looks at it.
#[derive(Clone, Debug, Deserialize)]
pub struct ChatRequest {
    /// The model that was asked for; echoed.
    #[serde(default)]
    pub model: Option<String>,
    /// The conversation.
    #[serde(default)]
    pub messages: Vec<ChatMessage>,
    /// Whether the answer is wanted in pieces.
    #[serde(default)]
    pub stream: Option<bool>,
    /// What the pieces should hold beside the text.
    #[serde(default)]
    pub stream_options: Option<StreamOptions>,
}

/// One message of the conversation.
#[derive(Clone, Debug, Deserialize)]
pub struct ChatMessage {
    /// Whose it is: `system`, `user`, `assistant`, `tool`.
    #[serde(default)]
    pub role: String,
    /// A text, or parts of which some are texts.
    #[serde(default)]
    pub content: Value,
}

/// What a streamed answer should hold beside the text.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct StreamOptions {
    /// A last piece with the tokens that were used.
    #[serde(default)]
    pub include_usage: Option<bool>,
}

/// What the demo model answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// How long it was asked to take.
    pub wait: Duration,
    /// About how many tokens the request has, at four characters each.
    pub prompt_tokens: u64,
    /// About how many the answer has.
    pub completion_tokens: u64,
}

/// One step of a streamed answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this; whole server-sent events.
    Send(String),
    /// Wait this long.
    Wait(Duration),
}

/// Answers a request.
#[must_use]
pub fn answer(request: &ChatRequest) -> Answer {
    let said: Vec<String> = request
        .messages
        .iter()
        .filter(|m| m.role == "user")
        .map(|m| clean(&text_of(&m.content)))
        .filter(|t| !t.is_empty())
        .collect();
    let text = reply(&said);
    let wait = said.last().map_or(Duration::ZERO, |last| wanted_wait(last));
    let characters: usize = request.messages.iter().map(|m| text_of(&m.content).len()).sum();
    Answer { prompt_tokens: tokens(characters), completion_tokens: tokens(text.len()), text, wait }
}

fn reply(said: &[String]) -> String {
    let label = "[clawfarm demo model]";
    let (Some(first), Some(last)) = (said.first(), said.last()) else {
        return format!(
            "{label} I was sent no message. I am a stand-in without a mind, so that you can see a claw work without a key."
        );
    };
    let last = shorten(last, ECHO_CHARS);
    if said.len() == 1 {
        return format!(
            "{label} You said: {last}\nThis is the first message of our conversation. I am a stand-in without a mind; give the claw a provider and a key, and it thinks."
        );
    }
    let first = shorten(first, BEGAN_CHARS);
    format!(
        "{label} You said: {last}\nThis is message {} of our conversation; it began with: {first}",
        said.len()
    )
}

fn tokens(characters: usize) -> u64 {
    u64::try_from(characters / 4).unwrap_or(u64::MAX).max(1)
}

fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", text[..at].trim_end()),
        None => text.to_owned(),
    }
}

/// The texts of a message's content.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|p| p["text"].as_str().or(p.as_str())).collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

/// Begins what a claw adds to its person's message for the model, and ends it.
const INTERNAL: (&str, &str) =
    ("<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>", "<<<END_OPENCLAW_INTERNAL_CONTEXT>>>");
/// Marks the headings of context that OpenClaw puts before a message.
const CONTEXT_MARK: &str = "⟦openclaw:ctx⟧";

/// What the person wrote, without what OpenClaw put around it.
fn clean(text: &str) -> String {
    let text = without_blocks(text, INTERNAL.0, INTERNAL.1);
    let mut kept: Vec<&str> = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let heading = line.trim_end().ends_with(CONTEXT_MARK) || line.starts_with("Conversation info:");
        if heading {
            if lines.peek().is_some_and(|next| next.starts_with("```")) {
                lines.next();
                lines.by_ref().find(|inner| inner.starts_with("```"));
            }
        } else if !line.starts_with("Runtime: agent=") {
            kept.push(line);
        }
    }
    let joined = kept.join("\n");
    without_stamp(joined.trim()).trim().to_owned()
}

/// The text without every block from `begin` to `end`; one that does not end goes to the end.
fn without_blocks(text: &str, begin: &str, end: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, block)) = rest.split_once(begin) {
        out.push_str(before);
        rest = block.split_once(end).map_or("", |(_, after)| after);
    }
    out.push_str(rest);
    out
}

/// The text without a stamp such as `[Sat 2026-11-21 02:16 UTC]` before it.
fn without_stamp(text: &str) -> &str {
    let Some((stamp, rest)) = text.strip_prefix('[').and_then(|t| t.split_once(']')) else { return text };
    let has_date = stamp.split_whitespace().any(|word| {
        word.len() == 10
            && word
                .bytes()
                .enumerate()
                .all(|(i, b)| if i == 4 || i == 7 { b == b'-' } else { b.is_ascii_digit() })
    });
    if has_date && stamp.len() <= 120 { rest } else { text }
}

/// How long a message asks the answer to take: `SLEEP 20`, `please take 20 seconds`.
fn wanted_wait(text: &str) -> Duration {
    let words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
        .take(1000)
        .map(str::to_ascii_lowercase)
        .collect();
    let asked = words.windows(3).find_map(|w| {
        let unit = matches!(w[2].as_str(), "s" | "sec" | "secs" | "second" | "seconds");
        (w[0] == "take" && unit).then(|| w[1].parse::<u64>().ok()).flatten()
    });
    let asked = asked
        .or_else(|| words.windows(2).find_map(|w| (w[0] == "sleep").then(|| w[1].parse().ok()).flatten()));
    Duration::from_secs(asked.unwrap_or(0).min(MAX_WAIT_SECS))
}

impl Answer {
    /// The answer in one body, to be sent after [`Answer::wait`]. `id` is a name for it,
    /// `created` its time in seconds since the epoch.
    #[must_use]
    pub fn body(&self, request: &ChatRequest, id: &str, created: i64) -> Value {
        json!({
            "id": id, "object": "chat.completion", "created": created, "model": model(request),
            "choices": [{
                "index": 0,
                "message": { "role": "assistant", "content": self.text },
                "finish_reason": "stop",
            }],
            "usage": self.usage(),
        })
    }

    /// The answer as steps of a stream: a first piece at once, a sign of life each second of
    /// the wait, the words, the end, the usage when it was asked for.
    #[must_use]
    pub fn steps(&self, request: &ChatRequest, id: &str, created: i64) -> Vec<Step> {
        let chunk = |choices: Value, usage: Option<Value>| {
            let mut chunk = json!({
                "id": id, "object": "chat.completion.chunk", "created": created, "model": model(request),
                "choices": choices,
            });
            if let Some(usage) = usage {
                chunk["usage"] = usage;
            }
            Step::Send(format!("data: {chunk}\n\n"))
        };
        let delta = |delta: Value, finish: Option<&str>| {
            chunk(json!([{ "index": 0, "delta": delta, "finish_reason": finish }]), None)
        };
        let mut steps = vec![delta(json!({ "role": "assistant", "content": "" }), None)];
        let mut left = self.wait;
        while !left.is_zero() {
            let nap = left.min(KEEPALIVE);
            // A comment: whoever reads knows that the connection lives, and is told nothing.
            steps.extend([
                Step::Wait(nap),
                Step::Send(": the demo model was asked to take its time\n\n".to_owned()),
            ]);
            left -= nap;
        }
        steps.extend(
            self.text
                .split_inclusive(char::is_whitespace)
                .map(|word| delta(json!({ "content": word }), None)),
        );
        steps.push(delta(json!({}), Some("stop")));
        if request.stream_options.is_some_and(|o| o.include_usage == Some(true)) {
            steps.push(chunk(json!([]), Some(self.usage())));
        }
        steps.push(Step::Send("data: [DONE]\n\n".to_owned()));
        steps
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens.saturating_add(self.completion_tokens),
        })
    }
}

/// The model's name as it was asked for, so that the claw finds what it expects.
fn model(request: &ChatRequest) -> String {
    request.model.as_deref().unwrap_or(MODEL).chars().take(100).collect()
}

/// The body of a list of models.
#[must_use]
pub fn models() -> Value {
    json!({ "object": "list", "data": [{ "id": MODEL, "object": "model", "created": 0, "owned_by": "clawfarm" }] })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What OpenClaw 2026.9.6 sent for the third message of a conversation, with its
    /// instructions and tools cut short.
    const CAPTURED: &str = include_str!("../tests/fixtures/openclaw-chat-request.json");

    fn request(messages: &Value) -> ChatRequest {
        serde_json::from_value(json!({ "model": "demo", "messages": messages })).unwrap()
    }

    fn sent(steps: &[Step]) -> Vec<Value> {
        steps
            .iter()
            .filter_map(|s| match s {
                Step::Send(text) => text.strip_prefix("data: "),
                Step::Wait(_) => None,
            })
            .filter(|data| data.trim() != "[DONE]")
            .map(|data| serde_json::from_str(data.trim()).unwrap())
            .collect()
    }

    #[test]
    fn answers_what_a_real_claw_sends() {
        let request: ChatRequest = serde_json::from_str(CAPTURED).unwrap();
        let answer = answer(&request);
        assert_eq!(
            answer.text,
            "[clawfarm demo model] You said: the third one\nThis is message 3 of our conversation; it began with: hello there"
        );
        assert_eq!(answer.wait, Duration::ZERO);
        let steps = answer.steps(&request, "c1", 1);
        assert_eq!(steps.last(), Some(&Step::Send("data: [DONE]\n\n".into())));
        let chunks = sent(&steps);
        let text: String =
            chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(text, answer.text);
        assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "stop");
        assert!(chunks.last().unwrap()["usage"]["prompt_tokens"].as_u64().unwrap() > 1);
        assert_eq!(answer.body(&request, "c1", 1)["choices"][0]["message"]["content"], answer.text);
    }

    #[test]
    fn says_what_it_is() {
        for messages in [
            json!([]),
            json!([{"role": "user", "content": "hi"}]),
            json!([{"role": "system", "content": "x"}]),
        ] {
            let text = answer(&request(&messages)).text;
            assert!(text.starts_with("[clawfarm demo model]") && text.contains("without a mind"), "{text}");
        }
    }

    #[test]
    fn what_the_claw_adds_is_not_echoed() {
        for (sent, said) in [
            ("[Sat 2026-11-21 02:16 UTC] ping", "ping"),
            ("[no stamp] ping", "[no stamp] ping"),
            ("ping\n\nRuntime: agent=main | session=x", "ping"),
            ("Conversation info: ⟦openclaw:ctx⟧\n```json\n{\"a\": 1}\n```\n\nping", "ping"),
            ("Sender: ⟦openclaw:ctx⟧\nping", "ping"),
            ("```json\n{}\n```", "```json\n{}\n```"),
            ("a<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>x<<<END_OPENCLAW_INTERNAL_CONTEXT>>>b", "ab"),
            ("a<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>never ended", "a"),
        ] {
            assert_eq!(clean(sent), said, "{sent}");
        }
    }

    #[test]
    fn takes_its_time_when_asked() {
        for (text, secs) in [
            ("SLEEP 20", 20),
            ("please take 20 seconds", 20),
            ("Take five, please: sleep 9", 9),
            ("take 3 s", 3),
            ("take 99999999 seconds", MAX_WAIT_SECS),
            ("take 99999999999999999999999 seconds", 0),
            ("I sleep well, take 2 pills", 0),
        ] {
            assert_eq!(wanted_wait(text).as_secs(), secs, "{text}");
        }
        let request =
            request(&json!([{"role": "user", "content": "sleep 3"}, {"role": "assistant", "content": "…"}]));
        let steps = answer(&request).steps(&request, "c", 1);
        let waited: Duration =
            steps.iter().map(|s| if let Step::Wait(d) = s { *d } else { Duration::ZERO }).sum();
        assert_eq!(waited, Duration::from_secs(3));
        assert!(matches!(steps[0], Step::Send(_)), "something is sent before it waits");
    }

    #[test]
    fn long_messages_are_cut() {
        let long = "é".repeat(100_000);
        let text =
            answer(&request(&json!([{"role": "user", "content": long}, {"role": "user", "content": long}])))
                .text;
        assert!(text.chars().count() < ECHO_CHARS + BEGAN_CHARS + 200);
    }

    #[test]
    fn usage_is_sent_only_when_asked_for() {
        let request = request(&json!([{"role": "user", "content": "hi"}]));
        assert!(sent(&answer(&request).steps(&request, "c", 1)).iter().all(|c| c.get("usage").is_none()));
    }

    proptest! {
        /// No message makes it panic or answer without end.
        #[test]
        fn takes_any_text(texts in prop::collection::vec("(\\PC|\n|\\[|\\]|<<<|```){0,60}", 0..5)) {
            let messages: Vec<_> = texts.iter().map(|t| json!({"role": "user", "content": t})).collect();
            let request = request(&messages.into());
            let answer = answer(&request);
            prop_assert!(answer.text.starts_with("[clawfarm demo model]"));
            let chunks = sent(&answer.steps(&request, "c", 1));
            let text: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
            prop_assert_eq!(text, answer.text);
        }
    }

    #[test]
    fn fuzz_requests_to_the_demo_model() {
        let seeds: [&[u8]; 2] = [
            br#"{"model":"demo","messages":[{"role":"user","content":"hello"}],"stream":true}"#,
            br#"{"model":"demo","messages":[{"role":"user","content":[{"type":"text","text":"[wait 3s] hi ```x```"}]}],"stream_options":{"include_usage":true}}"#,
        ];
        clawfarm_fuzz::fuzz(&seeds, |bytes| {
            let Ok(request) = serde_json::from_slice::<ChatRequest>(bytes) else { return };
            let answer = answer(&request);
            assert!(answer.text.len() < 100_000);
            let steps = answer.steps(&request, "id", 0);
            assert!(steps.last() == Some(&Step::Send("data: [DONE]\n\n".to_owned())));
        });
    }
}
