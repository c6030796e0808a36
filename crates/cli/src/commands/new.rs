//! `new`: makes an instance.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use clawfarm_api::{Accepted, CreateInstance, MACHINE, ResourcesInput};
use clawfarm_client::Client;
use clawfarm_model::config::{ClawConfig, ConfigMode, Model, Provider};
use clawfarm_model::image::ImageReference;
use clawfarm_model::instance::{RestartMode, RestartPolicy};
use clawfarm_model::name::{InstanceName, TargetName};
use clawfarm_model::secret::{SecretName, SecretRef};
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::vm::VmSpec;
use clawfarm_model::{ClawId, ConfigName, Error};
use serde_json::Map;

use super::machine::MachineArgs;
use super::{input, wait};
use crate::app::App;
use crate::errors::{Failure, OK, Outcome};
use crate::output::{clean_line, duration};

/// The name of an instance's own secret that `--api-key-env` and `--api-key-file` set.
const KEY_NAME: &str = "model-api-key";

const EXAMPLES: &str = "\
Examples:
  clawfarm new openclaw alice
      with the demo model, which answers without a key
  clawfarm new openclaw alice --provider anthropic --api-key-env ANTHROPIC_API_KEY
      the variable's name, not the key: arguments can be read by everyone on the machine
  clawfarm new openclaw bob --cpus 2 --memory-mib 3072 --set native.agents.defaults.timeoutSeconds=60
  clawfarm new openclaw carol --template support --var greeting=hello --set model.name=claude-3-opus
      bound to a template of the configuration centre
  clawfarm new nanobot nina --set tools.exec.mode=full
      a nanobot, whose commands run only when that is said
  clawfarm new ubuntu:24.04 lab --run 'apt-get install -y git' --volume data:/srv/data --publish 8080:80
      a virtual machine of an image, see 'clawfarm image ls', with a folder of its own that outlives it
  clawfarm new openclaw dave --runtime vm --image debian:12
      an OpenClaw in a virtual machine of its own; 'clawfarm run debian:12' is short for it
  clawfarm new openclaw --import ~/.openclaw --name mine
      takes a copy of an existing OpenClaw home in, its keys into secrets";

/// `clawfarm new`.
#[derive(Debug, Args)]
#[command(
    long_about = "Makes an instance and waits until it answers; a virtual machine until it has booted and its commands (--run) were run, with this terminal as theirs. Ctrl-C ends the wait only.",
    after_help = EXAMPLES
)]
pub(crate) struct NewArgs {
    /// The claw type: openclaw, nanobot, or another of 'clawfarm type ls'; with a ':' an image, for virtual machines
    #[arg(value_name = "CLAW TYPE OR IMAGE")]
    kind: String,
    /// Its name: a-z, 0-9 and '-' [default: the claw type]
    #[arg(value_name = "NAME")]
    positional_name: Option<InstanceName>,
    /// A container image to run instead of clawfarm's own, pulled where it is missing; with --runtime vm the image of its virtual machine
    #[arg(long, value_name = "IMAGE")]
    image: Option<ImageReference>,
    /// What else is said of it.
    #[command(flatten)]
    options: NewOptions,
}

/// What is said of a new instance beside what it is.
#[derive(Debug, Args)]
pub(crate) struct NewOptions {
    /// Its name, as an option
    #[arg(long, value_name = "NAME")]
    name: Option<InstanceName>,
    /// Processor cores; fractions are fine
    #[arg(long, value_name = "CORES", allow_negative_numbers = true, value_parser = input::finite)]
    cpus: Option<f64>,
    /// Memory, in MiB
    #[arg(long, value_name = "MIB", allow_negative_numbers = true)]
    memory_mib: Option<u32>,
    /// The port its gateway must have [default: a free one]
    #[arg(long, allow_negative_numbers = true)]
    port: Option<u16>,
    /// A setting of its configuration, as KEY=VALUE (model.name=..., env.NAME=..., native.PATH=...)
    #[arg(long, value_name = "KEY=VALUE", value_parser = input::pair)]
    set: Vec<(String, String)>,
    /// The template that it is bound to; see 'clawfarm config ls'
    #[arg(long, value_name = "TEMPLATE")]
    template: Option<ConfigName>,
    /// What a variable of the template is for it, as NAME=TEXT
    #[arg(long = "var", value_name = "NAME=TEXT", value_parser = input::pair, requires = "template")]
    variables: Vec<(String, String)>,
    /// Who serves the model: demo, anthropic, openai, gemini, openrouter, openai-compatible
    #[arg(long)]
    provider: Option<Provider>,
    /// The model's name at its provider
    #[arg(long, requires = "provider")]
    model: Option<String>,
    /// The environment variable that holds the provider's key
    #[arg(long, value_name = "VARIABLE", requires = "provider", conflicts_with = "api_key_file")]
    api_key_env: Option<String>,
    /// The file that holds the provider's key; '-' is standard input
    #[arg(long, value_name = "FILE", requires = "provider")]
    api_key_file: Option<PathBuf>,
    /// How it runs: process, docker, vm or kubernetes
    #[arg(long)]
    runtime: Option<RuntimeKind>,
    /// Where it runs; see 'clawfarm target ls'
    #[arg(long)]
    target: Option<TargetName>,
    /// The claw's version [default: the one this clawfarm was tested with]
    #[arg(long)]
    version: Option<String>,
    /// A label, as KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE", value_parser = input::pair)]
    label: Vec<(String, String)>,
    /// Let it sleep when it was idle for so long: 90s, 15m, 2h; 'never' for never by itself
    #[arg(long, value_name = "TIME", value_parser = super::policy::idle)]
    idle: Option<super::policy::Idle>,
    /// What happens when it ends by itself
    #[arg(long, value_enum, value_name = "WHEN")]
    restart: Option<Restart>,
    /// The dataset to start from; see 'clawfarm dataset ls'
    #[arg(long, value_name = "DATASET")]
    dataset: Option<ClawId>,
    /// An existing home of this claw type, to take a copy of in
    #[arg(long, value_name = "FOLDER", conflicts_with = "dataset")]
    import: Option<PathBuf>,
    /// Who has the last word on its configuration file
    #[arg(long, value_enum, value_name = "MODE")]
    config_mode: Option<Mode>,
    /// How long its start may take, in seconds
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    ready_timeout_secs: Option<u32>,
    /// Make it even when there is no memory left for it
    #[arg(long)]
    overcommit: bool,
    /// Return at once; print the operation instead of waiting until it answers
    #[arg(long, short)]
    detach: bool,
    /// What only a virtual machine has.
    #[command(flatten)]
    machine: MachineArgs,
}

/// `--restart`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Restart {
    /// Start it again whatever its exit code
    Always,
    /// Start it again when its exit code is not 0
    OnFailure,
    /// Leave it
    Never,
}

/// `--config-mode`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// Written once; its user may go on in the claw's own dashboard
    Seeded,
    /// Read-only for the claw
    Managed,
}

impl NewArgs {
    fn request(&self) -> Result<CreateInstance, Error> {
        let options = &self.options;
        let mut options_said = options.request()?;
        options_said.name = options.one_name(self.positional_name.as_ref())?;
        let in_machine = options.runtime == Some(RuntimeKind::Vm) && !self.is_machine();
        match (self.is_machine(), &self.image) {
            (true, _) => {
                options_said.vm = Some(options.machine.spec(&self.kind)?);
                options_said.image.clone_from(&self.image);
            }
            (false, Some(image)) if in_machine => {
                options_said.vm = Some(options.machine.spec(&image.whole())?);
            }
            (false, None) if in_machine => {
                return Err(Error::invalid("--image", "a virtual machine needs an image")
                    .fix("name one, such as --image debian:12; clawfarm image ls shows which there are"));
            }
            (false, image) => {
                options.machine.none()?;
                options_said.image.clone_from(image);
            }
        }
        let claw_type = if self.is_machine() { MACHINE.to_owned() } else { self.kind.clone() };
        Ok(CreateInstance { claw_type, ..options_said })
    }

    /// An image has a ':', which the name of a claw type never has.
    fn is_machine(&self) -> bool {
        self.kind.contains(':')
    }
}

impl NewOptions {
    /// All that is said here; the claw type is left empty.
    pub(super) fn request(&self) -> Result<CreateInstance, Error> {
        let mut secrets = BTreeMap::new();
        // What a template says would be said again by a configuration that is whole.
        let bound = self.template.is_some();
        let config = self.config(if bound { &[] } else { &self.set }, &mut secrets)?;
        let overrides = if bound { super::config::settings(&self.set)? } else { Map::new() };
        let resources = (self.cpus.is_some() || self.memory_mib.is_some())
            .then_some(ResourcesInput { cpus: self.cpus, memory_mib: self.memory_mib });
        Ok(CreateInstance {
            claw_type: String::new(),
            vm: None,
            attended: !self.detach,
            name: self.name.clone(),
            version: self.version.clone(),
            runtime: self.runtime,
            target: self.target.clone(),
            image: None,
            resources,
            port: self.port,
            config,
            overrides,
            template: self.template.clone(),
            // They are read by the types that the template gives them.
            variables: BTreeMap::new(),
            secrets,
            config_mode: self.config_mode.map(|m| match m {
                Mode::Seeded => ConfigMode::Seeded,
                Mode::Managed => ConfigMode::Managed,
            }),
            restart: self.restart.map(|r| RestartPolicy {
                mode: match r {
                    Restart::Always => RestartMode::Always,
                    Restart::OnFailure => RestartMode::OnFailure,
                    Restart::Never => RestartMode::Never,
                },
                ..RestartPolicy::default()
            }),
            ready_timeout_secs: self.ready_timeout_secs,
            labels: self.label.iter().cloned().collect(),
            policy: self.idle.map(super::policy::of_idle).unwrap_or_default(),
            dataset: self.dataset.clone(),
            import: self.import_path()?,
            overcommit: self.overcommit,
        })
    }

    /// The virtual machine that is described, of an image.
    pub(super) fn machine(&self, image: &str) -> Result<VmSpec, Error> {
        self.machine.spec(image)
    }

    fn one_name(&self, positional: Option<&InstanceName>) -> Result<Option<InstanceName>, Error> {
        match (positional, &self.name) {
            (Some(a), Some(b)) if a != b => {
                Err(Error::invalid("--name", format!("two names were given: '{a}' and '{b}'"))
                    .fix("give one of them"))
            }
            (a, b) => Ok(a.cloned().or_else(|| b.clone())),
        }
    }

    fn config(
        &self,
        set: &[(String, String)],
        secrets: &mut BTreeMap<SecretName, String>,
    ) -> Result<ClawConfig, Error> {
        let key = match (&self.api_key_env, &self.api_key_file) {
            (Some(variable), _) => Some(input::secret_from_env("--api-key-env", variable)?),
            (None, Some(path)) => Some(input::secret_from_file("--api-key-file", path)?),
            (None, None) => None,
        };
        let mut config = ClawConfig::default();
        if let Some(provider) = self.provider {
            let mut model = Model {
                provider,
                name: self.model.clone(),
                api_key: None,
                base_url: None,
                fallbacks: Vec::new(),
            };
            if let Some(key) = key {
                let secret = SecretName::new(KEY_NAME)?;
                model.api_key = Some(SecretRef { secret: secret.clone() });
                secrets.insert(secret, key);
            }
            config.model = Some(model);
        }
        apply(config, set)
    }

    /// The server does not know which folder this command was typed in.
    fn import_path(&self) -> Result<Option<String>, Error> {
        let Some(path) = &self.import else { return Ok(None) };
        let absolute = std::path::absolute(path)
            .map_err(|e| Error::invalid("--import", format!("{} can't be used: {e}", path.display())))?;
        match absolute.to_str() {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(Error::invalid("--import", format!("{} is no UTF-8 path", path.display()))),
        }
    }
}

/// Applies settings in an order in which each is valid: `model.name` may stand before
/// `model.provider`, without which there is no model.
fn apply(mut config: ClawConfig, settings: &[(String, String)]) -> Result<ClawConfig, Error> {
    let mut left: Vec<_> = settings.iter().collect();
    while !left.is_empty() {
        let before = left.len();
        let mut refused = None;
        left.retain(|(key, value)| match config.with(key, value) {
            Ok(changed) => {
                config = changed;
                false
            }
            Err(error) => {
                refused.get_or_insert(error);
                true
            }
        });
        if let Some(error) = refused.filter(|_| left.len() == before) {
            return Err(error);
        }
    }
    Ok(config)
}

/// `clawfarm new`.
pub(crate) async fn run(app: &App, args: NewArgs) -> Outcome {
    let request = args.request()?;
    Box::pin(make(app, request, &args.options)).await
}

/// Makes an instance, and waits for what there is to wait for.
pub(super) async fn make(app: &App, mut request: CreateInstance, options: &NewOptions) -> Outcome {
    let client = app.client().await?;
    if let Some(template) = &options.template {
        request.variables =
            super::config::typed_variables(&client, template, None, &options.variables).await?;
    }
    let mut ctrl_c = wait::CtrlC::watch()?;
    let accepted = client.create(&request, None).await?;
    wait::warnings(app, &accepted);
    if options.detach {
        return begun(app, &accepted);
    }
    if !app.ui.json {
        app.ui.note(format_args!("Making {} ...", accepted.instance.id));
    }
    let accepted = if accepted.instance.setup.is_some() {
        set_up(app, &client, accepted, &mut ctrl_c).await?
    } else {
        wait::one(app, &client, accepted, &mut ctrl_c).await?
    };
    if app.ui.json {
        app.ui.document(&accepted)?;
    } else if request.claw_type == MACHINE {
        super::machine::card(app, &accepted)?;
    } else {
        card(app, &accepted)?;
    }
    Ok(OK)
}

/// Waits until it has booted, and runs the commands that set it up.
async fn set_up(
    app: &App,
    client: &Client,
    accepted: Accepted,
    ctrl_c: &mut wait::CtrlC,
) -> Result<Accepted, Failure> {
    let mut accepted = wait::until_booted(app, client, accepted, ctrl_c).await?;
    accepted.instance = super::setup::attend(app, client, accepted.instance, ctrl_c).await?;
    // Where a failed command was ignored, the operation ended with that.
    accepted.operation = client.operation(&accepted.operation.id).await?;
    Ok(accepted)
}

pub(super) fn begun(app: &App, accepted: &Accepted) -> Outcome {
    if app.ui.json {
        app.ui.document(accepted)?;
    } else {
        let id = &accepted.instance.id;
        app.ui.line(id)?;
        app.ui.note(format_args!(
            "It is being made ({}). Look at it with: clawfarm status {id}",
            accepted.operation.id
        ));
    }
    Ok(OK)
}

/// What it is, where it is, and what to type next.
pub(super) fn card(app: &App, accepted: &Accepted) -> Result<(), Failure> {
    let (ui, instance) = (&app.ui, &accepted.instance);
    let id = &instance.id;
    let operation = &accepted.operation;
    let took = operation.ended_at.unwrap_or(operation.updated_at).since(operation.created_at);
    ui.line(format_args!("{} is {} ({})", ui.out.bold(id), ui.out.phase(instance.phase), after(took)))?;
    if let Some(gateway) = &instance.gateway {
        ui.line(format_args!("  gateway    {}", clean_line(gateway)))?;
    }
    if let Some(vm) = &instance.vm {
        super::machine::described(ui, vm)?;
    }
    ui.line(format_args!("  dashboard  clawfarm open {id}"))?;
    let model = instance.config.model.as_ref();
    if model.is_some_and(|m| m.provider == Provider::Demo) {
        ui.line("  model      demo: answers without a key, thinks nothing; see --provider")?;
    }
    ui.line("\nNext:")?;
    ui.line(format_args!("  clawfarm send {id} \"hello\""))?;
    ui.line(format_args!("  clawfarm shell {id}"))?;
    ui.line(format_args!("  clawfarm logs -f {id}"))?;
    ui.line(format_args!("  clawfarm rm {id}"))
}

fn after(took: Duration) -> String {
    format!("after {}", duration(took))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_applied_whatever_their_order() {
        let set = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            apply(ClawConfig::default(), &pairs)
        };
        let config =
            set(&[("model.name", "m"), ("model.provider", "openai"), ("env.A", "1")]).expect("valid");
        assert_eq!(config.model.and_then(|m| m.name).as_deref(), Some("m"));
        let error = set(&[("env.A", "1"), ("modle.name", "m")]).expect_err("no such key");
        assert_eq!(error.field_name(), Some("config.modle.name"));
        assert!(set(&[]).is_ok());
    }
}
