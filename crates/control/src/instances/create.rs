//! Making an instance.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clawfarm_adapters::{ClawAdapter, Warning};
use clawfarm_config::{Origin, check_keys};
use clawfarm_model::config::{ClawConfig, ConfigMode, Model, Provider};
use clawfarm_model::event::NewEvent;
use clawfarm_model::image::ImageReference;
use clawfarm_model::instance::{Intent, RestartPolicy};
use clawfarm_model::name::{ClawType, InstanceName, ProjectName, TargetName};
use clawfarm_model::resources::Resources;
use clawfarm_model::secret::SecretName;
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::vm::VmSpec;
use clawfarm_model::{
    Action, Cause, ClawId, Code, ConfigName, Context, Desired, Error, Health, Instance, InstanceSpec,
    Layered, OperationKind, Phase, Resource, Result, RuntimePolicy, Timestamp, Urgency, authorize,
};
use clawfarm_runtime::{Runtime, WantedSize};
use clawfarm_store::{Created, Idempotency, NewOperation};
use secrecy::SecretString;

use super::vm;
use crate::admission::Reservation;
use crate::configs::{Whose, document, merge, seeded_with_locks};
use crate::core::Core;
use crate::keys::first_keys;
use crate::secrets::{check_name, check_value, seen_by};
use crate::{Accepted, Control};

/// How often another id or port is drawn when somebody else had the same idea.
const DRAWS: u32 = 20;
/// How many ports are looked up one by one before the list of all that are held is read: with
/// two of three held, 20 looks find a free one in all but 3 of 10,000 cases.
const PORT_LOOKS: u32 = 20;
/// The largest configuration file of a home that is taken in, in bytes.
const MAX_IMPORTED_FILE: u64 = 4 * 1024 * 1024;

/// What a new instance should be. What is `None` is chosen.
#[derive(Clone, Debug, Default)]
pub struct NewInstance {
    /// The claw type.
    pub claw_type: String,
    /// Its name; the claw type's when absent.
    pub name: Option<InstanceName>,
    /// The claw's version.
    pub version: Option<String>,
    /// How it runs.
    pub runtime: Option<RuntimeKind>,
    /// Where it runs.
    pub target: Option<TargetName>,
    /// The image it runs, instead of clawfarm's own.
    pub image: Option<ImageReference>,
    /// What its virtual machine is.
    pub vm: Option<VmSpec>,
    /// A client runs its setup commands, not the server.
    pub attended: bool,
    /// Processor cores.
    pub cpus: Option<f64>,
    /// Memory, in MiB.
    pub memory_mib: Option<u32>,
    /// Its gateway's port.
    pub port: Option<u16>,
    /// Its configuration; the demo model when it names none.
    pub config: ClawConfig,
    /// The same, but only a part: it goes into what its template and the other layers say.
    pub overrides: serde_json::Map<String, serde_json::Value>,
    /// The template that it is bound to.
    pub template: Option<ConfigName>,
    /// Values for the template's variables.
    pub variables: BTreeMap<String, serde_json::Value>,
    /// Values of secrets of its own.
    pub secrets: BTreeMap<SecretName, SecretString>,
    /// Who has the last word on its configuration file.
    pub config_mode: Option<ConfigMode>,
    /// What happens when it ends by itself.
    pub restart: Option<RestartPolicy>,
    /// How long its start may take, in seconds.
    pub ready_timeout_secs: Option<u32>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it sleeps, as far as that is said for it.
    pub policy: RuntimePolicy,
    /// A dataset to begin with.
    pub dataset: Option<ClawId>,
    /// An existing home to begin as a copy of.
    pub import: Option<PathBuf>,
    /// Make it even when there is no memory for it.
    pub overcommit: bool,
}

/// What a new instance says of its layers.
struct Binding {
    template: Option<ConfigName>,
    variables: BTreeMap<String, serde_json::Value>,
    overrides: serde_json::Map<String, serde_json::Value>,
}

/// A request that was checked, with everything chosen but id and port.
pub(crate) struct Checked {
    pub(crate) name: InstanceName,
    pub(crate) spec: InstanceSpec,
    /// Whether a client runs its setup commands.
    pub(crate) attended: bool,
    pub(crate) layers: Layered,
    pub(crate) secrets: BTreeMap<SecretName, SecretString>,
    pub(crate) warnings: Vec<Warning>,
}

impl Control {
    /// Accepts a new instance, to be made and started.
    ///
    /// # Errors
    /// `InvalidInput` naming the field; `Conflict` when the wanted port is taken or the
    /// idempotency key was used for something else; `Insufficient`, with figures, when the
    /// target's memory would not hold it; `Unavailable` when the home's disk is full.
    pub async fn create(
        &self,
        context: &Context,
        new: NewInstance,
        idempotency: Option<Idempotency>,
    ) -> Result<Accepted> {
        let core = &self.core;
        if let Some(key) = &idempotency
            && let Some((instance, operation)) = core.store.replayed(context, key).await?
        {
            return self.again(context, &instance, &operation).await;
        }
        core.check_disk().await?;
        let overcommit = new.overcommit;
        let kind = new.runtime.or_else(|| vm::by_image(&new));
        let (target, runtime) = core.choose_target(kind, new.target.as_ref())?;
        let checked = core.check_new(context, new, target.runtime, &target.name).await?;
        let wanted = checked.spec.resources.memory_mib;
        let reserved =
            if overcommit { None } else { Some(core.admit(&target.name, runtime.as_ref(), wanted).await?) };
        core.insert(context, checked, runtime.as_ref(), idempotency, reserved.as_ref()).await
    }

    /// What [`Self::create`] would say: whether all that can be known before is as it must be. Makes
    /// nothing, and holds nothing back for it.
    ///
    /// # Errors
    /// As for [`Self::create`].
    pub async fn would_create(&self, context: &Context, new: NewInstance) -> Result<Vec<Warning>> {
        let core = &self.core;
        core.check_disk().await?;
        let overcommit = new.overcommit;
        let kind = new.runtime.or_else(|| vm::by_image(&new));
        let (target, runtime) = core.choose_target(kind, new.target.as_ref())?;
        let checked = core.check_new(context, new, target.runtime, &target.name).await?;
        let tenant = context.tenant()?.clone();
        let resource = Resource::new(tenant, "instance", checked.name.as_str());
        authorize(context, Action::InstanceCreate, &resource)?;
        if !overcommit {
            core.admit(&target.name, runtime.as_ref(), checked.spec.resources.memory_mib).await?;
        }
        if let Some(port) = checked.spec.port
            && !core.store.port_is_free(&Context::system("ports"), &target.name, port).await?
        {
            return Err(port_is_taken(port));
        }
        Ok(checked.warnings)
    }

    /// The answer to a request that was answered before.
    async fn again(&self, context: &Context, instance: &ClawId, operation: &str) -> Result<Accepted> {
        Ok(Accepted {
            instance: self.core.store.instance(context, instance).await?,
            operation: self.operation(context, operation).await?,
            warnings: Vec::new(),
            replayed: true,
        })
    }
}

impl Core {
    async fn check_new(
        &self,
        context: &Context,
        new: NewInstance,
        runtime: RuntimeKind,
        target: &TargetName,
    ) -> Result<Checked> {
        let claw_type = ClawType::new(new.claw_type)?;
        let adapter = self.adapters.get(&claw_type)?;
        let version = match (new.version, &new.image) {
            (Some(version), _) => version,
            (None, Some(image)) => version_of(adapter.as_ref(), image),
            (None, None) => adapter.default_version().to_owned(),
        };
        adapter.software(&version)?;
        if new.image.is_some() {
            if runtime != RuntimeKind::Docker {
                return Err(Error::invalid("image", format!("the runtime '{runtime}' runs no images"))
                    .fix("use --runtime docker, or leave the image out"));
            }
            crate::images::mark_of(adapter.as_ref())?;
        }
        let mut secrets = new.secrets;
        for (name, value) in &secrets {
            check_name(name)?;
            check_value(value).map_err(|e| {
                Error::invalid(format!("secrets.{name}"), e.message().to_owned())
                    .fix(e.fix_text().unwrap_or_default().to_owned())
            })?;
        }
        let mut config = new.config;
        let mut warnings = Vec::new();
        if let Some(from) = &new.import {
            import_home(adapter.as_ref(), from, &mut config, &mut secrets, &mut warnings).await?;
        }
        let demo = new.import.is_none() && new.dataset.is_none();
        let tenant = context.tenant()?;
        let binding = Binding { template: new.template, variables: new.variables, overrides: new.overrides };
        let whose = Whose { tenant, claw_type: &claw_type, demo };
        let (layers, config, locked) = self.first_layers(&whose, binding, config).await?;
        let wanted = WantedSize { cpus: new.cpus, memory_mib: new.memory_mib };
        let wanted = self.size_of_vm(new.vm.as_ref(), &claw_type, target, wanted).await?;
        let resources = resources(adapter.as_ref(), runtime, wanted.cpus, wanted.memory_mib, &mut warnings);
        let name = match new.name {
            Some(name) => name,
            None => vm::name(new.vm.as_ref(), &claw_type)?,
        };
        let ready_timeout = vm::ready_timeout_secs(new.vm.is_some());
        let spec = InstanceSpec {
            claw_type,
            version,
            runtime,
            target: target.clone(),
            image: new.image,
            vm: new.vm.map(Box::new),
            resources,
            port: new.port,
            config: Box::new(config),
            config_mode: new.config_mode.unwrap_or_default(),
            restart: new.restart.unwrap_or_default(),
            import: new.import.map(|p| p.to_string_lossy().into_owned()),
            dataset: new.dataset,
            restore: None,
            overcommit: new.overcommit,
            ready_timeout_secs: new.ready_timeout_secs.unwrap_or(ready_timeout),
            labels: new.labels,
            policy: new.policy,
        };
        spec.check()?;
        check_labels(&spec.labels)?;
        self.check_vm(context, &spec).await?;
        if spec.import.is_some() && spec.config_mode == ConfigMode::Managed {
            warnings.push(Warning {
                field: "config_mode".into(),
                message: "managed: the imported configuration is replaced by clawfarm's own, with the demo model unless --provider says otherwise; give seeded to keep it".into(),
            });
        }
        if locked && spec.config_mode == ConfigMode::Seeded {
            warnings.push(seeded_with_locks());
        }
        clawfarm_failpoint::point!(Validate);
        warnings.extend(adapter.validate(&spec)?);
        let owners = seen_by(context.tenant()?, &ProjectName::default_project(), None);
        self.check_secrets(context, &spec.config, &owners, |name| secrets.contains_key(name)).await?;
        if let Some(dataset) = &spec.dataset {
            self.check_dataset(context, dataset, &spec).await?;
        }
        Ok(Checked { name, spec, attended: new.attended, layers, secrets, warnings })
    }

    /// What a new instance's configuration is made of, what comes of it, and whether a layer has
    /// locked anything.
    async fn first_layers(
        &self,
        whose: &Whose<'_>,
        binding: Binding,
        mut config: ClawConfig,
    ) -> Result<(Layered, ClawConfig, bool)> {
        let project = ProjectName::default_project();
        if binding.template.is_none() && !binding.variables.is_empty() {
            return Err(Error::invalid("variables", "there is no template that they are for")
                .fix("name one with --template, or set the values with --set"));
        }
        let applied = self.published(whose.tenant, &project, binding.template.as_ref()).await?;
        for (name, value) in &binding.variables {
            check_keys(value, &format!("variables.{name}"))?;
        }
        let mut own = document(&config)?;
        merge(&mut own, &serde_json::Value::Object(binding.overrides.clone()));
        check_keys(&own, "config")?;
        let own = own.as_object().cloned().unwrap_or_default();
        let layered = Layered {
            own: Some(own.clone()),
            template: binding.template,
            variables: binding.variables,
            applied,
            revision: 0,
            rewrite: 0,
        };
        if layered.applied.is_empty() && binding.overrides.is_empty() {
            if whose.demo {
                default_model(&mut config);
            }
            return Ok((layered, config, false));
        }
        let made = self.make(whose, &layered, &own).await?;
        if let Some(refused) = made.effective.refused.iter().find(|it| it.by == Origin::Instance) {
            return Err(refused.error());
        }
        Ok((layered, made.config, made.locked))
    }

    async fn check_dataset(&self, context: &Context, id: &ClawId, spec: &InstanceSpec) -> Result<()> {
        let dataset = self.store.dataset(context, id).await?;
        if dataset.claw_type != spec.claw_type {
            return Err(Error::invalid(
                "dataset",
                format!("'{id}' holds the data of {}, not of {}", dataset.claw_type, spec.claw_type),
            )
            .fix(format!("make an instance of {}", dataset.claw_type)));
        }
        if dataset.target != spec.target {
            return Err(Error::invalid("dataset", format!("'{id}' is on target '{}'", dataset.target))
                .fix(format!("use --target {}", dataset.target)));
        }
        Ok(())
    }

    pub(crate) async fn insert(
        &self,
        context: &Context,
        checked: Checked,
        runtime: &dyn Runtime,
        idempotency: Option<Idempotency>,
        reserved: Option<&Reservation>,
    ) -> Result<Accepted> {
        let tenant = context.tenant()?.clone();
        let mut draws = 0;
        loop {
            let id = ClawId::generate(&checked.name);
            let grant = authorize(
                context,
                Action::InstanceCreate,
                &Resource::new(tenant.clone(), "instance", id.as_str()),
            )?;
            let port = match checked.spec.port {
                Some(port) => port,
                None => self.free_port(&checked.spec.target, runtime, BTreeSet::new()).await?,
            };
            let instance = first_state(id, &grant, &checked, port)?;
            let event = NewEvent::info(
                "created",
                format!("{}:{} on {}", checked.spec.claw_type, checked.spec.version, checked.spec.target),
            );
            let row = clawfarm_store::NewInstance {
                instance,
                operation: NewOperation::new(OperationKind::Create),
                events: vec![event],
                secrets: checked.secrets.clone().into_iter().chain(first_keys()?).collect(),
                idempotency: idempotency.clone(),
                room: reserved.and_then(Reservation::room),
            };
            draws += 1;
            let id = grant.resource().id.parse()?;
            match self.wishing(&id, Box::pin(self.store.create_instance(&grant, row))).await {
                Ok(Created::New { instance, operation }) => {
                    let warnings = checked.warnings;
                    self.published_meanwhile(&instance).await?;
                    return Ok(Accepted { instance: *instance, operation, warnings, replayed: false });
                }
                Ok(Created::Replayed { instance, operation }) => {
                    return Ok(Accepted {
                        instance: self.store.instance(context, &instance).await?,
                        operation: self.store.operation(context, &operation).await?,
                        warnings: Vec::new(),
                        replayed: true,
                    });
                }
                // Somebody was quicker with this id or port: another is drawn.
                Err(error)
                    if error.code() == Code::Conflict
                        && draws < DRAWS
                        && (error.field_name() == Some("id")
                            || error.field_name() == Some("port") && checked.spec.port.is_none()) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives an instance what a rollout ended with between its making and its being written: the
    /// rollout could not know of it.
    async fn published_meanwhile(&self, instance: &Instance) -> Result<()> {
        let layers = &instance.layers;
        let now = self.published(&instance.tenant, &instance.project, layers.template.as_ref()).await?;
        for (name, number) in now {
            if layers.applied.get(&name) != Some(&number) {
                self.give(&instance.id, &name, Some(number), None).await?;
            }
        }
        Ok(())
    }

    /// A port of the target that no instance has, and none of `taken`.
    pub(crate) async fn free_port(
        &self,
        target: &TargetName,
        runtime: &dyn Runtime,
        mut taken: BTreeSet<u16>,
    ) -> Result<u16> {
        let system = Context::system("ports");
        for _ in 0..PORT_LOOKS {
            let port = runtime.pick_port(&taken).await?;
            if self.store.port_is_free(&system, target, port).await? {
                return Ok(port);
            }
            taken.insert(port);
        }
        // Most ports are held: the whole list is worth reading now.
        taken.append(&mut self.store.ports_in_use(&system, target).await?);
        runtime.pick_port(&taken).await
    }
}

/// The version that an image has by its tag: what is in it is looked at before it runs.
fn version_of(adapter: &dyn ClawAdapter, image: &ImageReference) -> String {
    let tag = image.tag().map(|tag| tag.strip_prefix('v').unwrap_or(tag));
    let version = tag.filter(|tag| adapter.software(tag).is_ok());
    version.unwrap_or_else(|| adapter.default_version()).to_owned()
}

/// What a container is given when nothing is said, in MiB: document 003's figure.
const CONTAINER_MEMORY_MIB: u32 = 1024;

/// An instance's share of its machine: what was asked for, else what its type needs, else less
/// where that is the rule, with a word about it.
fn resources(
    adapter: &dyn ClawAdapter,
    runtime: RuntimeKind,
    cpus: Option<f64>,
    memory_mib: Option<u32>,
    warnings: &mut Vec<Warning>,
) -> Resources {
    let needs = adapter.default_resources();
    let usual = match runtime {
        RuntimeKind::Docker => needs.memory_mib.min(CONTAINER_MEMORY_MIB),
        _ => needs.memory_mib,
    };
    let given = Resources { cpus: cpus.unwrap_or(needs.cpus), memory_mib: memory_mib.unwrap_or(usual) };
    if runtime == RuntimeKind::Docker && given.memory_mib < needs.memory_mib {
        warnings.push(Warning {
            field: "resources.memory_mib".into(),
            message: format!(
                "the container may hold {} MiB; {} wants {}, and is ended when it takes more than it may: --memory-mib {}",
                given.memory_mib,
                adapter.claw_type(),
                needs.memory_mib,
                needs.memory_mib
            ),
        });
    }
    given
}

fn first_state(
    id: ClawId,
    grant: &clawfarm_model::Granted,
    checked: &Checked,
    port: u16,
) -> Result<Instance> {
    let now = Timestamp::now();
    Ok(Instance {
        id,
        tenant: grant.resource().tenant.clone(),
        project: ProjectName::default_project(),
        name: checked.name.clone(),
        spec: checked.spec.clone(),
        intent: Intent {
            desired: Desired::Running,
            generation: 1,
            run: 1,
            urgency: Urgency::Graceful,
            purge: false,
            cause: Cause::Asked,
        },
        phase: Phase::Creating,
        observed: None,
        observed_at: None,
        unknown_since: None,
        health: Health::Unknown,
        port: Some(port),
        restarts: 0,
        restarts_total: 0,
        attempts: 0,
        not_before: None,
        phase_since: now,
        last_error: None,
        layers: checked.layers.clone(),
        in_force: 0,
        update: None,
        setup: vm::setup(checked),
        version: 1,
        created_at: now,
        updated_at: now,
    })
}

/// Who answers when nothing is said: the demo model.
pub(super) fn default_model(config: &mut ClawConfig) {
    config.model.get_or_insert(Model {
        provider: Provider::Demo,
        name: None,
        api_key: None,
        base_url: None,
        fallbacks: Vec::new(),
    });
}

/// The error for a port that is asked for and that another instance has.
pub(super) fn port_is_taken(port: u16) -> Error {
    Error::new(Code::Conflict, format!("port {port} is another instance's"))
        .field("port")
        .fix("choose another port, or leave it out")
}

pub(crate) fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    let good =
        |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'));
    if labels.len() > 64 {
        return Err(
            Error::invalid("labels", format!("{} labels are too many", labels.len())).fix("give at most 64")
        );
    }
    for (key, value) in labels {
        if key.is_empty() || key.len() > 128 || value.len() > 128 || !good(key) || !good(value) {
            let shown: String = key.chars().take(40).flat_map(char::escape_default).collect();
            return Err(Error::invalid("labels", format!("the label '{shown}' can't be used"))
                .fix("use letters, digits, '-', '_', '.' and '/', at most 128 each for key and value"));
        }
    }
    Ok(())
}

/// Reads what a home's configuration makes of the new instance's; the home itself is copied
/// when the instance is prepared.
async fn import_home(
    adapter: &dyn ClawAdapter,
    from: &std::path::Path,
    config: &mut ClawConfig,
    secrets: &mut BTreeMap<SecretName, SecretString>,
    warnings: &mut Vec<Warning>,
) -> Result<()> {
    if !from.is_absolute() {
        return Err(Error::invalid("import", "the path is not absolute")
            .fix("give the whole path of the home folder"));
    }
    let meta = tokio::fs::symlink_metadata(from).await.map_err(|e| {
        Error::invalid("import", format!("'{}' can't be read: {e}", from.display()))
            .fix("give the path of an existing home, such as ~/.openclaw")
    })?;
    if !meta.is_dir() {
        return Err(Error::invalid("import", format!("'{}' is no folder", from.display()))
            .fix("give the path of an existing home, such as ~/.openclaw"));
    }
    let mut files = BTreeMap::new();
    for path in adapter.import_files() {
        let full = from.join(&path);
        match tokio::fs::metadata(&full).await {
            Ok(meta) if meta.is_file() && meta.len() <= MAX_IMPORTED_FILE => {
                let contents = tokio::fs::read(&full).await.map_err(|e| {
                    Error::invalid("import", format!("'{}' can't be read: {e}", full.display()))
                        .fix("let the server's user read it")
                })?;
                files.insert(path, contents);
            }
            Ok(meta) if meta.is_file() => {
                return Err(Error::invalid("import", format!("'{}' is larger than 4 MiB", full.display()))
                    .fix("give the path of a claw's home"));
            }
            _ => {}
        }
    }
    let imported = adapter.import(&files)?;
    // What was asked for on the command line goes before what the home says.
    if config.model.is_none() {
        config.model = imported.config.model;
    }
    for (name, value) in imported.config.env {
        config.env.entry(name).or_insert(value);
    }
    for (name, value) in imported.secrets {
        secrets.entry(name).or_insert(value);
    }
    warnings.extend(imported.warnings);
    Ok(())
}
