//! What takes more than one step: every such operation, from a state in which it can be done.

use std::path::Path;
use std::time::Duration;

use clawfarm_adapters::SendEvent;
use clawfarm_control::{Change, ChangeMany, Idempotency, NewConfig, NewRestore, PolicyChange, Publish};
use clawfarm_model::secret::SecretName;
use clawfarm_model::{ClawId, Phase};
use clawfarm_model::{Code, ConfigName, Error, Operation, Result, Timestamp};
use clawfarm_runtime_sim::{ClawBehaviour, Override};
use futures::StreamExt;
use tempfile::TempDir;

use super::home::{LIMIT, Server, folder};
use crate::fleet::{claw, owner};

/// A version that works as the first one does, and one that crashes.
pub(crate) const NEW: &str = "2026.9.7";
pub(crate) const BROKEN: &str = "2026.9.8";

/// One operation. It is done to the instance of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    New,
    NewOfDataset,
    Import,
    Start,
    Stop,
    Kill,
    Restart,
    Suspend,
    Warm,
    /// By its policy: nobody asks for it.
    Idle,
    Resume,
    Send,
    Change,
    Relabel,
    RotateToken,
    SetSecret,
    Remove,
    Purge,
    RemoveDataset,
    /// To a version that works.
    Update,
    /// To a version that crashes: it fails, and the old version comes back.
    UpdateToBroken,
    /// Into a file of the server's home.
    Backup,
    /// Of that file.
    Restore,
    /// A configuration to all instances.
    Publish,
    /// One that they don't start with: they are given back what they had.
    PublishBroken,
    /// In what all instances say themselves.
    ChangeMany,
    /// One that they don't start with: they say again what they said.
    ChangeManyBroken,
    /// The server's own beginning.
    Begin,
}

/// An operation, what has to be done before it, and the phase that it ends in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) before: &'static [Op],
    pub(crate) op: Op,
    pub(crate) ends: Option<Phase>,
}

const fn scenario(name: &'static str, before: &'static [Op], op: Op, ends: Option<Phase>) -> Scenario {
    Scenario { name, before, op, ends }
}

pub(crate) const ALL: &[Scenario] = &[
    scenario("new", &[], Op::New, Some(Phase::Ready)),
    scenario("new_of_dataset", &[Op::New, Op::Remove], Op::NewOfDataset, Some(Phase::Ready)),
    scenario("import", &[], Op::Import, Some(Phase::Ready)),
    scenario("start", &[Op::New, Op::Stop], Op::Start, Some(Phase::Ready)),
    scenario("stop", &[Op::New], Op::Stop, Some(Phase::Stopped)),
    scenario("kill", &[Op::New], Op::Kill, Some(Phase::Stopped)),
    scenario("restart", &[Op::New], Op::Restart, Some(Phase::Ready)),
    scenario("suspend", &[Op::New], Op::Suspend, Some(Phase::Suspended)),
    scenario("warm", &[Op::New], Op::Warm, Some(Phase::Warm)),
    scenario("idle", &[Op::New], Op::Idle, Some(Phase::Warm)),
    scenario("thaw", &[Op::New, Op::Warm], Op::Resume, Some(Phase::Ready)),
    scenario("wake_by_message", &[Op::New, Op::Suspend], Op::Send, Some(Phase::Ready)),
    scenario("change", &[Op::New], Op::Change, Some(Phase::Ready)),
    scenario("rotate_token", &[Op::New], Op::RotateToken, Some(Phase::Ready)),
    scenario("remove", &[Op::New], Op::Remove, None),
    scenario("purge", &[Op::New], Op::Purge, None),
    scenario("remove_dataset", &[Op::New, Op::Remove], Op::RemoveDataset, None),
    scenario("update", &[Op::New], Op::Update, Some(Phase::Ready)),
    scenario("update_undone", &[Op::New], Op::UpdateToBroken, Some(Phase::Ready)),
    scenario("update_at_start", &[Op::New, Op::Stop, Op::Update], Op::Start, Some(Phase::Ready)),
    scenario("backup", &[Op::New], Op::Backup, Some(Phase::Ready)),
    scenario("restore", &[Op::New, Op::Backup, Op::Purge], Op::Restore, Some(Phase::Ready)),
    scenario("publish", &[Op::New], Op::Publish, Some(Phase::Ready)),
    scenario("publish_undone", &[Op::New], Op::PublishBroken, Some(Phase::Ready)),
    scenario("change_many", &[Op::New], Op::ChangeMany, Some(Phase::Ready)),
    scenario("change_many_undone", &[Op::New], Op::ChangeManyBroken, Some(Phase::Ready)),
    scenario("begin", &[Op::New], Op::Begin, Some(Phase::Ready)),
];

pub(crate) fn by_name(name: &str) -> Scenario {
    *ALL.iter().find(|s| s.name == name).expect("a scenario")
}

/// Does an operation, once. The operation to wait on, where there is one.
pub(crate) async fn perform(server: &Server, op: Op, name: &str, nth: u64) -> Result<Option<Operation>> {
    let (control, me) = (&server.control, owner());
    let key = || Some(Idempotency { key: format!("{name}-{nth}"), request_hash: "x".into() });
    let accepted = match op {
        Op::New => control.create(&me, claw(name), key()).await?,
        Op::NewOfDataset => {
            let mut new = claw(name);
            new.dataset = Some(dataset(server, name).await?);
            match control.create(&me, new, key()).await {
                Err(error) if error.field_name() == Some("Idempotency-Key") => return Err(error),
                made => made?,
            }
        }
        Op::Import => {
            let from = server.home.join("claw-home");
            std::fs::create_dir_all(&from).unwrap();
            std::fs::write(from.join("openclaw.json"), r#"{"env":{"OPENAI_API_KEY":"sk-1"}}"#).unwrap();
            let mut new = claw(name);
            new.import = Some(from);
            control.create(&me, new, key()).await?
        }
        Op::Start => control.start(&me, name).await?,
        Op::Stop => control.stop(&me, name, false).await?,
        Op::Kill => control.kill(&me, name).await?,
        Op::Restart => control.restart(&me, name).await?,
        Op::Suspend => control.suspend(&me, name, false, false).await?,
        Op::Warm => control.suspend(&me, name, true, false).await?,
        Op::Idle => {
            let seconds = |n| Some(Some(n));
            let change = PolicyChange {
                idle_seconds: seconds(1),
                min_running_seconds: seconds(0),
                min_warm_seconds: seconds(100_000),
                ..PolicyChange::default()
            };
            control.change_policy(&me, name, None, &change).await?;
            control.advance_sleep_clock(Duration::from_secs(10));
            let begun = std::time::Instant::now();
            while control.get(&me, name).await?.phase != Phase::Warm {
                if begun.elapsed() > LIMIT {
                    let outlook = control.outlook(&me, name).await?;
                    return Err(Error::new(Code::Timeout, format!("it does not sleep: {outlook:?}")));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            return Ok(None);
        }
        Op::Resume => control.resume(&me, name).await?,
        Op::Send => {
            let mut answer = control.send(&me, name, "hello").await?;
            while let Some(piece) = answer.next().await {
                if let SendEvent::Done { .. } = piece? {
                    break;
                }
            }
            return Ok(None);
        }
        Op::Change => {
            let memory_mib = Some(1024 + u32::try_from(nth % 512).unwrap());
            control.update(&me, name, None, Change { memory_mib, ..Change::default() }).await?
        }
        Op::Relabel => {
            let labels = [("n".to_owned(), nth.to_string())].into();
            control.update(&me, name, None, Change { labels, ..Change::default() }).await?
        }
        Op::RotateToken => control.rotate_token(&me, name).await?,
        Op::SetSecret => {
            let secret = SecretName::new("a-key").unwrap();
            control.set_secret(&me, Some(name), &secret, &format!("v{nth}").into()).await?;
            return Ok(None);
        }
        Op::Remove => control.remove(&me, name, false, false).await?,
        Op::Purge => control.remove(&me, name, true, false).await?,
        Op::RemoveDataset => {
            let id = dataset(server, name).await?;
            control.remove_dataset(&me, &id).await?;
            return Ok(None);
        }
        Op::Update => control.update_software(&me, name, Some(NEW)).await?,
        Op::UpdateToBroken => control.update_software(&me, name, Some(BROKEN)).await?,
        Op::Backup => {
            let mut archive = Vec::new();
            let mut pieces = control.back_up(&me, name).await?.bytes;
            while let Some(piece) = pieces.next().await {
                archive.extend_from_slice(&piece?);
            }
            std::fs::write(server.home.join("archive"), archive).unwrap();
            return Ok(None);
        }
        Op::Restore => {
            let archive: bytes::Bytes = std::fs::read(server.home.join("archive")).unwrap().into();
            let pieces = futures::stream::once(async { Ok(archive) });
            let key = key().map(|key| key.key);
            let wanted = NewRestore { name: Some(name.parse().unwrap()), ..NewRestore::default() };
            control.restore(&me, wanted, key, pieces).await?
        }
        Op::ChangeMany | Op::ChangeManyBroken => {
            let patch = changed(op == Op::ChangeMany).as_object().unwrap().clone();
            match control.configure_many(&me, &ChangeMany { patch, ..ChangeMany::default() }).await {
                // The one of before goes on.
                Err(error) if error.code() == Code::Conflict => {}
                begun => drop(begun?),
            }
            return Ok(None);
        }
        Op::Publish | Op::PublishBroken => {
            let body = changed(op == Op::Publish);
            let content = serde_json::json!({ "body": body });
            let content = serde_json::from_value(content).unwrap();
            let new = NewConfig { content, ..NewConfig::default() };
            control.save_config(&me, &ConfigName::global(), new).await?;
            match control.publish(&me, &ConfigName::global(), Publish::default()).await {
                // The one of before goes on.
                Err(error) if error.code() == Code::Conflict => {}
                begun => drop(begun?),
            }
            return Ok(None);
        }
        Op::Begin => return Ok(None),
    };
    Ok(Some(accepted.operation))
}

/// Something that is taken up at once, or that breaks the start.
fn changed(well: bool) -> serde_json::Value {
    match well {
        true => serde_json::json!({ "logging": { "level": "debug" } }),
        false => serde_json::json!({ "env": { "A": "1" }, "native": { "sim": { "break": "exit" } } }),
    }
}

async fn dataset(server: &Server, name: &str) -> Result<ClawId> {
    let listed = server.control.datasets(&owner()).await?;
    let of_name = |id: &ClawId| id.as_str().rsplit_once('-').is_some_and(|(n, _)| n == name);
    let found = listed.into_iter().map(|d| d.id).find(of_name);
    found.ok_or_else(|| Error::new(Code::NotFound, "no dataset"))
}

/// Waits until an operation ended.
pub(crate) async fn ended(server: &Server, operation: &Operation) -> Result<Operation> {
    let never = Timestamp::from_millis(i64::MAX);
    let ended = server.control.operation_changed(&owner(), &operation.id, never, LIMIT).await?;
    if !ended.state.ended() {
        let id = ended.instance.as_ref().unwrap();
        let instance = server.control.get(&owner(), id.as_str()).await;
        let acts = server.world.acts_on(id);
        panic!("not ended within {LIMIT:?}: {ended:#?}\n{instance:#?}\n{acts:?}");
    }
    Ok(ended)
}

/// A home in the state that the operation begins with, at rest.
pub(crate) async fn prepared(scenario: Scenario) -> TempDir {
    let home = folder();
    prepare(scenario, home.path()).await;
    home
}

async fn prepare(scenario: Scenario, home: &Path) {
    let server = Server::begin(home).await;
    let crash = ClawBehaviour { crash_after_ms: Some((1, 1)), ..ClawBehaviour::default() };
    let broken = Override::of_version(BROKEN, crash);
    server.world.change_behaviour(|behaviour| behaviour.overrides.push(broken)).unwrap();
    for op in scenario.before {
        if let Some(operation) = perform(&server, *op, "alice", 0).await.unwrap() {
            ended(&server, &operation).await.unwrap();
        }
    }
    server.settles("before anything went wrong").await;
    if scenario.op == Op::Begin {
        // The next server finds work under way.
        perform(&server, Op::Restart, "alice", 0).await.unwrap();
        perform(&server, Op::New, "bob", 0).await.unwrap();
    }
    server.end().await;
}

/// Whether an operation ended as it should.
pub(crate) fn ended_well(op: Op, ended: &Operation) -> bool {
    match &ended.error {
        None => op != Op::UpdateToBroken,
        Some(error) => op == Op::UpdateToBroken && error.message.contains(BROKEN),
    }
}
