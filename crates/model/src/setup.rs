//! How far the commands are that set a machine up.
//!
//! A command is run once. What is written down before it begins and after it ends tells one that
//! was cut off by a kill from one that never began, so that nothing is run twice in silence.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Code, Error, Result};
use crate::time::Timestamp;

/// The commands that set a machine up, as far as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Setup {
    /// Whether a client runs them, whose person may answer what they ask; else the server does.
    pub attended: bool,
    /// Since when the next one could be run: the machine has booted, or the one before it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Timestamp>,
    /// Each, in order.
    pub steps: Vec<SetupStep>,
}

/// One command that sets a machine up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SetupStep {
    /// How far it is.
    pub state: StepState,
    /// Its exit code, once it ended: 128 and the signal's number when one ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// When it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended, or was found to have been cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The last of what it printed, where the server ran it and it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tail: String,
}

/// How far a command is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Not begun.
    #[default]
    Pending,
    /// It runs.
    Running,
    /// It exited with 0.
    Done,
    /// It exited with another code.
    Failed,
    /// It was begun, and whoever ran it went away before its end: nobody knows how far it came.
    CutOff,
    /// It failed or was cut off, and somebody said to go on all the same.
    Ignored,
}

impl StepState {
    /// The name as it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::CutOff => "cut off",
            Self::Ignored => "ignored",
        }
    }

    /// Whether the next one may be run after it.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Ignored)
    }
}

impl Setup {
    /// So many commands, none begun.
    #[must_use]
    pub fn new(commands: usize, attended: bool) -> Self {
        Self { attended, waiting_since: None, steps: vec![SetupStep::default(); commands] }
    }

    /// The first that is not over, counted from 0.
    #[must_use]
    pub fn next(&self) -> Option<usize> {
        self.steps.iter().position(|step| !step.state.is_over())
    }

    /// Whether all are over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.next().is_none()
    }

    /// Writes down that a command begins.
    ///
    /// # Errors
    /// `Conflict` on `setup` when it is not its turn; says how far it is.
    pub fn begin(&mut self, at: usize, now: Timestamp) -> Result<()> {
        let step = self.turn(at)?;
        if step.state != StepState::Pending {
            return Err(conflict(at, &format!("is {} already", step.state.as_str())));
        }
        *step = SetupStep { state: StepState::Running, started_at: Some(now), ..SetupStep::default() };
        Ok(())
    }

    /// Writes down how a command ended that runs; `None` when nobody saw it. One that does not run
    /// any more is left as it is.
    pub fn end(&mut self, at: usize, code: Option<i32>, tail: String, now: Timestamp) {
        let Some(step) = self.steps.get_mut(at).filter(|step| step.state == StepState::Running) else {
            return;
        };
        step.state = match code {
            Some(0) => StepState::Done,
            Some(_) => StepState::Failed,
            None => StepState::CutOff,
        };
        step.exit_code = code;
        step.ended_at = Some(now);
        if step.state != StepState::Done {
            step.tail = tail;
        }
        self.waiting_since = Some(now);
    }

    /// Lets a command that failed or was cut off be, so that the next one may run.
    ///
    /// # Errors
    /// `Conflict` on `setup` for one that did neither.
    pub fn ignore(&mut self, at: usize, now: Timestamp) -> Result<()> {
        self.stuck(at)?.state = StepState::Ignored;
        self.waiting_since = Some(now);
        Ok(())
    }

    /// Lets a command that failed or was cut off be run once more.
    ///
    /// # Errors
    /// `Conflict` on `setup` for one that did neither.
    pub fn again(&mut self, at: usize, now: Timestamp) -> Result<()> {
        *self.stuck(at)? = SetupStep::default();
        self.waiting_since = Some(now);
        Ok(())
    }

    /// The one that could not be begun: as if nobody had asked.
    pub fn not_begun(&mut self, at: usize, now: Timestamp) {
        if let Some(step) = self.steps.get_mut(at).filter(|step| step.state == StepState::Running) {
            *step = SetupStep::default();
            self.waiting_since = Some(now);
        }
    }

    fn stuck(&mut self, at: usize) -> Result<&mut SetupStep> {
        let step = self.turn(at)?;
        match step.state {
            StepState::Failed | StepState::CutOff => Ok(step),
            state => Err(conflict(at, &format!("is {}", state.as_str()))),
        }
    }

    /// The step, when it is the first that is not over.
    fn turn(&mut self, at: usize) -> Result<&mut SetupStep> {
        let next = self.next();
        let all = self.steps.len();
        match self.steps.get_mut(at) {
            None => Err(conflict(at, &format!("does not exist: there are {all}"))),
            Some(step) if Some(at) != next && step.state.is_over() => {
                Err(conflict(at, &format!("is {} already", step.state.as_str())))
            }
            Some(_) if Some(at) != next => Err(conflict(at, "is not the next one")),
            Some(step) => Ok(step),
        }
    }
}

fn conflict(at: usize, why: &str) -> Error {
    Error::new(Code::Conflict, format!("setup command {} {why}", at + 1))
        .field("setup")
        .fix("see how far they are: clawfarm status")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_millis(5_000)
    }

    fn states(setup: &Setup) -> Vec<&'static str> {
        setup.steps.iter().map(|step| step.state.as_str()).collect()
    }

    #[test]
    fn commands_are_run_in_order_and_once() {
        let mut setup = Setup::new(3, true);
        assert_eq!(setup.begin(1, now()).unwrap_err().message(), "setup command 2 is not the next one");
        assert!(setup.begin(3, now()).unwrap_err().message().contains("does not exist: there are 3"));
        setup.begin(0, now()).unwrap();
        assert!(setup.begin(0, now()).unwrap_err().message().contains("is running already"));
        assert!(setup.ignore(0, now()).unwrap_err().message().contains("is running"));
        setup.end(0, Some(0), "not kept".into(), now());
        assert_eq!((setup.steps[0].tail.as_str(), setup.waiting_since), ("", Some(now())));
        assert!(setup.begin(0, now()).unwrap_err().message().contains("is done already"));
        setup.end(0, Some(7), String::new(), now());
        assert_eq!(setup.steps[0].exit_code, Some(0), "it ended once");

        setup.begin(1, now()).unwrap();
        setup.end(1, Some(7), "why".into(), now());
        assert_eq!((setup.steps[1].exit_code, setup.steps[1].tail.as_str()), (Some(7), "why"));
        assert!(setup.begin(1, now()).unwrap_err().message().contains("is failed already"));
        assert!(setup.begin(2, now()).is_err(), "nothing goes on by itself");
        setup.again(1, now()).unwrap();
        assert_eq!(states(&setup), ["done", "pending", "pending"]);
        setup.begin(1, now()).unwrap();
        setup.end(1, None, String::new(), now());
        assert_eq!(states(&setup), ["done", "cut off", "pending"]);
        setup.ignore(1, now()).unwrap();
        setup.begin(2, now()).unwrap();
        setup.not_begun(2, now());
        assert_eq!(states(&setup), ["done", "ignored", "pending"]);
        assert!(setup.again(2, now()).is_err());
        setup.begin(2, now()).unwrap();
        setup.end(2, Some(0), String::new(), now());
        assert!(setup.is_over());
        let text = serde_json::to_string(&setup).unwrap();
        assert_eq!(serde_json::from_str::<Setup>(&text).unwrap(), setup);
    }
}
