//! A stand-in for a model that speaks OpenAI's protocol: it answers each chat with its own name.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use serde_json::{Value, json};

/// The stand-in; its threads end with the test's process.
pub(crate) struct Model {
    port: u16,
}

impl Model {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listener.local_addr().expect("an address").port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || attend(&stream));
            }
        });
        Self { port }
    }

    /// What a provider is given as its address.
    pub(crate) fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }
}

/// Answers one request, and closes: a caller that goes away breaks nothing.
fn attend(mut stream: &TcpStream) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() {
        return;
    }
    let mut length = 0;
    loop {
        let mut header = String::new();
        match reader.read_line(&mut header) {
            Ok(read) if read > 2 => {}
            _ => break,
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
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let answer = if line.contains("/chat/completions") { chat(&asked) } else { models() };
    let _ = stream.write_all(answer.as_bytes());
}

fn models() -> String {
    whole("application/json", &json!({"object": "list", "data": []}).to_string())
}

fn chat(asked: &Value) -> String {
    let model = asked["model"].as_str().unwrap_or("nobody");
    let text = format!("I am {model}");
    let usage = json!({"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4});
    if asked["stream"] != true {
        let message = json!({"role": "assistant", "content": text});
        let answer = json!({"id": "chat-1", "object": "chat.completion", "model": model, "created": 1,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage});
        return whole("application/json", &answer.to_string());
    }
    let piece = |delta: Value, end: Value| {
        json!({"id": "chat-1", "object": "chat.completion.chunk", "model": model, "created": 1,
            "choices": [{"index": 0, "delta": delta, "finish_reason": end}]})
    };
    let last = json!({"id": "chat-1", "object": "chat.completion.chunk", "model": model, "created": 1,
        "choices": [], "usage": usage});
    let pieces = [
        piece(json!({"role": "assistant", "content": text}), Value::Null),
        piece(json!({}), json!("stop")),
        last,
    ];
    let mut stream: String = pieces.iter().map(|piece| format!("data: {piece}\n\n")).collect();
    stream.push_str("data: [DONE]\n\n");
    whole("text/event-stream", &stream)
}

fn whole(kind: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
