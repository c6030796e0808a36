//! Several servers on one database: which of them reconciles what.
//!
//! Each server says every few seconds that it is there, which renews its leases ([`keep`]),
//! and takes or gives back what makes its share even ([`plan`], pure). A turn of an instance
//! needs the lease of its shard ([`held`]): its writes carry the lease's epoch, which the
//! store checks in the same transaction, and before each act the lease's time is checked on
//! this machine's own clock. Wishes that came in at another server wake the holder by their
//! events ([`wakes`]).
//!
//! A server that is alone on its database (SQLite: its home's lock sees to that) does none of
//! it.

pub(crate) mod held;
mod keep;
mod plan;
mod wakes;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use clawfarm_model::name::TargetName;
use clawfarm_model::server::{Member, Peer};
use clawfarm_model::target::Target;
use clawfarm_model::{ClawId, Code, Context, Error, Instance, Result, Timestamp};

use self::held::{Claim, Hold, Table};
use tokio::sync::Notify;

use crate::core::Core;

/// How long a lease is good without being renewed. A server that died is replaced after so
/// long; one whose machine stands still for less keeps its share.
pub const LEASE_TTL: Duration = Duration::from_secs(10);

/// How a server shares its database.
#[derive(Clone, Debug)]
pub struct Sharing {
    /// What it says of itself; its targets are filled in.
    pub member: Member,
    /// How long its leases are good without being renewed; [`LEASE_TTL`] as a rule.
    pub ttl: Duration,
}

/// The shares of a server; nothing when it is alone.
#[derive(Default)]
pub(crate) struct Shares(Option<Shared>);

pub(super) struct Shared {
    /// Without its targets, which come and go.
    member: Member,
    ttl: Duration,
    table: Table,
    peers: RwLock<Vec<Peer>>,
    /// The next heartbeat is due at once.
    hurry: Notify,
    /// The database's clock less this machine's, in milliseconds.
    ahead: AtomicI64,
}

impl Shares {
    pub(crate) fn new(sharing: Option<Sharing>) -> Self {
        Self(sharing.map(|sharing| Shared {
            member: sharing.member,
            ttl: sharing.ttl,
            table: Table::default(),
            peers: RwLock::default(),
            hurry: Notify::new(),
            ahead: AtomicI64::new(0),
        }))
    }

    /// Whether the database has, or may have, other servers.
    pub(crate) const fn is_shared(&self) -> bool {
        self.0.is_some()
    }

    /// This server's node id, where it shares its database.
    pub(crate) fn node(&self) -> Option<&str> {
        self.0.as_ref().map(|shared| shared.member.node.as_str())
    }

    pub(super) const fn shared(&self) -> Option<&Shared> {
        self.0.as_ref()
    }
}

impl Shared {
    pub(super) fn peers(&self) -> Vec<Peer> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where something can be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this server.
    Here,
    /// At another one, at this address.
    There {
        /// That server.
        peer: Box<Peer>,
        /// Where its API is.
        address: String,
    },
}

impl Core {
    /// Joins the other servers, and begins to keep a share of the work.
    pub(crate) async fn join(self: &Arc<Self>) -> Result<()> {
        let Some(shared) = self.shares.shared() else { return Ok(()) };
        let system = Context::system("sharing");
        self.enter(shared).await?;
        let events = self.feed.subscribe(&system, None);
        keep::once(self, shared).await?;
        self.turns.spawn(keep::run(Arc::clone(self)));
        self.turns.spawn(wakes::run(Arc::clone(self), events));
        Ok(())
    }

    /// Enters this server into the list, with the leases of its targets.
    async fn enter(&self, shared: &Shared) -> Result<()> {
        let system = Context::system("sharing");
        self.store.join(&system, &self.member(shared), shared.ttl).await?;
        for (target, _) in self.targets().iter() {
            self.store.make_leases(&system, target).await?;
        }
        Ok(())
    }

    /// What this server says of itself now.
    fn member(&self, shared: &Shared) -> Member {
        let targets = self.targets().iter().map(|(target, _)| target.name.clone()).collect();
        Member { targets, ..shared.member.clone() }
    }

    /// Begins to share the work of a target that was added, and tells the others of it.
    pub(crate) async fn share_target(&self, target: &Target) -> Result<()> {
        if self.shares.is_shared() {
            self.store.make_leases(&Context::system("sharing"), target).await?;
            self.hurry();
        }
        Ok(())
    }

    /// The next heartbeat takes and gives back at once what has changed here.
    pub(crate) fn hurry(&self) {
        if let Some(shared) = self.shares.shared() {
            shared.hurry.notify_one();
        }
    }

    /// Gives its share back, when nothing is under way any more.
    pub(crate) async fn leave(&self) {
        let Some(shared) = self.shares.shared() else { return };
        shared.table.clear();
        if let Err(error) = self.store.leave(&Context::system("sharing"), &shared.member).await {
            tracing::warn!(?error, "its leases could not be given back; their time runs out");
        }
    }

    /// Whether this server may reconcile an instance now.
    pub(crate) fn claim(&self, instance: &Instance) -> Claim {
        let Some(shared) = self.shares.shared() else { return Claim::Mine(Hold::alone()) };
        match self.target(&instance.spec.target) {
            Some(target) => shared.table.claim(&target.name, instance.id.shard(target.shards())),
            None => Claim::NotMine,
        }
    }

    /// Whether an instance may be this server's to reconcile, as far as that can be said
    /// without looking at which target it is on.
    pub(crate) fn may_be_mine(&self, id: &ClawId) -> bool {
        let Some(shared) = self.shares.shared() else { return true };
        self.targets().iter().any(|(t, _)| shared.table.has(&t.name, id.shard(t.shards())))
    }

    /// The instances that are this server's to reconcile.
    pub(crate) async fn my_instances(&self) -> Result<Vec<ClawId>> {
        let system = Context::system("reconcile");
        let Some(shared) = self.shares.shared() else {
            return self.store.instance_ids_to_reconcile(&system).await;
        };
        let all = self.store.placed_instances(&system).await?;
        let mine = all.into_iter().filter(|(id, target)| {
            self.target(target).is_some_and(|t| shared.table.has(&t.name, id.shard(t.shards())))
        });
        Ok(mine.map(|(id, _)| id).collect())
    }

    /// Where what needs a target can be done.
    pub(crate) async fn place_of(&self, context: &Context, name: &TargetName) -> Result<Place> {
        let Some(shared) = self.shares.shared() else { return Ok(Place::Here) };
        if self.target(name).is_some() {
            return Ok(Place::Here);
        }
        let target = self.store.target(context, name).await?;
        let mut peers = shared.peers();
        let answers = |p: &Peer| p.live && p.address.is_some() && p.targets.contains(name);
        if !peers.iter().any(answers) {
            // One may have come since the last heartbeat.
            peers = self.store.servers(context).await?;
        }
        let reaches = |p: &&Peer| p.node != shared.member.node && p.targets.contains(&target.name);
        let candidates: Vec<&Peer> = peers.iter().filter(reaches).collect();
        let with_address = candidates.iter().filter(|p| p.live).find_map(|p| Some((p, p.address.clone()?)));
        match with_address {
            Some((peer, address)) => Ok(Place::There { peer: Box::new((*peer).clone()), address }),
            None => Err(nobody(&target, &candidates)),
        }
    }
}

/// Why what only other servers reach can't be had, with the name of who could.
fn nobody(target: &Target, candidates: &[&Peer]) -> Error {
    let name = &target.name;
    let live = candidates.iter().find(|p| p.live);
    let gone = candidates.iter().max_by_key(|p| p.seen_at);
    match (live, gone) {
        (Some(peer), _) => Error::new(
            Code::Unavailable,
            format!(
                "target '{name}' is reached from server '{}', which has no address for other servers",
                peer.name
            ),
        )
        .field("target")
        .fix(format!("ask server '{}' itself, or start it with --listen or --peer-address", peer.name)),
        (None, Some(peer)) => Error::new(
            Code::Unavailable,
            format!(
                "target '{name}' is reached from server '{}' alone, which is gone (last seen {})",
                peer.name, peer.seen_at
            ),
        )
        .field("target")
        .fix(format!("start server '{}' again: clawfarm serve, with its own home folder", peer.name)),
        (None, None) => {
            Error::new(Code::Unavailable, format!("no server that is there reaches target '{name}'"))
                .field("target")
                .fix("see 'clawfarm server ls' and 'clawfarm target ls', and start a server that reaches it")
        }
    }
}

impl crate::Control {
    /// The servers that share this one's database, itself among them; none when it is alone.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn servers(&self, context: &Context) -> Result<Vec<Peer>> {
        match self.core.shares.shared() {
            Some(_) => self.core.store.servers(context).await,
            None => Ok(Vec::new()),
        }
    }

    /// This server's node id, where it shares its database with others.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.core.shares.node()
    }

    /// Where it has told the other servers that they reach it; `None` when it has not, or is alone.
    #[must_use]
    pub fn peer_address(&self) -> Option<&str> {
        self.core.shares.shared()?.member.address.as_deref()
    }

    /// What the database's clock says, by this machine's: the servers' own clocks may differ.
    #[must_use]
    pub fn database_time(&self) -> Timestamp {
        let ahead = self.core.shares.shared().map_or(0, |s| s.ahead.load(Ordering::Relaxed));
        Timestamp::from_millis(Timestamp::now().as_millis().saturating_add(ahead))
    }

    /// The targets that are reached from here.
    #[must_use]
    pub fn own_targets(&self) -> Vec<TargetName> {
        self.core.targets().iter().map(|(t, _)| t.name.clone()).collect()
    }

    /// The server with this node id, as it was last heard of.
    #[must_use]
    pub fn peer(&self, node: &str) -> Option<Peer> {
        self.core.shares.shared()?.peers().into_iter().find(|p| p.node == node)
    }

    /// Where an instance's runtime can be reached.
    ///
    /// # Errors
    /// `NotFound` when there is no such instance; `Unavailable`, with the server's name, when
    /// the one server that reaches it is not there.
    pub async fn place_of_instance(&self, context: &Context, id: &str) -> Result<Place> {
        if !self.core.shares.is_shared() {
            return Ok(Place::Here);
        }
        let instance = self.core.find(context, id).await?;
        self.core.place_of(context, &instance.spec.target).await
    }

    /// Where a target can be reached.
    ///
    /// # Errors
    /// As for [`Self::place_of_instance`].
    pub async fn place_of_target(&self, context: &Context, name: &TargetName) -> Result<Place> {
        self.core.place_of(context, name).await
    }

    /// Where a dataset's data can be reached.
    ///
    /// # Errors
    /// As for [`Self::place_of_instance`].
    pub async fn place_of_dataset(&self, context: &Context, id: &ClawId) -> Result<Place> {
        if !self.core.shares.is_shared() {
            return Ok(Place::Here);
        }
        let dataset = self.core.store.dataset(context, id).await?;
        self.core.place_of(context, &dataset.target).await
    }

    /// Where a new instance is to be made: here when a target that fits is reached from here,
    /// else at a server that reaches one.
    ///
    /// # Errors
    /// As for [`Self::place_of_instance`], for the target that was asked for.
    pub async fn place_for(
        &self,
        context: &Context,
        runtime: Option<clawfarm_model::target::RuntimeKind>,
        target: Option<&TargetName>,
    ) -> Result<Place> {
        let core = &self.core;
        if !core.shares.is_shared() || core.choose_target(runtime, target).is_ok() {
            return Ok(Place::Here);
        }
        if let Some(name) = target {
            return core.place_of(context, name).await;
        }
        for target in core.store.targets(context).await? {
            if runtime.is_none_or(|kind| kind == target.runtime)
                && let Ok(place) = core.place_of(context, &target.name).await
            {
                return Ok(place);
            }
        }
        // Here, where what is wrong is told.
        Ok(Place::Here)
    }
}
