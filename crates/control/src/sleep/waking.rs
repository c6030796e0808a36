//! How long a wake takes, in its parts.
//!
//! `queue`: from the wish until something is done about it; `runtime`: until the process is there
//! or goes on; `claw`: until its probe passes. The first byte of an answer is the edge's to measure.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clawfarm_model::{ClawId, Instance, LastWake, Phase, Timestamp, WokenFrom};
use metrics::histogram;
use tokio::time::Instant;

/// The measurement.
const SECONDS: &str = "clawfarm_wake_seconds";

/// The wakes that are under way here.
#[derive(Default)]
pub(crate) struct Wakings(Mutex<HashMap<ClawId, Waking>>);

struct Waking {
    from: WokenFrom,
    queue: Duration,
    began: Instant,
    acted: Option<Instant>,
}

impl Wakings {
    fn lock(&self) -> MutexGuard<'_, HashMap<ClawId, Waking>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is done about it now. An attempt after a failed one belongs to the same wake.
    pub(crate) fn begin(&self, instance: &Instance, thaw: bool) {
        let from = match instance.phase {
            _ if thaw => WokenFrom::Warm,
            Phase::Waking => WokenFrom::Suspended,
            _ => WokenFrom::Cold,
        };
        // The phase moved with the wish, at whichever server that was written.
        let queue = Timestamp::now().since(instance.phase_since);
        self.lock().entry(instance.id.clone()).or_insert(Waking {
            from,
            queue,
            began: Instant::now(),
            acted: None,
        });
    }

    /// Its process is there.
    pub(crate) fn acted(&self, id: &ClawId) {
        if let Some(waking) = self.lock().get_mut(id) {
            waking.acted = Some(Instant::now());
        }
    }

    /// It is no longer on its way up, or is not to be.
    pub(crate) fn forget(&self, id: &ClawId) {
        self.lock().remove(id);
    }

    /// It is ready: measures the wake, if there was one.
    pub(crate) fn ready(&self, instance: &Instance) -> Option<LastWake> {
        let waking = self.lock().remove(&instance.id)?;
        let acted = waking.acted?;
        let parts = [
            ("queue", waking.queue),
            ("runtime", acted.duration_since(waking.began)),
            ("claw", acted.elapsed()),
        ];
        for (part, took) in parts {
            histogram!(
                SECONDS,
                "part" => part,
                "from" => waking.from.as_str(),
                "runtime" => instance.spec.runtime.as_str(),
                "claw_type" => instance.spec.claw_type.to_string()
            )
            .record(took.as_secs_f64());
        }
        let millis = |took: Duration| u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Some(LastWake {
            at: Timestamp::now(),
            cause: instance.intent.cause,
            from: waking.from,
            queue_ms: millis(parts[0].1),
            runtime_ms: millis(parts[1].1),
            claw_ms: millis(parts[2].1),
        })
    }
}
