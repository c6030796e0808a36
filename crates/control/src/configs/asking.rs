//! Asking running claws whether they would take what is to go out, before anybody has it.
//!
//! Our own checks know what clawfarm writes; what a type's own settings (`native`) may be, only
//! the type knows. So one running claw of each kind is asked: those of one type and version, in
//! one place, that would be configured the same. Nothing of it lasts: what is asked goes to a
//! command beside the claw, which takes away what it made when whoever asked goes, too.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use clawfarm_adapters::{ConfigCheck, ConfigFault, Judgement};
use clawfarm_model::{ClawId, Code, Error, Instance, InstanceSpec, Result};
use clawfarm_runtime::{Exec, ExecInput, ExecOutput, ExecRequest, NoProgress};
use futures::StreamExt;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::members::is_well;
use crate::core::Core;
use crate::sharing::held::{Claim, Hold};

/// So many kinds are asked about.
const MOST: usize = 24;
/// So many claws are asked at a time: each starts a program for it, where many may be on one
/// machine.
const AT_ONCE: usize = 4;
/// So many claws of a kind are tried until one answers.
const CANDIDATES: usize = 3;
/// How long one answer may take: 2 to 5 s on an idle machine. The command gives up before.
const LIMIT: Duration = Duration::from_secs(55);
/// How long all answers together may take: somebody waits for them.
const TOGETHER: Duration = Duration::from_secs(90);
/// The longest answer, in bytes.
const ANSWER_MAX: usize = 1 << 20;

/// What came of asking about a kind.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    /// It takes it, or is of a type that can't be asked.
    Fine,
    /// This claw does not take it.
    Refuses(ClawId, Arc<[ConfigFault]>),
    /// Nobody was asked, or nobody answered, for this reason.
    Not(Arc<str>),
}

/// Instances that would be configured the same.
#[derive(Default)]
struct Kind {
    /// How; of those that somebody can be asked about.
    spec: Option<InstanceSpec>,
    /// Some that are up and well.
    up: Vec<Instance>,
}

/// Who is to be asked about what.
#[derive(Default)]
pub(super) struct Asking {
    kinds: Vec<Kind>,
    known: HashMap<[u8; 32], usize>,
    /// How many of the kinds somebody can be asked about.
    asked: usize,
}

impl Asking {
    /// Which kind an instance is of that would have this specification.
    pub(super) fn kind(&mut self, instance: &Instance, spec: &InstanceSpec) -> Result<usize> {
        let same =
            (&spec.claw_type, &spec.version, &spec.image, &spec.target, spec.config_mode, &spec.config);
        let text = serde_json::to_vec(&same)
            .map_err(|e| Error::internal("a specification can't be written as JSON", e))?;
        let next = self.kinds.len();
        let kind = *self.known.entry(Sha256::digest(&text).into()).or_insert(next);
        if kind == next {
            self.kinds.push(Kind::default());
        }
        let of_it = &mut self.kinds[kind];
        if of_it.spec.is_none() && self.asked < MOST && is_well(instance) {
            of_it.spec = Some(spec.clone());
            self.asked += 1;
        }
        Ok(kind)
    }

    /// Notes one of a kind as one that can be asked.
    pub(super) fn candidate(&mut self, kind: usize, instance: &Instance) {
        let of_it = &mut self.kinds[kind];
        if of_it.spec.is_some() && of_it.up.len() < CANDIDATES && is_well(instance) {
            of_it.up.push(instance.clone());
        }
    }

    /// Asks, of each kind one that answers.
    pub(super) async fn ask(self, core: &Core) -> Vec<Asked> {
        let until = Instant::now() + TOGETHER;
        let full = self.asked >= MOST;
        futures::stream::iter(self.kinds)
            .map(|kind| async move {
                match &kind.spec {
                    Some(spec) => core.ask_one_of(&kind.up, spec, until).await,
                    None if full => Asked::Not("there are more kinds of them than are asked".into()),
                    None => Asked::Not("none of those that would be configured so is up and well".into()),
                }
            })
            .buffered(AT_ONCE)
            .collect()
            .await
    }
}

impl Core {
    async fn ask_one_of(&self, all: &[Instance], spec: &InstanceSpec, until: Instant) -> Asked {
        let mut why = Asked::Not("none of them is up".into());
        for instance in all {
            let until = until.min(Instant::now() + LIMIT);
            let asked = tokio::time::timeout_at(until, self.ask_about(instance, spec)).await;
            match asked {
                Ok(Ok(asked @ (Asked::Fine | Asked::Refuses(..)))) => return asked,
                Ok(Ok(not)) => why = not,
                Ok(Err(error)) => {
                    tracing::debug!(instance = %instance.id, ?error, "a claw could not be asked");
                    why = Asked::Not(format!("'{}' can't be asked: {}", instance.id, error.message()).into());
                }
                // The next would take as long.
                Err(_) => return Asked::Not(format!("'{}' did not answer in time", instance.id).into()),
            }
        }
        why
    }

    /// Asks one claw what it thinks of a specification. What it holds against its present one as
    /// well is not the new one's fault.
    async fn ask_about(&self, instance: &Instance, spec: &InstanceSpec) -> Result<Asked> {
        let Claim::Mine(hold) = self.claim(instance) else {
            return Ok(Asked::Not("another server has them".into()));
        };
        let faults = match self.judged(&hold, instance, spec).await? {
            Some(Judgement::Takes) | None => return Ok(Asked::Fine),
            Some(Judgement::Unclear) => {
                return Ok(Asked::Not(format!("'{}' gave no answer", instance.id).into()));
            }
            Some(Judgement::Refuses(faults)) => faults,
        };
        let had = match self.judged(&hold, instance, &instance.spec).await? {
            Some(Judgement::Refuses(faults)) => faults,
            _ => Vec::new(),
        };
        let had =
            |it: &ConfigFault| had.iter().any(|old| (&old.place, &old.reason) == (&it.place, &it.reason));
        let new: Arc<[ConfigFault]> = faults.into_iter().filter(|it| !had(it)).collect();
        Ok(if new.is_empty() { Asked::Fine } else { Asked::Refuses(instance.id.clone(), new) })
    }

    async fn judged(
        &self,
        hold: &Hold,
        instance: &Instance,
        spec: &InstanceSpec,
    ) -> Result<Option<Judgement>> {
        let adapter = self.adapter(instance)?;
        let check = self
            .rendering(hold, instance, spec, &NoProgress, |adapter, input| adapter.config_check(input))
            .await?;
        let Some(check) = check else { return Ok(None) };
        let runtime = self.acting(hold, &instance.spec.target)?;
        let exec = runtime.exec().ok_or_else(|| {
            let what = format!("the runtime {} runs no commands beside it", runtime.kind());
            Error::new(Code::Unsupported, what)
        })?;
        let answer = answer(exec, &instance.id, check, LIMIT).await?;
        Ok(Some(adapter.judged(spec, &answer)))
    }
}

/// Runs a command beside a claw, and returns what it printed. Who stops waiting hangs up, and with
/// that ends the command.
async fn answer(exec: &dyn Exec, id: &ClawId, check: ConfigCheck, limit: Duration) -> Result<Vec<u8>> {
    let answering = async {
        let request = ExecRequest { argv: check.argv, tty: None, term: None };
        let mut session = exec.exec(id, request).await?;
        // Its input stays open until it has answered: the end of it means that nobody waits.
        let _ = session.input.send(ExecInput::Stdin(check.input.into())).await;
        let mut answer = Vec::new();
        while let Some(piece) = session.output.recv().await {
            match piece {
                ExecOutput::Stdout(bytes) if answer.len() + bytes.len() <= ANSWER_MAX => {
                    answer.extend_from_slice(&bytes);
                }
                // No judgement is that long.
                ExecOutput::Stdout(_) => return Ok(Vec::new()),
                ExecOutput::Stderr(_) => {}
                ExecOutput::Exit(_) => break,
            }
        }
        Ok(answer)
    };
    let late = || Error::new(Code::Timeout, format!("no answer within {} s", limit.as_secs()));
    tokio::time::timeout(limit, answering).await.unwrap_or_else(|_| Err(late()))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use clawfarm_runtime::ExecSession;
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::testing::instance;

    /// A claw that prints this, and nothing when there is nothing; it tells when it was hung up on.
    struct Says(Option<Vec<u8>>, std::sync::Mutex<Option<oneshot::Sender<String>>>);

    #[async_trait]
    impl Exec for Says {
        async fn exec(&self, _: &ClawId, request: ExecRequest) -> Result<ExecSession> {
            assert_eq!((request.argv, request.tty), (vec!["judge".to_owned()], None));
            let (input, mut asked) = mpsc::channel(1);
            let (print, output) = mpsc::channel(1);
            let (says, end) = (self.0.clone(), self.1.lock().unwrap().take());
            tokio::spawn(async move {
                let Some(ExecInput::Stdin(line)) = asked.recv().await else { panic!("it is asked") };
                if let Some(says) = says {
                    for piece in says.chunks(64 * 1024) {
                        let _ = print.send(ExecOutput::Stdout(piece.to_vec().into())).await;
                    }
                    let _ = print.send(ExecOutput::Stderr("a warning".into())).await;
                    let _ = print.send(ExecOutput::Exit(1)).await;
                }
                assert_eq!(asked.recv().await, None, "its input ends when nobody waits any more");
                print.closed().await;
                if let Some(end) = end {
                    let _ = end.send(String::from_utf8(line.to_vec()).unwrap());
                }
            });
            Ok(ExecSession { input, output })
        }
    }

    async fn asked(says: Option<Vec<u8>>) -> (Result<Vec<u8>>, String) {
        let (tell, told) = oneshot::channel();
        let claw = Says(says, std::sync::Mutex::new(Some(tell)));
        let check = ConfigCheck { argv: vec!["judge".into()], input: "{}\n".into() };
        let said = answer(&claw, &instance().id, check, LIMIT).await;
        (said, told.await.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_asked_is_hung_up_on_whatever_it_says() {
        let (said, line) = asked(Some(b"{\"valid\":true}".to_vec())).await;
        assert_eq!((said.unwrap().as_slice(), line.as_str()), (&b"{\"valid\":true}"[..], "{}\n"));
        let (said, _) = asked(Some(vec![b'x'; ANSWER_MAX + 1])).await;
        assert!(said.unwrap().is_empty(), "too much is no answer");
        let (said, _) = asked(None).await;
        assert_eq!(said.unwrap_err().code(), Code::Timeout);
    }

    #[test]
    fn of_each_kind_some_are_asked_that_are_up() {
        let (mut asking, asleep) = (Asking::default(), instance());
        let mut up = instance();
        up.phase = clawfarm_model::Phase::Ready;
        up.health = clawfarm_model::Health::Passing;
        up.observed = Some(crate::testing::observation(&up.id, clawfarm_model::ObservedState::Running, 1));
        let spec = |n: usize| {
            let mut spec = up.spec.clone();
            spec.config.native.insert("n".into(), n.into());
            spec
        };
        for it in [&asleep, &up, &up, &up, &up] {
            let kind = asking.kind(it, &spec(0)).unwrap();
            assert_eq!(kind, 0);
            asking.candidate(kind, it);
        }
        assert_eq!((asking.kinds.len(), asking.kinds[0].up.len()), (1, CANDIDATES));
        for n in 1..=MOST {
            asking.kind(&up, &spec(n)).unwrap();
        }
        assert_eq!((asking.kinds.len(), asking.asked), (MOST + 1, MOST));
        assert!(asking.kinds[MOST].spec.is_none());
        asking.candidate(MOST, &up);
        assert!(asking.kinds[MOST].up.is_empty());
    }
}
