//! Keeping history bounded, in the background.

use std::sync::Arc;
use std::time::Duration;

use clawfarm_model::Context;
use clawfarm_store::Retention;

use crate::Control;

/// How long after the start, and how often. What grows within it is what is over the bounds.
const FIRST: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_secs(600);

impl Control {
    /// Prunes history now and then until the server ends. Of several servers each does it:
    /// what one has removed costs the others a look.
    pub fn keep_house(&self, retention: Retention) {
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
}
