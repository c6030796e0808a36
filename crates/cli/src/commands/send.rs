//! `send`: a message to an instance, and its answer as it comes.

use std::io::Read;

use clap::Args;
use clawfarm_api::SendEvent;
use clawfarm_client::Client;
use clawfarm_model::{Code, Error, Phase};
use futures::StreamExt;

use crate::app::App;
use crate::errors::{Failure, OK, Outcome};
use crate::output::Cleaner;

/// The longest message, in bytes: what the API takes.
const MESSAGE_MAX: u64 = 64 << 10;

/// `clawfarm send`.
#[derive(Debug, Args)]
#[command(
    long_about = "Sends an instance a message and prints its answer as it comes.",
    after_help = "Examples:\n  clawfarm send alice \"what is on my list today?\"\n  git diff | clawfarm send alice -"
)]
pub(crate) struct SendArgs {
    /// The instance, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE")]
    id: String,
    /// What to say to it; '-' reads it from standard input
    #[arg(allow_hyphen_values = true)]
    message: String,
}

/// A claw that sleeps wakes first, which may take a minute: nobody shall think that it hangs.
async fn tell_of_waking(app: &App, client: &Client, id: &str) {
    if app.ui.json {
        return;
    }
    // What is wrong with the instance is said by the message itself.
    let Ok(instance) = client.instance(id).await else { return };
    let soon = [Phase::Suspended, Phase::Waking, Phase::Creating, Phase::Booting, Phase::Running];
    if soon.contains(&instance.phase) {
        app.ui.note(format_args!("{} is {}: it answers once it is ready ...", instance.id, instance.phase));
    }
}

/// `clawfarm send`. With `--json` one document a piece and line.
pub(crate) async fn run(app: &App, args: SendArgs) -> Outcome {
    let message = if args.message == "-" { from_stdin()? } else { args.message };
    if message.trim().is_empty() {
        return Err(Error::invalid("message", "it is empty").fix("say something").into());
    }
    let client = app.client().await?;
    tell_of_waking(app, &client, &args.id).await;
    let mut answer = client.send(&args.id, &message).await?;
    let mut printer = Printer { app, cleaner: Cleaner::default(), at_line_start: true };
    let mut complete = false;
    while let Some(piece) = answer.next().await {
        let piece = piece.inspect_err(|_| printer.end_line())?;
        complete |= matches!(piece, SendEvent::Done { .. });
        printer.piece(&piece)?;
    }
    if complete {
        return Ok(OK);
    }
    Err(Error::new(Code::Unavailable, format!("the answer of {} was cut off", args.id))
        .fix("ask it again; it remembers the conversation")
        .into())
}

fn from_stdin() -> Result<String, Error> {
    let mut text = String::new();
    std::io::stdin().lock().take(MESSAGE_MAX + 1).read_to_string(&mut text).map_err(|e| {
        Error::invalid("message", format!("standard input can't be read as text: {e}")).source(e)
    })?;
    if text.len() as u64 > MESSAGE_MAX {
        return Err(Error::invalid("message", "it is longer than 64 KiB").fix("send it in parts"));
    }
    Ok(text)
}

struct Printer<'a> {
    app: &'a App,
    cleaner: Cleaner,
    at_line_start: bool,
}

impl Printer<'_> {
    fn piece(&mut self, piece: &SendEvent) -> Result<(), Failure> {
        let ui = &self.app.ui;
        if ui.json {
            return ui.document_line(piece);
        }
        match piece {
            SendEvent::Text { text } => {
                // A terminal gets no control sequence of the claw's; a file gets every byte.
                let text = if ui.out_is_terminal { self.cleaner.push(text) } else { text.clone() };
                if !text.is_empty() {
                    self.at_line_start = text.ends_with('\n');
                    ui.raw(text.as_bytes())?;
                }
            }
            SendEvent::Done { input_tokens, output_tokens } => {
                self.end_line();
                if let (Some(input), Some(output), true) = (input_tokens, output_tokens, ui.err_is_terminal) {
                    ui.note(ui.err.dim(format_args!("({input} tokens in, {output} out)")));
                }
            }
        }
        Ok(())
    }

    fn end_line(&mut self) {
        if !self.at_line_start && !self.app.ui.json {
            self.at_line_start = true;
            // The answer itself was written; a reader that has gone misses only its end.
            let _ = self.app.ui.line("");
        }
    }
}
