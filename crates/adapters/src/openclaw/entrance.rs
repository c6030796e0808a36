//! How people come in: through clawfarm's edge, whose word OpenClaw takes for who they are.
//!
//! OpenClaw believes a header from addresses that it trusts (`gateway.auth.mode:
//! "trusted-proxy"`). On a machine's loopback device the edge's address is that of every other
//! program, of other claws too. So the header's name is a secret, made of the gateway token: who
//! can't name it can't claim to be anybody.

use clawfarm_model::edge::{Identity, PathRules};
use clawfarm_model::launch::Place;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Where the edge says that the dashboard's WebSocket is opened from. It has checked the real
/// origin; a claw need not know its own public address, which may change while it runs.
pub(super) const ORIGIN: &str = "http://clawfarm.internal";
/// Whom the server's own requests are for: an address of the documentation's (RFC 5737), since
/// OpenClaw takes none of its own machine for anybody's.
pub(super) const CALLER: &str = "192.0.2.1";
/// The one person that a claw knows.
const OWNER: &str = "owner";

/// The name of the header that says who a person is.
fn header(token: &SecretString) -> String {
    let digest = Sha256::new()
        .chain_update(b"clawfarm user header\0")
        .chain_update(token.expose_secret().as_bytes())
        .finalize();
    let digits: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("x-clawfarm-user-{digits}")
}

/// How the edge tells a claw with this token who a request is from.
pub(super) fn identity(token: &SecretString) -> Identity {
    Identity::Header { name: header(token), user: OWNER.to_owned(), origin: ORIGIN.to_owned() }
}

/// The header with which the server speaks to a claw with this token as its owner.
pub(super) fn owner(token: &SecretString) -> (String, &'static str) {
    (header(token), OWNER)
}

/// `gateway.auth.trustedProxy`.
pub(super) fn trusted_proxy(token: &SecretString) -> Value {
    json!({
        "userHeader": header(token),
        "requiredHeaders": ["x-forwarded-proto"],
        "allowUsers": [OWNER],
        "allowLoopback": true,
        // The edge lets nobody in but its owner; a second question to the same person, in a
        // terminal, is no second check.
        "deviceAutoApprove": {
            "enabled": true,
            "scopes": [
                "operator.read", "operator.write", "operator.approvals", "operator.questions",
                "operator.admin", "operator.pairing",
            ],
        },
    })
}

/// `gateway.auth.identityScopes`.
pub(super) fn scopes() -> Value {
    json!({ OWNER: ["operator.admin"] })
}

/// `gateway.trustedProxies`: where the server's connections come from.
pub(super) fn proxies(place: &Place) -> Value {
    place.server_addresses.iter().map(|address| Value::from(address.to_string())).collect()
}

/// Nobody outside reaches the admin interface, which has no person behind it. What comes to the
/// hooks proves itself to the claw by the hooks' own token.
pub(super) fn path_rules() -> PathRules {
    PathRules { closed: vec!["/api/v1/admin".into()], inbox: vec!["/hooks".into()] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_another_for_each_token_and_does_not_tell_it() {
        let (one, two) = (SecretString::from("token-1"), SecretString::from("token-2"));
        assert_eq!(header(&one), header(&one));
        assert_ne!(header(&one), header(&two));
        assert!(!header(&one).contains("token"));
        let Identity::Header { name, .. } = identity(&one) else { panic!("a header") };
        assert_eq!(trusted_proxy(&one)["userHeader"], name);
    }
}
