//! What a message says of itself: in which conversation it is, what its service calls it, and
//! whether it is a question that needs an answer at once.

use clawfarm_model::inbox::Proof;
use http::request::Parts;
use serde::Deserialize;
use serde_json::{Value, json};

use super::header;

/// What a message says of itself.
#[derive(Debug)]
pub(super) struct Said {
    /// Its conversation: messages of one stay in order.
    pub(super) conversation: String,
    /// What its service calls it, and sends it again under.
    pub(super) number: Option<String>,
    /// The answer to a question about the address itself.
    pub(super) answer: Option<Value>,
    /// What the service wants to hear when the message was taken.
    pub(super) taken: Option<Value>,
}

/// Headers in which services number what they send: Stripe's and GitHub's own have been asked for
/// most; the last is of Standard Webhooks.
const NUMBERS: [&str; 4] =
    ["idempotency-key", "x-openclaw-idempotency-key", "x-github-delivery", "webhook-id"];

/// What a message says; `body` is in clear.
pub(super) fn of(proof: &Proof, parts: &Parts, body: &[u8]) -> Said {
    match proof {
        Proof::Unknown | Proof::Open | Proof::Token { .. } => Said {
            conversation: parts.uri.path().to_owned(),
            number: NUMBERS
                .iter()
                .find_map(|name| header(&parts.headers, name))
                .filter(|number| !number.trim().is_empty())
                .map(str::to_owned),
            ..Said::nothing()
        },
        Proof::Telegram { .. } => telegram(&document(body)),
        Proof::Slack { .. } => slack(parts, body),
        Proof::Discord { .. } => discord(&document(body)),
        Proof::Feishu { .. } => feishu(&document(body)),
    }
}

fn document(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_default()
}

/// A text or a number, as text.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// An update is one object beside its number: a message, a press of a button, a reaction.
fn telegram(update: &Value) -> Said {
    let chat = |it: &Value| {
        text(&it["chat"]["id"])
            .or_else(|| text(&it["message"]["chat"]["id"]))
            .or_else(|| text(&it["from"]["id"]))
    };
    let parts = update.as_object().into_iter().flatten();
    let conversation = parts.filter(|(_, value)| value.is_object()).find_map(|(_, value)| chat(value));
    Said {
        conversation: conversation.unwrap_or_default(),
        number: text(&update["update_id"]),
        ..Said::nothing()
    }
}

/// The fields of a form that Slack sends for commands and buttons.
#[derive(Default, Deserialize)]
struct Form {
    #[serde(default)]
    payload: String,
    #[serde(default)]
    channel_id: String,
    #[serde(default)]
    trigger_id: String,
}

fn slack(parts: &Parts, body: &[u8]) -> Said {
    let kind = header(&parts.headers, "content-type").unwrap_or_default();
    if kind.starts_with("application/x-www-form-urlencoded") {
        let form: Form = serde_html_form::from_bytes(body).unwrap_or_default();
        let payload = document(form.payload.as_bytes());
        let conversation = text(&payload["channel"]["id"]).or_else(|| text(&payload["user"]["id"]));
        let number = text(&payload["trigger_id"]).unwrap_or(form.trigger_id);
        return Said {
            conversation: conversation.unwrap_or(form.channel_id),
            number: (!number.is_empty()).then_some(number),
            ..Said::nothing()
        };
    }
    let event = document(body);
    let inner = &event["event"];
    let conversation = text(&inner["channel"])
        .or_else(|| text(&inner["channel"]["id"]))
        .or_else(|| text(&inner["item"]["channel"]))
        .or_else(|| text(&inner["user"]));
    Said {
        conversation: conversation.unwrap_or_default(),
        number: text(&event["event_id"]),
        answer: (event["type"] == "url_verification").then(|| json!({ "challenge": event["challenge"] })),
        taken: None,
    }
}

/// <https://docs.discord.com/developers/interactions/receiving-and-responding>
fn discord(interaction: &Value) -> Said {
    let taken = match interaction["type"].as_u64() {
        // A press of a button: the message stays as it is until the claw changes it.
        Some(3) => json!({ "type": 6 }),
        // Suggestions while somebody types can't come later.
        Some(4) => json!({ "type": 8, "data": { "choices": [] } }),
        // "is thinking", until the claw answers.
        _ => json!({ "type": 5 }),
    };
    Said {
        conversation: text(&interaction["channel_id"]).unwrap_or_default(),
        number: text(&interaction["id"]),
        answer: (interaction["type"] == 1).then(|| json!({ "type": 1 })),
        taken: Some(taken),
    }
}

fn feishu(event: &Value) -> Said {
    let inner = &event["event"];
    let conversation = text(&inner["message"]["chat_id"])
        .or_else(|| text(&inner["chat_id"]))
        .or_else(|| text(&inner["open_chat_id"]))
        .or_else(|| text(&inner["file_token"]));
    Said {
        conversation: conversation.unwrap_or_default(),
        number: text(&event["header"]["event_id"]).or_else(|| text(&event["uuid"])),
        answer: (event["type"] == "url_verification").then(|| json!({ "challenge": event["challenge"] })),
        taken: Some(json!({})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(proof: &Proof, headers: &[(&str, &str)], body: &str) -> (String, Option<String>, Option<Value>) {
        let mut request = http::Request::builder().uri("/hooks/agent?x=y");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let said = of(proof, &request.body(()).unwrap().into_parts().0, body.as_bytes());
        (said.conversation, said.number, said.answer)
    }

    #[test]
    fn conversations_and_numbers() {
        let telegram = Proof::Telegram { secret: "s".into() };
        let slack = Proof::Slack { secret: "s".into() };
        let discord = Proof::Discord { public_key: String::new() };
        let feishu = Proof::Feishu { token: "t".into(), encrypt_key: None };
        let token = Proof::Token { token: "t".into(), header: None };
        let form = [("content-type", "application/x-www-form-urlencoded")];
        for (proof, headers, body, conversation, number) in [
            (
                &telegram,
                &[][..],
                r#"{"update_id":7,"message":{"chat":{"id":-100},"text":"x"}}"#,
                "-100",
                Some("7"),
            ),
            (
                &telegram,
                &[],
                r#"{"update_id":8,"callback_query":{"from":{"id":1},"message":{"chat":{"id":5}}}}"#,
                "5",
                Some("8"),
            ),
            (&telegram, &[], r#"{"update_id":9,"inline_query":{"from":{"id":3}}}"#, "3", Some("9")),
            (&telegram, &[], "no json", "", None),
            (&slack, &[], r#"{"event_id":"Ev1","event":{"channel":"C1","user":"U1"}}"#, "C1", Some("Ev1")),
            (&slack, &[], r#"{"event_id":"Ev2","event":{"item":{"channel":"C2"}}}"#, "C2", Some("Ev2")),
            (
                &slack,
                &form,
                "payload=%7B%22channel%22%3A%7B%22id%22%3A%22C3%22%7D%2C%22trigger_id%22%3A%22t3%22%7D",
                "C3",
                Some("t3"),
            ),
            (&slack, &form, "channel_id=C4&trigger_id=t4&command=%2Fx", "C4", Some("t4")),
            (&discord, &[], r#"{"type":2,"id":"12","channel_id":"34"}"#, "34", Some("12")),
            (
                &feishu,
                &[],
                r#"{"header":{"event_id":"e1"},"event":{"message":{"chat_id":"oc_1"}}}"#,
                "oc_1",
                Some("e1"),
            ),
            (&token, &[], "{}", "/hooks/agent", None),
            (&token, &[("idempotency-key", "k1")], "{}", "/hooks/agent", Some("k1")),
            (&token, &[("x-github-delivery", "g1")], "{}", "/hooks/agent", Some("g1")),
        ] {
            let (is, named, answer) = said(proof, headers, body);
            assert_eq!((is.as_str(), named.as_deref(), answer), (conversation, number, None), "{body}");
        }
    }

    #[test]
    fn questions_about_the_address_are_answered() {
        let slack = Proof::Slack { secret: "s".into() };
        let asked = r#"{"type":"url_verification","challenge":"c1"}"#;
        assert_eq!(said(&slack, &[], asked).2, Some(json!({"challenge": "c1"})));
        let feishu = Proof::Feishu { token: "t".into(), encrypt_key: None };
        assert_eq!(said(&feishu, &[], asked).2, Some(json!({"challenge": "c1"})));
        let discord = Proof::Discord { public_key: String::new() };
        assert_eq!(said(&discord, &[], r#"{"type":1}"#).2, Some(json!({"type": 1})));
    }
}
