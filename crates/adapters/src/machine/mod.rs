//! A bare virtual machine: what runs in it is its person's business.
//!
//! Nothing is installed or configured but what its image brings and its setup commands do, and
//! nobody in it can be asked anything; that it has booted is seen from outside, by whoever knows
//! its runtime. What is set in a configuration would have no effect, so it is refused.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use clawfarm_model::config::{ConfigMode, Provider};
use clawfarm_model::edge::{Identity, PathRules};
use clawfarm_model::launch::Software;
use clawfarm_model::name::ClawType;
use clawfarm_model::resources::Resources;
use clawfarm_model::{Code, Error, InstanceSpec, Launch, Result};
use futures::stream::BoxStream;
use secrecy::SecretString;

use crate::shared::text::shown;
use crate::shared::{environment, expressed};
use crate::{
    Access, Activity, ClawAdapter, Dial, Impact, Imported, KeyVariables, Probe, RenderInput, Rendered,
    SendEvent, Warning, impact,
};

/// What it is called.
pub const MACHINE: &str = "machine";
/// There are no versions: its image says what is in it.
const DEFAULT_VERSION: &str = "image";
/// How long its system may take to shut down: systemd waits for 90 s for a service that hangs.
const STOP_GRACE: Duration = Duration::from_secs(100);

/// The adapter of bare machines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

fn claw_type() -> Result<ClawType> {
    ClawType::new(MACHINE)
}

fn software(version: &str) -> Result<Software> {
    if version != DEFAULT_VERSION {
        return Err(Error::invalid(
            "version",
            format!("'{}': a machine has no version beside that of its image", shown(version)),
        )
        .fix("leave it out, and name the image that you want: clawfarm image ls"));
    }
    Ok(Software {
        claw_type: claw_type()?,
        version: version.to_owned(),
        npm: None,
        pip: None,
        own: None,
        image: None,
    })
}

/// The model that everything without one is given is no setting of anybody's.
fn is_said(place: &str, value: &serde_json::Value) -> bool {
    !(place == "model.provider" && *value == serde_json::json!(Provider::Demo))
}

fn validate(spec: &InstanceSpec) -> Result<Vec<Warning>> {
    software(&spec.version)?;
    if spec.vm.is_none() {
        return Err(Error::invalid("vm.image", "a machine is made of an image, and none was named")
            .fix("name one: clawfarm new ubuntu:24.04; clawfarm image ls shows which there are"));
    }
    if let Some((place, _)) =
        expressed::said(&spec.config)?.into_iter().find(|(place, value)| is_said(place, value))
    {
        return Err(Error::invalid(
            format!("config.{place}"),
            "there is nothing in a bare machine that clawfarm could configure",
        )
        .fix("leave it out, and say it in a setup command: --run"));
    }
    if spec.config_mode == ConfigMode::Managed {
        return Err(Error::invalid("config_mode", "a machine has no configuration that could be managed")
            .fix("leave it out"));
    }
    Ok(Vec::new())
}

#[async_trait]
impl ClawAdapter for Machine {
    fn claw_type(&self) -> ClawType {
        claw_type().unwrap_or_else(|_| unreachable!("'machine' is a DNS label"))
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

    fn validate(&self, spec: &InstanceSpec) -> Result<Vec<Warning>> {
        validate(spec)
    }

    fn existing_files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// What its kernel starts is all that runs.
    fn render(&self, input: &RenderInput<'_>) -> Result<Rendered> {
        Ok(Rendered {
            launch: Launch {
                id: input.id.clone(),
                run: input.run,
                argv: vec!["/sbin/init".to_owned()],
                env: Vec::new(),
                cwd: "/".into(),
                files: Vec::new(),
                resources: input.spec.resources,
            },
            warnings: Vec::new(),
            inbox: Vec::new(),
        })
    }

    fn import_files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn import(&self, _files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<Imported> {
        Err(Error::new(Code::Unsupported, "a bare machine takes no home in")
            .field("import")
            .fix("make it without one, and hand the folder in as its workspace: --workspace FOLDER"))
    }

    /// That it has booted was seen before this is asked.
    async fn probe_startup(&self, _dial: &dyn Dial) -> Probe {
        Probe::Passed
    }

    async fn probe_liveness(&self, _dial: &dyn Dial) -> Probe {
        Probe::Passed
    }

    /// Nobody can ask it.
    async fn activity(&self, _access: &Access<'_>) -> Result<Activity> {
        Ok(Activity::Idle)
    }

    fn impact(&self, before: &InstanceSpec, after: &InstanceSpec) -> Impact {
        impact::of_words(before, after, &[])
    }

    async fn drain(&self, _access: &Access<'_>, _wait: Duration) -> Result<Activity> {
        Ok(Activity::Idle)
    }

    async fn undrain(&self, _access: &Access<'_>) -> Result<()> {
        Ok(())
    }

    async fn send(
        &self,
        _access: &Access<'_>,
        _message: &str,
    ) -> Result<BoxStream<'static, Result<SendEvent>>> {
        Err(Error::new(Code::Unsupported, "there is nobody in a bare machine who takes messages")
            .fix("run a command in it: clawfarm exec, or clawfarm shell"))
    }

    fn stop_grace(&self) -> Duration {
        STOP_GRACE
    }

    fn key_variables(&self) -> KeyVariables {
        environment::key_variables()
    }

    fn identity(&self, _token: &SecretString) -> Identity {
        Identity::Token
    }

    fn path_rules(&self) -> PathRules {
        PathRules::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> InstanceSpec {
        serde_json::from_value(serde_json::json!({
            "claw_type": MACHINE, "version": DEFAULT_VERSION, "runtime": "vm", "target": "vm",
            "vm": { "image": "ubuntu:24.04" },
        }))
        .unwrap()
    }

    #[test]
    fn what_a_machine_can_t_be_told_is_refused() {
        assert!(validate(&spec()).unwrap().is_empty());
        let mut demo = spec();
        demo.config.model = serde_json::from_value(serde_json::json!({ "provider": "demo" })).unwrap();
        assert!(validate(&demo).unwrap().is_empty(), "what everybody is given says nothing");
        let field = |change: fn(&mut InstanceSpec)| {
            let mut spec = spec();
            change(&mut spec);
            let error = validate(&spec).expect_err("it was taken");
            assert!(error.fix_text().is_some());
            error.field_name().unwrap().to_owned()
        };
        assert_eq!(field(|s| s.vm = None), "vm.image");
        assert_eq!(field(|s| s.version = "1".into()), "version");
        assert_eq!(field(|s| s.config_mode = ConfigMode::Managed), "config_mode");
        assert_eq!(field(|s| *s.config = s.config.with("env.A", "1").unwrap()), "config.env.A");
        assert_eq!(
            field(|s| *s.config = s.config.with("model.provider", "openai").unwrap()),
            "config.model.provider"
        );
        assert_eq!(field(|s| *s.config = s.config.with("native.a", "1").unwrap()), "config.native.a");
    }
}
