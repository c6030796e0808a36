//! Where services leave messages for a claw, as its owner declares it.

use clawfarm_model::config::{InboxCheck, InboxCheckKind as Kind};
use clawfarm_model::inbox::{InboxRoute, Key, Proof};
use clawfarm_model::secret::SecretRef;
use clawfarm_model::{Error, InstanceSpec, Result};

use super::secrets;
use super::text::shown;
use crate::RenderInput;

/// The routes that an instance's owner declared.
///
/// # Errors
/// `InvalidInput` when a secret that a route refers to does not exist.
pub(crate) fn declared(input: &RenderInput<'_>) -> Result<Vec<InboxRoute>> {
    let mut routes = Vec::new();
    for (n, path) in input.spec.config.inbox.iter().enumerate() {
        let field = format!("config.inbox.{n}.check");
        let key = |secret: &Option<SecretRef>, name: &str| {
            let field = format!("{field}.{name}");
            let secret = secret.as_ref().ok_or_else(|| Error::invalid(field.clone(), "is missing"))?;
            secrets::value(input.secrets, secret, &field).map(|value| Key(value.clone()))
        };
        let check = &path.check;
        let proof = match check.kind {
            Kind::Open => Proof::Open,
            Kind::Token => Proof::Token {
                token: key(&check.secret, "secret")?,
                header: check.header.as_ref().map(|name| name.to_ascii_lowercase()),
            },
            Kind::Telegram => Proof::Telegram { secret: key(&check.secret, "secret")? },
            Kind::Slack => Proof::Slack { secret: key(&check.secret, "secret")? },
            Kind::Discord => Proof::Discord { public_key: check.public_key.clone().unwrap_or_default() },
            Kind::Feishu => Proof::Feishu {
                token: key(&check.secret, "secret")?,
                encrypt_key: match &check.encrypt_key {
                    Some(_) => Some(key(&check.encrypt_key, "encrypt_key")?),
                    None => None,
                },
            },
        };
        routes.push(InboxRoute { path: path.path.clone(), listener: None, proof, accepted: None });
    }
    Ok(routes)
}

/// Checks what an owner declares.
///
/// # Errors
/// `InvalidInput`, naming the path.
pub(crate) fn check(spec: &InstanceSpec) -> Result<()> {
    for (n, path) in spec.config.inbox.iter().enumerate() {
        let text = path.path.as_str();
        let good = text.len() > 1
            && text.len() <= 200
            && text.starts_with('/')
            && !text.ends_with('/')
            && !text.contains("//")
            && text.split('/').all(|part| !matches!(part, "." | ".."))
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_-.~".contains(&b));
        if !good
            || ["/api", "/v1", "/_clawfarm"]
                .iter()
                .any(|own| text == *own || text.starts_with(&format!("{own}/")))
        {
            return Err(Error::invalid(
                format!("config.inbox.{n}.path"),
                format!("'{}' can't be a path for messages", shown(text)),
            )
            .fix("give a path of letters, digits and _ - . ~ such as /my-service, outside of /api and /v1"));
        }
        check_fields(n, &path.check)?;
    }
    Ok(())
}

/// Checks that a way to prove oneself has its own fields, and no other's.
fn check_fields(n: usize, check: &InboxCheck) -> Result<()> {
    let secret = !matches!(check.kind, Kind::Open | Kind::Discord);
    let (discord, feishu, token) =
        (check.kind == Kind::Discord, check.kind == Kind::Feishu, check.kind == Kind::Token);
    let field = |name: &str| format!("config.inbox.{n}.check.{name}");
    for (name, there, wanted, allowed) in [
        ("secret", check.secret.is_some(), secret, secret),
        ("public_key", check.public_key.is_some(), discord, discord),
        ("encrypt_key", check.encrypt_key.is_some(), false, feishu),
        ("header", check.header.is_some(), false, token),
    ] {
        if wanted && !there {
            return Err(Error::invalid(field(name), "is missing: this type is checked with it")
                .fix("docs/inbox.md has what each type wants"));
        }
        if there && !allowed {
            return Err(Error::invalid(field(name), "is not of this type")
                .fix("remove it; docs/inbox.md has what each type wants"));
        }
    }
    let hex = |key: &String| key.len() == 64 && key.bytes().all(|b| b.is_ascii_hexdigit());
    if check.public_key.as_ref().is_some_and(|key| !hex(key)) {
        return Err(Error::invalid(field("public_key"), "it is no public key of a Discord application")
            .fix("give the 64 hexadecimal digits of the application's page 'General Information'"));
    }
    let name = |header: &String| {
        (1..=100).contains(&header.len()) && header.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if check.header.as_ref().is_some_and(|header| !name(header)) {
        return Err(Error::invalid(field("header"), "it can't be the name of a header")
            .fix("give letters, digits and '-', such as X-My-Token"));
    }
    Ok(())
}
