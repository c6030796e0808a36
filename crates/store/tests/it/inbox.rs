//! Messages: kept in order, in secret, within limits, and for nobody else.

use std::time::Duration;

use clawfarm_model::authz::Action;
use clawfarm_model::inbox::{InboxMessage, InboxState};
use clawfarm_model::{ClawId, Code, Instance, Timestamp};
use clawfarm_store::{EventFilter, InboxLimits, NewMessage, Retention, Tried};
use sea_orm::{ConnectionTrait, DbBackend, Statement};

use crate::removal::remove;
use crate::support::{Bed, On, instance, leave, on_both, owner, system};

on_both!(
    lanes_are_delivered_in_order_and_apart,
    lanes_that_wait_for_their_time_hide_no_others,
    what_is_full_is_told_while_others_write,
    one_that_comes_again_is_the_same,
    what_can_t_be_kept_is_refused_and_changes_nothing,
    what_they_say_is_nowhere_in_the_database,
    what_is_given_up_is_looked_at_replayed_and_dropped,
    another_tenant_s_do_not_exist,
    they_go_with_their_instance,
    what_is_too_old_is_given_up_and_then_removed,
    deliverers_of_all_servers_are_told,
);

const PLAIN: &str = "what-a-person-said-7f3a9c5e";

fn new(id: &str, lane: &str) -> NewMessage {
    let content = format!("{PLAIN} {id}").into_bytes();
    NewMessage { id: id.into(), lane: lane.into(), path: "/hooks".into(), content }
}

async fn accept(bed: &Bed, of: &Instance, id: &str, lane: &str) -> bool {
    let granted = leave(Action::InstanceUse, of);
    bed.store.accept_message(&granted, &of.id, &new(id, lane), InboxLimits::default()).await.unwrap()
}

async fn tried(bed: &Bed, of: &Instance, id: &str, tried: Tried) {
    bed.store.message_tried(&leave(Action::Observe, of), &of.id, id, &tried).await.unwrap();
}

fn dead() -> Tried {
    Tried::Dead { error: "it answered 422".into() }
}

async fn heads(bed: &Bed, of: &Instance) -> Vec<String> {
    let heads = bed.store.inbox_heads(&system(), &of.id, Timestamp::now(), 10).await.unwrap();
    heads.into_iter().map(|head| head.id).collect()
}

async fn all(bed: &Bed, of: &Instance) -> Vec<InboxMessage> {
    bed.store.messages(&owner("default"), &of.id, None, None, 100).await.unwrap()
}

async fn lanes_are_delivered_in_order_and_apart(on: On) {
    let bed = Bed::new(on).await;
    let alice = bed.make(instance("default", "alice")).await;
    for (id, lane) in [("a1", "a"), ("b1", "b"), ("a2", "a"), ("b2", "b"), ("a3", "a")] {
        assert!(accept(&bed, &alice, id, lane).await);
    }
    assert_eq!(heads(&bed, &alice).await, ["a1", "b1"]);
    let content = bed.store.message_content(&system(), &alice.id, "a1").await.unwrap().unwrap();
    assert_eq!(content, format!("{PLAIN} a1").as_bytes());
    tried(&bed, &alice, "a1", Tried::Delivered).await;
    assert_eq!(heads(&bed, &alice).await, ["b1", "a2"]);
    // One that is tried again holds up its own lane only.
    let later = Timestamp::from_millis(Timestamp::now().as_millis() + 60_000);
    tried(&bed, &alice, "b1", Tried::Later { next_at: later, error: "it answered 500".into() }).await;
    tried(&bed, &alice, "a2", Tried::Delivered).await;
    let heads = async |now| {
        let heads = bed.store.inbox_heads(&system(), &alice.id, now, 10).await.unwrap();
        heads.into_iter().map(|h| (h.id, h.attempts)).collect::<Vec<_>>()
    };
    let next = async |now| bed.store.inbox_next(&system(), &alice.id, now).await.unwrap();
    let now = Timestamp::from_millis(later.as_millis() - 1);
    assert_eq!((heads(now).await, next(now).await), (vec![("a3".to_owned(), 0)], Some(later)));
    let all = vec![("b1".to_owned(), 1), ("a3".to_owned(), 0)];
    assert_eq!((heads(later).await, next(later).await), (all, None));
    for (lane, waits) in [("a", true), ("b", true), ("c", false)] {
        assert_eq!(bed.store.waits_in_lane(&system(), &alice.id, lane).await.unwrap(), waits, "{lane}");
    }
    // One that is given up holds up nobody.
    tried(&bed, &alice, "b1", dead()).await;
    let now: Vec<String> = self::heads(&bed, &alice).await;
    assert_eq!(now, ["b2", "a3"]);
    let depth = bed.store.inbox_depth(&system()).await.unwrap();
    assert_eq!((depth.waiting, depth.dead, depth.oldest.is_some()), (2, 1, true));
}

async fn one_that_comes_again_is_the_same(on: On) {
    let bed = Bed::new(on).await;
    let alice = bed.make(instance("default", "alice")).await;
    assert!(accept(&bed, &alice, "m1", "a").await);
    assert!(!accept(&bed, &alice, "m1", "a").await);
    assert_eq!(all(&bed, &alice).await.len(), 1);
    // What becomes of a message that is no longer waiting changes nothing.
    tried(&bed, &alice, "m1", Tried::Delivered).await;
    tried(&bed, &alice, "m1", dead()).await;
    assert_eq!(all(&bed, &alice).await, []);
    let (store, id) = (&bed.store, &alice.id);
    assert_ne!(
        store.inbox_code("lane", id.as_str()).unwrap(),
        store.inbox_code("message", id.as_str()).unwrap()
    );
    assert_eq!(store.inbox_code("lane", "x").unwrap(), store.inbox_code("lane", "x").unwrap());
    // Its service was told that it was taken: one that was given up meanwhile is tried again, as it
    // was sent the last time.
    assert!(accept(&bed, &alice, "given-up", "z").await);
    tried(&bed, &alice, "given-up", dead()).await;
    assert!(!heads(&bed, &alice).await.contains(&"given-up".to_owned()));
    let granted = leave(Action::InstanceUse, &alice);
    let again = NewMessage { content: b"under a new token".to_vec(), ..new("given-up", "z") };
    assert!(!store.accept_message(&granted, id, &again, InboxLimits::default()).await.unwrap());
    assert_eq!(heads(&bed, &alice).await, ["given-up"]);
    let one = store.message(&owner("default"), id, "given-up").await.unwrap();
    assert_eq!((one.state, one.attempts, one.size_bytes), (InboxState::Waiting, 0, 17));
    let content = store.message_content(&system(), id, "given-up").await.unwrap().unwrap();
    assert_eq!(content, b"under a new token");
    // One that waits stays as it came first.
    assert!(!accept(&bed, &alice, "given-up", "z").await);
    let content = store.message_content(&system(), id, "given-up").await.unwrap().unwrap();
    assert_eq!(content, b"under a new token");
}

async fn lanes_that_wait_for_their_time_hide_no_others(on: On) {
    let bed = Bed::new(on).await;
    let alice = bed.make(instance("default", "alice")).await;
    let later = Timestamp::from_millis(Timestamp::now().as_millis() + 3_600_000);
    for n in 0..20 {
        accept(&bed, &alice, &format!("m{n}"), &format!("lane{n}")).await;
        tried(&bed, &alice, &format!("m{n}"), Tried::Later { next_at: later, error: "busy".into() }).await;
    }
    for id in ["late", "later"] {
        accept(&bed, &alice, id, "other").await;
    }
    // The ten oldest lanes all wait.
    assert_eq!(heads(&bed, &alice).await, ["late"]);
    let next = bed.store.inbox_next(&system(), &alice.id, Timestamp::now()).await.unwrap();
    assert_eq!(next, Some(later));
}

async fn what_is_full_is_told_while_others_write(on: On) {
    let bed = Bed::new(on).await;
    let alice = bed.make(instance("default", "alice")).await;
    accept(&bed, &alice, "m1", "a").await;
    let raw = bed.place.raw().await;
    let begin = if on == On::Postgres { "BEGIN" } else { "BEGIN IMMEDIATE" };
    raw.execute_unprepared(begin).await.unwrap();
    raw.execute_unprepared("UPDATE instances SET name = name").await.unwrap();
    let granted = leave(Action::InstanceUse, &alice);
    for limits in [InboxLimits { count: 1, bytes: 1 << 20 }, InboxLimits { count: 9, bytes: 20 }] {
        let message = new("m2", "a");
        let told = bed.store.accept_message(&granted, &alice.id, &message, limits).await.unwrap_err();
        let code = if limits.count == 1 { Code::Overloaded } else { Code::Insufficient };
        assert_eq!(told.code(), code, "{told:?}");
    }
    raw.execute_unprepared("ROLLBACK").await.unwrap();
}

/// A message of a megabyte is read whole for a number behind it; so no question that is asked at
/// each message goes to the rows.
#[tokio::test]
async fn what_is_asked_at_each_message_is_answered_by_an_index() {
    let bed = Bed::new(On::Sqlite).await;
    let raw = bed.place.raw().await;
    let limits = "SELECT COUNT(seq), SUM(size) FROM inbox WHERE instance = 'a'";
    let heads = "SELECT head.seq FROM (SELECT lane, MIN(seq) AS first FROM inbox WHERE instance = 'a' \
                 AND state = 'waiting' GROUP BY lane) AS lanes INNER JOIN inbox AS head ON head.instance = 'a' \
                 AND head.state = 'waiting' AND head.lane = lanes.lane AND head.seq <= lanes.first \
                 WHERE head.next_at <= 5 ORDER BY head.seq LIMIT 16";
    for sql in [limits, heads] {
        let sql = format!("EXPLAIN QUERY PLAN {sql}");
        let plan = raw.query_all_raw(Statement::from_string(DbBackend::Sqlite, sql)).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.try_get("", "detail").unwrap()).collect();
        let tables: Vec<&String> = plan.iter().filter(|it| it.contains("inbox")).collect();
        assert!(!tables.is_empty() && tables.iter().all(|it| it.contains("COVERING INDEX")), "{plan:?}");
    }
}

async fn what_can_t_be_kept_is_refused_and_changes_nothing(on: On) {
    let bed = Bed::new(on).await;
    let alice = bed.make(instance("default", "alice")).await;
    let granted = leave(Action::InstanceUse, &alice);
    let limits = InboxLimits { count: 2, bytes: 150 };
    let accept = async |id: &str, size: usize| {
        let message = NewMessage { content: vec![b'x'; size], ..new(id, "a") };
        bed.store.accept_message(&granted, &alice.id, &message, limits).await.map_err(|e| e.code())
    };
    assert_eq!(accept("m1", 100).await, Ok(true));
    assert_eq!(accept("m2", 51).await, Err(Code::Insufficient));
    assert_eq!(accept("m2", 50).await, Ok(true));
    assert_eq!(accept("m3", 0).await, Err(Code::Overloaded));
    assert_eq!(all(&bed, &alice).await.len(), 2);
    let nobody = ClawId::new("nobody-12345").unwrap();
    let told = bed.store.accept_message(&granted, &nobody, &new("m9", "a"), limits).await.unwrap_err();
    assert_eq!(told.code(), Code::NotFound);
}

async fn what_they_say_is_nowhere_in_the_database(on: On) {
    let bed = Bed::new(on).await;
    let alice = bed.make(instance("default", "alice")).await;
    accept(&bed, &alice, "m1", "a").await;
    let found = |text: &str| bed.place.contents().windows(text.len()).any(|w| w == text.as_bytes());
    assert!(found("/hooks") && !found(PLAIN));
    // Moved to another message it does not open.
    accept(&bed, &alice, "m2", "a").await;
    let raw = bed.place.raw().await;
    for column in ["wrapped_key", "content"] {
        let sql = format!(
            "UPDATE inbox SET {column} = (SELECT {column} FROM inbox WHERE id = 'm1') WHERE id = 'm2'"
        );
        raw.execute_unprepared(&sql).await.unwrap();
    }
    let told = bed.store.message_content(&system(), &alice.id, "m2").await.unwrap_err();
    assert_eq!(told.code(), Code::Internal);
}

async fn what_is_given_up_is_looked_at_replayed_and_dropped(on: On) {
    let bed = Bed::new(on).await;
    let alice = bed.make(instance("default", "alice")).await;
    for id in ["m1", "m2", "m3", "m4"] {
        accept(&bed, &alice, id, id).await;
    }
    for id in ["m1", "m2", "m3"] {
        tried(&bed, &alice, id, dead()).await;
    }
    let list = async |state, after| {
        let found = bed.store.messages(&owner("default"), &alice.id, state, after, 2).await.unwrap();
        found.into_iter().map(|m| m.id).collect::<Vec<_>>()
    };
    assert_eq!(list(Some(InboxState::Dead), None).await, ["m1", "m2"]);
    assert_eq!(list(Some(InboxState::Dead), Some("m2")).await, ["m3"]);
    assert_eq!(list(Some(InboxState::Waiting), None).await, ["m4"]);
    let one = bed.store.message(&owner("default"), &alice.id, "m1").await.unwrap();
    assert_eq!(
        (one.attempts, one.state, one.last_error.as_deref()),
        (1, InboxState::Dead, Some("it answered 422"))
    );

    let granted = leave(Action::InstanceUse, &alice);
    let (store, id) = (&bed.store, &alice.id);
    assert_eq!(store.replay_messages(&granted, id, Some("m1")).await.unwrap(), 1);
    assert_eq!(store.replay_messages(&granted, id, Some("m4")).await.unwrap(), 0, "it waits already");
    assert_eq!(heads(&bed, &alice).await, ["m1", "m4"]);
    assert_eq!(store.message(&owner("default"), id, "m1").await.unwrap().attempts, 0);
    assert_eq!(store.replay_messages(&granted, id, None).await.unwrap(), 2);
    tried(&bed, &alice, "m2", dead()).await;
    assert_eq!(store.drop_messages(&granted, id, None, Some(InboxState::Dead)).await.unwrap(), 1);
    assert_eq!(store.drop_messages(&granted, id, Some("m3"), None).await.unwrap(), 1);
    assert_eq!(heads(&bed, &alice).await, ["m1", "m4"]);
    let filter = EventFilter { instance: Some(id.clone()), ..EventFilter::default() };
    let events = store.events(&owner("default"), &filter, 100).await.unwrap();
    let of = |reason: &str| events.iter().filter(|event| event.reason == reason).count();
    assert_eq!((of("inbox-dead"), of("inbox-replayed"), of("inbox-dropped")), (4, 2, 2));
}

async fn another_tenant_s_do_not_exist(on: On) {
    let bed = Bed::new(on).await;
    let theirs = bed.make(instance("other", "alice")).await;
    accept(&bed, &theirs, "m1", "a").await;
    tried(&bed, &theirs, "m1", dead()).await;
    accept(&bed, &theirs, "m2", "a").await;
    let (store, me, id) = (&bed.store, owner("default"), &theirs.id);
    assert_eq!(store.messages(&me, id, None, None, 10).await.unwrap(), []);
    assert_eq!(store.message(&me, id, "m1").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(store.message_content(&me, id, "m1").await.unwrap(), None);
    assert!(!store.waits_in_lane(&me, id, "a").await.unwrap());
    for told in [
        store.inbox_heads(&me, id, Timestamp::now(), 10).await.map(drop),
        store.inbox_next(&me, id, Timestamp::now()).await.map(drop),
        store.instances_with_messages(&me).await.map(drop),
        store.inbox_depth(&me).await.map(drop),
    ] {
        assert_eq!(told.unwrap_err().code(), Code::Forbidden);
    }
    // Leave for one's own instance is none for theirs.
    let mine = bed.make(instance("default", "mine")).await;
    let granted = leave(Action::InstanceUse, &mine);
    let limits = InboxLimits::default();
    for told in [
        store.accept_message(&granted, id, &new("m3", "a"), limits).await.map(drop),
        store.replay_messages(&granted, id, None).await.map(drop),
        store.drop_messages(&granted, id, None, None).await.map(drop),
        store.message_tried(&leave(Action::Observe, &mine), id, "m2", &Tried::Delivered).await,
    ] {
        assert_eq!(told.unwrap_err().code(), Code::NotFound);
    }
    assert_eq!(store.messages(&owner("other"), id, None, None, 10).await.unwrap().len(), 2);
}

async fn they_go_with_their_instance(on: On) {
    let bed = Bed::new(on).await;
    let alice = bed.make(instance("default", "alice")).await;
    for id in ["m1", "m2"] {
        accept(&bed, &alice, id, "a").await;
    }
    remove(&bed, &alice, true).await;
    assert_eq!(all(&bed, &alice).await, []);
    let filter = EventFilter { instance: Some(alice.id.clone()), ..EventFilter::default() };
    let events = bed.store.events(&owner("default"), &filter, 100).await.unwrap();
    assert!(events.iter().any(|event| event.message == "2 messages are dropped with it"), "{events:?}");
    let granted = leave(Action::InstanceUse, &alice);
    let told = bed.store.accept_message(&granted, &alice.id, &new("m3", "a"), InboxLimits::default()).await;
    assert_eq!(told.unwrap_err().code(), Code::NotFound);
}

async fn what_is_too_old_is_given_up_and_then_removed(on: On) {
    let bed = Bed::new(on).await;
    let alice = bed.make(instance("default", "alice")).await;
    accept(&bed, &alice, "old", "a").await;
    accept(&bed, &alice, "new", "a").await;
    let raw = bed.place.raw().await;
    raw.execute_unprepared("UPDATE inbox SET received_at = received_at - 7200000 WHERE id = 'old'")
        .await
        .unwrap();
    let hour = Duration::from_secs(3600);
    let keep = Retention { messages: hour, ..Retention::default() };
    assert_eq!(bed.store.prune(&system(), &keep).await.unwrap().messages, 0);
    assert_eq!(heads(&bed, &alice).await, ["new"]);
    let old = bed.store.message(&owner("default"), &alice.id, "old").await.unwrap();
    assert_eq!(old.state, InboxState::Dead);
    // Wanted again it has its time to be taken anew. For how long it is kept counts from when it came.
    let granted = leave(Action::InstanceUse, &alice);
    bed.store.replay_messages(&granted, &alice.id, Some("old")).await.unwrap();
    let keep = Retention { messages: hour, age: hour, ..Retention::default() };
    assert_eq!(bed.store.prune(&system(), &keep).await.unwrap().messages, 0);
    assert_eq!(heads(&bed, &alice).await, ["old"]);
    tried(&bed, &alice, "old", dead()).await;
    assert_eq!(bed.store.prune(&system(), &keep).await.unwrap().messages, 1);
    assert_eq!(all(&bed, &alice).await.len(), 1);
}

async fn deliverers_of_all_servers_are_told(on: On) {
    let bed = Bed::new(on).await;
    let alice = bed.make(instance("default", "alice")).await;
    let other = if on == On::Postgres { Some(bed.place.open().await) } else { None };
    let news = bed.store.inbox_news();
    let theirs = other.as_ref().map(clawfarm_store::Store::inbox_news);
    accept(&bed, &alice, "m1", "a").await;
    let limit = Duration::from_secs(60);
    for news in [Some(news), theirs].into_iter().flatten() {
        let mut told = tokio::time::timeout(limit, news.next()).await.expect("it is told");
        if told.is_empty() {
            // It had not begun to listen: it looks.
            told.extend(bed.store.instances_with_messages(&system()).await.unwrap());
        }
        assert_eq!(told.into_iter().collect::<Vec<_>>(), std::slice::from_ref(&alice.id));
    }
    assert_eq!(bed.store.instances_with_messages(&system()).await.unwrap(), [alice.id]);
}
