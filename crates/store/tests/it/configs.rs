//! Configurations, their revisions and rollouts.

use clawfarm_config::{Impact, MemberState, Rollout, Selector, Stage, Strategy, Template};
use clawfarm_model::authz::Action;
use clawfarm_model::{Code, ConfigName, Context, Granted, Health, Phase, Resource, authorize};
use clawfarm_store::{Changes, Fared, NewInstance, NewMember, NewRollout, Taken, Turn};
use sea_orm::ConnectionTrait as _;
use serde_json::{Value, json};

use crate::support::{Bed, On, instance, leave, on_both, owner, system};

on_both!(
    each_save_is_a_revision_and_the_same_is_none,
    a_removed_one_numbers_on_and_nobody_comes_to_it,
    what_still_says_something_is_not_removed,
    there_are_only_so_many_configurations,
    of_two_who_save_at_once_one_is_told,
    one_rollout_of_a_configuration_is_under_way,
    a_rollout_that_is_through_is_what_is_published,
    members_are_moved_once,
    a_step_is_taken_by_one_of_those_who_decided_on_it,
    what_a_step_does_is_written_only_while_it_is_the_instance_s_turn,
    those_on_their_way_are_not_left_there_when_it_is_aborted,
    what_was_published_before_is_known_however_often_it_is_gone_back,
    those_in_doubt_are_found_among_those_that_are_well,
    another_tenant_s_do_not_exist,
    of_a_rollout_of_the_fleet_s_each_tenant_sees_its_own,
);

fn name(text: &str) -> ConfigName {
    ConfigName::new(text).unwrap()
}

fn template(value: &Value) -> Template {
    serde_json::from_value(json!({ "body": value })).unwrap()
}

fn leave_of(context: &Context, tenant: &str, config: &str) -> Granted {
    let resource = Resource::new(tenant.parse().unwrap(), "config", config);
    authorize(context, Action::ConfigWrite, &resource).unwrap()
}

fn granted(config: &str) -> Granted {
    leave_of(&owner("default"), "default", config)
}

async fn save(bed: &Bed, config: &str, value: Value) -> i64 {
    let saved = bed.store.save_config(&granted(config), &name(config), None, &template(&value), "why").await;
    saved.unwrap().head
}

async fn begin(bed: &Bed, config: &str, members: Vec<NewMember>) -> clawfarm_model::Result<Rollout> {
    let present = bed.store.config(&owner("default"), &name(config)).await.unwrap();
    begin_of(bed, config, present.head, members).await
}

async fn begin_of(
    bed: &Bed,
    config: &str,
    to: i64,
    members: Vec<NewMember>,
) -> clawfarm_model::Result<Rollout> {
    let present = bed.store.config(&owner("default"), &name(config)).await.unwrap();
    let new = NewRollout {
        config: name(config),
        to,
        expect: present.version,
        selector: Selector::default(),
        strategy: Strategy::default(),
        note: None,
        message: String::new(),
        members,
    };
    bed.store.begin_rollout(&granted(config), &new).await
}

fn member(id: &str, place: i64) -> NewMember {
    NewMember {
        instance: id.parse().unwrap(),
        place,
        before: Some(1),
        impact: Impact::Hot,
        left_out: None,
        changes: Default::default(),
    }
}

fn taken(id: &str) -> Taken {
    Taken { instance: id.parse().unwrap(), ends: 3, well: true, up: true }
}

fn fared(id: &str, seen: bool) -> Fared {
    Fared { instance: id.parse().unwrap(), seen, why: None }
}

/// Takes an instance through it, as far as that it has it and was seen to run with it.
async fn prove(bed: &Bed, id: &str, running: &Rollout) {
    use MemberState as M;
    let now = bed.store.rollout(&system(), &running.id).await.unwrap();
    let took = bed.store.take_members(&system(), &now, M::Pending, M::Changing, &[taken(id)]).await.unwrap();
    assert_eq!(took.len(), 1);
    let fared = [fared(id, true)];
    bed.store.move_members(&system(), &running.id, M::Changing, M::Proven, &fared).await.unwrap();
}

async fn steered(bed: &Bed, id: &str, stage: Stage) -> Rollout {
    let before = bed.store.rollout(&system(), id).await.unwrap();
    let after = Rollout { stage, ..before.clone() };
    let leave = granted(before.config.as_str());
    bed.store.steer_rollout(&leave, &before, after, "steered").await.unwrap()
}

async fn each_save_is_a_revision_and_the_same_is_none(on: On) {
    let bed = Bed::new(on).await;
    assert_eq!(save(&bed, "support", json!({"env": {"A": "1"}})).await, 1);
    assert_eq!(save(&bed, "support", json!({"env": {"A": "1"}})).await, 1);
    assert_eq!(save(&bed, "support", json!({"env": {"A": "2"}})).await, 2);
    let me = owner("default");
    let all = bed.store.revisions(&me, &name("support"), None, 10).await.unwrap();
    assert_eq!(all.iter().map(|it| it.number).collect::<Vec<_>>(), [2, 1]);
    assert_eq!((all[0].author.as_str(), all[0].message.as_str()), ("owner:tester", "why"));
    assert_eq!(all.iter().map(|it| it.change_count).collect::<Vec<_>>(), [1, 1]);
    let newest = bed.store.revision(&me, &name("support"), 2).await.unwrap();
    assert_eq!(newest.changes[0].path.to_string(), "body.env.A");
    assert_eq!((newest.changes.len(), newest.changes[0].before.clone()), (1, Some(json!("1"))));
    let older = bed.store.revisions(&me, &name("support"), Some(2), 10).await.unwrap();
    assert_eq!(older.len(), 1);
    assert_eq!(bed.store.revision(&me, &name("support"), 3).await.unwrap_err().code(), Code::NotFound);
    bed.store.remove_config(&granted("support"), &name("support")).await.unwrap();
    assert_eq!(bed.store.config(&me, &name("support")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(bed.store.revisions(&me, &name("support"), None, 10).await.unwrap(), []);
}

/// An instance that is to go by these, and the leave to make it.
fn made(id: &str, template: Option<&str>, applied: &[(&str, i64)]) -> (Granted, NewInstance) {
    let mut it = instance("default", id);
    it.layers.template = template.map(name);
    it.layers.applied = applied.iter().map(|(text, number)| (name(text), *number)).collect();
    (leave(Action::InstanceCreate, &it), NewInstance::new(it))
}

async fn a_removed_one_numbers_on_and_nobody_comes_to_it(on: On) {
    let bed = Bed::new(on).await;
    let me = owner("default");
    save(&bed, "support", json!({"env": {"A": "1"}})).await;
    save(&bed, "support", json!({"env": {"A": "2"}})).await;
    let before = bed.store.config(&me, &name("support")).await.unwrap();
    bed.store.remove_config(&granted("support"), &name("support")).await.unwrap();
    assert!(bed.store.configs(&me).await.unwrap().is_empty());
    let again = bed.store.remove_config(&granted("support"), &name("support")).await;
    assert_eq!(again.unwrap_err().code(), Code::NotFound);
    // Read before it was removed, written after.
    let (may, new) = made("alice", Some("support"), &[("support", 2)]);
    let refused = bed.store.create_instance(&may, new).await.unwrap_err();
    assert_eq!((refused.code(), refused.field_name()), (Code::Conflict, Some("template")));
    let (writing, support, empty) = (granted("support"), name("support"), template(&json!({})));
    let stale = bed.store.save_config(&writing, &support, Some(before.version), &empty, "");
    assert_eq!(stale.await.unwrap_err().code(), Code::NotFound);
    // Made anew, no number means what it meant before.
    let anew = bed.store.save_config(&writing, &support, Some(0), &empty, "");
    let anew = anew.await.unwrap();
    assert_eq!((anew.head, anew.published), (3, None));
    assert!(anew.version > before.version);
    let gone = bed.store.revision(&me, &name("support"), 2).await;
    assert_eq!(gone.unwrap_err().code(), Code::NotFound);
    let (may, new) = made("alice", Some("support"), &[("support", 3)]);
    bed.store.create_instance(&may, new).await.unwrap();
    let bound = bed.store.remove_config(&writing, &name("support")).await.unwrap_err();
    assert!(bound.message().contains("1 instances are bound"), "{bound}");
}

async fn what_still_says_something_is_not_removed(on: On) {
    let bed = Bed::new(on).await;
    save(&bed, "tenant", json!({"env": {"A": "1"}})).await;
    save(&bed, "tenant", json!({})).await;
    let (may, new) = made("alice", None, &[("tenant", 1)]);
    let (alice, writing) = (new.instance.clone(), granted("tenant"));
    bed.store.create_instance(&may, new).await.unwrap();
    let going = bed.store.remove_config(&writing, &name("tenant")).await.unwrap_err();
    assert!(going.code() == Code::Conflict && going.fix_text().is_some(), "{going}");
    bed.store
        .update_instance(&leave(Action::InstanceChange, &alice), &alice.id, None, |it| {
            it.layers.applied.insert(name("tenant"), 2);
            Ok(Changes::none())
        })
        .await
        .unwrap();
    bed.store.remove_config(&writing, &name("tenant")).await.unwrap();
    // What it goes by can be read as long as it does.
    let tenant = "default".parse().unwrap();
    bed.store.revision_content(&system(), &tenant, &name("tenant"), 2).await.unwrap();
    let gone = bed.store.revision_content(&system(), &tenant, &name("tenant"), 1).await;
    assert_eq!(gone.unwrap_err().code(), Code::NotFound);
    assert_eq!(save(&bed, "tenant", json!({"env": {"A": "3"}})).await, 3);
}

async fn there_are_only_so_many_configurations(on: On) {
    let bed = Bed::new(on).await;
    let rows: Vec<String> = (0..999).map(|n| format!("('default', 'c{n}', 1, NULL, 1, 0, 0)")).collect();
    let columns = "tenant, name, head, published, version, created_at, updated_at";
    let sql = format!("INSERT INTO configs ({columns}) VALUES {}", rows.join(", "));
    bed.place.raw().await.execute_unprepared(&sql).await.unwrap();
    save(&bed, "support", json!({"env": {"A": "1"}})).await;
    let (leave, other, empty) = (granted("other"), name("other"), template(&json!({})));
    let refused = bed.store.save_config(&leave, &other, None, &empty, "").await.unwrap_err();
    assert_eq!((refused.code(), refused.field_name()), (Code::Conflict, Some("name")), "{refused}");
    assert!(refused.fix_text().is_some());
    // Those that there are go on.
    assert_eq!(save(&bed, "support", json!({"env": {"A": "2"}})).await, 2);
    bed.store.remove_config(&granted("support"), &name("support")).await.unwrap();
    save(&bed, "other", json!({})).await;
}

async fn of_two_who_save_at_once_one_is_told(on: On) {
    let bed = Bed::new(on).await;
    save(&bed, "support", json!({})).await;
    let read = bed.store.config(&owner("default"), &name("support")).await.unwrap().version;
    let one = |n: i64| {
        let store = bed.store.clone();
        async move {
            let (leave, name) = (granted("support"), name("support"));
            let content = template(&json!({"env": {"N": n.to_string()}}));
            store.save_config(&leave, &name, Some(read), &content, "").await
        }
    };
    let (a, b) = tokio::join!(one(1), one(2));
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    let refused = a.err().or(b.err()).unwrap();
    assert!(matches!(refused.code(), Code::PreconditionFailed | Code::Conflict), "{refused:?}");
    let (leave, name) = (granted("support"), name("support"));
    let new = bed.store.save_config(&leave, &name, Some(0), &template(&json!({})), "").await;
    assert_eq!(new.unwrap_err().code(), Code::PreconditionFailed);
}

async fn one_rollout_of_a_configuration_is_under_way(on: On) {
    let bed = Bed::new(on).await;
    save(&bed, "support", json!({})).await;
    save(&bed, "tenant", json!({})).await;
    let (a, b) = tokio::join!(begin(&bed, "support", Vec::new()), begin(&bed, "support", Vec::new()));
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    begin(&bed, "tenant", Vec::new()).await.unwrap();
    let running = a.or(b).unwrap();
    let config = bed.store.config(&owner("default"), &name("support")).await.unwrap();
    assert_eq!(config.rollout.as_deref(), Some(running.id.as_str()));
    assert_eq!(bed.store.running_rollouts(&system()).await.unwrap().len(), 2);
    let removed = bed.store.remove_config(&granted("support"), &name("support")).await;
    assert_eq!(removed.unwrap_err().code(), Code::Conflict);
    let over = Rollout { stage: Stage::Aborted, ..running.clone() };
    bed.store.steer_rollout(&granted("support"), &running, over.clone(), "it was aborted").await.unwrap();
    let late = bed.store.steer_rollout(&granted("support"), &running, over, "").await;
    assert_eq!(late.unwrap_err().code(), Code::Conflict);
    begin(&bed, "support", Vec::new()).await.unwrap();
}

async fn a_rollout_that_is_through_is_what_is_published(on: On) {
    let bed = Bed::new(on).await;
    save(&bed, "support", json!({})).await;
    let running = begin(&bed, "support", vec![member("alice-x7k2m", 0)]).await.unwrap();
    prove(&bed, "alice-x7k2m", &running).await;
    let done = steered(&bed, &running.id, Stage::Done).await;
    assert!(done.ended_at.is_some());
    let config = bed.store.config(&owner("default"), &name("support")).await.unwrap();
    assert_eq!((config.published, config.rollout), (Some(1), None));
    let revision = bed.store.revision(&owner("default"), &name("support"), 1).await.unwrap();
    assert!(revision.proven_at.is_some());
    // To a part of them it is not what new ones get, and proves nothing.
    save(&bed, "support", json!({"env": {"A": "1"}})).await;
    let running = begin(&bed, "support", Vec::new()).await.unwrap();
    let part = Selector { project: Some("default".parse().unwrap()), ..Selector::default() };
    let before = Rollout { selector: part, ..running };
    let after = Rollout { stage: Stage::Done, ..before.clone() };
    bed.store.steer_rollout(&granted("support"), &before, after, "").await.unwrap();
    assert_eq!(bed.store.config(&owner("default"), &name("support")).await.unwrap().published, Some(1));
    // Nor does it where nobody was seen to run with it.
    let running = begin(&bed, "support", Vec::new()).await.unwrap();
    steered(&bed, &running.id, Stage::Done).await;
    let me = owner("default");
    assert_eq!(bed.store.revision(&me, &name("support"), 2).await.unwrap().proven_at, None);
    // What fails later was not proven.
    let running = begin_of(&bed, "support", 1, vec![member("alice-x7k2m", 0)]).await.unwrap();
    prove(&bed, "alice-x7k2m", &running).await;
    let why = Fared { why: Some("it failed".into()), ..fared("alice-x7k2m", false) };
    let (from, to) = (MemberState::Proven, MemberState::Failed);
    bed.store.move_members(&system(), &running.id, from, to, &[why]).await.unwrap();
    steered(&bed, &running.id, Stage::RollingBack).await;
    assert_eq!(bed.store.revision(&me, &name("support"), 1).await.unwrap().proven_at, None);
}

async fn members_are_moved_once(on: On) {
    let bed = Bed::new(on).await;
    save(&bed, "support", json!({})).await;
    let members: Vec<_> = (0..1_200).map(|n| member(&format!("claw-{n:05}"), n)).collect();
    let running = begin(&bed, "support", members).await.unwrap();
    assert_eq!(running.counts.pending, 1_200);
    let first = bed.store.members(&system(), &running.id, Some(MemberState::Pending), None, 2).await.unwrap();
    assert_eq!(first.iter().map(|it| it.place).collect::<Vec<_>>(), [0, 1]);
    let marks: Vec<_> = first.iter().map(|it| fared(it.instance.as_str(), false)).collect();
    let (from, to) = (MemberState::Pending, MemberState::Changing);
    let system = system();
    let (a, b) = tokio::join!(
        bed.store.move_members(&system, &running.id, from, to, &marks),
        bed.store.move_members(&system, &running.id, from, to, &marks)
    );
    let moved = a.unwrap_or(0) + b.unwrap_or(0);
    assert_eq!(moved, 2, "each is moved by one of them");
    let rollout = bed.store.rollout(&owner("default"), &running.id).await.unwrap();
    assert_eq!((rollout.counts.pending, rollout.counts.changing), (1_198, 2));
    let first = bed.store.members(&system, &running.id, Some(to), None, 5).await.unwrap();
    assert_eq!(first[0].impact, Impact::Hot);
}

async fn a_step_is_taken_by_one_of_those_who_decided_on_it(on: On) {
    use MemberState as M;
    let bed = Bed::new(on).await;
    save(&bed, "support", json!({})).await;
    let members = (0..4).map(|n| member(&format!("claw-{n}"), n)).collect();
    let running = begin(&bed, "support", members).await.unwrap();
    // Both saw that nobody is on the way, and that one is to be; not the same one.
    let (first, second) = ([taken("claw-0")], [taken("claw-1")]);
    let system = system();
    let (a, b) = tokio::join!(
        bed.store.take_members(&system, &running, M::Pending, M::Changing, &first),
        bed.store.take_members(&system, &running, M::Pending, M::Changing, &second)
    );
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    let refused = a.as_ref().err().or(b.as_ref().err()).unwrap();
    assert_eq!(refused.code(), Code::Conflict);
    let now = bed.store.rollout(&system, &running.id).await.unwrap();
    assert_eq!((now.counts.changing, now.counts.pending), (1, 3));
    let taken = bed.store.members(&system, &now.id, Some(M::Changing), None, 5).await.unwrap();
    assert_eq!((taken[0].ends_before, taken[0].was_well, taken[0].was_up), (3, true, true));
    // Who comes later is taken in by one of them, too.
    let late = [member("claw-9", 9)];
    bed.store.add_members(&system, &now, &late).await.unwrap();
    assert_eq!(bed.store.add_members(&system, &now, &late).await.unwrap_err().code(), Code::Conflict);
}

async fn what_a_step_does_is_written_only_while_it_is_the_instance_s_turn(on: On) {
    use MemberState as M;
    let bed = Bed::new(on).await;
    save(&bed, "support", json!({})).await;
    let alice = bed.make(instance("default", "alice")).await;
    let running = begin(&bed, "support", vec![member(alice.id.as_str(), 0)]).await.unwrap();
    let give = async |state: MemberState| {
        let resource = Resource::new("default".parse().unwrap(), "instance", alice.id.as_str());
        let leave = authorize(&system(), Action::InstanceChange, &resource).unwrap();
        let turn = Some(Turn { rollout: running.id.clone(), state });
        let writing = bed.store.update_instance(&leave, &alice.id, None, move |it| {
            it.layers.revision += 1;
            it.intent.generation += 1;
            Ok(Changes { turn, ..Changes::none() })
        });
        writing.await.map(|(it, _)| it.layers.revision)
    };
    let early = give(M::Changing).await.unwrap_err();
    assert_eq!((early.code(), early.field_name()), (Code::Conflict, Some("rollout")));
    let taken = [taken(alice.id.as_str())];
    bed.store.take_members(&system(), &running, M::Pending, M::Changing, &taken).await.unwrap();
    let given = give(M::Changing).await.unwrap();
    // It is turned round while somebody is still about to give it the revision.
    let now = bed.store.rollout(&system(), &running.id).await.unwrap();
    bed.store.take_members(&system(), &now, M::Changing, M::Reverting, &taken).await.unwrap();
    assert_eq!(give(M::Changing).await.unwrap_err().field_name(), Some("rollout"));
    assert_eq!(give(M::Reverting).await.unwrap(), given + 1);
    steered(&bed, &running.id, Stage::Aborted).await;
    assert_eq!(give(M::Reverting).await.unwrap_err().field_name(), Some("rollout"));
    let it = bed.store.instance(&system(), &alice.id).await.unwrap();
    assert_eq!(it.layers.revision, given + 1, "what was refused changed nothing");
}

async fn those_on_their_way_are_not_left_there_when_it_is_aborted(on: On) {
    use MemberState as M;
    let bed = Bed::new(on).await;
    save(&bed, "support", json!({})).await;
    let running = begin(&bed, "support", vec![member("claw-0", 0), member("claw-1", 1)]).await.unwrap();
    let one = [taken("claw-0")];
    bed.store.take_members(&system(), &running, M::Pending, M::Changing, &one).await.unwrap();
    let ended = steered(&bed, &running.id, Stage::Aborted).await;
    assert_eq!((ended.counts.changing, ended.counts.skipped, ended.counts.pending), (0, 1, 1));
    let left = bed.store.members(&system(), &running.id, Some(M::Skipped), None, 5).await.unwrap();
    assert!(left[0].error.as_ref().unwrap().contains("aborted"));
    // Nothing more is begun with.
    let late = bed.store.take_members(&system(), &ended, M::Pending, M::Changing, &[taken("claw-1")]).await;
    assert_eq!(late.unwrap_err().code(), Code::Conflict);
}

async fn what_was_published_before_is_known_however_often_it_is_gone_back(on: On) {
    let bed = Bed::new(on).await;
    let me = owner("default");
    for n in 1..=3 {
        save(&bed, "support", json!({"env": {"N": n.to_string()}})).await;
        let running = begin(&bed, "support", Vec::new()).await.unwrap();
        steered(&bed, &running.id, Stage::Done).await;
    }
    let running = begin_of(&bed, "support", 2, Vec::new()).await.unwrap();
    steered(&bed, &running.id, Stage::Done).await;
    let before = async |number| bed.store.published_before(&me, &name("support"), number).await.unwrap();
    assert_eq!([before(3).await, before(2).await, before(1).await], [Some(2), Some(1), None]);
}

async fn those_in_doubt_are_found_among_those_that_are_well(on: On) {
    use MemberState as M;
    let bed = Bed::new(on).await;
    save(&bed, "support", json!({})).await;
    let mut ids = Vec::new();
    for (n, name) in ["well", "ended", "sick", "woken", "asleep"].iter().enumerate() {
        let made = bed.make(instance("default", name)).await;
        ids.push(member(made.id.as_str(), i64::try_from(n).unwrap()));
        let resource = Resource::new("default".parse().unwrap(), "instance", made.id.as_str());
        let leave = authorize(&system(), Action::Observe, &resource).unwrap();
        let writing = bed.store.update_instance(&leave, &made.id, None, |it| {
            it.phase = if *name == "asleep" { Phase::Suspended } else { Phase::Ready };
            it.health = if *name == "sick" { Health::Failing } else { Health::Passing };
            it.restarts_total = if *name == "ended" { 4 } else { 3 };
            Ok(Changes::none())
        });
        writing.await.unwrap();
    }
    let running = begin(&bed, "support", ids.clone()).await.unwrap();
    let marks: Vec<_> = ids.iter().map(|it| taken(it.instance.as_str())).collect();
    bed.store.take_members(&system(), &running, M::Pending, M::Changing, &marks).await.unwrap();
    let seen = |it: &NewMember| it.place < 3;
    let fared: Vec<_> = ids.iter().map(|it| fared(it.instance.as_str(), seen(it))).collect();
    bed.store.move_members(&system(), &running.id, M::Changing, M::Proven, &fared).await.unwrap();
    let doubt = bed.store.members_in_doubt(&system(), &running.id, 10).await.unwrap();
    let doubt: Vec<_> = doubt.iter().map(|(_, it)| it.as_ref().unwrap().name.as_str()).collect();
    assert_eq!(doubt, ["ended", "sick", "woken"]);
    let all = bed.store.members_as_they_are(&system(), &running.id, M::Proven, 10).await.unwrap();
    assert_eq!(all.iter().filter(|(_, it)| it.is_some()).count(), 5);
    let counts = bed.store.rollout(&system(), &running.id).await.unwrap().counts;
    assert_eq!((counts.proven, counts.seen), (5, 3));
    let refused = bed.store.members_in_doubt(&owner("default"), &running.id, 10).await.unwrap_err();
    assert_eq!(refused.code(), Code::Forbidden);
}

async fn another_tenant_s_do_not_exist(on: On) {
    let bed = Bed::new(on).await;
    save(&bed, "support", json!({})).await;
    save(&bed, "global", json!({})).await;
    let running = begin(&bed, "support", vec![member("alice-x7k2m", 0)]).await.unwrap();
    let other = owner("other");
    assert_eq!(bed.store.config(&other, &name("support")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(bed.store.revision(&other, &name("support"), 1).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(bed.store.rollout(&other, &running.id).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(bed.store.rollouts(&other, None, 10).await.unwrap(), []);
    assert_eq!(
        bed.store.members(&other, &running.id, None, None, 10).await.unwrap_err().code(),
        Code::NotFound
    );
    let seen: Vec<_> = bed.store.configs(&other).await.unwrap().into_iter().map(|it| it.name).collect();
    assert_eq!(seen, [name("global")]);
    let theirs = bed.make(instance("other", "theirs")).await;
    let of = async |tenant: &str| {
        bed.store.instances_of(&owner("default"), &tenant.parse().unwrap(), &name("tenant"), None, 100).await
    };
    let all = of("default").await;
    assert!(all.unwrap().iter().all(|it| it.id != theirs.id));
    let none = of("other").await;
    assert_eq!(none.unwrap(), []);
    // Another tenant's leave makes another configuration of the same name.
    let (leave, content) = (leave_of(&other, "other", "support"), template(&json!({"env": {"X": "1"}})));
    let saved = bed.store.save_config(&leave, &name("support"), Some(0), &content, "").await;
    assert_eq!(saved.unwrap().head, 1);
    assert_eq!(bed.store.config(&owner("default"), &name("support")).await.unwrap().head, 1);
}

async fn of_a_rollout_of_the_fleet_s_each_tenant_sees_its_own(on: On) {
    let bed = Bed::new(on).await;
    save(&bed, "global", json!({})).await;
    let (ours, theirs) =
        (bed.make(instance("default", "ours")).await, bed.make(instance("other", "theirs")).await);
    let members = vec![member(ours.id.as_str(), 0), member(theirs.id.as_str(), 1)];
    let begun = begin(&bed, "global", members).await.unwrap();
    let failed = Rollout {
        stage: Stage::Aborted,
        error: Some(format!("{}: its last lines: hello", ours.id)),
        ..begun.clone()
    };
    bed.store.steer_rollout(&granted("global"), &begun, failed, "").await.unwrap();
    let (me, other) = (owner("default"), owner("other"));
    let ids = async |context: &Context| {
        let seen = bed.store.members(context, &begun.id, None, None, 10).await.unwrap();
        seen.into_iter().map(|it| it.instance).collect::<Vec<_>>()
    };
    assert_eq!(ids(&me).await, [ours.id.clone(), theirs.id.clone()]);
    assert_eq!(ids(&other).await, [theirs.id]);
    assert!(bed.store.rollout(&me, &begun.id).await.unwrap().error.unwrap().contains("hello"));
    let told = bed.store.rollout(&other, &begun.id).await.unwrap();
    assert_eq!(told.error.as_deref(), Some("it failed at an instance"));
    assert_eq!(bed.store.rollouts(&other, None, 10).await.unwrap(), [told]);
}
