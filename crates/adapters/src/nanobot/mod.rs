//! nanobot (`nanobot-ai` of the Python package index), as of 0.3.5: its gateway, with the
//! `WebSocket` channel that its own page uses.

mod api;
mod config;
mod launch;
mod reload;
mod validate;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use clawfarm_model::edge::{Identity, PathRules};
use clawfarm_model::launch::{Lock, PipInstall, Software};
use clawfarm_model::name::ClawType;
use clawfarm_model::resources::Resources;
use clawfarm_model::{Code, Error, InstanceSpec, Result, Timestamp};
use futures::stream::BoxStream;
use secrecy::SecretString;

use crate::shared::text::shown;
use crate::shared::{channels, document, environment, probe};
use crate::{
    Access, Activity, ClawAdapter, Dial, Impact, Imported, InForce, KeyVariables, Probe, RenderInput,
    Rendered, Rest, SendEvent, Warning,
};

/// The version that was tested with this clawfarm.
const DEFAULT_VERSION: &str = "0.3.5";
/// Every package of it, with the two channels that are packages of their own, by the hashes of
/// their files: `uv pip compile --universal --generate-hashes --python-version 3.11`.
const LOCK: &str = include_str!("requirements-0.3.5.txt");
/// The beginning of the SHA-256 of [`LOCK`].
const LOCK_ID: &str = "7c4594d14674";
/// What its Telegram and Discord channels are made of (its manifests of them, 0.3.5).
const WITH: [&str; 4] = [
    "python-telegram-bot[socks,webhooks]>=22.6,<23.0",
    "python-socks[asyncio]>=2.8.0,<3.0.0",
    "socksio>=1.0.0,<2.0.0",
    "discord.py>=2.5.2,<3.0.0",
];
/// The oldest Python that it runs on (its package's own description).
const PYTHON: &str = "3.11";
/// How many packages pip fetches for it (counted on 0.3.5).
const ABOUT_PACKAGES: u64 = 102;
/// What it holds: 160 MB when ready and 190 MB after its first chats (measured on 0.3.5), and
/// what its tools take.
const MEMORY_MIB: u32 = 512;
/// It ends its turns at SIGTERM and is gone within two seconds; a turn that is under way is waited
/// for before (see [`api::drain`]).
const STOP_GRACE: Duration = Duration::from_secs(30);

/// The adapter of nanobot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nanobot;

fn claw_type() -> Result<ClawType> {
    ClawType::new("nanobot")
}

/// What must be installed for a version.
fn software(version: &str) -> Result<Software> {
    let plausible = version.len() <= 40
        && version.split('.').count() >= 3
        && version.starts_with(|c: char| c.is_ascii_digit())
        && version.split('.').all(|p| !p.is_empty() && p.chars().all(|c| c.is_ascii_alphanumeric()));
    if !plausible {
        return Err(Error::invalid(
            "version",
            format!("'{}' is no exact version of nanobot", shown(version)),
        )
        .fix(format!("give one such as {DEFAULT_VERSION}, or none for it")));
    }
    let tested = version == DEFAULT_VERSION;
    Ok(Software {
        claw_type: claw_type()?,
        version: version.to_owned(),
        npm: None,
        pip: Some(PipInstall {
            package: "nanobot-ai".to_owned(),
            version: version.to_owned(),
            with: WITH.map(str::to_owned).to_vec(),
            python: PYTHON.to_owned(),
            lock: if tested { Lock::of(LOCK) } else { Lock::none() },
            lock_id: tested.then(|| LOCK_ID.to_owned()),
            about_packages: ABOUT_PACKAGES,
        }),
        own: None,
        image: None,
    })
}

#[async_trait]
impl ClawAdapter for Nanobot {
    fn claw_type(&self) -> ClawType {
        claw_type().unwrap_or_else(|_| unreachable!("'nanobot' is a DNS label"))
    }

    fn default_version(&self) -> &str {
        DEFAULT_VERSION
    }

    fn default_resources(&self) -> Resources {
        Resources { memory_mib: MEMORY_MIB, ..Resources::default() }
    }

    fn software(&self, version: &str) -> Result<Software> {
        software(version)
    }

    fn validate(&self, spec: &InstanceSpec) -> Result<Vec<Warning>> {
        validate::spec(spec)
    }

    fn existing_files(&self) -> Vec<PathBuf> {
        vec![config::FILE.into(), document::SEED_FILE.into()]
    }

    fn render(&self, input: &RenderInput<'_>) -> Result<Rendered> {
        launch::render(input)
    }

    fn import_files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn import(&self, _files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<Imported> {
        Err(Error::new(Code::Unsupported, "homes of nanobot can't be taken in yet")
            .field("import")
            .fix("make an instance without one, and copy its workspace into it with 'clawfarm exec'"))
    }

    /// It listens only when its agent and its channels have begun.
    async fn probe_startup(&self, dial: &dyn Dial) -> Probe {
        probe::success(dial, "/").await
    }

    async fn probe_liveness(&self, dial: &dyn Dial) -> Probe {
        probe::success(dial, "/").await
    }

    async fn activity(&self, access: &Access<'_>) -> Result<Activity> {
        api::activity(access).await
    }

    async fn rest(&self, access: &Access<'_>) -> Result<Rest> {
        api::rest(access).await
    }

    async fn next_wake(&self, access: &Access<'_>) -> Result<Option<Timestamp>> {
        Ok(api::rest(access).await?.next_wake)
    }

    fn impact(&self, before: &InstanceSpec, after: &InstanceSpec) -> Impact {
        reload::impact(before, after)
    }

    async fn in_force(&self, access: &Access<'_>, files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<InForce> {
        reload::in_force(access, files).await
    }

    fn keeps_awake(&self, spec: &InstanceSpec, _public_url: Option<&str>) -> Vec<String> {
        channels::keep_awake(spec)
    }

    async fn drain(&self, access: &Access<'_>, wait: Duration) -> Result<Activity> {
        api::drain(access, wait).await
    }

    async fn undrain(&self, _access: &Access<'_>) -> Result<()> {
        Ok(())
    }

    async fn send(
        &self,
        access: &Access<'_>,
        message: &str,
    ) -> Result<BoxStream<'static, Result<SendEvent>>> {
        api::send(access, message).await
    }

    fn stop_grace(&self) -> Duration {
        STOP_GRACE
    }

    fn archived(&self, files: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<(PathBuf, Vec<u8>)> {
        document::archived(files)
    }

    fn key_variables(&self) -> KeyVariables {
        environment::key_variables()
    }

    /// Its page asks for its tokens with the gateway token.
    fn identity(&self, _token: &SecretString) -> Identity {
        Identity::Token
    }

    fn path_rules(&self) -> PathRules {
        PathRules::default()
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn the_packages_of_the_tested_version_are_pinned() {
        let pip = software(DEFAULT_VERSION).unwrap().pip.unwrap();
        let digest = Sha256::digest(LOCK.as_bytes());
        let id: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(pip.lock_id.as_deref(), Some(id.as_str()), "LOCK_ID is of another LOCK");
        assert_eq!(pip.folder_name(), format!("nanobot-ai-0.3.5-python-{id}"));
        assert!(LOCK.contains("\nnanobot-ai==0.3.5 \\\n    --hash=sha256:"));
        assert_eq!(software("0.3.0").unwrap().pip.unwrap().lock_id, None);
    }

    #[test]
    fn only_exact_versions_are_installed() {
        for version in ["", "latest", "0.3", "0.3.5 --index-url=x", "../x", "0.3.", "git+https://x"] {
            assert_eq!(software(version).expect_err(version).field_name(), Some("version"));
        }
        assert!(software("0.1.5.post3").is_ok());
    }
}
