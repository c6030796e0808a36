//! The channels of claws that ask for their messages themselves.

use clawfarm_model::InstanceSpec;

/// What keeps a claw from sleeping whose channels all ask for messages; see
/// [`crate::ClawAdapter::keeps_awake`].
pub(crate) fn keep_awake(spec: &InstanceSpec) -> Vec<String> {
    let channels = &spec.config.channels;
    [
        ("Telegram", channels.telegram.is_some()),
        ("Discord", channels.discord.is_some()),
        ("Feishu", channels.feishu.is_some()),
    ]
    .into_iter()
    .filter(|(_, on)| *on)
    .map(|(name, _)| format!("its {name} bot asks {name} for messages, and can't be woken by one"))
    .collect()
}
