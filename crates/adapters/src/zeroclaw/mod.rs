//! ZeroClaw, as of 0.8.7: its daemon, with the gateway that its own page uses. What is known of
//! its configuration and of its gateway was read in that version's crates (`zeroclaw-config`,
//! `zeroclaw-gateway`).

mod api;
mod config;
mod launch;
mod validate;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use clawfarm_model::edge::{Identity, PathRules};
use clawfarm_model::launch::{OwnSoftware, Software};
use clawfarm_model::name::ClawType;
use clawfarm_model::resources::Resources;
use clawfarm_model::{Code, Error, InstanceSpec, Result};
use futures::stream::BoxStream;
use secrecy::SecretString;

use crate::shared::text::shown;
use crate::shared::{channels, document, environment, probe};
use crate::{
    Access, Activity, ClawAdapter, Dial, Impact, Imported, KeyVariables, Probe, RenderInput, Rendered,
    SendEvent, Warning, impact,
};

/// The version whose configuration and gateway are known here.
const DEFAULT_VERSION: &str = "0.8.7";
/// Its program, which the machine's owner installs.
const PROGRAM: &str = "zeroclaw";
/// What it is given when nothing is said: it is one small program, and its tools want the rest.
const MEMORY_MIB: u32 = 512;
/// How long it may take to end: its daemon ends its parts one by one.
const STOP_GRACE: Duration = Duration::from_secs(30);

/// The adapter of `ZeroClaw`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ZeroClaw;

fn claw_type() -> Result<ClawType> {
    ClawType::new("zeroclaw")
}

fn software(version: &str) -> Result<Software> {
    let plausible = version.len() <= 40
        && version.split('.').count() >= 3
        && version.starts_with(|c: char| c.is_ascii_digit())
        && version.split(['.', '-']).all(|p| !p.is_empty() && p.chars().all(|c| c.is_ascii_alphanumeric()));
    if !plausible {
        return Err(Error::invalid(
            "version",
            format!("'{}' is no exact version of ZeroClaw", shown(version)),
        )
        .fix(format!("give one such as {DEFAULT_VERSION}, or none for it")));
    }
    Ok(Software {
        claw_type: claw_type()?,
        version: version.to_owned(),
        npm: None,
        pip: None,
        own: Some(OwnSoftware {
            folder: None,
            program: Some(PROGRAM.to_owned()),
            built: Some(format!("{PROGRAM}-{version}")),
            install: Some(format!("cargo install zeroclaw --version {version} --root /usr/local")),
        }),
        image: None,
    })
}

#[async_trait]
impl ClawAdapter for ZeroClaw {
    fn claw_type(&self) -> ClawType {
        claw_type().unwrap_or_else(|_| unreachable!("'zeroclaw' is a DNS label"))
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
        Err(Error::new(Code::Unsupported, "homes of ZeroClaw can't be taken in yet")
            .field("import")
            .fix("make an instance without one, and copy its workspace into it with 'clawfarm exec'"))
    }

    async fn probe_startup(&self, dial: &dyn Dial) -> Probe {
        probe::success(dial, "/health").await
    }

    async fn probe_liveness(&self, dial: &dyn Dial) -> Probe {
        probe::success(dial, "/health").await
    }

    async fn activity(&self, access: &Access<'_>) -> Result<Activity> {
        api::activity(access).await
    }

    /// It reads its file at its start.
    fn impact(&self, before: &InstanceSpec, after: &InstanceSpec) -> Impact {
        impact::of_words(before, after, &validate::EXPRESSED)
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

    /// The gateway token is one of its paired ones.
    fn identity(&self, _token: &SecretString) -> Identity {
        Identity::Token
    }

    /// Its administration is for programs of its own machine, and answers the edge as one of them.
    fn path_rules(&self) -> PathRules {
        PathRules { closed: vec!["/admin".to_owned(), "/pair".to_owned()], inbox: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_versions_are_named() {
        for version in ["", "latest", "0.8", "0.8.7 --root=x", "../x", "0.8."] {
            assert_eq!(software(version).expect_err(version).field_name(), Some("version"));
        }
        let own = software("0.8.7").unwrap().own.unwrap();
        assert_eq!(
            (own.program.as_deref(), own.built.as_deref()),
            (Some("zeroclaw"), Some("zeroclaw-0.8.7"))
        );
    }
}
