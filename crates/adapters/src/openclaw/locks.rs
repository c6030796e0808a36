//! Which of OpenClaw's own settings decide about a place of the unified config.
//!
//! `native` is laid over all that is generated, so a lock on a place has to hold for these, too.
//! The lists are wider than what is generated: an agent's entry has its own model and its own
//! tools, for example, so a policy for these holds for all of `agents`. (The settings are those of
//! `openclaw config schema`, 2026.9.6.)

/// A part of OpenClaw's configuration, by the keys that lead there.
type Native = &'static [&'static str];

/// Parts of the unified config, and what decides about them.
const TABLE: &[(&[&str], &[Native])] = &[
    (&["model"], &[&["models"], &["agents"], &["hooks"], &["channels", "modelByChannel"]]),
    (&["providers"], &[&["models"], &["agents"]]),
    (&["agents"], &[&["agents"], &["bindings"]]),
    (&["channels", "telegram"], &[&["channels", "telegram"], &["bindings"], &["plugins"]]),
    (&["channels", "discord"], &[&["channels", "discord"], &["bindings"], &["plugins"]]),
    (&["channels", "feishu"], &[&["channels", "feishu"], &["bindings"], &["plugins"]]),
    (&["channels"], &[&["channels"], &["bindings"], &["plugins"]]),
    (&["inbox"], &[&["hooks"], &["channels"]]),
    (&["memory"], &[&["memory"], &["plugins"], &["agents"]]),
    (&["skills"], &[&["skills"], &["agents"]]),
    (&["plugins"], &[&["plugins"]]),
    (&["tools"], &[&["tools"], &["agents"], &["approvals"]]),
    (&["conversations"], &[&["session"]]),
    (&["gateway", "hooks_token"], &[&["hooks"]]),
    (&["gateway"], &[&["gateway"], &["hooks"]]),
    (&["proxy"], &[&["proxy"], &["env"]]),
    (&["logging"], &[&["logging"]]),
    (&["env"], &[&["env"]]),
];

/// See [`crate::ClawAdapter::native_of`].
pub(super) fn native_of(place: &[String]) -> Vec<Native> {
    let begins = |part: &[&str]| part.len() <= place.len() && part.iter().zip(place).all(|(a, b)| a == b);
    // The first that fits is the most particular one.
    let found = TABLE.iter().find(|(part, _)| begins(part));
    found.map(|(_, native)| native.to_vec()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clawfarm_model::config::ClawConfig;

    use super::*;

    fn of(place: &str) -> Vec<String> {
        let place: Vec<String> = place.split('.').map(str::to_owned).collect();
        native_of(&place).iter().map(|it| it.join(".")).collect()
    }

    #[test]
    fn the_most_particular_holds() {
        assert_eq!(of("channels.telegram.allow_from"), ["channels.telegram", "bindings", "plugins"]);
        assert_eq!(of("channels"), ["channels", "bindings", "plugins"]);
        assert_eq!(of("tools.exec.mode"), ["tools", "agents", "approvals"]);
        assert!(of("native.tools").is_empty());
    }

    /// A new part of the unified config is not forgotten here.
    #[test]
    fn every_part_of_the_unified_config_is_in_the_table() {
        // Whoever reads one tells of all its parts when it meets a strange one.
        let strange = serde_json::json!({ "strange": 1 });
        let told = serde_json::from_value::<ClawConfig>(strange).unwrap_err().to_string();
        let parts: Vec<&str> = told.split('`').skip(3).step_by(2).collect();
        assert!(parts.len() > 10 && parts.contains(&"tools"), "{told}");
        for part in parts.into_iter().filter(|part| *part != "native") {
            assert!(!of(part).is_empty(), "{part}");
        }
    }
}
