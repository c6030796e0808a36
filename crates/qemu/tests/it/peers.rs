//! The conversation with what only pretends to be a machine.

use std::path::PathBuf;
use std::time::Duration;

use clawfarm_model::Code;
use clawfarm_qemu::Qmp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::support::LIMIT;

const GREETING: &str =
    r#"{"QMP":{"version":{"qemu":{"micro":0,"minor":0,"major":9},"package":""},"capabilities":[]}}"#;

struct Peer {
    _folder: TempDir,
    path: PathBuf,
    listener: UnixListener,
}

impl Peer {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("cfq").tempdir_in("/tmp").unwrap();
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        Self { _folder: folder, path, listener }
    }

    async fn accept(&self) -> Talk {
        let (stream, _) = self.listener.accept().await.unwrap();
        Talk(BufReader::new(stream))
    }

    /// Both sides of a conversation that began well.
    async fn talk(&self) -> (Qmp, Talk) {
        let greets = async {
            let mut talk = self.accept().await;
            talk.say(GREETING).await;
            let asked = talk.hears().await;
            assert_eq!(asked["execute"], "qmp_capabilities");
            talk.say(&json!({"return": {}, "id": asked["id"]}).to_string()).await;
            talk
        };
        let (qmp, talk) = tokio::join!(Qmp::connect(&self.path, LIMIT), greets);
        (qmp.unwrap(), talk)
    }
}

struct Talk(BufReader<UnixStream>);

impl Talk {
    async fn say(&mut self, line: &str) {
        self.0.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    }

    async fn hears(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

#[tokio::test]
async fn one_that_never_greets() {
    let peer = Peer::new();
    let error = Qmp::connect(&peer.path, Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(error.code(), Code::Timeout);
    assert!(error.fix_text().unwrap().contains("another program"), "{error}");
}

#[tokio::test]
async fn one_that_greets_with_something_else() {
    for said in ["SSH-2.0-OpenSSH_9.2", "{}", "{\"return\":{},\"id\":1}", "", "[[[[[[[[["] {
        let peer = Peer::new();
        let says = async {
            let mut talk = peer.accept().await;
            talk.say(said).await;
        };
        let (qmp, ()) = tokio::join!(Qmp::connect(&peer.path, LIMIT), says);
        assert_eq!(qmp.unwrap_err().code(), Code::Unavailable, "{said}");
    }
}

#[tokio::test]
async fn one_that_talks_nonsense_is_left_and_says_why() {
    let peer = Peer::new();
    let (qmp, mut talk) = peer.talk().await;
    let says = async {
        talk.hears().await;
        talk.say("\u{1b}[2J nonsense").await;
        talk
    };
    let (answer, _talk) = tokio::join!(qmp.stop(), says);
    let error = answer.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(qmp.ended().unwrap().contains("no message of QMP"), "{:?}", qmp.ended());
    assert_eq!(qmp.cont().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn one_that_hangs_up_in_the_middle_of_an_answer() {
    let peer = Peer::new();
    let (qmp, mut talk) = peer.talk().await;
    let says = async {
        talk.hears().await;
        talk.0.write_all(b"{\"return\":{},").await.unwrap();
        drop(talk);
    };
    let (answer, ()) = tokio::join!(qmp.stop(), says);
    assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
    // For `quit` that is the answer.
    let (qmp, mut talk) = peer.talk().await;
    let says = async {
        talk.hears().await;
        drop(talk);
    };
    let (answer, ()) = tokio::join!(qmp.quit(), says);
    answer.unwrap();
}

#[tokio::test]
async fn an_answer_to_nobody_and_one_that_is_late_go_to_nobody() {
    let peer = Peer::new();
    let (qmp, mut talk) = peer.talk().await;
    let given_up = tokio::time::timeout(Duration::from_millis(50), qmp.stop()).await;
    assert!(given_up.is_err());
    let late = talk.hears().await;
    let says = async {
        let asked = talk.hears().await;
        talk.say(&json!({"return": {"status": "internal-error"}, "id": late["id"]}).to_string()).await;
        talk.say(&json!({"return": {}, "id": 999}).to_string()).await;
        // A byte at a time.
        for byte in json!({"return": {"status": "some-new-state"}, "id": asked["id"]}).to_string().bytes() {
            talk.0.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        talk.say("").await;
        talk
    };
    let (state, _talk) = tokio::join!(qmp.run_state(), says);
    assert_eq!(state.unwrap(), clawfarm_qemu::qmp::RunState::Other);
}

#[tokio::test]
async fn a_flood_of_events_keeps_no_answer_back() {
    let peer = Peer::new();
    let (qmp, mut talk) = peer.talk().await;
    let mut events = qmp.events();
    let says = async {
        let asked = talk.hears().await;
        for _ in 0..10_000 {
            talk.say(r#"{"event":"NIC_RX_FILTER_CHANGED","data":{}}"#).await;
        }
        talk.say(&json!({"return": {}, "id": asked["id"]}).to_string()).await;
        talk
    };
    let (answer, _talk) = tokio::join!(qmp.stop(), says);
    answer.unwrap();
    assert!(matches!(events.recv().await, Err(tokio::sync::broadcast::error::RecvError::Lagged(_))));
    events.recv().await.unwrap();
}

#[tokio::test]
async fn an_answer_of_another_form_is_an_error_and_no_panic() {
    let peer = Peer::new();
    let (qmp, mut talk) = peer.talk().await;
    for answer in [json!(null), json!({"status": 7}), json!([]), json!("running")] {
        let says = async {
            let asked = talk.hears().await;
            talk.say(&json!({"return": answer, "id": asked["id"]}).to_string()).await;
        };
        let (state, ()) = tokio::join!(qmp.run_state(), says);
        assert_eq!(state.unwrap_err().code(), Code::Unavailable);
    }
}
