//! The real nanobot: installed by pip, with the demo model.

use std::time::{Duration, Instant};

use serde_json::json;

use super::configs::support;
use super::farm::{Farm, finish, processes_with, runs, until};
use crate::model::Model;

/// How long it may take until it is met at its work: each try takes half a minute.
const LIMIT: Duration = Duration::from_secs(240);

#[test]
fn nanobot_answers_sleeps_wakes_and_remembers() {
    let farm = Farm::new();
    let refused = farm.run(&["new", "nanobot", "--set", "tools.exec.mode=ask"]).ends(2);
    assert!(refused.err.contains("config.tools.exec.mode"), "{refused:?}");
    let made = farm.run(&["new", "nanobot", "nina", "--set", "agents.thinking=low", "--json"]).ends(0).json();
    let id = made["instance"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(farm.phase(&id), "ready");
    let answer = farm.send(&id, "hello from the test");
    assert!(answer.contains("[clawfarm demo model]") && answer.contains("hello from the test"), "{answer}");
    let done = farm.run(&["exec", &id, "--", "nanobot", "--version"]).ends(0);
    assert!(done.out.contains("0.3.5"), "its own command line works inside: {done:?}");

    is_not_put_to_sleep_while_it_works(&farm, &id);

    let pid = farm.pid(&id);
    until("it is idle", || farm.run(&["suspend", &id]).code == Some(0));
    assert_eq!(farm.phase(&id), "suspended");
    assert!(!runs(pid), "it holds no memory");
    // The message itself wakes it.
    let answer = farm.send(&id, "are you awake?");
    assert!(answer.contains("are you awake?"), "{answer}");
    assert!(answer.contains("it began with: hello from the test"), "it lost its memory: {answer}");

    let pid = farm.pid(&id);
    farm.run(&["rm", &id, "--purge", "--force"]).ends(0);
    assert!(!runs(pid), "the claw still runs");
    until("its shim is gone", || processes_with(&id).is_empty());
    assert!(!farm.claw_folder(&id).exists(), "its folder is still there");
}

fn is_not_put_to_sleep_while_it_works(farm: &Farm, id: &str) {
    let begin = || farm.start(&["send", id, "please take 25 seconds"]);
    let mut working = begin();
    let begun = Instant::now();
    loop {
        let refused = farm.run(&["suspend", id]);
        if refused.code == Some(4) && refused.err.contains("is working") {
            assert!(refused.err.contains("--force"), "{refused:?}");
            break;
        }
        assert!(begun.elapsed() < LIMIT, "it never said that it works: {refused:?}");
        if refused.code == Some(0) {
            // It was asked before the message had come to it: again, with another message.
            let _ = finish(working);
            farm.run(&["resume", id]).ends(0);
            working = begin();
        }
    }
    let done = finish(working).ends(0);
    assert!(done.out.contains("[clawfarm demo model]"), "what it worked on is answered: {done:?}");
}

#[test]
fn a_model_goes_out_to_nanobots_while_they_run_and_another_setting_by_a_start() {
    let (model, farm) = (Model::new(), Farm::new());
    farm.save(&support(&model, "small", &json!({})));
    farm.run(&["config", "publish", "support"]).ends(0);
    let ids = ["nina", "nick"].map(|name| farm.new_of("nanobot", name, &["--template", "support"]));
    let pids = ids.each_ref().map(|id| farm.pid(id));
    assert!(farm.send(&ids[0], "who are you?").contains("I am small"));

    farm.save(&support(&model, "large", &json!({})));
    let plan = farm.run(&["config", "plan", "support", "--json"]).ends(0).json();
    assert_eq!(plan["counts"]["hot"], 2, "{plan}");
    let out = farm.run(&["config", "publish", "support", "--ready-within", "3m"]).ends(0).out;
    assert!(out.contains("2 have it"), "{out}");
    for (id, pid) in ids.iter().zip(&pids) {
        let answer = farm.send(id, "who are you?");
        assert!(answer.contains("I am large"), "the next message is the new model's: {answer}");
        assert_eq!(farm.pid(id), *pid, "{id} was started again");
    }

    let more = json!({"agents": {"timezone": "Europe/Berlin"}, "memory": {"search": true}});
    farm.save(&support(&model, "large", &more));
    let plan = farm.run(&["config", "plan", "support", "--json"]).ends(0).json();
    assert_eq!(plan["counts"]["restart"], 2, "{plan}");
    let told = plan["instances"].to_string();
    assert!(told.contains("config.agents.timezone") && !told.contains("config.memory"), "{told}");
    assert_eq!(
        plan["warnings"][0]["field"], "config.memory.search",
        "what it has no words for is told: {plan}"
    );
    let out = farm.run(&["config", "publish", "support", "--ready-within", "3m"]).ends(0).out;
    assert!(out.contains("2 have it"), "{out}");
    for (id, pid) in ids.iter().zip(&pids) {
        assert_ne!(farm.pid(id), *pid, "{id} was not started again");
        assert!(farm.send(id, "who are you?").contains("I am large"));
    }
}
