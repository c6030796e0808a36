//! The deliverer of a server: told by the store which claws have messages, it gives each claw
//! what waits for it. A claw without messages costs nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clawfarm_model::event::Event;
use clawfarm_model::{
    Action, Cause, ClawId, Code, Context, Desired, Error, Instance, Phase, Result, Timestamp, is_fenced,
};
use clawfarm_store::{Head, Tried};
use metrics::{counter, gauge, histogram};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::attempt::{Outcome, attempt};
use super::line::Line;
use crate::core::{Core, may};
use crate::sharing::held::{Claim, Hold};
use crate::sleep::InUse;
use crate::{Control, Entrance};

/// Messages that one claw is given at once, of as many senders.
const AT_ONCE: usize = 8;
/// Lanes that are looked at together: those that are under way, and as many more.
const LANES: u64 = 2 * AT_ONCE as u64;
/// How long one claw is delivered to before it stands in line again, when others wait for its place.
/// What is under way is waited for.
const SLICE: Duration = Duration::from_secs(60);
/// How often all that waits is looked for: what nobody told of, because the server that took it in
/// died, or because the claw was another server's then.
const SWEEP: Duration = Duration::from_secs(30);
/// The first pause after a try that failed, doubled with each, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// A message is given up after so many tries, which take about two hours.
const TRIES: u32 = 20;
/// The pauses between wakes that fail grow up to this one's: a minute.
const WAKES: u32 = 7;
/// How often what was done is tried to be written down.
const WRITES: u32 = 5;

/// When a claw is to be looked at again.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// When there is something new for it.
    News,
    /// When something happens to it: it is down because somebody wants it so, or can't be up.
    Change,
    /// After a while.
    At(Instant),
    /// It could not be woken: after a while that grows.
    Unwakeable,
}

/// Begins to deliver; until the server ends.
pub(crate) fn begin(core: &Arc<Core>) {
    let control = Control { core: Arc::clone(core) };
    core.turns.spawn(async move {
        let stopping = control.core.stopping.clone();
        tokio::select! {
            () = stopping.cancelled() => {}
            () = Deliverer::new(control).run() => {}
        }
    });
}

struct Deliverer {
    control: Control,
    line: Line,
    /// Those that wait for something to happen to them.
    parked: HashSet<ClawId>,
    /// How often in a row each could not be woken.
    failures: HashMap<ClawId, u32>,
}

impl Deliverer {
    fn new(control: Control) -> Self {
        Self { control, line: Line::default(), parked: HashSet::new(), failures: HashMap::new() }
    }

    async fn run(mut self) {
        let core = Arc::clone(&self.control.core);
        let news = core.store.inbox_news();
        let mut events = core.feed.subscribe(&system(), None);
        let (done, mut ended) = mpsc::unbounded_channel::<(ClawId, Next)>();
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            self.learn_tenants().await;
            self.start(&done);
            let next = self.line.next().unwrap_or_else(|| Instant::now() + SWEEP);
            tokio::select! {
                told = news.next() => {
                    if told.is_empty() {
                        sweep.reset_immediately();
                    }
                    told.into_iter().for_each(|id| self.look_at(id));
                }
                Some((id, next)) = ended.recv() => self.ended(id, next),
                told = events.recv() => match told {
                    Ok(told) => self.happened(&told.event),
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {
                        self.parked.drain().collect::<Vec<_>>().into_iter().for_each(|id| self.look_at(id));
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                },
                () = core.inbox.notified() => sweep.reset_immediately(),
                _ = sweep.tick() => self.sweep().await,
                () = sleep_until(next) => {}
            }
        }
    }

    /// Finds what nobody told of, and measures.
    async fn sweep(&mut self) {
        match self.control.core.store.instances_with_messages(&system()).await {
            Ok(ids) => {
                self.failures.retain(|id, _| ids.contains(id));
                self.line.forget_but(&ids);
                for id in ids {
                    // One that can't be woken keeps its own time.
                    let now = Instant::now();
                    self.line.unless_known(id, now);
                }
            }
            Err(error) => tracing::warn!(?error, "the messages that wait could not be listed"),
        }
        if let Ok(depth) = self.control.core.store.inbox_depth(&system()).await {
            let number = |count: u64| u32::try_from(count).map_or(f64::MAX, f64::from);
            gauge!("clawfarm_inbox_waiting").set(number(depth.waiting));
            gauge!("clawfarm_inbox_dead").set(number(depth.dead));
            let age =
                depth.oldest.map_or(0, |at| Timestamp::now().as_millis().saturating_sub(at.as_millis()));
            gauge!("clawfarm_inbox_oldest_seconds")
                .set(u32::try_from(age.max(0) / 1000).map_or(f64::MAX, f64::from));
        }
    }

    fn look_at(&mut self, id: ClawId) {
        self.line.tell(&id);
        if !self.failures.contains_key(&id) {
            self.line.sooner(id, Instant::now());
        }
    }

    fn happened(&mut self, event: &Event) {
        let Some(id) = &event.instance else { return };
        // A wake that fails has events, too: only one that did not ends the pauses.
        let is_up = event.reason == "phase" && event.message.ends_with(Phase::Ready.as_str());
        if is_up && self.failures.remove(id).is_some() || self.parked.remove(id) {
            self.look_at(id.clone());
        }
    }

    /// Finds out whose those are that are due. To one that is gone nothing is to be delivered.
    async fn learn_tenants(&mut self) {
        for id in self.line.unknown(Instant::now()) {
            match self.control.entrance(&system(), &id).await {
                Ok(Some(entrance)) => self.line.is_of(id, entrance.instance.tenant.clone()),
                Ok(None) => self.line.leave(&id),
                Err(error) => {
                    tracing::warn!(%id, ?error, "messages could not be delivered; it is tried again");
                    self.line.at(id, Instant::now() + 2 * FIRST_PAUSE);
                }
            }
        }
    }

    /// Begins with those that are due.
    fn start(&mut self, done: &mpsc::UnboundedSender<(ClawId, Next)>) {
        for (id, tell) in self.line.begin(Instant::now()) {
            self.parked.remove(&id);
            let (control, done, crowded) = (self.control.clone(), done.clone(), self.line.crowded());
            let stopping = control.core.stopping.clone();
            self.control.core.turns.spawn(async move {
                let delivered = tokio::select! {
                    () = stopping.cancelled() => return,
                    delivered = deliver(&control, &id, &tell, &crowded) => delivered,
                };
                let next = delivered.unwrap_or_else(|error| {
                    tracing::warn!(%id, ?error, "messages could not be delivered; it is tried again");
                    Next::At(Instant::now() + 2 * FIRST_PAUSE)
                });
                let _ = done.send((id, next));
            });
        }
    }

    fn ended(&mut self, id: ClawId, next: Next) {
        self.line.ended(&id);
        match next {
            Next::Unwakeable => {
                let failures = self.failures.entry(id.clone()).or_default();
                *failures += 1;
                // Later, whoever told of something new meanwhile.
                self.line.at(id, Instant::now() + pause((*failures).min(WAKES)));
                return;
            }
            Next::News => {}
            Next::Change => {
                self.line.leave(&id);
                self.parked.insert(id.clone());
            }
            Next::At(at) => self.line.sooner(id.clone(), at),
        }
        self.failures.remove(&id);
    }
}

/// Delivers what waits for a claw, until nothing does, nothing can be done now, or it is others'
/// turn.
async fn deliver(control: &Control, id: &ClawId, tell: &Notify, crowded: &AtomicBool) -> Result<Next> {
    let core = &control.core;
    let turn_ends = Instant::now() + SLICE;
    let mut under_way: HashSet<String> = HashSet::new();
    // Tasks of their own: what is tried holds connections of the store for moments, and would keep
    // them for as long as this one waits for such a connection itself.
    let mut tries = JoinSet::new();
    // Why nothing more can be begun; what is under way is waited for.
    let mut blocked = None;
    loop {
        if blocked.is_none() && Instant::now() >= turn_ends && crowded.load(Ordering::Relaxed) {
            blocked = Some(Next::At(Instant::now()));
        }
        if tries.is_empty()
            && let Some(next) = blocked
        {
            return Ok(next);
        }
        let mut wait = SWEEP;
        if blocked.is_none() && tries.len() < AT_ONCE {
            let now = Timestamp::now();
            let heads = core.store.inbox_heads(&system(), id, now, LANES).await?;
            let ready: Vec<Head> = heads.into_iter().filter(|head| !under_way.contains(&head.id)).collect();
            if ready.is_empty() {
                let next = core.store.inbox_next(&system(), id, now).await?;
                if tries.is_empty() {
                    return Ok(next.map_or(Next::News, |at| Next::At(from_now(at, now))));
                }
                wait = next.map_or(SWEEP, |at| until(at, now));
            } else {
                match up(control, id).await? {
                    Ok(up) => {
                        for head in ready.into_iter().take(AT_ONCE - tries.len()) {
                            under_way.insert(head.id.clone());
                            let (control, up) = (control.clone(), Arc::clone(&up));
                            tries.spawn(core.turns.track_future(async move {
                                let tried = once(&control, &up, &head).await;
                                (head.id, tried)
                            }));
                        }
                        // Others may be ready, or be so soon.
                        wait = if tries.len() < AT_ONCE { Duration::ZERO } else { SWEEP };
                    }
                    Err(next) => {
                        blocked = Some(next);
                        continue;
                    }
                }
            }
        }
        tokio::select! {
            biased;
            Some(ended) = tries.join_next() => {
                let (message, tried) =
                    ended.map_err(|error| Error::internal("a try of a message broke off", error.to_string()))?;
                under_way.remove(&message);
                tried?;
            }
            () = tell.notified() => {}
            () = sleep(wait) => {}
        }
    }
}

/// A claw that is awake, and the leave to deliver to it.
struct Up {
    hold: Hold,
    entrance: Arc<Entrance>,
    /// It is not put to sleep for being idle meanwhile.
    _using: InUse,
}

/// Makes sure that a claw is awake and this server's to deliver to; when it is not, when it may be.
async fn up(control: &Control, id: &ClawId) -> Result<Result<Arc<Up>, Next>> {
    let core = &control.core;
    let entrance = match control.entrance(&system(), id).await? {
        Some(entrance) => entrance,
        // It is gone, and its messages with it.
        None => return Ok(Err(Next::News)),
    };
    let hold = match core.claim(&entrance.instance) {
        Claim::Mine(hold) => hold,
        Claim::Stale => return Ok(Err(Next::At(Instant::now() + 2 * FIRST_PAUSE))),
        // Whose it is was told, or finds it.
        Claim::NotMine => return Ok(Err(Next::News)),
    };
    if is_awake(&entrance.instance) {
        return Ok(Ok(Arc::new(Up { hold, entrance, _using: core.using(id) })));
    }
    let instance = core.store.instance(&system(), id).await?;
    if !may_be_woken(&instance) {
        return Ok(Err(Next::Change));
    }
    match Box::pin(control.wake_for(&system(), id, Cause::Inbox)).await {
        Ok(entrance) => Ok(Ok(Arc::new(Up { hold, entrance, _using: core.using(id) }))),
        Err(error) if error.code() == Code::NotFound => Ok(Err(Next::News)),
        Err(error) => {
            tracing::info!(%id, %error, "a claw with messages could not be woken; it is tried again");
            Ok(Err(Next::Unwakeable))
        }
    }
}

fn is_awake(instance: &Instance) -> bool {
    matches!(instance.phase, Phase::Ready | Phase::Unhealthy)
}

/// Whether a message is reason enough: one that was stopped stays down, and one that gave up would
/// give up again.
fn may_be_woken(instance: &Instance) -> bool {
    match instance.phase {
        Phase::Stopped | Phase::Failed | Phase::Updating | Phase::Destroying | Phase::Destroyed => false,
        Phase::Stopping | Phase::Exited => instance.intent.desired != Desired::Stopped,
        _ => true,
    }
}

/// One try of one message, written down.
async fn once(control: &Control, up: &Up, head: &Head) -> Result<()> {
    let core = &control.core;
    let id = &up.entrance.instance.id;
    let Some(content) = core.store.message_content(&system(), id, &head.id).await? else {
        // Somebody dropped it.
        return Ok(());
    };
    up.hold.check()?;
    let outcome = attempt(control, &up.entrance, head, &content).await;
    core.answers.count(id, outcome != Outcome::Delivered, std::time::Instant::now());
    let attempts = head.attempts + 1;
    let tried = match outcome {
        Outcome::Delivered => Tried::Delivered,
        Outcome::Refused(error) => Tried::Dead { error },
        Outcome::Later { why, .. } if attempts >= TRIES => {
            Tried::Dead { error: format!("{why}; it was tried {attempts} times") }
        }
        Outcome::Later { why, after } => {
            let wait = pause(attempts).max(after.unwrap_or_default());
            let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
            Tried::Later {
                next_at: Timestamp::from_millis(Timestamp::now().as_millis().saturating_add(wait)),
                error: why,
            }
        }
    };
    measure(&tried, head);
    if matches!(tried, Tried::Later { .. }) {
        core.entrances.forget(id);
    }
    let grant = may(&system(), Action::Observe, &up.entrance.instance)?.under(up.hold.fence().cloned());
    let mut writes = 1;
    loop {
        match core.store.message_tried(&grant, id, &head.id, &tried).await {
            Ok(()) => return Ok(()),
            Err(error) if is_fenced(&error) || writes >= WRITES => return Err(error),
            // What the claw has, and is not written down, it is given again.
            Err(_) => sleep(FIRST_PAUSE * writes / 4).await,
        }
        writes += 1;
    }
}

fn measure(tried: &Tried, head: &Head) {
    match tried {
        Tried::Delivered => {
            counter!("clawfarm_inbox_delivered_total").increment(1);
            let waited = Timestamp::now().as_millis().saturating_sub(head.since.as_millis());
            histogram!("clawfarm_inbox_delay_seconds")
                .record(f64::from(u32::try_from(waited.max(0)).unwrap_or(u32::MAX)) / 1000.0);
        }
        Tried::Later { .. } => counter!("clawfarm_inbox_retried_total").increment(1),
        Tried::Dead { .. } => counter!("clawfarm_inbox_dead_total").increment(1),
    }
}

/// How long to wait after so many tries: doubled each time, and from a half of it to all of it, so
/// that those which failed together do not come back together.
fn pause(tries: u32) -> Duration {
    let most = FIRST_PAUSE.saturating_mul(1_u32 << tries.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
    let share = getrandom::u32().unwrap_or(u32::MAX) % 1000;
    most / 2 + most / 2000 * share
}

fn from_now(at: Timestamp, now: Timestamp) -> Instant {
    Instant::now() + until(at, now)
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    let left = at.as_millis().saturating_sub(now.as_millis()).max(0);
    Duration::from_millis(u64::try_from(left).unwrap_or(0))
}

fn system() -> Context {
    Context::system("inbox")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::instance;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        for tries in 1..=TRIES {
            let most = FIRST_PAUSE.saturating_mul(1 << (tries - 1).min(16)).min(LONGEST_PAUSE);
            for _ in 0..50 {
                let drawn = pause(tries);
                assert!(drawn >= most / 2 && drawn <= most, "{tries}: {drawn:?}");
            }
        }
        let drawn: HashSet<Duration> = (0..50).map(|_| pause(8)).collect();
        assert!(drawn.len() > 10);
        let whole: Duration = (1..=TRIES).map(pause).sum();
        assert!(whole > Duration::from_secs(1800) && whole < Duration::from_secs(4 * 3600), "{whole:?}");
    }

    #[test]
    fn what_was_stopped_stays_down() {
        let of = |phase, desired| {
            let mut it = instance();
            (it.phase, it.intent.desired) = (phase, desired);
            may_be_woken(&it)
        };
        assert!(!of(Phase::Stopped, Desired::Stopped));
        assert!(!of(Phase::Stopping, Desired::Stopped));
        assert!(!of(Phase::Failed, Desired::Running));
        assert!(!of(Phase::Destroying, Desired::Destroyed));
        assert!(of(Phase::Suspended, Desired::Suspended));
        assert!(of(Phase::Warm, Desired::Warm));
        assert!(of(Phase::Stopping, Desired::Suspended));
        assert!(of(Phase::Exited, Desired::Running));
    }
}
