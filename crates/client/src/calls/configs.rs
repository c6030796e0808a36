//! `/configs`, `/rollouts`, and what instances are configured with.

use std::time::Duration;

use clawfarm_api::{
    ChangeConfig, ChangeConfigs, ConfigChanged, ConfigChecked, ConfigDiff, ConfigList, ConfigView,
    ConfigsChanged, DiffQuery, DriftView, ExplainView, MemberList, MembersQuery, NewConfig, PlanRequest,
    PlanView, PublishRequest, RevisionList, RevisionsQuery, RollbackRequest, RolloutList, RolloutsQuery,
    SaveConfig,
};
use clawfarm_config::{Revision, Rollout};
use clawfarm_model::{ConfigName, Result};
use http::Method;

use crate::Client;
use crate::http::Call;

/// A plan or a change looks at each instance of a fleet.
const FLEET_LIMIT: Duration = Duration::from_secs(300);

/// What can be done to a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// Begin with no more instances.
    Pause,
    /// Go on after a pause.
    Resume,
    /// End it where it is.
    Abort,
    /// Go on to the next step at once.
    Promote,
    /// Give those that were changed back what they had.
    Rollback,
}

impl Steer {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
            Self::Promote => "promote",
            Self::Rollback => "rollback",
        }
    }
}

impl Client {
    /// The configurations that there are.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn configs(&self) -> Result<ConfigList> {
        self.call(Call::get(&["configs"])).await
    }

    /// One of them, with its newest revision.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn config(&self, name: &ConfigName) -> Result<ConfigView> {
        self.call(Call::get(&["configs", name.as_str()])).await
    }

    /// Makes one.
    ///
    /// # Errors
    /// `Conflict` when there is one of this name; otherwise see [`Client`].
    pub async fn create_config(&self, new: &NewConfig) -> Result<ConfigView> {
        self.call(Call::post(&["configs"]).json(new)?).await
    }

    /// Saves its next revision, or its first; only while its version is `expect`, when that is
    /// given.
    ///
    /// # Errors
    /// `PreconditionFailed` when it was saved in the meantime; otherwise see [`Client`].
    pub async fn save_config(
        &self,
        name: &ConfigName,
        save: &SaveConfig,
        expect: Option<i64>,
    ) -> Result<ConfigView> {
        let mut call = Call::new(Method::PUT, &["configs", name.as_str()]).json(save)?;
        if let Some(version) = expect {
            call = call.header("if-match", &format!("\"{version}\""))?;
        }
        self.call(call).await
    }

    /// What saving it would come to. Saves nothing.
    ///
    /// # Errors
    /// What is wrong with it; otherwise see [`Client`].
    pub async fn check_config(&self, name: &ConfigName, save: &SaveConfig) -> Result<ConfigChecked> {
        self.call(Call::post(&["configs", name.as_str(), "check"]).json(save)?).await
    }

    /// Removes one that no instance goes by.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn remove_config(&self, name: &ConfigName) -> Result<()> {
        self.done(Call::new(Method::DELETE, &["configs", name.as_str()])).await
    }

    /// Its revisions, the newest first.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn revisions(&self, name: &ConfigName, query: RevisionsQuery) -> Result<RevisionList> {
        self.call(Call::get(&["configs", name.as_str(), "revisions"]).query(&query)?).await
    }

    /// One of them.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn revision(&self, name: &ConfigName, number: i64) -> Result<Revision> {
        self.call(Call::get(&["configs", name.as_str(), "revisions", &number.to_string()])).await
    }

    /// What leads from one revision to another.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn config_diff(&self, name: &ConfigName, query: DiffQuery) -> Result<ConfigDiff> {
        self.call(Call::get(&["configs", name.as_str(), "diff"]).query(&query)?).await
    }

    /// What publishing would do.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn plan(&self, name: &ConfigName, request: &PlanRequest) -> Result<PlanView> {
        self.call(Call::post(&["configs", name.as_str(), "plan"]).json(request)?.limit(FLEET_LIMIT)).await
    }

    /// Begins to bring a revision to its instances.
    ///
    /// # Errors
    /// `Conflict` while another rollout of it is under way; otherwise see [`Client`].
    pub async fn publish(&self, name: &ConfigName, request: &PublishRequest) -> Result<Rollout> {
        self.call(Call::post(&["configs", name.as_str(), "publish"]).json(request)?.limit(FLEET_LIMIT)).await
    }

    /// Goes back to a revision.
    ///
    /// # Errors
    /// `Conflict` when there is nothing to go back to; otherwise see [`Client`].
    pub async fn roll_back(&self, name: &ConfigName, request: &RollbackRequest) -> Result<Rollout> {
        let call = Call::post(&["configs", name.as_str(), "rollback"]).json(request)?;
        self.call(call.limit(FLEET_LIMIT)).await
    }

    /// Rollouts, the newest first.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn rollouts(&self, query: &RolloutsQuery) -> Result<RolloutList> {
        self.call(Call::get(&["rollouts"]).query(query)?).await
    }

    /// One rollout.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn rollout(&self, id: &str) -> Result<Rollout> {
        self.call(Call::get(&["rollouts", id])).await
    }

    /// A page of its instances.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn rollout_members(&self, id: &str, query: MembersQuery) -> Result<MemberList> {
        self.call(Call::get(&["rollouts", id, "instances"]).query(&query)?).await
    }

    /// Halts it, lets it go on, or ends it.
    ///
    /// # Errors
    /// `Conflict` when that can't be at the moment; otherwise see [`Client`].
    pub async fn steer_rollout(&self, id: &str, what: Steer) -> Result<Rollout> {
        self.call(Call::post(&["rollouts", id, what.as_str()])).await
    }

    /// An instance's configuration, and where each value came from.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn explain(&self, id: &str) -> Result<ExplainView> {
        self.call(Call::get(&["instances", id, "config"])).await
    }

    /// Changes what an instance says itself, or what it is bound to; only while its
    /// `resource_version` is `expect`, when that is given.
    ///
    /// # Errors
    /// `PreconditionFailed` when it was changed in the meantime; otherwise see [`Client`].
    pub async fn configure(
        &self,
        id: &str,
        change: &ChangeConfig,
        expect: Option<i64>,
    ) -> Result<ConfigChanged> {
        let mut call = Call::new(Method::PATCH, &["instances", id, "config"]).json(change)?;
        if let Some(version) = expect {
            call = call.header("if-match", &format!("\"{version}\""))?;
        }
        self.call(call).await
    }

    /// Changes what many instances say themselves, or tells what that would do.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn configure_many(&self, change: &ChangeConfigs) -> Result<ConfigsChanged> {
        self.call(Call::new(Method::PATCH, &["instances"]).json(change)?.limit(FLEET_LIMIT)).await
    }

    /// How an instance differs from what it should be.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn drift(&self, id: &str) -> Result<DriftView> {
        self.call(Call::get(&["instances", id, "drift"])).await
    }

    /// Has that put right.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn mend_drift(&self, id: &str) -> Result<DriftView> {
        self.call(Call::post(&["instances", id, "drift"])).await
    }
}
