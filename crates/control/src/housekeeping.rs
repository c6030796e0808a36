//! Keeping history bounded, in the background.

use std::sync::Arc;
use std::time::Duration;

use clawfarm_model::Context;
use clawfarm_store::Retention;

use crate::Control;

/// How long after the start, and how often. What grows within it is what is over the bounds.
const FIRST: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_secs(600);
/// How often it is looked whether the master key was changed.
const KEYS: Duration = Duration::from_secs(10);

impl Control {
    /// Prunes history now and then until the server ends. Of several servers each does it:
    /// what one has removed costs the others a look.
    pub fn keep_house(&self, retention: Retention) {
        self.keep_keys();
        let core = Arc::clone(&self.core);
        tokio::spawn(async move {
            let context = Context::system("housekeeping");
            let mut pause = FIRST;
            loop {
                tokio::select! {
                    () = core.stopping.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = EVERY;
                match core.store.prune(&context, &retention).await {
                    Ok(pruned) if pruned == Default::default() => {}
                    Ok(pruned) => tracing::info!(?pruned, "history beyond its bounds was removed"),
                    Err(error) => tracing::warn!(?error, "history could not be pruned; it is tried again"),
                }
            }
        });
    }

    /// Takes a changed master key up, and wraps anew what the one before could open, until the
    /// server ends.
    fn keep_keys(&self) {
        let core = Arc::clone(&self.core);
        tokio::spawn(async move {
            let context = Context::system("housekeeping");
            loop {
                match core.store.tend_keys(&context).await {
                    Ok(done) if done == Default::default() => {}
                    Ok(done) => {
                        tracing::info!(
                            done.done,
                            done.left,
                            "secrets were wrapped anew with the present key"
                        );
                    }
                    Err(error) => {
                        tracing::warn!(?error, "the master key could not be looked after; it is tried again");
                    }
                }
                tokio::select! {
                    () = core.stopping.cancelled() => return,
                    () = tokio::time::sleep(KEYS) => {}
                }
            }
        });
    }
}
