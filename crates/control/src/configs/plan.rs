//! What publishing would do, before it is done.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use clawfarm_adapters::{ConfigFault, Warning};
use clawfarm_config::{ChangeSet, Cohort, Impact, Origin, Selector, Template};
use clawfarm_model::error::Class;
use clawfarm_model::name::{ProjectName, TenantName};
use clawfarm_model::secret::SecretName;
use clawfarm_model::{
    ClawId, ConfigKind, ConfigName, Context, Error, Instance, InstanceSpec, Layered, Result,
};
use clawfarm_store::NewMember;

use sha2::{Digest as _, Sha256};

use super::asking::{Asked, Asking};
use super::change::State;
use super::layering::{Whose, own};
use super::manage::leave;
use crate::Control;
use crate::core::Core;
use crate::keys::owner;
use crate::secrets::seen_by;

/// So many instances are read at a time.
const PAGE: u32 = 500;
/// So many instances that can't have a revision are told of.
const REFUSALS_TOLD: usize = 100;

/// What publishing a revision would do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The version of the configuration that this was planned on.
    pub version: i64,
    /// The revision.
    pub to: i64,
    /// Its instances, in the order of their turns.
    pub instances: Vec<PlannedInstance>,
    /// How many of them come first because somebody said so.
    pub leading: usize,
    /// Those that can't have it, the first of them.
    pub refusals: Vec<Refusal>,
    /// How many can't.
    pub refused: usize,
    /// All that can't, as a rollout leaves them out.
    left_out: Vec<NewMember>,
}

/// What it would do to one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedInstance {
    /// Which.
    pub id: ClawId,
    /// The revision that it has.
    pub before: Option<i64>,
    /// What the change asks of it.
    pub impact: Impact,
    /// What is worth a word: of what it says itself without effect, of what its type makes of it.
    pub warnings: Arc<[Warning]>,
    /// Why no claw was asked whether it takes it, where its type can be asked and it changes.
    pub not_asked: Option<Arc<str>>,
}

/// What is to be planned.
pub(super) struct Wanted<'a> {
    pub(super) name: &'a ConfigName,
    /// The version of the configuration.
    pub(super) version: i64,
    /// The revision.
    pub(super) to: i64,
    pub(super) selector: &'a Selector,
    /// The labels of those that come first.
    pub(super) first: &'a BTreeMap<String, String>,
    /// Whether running claws are asked what they think of it.
    pub(super) ask: bool,
}

/// Why an instance can't have a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which.
    pub id: ClawId,
    /// The field.
    pub field: String,
    /// The reason.
    pub reason: String,
}

impl Control {
    /// What publishing a revision (the newest, when none is given) would do. Running claws are asked
    /// whether they would take it, which takes seconds.
    ///
    /// # Errors
    /// `NotFound` when there is no such configuration or revision.
    pub async fn plan(
        &self,
        context: &Context,
        name: &ConfigName,
        to: Option<i64>,
        selector: &Selector,
    ) -> Result<Plan> {
        let grant = leave(context, name)?;
        let config = self.core.store.config(context, name).await?;
        let to = self.core.store.revision(context, name, to.unwrap_or(config.head)).await?;
        let tenant = grant.resource().tenant.clone();
        let (version, to, first) = (config.version, to.number, &BTreeMap::new());
        self.core.plan(&tenant, &Wanted { name, version, to, selector, first, ask: true }).await
    }
}

impl Core {
    /// The instances that go by a configuration.
    pub(super) async fn instances_by(&self, tenant: &TenantName, name: &ConfigName) -> Result<Vec<Instance>> {
        self.store.instances_of(&Context::system("config"), tenant, name, None, u32::MAX).await
    }

    /// Some of them, after one when it is given.
    pub(super) async fn page_by(
        &self,
        tenant: &TenantName,
        name: &ConfigName,
        after: Option<&ClawId>,
    ) -> Result<Vec<Instance>> {
        self.store.instances_of(&Context::system("config"), tenant, name, after, PAGE).await
    }

    /// What a revision does to these, as members of a rollout; those that can't have it are left
    /// out, with the reason.
    pub(super) async fn new_members(
        &self,
        name: &ConfigName,
        to: i64,
        instances: &[Instance],
        place: i64,
    ) -> Result<Vec<NewMember>> {
        let mut planning = Planning::new(self, name, to);
        let mut members = Vec::with_capacity(instances.len());
        for (instance, place) in instances.iter().zip(place..) {
            let (impact, left_out) = match planning.one(instance).await {
                Ok(found) => (found.impact, None),
                Err(error) if error.code().class() == Class::User => (Impact::None, Some(error.to_string())),
                Err(error) => return Err(error),
            };
            let before = instance.layers.applied.get(name).copied();
            let (instance, changes) = (instance.id.clone(), ChangeSet::default());
            members.push(NewMember { instance, place, before, impact, left_out, changes });
        }
        Ok(members)
    }

    pub(super) async fn plan(&self, tenant: &TenantName, wanted: &Wanted<'_>) -> Result<Plan> {
        let Wanted { name, version, to, selector, first, ask } = *wanted;
        let mut planning = Planning::new(self, name, to);
        let mut planned = BTreeMap::new();
        let mut refusing = Refusing::default();
        let mut leading = BTreeSet::new();
        let first = Selector { labels: first.clone(), ..Selector::default() };
        let is_first = |it: &Instance| !first.is_all() && first.takes(it);
        let mut after: Option<ClawId> = None;
        loop {
            // A large fleet is never in memory whole.
            let page = self.page_by(tenant, name, after.as_ref()).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            for instance in page.iter().filter(|it| selector.takes(it)) {
                let before = instance.layers.applied.get(name).copied();
                match planning.one(instance).await {
                    Ok(found) => {
                        if is_first(instance) {
                            leading.insert(instance.id.clone());
                        }
                        planned.insert(instance.id.clone(), (before, found));
                    }
                    Err(error) if error.code().class() == Class::User => {
                        refusing.take(&instance.id, before, &error);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        let answers = if ask { planning.asking.ask(self).await } else { Vec::new() };
        planned.retain(|id, (before, found): &mut (Option<i64>, Found)| {
            match found.kind.and_then(|kind| answers.get(kind)) {
                Some(Asked::Refuses(by, faults)) => {
                    refusing.take(id, *before, &refused_by(id, by, faults));
                    leading.remove(id);
                    return false;
                }
                Some(Asked::Not(why)) => found.not_asked = Some(Arc::clone(why)),
                Some(Asked::Fine) | None => {}
            }
            true
        });
        let Refusing { refusals, left_out } = refusing;
        let refused = left_out.len();
        let mut order = Cohort::of(&cohort(tenant, name)).order(planned.keys().cloned().collect());
        order.sort_by_key(|id| !leading.contains(id));
        let instances = order
            .into_iter()
            .filter_map(|id| {
                let (before, Found { impact, warnings, not_asked, .. }) = planned.remove(&id)?;
                Some(PlannedInstance { id, before, impact, warnings, not_asked })
            })
            .collect();
        Ok(Plan { version, to, instances, leading: leading.len(), refusals, refused, left_out })
    }
}

/// What the order of a configuration's instances hangs on.
pub(super) fn cohort(tenant: &TenantName, name: &ConfigName) -> String {
    match name.kind() {
        ConfigKind::Global => name.to_string(),
        _ => format!("{tenant}/{name}"),
    }
}

/// Those that can't have it.
#[derive(Default)]
struct Refusing {
    refusals: Vec<Refusal>,
    left_out: Vec<NewMember>,
}

impl Refusing {
    fn take(&mut self, id: &ClawId, before: Option<i64>, error: &Error) {
        if self.refusals.len() < REFUSALS_TOLD {
            self.refusals.push(Refusal {
                id: id.clone(),
                field: error.field_name().unwrap_or("config").to_owned(),
                reason: error.message().to_owned(),
            });
        }
        self.left_out.push(NewMember {
            instance: id.clone(),
            place: 0,
            before,
            impact: Impact::None,
            left_out: Some(error.to_string()),
            changes: ChangeSet::default(),
        });
    }
}

/// What a claw said that was asked for this one, or was this one.
pub(super) fn refused_by(id: &ClawId, by: &ClawId, faults: &[ConfigFault]) -> Error {
    let field = faults.first().map_or_else(|| "config".to_owned(), |it| it.field.clone());
    let mut reasons: Vec<_> = faults.iter().take(1).map(|it| it.reason.clone()).collect();
    reasons.extend(faults.iter().skip(1).map(|it| format!("{}: {}", it.field, it.reason)));
    let asked =
        if id == by { String::new() } else { format!(" (as '{by}' says, which would have the same)") };
    Error::invalid(field, format!("{}{asked}", reasons.join("; ")))
}

/// What the change asks of an instance, and what is worth a word.
#[derive(Clone)]
struct Found {
    impact: Impact,
    warnings: Arc<[Warning]>,
    /// Which kind it is of when claws are asked; none when nothing changes for it.
    kind: Option<usize>,
    not_asked: Option<Arc<str>>,
}

/// One plan on its way: what many instances have in common is looked up once.
struct Planning<'a> {
    core: &'a Core,
    name: &'a ConfigName,
    to: i64,
    contents: HashMap<(TenantName, ConfigName, i64), Arc<Template>>,
    /// What came of an instance that is made of the same, by a hash of that.
    alike: HashMap<[u8; 32], (Vec<SecretName>, Found)>,
    secrets: HashMap<(TenantName, ProjectName, SecretName), bool>,
    asking: Asking,
}

impl<'a> Planning<'a> {
    fn new(core: &'a Core, name: &'a ConfigName, to: i64) -> Self {
        let (contents, alike, secrets) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { core, name, to, contents, alike, secrets, asking: Asking::default() }
    }

    async fn one(&mut self, instance: &Instance) -> Result<Found> {
        let own = own(instance);
        let mut layered = Layered { own: Some(own.clone()), ..instance.layers.clone() };
        layered.applied.insert(self.name.clone(), self.to);
        // A fleet is made of few kinds of instances: each kind is worked out once.
        let key = alike(instance, &layered)?;
        if let Some((secrets, found)) = self.alike.get(&key).cloned() {
            self.secrets_are_there(instance, &secrets).await?;
            if let Some(kind) = found.kind {
                self.asking.candidate(kind, instance);
            }
            return Ok(found);
        }
        let mut contents = BTreeMap::new();
        for (name, number) in &layered.applied {
            contents.insert(name.clone(), (*number, self.content(&instance.tenant, name, *number).await?));
        }
        let made = self.core.lay(&Whose::of(instance), &layered, &own, &contents)?;
        // What the instances say above a new lock no longer holds, and is told by the explanation;
        // what the revision itself says below another's lock would never hold.
        if let Some(refused) = made.effective.refused.iter().find(|it| self.is_of_it(&it.by)) {
            return Err(refused.error());
        }
        let secrets: Vec<_> = made.config.secrets().map(|it| it.secret.clone()).collect();
        self.secrets_are_there(instance, &secrets).await?;
        let spec = InstanceSpec { config: Box::new(made.config.clone()), ..instance.spec.clone() };
        let warnings = made.warnings(self.core.adapter(instance)?.as_ref(), &spec)?;
        let kind = match spec.config == instance.spec.config {
            true => None,
            false => Some(self.asking.kind(instance, &spec)?),
        };
        if let Some(kind) = kind {
            self.asking.candidate(kind, instance);
        }
        let impact = self.core.impact(instance, &spec)?;
        let found = Found { impact, warnings: warnings.into(), kind, not_asked: None };
        self.alike.insert(key, (secrets, found.clone()));
        Ok(found)
    }

    /// Whether a layer is the one that is published.
    fn is_of_it(&self, by: &Origin) -> bool {
        matches!(
            (by, self.name.kind()),
            (Origin::Global, ConfigKind::Global)
                | (Origin::Tenant { .. }, ConfigKind::Tenant)
                | (Origin::Project { .. }, ConfigKind::Project(_))
                | (Origin::Template { .. }, ConfigKind::Template)
        )
    }

    async fn content(
        &mut self,
        tenant: &TenantName,
        name: &ConfigName,
        number: i64,
    ) -> Result<Arc<Template>> {
        let key = (tenant.clone(), name.clone(), number);
        if let Some(known) = self.contents.get(&key) {
            return Ok(Arc::clone(known));
        }
        let read = self.core.content(tenant, name, number).await?;
        self.contents.insert(key, Arc::clone(&read));
        Ok(read)
    }

    async fn secrets_are_there(&mut self, instance: &Instance, secrets: &[SecretName]) -> Result<()> {
        let system = Context::system("config");
        for name in secrets {
            // What many of a project have in common is looked up once.
            let key = (instance.tenant.clone(), instance.project.clone(), name.clone());
            let shared = match self.secrets.get(&key) {
                Some(shared) => *shared,
                None => {
                    let owners = seen_by(&instance.tenant, &instance.project, None);
                    let there = self.core.store.nearest_secret(&system, &owners, name).await?.is_some();
                    self.secrets.insert(key, there);
                    there
                }
            };
            if shared {
                continue;
            }
            let own = [owner(instance)];
            if self.core.store.nearest_secret(&system, &own, name).await?.is_none() {
                return Err(Error::invalid(
                    "config",
                    format!("it refers to the secret '{name}', which does not exist"),
                )
                .fix(format!("clawfarm secret set {name}")));
            }
        }
        Ok(())
    }
}

/// What decides what a revision does to an instance, but for secrets of its own.
fn alike(instance: &Instance, layered: &Layered) -> Result<[u8; 32]> {
    let spec = InstanceSpec {
        labels: BTreeMap::new(),
        policy: clawfarm_model::RuntimePolicy::default(),
        port: None,
        ..instance.spec.clone()
    };
    let layered = Layered { revision: 0, ..layered.clone() };
    let is = State::of(instance);
    let all = (&instance.tenant, &instance.project, spec, layered, is, instance.intent.desired);
    let text =
        serde_json::to_vec(&all).map_err(|e| Error::internal("an instance can't be written as JSON", e))?;
    Ok(Sha256::digest(&text).into())
}

impl Plan {
    /// Its instances as the store takes them.
    pub(super) fn members(&self) -> Vec<NewMember> {
        self.instances
            .iter()
            .zip(0..)
            .map(|(it, place)| NewMember {
                instance: it.id.clone(),
                place,
                before: it.before,
                impact: it.impact.clone(),
                left_out: None,
                changes: ChangeSet::default(),
            })
            .collect()
    }

    /// The same, with those that can't have it left out; nothing when none can.
    pub(super) fn members_and_left_out(&self) -> Option<Vec<NewMember>> {
        if self.instances.is_empty() && self.refused > 0 {
            return None;
        }
        let mut all = self.members();
        let after = i64::try_from(all.len()).unwrap_or(i64::MAX);
        all.extend(self.left_out.iter().zip(after..).map(|(it, place)| NewMember { place, ..it.clone() }));
        Some(all)
    }

    /// What is to be told of those whose claws were not asked.
    pub(super) fn note(&self) -> Option<String> {
        let mut not = self.instances.iter().filter_map(|it| it.not_asked.as_ref());
        let why = not.next()?;
        Some(format!("whether {} of them take it was not asked beforehand: {why}", not.count() + 1))
    }

    /// Why nobody may have it.
    ///
    /// # Errors
    /// `InvalidInput` on the first, with how many more there are, when there is one.
    pub(super) fn check(&self, name: &ConfigName) -> Result<()> {
        let Some(first) = self.refusals.first() else { return Ok(()) };
        let more = self.refused - 1;
        let others =
            if more > 0 { format!(", and {more} more instances can't have it") } else { String::new() };
        Err(Error::invalid(
            first.field.clone(),
            format!("'{}' can't have revision {} of '{name}': {}{others}", first.id, self.to, first.reason),
        )
        .fix(format!(
            "see clawfarm config plan {name} for all of them; mend the revision, or what they say themselves"
        )))
    }
}
