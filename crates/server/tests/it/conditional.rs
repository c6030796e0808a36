//! Versions, replays and pages.

use std::collections::BTreeSet;

use http::Method;

use crate::farm::Farm;

#[tokio::test]
async fn a_change_based_on_old_news_is_refused() {
    let farm = Farm::new().await;
    let id = farm.ready_claw("alice").await;
    let path = format!("/api/v1/instances/{id}");
    let seen = farm.get(&path).await;
    let tag = seen.header("etag").to_owned();
    assert_eq!(tag, format!("\"{}\"", seen.json()["resource_version"]));
    let change = r#"{"labels":{"a":"1"}}"#;
    for (value, status) in [("7", 400), ("W/\"1\"", 400), ("\"1\", \"2\"", 400), ("\"999999\"", 412)] {
        let answer = farm.send(Method::PUT, &path, &[("if-match", value)], change).await;
        assert_eq!(answer.status, status, "{value}: {}", answer.text);
    }
    let answer = farm.send(Method::PUT, &path, &[("if-match", &tag)], change).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    assert_ne!(answer.header("etag"), tag);
    assert!(answer.header("location").starts_with("/api/v1/operations/"));
    let answer = farm.send(Method::PUT, &path, &[("if-match", &tag)], change).await;
    assert_eq!(answer.status, 412);
    assert_eq!(answer.json()["code"], "precondition_failed");
    let answer = farm.send(Method::PUT, &path, &[("if-match", "*")], change).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    assert_eq!(farm.get(&path).await.json()["labels"]["a"], "1");
}

#[tokio::test]
async fn a_creation_sent_twice_makes_one_instance() {
    let farm = Farm::new().await;
    let path = "/api/v1/instances";
    let key = [("idempotency-key", "order-1")];
    let first = farm.send(Method::POST, path, &key, r#"{"claw_type":"openclaw","name":"a"}"#).await;
    assert_eq!(first.status, 201, "{}", first.text);
    assert_eq!(first.header("idempotent-replayed"), "");
    let id = first.json()["instance"]["id"].as_str().unwrap().to_owned();
    assert_eq!(first.header("location"), format!("/api/v1/instances/{id}"));
    let again = farm.send(Method::POST, path, &key, "{ \"name\":\"a\", \"claw_type\":\"openclaw\" }").await;
    assert_eq!((again.status.as_u16(), again.header("idempotent-replayed")), (201, "true"));
    assert_eq!(again.json()["instance"]["id"], id.as_str());
    assert_eq!(again.json()["operation"]["id"], first.json()["operation"]["id"]);
    let other = farm.send(Method::POST, path, &key, r#"{"claw_type":"openclaw","name":"b"}"#).await;
    assert_eq!(other.status, 409, "{}", other.text);
    let broken =
        farm.send(Method::POST, path, &[("idempotency-key", "")], r#"{"claw_type":"openclaw"}"#).await;
    assert_eq!((broken.status.as_u16(), broken.json()["field"].as_str()), (400, Some("Idempotency-Key")));
    assert_eq!(farm.get(path).await.json()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn pages_give_everything_once_and_filters_select() {
    let farm = Farm::new().await;
    let mut made = BTreeSet::new();
    for name in ["a", "b", "c", "d", "e"] {
        made.insert(farm.new_claw(name).await);
    }
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = farm.get(&format!("/api/v1/instances?limit=2{cursor}")).await.json();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        seen.extend(items.iter().map(|i| i["id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
        assert!(seen.len() <= 5, "pages without end: {seen:?}");
    }
    assert_eq!(seen.len(), 5);
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), made);
    for (filter, count) in [
        ("label=n=a", 1),
        ("label=n%3Db&label=n=b", 1),
        ("label=n=z", 0),
        ("claw_type=openclaw", 5),
        ("runtime=sim", 5),
        ("runtime=process", 0),
        ("target=sim&project=default", 5),
        ("phase=destroyed", 0),
    ] {
        let list = farm.get(&format!("/api/v1/instances?{filter}")).await.json();
        assert_eq!(list["items"].as_array().unwrap().len(), count, "{filter}");
    }
}

#[tokio::test]
async fn a_life_over_the_api() {
    let farm = Farm::new().await;
    let id = farm.ready_claw("alice").await;
    for (verb, body, phase) in [
        ("suspend", r#"{"warm":true}"#, "warm"),
        ("resume", "", "ready"),
        ("stop", "", "stopped"),
        ("start", "{}", "ready"),
        ("kill", "", "stopped"),
        ("restart", "", "ready"),
    ] {
        let answer = farm.post(&format!("/api/v1/instances/ali/{verb}"), body).await;
        assert_eq!(answer.status, 202, "{verb}: {}", answer.text);
        let ended = farm.ended(answer.json()["operation"]["id"].as_str().unwrap()).await;
        assert_eq!(ended["state"], "succeeded", "{verb}: {ended}");
        assert_eq!(farm.get(&format!("/api/v1/instances/{id}")).await.json()["phase"], phase, "{verb}");
    }
    let token = farm.post(&format!("/api/v1/instances/{id}/token/reveal"), "").await.json();
    assert_eq!(token["token"].as_str().unwrap().len(), 64);
    let dashboard = farm.get(&format!("/api/v1/instances/{id}/dashboard")).await.json();
    assert!(!dashboard["url"].as_str().unwrap().contains(token["token"].as_str().unwrap()));
    let rotated = farm.post(&format!("/api/v1/instances/{id}/token/rotate"), "").await;
    assert_eq!(rotated.status, 202, "{}", rotated.text);
    farm.ended(rotated.json()["operation"]["id"].as_str().unwrap()).await;
    assert_ne!(
        farm.post(&format!("/api/v1/instances/{id}/token/reveal"), "").await.json()["token"],
        token["token"]
    );
    assert_eq!(farm.get(&format!("/api/v1/instances/{id}/metrics")).await.status, 200);
    let removed = farm.delete(&format!("/api/v1/instances/{id}")).await;
    assert_eq!(removed.status, 202, "{}", removed.text);
    farm.ended(removed.json()["operation"]["id"].as_str().unwrap()).await;
    assert_eq!(farm.get("/api/v1/datasets").await.json()["items"][0]["id"], id.as_str());
    assert_eq!(farm.delete(&format!("/api/v1/datasets/{id}")).await.status, 204);
    assert!(farm.get("/api/v1/datasets").await.json()["items"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_secret_is_set_listed_and_never_answered() {
    let farm = Farm::new().await;
    let secret = "sk-this-must-not-come-back";
    let set = farm.send(Method::PUT, "/api/v1/secrets/key", &[], &format!(r#"{{"value":"{secret}"}}"#)).await;
    assert_eq!(set.status, 200, "{}", set.text);
    let body = format!(
        r#"{{"claw_type":"openclaw","name":"a","secrets":{{"own":"{secret}"}},
            "config":{{"model":{{"provider":"anthropic","api_key":{{"secret":"key"}}}}}}}}"#
    );
    let made = farm.post("/api/v1/instances", &body).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let used = farm.delete("/api/v1/secrets/key").await;
    assert_eq!(used.status, 409, "{}", used.text);
    for path in ["/api/v1/secrets", "/api/v1/instances", "/api/v1/events", "/api/v1/operations", "/metrics"] {
        let answer = farm.get(path).await;
        assert_eq!(answer.status, 200);
        assert!(!answer.text.contains(secret), "{path}");
    }
    assert!(!set.text.contains(secret) && !made.text.contains(secret) && !used.text.contains(secret));
}
