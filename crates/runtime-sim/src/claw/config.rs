//! `config.get`: what it has read from its file, and whether it goes by that.

use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use super::{Gateway, Moment};
use crate::behaviour::Behaviour;
use crate::loaded::{FILE, Loaded};

impl Gateway {
    /// As OpenClaw answers, without what nobody reads.
    pub(super) fn config(&self, moment: &Moment) -> Value {
        let path = self.world.data_dir(&self.id).join("state").join(FILE);
        let text = std::fs::read(&path).unwrap_or_default();
        let (read, document) = match Loaded::read(&text) {
            Ok(read) => read,
            Err(why) => {
                return json!({"exists": true, "valid": false, "parsed": null, "configRevisionHash": null,
                    "appliedConfigHash": moment.up.loaded.as_ref().map(|loaded| &loaded.whole),
                    "issues": [{"path": "", "message": why}]});
            }
        };
        let written = path.metadata().and_then(|meta| meta.modified()).ok();
        let written = written.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let written = written.and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or(0);
        let applied = match &moment.up.loaded {
            // It was started by a clawfarm that noted nothing.
            None => &read.whole,
            Some(loaded) if loaded.fixed != read.fixed || moment.claw.no_reload == Some(true) => {
                &loaded.whole
            }
            Some(loaded) => {
                let range = moment.claw.reload_ms.unwrap_or_default();
                let key = [self.id.as_str(), "reload", &read.whole];
                let takes = Behaviour::default().draw(range, &key, 0);
                let at = written.saturating_add(i64::try_from(takes).unwrap_or(i64::MAX));
                if moment.now < at { &loaded.whole } else { &read.whole }
            }
        };
        json!({"exists": true, "valid": true, "parsed": document, "issues": [],
            "configRevisionHash": read.whole, "appliedConfigHash": applied})
    }
}
