//! Commands in a simulated claw: a handful that need no process.
//!
//! `echo`, `cat`, `true`, `false`, `exit N`, `sleep SECONDS`, `size` (the terminal's), `read` (a
//! line, and says what it was), and without a command a shell that takes these line by line; and
//! Node, which is asked what OpenClaw thinks of a configuration. `bash -lc COMMANDS` does several
//! of them, up to the first that fails, and is printed as what the claw printed: so that a test can
//! count how often a command ran.

use std::time::Duration;

use bytes::Bytes;
use clawfarm_model::{ClawId, Error, Result};
use clawfarm_runtime::{ExecInput, ExecOutput, ExecRequest, ExecSession, TermSize};
use serde_json::json;
use tokio::sync::mpsc;

use crate::loaded::Loaded;

const KNOWN: [&str; 10] = ["echo", "cat", "true", "false", "exit", "sleep", "size", "read", "bash", "sync"];
/// How many pieces may wait on either side.
const DEPTH: usize = 16;
/// What a shell says of a command that is not there.
const NO_SUCH_COMMAND: i32 = 127;

pub(crate) fn run(id: &ClawId, request: ExecRequest) -> Result<ExecSession> {
    let shell = request.argv.is_empty();
    let judge = request.argv.first().is_some_and(|it| it.ends_with("/node"));
    if !shell && !judge && !KNOWN.contains(&request.argv[0].as_str()) {
        return Err(Error::not_found("command in a simulated claw", &request.argv[0])
            .fix(format!("use one of {}", KNOWN.join(", "))));
    }
    let (input, from_user) = mpsc::channel(DEPTH);
    let (to_user, output) = mpsc::channel(DEPTH);
    let mut session = Session { input: from_user, output: to_user, size: request.tty, rest: Vec::new() };
    let prompt = format!("{id} (simulated)$ ");
    tokio::spawn(async move {
        // An error here means that the user hung up: the command ends with it.
        let code = match (shell, judge) {
            (true, _) => session.shell(&prompt).await,
            (_, true) => session.judge().await,
            _ => session.command(&request.argv).await,
        };
        if let Some(code) = code {
            let _ = session.output.send(ExecOutput::Exit(code)).await;
        }
    });
    Ok(ExecSession { input, output })
}

struct Session {
    input: mpsc::Receiver<ExecInput>,
    output: mpsc::Sender<ExecOutput>,
    size: Option<TermSize>,
    /// What was typed and not used yet.
    rest: Vec<u8>,
}

impl Session {
    /// Runs one command; `None` when the user hung up.
    async fn command(&mut self, argv: &[String]) -> Option<i32> {
        let argument = argv.get(1).map_or("", String::as_str);
        match argv[0].as_str() {
            "echo" => self.print(&format!("{}\n", argv[1..].join(" "))).await.map(|()| 0),
            "cat" => self.cat().await,
            "true" | "sync" => Some(0),
            "false" => Some(1),
            "exit" => Some(argument.parse().unwrap_or(0)),
            "read" => {
                let Some(line) = self.line().await? else { return Some(1) };
                self.print(&format!("it was {line}\n")).await.map(|()| 0)
            }
            "bash" => Box::pin(self.script(argv.get(2).map_or("", String::as_str))).await,
            "sleep" => self.sleep(argument.parse().unwrap_or(0.0)).await,
            "size" => {
                let size = self.size.map_or_else(|| "none".to_owned(), |s| format!("{} {}", s.rows, s.cols));
                self.print(&format!("{size}\n")).await.map(|()| 0)
            }
            name => {
                self.print(&format!("{name}: no such command in a simulated claw\n")).await?;
                Some(NO_SUCH_COMMAND)
            }
        }
    }

    /// Commands with `&&` between them.
    async fn script(&mut self, text: &str) -> Option<i32> {
        for command in text.split("&&") {
            let argv: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
            let code = if argv.is_empty() { 0 } else { self.command(&argv).await? };
            if code != 0 {
                return Some(code);
            }
        }
        Some(0)
    }

    async fn shell(&mut self, prompt: &str) -> Option<i32> {
        let mut last = 0;
        loop {
            if self.size.is_some() {
                self.print(prompt).await?;
            }
            let Some(line) = self.line().await? else { return Some(last) };
            let argv: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            match argv.first().map(String::as_str) {
                None => {}
                Some("exit") => return Some(argv.get(1).and_then(|c| c.parse().ok()).unwrap_or(last)),
                Some(_) => last = self.command(&argv).await?,
            }
        }
    }

    /// The next line; the inner `None` at the end of the input.
    async fn line(&mut self) -> Option<Option<String>> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| matches!(b, b'\n' | b'\r')) {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            match self.input.recv().await? {
                ExecInput::Stdin(bytes) => {
                    self.rest.extend_from_slice(&bytes);
                    // A terminal shows what is typed.
                    if self.size.is_some() {
                        self.output.send(ExecOutput::Stdout(bytes)).await.ok()?;
                    }
                }
                ExecInput::Eof => return Some(None),
                ExecInput::Resize(size) => self.size = Some(size),
            }
        }
    }

    /// What OpenClaw says of the configuration that it is asked about: of one with `sim.invalid`
    /// that it is none. `sim.judge` is `garbage` or `silence` for no such answer.
    async fn judge(&mut self) -> Option<i32> {
        let line = self.line().await??;
        let asked: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let text = asked["document"].as_str().unwrap_or_default();
        let document: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        match document.pointer("/sim/judge").and_then(serde_json::Value::as_str) {
            Some("garbage") => return self.print("Killed\n").await.map(|()| 137),
            Some("silence") => {
                self.output.closed().await;
                return None;
            }
            _ => {}
        }
        let (said, code) = match Loaded::read(text.as_bytes()) {
            Ok(_) => (json!({"valid": true}), 0),
            Err(why) => (json!({"valid": false, "issues": [{"path": "sim.invalid", "message": why}]}), 1),
        };
        self.print(&format!("{said}\n")).await.map(|()| code)
    }

    async fn cat(&mut self) -> Option<i32> {
        loop {
            match self.input.recv().await? {
                ExecInput::Stdin(bytes) => self.output.send(ExecOutput::Stdout(bytes)).await.ok()?,
                ExecInput::Eof => return Some(0),
                ExecInput::Resize(size) => self.size = Some(size),
            }
        }
    }

    /// Sleeps, unless the user hangs up first.
    async fn sleep(&self, seconds: f64) -> Option<i32> {
        let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        tokio::select! {
            () = tokio::time::sleep(time) => Some(0),
            () = self.output.closed() => None,
        }
    }

    async fn print(&self, text: &str) -> Option<()> {
        let text = if self.size.is_some() { text.replace('\n', "\r\n") } else { text.to_owned() };
        self.output.send(ExecOutput::Stdout(Bytes::from(text))).await.ok()
    }
}
