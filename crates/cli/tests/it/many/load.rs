//! A load on several servers whose every effect is known beforehand, so that what really took
//! place in the simulated world can be held against it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use clawfarm_api::{Accepted, CreateInstance, InstanceQuery, RemoveQuery, StopRequest, SuspendRequest};
use clawfarm_client::Client;
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::{ClawId, Code, Error, Operation, OperationState, Phase, Result, Timestamp};
use clawfarm_runtime_sim::{ActKind, World};
use futures::StreamExt;
use tokio::time::Instant;

/// How long one wish may take, with every server that it is asked of killed on the way.
const WISH_LIMIT: Duration = Duration::from_secs(90);

/// A generator of numbers that a seed replays (splitmix64).
pub(super) struct Draws(u64);

impl Draws {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % most.max(1) as u64).expect("small")
    }
}

/// The servers that can be asked; one that is down is `None`.
pub(super) type Clients = Arc<RwLock<Vec<Option<Client>>>>;

/// What was done to one instance, as far as its user was told.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) id: ClawId,
    pub(super) phase: Phase,
    starts: usize,
    freezes: usize,
    saves: usize,
}

/// One user: has instances of its own, and does one thing after the other with them.
pub(super) struct User {
    number: usize,
    made: usize,
    draws: Draws,
    clients: Clients,
    pub(super) instances: Vec<Known>,
    pub(super) removed: Vec<Known>,
    pub(super) wishes: usize,
    pub(super) retries: usize,
    pub(super) sent: usize,
}

impl User {
    pub(super) fn new(number: usize, seed: u64, clients: Clients) -> Self {
        Self {
            number,
            made: 0,
            draws: Draws::new(seed ^ (number as u64) << 32),
            clients,
            instances: Vec::new(),
            removed: Vec::new(),
            wishes: 0,
            retries: 0,
            sent: 0,
        }
    }

    fn client(&mut self) -> Option<Client> {
        let all = self.clients.read().expect("not poisoned");
        let live: Vec<&Client> = all.iter().flatten().collect();
        let number = self.draws.below(live.len());
        live.get(number).map(|client| (*client).clone())
    }

    /// Asks servers until one answers; an answer that was lost is asked for again, elsewhere.
    async fn ask<T, F: Future<Output = Result<T>>>(
        &mut self,
        what: &str,
        ask: impl Fn(Client) -> F,
    ) -> Result<T> {
        let begun = Instant::now();
        loop {
            if let Some(client) = self.client() {
                match ask(client).await {
                    Err(error) if passes(&error) => {
                        assert!(begun.elapsed() < WISH_LIMIT, "{what}: {error:?}");
                        self.retries += 1;
                    }
                    answer => return answer,
                }
            }
            assert!(begun.elapsed() < WISH_LIMIT, "{what}: no server answers");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for an operation, at whichever server.
    async fn end_of(&mut self, what: &str, mut operation: Operation) -> Operation {
        let begun = Instant::now();
        while !operation.state.ended() {
            assert!(begun.elapsed() < WISH_LIMIT, "{what} does not end: {operation:?}");
            let id = operation.id.clone();
            let never = Timestamp::from_millis(i64::MAX);
            operation = self
                .ask(what, |client| {
                    let id = id.clone();
                    async move { client.operation_changed(&id, never, Duration::from_secs(5)).await }
                })
                .await
                .unwrap_or_else(|e| panic!("{what}: operation {id} is lost: {e:?}"));
        }
        operation
    }

    /// Wishes something and waits until it is so. A wish that was repeated (its answer was
    /// lost) supersedes itself.
    async fn wish<F: Future<Output = Result<Accepted>>>(
        &mut self,
        what: &str,
        ask: impl Fn(Client) -> F,
    ) -> Result<()> {
        self.wishes += 1;
        let accepted = self.ask(what, &ask).await?;
        let id = accepted.instance.id;
        let ended = self.end_of(&format!("{what} of {id}"), accepted.operation).await;
        assert_eq!(ended.state, OperationState::Succeeded, "{what} of {id}: {ended:?}");
        Ok(())
    }

    /// Makes instances, all at once.
    pub(super) async fn create(&mut self, count: usize) {
        let mut under_way = Vec::new();
        for _ in 0..count {
            let name = format!("u{}-{}", self.number, self.made);
            self.made += 1;
            let new = CreateInstance {
                claw_type: "openclaw".into(),
                name: Some(name.parse().expect("a name")),
                runtime: Some(RuntimeKind::Sim),
                ..CreateInstance::default()
            };
            // Asked twice, it is made once.
            let key = format!("{name}-{}", self.draws.below(usize::MAX));
            self.wishes += 1;
            let made = self
                .ask("create", |client| {
                    let (new, key) = (new.clone(), key.clone());
                    async move { client.create(&new, Some(&key)).await }
                })
                .await;
            under_way.push(made.unwrap_or_else(|e| panic!("create: {e:?}")));
        }
        for accepted in under_way {
            let id = accepted.instance.id;
            let ended = self.end_of(&format!("create of {id}"), accepted.operation).await;
            assert_eq!(ended.state, OperationState::Succeeded, "create of {id}: {ended:?}");
            self.instances.push(Known { id, phase: Phase::Ready, starts: 1, freezes: 0, saves: 0 });
        }
    }

    /// Does one thing with one of its instances.
    pub(super) async fn step(&mut self) {
        if self.instances.is_empty() {
            return self.create(1).await;
        }
        let number = self.draws.below(self.instances.len());
        let mut it = self.instances[number].clone();
        let id = it.id.to_string();
        match (it.phase, self.draws.below(10)) {
            (_, 0) => {
                let query = RemoveQuery { purge: true, ..RemoveQuery::default() };
                let gone = self
                    .wish("rm", |c| {
                        let id = id.clone();
                        async move { c.remove(&id, query).await }
                    })
                    .await;
                match gone {
                    Ok(()) => {}
                    // The first asking was heard, though not answered.
                    Err(error) if matches!(error.code(), Code::NotFound | Code::Gone) => {}
                    Err(error) => panic!("rm of {id}: {error:?}"),
                }
                it.phase = Phase::Destroyed;
                self.instances.remove(number);
                self.removed.push(it);
                return self.create(1).await;
            }
            (Phase::Ready, 1..=3) => {
                self.verb("stop", &it, |c, id| async move { c.stop(&id, StopRequest::default()).await })
                    .await;
                it.phase = Phase::Stopped;
            }
            (Phase::Ready, 4..=5) => {
                let sleep = SuspendRequest { warm: false, force: true };
                self.verb("suspend", &it, |c, id| async move { c.suspend(&id, sleep).await }).await;
                it.phase = Phase::Suspended;
                it.saves += 1;
            }
            (Phase::Ready, 6..=7) => {
                let sleep = SuspendRequest { warm: true, force: true };
                self.verb("suspend --warm", &it, |c, id| async move { c.suspend(&id, sleep).await }).await;
                it.phase = Phase::Warm;
                it.freezes += 1;
            }
            (Phase::Stopped, _) => {
                self.verb("start", &it, |c, id| async move { c.start(&id).await }).await;
                it.phase = Phase::Ready;
                it.starts += 1;
            }
            (Phase::Suspended | Phase::Warm, 1..=4) => {
                let asleep = it.phase;
                self.verb("resume", &it, |c, id| async move { c.resume(&id).await }).await;
                it.phase = Phase::Ready;
                it.starts += usize::from(asleep == Phase::Suspended);
            }
            // A message wakes what sleeps.
            _ => {
                let asleep = it.phase;
                self.wishes += 1;
                self.ask("send", |c| {
                    let id = id.clone();
                    async move { answer(&c, &id).await }
                })
                .await
                .unwrap_or_else(|e| panic!("send to {id}: {e:?}"));
                self.sent += 1;
                it.phase = Phase::Ready;
                it.starts += usize::from(asleep == Phase::Suspended);
            }
        }
        self.instances[number] = it;
    }

    async fn verb<F: Future<Output = Result<Accepted>>>(
        &mut self,
        what: &str,
        it: &Known,
        ask: impl Fn(Client, String) -> F,
    ) {
        let id = it.id.to_string();
        let done = self.wish(what, |client| ask(client, id.clone())).await;
        done.unwrap_or_else(|e| panic!("{what} of {id}: {e:?}"));
    }
}

async fn answer(client: &Client, id: &str) -> Result<()> {
    let mut pieces = client.send(id, "hello").await?;
    while let Some(piece) = pieces.next().await {
        piece?;
    }
    Ok(())
}

/// Whether an error says nothing of the request: the server is gone, or its database.
fn passes(error: &Error) -> bool {
    matches!(error.code(), Code::Unavailable | Code::Timeout | Code::Overloaded)
}

/// Holds what took place against what was wished. Returns the number of acts.
pub(super) async fn check(users: &[User], client: &Client, world: &World) -> usize {
    let listed = client.all_instances(&InstanceQuery::default()).await.expect("a list");
    let phases: BTreeMap<_, _> = listed.iter().map(|i| (i.id.clone(), i.phase)).collect();
    let known: BTreeMap<_, _> =
        users.iter().flat_map(|u| &u.instances).map(|k| (k.id.clone(), k.phase)).collect();
    assert_eq!(phases, known, "instances were lost, or made twice, or are not as wished");
    let there: BTreeSet<ClawId> =
        world.instances().expect("a world").into_iter().map(|seen| seen.id).collect();
    assert_eq!(there, known.keys().cloned().collect(), "the world has orphans, or lacks some");
    let mut acts: BTreeMap<ClawId, Vec<(ActKind, i64)>> = BTreeMap::new();
    for act in world.journal().expect("a journal") {
        acts.entry(act.id).or_default().push((act.act, act.run));
    }
    let mut wrong = Vec::new();
    for it in users.iter().flat_map(|u| u.instances.iter().chain(&u.removed)) {
        let none = Vec::new();
        let acts = acts.get(&it.id).unwrap_or(&none);
        let count = |kind| acts.iter().filter(|(act, _)| *act == kind).count();
        let removed = usize::from(it.phase == Phase::Destroyed);
        let expected = [
            (ActKind::Ensure, 1),
            (ActKind::Start, it.starts),
            (ActKind::Freeze, it.freezes),
            (ActKind::Suspend, it.saves),
            (ActKind::Destroy, removed),
        ];
        let runs: BTreeSet<i64> =
            acts.iter().filter(|(a, _)| *a == ActKind::Start).map(|(_, run)| *run).collect();
        if expected.iter().any(|(kind, times)| count(*kind) != *times) || runs.len() != it.starts {
            wrong.push(format!("{}: expected {expected:?}, there was {acts:?}", it.id));
        }
    }
    assert!(wrong.is_empty(), "{} done twice or lost:\n{}", wrong.len(), wrong.join("\n"));
    let strangers: Vec<_> = acts
        .keys()
        .filter(|id| !users.iter().any(|u| u.instances.iter().chain(&u.removed).any(|k| k.id == **id)))
        .collect();
    assert!(strangers.is_empty(), "made without being asked for: {strangers:?}");
    acts.values().map(Vec::len).sum()
}
