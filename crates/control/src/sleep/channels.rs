//! Claws that a policy lets sleep and a channel does not.

use clawfarm_model::target::{Check, CheckLevel};
use clawfarm_model::{Context, Instance, Phase, Result};
use clawfarm_store::{InstanceFilter, PageRequest};

use super::Brief;
use crate::core::Core;

/// So many are named.
const NAMED: usize = 5;

/// What of an instance's channels keeps it from sleeping by itself.
pub(super) fn of(core: &Core, instance: &Instance) -> Vec<String> {
    let address = core.doors.get().map(|doors| doors.address(&instance.id));
    core.adapter(instance).map(|it| it.keeps_awake(&instance.spec, address.as_deref())).unwrap_or_default()
}

/// What `doctor` says of it: nothing when no claw is kept awake so.
///
/// # Errors
/// When the store does not answer.
pub(crate) async fn check(core: &Core, context: &Context) -> Result<Option<Check>> {
    let mut kept = Vec::new();
    let mut request = PageRequest::after(None, PageRequest::MAX);
    loop {
        let page = core.store.instances(context, &InstanceFilter::default(), &request).await?;
        for instance in &page.items {
            let policy = core.sleeper.layers.effective(&Brief::of(instance));
            if policy.never || policy.idle().is_none() || instance.phase == Phase::Stopped {
                continue;
            }
            if let Some(why) = of(core, instance).into_iter().next() {
                kept.push(format!("{} ({why})", instance.id));
            }
        }
        let Some(next) = page.next else { break };
        request = PageRequest::after(Some(next), PageRequest::MAX);
    }
    if kept.is_empty() {
        return Ok(None);
    }
    let more = kept.len().saturating_sub(NAMED);
    kept.truncate(NAMED);
    let mut detail = format!("a policy lets these sleep, and a channel does not: {}", kept.join("; "));
    if more > 0 {
        detail.push_str(&format!("; and {more} more"));
    }
    Ok(Some(Check {
        name: "sleep".into(),
        level: CheckLevel::Warning,
        detail,
        fix: Some(
            "have the channel call the claw, where it can (docs/inbox.md says how), or say that it stays up: clawfarm policy set ID --never"
                .into(),
        ),
    }))
}
