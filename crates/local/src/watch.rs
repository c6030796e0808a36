//! Noticing that something happened to an instance.
//!
//! One task an instance follows its shim's word; a slow look at all locks finds what that
//! missed: instances that someone else started, shims that were killed while nobody listened.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use clawfarm_files::blocking;
use clawfarm_model::{ClawId, Result};
use clawfarm_shim::lock;
use clawfarm_shim::protocol::{Request, ShimStatus};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::client::{LIMIT, Shim};
use crate::keeper;

/// How often all locks are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// How long until a shim that does not let itself be watched is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How many ids a receiver may be behind before it has to look at everything.
const BUFFER: usize = 1024;

/// The instances of one runtime: which there are, and where.
pub trait Instances: Send + Sync + 'static {
    /// The ids of those whose folders exist.
    ///
    /// # Errors
    /// When that can't be seen.
    fn ids(&self) -> Result<Vec<ClawId>>;

    /// The folder of one.
    fn dir(&self, id: &ClawId) -> PathBuf;
}

/// Who tells of what happens to the instances of one runtime, until it is dropped.
pub struct Watch {
    instances: Box<dyn Instances>,
    events: broadcast::Sender<ClawId>,
    followed: Mutex<HashMap<ClawId, CancellationToken>>,
    ending: CancellationToken,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch {
    /// Nobody is followed yet.
    #[must_use]
    pub fn new(instances: impl Instances) -> Arc<Self> {
        Arc::new(Self {
            instances: Box::new(instances),
            events: broadcast::Sender::new(BUFFER),
            followed: Mutex::default(),
            ending: CancellationToken::new(),
        })
    }

    /// Tells that something happened to an instance.
    pub fn tell(&self, id: &ClawId) {
        // Nobody listening is fine.
        let _ = self.events.send(id.clone());
    }

    /// Hears of them from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<ClawId> {
        self.events.subscribe()
    }

    /// No longer follows one.
    pub fn forget(&self, id: &ClawId) {
        if let Some(task) = guard(&self.followed).remove(id) {
            task.cancel();
        }
    }

    /// Ends with the runtime.
    #[must_use]
    pub fn ending(&self) -> &CancellationToken {
        &self.ending
    }

    /// Ends the watching.
    pub fn end(&self) {
        self.ending.cancel();
    }

    /// Begins to follow an instance's shim, if nobody does yet.
    pub fn follow(self: &Arc<Self>, id: &ClawId) {
        let token = self.ending.child_token();
        {
            let mut followed = guard(&self.followed);
            if followed.get(id).is_some_and(|token| !token.is_cancelled()) {
                return;
            }
            followed.insert(id.clone(), token.clone());
        }
        let (weak, id) = (Arc::downgrade(self), id.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = follow_to_the_end(&weak, &id) => {}
            }
            // From here on another may follow the next run.
            token.cancel();
            if let Some(watch) = weak.upgrade() {
                watch.tell(&id);
            }
        });
    }

    /// Looks at all locks once, and from then on every few seconds for as long as the runtime
    /// exists.
    ///
    /// # Errors
    /// When the instances can't be listed.
    pub async fn begin(self: &Arc<Self>) -> Result<()> {
        self.look(&mut HashMap::new()).await?;
        let (weak, ending) = (Arc::downgrade(self), self.ending.clone());
        tokio::spawn(async move {
            let mut seen: HashMap<ClawId, bool> = HashMap::new();
            loop {
                if let Some(watch) = weak.upgrade()
                    && let Err(error) = watch.look(&mut seen).await
                {
                    tracing::warn!(%error, "the instances could not be looked at");
                }
                tokio::select! {
                    () = ending.cancelled() => return,
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        });
        Ok(())
    }

    /// Follows every shim that lives, and tells of those that changed since the last look.
    async fn look(self: &Arc<Self>, seen: &mut HashMap<ClawId, bool>) -> Result<()> {
        let now = self.locks().await?;
        for (id, up) in &now {
            if *up {
                self.follow(id);
            }
            if seen.get(id) != Some(up) {
                self.tell(id);
            }
        }
        for id in seen.keys().filter(|id| !now.contains_key(*id)) {
            self.tell(id);
        }
        *seen = now;
        Ok(())
    }

    async fn locks(self: &Arc<Self>) -> Result<HashMap<ClawId, bool>> {
        let this = Arc::clone(self);
        blocking(move || {
            let ids = this.instances.ids()?;
            ids.into_iter().map(|id| Ok((id.clone(), lock::is_held(&this.instances.dir(&id))?))).collect()
        })
        .await
    }
}

async fn follow_to_the_end(weak: &Weak<Watch>, id: &ClawId) {
    loop {
        let Some(watch) = weak.upgrade() else { return };
        let dir = watch.instances.dir(id);
        drop(watch);
        if !keeper::is_up(&dir).await.unwrap_or(false) {
            return;
        }
        if let Ok(shim) = Shim::connect(&dir, id).await
            && let Err(error) = listen(weak, id, shim).await
        {
            tracing::debug!(%id, %error, "watching a shim was broken off");
        }
        tokio::time::sleep(AGAIN.min(LIMIT)).await;
    }
}

async fn listen(weak: &Weak<Watch>, id: &ClawId, mut shim: Shim) -> Result<()> {
    let _: ShimStatus = shim.ask(id, &Request::Watch, LIMIT).await?;
    loop {
        let Some(watch) = weak.upgrade() else { return Ok(()) };
        watch.tell(id);
        drop(watch);
        if shim.next::<ShimStatus>(id).await?.is_none() {
            break;
        }
    }
    // The connection ends a little before the lock is free: told now, one would still see it run.
    if let Some(watch) = weak.upgrade() {
        keeper::wait_for_end(&watch.instances.dir(id), id, LIMIT).await?;
        watch.tell(id);
    }
    Ok(())
}

/// Locks; a thread that panicked with the lock left nothing half-done in this map.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
