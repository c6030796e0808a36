//! Bringing a revision to instances, and going back to an earlier one.

use std::time::Duration;

use clawfarm_config::{Amount, Config, Pause, Rollout, Selector, Stage, Step, Strategy};
use clawfarm_model::name::TenantName;
use clawfarm_model::{Code, ConfigName, Context, Error, Result, Timestamp};
use clawfarm_store::{NewMember, NewRollout};

use super::manage::leave;
use super::plan::{Plan, Wanted};
use crate::Control;

/// For how long a revision that was everywhere counts as proven: what goes back to it stops at
/// nobody who fails.
pub const ROLLBACK_WINDOW: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What is to go out.
#[derive(Clone, Debug, Default)]
pub struct Publish {
    /// Which revision; the newest when none is given.
    pub revision: Option<i64>,
    /// To whom.
    pub selector: Selector,
    /// How.
    pub strategy: Strategy,
    /// What for.
    pub message: String,
}

impl Control {
    /// Begins to bring a revision to the instances that go by its configuration. Nobody gets it
    /// unless all of them can have it, as far as clawfarm knows and as running claws say that are
    /// asked (which takes seconds; nothing has begun until then). Those that the strategy names come first; without steps they
    /// are one.
    ///
    /// # Errors
    /// `InvalidInput`, with instance, field and reason, when one of them can't have it; `Conflict`
    /// when a rollout of this configuration is under way; `NotFound` for a revision that there
    /// is not.
    pub async fn publish(&self, context: &Context, name: &ConfigName, what: Publish) -> Result<Rollout> {
        self.send_out(context, name, what, true, |plan| {
            plan.check(name)?;
            Ok(plan.members())
        })
        .await
    }

    async fn send_out(
        &self,
        context: &Context,
        name: &ConfigName,
        what: Publish,
        ask: bool,
        members: impl FnOnce(&Plan) -> Result<Vec<NewMember>> + Send,
    ) -> Result<Rollout> {
        let grant = leave(context, name)?;
        what.strategy.check()?;
        let config = self.core.store.config(context, name).await?;
        if let Some(id) = &config.rollout {
            return Err(Error::new(Code::Conflict, format!("rollout '{id}' of '{name}' is under way"))
                .fix(format!("wait for its end, or end it: clawfarm rollout abort {id}")));
        }
        let to = self.core.store.revision(context, name, what.revision.unwrap_or(config.head)).await?.number;
        let tenant = grant.resource().tenant.clone();
        let (version, selector, first) = (config.version, &what.selector, &what.strategy.first);
        let plan = self.core.plan(&tenant, &Wanted { name, version, to, selector, first, ask }).await?;
        let members = members(&plan)?;
        let new = NewRollout {
            config: name.clone(),
            to,
            expect: plan.version,
            selector: what.selector,
            strategy: with_first(what.strategy, plan.leading)?,
            message: what.message,
            note: plan.note(),
            members,
        };
        let rollout = self.core.store.begin_rollout(&grant, &new).await?;
        self.core.driver.wake();
        Ok(rollout)
    }

    /// Goes back to a revision: to the one before what is published when none is given, or to what
    /// is published where some have another one. A rollout that is under way is turned round
    /// instead.
    ///
    /// Who goes back is in trouble already, so it is not stopped by what would stop a publication:
    /// those that can't have the revision are left out and told of, and nobody is given again what
    /// is got away from. Without a strategy all are changed at once; and where the revision was
    /// proven not long ago, those that fail don't stop it.
    ///
    /// # Errors
    /// `Conflict` when there is nothing to go back to, or when a rollout is under way that leads
    /// back to another one; as [`Self::publish`], when no instance can have it.
    pub async fn roll_back(
        &self,
        context: &Context,
        name: &ConfigName,
        to: Option<i64>,
        strategy: Option<Strategy>,
    ) -> Result<Rollout> {
        let config = self.core.store.config(context, name).await?;
        if let Some(id) = &config.rollout {
            return self.back_from(context, id, to).await;
        }
        let to = match to {
            Some(number) => number,
            None => self.before_now(context, &config).await?,
        };
        let revision = self.core.store.revision(context, name, to).await?;
        let proven = revision.proven_at.is_some_and(|at| Timestamp::now().since(at) < ROLLBACK_WINDOW);
        let usual =
            || if proven { Strategy::back() } else { Strategy { max_failures: 0, ..Strategy::back() } };
        let strategy = strategy.unwrap_or_else(usual);
        let message = format!("back to revision {to}");
        let what = Publish { revision: Some(to), strategy, message, ..Publish::default() };
        // What ran not long ago needs nobody's word.
        self.send_out(context, name, what, !proven, |plan| match plan.members_and_left_out() {
            Some(members) => Ok(members),
            None => plan.check(name).map(|()| Vec::new()),
        })
        .await
    }

    /// Turns the rollout round that is under way, unless it leads elsewhere than is wanted.
    async fn back_from(&self, context: &Context, id: &str, to: Option<i64>) -> Result<Rollout> {
        let rollout = self.core.store.rollout(context, id).await?;
        if to.is_some() && to != rollout.from {
            let back = rollout.from.map_or_else(|| "none".to_owned(), |number| format!("revision {number}"));
            return Err(Error::new(
                Code::Conflict,
                format!("rollout '{id}' is under way, and leads back to {back}"),
            )
            .field("to")
            .fix(format!(
                "turn it round: clawfarm rollout rollback {id}; or end it where it is, and go back then: clawfarm rollout abort {id}"
            )));
        }
        if rollout.stage == Stage::RollingBack {
            return Ok(rollout);
        }
        self.turn_round(context, id).await
    }

    /// The revision to go back to: what is published, where some have one that was to come after
    /// it; else what was published before that.
    async fn before_now(&self, context: &Context, config: &Config) -> Result<i64> {
        let name = &config.name;
        let nothing = || {
            Error::new(Code::Conflict, format!("nothing was published of '{name}' before"))
                .fix(format!("say which revision: clawfarm config rollback {name} --to <number>"))
        };
        let published = config.published.ok_or_else(nothing)?;
        let rollouts = self.core.store.rollouts(context, Some(name), LAST).await?;
        let begun: Vec<i64> = rollouts
            .iter()
            .take_while(|it| !(it.selector.is_all() && it.stage == Stage::Done))
            .map(|it| it.to)
            .filter(|it| *it != published)
            .collect();
        if !begun.is_empty() {
            let tenant = config.tenant.clone().unwrap_or_else(TenantName::default_tenant);
            let all = self.core.instances_by(&tenant, name).await?;
            if all.iter().filter_map(|it| it.layers.applied.get(name)).any(|it| begun.contains(it)) {
                return Ok(published);
            }
        }
        self.core.store.published_before(context, name, published).await?.ok_or_else(nothing)
    }
}

/// So many of the last rollouts are looked at: more are not kept.
const LAST: u32 = 100;

/// A strategy with the step that those make who come first, when it has none.
pub(super) fn with_first(strategy: Strategy, leading: usize) -> Result<Strategy> {
    if strategy.first.is_empty() {
        return Ok(strategy);
    }
    let count = u32::try_from(leading).unwrap_or(u32::MAX);
    if count == 0 {
        let labels: Vec<_> = strategy.first.iter().map(|(key, value)| format!("{key}={value}")).collect();
        return Err(Error::invalid(
            "strategy.first",
            format!("no instance is labelled {}", labels.join(", ")),
        )
        .fix("give labels that some of its instances have; see clawfarm config plan"));
    }
    let steps = if strategy.steps.is_empty() {
        vec![Step { to: Amount::Count(count), then: Pause::None }]
    } else {
        strategy.steps
    };
    Ok(Strategy { steps, ..strategy })
}
