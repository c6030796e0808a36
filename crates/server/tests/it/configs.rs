//! The configuration centre over the API.

use http::Method;
use serde_json::{Value, json};

use crate::farm::{Farm, LIMIT};

const CONFIGS: &str = "/api/v1/configs";

impl Farm {
    async fn patch(&self, path: &str, body: &Value) -> crate::farm::Answer {
        self.send(Method::PATCH, path, &[], &body.to_string()).await
    }

    async fn save_config(&self, name: &str, content: &Value) -> Value {
        let body = json!({"content": content, "message": "of a test"}).to_string();
        let saved = self.send(Method::PUT, &format!("{CONFIGS}/{name}"), &[], &body).await;
        assert_eq!(saved.status, 200, "{}", saved.text);
        assert_eq!(saved.header("etag"), format!("\"{}\"", saved.json()["version"]));
        saved.json()
    }

    /// A new instance that is bound to a template, when it is up; its id.
    async fn bound(&self, name: &str, more: &Value) -> String {
        let mut new = json!({"claw_type": "openclaw", "name": name});
        new.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made = self.post("/api/v1/instances", &new.to_string()).await;
        assert_eq!(made.status, 201, "{}", made.text);
        let ended = self.ended(made.json()["operation"]["id"].as_str().unwrap()).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
        made.json()["instance"]["id"].as_str().unwrap().to_owned()
    }

    /// Publishes, and waits for the end.
    async fn out(&self, name: &str, body: &Value) -> Value {
        let begun = self.post(&format!("{CONFIGS}/{name}/publish"), &body.to_string()).await;
        assert_eq!(begun.status, 202, "{}", begun.text);
        let id = begun.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(begun.header("location"), format!("/api/v1/rollouts/{id}"));
        self.stage(&id, &["done", "rolled_back", "aborted"]).await
    }

    async fn stage(&self, id: &str, stages: &[&str]) -> Value {
        let begun = std::time::Instant::now();
        loop {
            let now = self.get(&format!("/api/v1/rollouts/{id}")).await.json();
            if stages.contains(&now["stage"].as_str().unwrap()) {
                return now;
            }
            assert!(begun.elapsed() < 2 * LIMIT, "waited for {stages:?}: {now}");
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        }
    }
}

fn env(value: &str) -> Value {
    json!({"body": {"env": {"GREETING": value}}})
}

#[tokio::test]
async fn configurations_are_kept_in_revisions() {
    let farm = Farm::new().await;
    assert_eq!(farm.get(CONFIGS).await.json(), json!({"items": []}));
    let new = json!({"name": "support", "content": env("hello"), "message": "first"}).to_string();
    let made = farm.post(CONFIGS, &new).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.header("location"), "/api/v1/configs/support");
    let tag = made.header("etag").to_owned();
    assert_eq!(
        (made.json()["head"].clone(), made.json()["newest"]["content"].clone()),
        (json!(1), env("hello"))
    );
    let again = farm.post(CONFIGS, &new).await;
    assert_eq!((again.status.as_u16(), again.json()["field"].clone()), (409, json!("name")));

    // What says the same makes no revision; what is based on old news is refused.
    assert_eq!(farm.save_config("support", &env("hello")).await["head"], 1);
    let path = format!("{CONFIGS}/support");
    let next = json!({"content": env("good day"), "message": "politer"}).to_string();
    let saved = farm.send(Method::PUT, &path, &[("if-match", &tag)], &next).await;
    assert_eq!((saved.status.as_u16(), saved.json()["head"].clone()), (200, json!(2)));
    let other = json!({"content": env("hi")}).to_string();
    for body in [next, other] {
        let late = farm.send(Method::PUT, &path, &[("if-match", &tag)], &body).await;
        assert_eq!(late.status, 412, "{}", late.text);
    }
    let revisions = farm.get(&format!("{path}/revisions?limit=1")).await.json();
    assert_eq!((revisions["items"][0]["number"].clone(), revisions["next"].clone()), (json!(2), json!(2)));
    assert_eq!(revisions["items"][0]["message"], "politer");
    // What they say may be half a megabyte each.
    assert_eq!(revisions["items"][0]["change_count"], 1);
    assert!(revisions["items"][0].get("content").is_none(), "{revisions}");
    let revisions = farm.get(&format!("{path}/revisions?before=2")).await.json();
    assert_eq!((revisions["items"].as_array().unwrap().len(), revisions["next"].clone()), (1, Value::Null));
    assert_eq!(farm.get(&format!("{path}/revisions/1")).await.json()["content"], env("hello"));
    let diff = farm.get(&format!("{path}/diff")).await.json();
    assert_eq!(
        diff,
        json!({"from": 1, "to": 2, "changes":
            [{"path": "body.env.GREETING", "before": "hello", "after": "good day"}]})
    );
    let first = farm.get(&format!("{path}/diff?to=1")).await.json();
    assert_eq!((first["from"].clone(), first["to"].clone()), (Value::Null, json!(1)));

    for (path, status, field) in [
        (format!("{path}/revisions/7"), 404, Value::Null),
        (format!("{path}/revisions/0"), 400, json!("number")),
        (format!("{path}/revisions?limit=0"), 400, json!("limit")),
        (format!("{path}/revisions?before=0"), 400, json!("before")),
        (format!("{path}/diff?from=x"), 400, json!("from")),
        (format!("{CONFIGS}/other"), 404, Value::Null),
        (format!("{CONFIGS}/No+Name"), 400, json!("config")),
    ] {
        let answer = farm.get(&path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        if !field.is_null() {
            assert_eq!(answer.json()["field"], field, "{path}");
        }
    }
    for (content, field) in [
        (json!({"body": {"modle": {}}}), "config.modle"),
        (json!({"variables": [{"name": "a", "type": "text"}]}), "content.variables[0].type"),
        (json!({"body": {"env": {"A": "${b}"}}}), "body.env.A"),
        (json!({"colour": "red"}), "content.colour"),
    ] {
        let refused = farm.send(Method::PUT, &path, &[], &json!({"content": content}).to_string()).await;
        assert_eq!(refused.status, 400, "{}", refused.text);
        assert_eq!(refused.json()["field"], field, "{}", refused.text);
        assert!(refused.json()["fix"].is_string(), "{}", refused.text);
    }
    assert_eq!(farm.delete(&path).await.status, 204);
    assert_eq!(farm.get(&path).await.status, 404);
}

#[tokio::test]
async fn what_is_only_tried_changes_nothing() {
    let farm = Farm::new().await;
    let check = format!("{CONFIGS}/support/check");
    let tried = farm.post(&check, &json!({"content": env("hello")}).to_string()).await;
    assert_eq!(tried.status, 200, "{}", tried.text);
    assert_eq!(
        (tried.json()["revision"].clone(), tried.json()["changes"][0]["path"].clone()),
        (json!(1), json!("body"))
    );
    assert_eq!(farm.get(&format!("{CONFIGS}/support")).await.status, 404);
    farm.save_config("support", &env("hello")).await;
    for (greeting, revision, changes) in [("hello", 1, 0), ("good day", 2, 1)] {
        let tried = farm.post(&check, &json!({"content": env(greeting)}).to_string()).await.json();
        assert_eq!(tried["revision"], revision, "{tried}");
        assert_eq!(tried["changes"].as_array().unwrap().len(), changes, "{tried}");
    }
    let refused = farm.post(&check, &json!({"content": {"body": {"modle": {}}}}).to_string()).await;
    assert_eq!((refused.status.as_u16(), refused.json()["field"].clone()), (400, json!("config.modle")));
    assert_eq!(farm.get(&format!("{CONFIGS}/support")).await.json()["head"], 1);

    const TRY: &str = "/api/v1/instances?dry_run=true";
    let good = json!({"claw_type": "openclaw", "name": "alice", "port": 20_000});
    let tried = farm.post(TRY, &good.to_string()).await;
    assert_eq!(tried.status, 200, "{}", tried.text);
    assert!(tried.json()["warnings"].is_array(), "{}", tried.text);
    for (more, status, field) in [
        (json!({"resources": {"memory_mib": 1}}), 400, "resources.memory_mib"),
        (json!({"template": "support"}), 409, "template"),
        (json!({"version": "../x"}), 400, "version"),
        (json!({"labels": {"a b": "c"}}), 400, "labels"),
    ] {
        let mut wrong = good.clone();
        wrong.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let refused = farm.post(TRY, &wrong.to_string()).await;
        assert_eq!(
            (refused.status.as_u16(), refused.json()["field"].clone()),
            (status, json!(field)),
            "{}",
            refused.text
        );
    }
    assert_eq!(farm.get("/api/v1/instances").await.json()["items"], json!([]));

    let alice = farm.bound("alice", &json!({"port": 20_000})).await;
    let taken = farm.post(TRY, &good.to_string()).await;
    assert_eq!((taken.status.as_u16(), taken.json()["field"].clone()), (409, json!("port")));
    let path = format!("/api/v1/instances/{alice}?dry_run=true");
    let before = farm.get(&format!("/api/v1/instances/{alice}")).await.json();
    let change = json!({"labels": {"team": "support"}, "port": 20_001}).to_string();
    let tried = farm.send(Method::PUT, &path, &[], &change).await;
    assert_eq!((tried.status.as_u16(), tried.json()["warnings"].is_array()), (200, true), "{}", tried.text);
    let wrong = farm.send(Method::PUT, &path, &[], r#"{"resources":{"memory_mib":1}}"#).await;
    assert_eq!((wrong.status.as_u16(), wrong.json()["field"].clone()), (400, json!("resources.memory_mib")));
    let late = farm.send(Method::PUT, &path, &[("if-match", "\"99999\"")], &change).await;
    assert_eq!(late.status, 412, "{}", late.text);
    let after = farm.get(&format!("/api/v1/instances/{alice}")).await.json();
    for field in ["labels", "port", "generation", "resources"] {
        assert_eq!(after[field], before[field], "{field}");
    }
}

#[tokio::test]
async fn a_revision_goes_out_and_back() {
    let farm = Farm::new().await;
    farm.save_config("support", &env("hello")).await;
    let early = farm.post("/api/v1/instances", r#"{"claw_type":"openclaw","template":"support"}"#).await;
    assert_eq!((early.status.as_u16(), early.json()["field"].clone()), (409, json!("template")));
    assert_eq!(farm.out("support", &json!({})).await["stage"], "done");
    let bound =
        json!({"template": "support", "overrides": {"env": {"OWN": "1"}}, "labels": {"team": "support"}});
    let (alice, bob) = tokio::join!(farm.bound("alice", &bound), farm.bound("bob", &bound));

    let explained = farm.get("/api/v1/instances/alice/config").await.json();
    assert_eq!(explained["config"]["env"], json!({"GREETING": "hello", "OWN": "1"}));
    let value = |place: &str| {
        let values = explained["values"].as_array().unwrap();
        values.iter().find(|it| it["path"] == place).unwrap_or_else(|| panic!("{explained}")).clone()
    };
    assert_eq!(value("env.GREETING")["from"], json!({"layer": "template", "name": "support", "revision": 1}));
    assert_eq!(value("env.OWN")["from"], json!({"layer": "instance"}));
    assert_eq!(farm.get(&format!("/api/v1/instances/{alice}")).await.json()["template"], "support");

    farm.save_config("support", &env("good day")).await;
    let plan = farm.post(&format!("{CONFIGS}/support/plan"), r#"{"limit":1}"#).await.json();
    assert_eq!((plan["revision"].clone(), plan["refused"].clone()), (json!(2), json!(0)));
    assert_eq!(plan["instances"].as_array().unwrap().len(), 1);
    let counts = plan["counts"].as_object().unwrap();
    assert_eq!(counts.values().map(|it| it.as_u64().unwrap()).sum::<u64>(), 2, "{plan}");
    let nobody =
        farm.post(&format!("{CONFIGS}/support/plan"), r#"{"selector":{"labels":{"team":"x"}}}"#).await;
    assert_eq!(nobody.json()["instances"], json!([]));
    let wrong = farm.post(&format!("{CONFIGS}/support/plan"), r#"{"limit":10001}"#).await;
    assert_eq!((wrong.status.as_u16(), wrong.json()["field"].clone()), (400, json!("limit")));

    let done = farm.out("support", &json!({"strategy": {"steps": [{"to": 1}]}, "message": "politer"})).await;
    assert_eq!(
        (done["stage"].clone(), done["counts"]["proven"].clone()),
        (json!("done"), json!(2)),
        "{done}"
    );
    let id = done["id"].as_str().unwrap();
    let page = farm.get(&format!("/api/v1/rollouts/{id}/instances?limit=1&state=proven")).await.json();
    let next = page["next"].as_i64().unwrap();
    let rest = farm.get(&format!("/api/v1/rollouts/{id}/instances?limit=2&after={next}")).await.json();
    assert_eq!((rest["items"].as_array().unwrap().len(), rest["next"].clone()), (1, Value::Null));
    assert_ne!(page["items"][0]["instance"], rest["items"][0]["instance"]);
    let list = farm.get("/api/v1/rollouts?config=support").await.json();
    assert_eq!((list["items"].as_array().unwrap().len(), list["items"][0]["id"].clone()), (2, json!(id)));
    assert_eq!(farm.get("/api/v1/rollouts?config=other").await.json()["items"], json!([]));
    let greeting = |config: Value| config["config"]["env"]["GREETING"].clone();
    assert_eq!(greeting(farm.get(&format!("/api/v1/instances/{bob}/config")).await.json()), "good day");

    let back = farm.post(&format!("{CONFIGS}/support/rollback"), "").await;
    assert_eq!((back.status.as_u16(), back.json()["to"].clone()), (202, json!(1)), "{}", back.text);
    farm.stage(back.json()["id"].as_str().unwrap(), &["done"]).await;
    assert_eq!(greeting(farm.get(&format!("/api/v1/instances/{bob}/config")).await.json()), "hello");
    let held = farm.delete(&format!("{CONFIGS}/support")).await;
    assert_eq!(held.status, 409, "{}", held.text);
}

#[tokio::test]
async fn a_rollout_is_steered() {
    let farm = Farm::new().await;
    farm.save_config("support", &env("hello")).await;
    farm.out("support", &json!({})).await;
    let bound = json!({"template": "support"});
    tokio::join!(farm.bound("alice", &bound), farm.bound("bob", &bound));
    farm.save_config("support", &env("good day")).await;
    let canary = json!({"strategy": {"steps": [{"to": 1, "then": "promotion"}]}}).to_string();
    let begun = farm.post(&format!("{CONFIGS}/support/publish"), &canary).await.json();
    let id = begun["id"].as_str().unwrap().to_owned();
    let steer = |what: &'static str| {
        let (farm, path) = (&farm, format!("/api/v1/rollouts/{id}/{what}"));
        async move { farm.post(&path, "").await }
    };
    let waiting = farm.stage(&id, &["waiting"]).await;
    assert_eq!(
        (waiting["counts"]["proven"].clone(), waiting["counts"]["pending"].clone()),
        (json!(1), json!(1))
    );
    let second = farm.post(&format!("{CONFIGS}/support/publish"), "").await;
    assert_eq!(second.status, 409, "{}", second.text);
    assert!(second.json()["detail"].as_str().unwrap().contains(&id), "{}", second.text);
    assert_eq!(farm.get(&format!("{CONFIGS}/support")).await.json()["rollout"], json!(id));
    assert_eq!(steer("pause").await.json()["stage"], "paused");
    assert_eq!(steer("pause").await.status, 409);
    assert_eq!(steer("promote").await.status, 409);
    assert_eq!(steer("resume").await.json()["stage"], "waiting");
    assert_eq!(steer("promote").await.status, 200);
    let done = farm.stage(&id, &["done"]).await;
    assert_eq!(done["counts"]["proven"], 2);
    for over in ["abort", "rollback", "resume"] {
        let refused = steer(over).await;
        assert_eq!(
            (refused.status.as_u16(), refused.json()["code"].clone()),
            (409, json!("conflict")),
            "{over}"
        );
    }
    assert_eq!(farm.get("/api/v1/rollouts/ro-0").await.status, 404);

    // One is turned round in the middle.
    farm.save_config("support", &env("goodbye")).await;
    let begun = farm.post(&format!("{CONFIGS}/support/publish"), &canary).await.json();
    let id = begun["id"].as_str().unwrap();
    farm.stage(id, &["waiting"]).await;
    assert_eq!(farm.post(&format!("/api/v1/rollouts/{id}/rollback"), "").await.status, 200);
    let back = farm.stage(id, &["rolled_back"]).await;
    assert_eq!((back["counts"]["reverted"].clone(), back["counts"]["pending"].clone()), (json!(1), json!(1)));
    let begun = farm.post(&format!("{CONFIGS}/support/publish"), &canary).await.json();
    let id = begun["id"].as_str().unwrap();
    assert_eq!(farm.post(&format!("/api/v1/rollouts/{id}/abort"), "").await.json()["stage"], "aborted");
}

#[tokio::test]
async fn instances_say_something_themselves() {
    let farm = Farm::new().await;
    let locked = json!({"body": {"env": {"REGION": "eu"}}, "locks": ["env.REGION"]});
    farm.save_config("tenant", &locked).await;
    farm.out("tenant", &json!({})).await;
    let alice = farm.bound("alice", &json!({"labels": {"team": "support"}})).await;
    farm.bound("bob", &json!({})).await;
    let path = format!("/api/v1/instances/{alice}/config");
    let tag = farm.get(&format!("/api/v1/instances/{alice}")).await.header("etag").to_owned();
    let tried = farm.patch(&path, &json!({"overrides": {"env": {"A": "1"}}, "dry_run": true})).await;
    assert_eq!(tried.status, 200, "{}", tried.text);
    assert!(["hot", "restart"].contains(&tried.json()["impact"].as_str().unwrap()), "{}", tried.text);
    assert_eq!(farm.get(&path).await.json()["config"]["env"], json!({"REGION": "eu"}));
    let changed = farm.patch(&path, &json!({"overrides": {"env": {"A": "1"}}})).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    assert_ne!(changed.header("etag"), tag);
    assert_eq!(changed.json()["instance"]["config"]["env"], json!({"A": "1", "REGION": "eu"}));
    let late =
        farm.send(Method::PATCH, &path, &[("if-match", &tag)], r#"{"overrides":{"env":{"A":"2"}}}"#).await;
    assert_eq!(late.status, 412, "{}", late.text);
    let against = farm.patch(&path, &json!({"overrides": {"env": {"REGION": "us"}}})).await;
    assert_eq!((against.status.as_u16(), against.json()["field"].clone()), (400, json!("config.env.REGION")));
    assert!(against.json()["detail"].as_str().unwrap().contains("locked by tenant"), "{}", against.text);
    for (body, field) in [
        (json!({"overrides": {"colour": "red"}}), "config.colour"),
        (json!({"template": "other"}), "template"),
        (json!({"colour": "red"}), "colour"),
    ] {
        let refused = farm.patch(&path, &body).await;
        assert!(refused.status == 400 || refused.status == 404, "{}", refused.text);
        assert_eq!(refused.json()["field"], field, "{}", refused.text);
    }

    // Many at once: what one can't have nobody gets.
    let plan = json!({"selector": {"labels": {"team": "support"}}, "overrides": {"env": {"B": "1"}}, "dry_run": true});
    let planned = farm.patch("/api/v1/instances", &plan).await.json();
    assert_eq!(
        (planned["changed"].clone(), planned["instances"].as_array().unwrap().len()),
        (json!(false), 1)
    );
    let refused = farm
        .patch("/api/v1/instances", &json!({"overrides": {"env": {"REGION": "us"}}, "dry_run": true}))
        .await
        .json();
    assert_eq!(refused["refusals"].as_array().unwrap().len(), 2, "{refused}");
    let refused = farm.patch("/api/v1/instances", &json!({"overrides": {"env": {"REGION": "us"}}})).await;
    assert_eq!((refused.status.as_u16(), refused.json()["field"].clone()), (400, json!("config.env.REGION")));
    let done = farm.patch("/api/v1/instances", &json!({"overrides": {"env": {"B": "1"}}})).await.json();
    assert_eq!(
        (done["changed"].clone(), done["instances"].as_array().unwrap().len()),
        (json!(true), 2),
        "{done}"
    );
    // It goes out in steps.
    let gone_out =
        farm.stage(done["rollout"]["id"].as_str().unwrap(), &["done", "rolled_back", "aborted"]).await;
    assert_eq!(gone_out["stage"], "done", "{gone_out}");
    assert_eq!(farm.get(&path).await.json()["config"]["env"], json!({"A": "1", "B": "1", "REGION": "eu"}));
}

#[tokio::test]
async fn drift_is_found_and_mended() {
    let farm = Farm::new().await;
    let alice = farm.ready_claw("alice").await;
    let path = format!("/api/v1/instances/{alice}/drift");
    let none = farm.get(&path).await;
    assert_eq!(none.status, 200, "{}", none.text);
    assert_eq!(
        (none.json()["drifted"].clone(), none.json()["mending"].clone()),
        (json!(false), json!(false))
    );
    let mended = farm.post(&path, "").await;
    assert_eq!((mended.status.as_u16(), mended.json()["mending"].clone()), (200, json!(false)));
    assert_eq!(farm.get("/api/v1/instances/nobody/drift").await.status, 404);
}
