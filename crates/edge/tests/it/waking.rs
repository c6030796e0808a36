//! Claws that sleep.

use std::time::Duration;

use http_body_util::Full;

use crate::claw::Claw;
use crate::farm::{Answer, Farm, State, bearer};

#[tokio::test]
async fn one_wake_serves_all_who_wait() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Asleep, claw.address);
    let asks = (0..100).map(|_| farm.get("a-1", "/"));
    let release = async {
        while farm.wakes() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        farm.fleet.may_wake.add_permits(10);
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(asks), release);
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!(claw.seen(), 100);
    assert_eq!(farm.wakes(), 1);
}

#[tokio::test]
async fn a_body_is_held_and_then_passed_on() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Asleep, claw.address);
    farm.fleet.may_wake.add_permits(1);
    let request = farm.request("POST", "a-1", "/").header("authorization", bearer("a-1"));
    let answer = Answer::of(farm.ask(request.body(Full::from("said asleep")).unwrap()).await).await;
    assert_eq!(answer.json()["body"], "said asleep");
}

#[tokio::test]
async fn more_than_may_wait_are_told_when_to_come_again() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Asleep, claw.address);
    let asks = (0..300).map(|_| async {
        let answer = farm.get("a-1", "/").await;
        // The places are taken until one is sent away; then the rest may go.
        if answer.status == 503 {
            farm.fleet.may_wake.add_permits(1);
        }
        answer
    });
    let answers = futures::future::join_all(asks).await;
    let away: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    assert!(!away.is_empty() && away.len() <= 300 - 256, "{}", away.len());
    assert!(away.iter().all(|answer| answer.headers.contains_key("retry-after")));
    assert!(answers.iter().all(|answer| [200, 503].contains(&answer.status)));
}

#[tokio::test]
async fn a_person_is_shown_that_it_wakes_and_goes_on() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Asleep, claw.address);
    let cookie = farm.session("a-1").await;
    let page = || {
        farm.request("GET", "a-1", "/chat")
            .header("cookie", &cookie)
            .header("accept", "text/html,*/*")
            .header("sec-fetch-mode", "navigate")
            .header("sec-fetch-site", "none")
            .body(Full::default())
            .unwrap()
    };
    let waiting = Answer::of(farm.ask(page()).await).await;
    assert_eq!(waiting.status, 503);
    assert!(waiting.text.contains("a is waking") && waiting.headers.contains_key("retry-after"));
    assert!(waiting.headers["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"));
    let state = || async {
        let request = farm
            .request("GET", "a-1", "/_clawfarm/state")
            .header("cookie", &cookie)
            .header("sec-fetch-site", "same-origin");
        Answer::of(farm.ask(request.body(Full::default()).unwrap()).await).await.json()["state"].clone()
    };
    assert_eq!(state().await, "waking");
    farm.fleet.may_wake.add_permits(1);
    while state().await != "awake" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(Answer::of(farm.ask(page()).await).await.json()["target"], "/chat");
    assert_eq!(farm.wakes(), 1, "the wake went on when nobody waited");
}

#[tokio::test]
async fn what_failed_a_moment_ago_is_not_tried_by_everybody() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Asleep, claw.address);
    farm.change("a-1", |known| known.wakes_at = None);
    farm.fleet.may_wake.add_permits(100);
    for _ in 0..10 {
        let answer = farm.get("a-1", "/").await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("insufficient")));
        assert!(answer.headers.contains_key("retry-after"));
        assert_eq!(answer.json()["fix"], "stop another");
    }
    // On a machine that takes longer for these than the memory lasts, it is tried again.
    assert!(farm.wakes() <= 3, "{}", farm.wakes());
}

#[tokio::test]
async fn one_that_was_stopped_is_not_woken() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Down, claw.address);
    let answer = farm.get("a-1", "/").await;
    assert_eq!((answer.status, answer.json()["fix"].as_str()), (503, Some("clawfarm start it")));
    assert!(!answer.headers.contains_key("retry-after"));
    assert_eq!(farm.wakes(), 0);
}

#[tokio::test]
async fn one_that_fell_asleep_in_this_very_moment_is_woken_again() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    let gone = { Claw::new().await.address };
    farm.put("a-1", State::Awake, gone);
    farm.fleet.may_wake.add_permits(1);
    let asked = async {
        let answer = farm.get("a-1", "/").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    // It still says awake when it is looked up, and is found asleep when it does not answer.
    let sleeps = async {
        farm.change("a-1", |known| (known.state, known.wakes_at) = (State::Asleep, Some(claw.address)));
    };
    tokio::join!(asked, sleeps);
}
