//! Which claws are delivered to now, and whose turn is next.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clawfarm_model::ClawId;
use clawfarm_model::name::TenantName;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Claws that are delivered to at once. Each may be a wake, which the admission bounds further.
const CLAWS: usize = 64;
/// Half of them may be anybody's; of the other half a tenant has so many. So nobody's claws that
/// don't answer keep all others waiting.
const SHARE: usize = 8;

/// Claws with messages.
#[derive(Default)]
pub(super) struct Line {
    /// When each is to be looked at.
    due: BTreeMap<ClawId, Instant>,
    /// Those that are being delivered to, each with what tells it of something new.
    running: HashMap<ClawId, Arc<Notify>>,
    /// Those that are due and have to wait for a place.
    waiting: HashSet<ClawId>,
    /// Whose each is.
    tenants: HashMap<ClawId, TenantName>,
    /// Whether there are any that wait for a place.
    crowded: Arc<AtomicBool>,
}

impl Line {
    /// Has a claw looked at at that time, or sooner if it was to be.
    pub(super) fn sooner(&mut self, id: ClawId, at: Instant) {
        let known = self.due.entry(id).or_insert(at);
        *known = at.min(*known);
    }

    /// Has a claw looked at at that time, whatever was to be.
    pub(super) fn at(&mut self, id: ClawId, at: Instant) {
        self.due.insert(id, at);
    }

    /// Has a claw looked at now, unless it has its time already.
    pub(super) fn unless_known(&mut self, id: ClawId, at: Instant) {
        self.due.entry(id).or_insert(at);
    }

    /// Nothing is to be done about a claw for now.
    pub(super) fn leave(&mut self, id: &ClawId) {
        self.due.remove(id);
    }

    /// Tells whoever delivers to a claw that there is something new.
    pub(super) fn tell(&self, id: &ClawId) {
        if let Some(tell) = self.running.get(id) {
            tell.notify_one();
        }
    }

    /// Those that are due and of which it is not known whose they are.
    pub(super) fn unknown(&self, now: Instant) -> Vec<ClawId> {
        let due = self.due.iter().filter(|(id, at)| **at <= now && !self.tenants.contains_key(*id));
        due.map(|(id, _)| id.clone()).collect()
    }

    /// Says whose a claw is.
    pub(super) fn is_of(&mut self, id: ClawId, tenant: TenantName) {
        self.tenants.insert(id, tenant);
    }

    /// Forgets whose those are that have no messages any more.
    pub(super) fn forget_but(&mut self, ids: &[ClawId]) {
        let (running, due) = (&self.running, &self.due);
        self.tenants.retain(|id, _| ids.contains(id) || running.contains_key(id) || due.contains_key(id));
    }

    /// Those that are to be begun with now, each with what tells it of something new. They are
    /// running from then on, until [`Self::ended`].
    pub(super) fn begin(&mut self, now: Instant) -> Vec<(ClawId, Arc<Notify>)> {
        let mut ready: Vec<(Instant, ClawId)> = self
            .due
            .iter()
            .filter(|(id, at)| **at <= now && !self.running.contains_key(*id))
            .map(|(id, at)| (*at, id.clone()))
            .collect();
        // Who has waited longest first.
        ready.sort();
        let mut of_tenants: HashMap<TenantName, usize> = HashMap::new();
        for tenant in self.running.keys().filter_map(|id| self.tenants.get(id)) {
            *of_tenants.entry(tenant.clone()).or_default() += 1;
        }
        self.waiting.clear();
        let mut begun = Vec::new();
        for (_, id) in ready {
            // It has become due since it was asked whose they are.
            let Some(tenant) = self.tenants.get(&id) else { continue };
            let own = of_tenants.entry(tenant.clone()).or_default();
            if !has_place(self.running.len(), *own) {
                self.waiting.insert(id);
                continue;
            }
            *own += 1;
            self.due.remove(&id);
            let tell = Arc::new(Notify::new());
            self.running.insert(id.clone(), Arc::clone(&tell));
            begun.push((id, tell));
        }
        self.crowded.store(!self.waiting.is_empty(), Ordering::Relaxed);
        begun
    }

    /// A claw is not delivered to any more.
    pub(super) fn ended(&mut self, id: &ClawId) {
        self.running.remove(id);
    }

    /// When the next is due that could begin then.
    pub(super) fn next(&self) -> Option<Instant> {
        let free =
            self.due.iter().filter(|(id, _)| !self.running.contains_key(*id) && !self.waiting.contains(*id));
        free.map(|(_, at)| *at).min()
    }

    /// What says whether others wait for a place.
    pub(super) fn crowded(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.crowded)
    }
}

/// Whether one more claw may be delivered to, when so many are, and so many of them its tenant's.
const fn has_place(all: usize, own: usize) -> bool {
    all < CLAWS / 2 || all < CLAWS && own < SHARE
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn put(line: &mut Line, tenant: &str, count: usize, at: Instant) -> Vec<ClawId> {
        let ids: Vec<ClawId> =
            (0..count).map(|n| ClawId::new(format!("{tenant}{n}-22222")).unwrap()).collect();
        for id in &ids {
            line.sooner(id.clone(), at);
            line.is_of(id.clone(), tenant.parse().unwrap());
        }
        ids
    }

    fn begun(line: &mut Line, now: Instant) -> Vec<String> {
        line.begin(now).into_iter().map(|(id, _)| id.to_string()).collect()
    }

    #[tokio::test]
    async fn no_tenant_s_claws_keep_another_s_waiting() {
        let (mut line, now) = (Line::default(), Instant::now());
        let bad = put(&mut line, "bad", 200, now);
        // Alone it has half of all; the rest of it waits, and nobody is woken for that.
        assert_eq!(begun(&mut line, now).len(), CLAWS / 2);
        assert!(line.crowded().load(Ordering::Relaxed));
        assert_eq!(line.next(), None);
        // None of them answers: another one begins all the same, and so does a third.
        for tenant in ["good", "other", "third"] {
            put(&mut line, tenant, 20, now + Duration::from_secs(1));
            let begun = begun(&mut line, now + Duration::from_secs(1));
            assert_eq!(begun.len(), SHARE);
            assert!(begun.iter().all(|id| id.starts_with(tenant)), "{begun:?}");
        }
        // One that ends stands behind those that wait.
        let ended = bad.iter().find(|id| line.running.contains_key(*id)).unwrap().clone();
        for id in line.running.keys().cloned().collect::<Vec<_>>() {
            line.ended(&id);
        }
        line.at(ended.clone(), now + Duration::from_secs(2));
        let next = begun(&mut line, now + Duration::from_secs(2));
        assert!(!next.is_empty() && !next.contains(&ended.to_string()), "{next:?}");
    }

    #[tokio::test]
    async fn each_is_begun_once_when_its_time_has_come() {
        let (mut line, now) = (Line::default(), Instant::now());
        let later = now + Duration::from_secs(5);
        let ids = put(&mut line, "a", 2, later);
        line.sooner(ids[0].clone(), now);
        line.sooner(ids[0].clone(), later);
        assert_eq!(line.begin(now).len(), 1);
        assert_eq!(line.next(), Some(later));
        assert!(!line.crowded().load(Ordering::Relaxed));
        // What is told of meanwhile waits for its end.
        line.sooner(ids[0].clone(), now);
        assert!(line.begin(now).is_empty());
        line.ended(&ids[0]);
        assert_eq!(begun(&mut line, now), [ids[0].to_string()]);
        // Whose it is has to be known.
        let new = ClawId::new("new-22222").unwrap();
        line.unless_known(new.clone(), now);
        assert!(line.begin(now).is_empty());
        assert_eq!(line.unknown(now), [new]);
    }
}
