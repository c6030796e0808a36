//! A real browser for tests: Chromium without a window, driven by its debugging protocol.
//!
//! It has a profile of its own, which goes with it, and it asks nobody in the internet for anything.

use std::fs;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{SinkExt as _, StreamExt as _};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// How long anything may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(100);

/// A browser with one page open, ended when it is dropped. Its calls block.
pub struct Browser {
    child: Child,
    runtime: Runtime,
    socket: WebSocketStream<TcpStream>,
    session: String,
    asked: u64,
    _profile: TempDir,
}

impl Browser {
    /// Starts one; `more` are further options of Chromium's.
    ///
    /// # Panics
    /// When there is none or it does not start: `make test` installs it.
    #[must_use]
    pub fn new(more: &[&str]) -> Self {
        let profile = tempfile::Builder::new().prefix("cfb").tempdir().expect("a folder");
        let mut child = start(profile.path(), more);
        let endpoint = endpoint(profile.path(), &mut child);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let socket = runtime.block_on(async {
            let (address, _) = endpoint.split_once('/').expect("a port and a path");
            let stream = TcpStream::connect(address).await.expect("it listens");
            let opened = tokio_tungstenite::client_async(format!("ws://{endpoint}"), stream);
            timeout(LIMIT, opened).await.expect("it answers").expect("a WebSocket").0
        });
        let mut browser =
            Self { child, runtime, socket, session: String::new(), asked: 0, _profile: profile };
        let target = browser.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", &attach);
        browser.session = attached["sessionId"].as_str().expect("a session").to_owned();
        browser.call("Page.enable", &json!({}));
        browser
    }

    /// Goes to an address, and returns before all of it is there.
    ///
    /// # Panics
    /// When the address can't be reached at all.
    pub fn go(&mut self, address: &str) {
        let gone = self.call("Page.navigate", &json!({ "url": address }));
        assert!(gone["errorText"].is_null(), "{address}: {gone}");
    }

    /// What a script says, which may be a promise.
    ///
    /// # Panics
    /// When it throws.
    pub fn eval(&mut self, script: &str) -> Value {
        let asks = json!({ "expression": script, "returnByValue": true, "awaitPromise": true });
        let told = self.call("Runtime.evaluate", &asks);
        assert!(told["exceptionDetails"].is_null(), "{script}: {told}");
        told["result"]["value"].clone()
    }

    /// Waits until a script says true.
    ///
    /// # Panics
    /// When it does not in good time; it says what was to be seen instead.
    pub fn until(&mut self, what: &str, script: &str) {
        let begun = Instant::now();
        loop {
            let asks = json!({ "expression": script, "returnByValue": true, "awaitPromise": true });
            // Between two pages there is nothing to ask.
            let told = self.call("Runtime.evaluate", &asks);
            if told["result"]["value"] == true {
                return;
            }
            if begun.elapsed() > LIMIT {
                let (text, address) = (self.text(), self.address());
                panic!("waited {LIMIT:?} until {what}: {told}; {address} shows: {text}");
            }
            std::thread::park_timeout(PAUSE);
        }
    }

    /// Where it is.
    pub fn address(&mut self) -> String {
        self.eval("location.href").as_str().unwrap_or_default().to_owned()
    }

    /// The text that is to be seen.
    pub fn text(&mut self) -> String {
        self.eval(TEXT).as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a text is to be seen.
    ///
    /// # Panics
    /// When it is not in good time.
    pub fn until_text(&mut self, text: &str) {
        let wanted = serde_json::to_string(text).expect("text");
        self.until(&format!("'{text}' is to be seen"), &format!("({TEXT}).includes({wanted})"));
    }

    /// Whether a text comes to be seen within a time.
    pub fn comes(&mut self, text: &str, limit: Duration) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if self.text().contains(text) {
                return true;
            }
            std::thread::park_timeout(PAUSE);
        }
        false
    }

    /// Types where the cursor is.
    pub fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", &json!({ "text": text }));
    }

    /// Presses the enter key.
    pub fn press_enter(&mut self) {
        for kind in ["keyDown", "keyUp"] {
            let key = json!({
                "type": kind, "key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13,
            });
            self.call("Input.dispatchKeyEvent", &key);
        }
    }

    /// Writes what is to be seen as a PNG.
    ///
    /// # Panics
    /// When the file can't be written.
    pub fn screenshot(&mut self, path: &Path) {
        let shot = self.call("Page.captureScreenshot", &json!({ "format": "png" }));
        let bytes = STANDARD.decode(shot["data"].as_str().expect("a picture")).expect("base64");
        fs::write(path, bytes).expect("written");
    }

    /// Asks the browser, and waits for its answer.
    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.asked += 1;
        let mut asks = json!({ "id": self.asked, "method": method, "params": parameters });
        if !self.session.is_empty() {
            asks["sessionId"] = self.session.as_str().into();
        }
        let (socket, number) = (&mut self.socket, self.asked);
        let asked = async move {
            socket.send(Message::text(asks.to_string())).await.expect("it listens");
            // What it tells beside is of no interest.
            loop {
                let told = socket.next().await.expect("it is there").expect("a message");
                let Ok(text) = told.to_text() else { continue };
                let told: Value = serde_json::from_str(text).unwrap_or_default();
                if told["id"] == number {
                    return told;
                }
            }
        };
        let answer = self.runtime.block_on(async { timeout(LIMIT, asked).await });
        let answer = answer.unwrap_or_else(|_| panic!("{method} was not answered within {LIMIT:?}"));
        assert!(answer["error"].is_null(), "{method} {parameters}: {answer}");
        answer["result"].clone()
    }
}

/// The text of a page, as it is to be seen.
const TEXT: &str = "(document.body || document.documentElement).innerText";

fn start(profile: &Path, more: &[&str]) -> Child {
    let log = fs::File::create(profile.join("log")).expect("a file");
    Command::new("chromium")
        // The sandbox wants a user that is not root; what it is shown here is ours.
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
        .args(["--disable-sync", "--disable-extensions", "--window-size=1200,800"])
        .arg("--remote-debugging-port=0")
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(more)
        .arg("about:blank")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0)
        .spawn()
        .expect("chromium starts: `make test` installs it")
}

/// Where it can be driven: it says so in a file when it is ready.
fn endpoint(profile: &Path, child: &mut Child) -> String {
    let begun = Instant::now();
    loop {
        let text = fs::read_to_string(profile.join("DevToolsActivePort")).unwrap_or_default();
        if let Some((port, path)) = text.split_once('\n')
            && path.starts_with("/devtools/")
        {
            return format!("127.0.0.1:{port}{}", path.trim());
        }
        let ended = child.try_wait().expect("waited");
        if ended.is_some() || begun.elapsed() > LIMIT {
            let mut log = String::new();
            let _ = fs::File::open(profile.join("log")).and_then(|mut it| it.read_to_string(&mut log));
            panic!("chromium did not start ({ended:?}): {log}");
        }
        std::thread::park_timeout(PAUSE);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // All of its processes: they are one group.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}
