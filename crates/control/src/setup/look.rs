//! What the commands that set a machine up mean for how it is.

use std::time::Duration;

use clawfarm_adapters::Probe;
use clawfarm_model::setup::StepState;
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::{Code, Error, Instance, Result, Timestamp};
use tokio::io::AsyncReadExt;

use crate::core::Core;
use crate::reconcile::probe::Probed;

/// Where a machine's SSH server listens: it begins after the keys of its first boot are in place.
const SSH: u16 = 22;
/// How long whoever is to run the commands may take for the next: a client that lost its server
/// looks for that for a minute.
const PATIENCE: Duration = Duration::from_secs(90);

/// Whether a machine has booted.
///
/// # Errors
/// What went wrong in the set-up of its first boot: waiting does not mend it.
pub(crate) async fn booted(core: &Core, instance: &Instance) -> Result<Probe> {
    let runtime = match core.runtime(&instance.spec.target) {
        Ok(runtime) => runtime,
        Err(error) => return Ok(Probe::NoAnswer(error.to_string())),
    };
    // A simulated machine has its gateway only.
    let real = instance.spec.runtime == RuntimeKind::Vm;
    let port = if real { SSH } else { instance.port.unwrap_or(SSH) };
    let mut connection = match runtime.dial(&instance.id, port).await {
        Ok(connection) => connection,
        Err(error) if error.code() == Code::ClawFailed => return Err(error),
        Err(error) => return Ok(Probe::NoAnswer(format!("it has not booted yet: {}", error.message()))),
    };
    if !real {
        return Ok(Probe::Passed);
    }
    // A forwarded port is accepted by QEMU, whoever listens behind it: so what is said counts.
    let mut greeting = [0; 4];
    Ok(match connection.read_exact(&mut greeting).await {
        Ok(_) if greeting == *b"SSH-" => Probe::Passed,
        Ok(_) => Probe::Failed("what listens on its port 22 is no SSH server".to_owned()),
        Err(_) => Probe::NoAnswer("it has not booted yet: its SSH server does not answer".to_owned()),
    })
}

/// What is left of the commands, for one that answers otherwise; `None` when nothing is.
pub(crate) fn look(core: &Core, instance: &Instance) -> Option<Probed> {
    let setup = instance.setup.as_ref()?;
    let at = setup.next()?;
    let step = setup.steps.get(at)?;
    let runs = core.setups.is_running(&instance.id);
    Some(match step.state {
        StepState::Running if runs => Probed::Up,
        StepState::Running => Probed::CutOff { at, started_at: step.started_at },
        StepState::Pending if runs => Probed::Up,
        StepState::Pending => {
            if !setup.attended {
                core.setups.wants(&instance.id);
            }
            match setup.waiting_since {
                None => Probed::Booted,
                Some(since) if setup.attended && Timestamp::now().since(since) > PATIENCE => {
                    Probed::Failed(left(instance, at))
                }
                Some(_) => Probed::Up,
            }
        }
        StepState::Failed | StepState::CutOff => Probed::Failed(failed(instance, at)),
        StepState::Done | StepState::Ignored => return None,
    })
}

fn left(instance: &Instance, at: usize) -> Error {
    let all = instance.setup.as_ref().map_or(0, |setup| setup.steps.len());
    Error::new(
        Code::ClawFailed,
        format!("{} of {all} setup commands were not run: whoever was to run them went away", all - at),
    )
    .fix(format!("run what is left: clawfarm setup {}", instance.id))
}

fn failed(instance: &Instance, at: usize) -> Error {
    let step = instance.setup.as_ref().and_then(|setup| setup.steps.get(at));
    let all = instance.setup.as_ref().map_or(0, |setup| setup.steps.len());
    let how = match step.and_then(|step| step.exit_code) {
        Some(code) => format!("exited with code {code}"),
        None => "was cut off; how far it came is not known".to_owned(),
    };
    let tail = step.map(|step| step.tail.trim()).filter(|tail| !tail.is_empty());
    let last = tail.map_or_else(String::new, |tail| format!("; its last lines: {tail}"));
    Error::new(Code::ClawFailed, format!("setup command {} of {all} {how}{last}", at + 1)).fix(format!(
        "look into it with clawfarm shell {0}, then run it again or go on: clawfarm setup {0} --again, or --ignore",
        instance.id
    ))
}

#[cfg(test)]
mod tests {
    use clawfarm_model::setup::Setup;

    use super::*;
    use crate::testing::instance;

    #[test]
    fn what_went_wrong_is_told_with_what_to_do() {
        let mut it = instance();
        let mut setup = Setup::new(3, true);
        let now = Timestamp::now();
        setup.begin(0, now).unwrap();
        setup.end(0, Some(7), "no such host\n".into(), now);
        it.setup = Some(setup.clone());
        let error = failed(&it, 0);
        assert_eq!(error.message(), "setup command 1 of 3 exited with code 7; its last lines: no such host");
        assert!(error.fix_text().unwrap().contains("clawfarm setup alice-x7k2b --again"));
        setup.again(0, now).unwrap();
        setup.begin(0, now).unwrap();
        setup.end(0, None, String::new(), now);
        it.setup = Some(setup);
        assert!(failed(&it, 0).message().contains("1 of 3 was cut off"));
        assert!(left(&it, 1).message().starts_with("2 of 3 setup commands were not run"));
    }
}
