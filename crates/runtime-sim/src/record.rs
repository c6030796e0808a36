//! One simulated claw, as its file holds it, and what it is at a given time.
//!
//! What will happen by itself (it listens, its probe passes, it crashes, it has ended after
//! being asked to) is written down with its time when it is decided. So time passes without
//! any task, and a server that is killed changes nothing of it.

use std::time::Duration;

use clawfarm_model::observed::{Confinement, Exit};
use clawfarm_model::{ClawId, Code, Error, Observation, ObservedState, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::behaviour::{Behaviour, Blocker, ClawBehaviour};
use crate::loaded::{Break, Loaded};

/// A simulated claw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: ClawId,
    /// Tells one life of an id from the next: when it was made, in nanoseconds.
    pub(crate) born: u64,
    /// Grows with every act.
    pub(crate) rev: u64,
    /// The port its gateway was given.
    pub(crate) port: u16,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: f64,
    /// The version of its software.
    #[serde(default)]
    pub(crate) version: String,
    /// The run it was last started for; 0 before the first.
    pub(crate) run: i64,
    /// How often it was started.
    pub(crate) starts: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) confinement: Option<Confinement>,
    pub(crate) life: Life,
    /// What the store knew of it, for a store that was lost.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub(crate) kept: serde_json::Value,
}

/// Whether it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Life {
    /// Its place is there; it was never started.
    Prepared,
    /// It was started. It may have ended since: see [`Up::ends`].
    Up(Up),
    /// It ended, its memory saved.
    Saved {
        /// What was running.
        up: Box<Up>,
        /// How it ended.
        exit: End,
    },
}

/// What a launch says of its gateway.
#[derive(Debug, Default)]
pub(crate) struct Gateway {
    pub(crate) token_sha256: Option<String>,
    pub(crate) user_header: Option<String>,
    pub(crate) keys: Vec<(String, String)>,
    /// What its configuration says, where it is one.
    pub(crate) loaded: Option<Box<Loaded>>,
    /// How the start fails.
    pub(crate) breaks: Option<Break>,
}

/// A started claw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Up {
    pub(crate) started_at: i64,
    /// When its gateway listens.
    pub(crate) listens_at: i64,
    /// When its startup probe passes.
    pub(crate) ready_at: i64,
    /// When and how it ends, as far as that is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ends: Option<End>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) frozen_at: Option<i64>,
    /// SHA-256 of the token that its gateway asks for, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_sha256: Option<String>,
    /// The header that it believes about who a request is from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user_header: Option<String>,
    /// The keys that clawfarm made for it, as a process has them in its environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) keys: Vec<(String, String)>,
    /// The configuration that it was started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) loaded: Option<Box<Loaded>>,
    /// The suspension its gateway was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) suspension: Option<Suspension>,
}

/// The end of a claw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signal: Option<i32>,
    #[serde(default)]
    pub(crate) out_of_memory: bool,
    #[serde(default)]
    pub(crate) requested: bool,
}

/// A prepared suspension.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Suspension {
    pub(crate) id: String,
    /// The name it was asked for under; whoever asks again under it renews it.
    pub(crate) request_id: String,
    pub(crate) expires_at: i64,
    /// When the work that was under way is done; `None`: not while it is configured busy.
    pub(crate) drained_at: Option<i64>,
}

/// What a claw is at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View<'a> {
    Prepared,
    Running(&'a Up),
    Frozen(&'a Up),
    Ended(&'a Up, &'a End),
}

impl Eq for Up {}
impl Eq for End {}

/// How long a prepared suspension holds, in milliseconds (OpenClaw 2026.9.6: two minutes).
const LEASE_MS: i64 = 120_000;
/// What OpenClaw ends with whose configuration is refused.
const REFUSED: i32 = 78;
/// SIGKILL.
const KILLED: i32 = 9;

impl Record {
    pub(crate) fn view(&self, now: i64) -> View<'_> {
        match &self.life {
            Life::Prepared => View::Prepared,
            Life::Saved { up, exit } => View::Ended(up, exit),
            Life::Up(up) => match (&up.ends, up.frozen_at) {
                // Nothing happens to a frozen claw but what is done to it from outside.
                (Some(end), None) if end.at <= now => View::Ended(up, end),
                (Some(end), Some(frozen)) if end.at <= frozen => View::Ended(up, end),
                (_, Some(_)) => View::Frozen(up),
                (_, None) => View::Running(up),
            },
        }
    }

    pub(crate) fn is_up(&self, now: i64) -> bool {
        matches!(self.view(now), View::Running(_) | View::Frozen(_))
    }

    pub(crate) fn observe(&self, now: i64) -> Observation {
        let (state, up, exit) = match self.view(now) {
            View::Prepared => (ObservedState::Prepared, None, None),
            View::Running(up) => (ObservedState::Running, Some(up), None),
            View::Frozen(up) => (ObservedState::Frozen, Some(up), None),
            View::Ended(up, end) => (ObservedState::Exited, Some(up), Some(end.exit(&self.id))),
        };
        Observation {
            id: self.id.clone(),
            state,
            run: self.run,
            pid: None,
            started_at: up.map(|up| Timestamp::from_millis(up.started_at)),
            exit,
            confinement: self.is_up(now).then(|| self.confinement.clone().unwrap_or_else(nothing_confines)),
            port: self.is_up(now).then_some(self.port),
            image: None,
            trouble: None,
        }
    }

    /// Starts it. Its future is drawn here.
    pub(crate) fn start(
        &mut self,
        run: i64,
        gateway: Gateway,
        now: i64,
        behaviour: &Behaviour,
        claw: &ClawBehaviour,
    ) {
        let draw = |what, range| {
            i64::try_from(behaviour.draw(range, &[self.id.as_str(), what], self.starts)).unwrap_or(i64::MAX)
        };
        let boot = claw.boot_ms.map_or(0, |range| draw("boot", range));
        let listen = claw.listen_ms.map_or(boot / 2, |range| draw("listen", range));
        let crashes = claw.crash_times.is_none_or(|times| self.starts < times);
        let ends = claw.crash_after_ms.filter(|_| crashes).map(|range| End {
            at: now.saturating_add(draw("crash", range)),
            code: (!claw.out_of_memory.unwrap_or(false)).then(|| claw.exit_code.unwrap_or(1)),
            signal: claw.out_of_memory.unwrap_or(false).then_some(KILLED),
            out_of_memory: claw.out_of_memory.unwrap_or(false),
            requested: false,
        });
        let ends = match gateway.breaks {
            Some(Break::Exit) => Some(End {
                at: now,
                code: Some(REFUSED),
                signal: None,
                out_of_memory: false,
                requested: false,
            }),
            _ => ends,
        };
        let never = gateway.breaks == Some(Break::Ready);
        self.run = run;
        self.starts += 1;
        self.confinement.clone_from(&claw.confinement);
        self.life = Life::Up(Up {
            started_at: now,
            listens_at: now.saturating_add(listen),
            ready_at: if never { i64::MAX } else { now.saturating_add(boot) },
            ends,
            frozen_at: None,
            token_sha256: gateway.token_sha256,
            user_header: gateway.user_header,
            keys: gateway.keys,
            loaded: gateway.loaded,
            suspension: None,
        });
    }

    /// Asks it to end, as SIGTERM does, with SIGKILL after the grace. Returns when it will
    /// have ended, and whether that is new.
    pub(crate) fn stop(
        &mut self,
        now: i64,
        grace: Duration,
        behaviour: &Behaviour,
        claw: &ClawBehaviour,
    ) -> Option<(i64, bool)> {
        if !self.is_up(now) {
            return None;
        }
        let took =
            claw.stop_ms.map_or(0, |range| behaviour.draw(range, &[self.id.as_str(), "stop"], self.starts));
        let grace = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let killed = took > grace;
        let at = now.saturating_add(i64::try_from(took.min(grace)).unwrap_or(i64::MAX));
        self.thaw(now);
        let Life::Up(up) = &mut self.life else { return None };
        if let Some(end) = &up.ends
            && end.requested
            && end.at <= at
        {
            return Some((end.at, false));
        }
        up.ends = Some(End {
            at,
            code: (!killed).then_some(0),
            signal: killed.then_some(KILLED),
            out_of_memory: false,
            requested: true,
        });
        Some((at, true))
    }

    /// Ends it at once. Returns whether there was something to end.
    pub(crate) fn kill(&mut self, now: i64) -> bool {
        if !self.is_up(now) {
            return false;
        }
        self.thaw(now);
        let Life::Up(up) = &mut self.life else { return false };
        up.ends =
            Some(End { at: now, code: None, signal: Some(KILLED), out_of_memory: false, requested: true });
        true
    }

    /// Freezes it. Returns whether that is new.
    pub(crate) fn freeze(&mut self, now: i64) -> Result<bool> {
        if !self.is_up(now) {
            return Err(self.not_up());
        }
        let Life::Up(up) = &mut self.life else { return Err(self.not_up()) };
        let new = up.frozen_at.is_none();
        up.frozen_at = Some(up.frozen_at.unwrap_or(now));
        Ok(new)
    }

    /// Lets it go on: its own time stood still meanwhile. Returns whether that is new.
    pub(crate) fn thaw(&mut self, now: i64) -> bool {
        let Life::Up(up) = &mut self.life else { return false };
        let Some(frozen_at) = up.frozen_at.take() else { return false };
        let slept = now.saturating_sub(frozen_at).max(0);
        up.listens_at = up.listens_at.saturating_add(slept);
        up.ready_at = up.ready_at.saturating_add(slept);
        if let Some(end) = &mut up.ends {
            end.at = end.at.saturating_add(slept);
        }
        true
    }

    /// Saves its memory and ends it. Returns whether that is new.
    pub(crate) fn save(&mut self, now: i64) -> Result<bool> {
        if matches!(self.life, Life::Saved { .. }) {
            return Ok(false);
        }
        if !self.is_up(now) {
            return Err(self.not_up());
        }
        let Life::Up(up) = &self.life else { return Err(self.not_up()) };
        let mut up = up.clone();
        // In the snapshot its time stands still.
        up.frozen_at = Some(up.frozen_at.unwrap_or(now));
        let exit = End { at: now, code: Some(0), signal: None, out_of_memory: false, requested: true };
        self.life = Life::Saved { up: Box::new(up), exit };
        Ok(true)
    }

    /// Goes on from the saved memory. Returns whether that is new.
    pub(crate) fn restore(&mut self, now: i64) -> Result<bool> {
        match &self.life {
            Life::Saved { up, .. } => {
                self.life = Life::Up((**up).clone());
                self.thaw(now);
                Ok(true)
            }
            _ if self.is_up(now) => Ok(false),
            _ => Err(Error::new(Code::Gone, format!("'{}' has no saved memory to go on from", self.id))
                .fix("start it instead")),
        }
    }

    /// Its gateway is asked to take no further work; a suspension in force is renewed.
    pub(crate) fn suspend_gateway(
        &mut self,
        now: i64,
        request_id: &str,
        drained_at: Option<i64>,
    ) -> Option<&Suspension> {
        let id = format!("sim-{}-{}", self.starts, self.rev);
        let Life::Up(up) = &mut self.life else { return None };
        let expires_at = now.saturating_add(LEASE_MS);
        match up.suspension.take() {
            Some(held) if now < held.expires_at => {
                up.suspension = Some(Suspension { expires_at, ..held });
            }
            _ => {
                let request_id = request_id.to_owned();
                up.suspension = Some(Suspension { id, request_id, expires_at, drained_at });
            }
        }
        up.suspension.as_ref()
    }

    /// Its gateway takes work again. Returns whether that is new.
    pub(crate) fn resume_gateway(&mut self) -> bool {
        let Life::Up(up) = &mut self.life else { return false };
        up.suspension.take().is_some()
    }

    pub(crate) fn not_up(&self) -> Error {
        Error::new(Code::Gone, format!("'{}' does not run", self.id)).fix("start it first")
    }
}

impl Up {
    /// The suspension in force.
    pub(crate) fn suspension(&self, now: i64) -> Option<&Suspension> {
        self.suspension.as_ref().filter(|s| now < s.expires_at)
    }
}

impl Suspension {
    /// What its gateway still works on.
    pub(crate) fn blockers<'a>(&self, now: i64, busy: &'a [Blocker]) -> &'a [Blocker] {
        if self.drained_at.is_some_and(|at| at <= now) { &[] } else { busy }
    }
}

impl End {
    fn exit(&self, id: &ClawId) -> Exit {
        let log_tail = match (self.requested, self.out_of_memory, self.code) {
            (true, ..) => String::new(),
            (false, true, _) => format!("simulated claw {id} went over its memory limit"),
            (false, false, code) => {
                format!("simulated claw {id} crashed with exit code {}", code.unwrap_or_default())
            }
        };
        Exit {
            code: self.code,
            signal: self.signal,
            at: Timestamp::from_millis(self.at),
            out_of_memory: self.out_of_memory,
            requested: self.requested,
            log_tail,
        }
    }
}

fn nothing_confines() -> Confinement {
    Confinement {
        freezer: Some("simulated".to_owned()),
        missing: vec!["the claw is simulated: nothing runs that could be confined".to_owned()],
        ..Confinement::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            id: ClawId::new("a-12345").unwrap(),
            born: 1,
            rev: 1,
            port: 20_000,
            memory_mib: 64,
            cpus: 1.0,
            version: "1".into(),
            run: 0,
            starts: 0,
            confinement: None,
            life: Life::Prepared,
            kept: serde_json::Value::Null,
        }
    }

    fn started(claw: &ClawBehaviour) -> Record {
        let mut record = record();
        record.start(1, Gateway::default(), 1_000, &Behaviour::default(), claw);
        record
    }

    #[test]
    fn time_alone_makes_it_crash_and_a_freeze_holds_time() {
        let claw = ClawBehaviour {
            crash_after_ms: Some((500, 500)),
            exit_code: Some(78),
            ..ClawBehaviour::default()
        };
        let mut record = started(&claw);
        assert_eq!(record.observe(1_499).state, ObservedState::Running);
        let seen = record.observe(1_500);
        assert_eq!(seen.state, ObservedState::Exited);
        let exit = seen.exit.unwrap();
        assert_eq!((exit.code, exit.requested), (Some(78), false));
        assert!(exit.log_tail.contains("78"));

        assert!(record.freeze(1_200).unwrap());
        assert_eq!(record.observe(9_000).state, ObservedState::Frozen);
        assert!(!record.freeze(2_000).unwrap());
        assert!(record.thaw(9_200));
        assert_eq!(record.observe(9_499).state, ObservedState::Running);
        assert_eq!(record.observe(9_500).state, ObservedState::Exited);
        assert_eq!(record.freeze(9_500).unwrap_err().code(), Code::Gone);
    }

    #[test]
    fn a_claw_that_will_not_end_is_killed_after_its_grace() {
        let claw = ClawBehaviour { stop_ms: Some((10_000, 10_000)), ..ClawBehaviour::default() };
        let behaviour = Behaviour::default();
        let mut record = started(&claw);
        let grace = Duration::from_secs(2);
        assert_eq!(record.stop(1_000, grace, &behaviour, &claw), Some((3_000, true)));
        assert_eq!(record.stop(1_500, grace, &behaviour, &claw), Some((3_000, false)));
        assert_eq!(record.observe(2_999).state, ObservedState::Running);
        let exit = record.observe(3_000).exit.unwrap();
        assert_eq!((exit.signal, exit.requested), (Some(9), true));
        assert_eq!(record.stop(3_000, grace, &behaviour, &claw), None);
        assert!(!record.kill(3_000));
    }

    #[test]
    fn a_saved_claw_goes_on_where_it_was() {
        let claw = ClawBehaviour { boot_ms: Some((100, 100)), ..ClawBehaviour::default() };
        let mut record = started(&claw);
        assert!(record.save(1_040).unwrap());
        assert!(!record.save(1_050).unwrap());
        assert_eq!(record.observe(5_000).state, ObservedState::Exited);
        assert!(record.restore(5_000).unwrap());
        assert!(!record.restore(5_001).unwrap());
        let View::Running(up) = record.view(5_000) else { panic!("{record:?}") };
        assert_eq!(up.ready_at, 5_060);
        assert!(record.kill(5_010));
        assert_eq!(record.restore(5_011).unwrap_err().code(), Code::Gone);
    }
}
