//! Waking for what came in at another server: its events are read as every watcher reads
//! them.

use std::sync::Arc;

use clawfarm_model::Context;
use clawfarm_model::event::Event;
use clawfarm_store::Told;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::keep::look_at_waited_for;
use crate::core::Core;
use crate::reconcile::queue::Priority;

/// What people's wishes are called in the events.
const WISHES: [&str; 5] = ["created", "asked", "removing", "updated", "token-rotated"];

/// What is said of an instance whose configuration changed, or is in force: a rollout that another
/// server drives changes it without an operation that anybody waits for.
const CONFIGURED: &str = "config";

/// Follows the events until the server ends.
pub(super) async fn run(core: Arc<Core>, mut events: Receiver<Arc<Told>>) {
    loop {
        let told = tokio::select! {
            () = core.stopping.cancelled() => return,
            told = events.recv() => told,
        };
        match told {
            Ok(told) => heard(&core, &told.event).await,
            // What was missed is found among what is waited for.
            Err(RecvError::Lagged(_)) => look_at_waited_for(&core).await,
            Err(RecvError::Closed) => return,
        }
    }
}

async fn heard(core: &Core, event: &Event) {
    let Some(id) = &event.instance else { return };
    core.board.touched(id);
    let priority = match event.reason.as_str() {
        reason if WISHES.contains(&reason) => Priority::Person,
        CONFIGURED => {
            core.driver.wake();
            Priority::Event
        }
        _ => return,
    };
    if !core.may_be_mine(id) {
        return;
    }
    // What is being done is left only when it is for an older wish: that of this server's own
    // callers has been told already.
    if let Some(under_way) = core.reconciler.working_on(id)
        && let Ok(instance) = core.store.instance(&Context::system("sharing"), id).await
        && instance.intent.generation > under_way
    {
        core.reconciler.interrupt(id);
    }
    core.reconciler.queue.push(id, priority);
}
