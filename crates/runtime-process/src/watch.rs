//! Noticing that something happened to an instance.
//!
//! One task an instance follows its shim's word; a slow look at all locks finds what that
//! missed: instances that someone else started, shims that were killed while nobody listened.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use clawfarm_model::{ClawId, Result};
use clawfarm_shim::lock;
use clawfarm_shim::protocol::{Request, ShimStatus};

use crate::client::{LIMIT, Shim};
use crate::inner::{Inner, guard};
use crate::observe;
use crate::record;
use clawfarm_files::blocking;

/// How often all locks are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// How long until a shim that does not let itself be watched is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Begins to follow an instance's shim, if nobody does yet.
pub(crate) fn follow(inner: &Arc<Inner>, id: &ClawId) {
    let token = inner.ending.child_token();
    {
        let mut watched = guard(&inner.watched);
        if watched.get(id).is_some_and(|token| !token.is_cancelled()) {
            return;
        }
        watched.insert(id.clone(), token.clone());
    }
    let (weak, id) = (Arc::downgrade(inner), id.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = token.cancelled() => {}
            () = follow_to_the_end(&weak, &id) => {}
        }
        // From here on another may follow the next run.
        token.cancel();
        if let Some(inner) = weak.upgrade() {
            inner.tell(&id);
        }
    });
}

async fn follow_to_the_end(weak: &Weak<Inner>, id: &ClawId) {
    loop {
        let Some(inner) = weak.upgrade() else { return };
        if !observe::is_up(&inner, id).await.unwrap_or(false) {
            return;
        }
        let connected = Shim::connect(&inner.dir(id), id).await;
        drop(inner);
        if let Ok(shim) = connected
            && let Err(error) = listen(weak, id, shim).await
        {
            tracing::debug!(%id, %error, "watching a shim was broken off");
        }
        tokio::time::sleep(AGAIN.min(LIMIT)).await;
    }
}

async fn listen(weak: &Weak<Inner>, id: &ClawId, mut shim: Shim) -> Result<()> {
    let _: ShimStatus = shim.ask(id, &Request::Watch, LIMIT).await?;
    loop {
        let Some(inner) = weak.upgrade() else { return Ok(()) };
        inner.tell(id);
        drop(inner);
        if shim.next::<ShimStatus>(id).await?.is_none() {
            break;
        }
    }
    // The connection ends a little before the lock is free: told now, one would still see it run.
    if let Some(inner) = weak.upgrade() {
        observe::wait_for_end(&inner, id, LIMIT).await?;
        inner.tell(id);
    }
    Ok(())
}

/// Looks at every lock now and then, for as long as the runtime exists.
pub(crate) fn look_regularly(inner: &Arc<Inner>) {
    let (weak, ending) = (Arc::downgrade(inner), inner.ending.clone());
    tokio::spawn(async move {
        let mut seen: HashMap<ClawId, bool> = HashMap::new();
        loop {
            if let Some(inner) = weak.upgrade()
                && let Err(error) = look(&inner, &mut seen).await
            {
                tracing::warn!(%error, "the instances could not be looked at");
            }
            tokio::select! {
                () = ending.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    });
}

/// Follows every shim that lives, and tells of those that changed since the last look.
pub(crate) async fn look(inner: &Arc<Inner>, seen: &mut HashMap<ClawId, bool>) -> Result<()> {
    let now = locks(inner).await?;
    for (id, up) in &now {
        if *up {
            follow(inner, id);
        }
        if seen.get(id) != Some(up) {
            inner.tell(id);
        }
    }
    for id in seen.keys().filter(|id| !now.contains_key(*id)) {
        inner.tell(id);
    }
    *seen = now;
    Ok(())
}

async fn locks(inner: &Arc<Inner>) -> Result<HashMap<ClawId, bool>> {
    let this: Arc<Inner> = Arc::clone(inner);
    blocking(move || {
        let ids = record::ids(&this.paths)?;
        ids.into_iter().map(|id| Ok((id.clone(), lock::is_held(&this.dir(&id))?))).collect()
    })
    .await
}
