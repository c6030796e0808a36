//! What clawfarm knows of each claw type, behind one trait: one folder a type.
//!
//! An adapter turns unified config into the type's own files and start command, and speaks
//! the type's own protocol once it runs. It knows nothing of runtimes: it is told the
//! place it runs in ([`Place`]), and reaches the claw only through a [`Dial`] handed in.

mod check;
pub mod demo;
pub mod dial;
pub mod generic;
mod impact;
pub mod machine;
pub mod nanobot;
pub mod nanoclaw;
pub mod openclaw;
mod registry;
mod shared;
pub mod zeroclaw;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use clawfarm_model::edge::{Identity, PathRules};
use clawfarm_model::inbox::InboxRoute;
use clawfarm_model::instance::InstanceSpec;
use clawfarm_model::launch::{ImageMark, ImageRecipe, Launch, Place, Software, SourceRecipe};
use clawfarm_model::name::ClawType;
use clawfarm_model::resources::Resources;
use clawfarm_model::secret::SecretName;
use clawfarm_model::{ClawId, Result, Timestamp};
use futures::stream::BoxStream;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

pub use check::{ConfigCheck, ConfigFault, Judgement};
pub use dial::{Connection, Dial};
pub use impact::{Impact, InForce};
pub use registry::{Registry, type_file};

/// One claw type.
#[async_trait]
pub trait ClawAdapter: Send + Sync + 'static {
    /// Its name, as in `clawfarm new <claw type>`.
    fn claw_type(&self) -> ClawType;

    /// The version a new instance gets when none is asked for: the one that was tested.
    fn default_version(&self) -> &str;

    /// What an instance of it needs when nothing is said.
    fn default_resources(&self) -> Resources;

    /// What must be installed for this version.
    ///
    /// # Errors
    /// `InvalidInput` on `version` when the text can't be a version of this type.
    fn software(&self, version: &str) -> Result<Software>;

    /// How a container image of this version is made; `None` for a type that has no recipe.
    ///
    /// # Errors
    /// As for [`Self::software`].
    fn image_recipe(&self, version: &str) -> Result<Option<ImageRecipe>> {
        self.software(version).map(|_| None)
    }

    /// How a container image is made from the type's source; `None` for a type that has no
    /// recipe for that.
    fn source_recipe(&self) -> Option<SourceRecipe> {
        None
    }

    /// What a container image of this type has in it, whoever made it; `None` for a type that
    /// runs in none.
    fn image_mark(&self) -> Option<ImageMark> {
        None
    }

    /// Checks everything about a spec that needs no running claw. What the type can't
    /// express is an error or a warning, never dropped in silence.
    ///
    /// # Errors
    /// `InvalidInput`, naming the field.
    fn validate(&self, spec: &InstanceSpec) -> Result<Vec<Warning>>;

    /// The places of the type's own configuration (`native`) that decide about a place of the
    /// unified one, each by its keys: whoever may not touch the one may not touch those. The
    /// default is all of it, but for what is no setting of a type's: variables of the process,
    /// and the inbox.
    fn native_of(&self, place: &[String]) -> Vec<&'static [&'static str]> {
        match place.first().map(String::as_str) {
            Some("env" | "inbox" | "proxy") => Vec::new(),
            _ => vec![&[]],
        }
    }

    /// The files (relative to the state folder) whose present contents [`Self::render`]
    /// wants to see, to keep what the claw's user changed in them.
    fn existing_files(&self) -> Vec<PathBuf>;

    /// Generates the type's files, environment and start command for a place.
    ///
    /// # Errors
    /// `InvalidInput` when the spec can't be expressed.
    fn render(&self, input: &RenderInput<'_>) -> Result<Rendered>;

    /// The files (relative to the home) that [`Self::import`] wants to see, those that exist.
    fn import_files(&self) -> Vec<PathBuf>;

    /// Where an existing home of this type keeps its keys, so that an import can move them
    /// into secrets: reads the home's configuration and returns what to make of it.
    ///
    /// # Errors
    /// `InvalidInput` when it is no home of this type, or one of a version that this
    /// clawfarm can't take in.
    fn import(&self, files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<Imported>;

    /// Asks once whether it has started and takes requests.
    async fn probe_startup(&self, dial: &dyn Dial) -> Probe;

    /// Asks once whether it is alive.
    async fn probe_liveness(&self, dial: &dyn Dial) -> Probe;

    /// Asks what it is working on, changing nothing.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer.
    async fn activity(&self, access: &Access<'_>) -> Result<Activity>;

    /// Asks all that tells whether it may sleep, changing nothing that lasts: what it is working
    /// on, when it was last used, and when it has to be up next. Asking is no use of it. The
    /// default knows no more than [`Self::activity`].
    ///
    /// # Errors
    /// `Unavailable` when it does not answer.
    async fn rest(&self, access: &Access<'_>) -> Result<Rest> {
        Ok(Rest { activity: self.activity(access).await?, last_active: None, next_wake: None })
    }

    /// Asks when it has to be up next by itself: for its next cron job or heartbeat. `None` for a
    /// type that has no such thing, and for a claw that has nothing planned.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer.
    async fn next_wake(&self, access: &Access<'_>) -> Result<Option<Timestamp>> {
        let _ = access;
        Ok(None)
    }

    /// What a change of its specification asks of a claw that is up; of what differs beside the
    /// configuration only what its files, environment or start command have. The default knows
    /// of no setting that is taken up without a start.
    fn impact(&self, before: &InstanceSpec, after: &InstanceSpec) -> Impact {
        impact::of_any_type(before, after)
    }

    /// Whether a claw that is up has to be started again for a new value of a secret that this
    /// field of its configuration refers to (`model.api_key`, `env.GITHUB_TOKEN`). What the inbox
    /// checks is checked before a message reaches the claw, whatever its type.
    fn secret_restarts(&self, field: &str) -> bool {
        !field.starts_with("inbox.")
    }

    /// Asks whether it goes by what was rendered for it: `files` are those of
    /// [`Rendered::launch`], by their paths in the state folder. A claw takes a moment to take a
    /// change up (OpenClaw 0.3 to 4 s), and says until then that it has not.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer.
    async fn in_force(&self, access: &Access<'_>, files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<InForce> {
        let _ = (access, files);
        Ok(InForce::Unknown)
    }

    /// How a running claw of this type is asked whether it would take the configuration that is
    /// rendered of `input`, without being given it; `None` for a type that can't be asked.
    ///
    /// # Errors
    /// As for [`Self::render`].
    fn config_check(&self, input: &RenderInput<'_>) -> Result<Option<ConfigCheck>> {
        let _ = input;
        Ok(None)
    }

    /// What the standard output of a [`Self::config_check`] says of `spec`, which it asked about.
    fn judged(&self, spec: &InstanceSpec, output: &[u8]) -> Judgement {
        let _ = (spec, output);
        Judgement::Unclear
    }

    /// What of its specification keeps it from sleeping by itself, each in words that go on after
    /// "it stays up: ": a channel that only it can fetch messages from. Empty when nothing does.
    /// `public_url` is where services reach it, when there is an edge.
    fn keeps_awake(&self, spec: &InstanceSpec, public_url: Option<&str>) -> Vec<String> {
        let _ = (spec, public_url);
        Vec::new()
    }

    /// Asks it to take no further work and to finish what it has. With `wait` zero a busy
    /// claw answers at once with what it works on, and goes on working.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer.
    async fn drain(&self, access: &Access<'_>, wait: Duration) -> Result<Activity>;

    /// Takes a drain back: after a thaw, or when the stop was called off.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer.
    async fn undrain(&self, access: &Access<'_>) -> Result<()>;

    /// Sends a message of its user, and streams the answer.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer.
    async fn send(&self, access: &Access<'_>, message: &str)
    -> Result<BoxStream<'static, Result<SendEvent>>>;

    /// How long it may take to end after SIGTERM: its own drain, and a reserve.
    fn stop_grace(&self) -> Duration;

    /// Whether this end says that starting it again as it is can't help (OpenClaw's exit code
    /// 78: its configuration was refused); then with what to tell its owner.
    fn final_exit(&self, exit: &clawfarm_model::observed::Exit) -> Option<clawfarm_model::Error> {
        let _ = exit;
        None
    }

    /// The file of the claw's package that tells what [`Self::check_update`] has to know.
    fn software_file(&self) -> PathBuf {
        PathBuf::from("package.json")
    }

    /// Whether data that one version wrote can be given to another; each by its
    /// [`Self::software_file`], where it has one.
    ///
    /// # Errors
    /// `Unsupported` on `version` when the other version can't read it.
    fn check_update(&self, from: &SoftwareFile<'_>, to: &SoftwareFile<'_>) -> Result<()> {
        let _ = (from, to);
        Ok(())
    }

    /// The versions of the schemas of data that a version writes, by what its
    /// [`Self::software_file`] says; empty where that is not known.
    fn data_schemas(&self, file: &SoftwareFile<'_>) -> BTreeMap<String, u64> {
        let _ = file;
        BTreeMap::new()
    }

    /// What of [`Self::existing_files`] must be otherwise in an archive: without the keys and the
    /// values of secrets that a launch has put there, which the next one writes anew.
    fn archived(&self, files: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<(PathBuf, Vec<u8>)> {
        let _ = files;
        Vec::new()
    }

    /// Where its data says that a process has it open, when it is copied while it is up: SQLite
    /// databases (relative to the state folder), each with the tables that hold nothing else.
    fn open_marks(&self) -> Vec<(PathBuf, &'static [&'static str])> {
        Vec::new()
    }

    /// The variables of a claw's environment that its launch has clawfarm's own keys in.
    fn key_variables(&self) -> KeyVariables;

    /// How a running claw of this type is told who a request is from that came in by the edge,
    /// given its gateway token.
    fn identity(&self, token: &SecretString) -> Identity;

    /// The paths of its gateway, as the edge treats them, whatever its configuration.
    fn path_rules(&self) -> PathRules;
}

/// A version, and what its package says of itself.
#[derive(Clone, Copy, Debug)]
pub struct SoftwareFile<'a> {
    /// The version.
    pub version: &'a str,
    /// The contents of [`ClawAdapter::software_file`], where the package has it.
    pub contents: Option<&'a [u8]>,
}

/// Where a launch has the keys that clawfarm made for its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyVariables {
    /// The variable with [`RenderInput::gateway_token`].
    pub gateway_token: &'static str,
    /// The variable with [`RenderInput::model_key`].
    pub model_key: &'static str,
}

/// What [`ClawAdapter::render`] gets.
#[derive(Clone, Copy)]
pub struct RenderInput<'a> {
    /// Which instance.
    pub id: &'a ClawId,
    /// For which [`clawfarm_model::Intent::run`].
    pub run: i64,
    /// What it should be.
    pub spec: &'a InstanceSpec,
    /// Where it will run.
    pub place: &'a Place,
    /// The values of the secrets that its config refers to.
    pub secrets: &'a BTreeMap<SecretName, SecretString>,
    /// The token its gateway must ask for.
    pub gateway_token: &'a SecretString,
    /// The key with which it may use clawfarm's own model endpoint.
    pub model_key: &'a SecretString,
    /// Where services outside reach it, when there is an edge: `https://host/`.
    pub public_url: Option<&'a str>,
    /// The present contents of [`ClawAdapter::existing_files`], those that exist.
    pub existing: &'a BTreeMap<PathBuf, Vec<u8>>,
}

/// What [`ClawAdapter::render`] answers.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// What to run.
    pub launch: Launch,
    /// What was changed or set aside on the way, for an event: a broken file of the claw's
    /// user that was kept beside, a setting that would not work in this place.
    pub warnings: Vec<Warning>,
    /// Where services leave messages for it, as its configuration has it now.
    pub inbox: Vec<InboxRoute>,
}

/// How to reach one running claw.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// Opens a connection to its gateway.
    pub dial: &'a dyn Dial,
    /// Its gateway token.
    pub token: &'a SecretString,
}

/// Something that was accepted, but is worth a word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The field it is about.
    pub field: String,
    /// What to know.
    pub message: String,
}

/// What an existing home becomes.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Its configuration in unified terms, with references in place of keys.
    pub config: clawfarm_model::config::ClawConfig,
    /// The keys that were found, by the names that `config` (or the rewritten files) refers to.
    pub secrets: BTreeMap<SecretName, SecretString>,
    /// Files to put in place of the imported ones, without the keys.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// What was left out or changed, for its owner to know.
    pub warnings: Vec<Warning>,
}

/// The answer to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Yes.
    Passed,
    /// It answers: not yet, or not any more; with what it said.
    Failed(String),
    /// It does not answer; with why.
    NoAnswer(String),
}

/// Whether a claw is working.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It has nothing under way (after a drain: and takes nothing new).
    Idle,
    /// It works; in its own words, on what.
    Busy(Vec<String>),
}

/// What a claw says of itself that tells whether it may sleep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Whether it is working.
    pub activity: Activity,
    /// When one of its sessions was last used, where it says.
    pub last_active: Option<Timestamp>,
    /// When its next cron job or heartbeat is due, where it says.
    pub next_wake: Option<Timestamp>,
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SendEvent {
    /// Further text.
    Text {
        /// The text.
        text: String,
    },
    /// The answer is complete.
    Done {
        /// Tokens that went into the model, where the claw says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input_tokens: Option<u64>,
        /// Tokens that came out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output_tokens: Option<u64>,
    },
}
