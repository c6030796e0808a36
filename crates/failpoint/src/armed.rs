//! What was armed, and what happens at a point that is.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};

use crate::points::Point;

/// What a server arms at its beginning: `name@first-last=action`, several apart by commas.
/// Actions are `kill`, `fail:<code>` and `delay:<milliseconds>`; the hits are counted from 1.
const ENV: &str = "CLAWFARM_FAILPOINTS";
/// A file that gets the name of each point as it is hit.
const TRACE: &str = "CLAWFARM_FAILPOINTS_TRACE";

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It fails with this code.
    Fail(Code),
    /// It takes so much longer.
    Delay(Duration),
    /// The process is ended by SIGKILL: nothing of it runs after this.
    Kill,
}

/// When something happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where.
    pub point: Point,
    /// From which hit on, counted from 1.
    pub first: u64,
    /// Until which.
    pub last: u64,
    /// What.
    pub action: Action,
}

impl Plan {
    /// At one hit.
    #[must_use]
    pub const fn once(point: Point, hit: u64, action: Action) -> Self {
        Self { point, first: hit, last: hit, action }
    }

    /// At every hit.
    #[must_use]
    pub const fn always(point: Point, action: Action) -> Self {
        Self { point, first: 1, last: u64::MAX, action }
    }
}

/// What happens by chance, the same for the same seed and order of hits: so many of a thousand
/// hits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chaos {
    /// What chance is drawn from.
    pub seed: u64,
    /// Errors that may be tried again.
    pub fails: u64,
    /// Delays of up to 20 ms.
    pub delays: u64,
    /// Deaths, of a hundred thousand hits.
    pub kills: u64,
}

/// How often each point was hit.
pub type Hits = BTreeMap<Point, u64>;

#[derive(Default)]
struct State {
    plans: Vec<Plan>,
    chaos: Option<(Chaos, u64)>,
    hits: Hits,
    trace: Option<std::fs::File>,
}

/// Whether anything is armed or counted: a look at this is all that an idle point costs.
static ACTIVE: AtomicBool = AtomicBool::new(false);
/// How many times shorter waits are.
static HURRY: AtomicU32 = AtomicU32::new(1);
static STATE: Mutex<Option<State>> = Mutex::new(None);

fn state() -> MutexGuard<'static, Option<State>> {
    // Replaced whole, so good even after a panic.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn change(change: impl FnOnce(&mut State)) {
    change(state().get_or_insert_default());
    ACTIVE.store(true, Ordering::Release);
}

/// Arms these and nothing else, and begins to count.
pub fn arm(plans: &[Plan]) {
    change(|state| {
        state.plans = plans.to_vec();
        state.chaos = None;
        state.hits.clear();
    });
}

/// Lets things go wrong by chance.
pub fn chaos(chaos: Chaos) {
    change(|state| state.chaos = Some((chaos, chaos.seed)));
}

/// Nothing goes wrong any more, and nothing is counted.
pub fn disarm() {
    *state() = None;
    ACTIVE.store(false, Ordering::Release);
}

/// How often each point was hit since something was armed.
#[must_use]
pub fn hits() -> Hits {
    state().as_ref().map(|state| state.hits.clone()).unwrap_or_default()
}

/// Makes every pause before another attempt so many times shorter.
pub fn hurry(times: u32) {
    HURRY.store(times.max(1), Ordering::Relaxed);
}

/// How long to wait before another attempt: as long as it was asked to, but where a test is
/// in a hurry.
#[must_use]
pub fn wait(time: Duration) -> Duration {
    time / HURRY.load(Ordering::Relaxed)
}

/// Takes what the environment says to arm.
///
/// # Panics
/// When it can't be understood: a test that arms nothing would prove nothing.
pub fn arm_from_env() {
    if let Ok(times) = std::env::var("CLAWFARM_FAILPOINTS_HURRY") {
        hurry(times.parse().expect("CLAWFARM_FAILPOINTS_HURRY is a number"));
    }
    let text = std::env::var(ENV).unwrap_or_default();
    let plans: Vec<Plan> = text.split(',').filter(|part| !part.is_empty()).map(parse).collect();
    let trace = std::env::var_os(TRACE).map(|path| {
        std::fs::OpenOptions::new().append(true).create(true).open(path).expect("the trace can be written")
    });
    if !plans.is_empty() || trace.is_some() {
        change(|state| {
            state.plans = plans;
            state.trace = trace;
        });
    }
}

fn parse(text: &str) -> Plan {
    let parsed = || {
        let (at, action) = text.split_once('=')?;
        let (name, hits) = at.split_once('@')?;
        let (first, last) = hits.split_once('-').unwrap_or((hits, hits));
        let point = Point::ALL.iter().copied().find(|point| point.as_str() == name)?;
        let action = match action.split_once(':') {
            None if action == "kill" => Action::Kill,
            Some(("delay", millis)) => Action::Delay(Duration::from_millis(millis.parse().ok()?)),
            Some(("fail", "unavailable")) => Action::Fail(Code::Unavailable),
            Some(("fail", "unsupported")) => Action::Fail(Code::Unsupported),
            _ => return None,
        };
        Some(Plan { point, first: first.parse().ok()?, last: last.parse().ok()?, action })
    };
    parsed().unwrap_or_else(|| panic!("{ENV}: '{text}' can't be understood"))
}

/// What is to happen at this hit.
fn due(point: Point) -> Option<Action> {
    let mut state = state();
    let state = state.as_mut()?;
    let hit = state.hits.entry(point).or_insert(0);
    *hit += 1;
    let hit = *hit;
    if let Some(trace) = &mut state.trace {
        writeln!(trace, "{}", point.as_str()).expect("the trace can be written");
    }
    let planned = state.plans.iter().find(|p| p.point == point && (p.first..=p.last).contains(&hit));
    if let Some(plan) = planned {
        return Some(plan.action);
    }
    let (chaos, draw) = state.chaos.as_mut()?;
    let (what, how) = (next(draw) % 100_000, next(draw));
    let fails = chaos.fails * 100;
    let delays = fails + chaos.delays * 100;
    match what {
        n if n < chaos.kills => Some(Action::Kill),
        n if n < chaos.kills + fails => Some(Action::Fail(Code::Unavailable)),
        n if n < chaos.kills + delays => Some(Action::Delay(Duration::from_millis(how % 20))),
        _ => None,
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and the same everywhere.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A point was reached, on a task.
///
/// # Errors
/// When it is armed to fail.
pub async fn hit(point: Point) -> Result<()> {
    if !ACTIVE.load(Ordering::Acquire) {
        return Ok(());
    }
    match due(point) {
        Some(Action::Delay(time)) => {
            tokio::time::sleep(time).await;
            Ok(())
        }
        Some(action) => act(point, action),
        None => Ok(()),
    }
}

/// A point was reached, on a thread that may block.
///
/// # Errors
/// When it is armed to fail.
#[expect(clippy::disallowed_methods, reason = "its callers are on a thread that may block")]
pub fn hit_blocking(point: Point) -> Result<()> {
    if !ACTIVE.load(Ordering::Acquire) {
        return Ok(());
    }
    match due(point) {
        Some(Action::Delay(time)) => {
            std::thread::sleep(time);
            Ok(())
        }
        Some(action) => act(point, action),
        None => Ok(()),
    }
}

fn act(point: Point, action: Action) -> Result<()> {
    match action {
        Action::Fail(code) => {
            Err(Error::new(code, format!("a test lets {} fail", point.as_str())).fix("end the test"))
        }
        Action::Kill => {
            let own = rustix::process::getpid();
            // It can't be refused; and nothing of this process may run after it.
            let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
            loop {
                std::thread::park();
            }
        }
        Action::Delay(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_plan_counts_hits_and_chaos_is_the_same_for_the_same_seed() {
        arm(&[Plan { point: Point::Render, first: 2, last: 3, action: Action::Fail(Code::Unsupported) }]);
        let mut failed = Vec::new();
        for _ in 0..4 {
            failed.push(hit(Point::Render).await.is_err());
        }
        assert_eq!(failed, [false, true, true, false]);
        assert_eq!(hits()[&Point::Render], 4);
        let mut runs = Vec::new();
        for _ in 0..2 {
            arm(&[]);
            chaos(Chaos { seed: 7, fails: 300, delays: 0, kills: 0 });
            runs.push((0..100).map(|_| hit_blocking(Point::Reach).is_err()).collect::<Vec<_>>());
        }
        assert_eq!(runs[0], runs[1]);
        assert!((10..60).contains(&runs[0].iter().filter(|failed| **failed).count()));
        disarm();
        assert!(hits().is_empty());
        let plan = parse("failpoint.store.after-commit@3=kill");
        assert_eq!(plan, Plan::once(Point::StoreAfterCommit, 3, Action::Kill));
    }

    #[test]
    fn names_are_unique_and_can_be_searched_for() {
        let mut names: Vec<_> = Point::ALL.iter().map(|p| p.as_str()).collect();
        assert!(names.iter().all(|name| name.starts_with("failpoint.")));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Point::ALL.len());
    }
}
