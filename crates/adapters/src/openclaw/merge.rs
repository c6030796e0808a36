//! What clawfarm owns of OpenClaw's configuration, whatever its user wrote.

use serde_json::{Map, Value};

use super::owned::Owned;
use super::{entrance, json};
pub(super) use crate::shared::merge::{overlay, three_way};

/// Makes what clawfarm owns true in `document`.
pub(super) fn enforce(document: &mut Map<String, Value>, owned: &[Owned]) {
    for rule in owned {
        match &rule.value {
            Some(value) => json::set(document, rule.path, value.clone()),
            None => {
                json::remove(document, rule.path);
            }
        }
    }
    admit_plugin(document, "admin-http-rpc");
    admit_origin(document, entrance::ORIGIN);
}

/// The user's own list of origins stays; the edge's is among them.
fn admit_origin(document: &mut Map<String, Value>, origin: &str) {
    let path = ["gateway", "controlUi", "allowedOrigins"];
    let mut origins = match json::get(document, &path) {
        Some(Value::Array(theirs)) => theirs.clone(),
        _ => Vec::new(),
    };
    if !origins.iter().any(|known| known == origin) {
        origins.push(origin.into());
    }
    json::set(document, &path, Value::Array(origins));
}

/// A user's own lists of allowed and denied plugins must not shut out the one that clawfarm
/// speaks to.
fn admit_plugin(document: &mut Map<String, Value>, plugin: &str) {
    let Some(plugins) = document.get_mut("plugins").and_then(Value::as_object_mut) else { return };
    if let Some(Value::Array(allowed)) = plugins.get_mut("allow")
        && !allowed.is_empty()
        && !allowed.iter().any(|p| p == plugin)
    {
        allowed.push(plugin.into());
    }
    if let Some(Value::Array(denied)) = plugins.get_mut("deny") {
        denied.retain(|p| p != plugin);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::shared::merge::tests::document;

    fn map(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_users_plugin_lists_can_not_shut_clawfarm_out() {
        let mut document = map(json!({"plugins": {"allow": ["x"], "deny": ["admin-http-rpc", "y"]}}));
        enforce(&mut document, &[]);
        assert_eq!(document["plugins"], json!({"allow": ["x", "admin-http-rpc"], "deny": ["y"]}));
        let mut document = map(json!({"plugins": {"allow": []}}));
        enforce(&mut document, &[]);
        assert_eq!(document["plugins"], json!({"allow": []}));
    }

    proptest! {
        /// What clawfarm owns is true afterwards, whatever the file said.
        #[test]
        fn owned_keys_always_win(theirs in document(), port in any::<u16>()) {
            let owned = [
                Owned { path: &["gateway", "port"], value: Some(port.into()) },
                Owned { path: &["gateway", "auth", "mode"], value: Some("token".into()) },
                Owned { path: &["gateway", "auth", "token"], value: None },
            ];
            let mut merged = three_way(&Map::new(), &Map::new(), &theirs);
            enforce(&mut merged, &owned);
            for rule in owned {
                prop_assert_eq!(json::get(&merged, rule.path), rule.value.as_ref());
            }
        }
    }
}
