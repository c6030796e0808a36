//! The command `clawfarm`: the command line, the server and the shim in one binary.

mod admin_token;
mod app;
mod background;
mod cli;
mod commands;
mod connect;
mod console;
mod context;
mod database;
mod docker;
#[cfg(test)]
mod docs;
mod edge;
mod errors;
mod kept_targets;
mod manifest;
mod master_key;
mod nginx;
mod node;
mod output;
mod peers;
mod place;
mod server;
mod service;
mod terminal;
mod usage;
mod vm;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::app::App;
use crate::cli::{Cli, Command};
use crate::errors::{Failure, Outcome};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == "shim" => return shim(arguments.next()),
        Some(first) if first == vm::VIRTIOFSD => return vm::virtiofsd(arguments),
        _ => {}
    }
    master_key::take_from_environment();
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(refused) => return ExitCode::from(usage::tell(&refused)),
    };
    let app = App::new(cli.global);
    let outcome = match cli.command {
        Command::Serve(args) if args.in_foreground() => server::run(&app, &args),
        command => run_client(&app, command),
    };
    ExitCode::from(outcome.unwrap_or_else(|failure| errors::tell(&app.ui, &failure)))
}

/// The keeper of one instance. There is one a claw, so nothing of the rest of this program is
/// set up for it: no options, no runtime.
fn shim(folder: Option<OsString>) -> ExitCode {
    let Some(folder) = folder else {
        eprintln!("error: 'clawfarm shim' is started by the server, with an instance's folder");
        return ExitCode::from(errors::USAGE);
    };
    clawfarm_shim::main(std::path::Path::new(&folder))
}

/// Runs a command of a client on one thread: quick to set up, and nothing here needs more.
fn run_client(app: &App, command: Command) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::from)?;
    let outcome = runtime.block_on(commands::run(app, command));
    // A thread may still sit in a read of standard input; the end of the program is not to
    // wait for the next key.
    runtime.shutdown_background();
    outcome
}
