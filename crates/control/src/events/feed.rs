//! One reader of events for all who watch.
//!
//! Five hundred open streams that each asked the store at each commit would be the server's
//! greatest load. So one task reads what is new, once, and hands it to those whom it concerns.
//! What they are handed is no promise: a watcher that was too slow is told so, and reads the
//! store from where it stopped.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clawfarm_model::authz::Scope;
use clawfarm_model::name::TenantName;
use clawfarm_model::{ClawId, Context, Result};
use clawfarm_store::{PageRequest, Store, Told};
use tokio::sync::broadcast::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;

/// How many events a watcher may be behind before it must read the store again.
const BACKLOG: usize = 256;
/// What happens within this time is read at once: many commits, one look.
const GATHER: Duration = Duration::from_millis(5);
/// How long the reader waits after the store did not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// Hands out events as they are committed, by whichever server.
pub(crate) struct Feed {
    topics: Mutex<Topics>,
}

#[derive(Default)]
struct Topics {
    instances: HashMap<ClawId, Sender<Arc<Told>>>,
    tenants: HashMap<TenantName, Sender<Arc<Told>>>,
    all: Option<Sender<Arc<Told>>>,
}

impl Feed {
    pub(crate) fn new() -> Self {
        Self { topics: Mutex::default() }
    }

    /// The events that a context may see, of one instance when it is given, from now on.
    ///
    /// An instance's events go to whoever asks for them by its id: that the context may see
    /// the instance was found out before.
    pub(crate) fn subscribe(&self, context: &Context, instance: Option<&ClawId>) -> Receiver<Arc<Told>> {
        let mut topics = self.lock();
        match (instance, context.scope()) {
            (Some(id), _) => receiver(topics.instances.entry(id.clone()).or_insert_with(sender)),
            (None, Scope::Tenant(tenant)) => {
                receiver(topics.tenants.entry(tenant.clone()).or_insert_with(sender))
            }
            (None, Scope::Every) => receiver(topics.all.get_or_insert_with(sender)),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, told: Vec<Told>) {
        let mut topics = self.lock();
        for told in told {
            let told = Arc::new(told);
            if let Some(instance) = &told.event.instance {
                send(&mut topics.instances, instance, &told);
            }
            let tenant = told.tenant.clone();
            send(&mut topics.tenants, &tenant, &told);
            if topics.all.as_ref().is_some_and(|all| all.send(told).is_err()) {
                topics.all = None;
            }
        }
    }

    /// Reads what is new and hands it out, until the server ends.
    pub(crate) async fn run(&self, store: &Store, stopping: &CancellationToken) {
        let mut signal = store.subscribe();
        let mut after = *signal.borrow_and_update();
        loop {
            let pause = match self.catch_up(store, &mut after).await {
                Ok(()) => GATHER,
                Err(error) => {
                    tracing::warn!(?error, "the events can't be read; those who watch them wait");
                    AGAIN
                }
            };
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            // After a failure there is something left to read, whatever the signal says.
            if pause == GATHER {
                tokio::select! {
                    () = stopping.cancelled() => return,
                    changed = signal.changed() => if changed.is_err() { return },
                }
            }
        }
    }

    async fn catch_up(&self, store: &Store, after: &mut i64) -> Result<()> {
        let system = Context::system("feed");
        loop {
            let told = store.events_of_all(&system, *after, PageRequest::MAX).await?;
            let Some(last) = told.last() else { return Ok(()) };
            *after = last.event.seq;
            self.publish(told);
        }
    }
}

fn sender() -> Sender<Arc<Told>> {
    broadcast::Sender::new(BACKLOG)
}

fn receiver(sender: &mut Sender<Arc<Told>>) -> Receiver<Arc<Told>> {
    sender.subscribe()
}

/// Hands it to a topic, and forgets a topic that nobody listens to any more.
fn send<K: Eq + Hash>(topics: &mut HashMap<K, Sender<Arc<Told>>>, key: &K, told: &Arc<Told>) {
    if topics.get(key).is_some_and(|topic| topic.send(Arc::clone(told)).is_err()) {
        topics.remove(key);
    }
}
