//! OpenClaw, as of 2026.9.6.

mod areas;
mod awake;
mod channels;
mod chat;
mod check;
mod config;
mod dotenv;
mod entrance;
mod force;
mod http;
mod import;
mod inbox;
mod launch;
mod locks;
mod merge;
mod owned;
mod probe;
pub(crate) mod provider;
mod reload;
mod rest;
mod rpc;
mod schema;
mod secrets;
pub(crate) mod validate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use clawfarm_model::edge::{Identity, PathRules};
use clawfarm_model::launch::{ImageMark, ImageRecipe, SourceRecipe};
use clawfarm_model::name::ClawType;
use clawfarm_model::observed::Exit;
use clawfarm_model::resources::Resources;
use clawfarm_model::{Code, Error, InstanceSpec, NpmInstall, Result, Software, Timestamp};
use futures::stream::BoxStream;
use secrecy::SecretString;

use crate::shared::json;
use crate::{
    Access, Activity, ClawAdapter, ConfigCheck, Dial, Impact, Imported, InForce, Judgement, KeyVariables,
    Probe, RenderInput, Rendered, Rest, SendEvent, SoftwareFile, Warning,
};

/// The version that was tested with this clawfarm.
const DEFAULT_VERSION: &str = "2026.9.6";
/// The Node that OpenClaw was tested with; it needs 24.16 or later, or 26.1 or later.
const NODE_VERSION: &str = "24.21.0";
/// What npm fetches for it with an empty cache (counted on 2026.9.6): of each of 330 packages
/// the description and the archive, and a few again.
const ABOUT_PACKAGES: u64 = 700;
/// What OpenClaw's own image is made on.
const IMAGE_BASE: &str = "node:24-bookworm-slim";
/// What a build of its image prints (counted on 2026.9.6).
const ABOUT_BUILD_LINES: u64 = 60;
/// What its source is built on: beside the same it has compilers, for packages that need them.
const SOURCE_BASE: &str = "node:24-bookworm";
/// What its images are called.
const IMAGE_NAME: &str = "clawfarm/openclaw";
/// OpenClaw lets turns that are under way finish for up to 315 s after SIGTERM and is gone
/// after 325 s at the latest.
const STOP_GRACE: Duration = Duration::from_secs(330);
/// Its exit code for a configuration that it refuses.
const EXIT_CONFIG: i32 = 78;

/// The adapter of OpenClaw.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenClaw;

/// What must be installed for a version.
fn software(version: &str) -> Result<Software> {
    let plausible = version.len() <= 40
        && version.split('.').count() >= 3
        && version.starts_with(|c: char| c.is_ascii_digit())
        && version.split(['.', '-']).all(|p| !p.is_empty() && p.chars().all(|c| c.is_ascii_alphanumeric()));
    if !plausible {
        return Err(Error::invalid(
            "version",
            format!("'{}' is no exact version of OpenClaw", config::shown(version)),
        )
        .fix(format!("give one such as {DEFAULT_VERSION}, or none for it")));
    }
    Ok(Software {
        claw_type: claw_type()?,
        version: version.to_owned(),
        npm: Some(NpmInstall {
            node: NODE_VERSION.to_owned(),
            package: "openclaw".to_owned(),
            version: version.to_owned(),
            about_packages: ABOUT_PACKAGES,
        }),
        pip: None,
        own: None,
        image: Some(image(version)),
    })
}

/// What the image of a version is called.
fn image(version: &str) -> String {
    format!("{IMAGE_NAME}:{version}")
}

/// As its official image has it.
fn image_mark() -> ImageMark {
    ImageMark {
        claw_type: OpenClaw.claw_type(),
        package: "openclaw",
        folder: "/app",
        program: "openclaw.mjs",
    }
}

fn claw_type() -> Result<ClawType> {
    ClawType::new("openclaw")
}

#[async_trait]
impl ClawAdapter for OpenClaw {
    fn claw_type(&self) -> ClawType {
        claw_type().unwrap_or_else(|_| unreachable!("'openclaw' is a DNS label"))
    }

    fn default_version(&self) -> &str {
        DEFAULT_VERSION
    }

    fn default_resources(&self) -> Resources {
        Resources::default()
    }

    fn software(&self, version: &str) -> Result<Software> {
        software(version)
    }

    fn image_recipe(&self, version: &str) -> Result<Option<ImageRecipe>> {
        software(version)?;
        Ok(Some(ImageRecipe {
            reference: image(version),
            dockerfile: include_str!("../../../../images/openclaw/Dockerfile"),
            base: IMAGE_BASE,
            args: vec![("NODE_VERSION", NODE_VERSION.to_owned()), ("OPENCLAW_VERSION", version.to_owned())],
            claw_type: claw_type()?,
            version: version.to_owned(),
            about_lines: ABOUT_BUILD_LINES,
        }))
    }

    fn source_recipe(&self) -> Option<SourceRecipe> {
        Some(SourceRecipe {
            name: IMAGE_NAME,
            dockerfile: include_str!("../../../../images/openclaw/source.Dockerfile"),
            base: SOURCE_BASE,
            args: vec![("NODE_VERSION", NODE_VERSION.to_owned())],
            mark: image_mark(),
            about_lines: ABOUT_BUILD_LINES,
        })
    }

    fn image_mark(&self) -> Option<ImageMark> {
        Some(image_mark())
    }

    fn validate(&self, spec: &InstanceSpec) -> Result<Vec<Warning>> {
        validate::spec(spec)
    }

    fn native_of(&self, place: &[String]) -> Vec<&'static [&'static str]> {
        locks::native_of(place)
    }

    fn existing_files(&self) -> Vec<PathBuf> {
        vec![config::FILE.into(), config::SEED_FILE.into(), dotenv::FILE.into()]
    }

    fn render(&self, input: &RenderInput<'_>) -> Result<Rendered> {
        launch::render(input)
    }

    fn import_files(&self) -> Vec<PathBuf> {
        import::files()
    }

    fn import(&self, files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<Imported> {
        import::import(files)
    }

    async fn probe_startup(&self, dial: &dyn Dial) -> Probe {
        probe::startup(dial).await
    }

    async fn probe_liveness(&self, dial: &dyn Dial) -> Probe {
        probe::liveness(dial).await
    }

    async fn activity(&self, access: &Access<'_>) -> Result<Activity> {
        rpc::activity(access).await
    }

    async fn rest(&self, access: &Access<'_>) -> Result<Rest> {
        rest::rest(access).await
    }

    async fn next_wake(&self, access: &Access<'_>) -> Result<Option<Timestamp>> {
        rest::next_wake(access).await
    }

    async fn drain(&self, access: &Access<'_>, wait: Duration) -> Result<Activity> {
        rpc::drain(access, wait).await
    }

    async fn undrain(&self, access: &Access<'_>) -> Result<()> {
        rpc::undrain(access).await
    }

    async fn send(
        &self,
        access: &Access<'_>,
        message: &str,
    ) -> Result<BoxStream<'static, Result<SendEvent>>> {
        chat::send(access, message).await
    }

    fn stop_grace(&self) -> Duration {
        STOP_GRACE
    }

    fn final_exit(&self, exit: &Exit) -> Option<Error> {
        (exit.code == Some(EXIT_CONFIG)).then(|| {
            Error::new(Code::ClawFailed, "OpenClaw refused its configuration (exit code 78)")
                .field("config")
                .fix("see why with 'clawfarm logs <id>', mend openclaw.json or the instance's config, and start it again")
        })
    }

    fn check_update(&self, from: &SoftwareFile<'_>, to: &SoftwareFile<'_>) -> Result<()> {
        schema::check(from, to)
    }

    fn archived(&self, files: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<(PathBuf, Vec<u8>)> {
        let Some(present) = files.get(Path::new(dotenv::FILE)) else { return Vec::new() };
        let own = dotenv::own(present).into_bytes();
        if own == *present { Vec::new() } else { vec![(dotenv::FILE.into(), own)] }
    }

    fn data_schemas(&self, file: &SoftwareFile<'_>) -> BTreeMap<String, u64> {
        schema::schemas(file).unwrap_or_default()
    }

    /// Each has process numbers (read in 2026.9.6): a copy whose number is in use is refused with
    /// "Agent main database is still open in process 7".
    fn open_marks(&self) -> Vec<(PathBuf, &'static [&'static str])> {
        vec![("state/openclaw.sqlite".into(), &["agent_database_leases", "state_leases"])]
    }

    fn key_variables(&self) -> KeyVariables {
        KeyVariables { gateway_token: secrets::GATEWAY_TOKEN, model_key: secrets::MODEL_KEY }
    }

    fn identity(&self, token: &SecretString) -> Identity {
        entrance::identity(token)
    }

    fn path_rules(&self) -> PathRules {
        entrance::path_rules()
    }

    fn impact(&self, before: &InstanceSpec, after: &InstanceSpec) -> Impact {
        reload::impact(before, after)
    }

    async fn in_force(&self, access: &Access<'_>, files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<InForce> {
        force::in_force(access, files).await
    }

    fn config_check(&self, input: &RenderInput<'_>) -> Result<Option<ConfigCheck>> {
        check::ask(input).map(Some)
    }

    fn judged(&self, spec: &InstanceSpec, output: &[u8]) -> Judgement {
        check::judged(spec, output)
    }

    fn keeps_awake(&self, spec: &InstanceSpec, public_url: Option<&str>) -> Vec<String> {
        awake::keeps_awake(spec, public_url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_versions_are_installed() {
        for version in ["", "latest", "2026.9", "2026.9.6 --registry=x", "../x", "1.2.3.", "git+https://x"] {
            assert_eq!(software(version).expect_err(version).field_name(), Some("version"));
        }
        let npm = software("2026.9.6-beta.1").unwrap().npm.unwrap();
        assert_eq!(npm.folder_name(), "openclaw-2026.9.6-beta.1-node-24.21.0");
    }

    #[test]
    fn a_refused_configuration_is_final() {
        let exit = |code| Exit {
            code: Some(code),
            signal: None,
            at: clawfarm_model::Timestamp::from_millis(0),
            out_of_memory: false,
            requested: false,
            log_tail: String::new(),
        };
        assert!(OpenClaw.final_exit(&exit(78)).is_some());
        assert!(OpenClaw.final_exit(&exit(1)).is_none());
    }
}
