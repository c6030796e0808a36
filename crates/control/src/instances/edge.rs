//! What the edge asks of the fleet.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use clawfarm_model::edge::{Identity, PathRules};
use clawfarm_model::inbox::InboxRoute;
use clawfarm_model::{Cause, ClawId, Code, Context, Desired, Error, Instance, Phase, Result, Timestamp};
use clawfarm_runtime::Connection;
use clawfarm_store::{InstanceFilter, PageRequest};
use secrecy::SecretString;
use tokio::time::{Instant, sleep};

use super::ids::Ids;
use crate::Control;
use crate::keys::GATEWAY_TOKEN;
use crate::reconcile::queue::Priority;
use crate::sleep::Traffic;

/// How often a claw that is being started again is looked at.
const SETTLE: Duration = Duration::from_millis(200);

/// How far apart a claw is looked at because somebody did not reach it.
const LOOKS_APART: Duration = Duration::from_secs(5);

/// A claw, with all that the edge needs to pass requests on to it.
#[derive(Debug)]
pub struct Entrance {
    /// The instance, as it was when this was read.
    pub instance: Instance,
    /// Its gateway token.
    pub token: SecretString,
    /// How it is told who a request is from.
    pub identity: Identity,
    /// Its paths.
    pub rules: Arc<PathRules>,
    /// Where services leave messages for it.
    pub inbox: Arc<Vec<InboxRoute>>,
}

/// Where people come in.
pub trait Doors: Send + Sync + 'static {
    /// The address of a claw's pages: `http://alice-x7k2m.localhost:8421/`.
    fn address(&self, id: &ClawId) -> String;

    /// An address that signs a browser in, once and within a minute.
    ///
    /// # Errors
    /// When it can't be made.
    fn open(&self, entrance: &Entrance) -> Result<String>;

    /// What goes to a claw through this server's edge.
    fn traffic(&self, id: &ClawId) -> Traffic;

    /// The same of every claw that was used through it.
    fn all_traffic(&self) -> Vec<(ClawId, Traffic)>;
}

/// What the edge was told, until something of it changes.
#[derive(Default)]
pub(crate) struct Entrances {
    /// Which claws there are.
    ids: Ids,
    known: Mutex<HashMap<ClawId, Arc<Entrance>>>,
    /// When the edge had claws looked at, not long ago.
    looks: Mutex<HashMap<ClawId, Instant>>,
    /// Counts what was forgotten: what was read before that may be old.
    forgotten: AtomicU64,
    following: OnceLock<()>,
}

impl Entrances {
    fn lock(&self) -> MutexGuard<'_, HashMap<ClawId, Arc<Entrance>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a claw may be looked at again because of what somebody met at its door.
    fn may_look(&self, id: &ClawId, now: Instant) -> bool {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.retain(|_, last| now.duration_since(*last) < LOOKS_APART);
        if looks.contains_key(id) {
            return false;
        }
        looks.insert(id.clone(), now);
        true
    }

    pub(crate) fn forget(&self, id: &ClawId) {
        let mut known = self.lock();
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        known.remove(id);
    }

    fn forget_all(&self) {
        let mut known = self.lock();
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        known.clear();
    }
}

impl Control {
    /// What is known of a claw, from memory where nothing has changed since; `None` when there is
    /// none of that id.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn entrance(&self, context: &Context, id: &ClawId) -> Result<Option<Arc<Entrance>>> {
        self.follow_entrances();
        if let Some(known) = self.core.entrances.lock().get(id) {
            return Ok(Some(Arc::clone(known)));
        }
        // Names of nobody's come by the thousand; the store is not asked for each.
        if !self.core.entrances.ids.may_have(id) {
            return Ok(None);
        }
        self.entrance_now(context, id).await
    }

    /// The same, read from the store.
    ///
    /// # Errors
    /// As for [`Self::entrance`].
    pub async fn entrance_now(&self, context: &Context, id: &ClawId) -> Result<Option<Arc<Entrance>>> {
        let entrances = &self.core.entrances;
        let before = entrances.forgotten.load(Ordering::Acquire);
        let instance = match self.core.store.instance(context, id).await {
            Ok(instance) => instance,
            Err(error) if error.code() == Code::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let found = Arc::new(self.entrance_of(instance).await?);
        let mut known = entrances.lock();
        if entrances.forgotten.load(Ordering::Acquire) == before {
            known.insert(id.clone(), Arc::clone(&found));
        }
        Ok(Some(found))
    }

    /// The claws that somebody may open, by name.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn entrances(&self, context: &Context) -> Result<Vec<Arc<Entrance>>> {
        let filter = InstanceFilter::default();
        let page =
            self.core.store.instances(context, &filter, &PageRequest::after(None, PageRequest::MAX)).await?;
        let mut found = Vec::with_capacity(page.items.len());
        for instance in page.items {
            let id = instance.id.clone();
            match self.entrance_of(instance).await {
                Ok(entrance) => found.push(Arc::new(entrance)),
                // One that can't be read keeps nobody from the others.
                Err(error) => tracing::warn!(%id, ?error, "a claw can't be shown at the door"),
            }
        }
        Ok(found)
    }

    pub(super) async fn entrance_of(&self, instance: Instance) -> Result<Entrance> {
        let adapter = self.core.adapter(&instance)?;
        let token = self.core.key(&instance, GATEWAY_TOKEN).await?;
        let inbox = self.core.routes(&instance).await?;
        let mut rules = adapter.path_rules();
        rules.inbox.extend(inbox.iter().map(|route| route.path.clone()));
        Ok(Entrance {
            identity: adapter.identity(&token),
            rules: Arc::new(rules),
            inbox: Arc::new(inbox),
            token,
            instance,
        })
    }

    /// Wakes a claw for somebody at its door, and returns when it takes requests.
    ///
    /// # Errors
    /// As for [`Self::send`].
    pub async fn wake_at_door(&self, context: &Context, id: &ClawId) -> Result<Arc<Entrance>> {
        self.wake_for(context, id, Cause::Request).await
    }

    /// The same, for another cause.
    pub(crate) async fn wake_for(
        &self,
        context: &Context,
        id: &ClawId,
        cause: Cause,
    ) -> Result<Arc<Entrance>> {
        let instance = self.core.store.instance(context, id).await?;
        let instance = self.settled(context, instance).await?;
        let instance = match instance.phase {
            Phase::Unhealthy => instance,
            _ => self.awake(context, instance, cause).await?,
        };
        // What this server knew was of before it woke; the event that tells so may be on its way.
        self.core.entrances.forget(id);
        Ok(Arc::new(self.entrance_of(instance).await?))
    }

    /// Waits until a claw that is being started again is on its way up.
    async fn settled(&self, context: &Context, instance: Instance) -> Result<Instance> {
        let until = Instant::now() + Duration::from_secs(u64::from(instance.spec.ready_timeout_secs));
        let mut now = instance;
        while matches!(now.phase, Phase::Stopping | Phase::Exited)
            && now.intent.desired == Desired::Running
            && Instant::now() < until
        {
            sleep(SETTLE).await;
            now = self.core.store.instance(context, &now.id).await?;
        }
        Ok(now)
    }

    /// Opens a connection to a claw's gateway, for the edge.
    ///
    /// # Errors
    /// `Unavailable` when it does not listen.
    pub async fn dial_gateway(&self, entrance: &Entrance) -> Result<Box<dyn Connection>> {
        let instance = &entrance.instance;
        let port = instance.port.ok_or_else(|| {
            Error::new(Code::Gone, format!("'{}' has no port", instance.id)).fix("it is being removed")
        })?;
        self.core.runtime(&instance.spec.target)?.dial(&instance.id, port).await
    }

    /// Whether this server reaches an instance's target itself; another of its database may.
    #[must_use]
    pub fn reaches(&self, instance: &Instance) -> bool {
        self.core.runtime(&instance.spec.target).is_ok()
    }

    /// Opens a connection to another address that a claw listens at, within its own machine or
    /// container.
    ///
    /// # Errors
    /// `Unavailable` when it does not listen there.
    pub async fn dial_listener(
        &self,
        entrance: &Entrance,
        address: SocketAddr,
    ) -> Result<Box<dyn Connection>> {
        let instance = &entrance.instance;
        self.core.runtime(&instance.spec.target)?.dial_at(&instance.id, address).await
    }

    /// Says where people come in; once, when the edge listens.
    pub fn set_doors(&self, doors: Arc<dyn Doors>) {
        // A second edge of one server there is not.
        let _ = self.core.doors.set(doors);
    }

    /// Has somebody look at a claw soon: what the edge saw of it does not fit what is known. Many
    /// who come at once have it looked at once: each look is a probe, and a claw that was ready has
    /// the patience of three, which are not to be used up in a moment.
    pub fn look_at(&self, id: &ClawId) {
        if self.core.entrances.may_look(id, Instant::now()) {
            self.core.reconciler.queue.push(id, Priority::Person);
        }
    }

    /// Marks a ticket of the edge as used, and returns whether it had not been: for all servers of
    /// a store.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn spend_ticket(&self, context: &Context, number: &str, until: Timestamp) -> Result<bool> {
        self.core.store.spend_ticket(context, number, until).await
    }

    /// What the sessions of the edge are signed with: the same on all servers of a store.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn edge_key(&self) -> Result<SecretString> {
        self.core.edge_key().await
    }

    /// Begins to forget what changes. Called with each look, and done once.
    fn follow_entrances(&self) {
        let entrances = &self.core.entrances;
        if entrances.following.set(()).is_err() {
            return;
        }
        let core = Arc::clone(&self.core);
        let mut events = core.feed.subscribe(&Context::system("edge"), None);
        tokio::spawn(async move {
            // Read after the subscription, so that none is missed in between.
            core.entrances.ids.read(&core.store).await;
            loop {
                let told = tokio::select! {
                    () = core.stopping.cancelled() => return,
                    told = events.recv() => told,
                };
                match told {
                    Ok(told) => {
                        if let Some(id) = &told.event.instance {
                            core.entrances.ids.add(id);
                            core.entrances.forget(id);
                        }
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {
                        core.entrances.forget_all();
                        core.entrances.ids.forget();
                        core.entrances.ids.read(&core.store).await;
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_who_do_not_reach_a_claw_have_it_looked_at_once() {
        let (entrances, began) = (Entrances::default(), Instant::now());
        let id = |text: &str| ClawId::new(text).unwrap();
        let look =
            |name: &str, millis: u64| entrances.may_look(&id(name), began + Duration::from_millis(millis));
        assert_eq!((0..1000).filter(|n| look("a-1", *n)).count(), 1);
        assert!(look("b-1", 1000), "another has its own");
        assert!(!look("a-1", 4999) && look("a-1", 5000) && !look("a-1", 5001));
    }
}
