//! The policy's own time: the machine's, which tests move on so that nobody waits for minutes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clawfarm_model::Timestamp;

#[derive(Default)]
pub(crate) struct Clock {
    ahead_millis: AtomicU64,
}

impl Clock {
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::now().after(Duration::from_millis(self.ahead_millis.load(Ordering::Acquire)))
    }

    pub(super) fn advance(&self, by: Duration) {
        self.ahead_millis.fetch_add(u64::try_from(by.as_millis()).unwrap_or(0), Ordering::AcqRel);
    }
}
