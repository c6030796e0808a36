//! Preparing an instance and making its launch: the place from the runtime, the contents
//! from the adapter.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clawfarm_adapters::{ClawAdapter, RenderInput, Rendered};
use clawfarm_model::config::ClawConfig;
use clawfarm_model::launch::{Launch, Placement};
use clawfarm_model::secret::SecretName;
use clawfarm_model::{Code, Context, Error, Instance, InstanceSpec, Phase, Result};
use clawfarm_runtime::{Files, Progress, Runtime};
use clawfarm_store::Given;
use secrecy::{ExposeSecret, SecretString};

use crate::core::Core;
use crate::images::mark_of;
use crate::instances::is_bare;
use crate::keys::{GATEWAY_TOKEN, MODEL_KEY};
use crate::secrets::{nearest, seen_by_instance};
use crate::sharing::held::Hold;

/// The largest of a claw's configuration files that is read back, in bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;

impl Core {
    /// Prepares the place and renders what to run there.
    pub(crate) async fn launch(
        &self,
        hold: &Hold,
        instance: &Instance,
        progress: &dyn Progress,
    ) -> Result<(Launch, Vec<clawfarm_adapters::Warning>)> {
        let rendered = self.rendered(hold, instance, progress).await?;
        self.keep_routes(instance, &rendered.inbox).await?;
        Ok((rendered.launch, rendered.warnings))
    }

    /// The same, to look at: nothing is kept of it. One that was started has its place already.
    pub(crate) async fn rendered(
        &self,
        hold: &Hold,
        instance: &Instance,
        progress: &dyn Progress,
    ) -> Result<Rendered> {
        self.rendering(hold, instance, &instance.spec, progress, |adapter, input| adapter.render(input)).await
    }

    /// What an adapter makes of an instance as it would be with another specification, in the
    /// place that it has.
    pub(crate) async fn rendering<T>(
        &self,
        hold: &Hold,
        instance: &Instance,
        spec: &InstanceSpec,
        progress: &dyn Progress,
        make: impl FnOnce(&dyn ClawAdapter, &RenderInput<'_>) -> Result<T> + Send,
    ) -> Result<T> {
        let runtime = self.acting(hold, &instance.spec.target)?;
        let adapter = self.adapter(instance)?;
        let place = runtime.ensure(&placement(self, instance)?, progress).await?;
        if let Some(files) = runtime.files() {
            self.import(instance, files, progress).await?;
        }
        self.take_in(instance, runtime.as_ref(), progress).await?;
        if !is_bare(spec) {
            progress.step("prepare", "writing its configuration", None, "");
        }
        let secrets = self.secret_values(instance, &spec.config).await?;
        let existing = match runtime.files() {
            Some(files) => existing(files, instance, &adapter.existing_files()).await?,
            None => BTreeMap::new(),
        };
        let gateway_token = self.key(instance, GATEWAY_TOKEN).await?;
        // With the id before it, so that the endpoint knows whose key it is to compare with.
        let model_key = self.key(instance, MODEL_KEY).await?;
        let model_key = SecretString::from(format!("{}.{}", instance.id, model_key.expose_secret()));
        clawfarm_failpoint::point!(Render);
        let address = self.doors.get().map(|doors| doors.address(&instance.id));
        let input = RenderInput {
            id: &instance.id,
            run: instance.intent.run,
            spec,
            place: &place,
            secrets: &secrets,
            gateway_token: &gateway_token,
            model_key: &model_key,
            public_url: address.as_deref(),
            existing: &existing,
        };
        make(adapter.as_ref(), &input)
    }

    /// Which values of its secrets an instance would be given now. To be asked before the values
    /// are: a value that comes in between is then given, and not known to be, and is given again.
    pub(super) async fn stamps(&self, instance: &Instance) -> Result<BTreeMap<SecretName, String>> {
        let system = Context::system("launch");
        let mut stamps = BTreeMap::new();
        for reference in instance.spec.config.secrets() {
            let name = &reference.secret;
            if stamps.contains_key(name) {
                continue;
            }
            let all = self.store.stamps_of(&system, name).await?;
            if let Some((_, stamp)) = nearest(&all, instance) {
                stamps.insert(name.clone(), stamp.to_owned());
            }
        }
        Ok(stamps)
    }

    /// Writes down which values the claw of this run is about to be given.
    pub(super) async fn note_given(
        &self,
        hold: &Hold,
        instance: &Instance,
        stamps: BTreeMap<SecretName, String>,
    ) -> Result<()> {
        if stamps.is_empty() {
            return Ok(());
        }
        let given = Given { run: instance.intent.run, stamps };
        self.store.note_given(&Context::system("launch"), hold.fence(), &instance.id, &given).await
    }

    /// Writes down which values a claw that is up is about to take up: those that nothing but a
    /// start brings to it stay what they are.
    pub(super) async fn note_taken_up(
        &self,
        hold: &Hold,
        instance: &Instance,
        stamps: BTreeMap<SecretName, String>,
    ) -> Result<()> {
        let system = Context::system("launch");
        let known = self.store.given(&system, &[&instance.id]).await?.remove(&instance.id);
        let run = instance.observed.as_ref().map_or(0, |it| it.run);
        let mut given = known.clone().filter(|it| it.run == run).unwrap_or(Given { run, ..Given::default() });
        let adapter = self.adapter(instance)?;
        let fields = instance.spec.config.secret_fields();
        for (name, stamp) in stamps {
            let mut of_it = fields.iter().filter(|(_, secret)| secret.secret == name);
            if !of_it.any(|(field, _)| adapter.secret_restarts(field)) {
                given.stamps.insert(name, stamp);
            }
        }
        if known.as_ref() == Some(&given) || given.stamps.is_empty() {
            return Ok(());
        }
        self.store.note_given(&system, hold.fence(), &instance.id, &given).await
    }

    async fn secret_values(
        &self,
        instance: &Instance,
        config: &ClawConfig,
    ) -> Result<BTreeMap<SecretName, SecretString>> {
        let system = Context::system("launch");
        let owners = seen_by_instance(instance);
        let mut values = BTreeMap::new();
        for reference in config.secrets() {
            let name = &reference.secret;
            let value = self.store.nearest_secret(&system, &owners, name).await?.ok_or_else(|| {
                Error::invalid("config", format!("it refers to the secret '{name}', which does not exist"))
                    .fix(format!("clawfarm secret set {name}, then: clawfarm start {}", instance.id))
            })?;
            values.insert(name.clone(), value.value);
        }
        Ok(values)
    }

    /// Copies the home in that the instance begins with, and takes the keys out of the copy.
    /// Only before its first start; each part finds what was done of it before.
    async fn import(&self, instance: &Instance, files: &dyn Files, progress: &dyn Progress) -> Result<()> {
        let Some(from) = &instance.spec.import else { return Ok(()) };
        if instance.observed.as_ref().is_some_and(|o| o.run > 0) {
            return Ok(());
        }
        match files.import(&instance.id, &PathBuf::from(from), progress).await {
            Ok(_) => {}
            Err(error) if error.code() == Code::Conflict => {}
            Err(error) => return Err(error),
        }
        let adapter = self.adapter(instance)?;
        let present = existing(files, instance, &adapter.import_files()).await?;
        for (path, contents) in adapter.import(&present)?.files {
            files.write(&instance.id, &path, &contents, false).await?;
        }
        Ok(())
    }
}

impl Core {
    /// Moves the unpacked archive in that the instance begins with, before its first start.
    async fn take_in(
        &self,
        instance: &Instance,
        runtime: &dyn Runtime,
        progress: &dyn Progress,
    ) -> Result<()> {
        let Some(name) = &instance.spec.restore else { return Ok(()) };
        if instance.observed.as_ref().is_some_and(|o| o.run > 0) {
            return Ok(());
        }
        let backup = crate::backups::offered(runtime)?;
        progress.step("restore", "putting its data in place", None, "");
        backup.take_in(&instance.id, &backup.room().join(name)).await
    }
}

/// Writes the files of a launch that are not there as they should be.
pub(crate) async fn write_files(files: &dyn Files, instance: &Instance, launch: &Launch) -> Result<()> {
    for file in &launch.files {
        let contents = file.contents.expose_secret().as_bytes();
        let present = files.read(&instance.id, &file.path, MAX_FILE).await?;
        if present.as_deref() != Some(contents) {
            files.write(&instance.id, &file.path, contents, file.read_only).await?;
        }
    }
    Ok(())
}

fn placement(core: &Core, instance: &Instance) -> Result<Placement> {
    let adapter = core.adapter(instance)?;
    let mut software = adapter.software(&instance.spec.version)?;
    let (image, mark) = match &instance.spec.image {
        Some(chosen) => {
            software.image = Some(chosen.whole());
            (None, Some(mark_of(adapter.as_ref())?))
        }
        None => (adapter.image_recipe(&instance.spec.version)?, None),
    };
    let port = instance.port.ok_or_else(|| Error::new(Code::Internal, "the instance has no port"))?;
    Ok(Placement {
        id: instance.id.clone(),
        tenant: instance.tenant.clone(),
        software,
        image,
        mark,
        vm: instance.spec.vm.as_deref().cloned(),
        resources: instance.spec.resources,
        port,
        dataset: instance.spec.dataset.clone(),
        record: record(instance),
    })
}

/// What the store knows of an instance, for the day the store is lost (`crate::recover` reads
/// it). References to secrets, never their values.
pub(crate) fn record(instance: &Instance) -> serde_json::Value {
    let mut record = serde_json::json!({
        "id": instance.id,
        "tenant": instance.tenant,
        "project": instance.project,
        "name": instance.name,
        "spec": instance.spec,
        "intent": instance.intent,
        "port": instance.port,
        "created_at": instance.created_at,
    });
    // Half-way, the data belongs to one version and what is to run is another.
    if let Some(update) = &instance.update {
        record["update"] = serde_json::json!(update);
    }
    // What was run must not be run again only because the store was lost.
    if let Some(setup) = &instance.setup {
        record["setup"] = serde_json::json!(setup);
    }
    // What was given up must not be tried again only because the store was lost.
    if instance.phase == Phase::Failed {
        record["failed"] = true.into();
    }
    record
}

async fn existing(
    files: &dyn Files,
    instance: &Instance,
    paths: &[PathBuf],
) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for path in paths {
        if let Some(contents) = files.read(&instance.id, path, MAX_FILE).await? {
            found.insert(path.clone(), contents);
        }
    }
    Ok(found)
}
