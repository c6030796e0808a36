//! What a hostile claw or server says does not drive the terminal.

use serde_json::{Value, json};

use crate::fake::{Answer, Fake, instance, problem};
use crate::support::Home;

const EVIL: &str = "boom \u{1b}]52;c;ZXZpbA==\u{7}\u{1b}[2Jgone\u{9b}1A\r\nsecond line";

fn home_with(answer: impl Fn(&str, &str) -> Answer + Send + Sync + 'static) -> (Home, Fake) {
    let home = Home::new();
    let fake = Fake::serve(&home, env!("CARGO_PKG_VERSION"), answer);
    (home, fake)
}

fn end(home: &Home) {
    std::fs::remove_file(home.farm().join("clawfarm.sock")).expect("removed");
}

fn evil_instance() -> Value {
    let mut view = instance("alice-x7k2m", "failed");
    view["last_error"] = json!({ "code": "claw_failed", "message": EVIL, "fix": EVIL });
    view["image"] = json!(EVIL);
    view["gateway"] = json!(EVIL);
    view
}

#[track_caller]
fn assert_harmless(text: &str) {
    let found = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
    assert_eq!(found, None, "{text:?}");
    assert!(text.contains("boom gone"), "{text:?}");
}

#[test]
fn tables_status_and_errors_are_clean() {
    let (home, _fake) = home_with(|_, path| match path {
        "/api/v1/instances?limit=500" => Answer::Json(200, json!({ "items": [evil_instance()] })),
        "/api/v1/instances/alice" | "/api/v1/instances/alice-x7k2m" => Answer::Json(200, evil_instance()),
        _ => problem(404, "not_found", EVIL, EVIL),
    });
    let ps = home.run(&["ps"]).ends(0);
    assert_harmless(&ps.out);
    assert_eq!(ps.out.lines().count(), 2, "{}", ps.out);
    assert_harmless(&home.run(&["status", "alice"]).ends(0).out);
    let refused = home.run(&["stop", "alice"]).ends(3);
    assert_harmless(&refused.err);
    end(&home);
}

#[test]
fn into_a_file_the_answer_is_as_the_claw_gave_it() {
    let (home, _fake) = home_with(|_, path| {
        assert_eq!(path, "/api/v1/instances/alice/send");
        let text = json!({ "type": "text", "text": "a\u{1b}[1mb" });
        let done = json!({ "type": "done", "input_tokens": 3, "output_tokens": 2 });
        Answer::Stream(format!(
            "event: answer\ndata: {text}\n\nevent: answer\ndata: {done}\n\nevent: end\ndata: {{\"reason\":\"complete\"}}\n\n"
        ))
    });
    assert_eq!(home.run(&["send", "alice", "hi"]).ends(0).out, "a\u{1b}[1mb\n");
    let pieces = home.run(&["send", "alice", "hi", "--json"]).ends(0).out;
    let pieces: Vec<Value> = pieces.lines().map(|l| serde_json::from_str(l).expect("a document")).collect();
    assert_eq!(pieces[0]["text"], "a\u{1b}[1mb");
    assert_eq!(pieces[1], json!({ "type": "done", "input_tokens": 3, "output_tokens": 2 }));
    end(&home);
}

#[test]
fn an_answer_that_is_cut_off_is_a_failure() {
    let (home, _fake) = home_with(|_, _| {
        let text = json!({ "type": "text", "text": "half an ans" });
        Answer::Stream(format!("event: answer\ndata: {text}\n\n"))
    });
    let done = home.run(&["send", "alice", "hi"]).ends(5);
    assert_eq!(done.out, "half an ans\n");
    assert!(done.err.contains("error:"), "{done:?}");
    end(&home);
}

#[test]
fn colours_come_only_where_they_are_wanted() {
    let (home, _fake) = home_with(|_, _| Answer::Json(200, json!({ "items": [instance("a-b", "ready")] })));
    assert!(!home.run(&["ps"]).ends(0).out.contains('\u{1b}'));
    assert!(home.run(&["ps", "--color", "always"]).ends(0).out.contains("\u{1b}["));
    let plain = home.command(&["ps", "--color", "auto"]).env("NO_COLOR", "1").output().expect("run");
    assert!(!plain.stdout.contains(&0x1b));
    end(&home);
}
