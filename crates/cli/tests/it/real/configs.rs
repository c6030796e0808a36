//! Configurations rolled out to real claws.

use std::fs;

use serde_json::{Value, json};

use super::farm::{Farm, until};
use crate::model::Model;

impl Farm {
    /// Writes the template's next revision.
    pub(super) fn save(&self, content: &Value) {
        let file = self.folder().with_file_name("support.json");
        fs::write(&file, content.to_string()).expect("written");
        let file = file.to_str().expect("a path").to_owned();
        self.run(&["config", "save", "support", "-f", &file]).ends(0);
    }

    /// Which revision of the template an instance goes by.
    fn revision(&self, id: &str) -> Value {
        let explained = self.run(&["config", "explain", id, "--json"]).ends(0).json();
        explained["layers"]["applied"]["support"].clone()
    }
}

/// What the template says: a model of the stand-in's, by name; and what else.
pub(super) fn support(model: &Model, name: &str, more: &Value) -> Value {
    let mut body = json!({
        "model": {"provider": "openai-compatible", "name": name, "base_url": model.base_url()},
    });
    let more = more.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(more);
    json!({ "body": body })
}

#[test]
fn a_model_goes_out_hot_a_bad_one_to_nobody_and_one_that_breaks_a_start_no_further_than_the_first() {
    let (model, farm) = (Model::new(), Farm::new());
    farm.save(&support(&model, "small", &json!({})));
    farm.run(&["config", "publish", "support"]).ends(0);
    let ids: Vec<String> = ["alice", "bob", "carol"]
        .iter()
        .map(|name| farm.new_claw(name, &["--template", "support"]))
        .collect();
    let pids: Vec<u32> = ids.iter().map(|id| farm.pid(id)).collect();
    assert!(farm.send(&ids[0], "who are you?").contains("I am small"));

    // Another model: while they run, and for the next message.
    farm.save(&support(&model, "large", &json!({})));
    let plan = farm.run(&["config", "plan", "support", "--json"]).ends(0).json();
    assert_eq!(plan["counts"]["hot"], 3, "{plan}");
    let out = farm.run(&["config", "publish", "support", "--ready-within", "3m"]).ends(0).out;
    assert!(out.contains("3 have it"), "{out}");
    for (id, pid) in ids.iter().zip(&pids) {
        assert!(farm.send(id, "who are you?").contains("I am large"));
        assert_eq!(farm.pid(id), *pid, "{id} was started again");
    }

    // What is no configuration of this type goes to nobody.
    farm.save(&support(
        &model,
        "large",
        &json!({"channels": {"telegram": {"bot_token": {"secret": "gone"}}}}),
    ));
    let refused = farm.run(&["config", "publish", "support"]);
    assert_ne!(refused.code, Some(0));
    assert!(refused.err.contains("gone"), "{refused:?}");

    // What only OpenClaw knows to be wrong is asked of a running one, and told in its words.
    farm.save(&support(&model, "large", &json!({"native": {"logging": {"colour": "red"}}})));
    let refused = farm.run(&["config", "publish", "support"]);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(ids.iter().any(|id| refused.err.contains(id.as_str())), "{refused:?}");
    assert!(refused.err.contains("colour"), "{refused:?}");
    assert!(refused.err.contains("config.native.logging"), "{refused:?}");
    for (id, pid) in ids.iter().zip(&pids) {
        assert_eq!((farm.pid(id), farm.revision(id)), (*pid, json!(2)), "{id} was touched");
        let state = fs::read_dir(farm.claw_folder(id).join("state")).expect("its state").flatten();
        let left: Vec<_> = state
            .map(|it| it.file_name().to_string_lossy().into_owned())
            .filter(|it| it.contains("clawfarm-check"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    // One that it takes for good and can't start with stops at the first, and is taken back.
    // (Node reads this file before anything else, and ends when it is none of OpenSSL's.)
    farm.save(&support(&model, "large", &json!({"env": {"OPENSSL_CONF": "/etc/passwd"}})));
    let failed = farm.run(&["config", "publish", "support", "--step", "1", "--ready-within", "90s"]);
    assert_ne!(failed.code, Some(0), "{failed:?}");
    let status = farm.run(&["rollout", "status", "support", "--json"]).ends(0).json();
    assert_eq!(status["stage"], "rolled_back", "{status}");
    let untouched = ids
        .iter()
        .zip(&pids)
        .filter(|(id, pid)| farm.pid(id) == **pid && farm.revision(id) == json!(2))
        .count();
    assert_eq!(untouched, 2, "{status}");
    for id in &ids {
        farm.until_phase(id, "ready");
        assert_eq!(farm.revision(id), 2);
        assert!(farm.send(id, "who are you?").contains("I am large"));
    }

    // Back to the one before.
    farm.run(&["config", "rollback", "support"]).ends(0);
    assert!(farm.send(&ids[1], "who are you?").contains("I am small"));

    // What somebody changes by hand is found, and put right.
    let drift = farm.run(&["config", "drift", &ids[1], "--json"]).ends(0).json();
    let file = fs::read_dir(farm.claw_folder(&ids[1]).join("state"))
        .expect("its state")
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.ends_with("openclaw.json"))
        .unwrap_or_else(|| panic!("no openclaw.json; its drift: {drift}"));
    let mut document: Value = serde_json::from_slice(&fs::read(&file).expect("read")).expect("JSON");
    document["gateway"]["port"] = json!(1);
    fs::write(&file, document.to_string()).expect("written");
    let drift = farm.run(&["config", "drift", &ids[1]]);
    assert!(drift.out.contains("openclaw.json"), "{drift:?}");
    farm.run(&["config", "drift", &ids[1], "--mend"]).ends(0);
    until("it is put right", || {
        let drift = farm.run(&["config", "drift", &ids[1]]);
        drift.code == Some(0) && !drift.out.contains("openclaw.json")
    });
}
