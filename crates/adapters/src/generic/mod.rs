//! Claw types that a user adds with a file and no code: a command, template files, a health path.
//! `docs/claw-types.md` has the format.

mod file;
mod fill;
mod launch;
mod places;
mod reload;
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

pub use file::MAX_BYTES;
use file::TypeFile;

use crate::shared::{chat, document, environment, http, probe};
use crate::{
    Access, Activity, ClawAdapter, Dial, Impact, Imported, KeyVariables, Probe, RenderInput, Rendered,
    SendEvent, Warning,
};

/// The adapter of a type that a file describes.
#[derive(Debug)]
pub struct Generic {
    claw_type: ClawType,
    file: TypeFile,
}

impl Generic {
    /// Reads a type's file.
    ///
    /// # Errors
    /// `InvalidInput`, naming the field of the file.
    pub fn parse(claw_type: ClawType, text: &str) -> Result<Self> {
        let file = TypeFile::parse(text)?;
        file.check()?;
        Ok(Self { claw_type, file })
    }

    /// What the file says of the type.
    #[must_use]
    pub fn about(&self) -> Option<&str> {
        self.file.about.as_deref()
    }
}

#[async_trait]
impl ClawAdapter for Generic {
    fn claw_type(&self) -> ClawType {
        self.claw_type.clone()
    }

    fn default_version(&self) -> &str {
        &self.file.version
    }

    fn default_resources(&self) -> Resources {
        let usual = Resources::default();
        Resources {
            cpus: self.file.cpus.unwrap_or(usual.cpus),
            memory_mib: self.file.memory_mib.unwrap_or(usual.memory_mib),
        }
    }

    fn software(&self, version: &str) -> Result<Software> {
        file::check_version(version)?;
        let folder = match &self.file.folder {
            Some(folder) => Some(PathBuf::from(launch::folder(folder, version)?)),
            None => None,
        };
        Ok(Software {
            claw_type: self.claw_type(),
            version: version.to_owned(),
            npm: None,
            pip: None,
            own: Some(OwnSoftware { folder, program: self.file.program(), built: None, install: None }),
            image: None,
        })
    }

    fn validate(&self, spec: &InstanceSpec) -> Result<Vec<Warning>> {
        validate::spec(self, spec)
    }

    fn existing_files(&self) -> Vec<PathBuf> {
        let own = self.file.files.iter().map(|file| PathBuf::from(&file.path));
        own.chain([PathBuf::from(document::SEED_FILE)]).collect()
    }

    fn render(&self, input: &RenderInput<'_>) -> Result<Rendered> {
        launch::render(self, input)
    }

    fn import_files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn import(&self, _files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<Imported> {
        Err(Error::new(Code::Unsupported, format!("homes of {} can't be taken in", self.claw_type))
            .field("import")
            .fix("make an instance without one, and copy files into it with 'clawfarm exec'"))
    }

    async fn probe_startup(&self, dial: &dyn Dial) -> Probe {
        match &self.file.health {
            Some(path) => probe::success(dial, path).await,
            None if self.file.listens => probe::connection(dial).await,
            None => Probe::Passed,
        }
    }

    async fn probe_liveness(&self, dial: &dyn Dial) -> Probe {
        self.probe_startup(dial).await
    }

    /// Nobody but the claw knows, and there is nothing that all would answer to.
    async fn activity(&self, _access: &Access<'_>) -> Result<Activity> {
        Ok(Activity::Idle)
    }

    fn impact(&self, before: &InstanceSpec, after: &InstanceSpec) -> Impact {
        reload::impact(&self.file, before, after)
    }

    fn keeps_awake(&self, spec: &InstanceSpec, _public_url: Option<&str>) -> Vec<String> {
        crate::shared::channels::keep_awake(spec)
    }

    /// Its own end, on SIGTERM, is its drain.
    async fn drain(&self, _access: &Access<'_>, _wait: Duration) -> Result<Activity> {
        Ok(Activity::Idle)
    }

    async fn undrain(&self, _access: &Access<'_>) -> Result<()> {
        Ok(())
    }

    async fn send(
        &self,
        access: &Access<'_>,
        message: &str,
    ) -> Result<BoxStream<'static, Result<SendEvent>>> {
        let Some(endpoint) = &self.file.chat else {
            return Err(Error::new(
                Code::Unsupported,
                format!("{} says of no address at which it takes messages", self.claw_type),
            )
            .fix("talk to it in its own way, or give its type a [chat] with the path of an endpoint as OpenAI has it"));
        };
        let request = |body: &serde_json::Value| {
            http::request(::http::Method::POST, &endpoint.path, Some(access.token), Some(body))
        };
        let model = endpoint.model.as_deref().unwrap_or(self.claw_type.as_str());
        chat::send(access.dial, model, message, request, |_, _| None).await
    }

    fn stop_grace(&self) -> Duration {
        Duration::from_secs(u64::from(self.file.stop_grace_secs))
    }

    fn archived(&self, files: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<(PathBuf, Vec<u8>)> {
        document::archived(files)
    }

    fn key_variables(&self) -> KeyVariables {
        environment::key_variables()
    }

    fn identity(&self, _token: &SecretString) -> Identity {
        Identity::Token
    }

    fn path_rules(&self) -> PathRules {
        PathRules { closed: self.file.closed.clone(), inbox: Vec::new() }
    }
}
