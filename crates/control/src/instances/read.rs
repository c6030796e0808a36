//! Looking at an instance: itself, its use, its output, commands inside it.

use clawfarm_model::resources::Usage;
use clawfarm_model::{Action, ClawId, Code, Context, Error, Instance, Phase, Result};
use clawfarm_runtime::{ExecRequest, ExecSession, LogQuery, LogStream};
use clawfarm_store::{InstanceFilter, Outcome, Page, PageRequest};

use crate::Control;
use crate::core::may;
use crate::sleep::InUse;

impl Control {
    /// An instance, by an id, a unique name or a unique prefix.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput`, with the candidates, when it fits several.
    pub async fn get(&self, context: &Context, id: &str) -> Result<Instance> {
        self.core.find(context, id).await
    }

    /// The id of an instance, by the same.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn id_of(&self, context: &Context, id: &str) -> Result<ClawId> {
        self.core.store.resolve(context, id).await
    }

    /// A page of instances.
    ///
    /// # Errors
    /// `InvalidInput` for a broken cursor.
    pub async fn list(
        &self,
        context: &Context,
        filter: &InstanceFilter,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<Page<Instance>> {
        let page = PageRequest::after(cursor.map(str::to_owned), limit);
        self.core.store.instances(context, filter, &page).await
    }

    /// What an instance uses now.
    ///
    /// # Errors
    /// `Gone` when it is not up; `Unsupported` when its runtime does not measure.
    pub async fn usage(&self, context: &Context, id: &str) -> Result<(Instance, Usage)> {
        let instance = self.core.find(context, id).await?;
        let runtime = self.core.runtime(&instance.spec.target)?;
        let stats = runtime.stats().ok_or_else(|| unsupported(&instance, "measure what instances use"))?;
        let usage = stats.usage(&instance.id).await?;
        Ok((instance, usage))
    }

    /// What an instance printed.
    ///
    /// # Errors
    /// `Unsupported` when its runtime keeps no output.
    pub async fn logs(&self, context: &Context, id: &str, query: LogQuery) -> Result<LogStream> {
        let instance = self.core.find(context, id).await?;
        let runtime = self.core.runtime(&instance.spec.target)?;
        let logs = runtime.logs().ok_or_else(|| unsupported(&instance, "keep what instances print"))?;
        logs.logs(&instance.id, query).await
    }

    /// Runs a command inside an instance, which is in use for as long as what comes with it lives.
    ///
    /// # Errors
    /// `Conflict` when it is not up; `Unsupported` when its runtime can't.
    pub async fn exec(
        &self,
        context: &Context,
        id: &str,
        request: ExecRequest,
    ) -> Result<(ExecSession, InUse)> {
        let instance = self.core.find(context, id).await?;
        let grant = may(context, Action::InstanceUse, &instance)?;
        let runtime = self.core.runtime(&instance.spec.target)?;
        let exec = runtime.exec().ok_or_else(|| unsupported(&instance, "run commands inside instances"))?;
        if matches!(instance.phase, Phase::Warm | Phase::Suspended) {
            return Err(not_up(&instance).fix(format!("wake it first: clawfarm resume {}", instance.id)));
        }
        let what = request.argv.first().map_or("a shell", String::as_str);
        // The program is told, not its arguments: they may hold what is nobody's business.
        self.core.store.record_audit(&grant, Outcome::Done, what).await?;
        let using = self.core.using(&instance.id);
        Ok((exec.exec(&instance.id, request).await?, using))
    }
}

fn not_up(instance: &Instance) -> Error {
    Error::new(Code::Conflict, format!("'{}' is {}", instance.id, instance.phase)).field("id")
}

fn unsupported(instance: &Instance, what: &str) -> Error {
    Error::new(Code::Unsupported, format!("the runtime {} can't {what}", instance.spec.runtime))
}
