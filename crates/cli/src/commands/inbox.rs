//! `inbox`: messages of services that wait for an instance, or were given up.

use clap::{Args, Subcommand};
use clawfarm_api::InboxQuery;
use clawfarm_model::inbox::InboxState;

use crate::app::App;
use crate::errors::{Failure, OK, Outcome, exit_code, tell_error};
use crate::output::{Column, Table, bytes, clean_block, clean_line, clock};

/// The help's examples.
pub(crate) const EXAMPLES: &str = "\
Examples:
  clawfarm inbox ls alice
  clawfarm inbox ls alice --dead
  clawfarm inbox replay alice --all";

/// `clawfarm inbox`.
#[derive(Debug, Subcommand)]
pub(crate) enum InboxCommand {
    /// List the messages that wait, and those that were given up
    #[command(after_help = "Examples:\n  clawfarm inbox ls alice --dead")]
    Ls(LsArgs),
    /// Print a message
    #[command(after_help = "Examples:\n  clawfarm inbox show alice in-0123456789abcdef0123456789abcdef")]
    Show(ShowArgs),
    /// Try messages again that were given up
    #[command(after_help = "Examples:\n  clawfarm inbox replay alice --all")]
    Replay(ManyArgs),
    /// Drop messages for good
    #[command(after_help = "Examples:\n  clawfarm inbox rm alice --all")]
    Rm(ManyArgs),
}

/// `clawfarm inbox ls`.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// The instance, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE")]
    id: String,
    /// Only those that were given up
    #[arg(long)]
    dead: bool,
}

/// `clawfarm inbox show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The instance, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE")]
    id: String,
    /// The message, by its whole id
    #[arg(value_name = "MESSAGE")]
    message: String,
}

/// `clawfarm inbox replay` and `rm`.
#[derive(Debug, Args)]
pub(crate) struct ManyArgs {
    /// The instance, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE")]
    id: String,
    /// Messages, by their whole ids
    #[arg(value_name = "MESSAGE", required_unless_present = "all")]
    messages: Vec<String>,
    /// All that were given up
    #[arg(long, conflicts_with = "messages")]
    all: bool,
}

/// `clawfarm inbox`.
pub(crate) async fn run(app: &App, command: &InboxCommand) -> Outcome {
    match command {
        InboxCommand::Ls(args) => list(app, args).await,
        InboxCommand::Show(args) => show(app, args).await,
        InboxCommand::Replay(args) => many(app, args, true).await,
        InboxCommand::Rm(args) => many(app, args, false).await,
    }
}

async fn list(app: &App, args: &LsArgs) -> Outcome {
    let state = args.dead.then_some(InboxState::Dead);
    let most = clawfarm_api::query::MAX_LIMIT;
    let query = InboxQuery { state, after: None, limit: Some(most) };
    let messages = app.client().await?.messages(&args.id, &query).await?;
    if app.ui.json {
        app.ui.document(&messages)?;
        return Ok(OK);
    }
    if messages.items.is_empty() {
        app.ui.note(if args.dead { "No message was given up." } else { "No messages wait." });
        return Ok(OK);
    }
    let columns = ["MESSAGE", "STATE", "PATH", "SIZE", "RECEIVED(UTC)", "TRIES", "LAST_ERROR"].map(Column);
    let mut table = Table::new(&app.ui, &columns);
    for message in &messages.items {
        let state = match message.state {
            InboxState::Waiting => "waiting",
            InboxState::Dead => "dead",
        };
        table.row(vec![
            table.text(&message.id),
            table.text(state),
            table.text(&message.path),
            table.text(&bytes(message.size_bytes)),
            table.text(&clock(message.received_at)),
            table.text(&message.attempts.to_string()),
            table.text(message.last_error.as_deref().unwrap_or_default()),
        ]);
    }
    app.ui.line(table.render())?;
    if messages.items.len() >= most as usize {
        app.ui.note(format!("These are the first {most}; the API has the others."));
    }
    Ok(OK)
}

async fn show(app: &App, args: &ShowArgs) -> Outcome {
    let view = app.client().await?.message(&args.id, &args.message).await?;
    if app.ui.json {
        app.ui.document(&view)?;
        return Ok(OK);
    }
    app.ui.line(format_args!("POST {}", clean_line(&view.target)))?;
    for header in &view.headers {
        app.ui.line(format_args!("{}: {}", clean_line(&header.name), clean_line(&header.value)))?;
    }
    app.ui.line("")?;
    // What a stranger wrote must not write to the terminal.
    app.ui.line(clean_block(&view.body))?;
    Ok(OK)
}

/// Replays messages, or drops them.
async fn many(app: &App, args: &ManyArgs, replay: bool) -> Outcome {
    let client = app.client().await?;
    let which: Vec<Option<&str>> =
        if args.all { vec![None] } else { args.messages.iter().map(|id| Some(id.as_str())).collect() };
    let (mut count, mut code) = (0, OK);
    for message in which {
        let changed = match replay {
            true => client.replay(&args.id, message).await,
            false => client.drop_messages(&args.id, message).await,
        };
        match changed {
            Ok(changed) => count += changed.messages,
            Err(error) => {
                tell_error(&app.ui, &error);
                code = if code == OK { exit_code(error.code()) } else { code };
            }
        }
    }
    if app.ui.json {
        app.ui.document(&serde_json::json!({ "messages": count }))?;
    } else {
        let are = if count == 1 { "message is" } else { "messages are" };
        app.ui.line(format_args!("{count} {are} {}", if replay { "tried again" } else { "dropped" }))?;
    }
    if code == OK { Ok(OK) } else { Err(Failure::Told(code)) }
}
