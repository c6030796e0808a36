//! Targets that take what they are asked and do not answer.
//!
//! Each look at an instance there lasts until its limit, in one of the few places that there are
//! for looks: a hundred instances on a stuck engine would hold up those of every other target. So
//! once several looks in a row were in vain, one at a time is enough to find out whether it
//! answers again; all others are told at once that it does not.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clawfarm_model::name::TargetName;
use clawfarm_model::{Code, Error, Result};

/// Looks in vain, without one that was answered between them, after which the target is in doubt.
/// One instance that hangs by itself (its keeper is stopped) says nothing of the others.
const IN_VAIN: u32 = 4;

/// What is in doubt.
#[derive(Default)]
pub(crate) struct Doubts(Mutex<HashMap<TargetName, Doubt>>);

#[derive(Default)]
struct Doubt {
    in_vain: u32,
    /// Somebody asks just now.
    asking: bool,
}

impl Doubts {
    fn lock(&self) -> MutexGuard<'_, HashMap<TargetName, Doubt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks a target something that it has so long for.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer, or is known not to; else what it answers.
    pub(crate) async fn ask<T>(
        &self,
        target: &TargetName,
        limit: Duration,
        asked: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let silent = || Error::new(Code::Unavailable, format!("target '{target}' does not answer"));
        let Some(_turn) = self.turn(target) else { return Err(silent()) };
        match tokio::time::timeout(limit, asked).await {
            Ok(answer) => {
                self.lock().remove(target);
                answer
            }
            Err(_) => {
                self.lock().entry(target.clone()).or_default().in_vain += 1;
                Err(silent())
            }
        }
    }

    /// Leave to ask; of a target in doubt, for one at a time.
    fn turn<'a>(&'a self, target: &'a TargetName) -> Option<Turn<'a>> {
        let mut doubts = self.lock();
        let Some(doubt) = doubts.get_mut(target).filter(|doubt| doubt.in_vain >= IN_VAIN) else {
            return Some(Turn { doubts: None, target });
        };
        if doubt.asking {
            return None;
        }
        doubt.asking = true;
        Some(Turn { doubts: Some(self), target })
    }
}

/// Leave to ask, given back however the asking ends.
struct Turn<'a> {
    doubts: Option<&'a Doubts>,
    target: &'a TargetName,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(doubt) = self.doubts.map(Doubts::lock).as_mut().and_then(|all| all.get_mut(self.target)) {
            doubt.asking = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(15);

    async fn in_vain(doubts: &Doubts, target: &TargetName) -> Duration {
        let begun = tokio::time::Instant::now();
        let error = doubts.ask(target, LIMIT, std::future::pending::<Result<()>>()).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_that_is_stuck_is_asked_by_one_at_a_time() {
        let (doubts, stuck) = (Doubts::default(), TargetName::new("docker").unwrap());
        let at_once =
            || async { futures::future::join_all((0..100).map(|_| in_vain(&doubts, &stuck))).await };
        assert!(at_once().await.iter().all(|took| *took == LIMIT), "nobody knew yet");
        let next = at_once().await;
        assert_eq!(next.iter().filter(|took| took.is_zero()).count(), 99, "{next:?}");
        // Others are none of its business.
        let other = TargetName::new("local").unwrap();
        doubts.ask(&other, LIMIT, async { Ok(()) }).await.unwrap();
        // Whoever asks may go away.
        let gone = doubts.ask(&stuck, LIMIT, std::future::pending::<Result<()>>());
        assert!(tokio::time::timeout(LIMIT / 2, gone).await.is_err());
        // It answers again, be it with an error: everybody asks.
        let error =
            doubts.ask(&stuck, LIMIT, async { Err::<(), _>(Error::not_found("instance", "x")) }).await;
        assert_eq!(error.unwrap_err().code(), Code::NotFound);
        assert!(at_once().await.iter().all(|took| *took == LIMIT));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_among_others_that_answer_puts_nothing_in_doubt() {
        let (doubts, target) = (Doubts::default(), TargetName::new("local").unwrap());
        for _ in 0..2 * IN_VAIN {
            assert_eq!(in_vain(&doubts, &target).await, LIMIT);
            doubts.ask(&target, LIMIT, async { Ok(()) }).await.unwrap();
        }
    }
}
