//! Commands that the server runs, because nobody waits at a terminal for them.

use std::sync::Arc;

use clawfarm_model::setup::StepState;
use clawfarm_model::{ClawId, Context, Desired, Result};
use clawfarm_runtime::{ExecInput, ExecOutput};

use super::Turn;
use crate::core::Core;
use crate::reconcile::queue::Priority;

/// How much of a failed command's output is kept, in bytes.
const TAIL: usize = 1024;

/// Runs what is due until the server ends.
pub(crate) async fn run(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.stopping.cancelled() => return,
            () = core.setups.notify.notified() => {}
        }
        for id in core.setups.take_due() {
            if let Some(turn) = core.setups.enter(&id) {
                core.turns.spawn(all(Arc::clone(&core), id, turn));
            }
        }
    }
}

/// Runs the commands of one instance until one fails.
async fn all(core: Arc<Core>, id: ClawId, turn: Turn) {
    while !core.stopping.is_cancelled() {
        match next(&core, &id).await {
            Ok(true) => {}
            Ok(false) => break,
            // The next look at the instance asks for it again.
            Err(error) => {
                tracing::warn!(instance = %id, ?error, "a setup command could not be run");
                break;
            }
        }
    }
    drop(turn);
    core.reconciler.queue.push(&id, Priority::Event);
}

/// Runs the next command; whether there was one that went well.
async fn next(core: &Core, id: &ClawId) -> Result<bool> {
    let instance = core.store.instance(&Context::system("setup"), id).await?;
    let wanted = instance.setup.as_ref().filter(|setup| !setup.attended);
    let Some((at, setup)) = wanted.and_then(|setup| Some((setup.next()?, setup))) else { return Ok(false) };
    if setup.steps[at].state != StepState::Pending || instance.intent.desired != Desired::Running {
        return Ok(false);
    }
    let _using = core.using(id);
    let mut session = core.begin_setup(&instance, at, false, None, None).await?;
    // Nobody answers what it asks.
    let _ = session.input.send(ExecInput::Eof).await;
    let mut tail = Vec::new();
    let mut code = None;
    loop {
        let piece = tokio::select! {
            // What runs is left, and found to have been cut off by the next server. One that has ended is not.
            () = core.stopping.cancelled() => return Ok(false),
            piece = session.output.recv() => piece,
        };
        let Some(piece) = piece else { break };
        match piece {
            ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes) => {
                tail.extend_from_slice(&bytes);
                let more = tail.len().saturating_sub(TAIL);
                tail.drain(..more);
            }
            ExecOutput::Exit(ended) => {
                code = Some(ended);
                break;
            }
        }
    }
    core.end_setup(id, at, code, clean(&tail)).await?;
    Ok(code == Some(0))
}

/// The last lines, without what would command a terminal.
fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut cleaned: String = text.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    // The first character may be half of one.
    while cleaned.starts_with(char::REPLACEMENT_CHARACTER) {
        cleaned.remove(0);
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_commands_no_terminal() {
        assert_eq!(clean(b"\x84a\x1b[31mb\r\nc\x07\n"), "a[31mb\nc\n");
    }
}
