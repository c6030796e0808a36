//! What the use cases and the reconciler share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use clawfarm_adapters::{ClawAdapter, Registry};
use clawfarm_model::error::Class;
use clawfarm_model::name::{TargetName, TenantName};
use clawfarm_model::target::{RuntimeKind, Target};
use clawfarm_model::{Action, ClawId, Code, Context, Error, Granted, Instance, Resource, Result, authorize};
use clawfarm_runtime::{Runtime, VmImages};
use clawfarm_store::Store;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Parts;
use crate::admission::Admission;
use crate::backups::Backups;
use crate::certificates::Certificates;
use crate::events::feed::Feed;
use crate::instances::edge::{Doors, Entrances};
use crate::operations::Board;
use crate::reconcile::Reconciler;
use crate::reconcile::queue::Priority;
use crate::reserve::Reserve;
use crate::sharing::Shares;
use crate::sharing::held::{Hold, not_reached};
use crate::sleep::{InUse, Sleeper};
use crate::starts::Starts;
use crate::targets::OpenTarget;

/// Targets, each with its runtime.
pub(crate) type Targets = Vec<(Target, Arc<dyn Runtime>)>;

pub(crate) struct Core {
    pub(crate) store: Store,
    pub(crate) adapters: Registry,
    targets: RwLock<Arc<Targets>>,
    pub(crate) opener: Option<Arc<dyn OpenTarget>>,
    pub(crate) reconciler: Reconciler,
    pub(crate) board: Board,
    pub(crate) feed: Feed,
    pub(crate) admission: Admission,
    pub(crate) starts: Starts,
    /// What revisions of configurations say.
    pub(crate) contents: crate::configs::Contents,
    /// How often requests to claws came to nothing.
    pub(crate) answers: crate::answers::Answers,
    /// Told when a rollout may go on.
    pub(crate) driver: crate::configs::Driver,
    /// Told when a new value of a secret is to be brought to instances.
    pub(crate) rotations: crate::secrets::Driver,
    /// Who runs the commands that set machines up.
    pub(crate) setups: Arc<crate::setup::Setups>,
    /// Who sleeps when.
    pub(crate) sleeper: Sleeper,
    /// One generation of keys at a time, so that two launches agree on an instance's token.
    pub(crate) keys: tokio::sync::Mutex<()>,
    /// One change of the targets at a time.
    pub(crate) adding: tokio::sync::Mutex<()>,
    pub(crate) stopping: CancellationToken,
    /// See [`crate::Control::outdated`].
    pub(crate) outdated: CancellationToken,
    /// The reconciler's tasks.
    pub(crate) turns: TaskTracker,
    pub(crate) shares: Shares,
    wakes: Mutex<HashMap<ClawId, Arc<tokio::sync::Mutex<()>>>>,
    pub(crate) backups: Backups,
    /// Room on the disk of the home, where one is kept.
    pub(crate) reserve: OnceLock<Reserve>,
    /// What the edge knows.
    pub(crate) entrances: Entrances,
    /// Told when messages for claws may have become this server's to deliver.
    pub(crate) inbox: tokio::sync::Notify,
    /// Where people come in, when an edge listens.
    pub(crate) doors: OnceLock<Arc<dyn Doors>>,
    /// The images that virtual machines here are made of, where any are kept.
    pub(crate) vm_images: OnceLock<Arc<dyn VmImages>>,
    /// What the edge shows callers over TLS.
    pub(crate) certificates: OnceLock<Arc<dyn Certificates>>,
}

impl Core {
    pub(crate) async fn new(parts: Parts) -> Result<Arc<Self>> {
        put_targets(&parts).await?;
        Ok(Arc::new(Self {
            board: Board::new(parts.store.clone()),
            feed: Feed::new(),
            store: parts.store,
            adapters: parts.adapters,
            targets: RwLock::new(Arc::new(
                parts.targets.into_iter().map(|(t, r)| (t, crate::boundary::around(r))).collect(),
            )),
            opener: parts.opener,
            reconciler: Reconciler::default(),
            admission: Admission::default(),
            starts: Starts::default(),
            contents: crate::configs::Contents::default(),
            answers: crate::answers::Answers::default(),
            driver: crate::configs::Driver::default(),
            rotations: crate::secrets::Driver::default(),
            setups: Arc::default(),
            sleeper: Sleeper::default(),
            keys: tokio::sync::Mutex::default(),
            adding: tokio::sync::Mutex::default(),
            stopping: CancellationToken::new(),
            outdated: CancellationToken::new(),
            turns: TaskTracker::new(),
            shares: Shares::new(parts.sharing),
            wakes: Mutex::default(),
            backups: Backups::default(),
            reserve: OnceLock::new(),
            entrances: Entrances::default(),
            inbox: tokio::sync::Notify::new(),
            doors: OnceLock::new(),
            vm_images: OnceLock::new(),
            certificates: OnceLock::new(),
        }))
    }

    /// Every target with its runtime.
    pub(crate) fn targets(&self) -> Arc<Targets> {
        Arc::clone(&self.targets.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes targets in or out; those who go through them at the moment see them as they were.
    pub(crate) fn change_targets(&self, change: impl FnOnce(&mut Targets)) {
        let mut held = self.targets.write().unwrap_or_else(PoisonError::into_inner);
        let mut targets = held.as_ref().clone();
        change(&mut targets);
        *held = Arc::new(targets);
    }

    /// Begins to use a target, and to look at what its runtime tells of.
    pub(crate) fn take_target_in(self: &Arc<Self>, target: &Target, runtime: Arc<dyn Runtime>) {
        let runtime = crate::boundary::around(runtime);
        crate::reconcile::watch(self, runtime.watch());
        self.change_targets(|targets| targets.push((target.clone(), runtime)));
    }

    /// A target that is reached from here.
    pub(crate) fn target(&self, name: &TargetName) -> Option<Target> {
        self.targets().iter().find(|(t, _)| t.name == *name).map(|(t, _)| t.clone())
    }

    /// Whether a target is this server's alone.
    pub(crate) fn is_own(&self, name: &TargetName) -> bool {
        match self.shares.node() {
            Some(node) => self.target(name).is_some_and(|t| t.reachable_from.as_deref() == Some(node)),
            None => true,
        }
    }

    /// The runtime of a target, for acts under a lease: one that is no longer held is refused
    /// here, and by targets that remember which was the latest.
    pub(crate) fn acting(&self, hold: &Hold, name: &TargetName) -> Result<Arc<dyn Runtime>> {
        hold.check()?;
        let runtime = self.runtime(name)?;
        Ok(hold.fence().and_then(|fence| runtime.under(fence)).unwrap_or(runtime))
    }

    /// The runtime of a target, to look at.
    pub(crate) fn runtime(&self, name: &TargetName) -> Result<Arc<dyn Runtime>> {
        let targets = self.targets();
        targets.iter().find(|(t, _)| t.name == *name).map(|(_, r)| Arc::clone(r)).ok_or_else(|| {
            if self.shares.is_shared() {
                return not_reached(name);
            }
            let known: Vec<_> = targets.iter().map(|(t, _)| t.name.as_str()).collect();
            Error::not_found("target", name)
                .field("target")
                .fix(format!("use one of {}, or leave it out", known.join(", ")))
        })
    }

    /// The target for a new instance, by what was said about it.
    pub(crate) fn choose_target(
        &self,
        runtime: Option<RuntimeKind>,
        target: Option<&TargetName>,
    ) -> Result<(Target, Arc<dyn Runtime>)> {
        if let Some(name) = target {
            self.runtime(name)?;
        }
        let fits = |t: &Target| {
            target.is_none_or(|name| t.name == *name) && runtime.is_none_or(|kind| t.runtime == kind)
        };
        let targets = self.targets();
        targets.iter().find(|(t, _)| fits(t)).cloned().ok_or_else(|| {
            let kinds: Vec<_> = targets.iter().map(|(t, _)| format!("{} ({})", t.name, t.runtime)).collect();
            let wanted = runtime.map_or_else(String::new, |k| k.to_string());
            Error::invalid("runtime", format!("no target here runs instances as '{wanted}'"))
                .fix(match runtime {
                Some(RuntimeKind::Docker) => {
                    "say where the container engine is: clawfarm target add docker".to_owned()
                }
                Some(RuntimeKind::Vm) => {
                    "virtual machines need QEMU on the server's machine: clawfarm doctor says what is missing"
                        .to_owned()
                }
                _ => format!("the targets are: {}; see clawfarm doctor", kinds.join(", ")),
            })
        })
    }

    /// The adapter of an instance.
    pub(crate) fn adapter(&self, instance: &Instance) -> Result<Arc<dyn ClawAdapter>> {
        self.adapters.get(&instance.spec.claw_type)
    }

    /// Reads an instance by an id, a unique name or a unique prefix.
    pub(crate) async fn find(&self, context: &Context, text: &str) -> Result<Instance> {
        let id = self.store.resolve(context, text).await?;
        self.store.instance(context, &id).await
    }

    /// Writes a wish of `id`, and wakes the reconciler whatever becomes of the answer: the
    /// caller can go away, and the answer to a commit can be lost, after the wish is in the
    /// store. Only what was refused changes nothing.
    pub(crate) async fn wishing<T>(
        &self,
        id: &ClawId,
        write: impl Future<Output = Result<T>> + Send + Unpin,
    ) -> Result<T> {
        self.wishing_as(id, Priority::Person, write).await
    }

    /// The same with another place in line: what is wanted of many at once must not take the
    /// places that are kept for people.
    pub(crate) async fn wishing_as<T>(
        &self,
        id: &ClawId,
        priority: Priority,
        write: impl Future<Output = Result<T>> + Send + Unpin,
    ) -> Result<T> {
        let mut wake = Wake { core: self, id, due: true, priority };
        let outcome = write.await;
        if outcome.is_ok() {
            self.reconciler.let_up(id);
            // The edge must not send anybody to a claw that is about to sleep.
            self.entrances.forget(id);
        }
        wake.due = outcome.as_ref().err().is_none_or(|e| e.code().class() != Class::User);
        outcome
    }

    /// Tells the reconciler that something else is wanted of `id`: what is being done for the
    /// old wish is left, and the instance is looked at before anything that nobody waits for.
    fn wanted(&self, id: &ClawId, priority: Priority) {
        self.reconciler.interrupt(id);
        self.reconciler.queue.push(id, priority);
    }

    /// Somebody uses a claw: it is kept up for as long as what is returned lives.
    pub(crate) fn using(&self, id: &ClawId) -> InUse {
        self.sleeper.in_use(id)
    }

    /// The lock that makes many callers who wake one instance one wake.
    pub(crate) fn wake_lock(&self, id: &ClawId) -> Arc<tokio::sync::Mutex<()>> {
        let mut wakes = self.wakes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        wakes.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(wakes.entry(id.clone()).or_default())
    }
}

/// Writes down which targets are reached from here.
pub(crate) async fn put_targets(parts: &Parts) -> Result<()> {
    let system = Context::system("start");
    for (target, _) in &parts.targets {
        refuse_anothers(parts, target).await?;
        let resource = Resource::new(TenantName::default_tenant(), "target", target.name.as_str());
        let grant = authorize(&system, Action::TargetWrite, &resource)?;
        parts.store.put_target(&grant, target).await?;
    }
    Ok(())
}

/// Refuses a target that the store knows as another server's: its instances are on that
/// machine, and would be made again on this one.
async fn refuse_anothers(parts: &Parts, target: &Target) -> Result<()> {
    let known = match parts.store.target(&Context::system("start"), &target.name).await {
        Ok(known) => known,
        Err(error) if error.code() == Code::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let alone = parts.sharing.is_none() && target.reachable_from.is_none();
    if alone || known.reachable_from == target.reachable_from {
        return Ok(());
    }
    Err(Error::new(Code::Conflict, format!("target '{}' of this database is another server's", target.name))
        .field("node")
        .fix(
            "give this server a name of its own with --node; one that replaces another needs its home folder",
        ))
}

/// Wakes the reconciler when it is dropped, however that comes.
struct Wake<'a> {
    core: &'a Core,
    id: &'a ClawId,
    due: bool,
    priority: Priority,
}

impl Drop for Wake<'_> {
    fn drop(&mut self) {
        if self.due {
            self.core.wanted(self.id, self.priority);
        }
    }
}

/// Asks for leave to do `action` to an instance.
pub(crate) fn may(context: &Context, action: Action, instance: &Instance) -> Result<Granted> {
    let resource = Resource::new(instance.tenant.clone(), "instance", instance.id.as_str());
    authorize(context, action, &resource)
}
