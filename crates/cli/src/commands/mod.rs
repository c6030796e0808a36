//! The commands, one file each.

pub(crate) mod apply;
pub(crate) mod backup;
pub(crate) mod cert;
pub(crate) mod claw_type;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod dataset;
pub(crate) mod db;
pub(crate) mod doctor;
pub(crate) mod down;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod forward;
pub(crate) mod image;
pub(crate) mod inbox;
pub(crate) mod lifecycle;
pub(crate) mod logs;
pub(crate) mod machine;
pub(crate) mod new;
pub(crate) mod nginx;
pub(crate) mod open;
pub(crate) mod policy;
pub(crate) mod ps;
pub(crate) mod recover;
pub(crate) mod rm;
pub(crate) mod rollout;
pub(crate) mod run;
pub(crate) mod secret;
pub(crate) mod send;
pub(crate) mod serve;
pub(crate) mod server;
pub(crate) mod service;
pub(crate) mod setup;
pub(crate) mod shell;
pub(crate) mod status;
pub(crate) mod support;
pub(crate) mod target;
pub(crate) mod token;
pub(crate) mod update;
pub(crate) mod version;
pub(crate) mod vm_image;

mod input;
mod rotate_key;
mod several;
mod wait;

use crate::app::App;
use crate::cli::Command;
use crate::errors::Outcome;

/// Does what a command of a client asks for. `serve` is not among them: it has a runtime of
/// its own (see `main`).
pub(crate) async fn run(app: &App, command: Command) -> Outcome {
    match command {
        Command::New(args) => Box::pin(new::run(app, *args)).await,
        Command::Run(args) => Box::pin(run::run(app, *args)).await,
        Command::Ps(args) => ps::run(app, &args).await,
        Command::Status(args) => status::run(app, &args).await,
        Command::Start(args) => lifecycle::start(app, &args).await,
        Command::Stop(args) => lifecycle::stop(app, &args).await,
        Command::Restart(args) => lifecycle::restart(app, &args).await,
        Command::Kill(args) => lifecycle::kill(app, &args).await,
        Command::Suspend(args) => lifecycle::suspend(app, &args).await,
        Command::Resume(args) => lifecycle::resume(app, &args).await,
        Command::Policy(command) => policy::run(app, &command).await,
        Command::Config(command) => Box::pin(config::run(app, &command)).await,
        Command::Rollout(command) => Box::pin(rollout::run(app, &command)).await,
        Command::Apply(args) => Box::pin(apply::apply(app, &args)).await,
        Command::Export(args) => Box::pin(apply::export(app, &args)).await,
        Command::Update(args) => update::run(app, &args).await,
        Command::Backup(args) => backup::save(app, &args).await,
        Command::Restore(args) => Box::pin(backup::restore(app, &args)).await,
        Command::Rm(args) => rm::run(app, &args).await,
        Command::Send(args) => send::run(app, args).await,
        Command::Logs(args) => logs::run(app, &args).await,
        Command::Events(args) => events::run(app, &args).await,
        Command::Setup(args) => setup::run(app, &args).await,
        Command::Exec(args) => exec::run(app, args).await,
        Command::Shell(args) => shell::run(app, &args).await,
        Command::PortForward(args) => forward::run(app, &args).await,
        Command::Open(args) => open::run(app, &args).await,
        Command::Token(command) => token::run(app, &command).await,
        Command::Secret(command) => secret::run(app, &command).await,
        Command::Inbox(command) => inbox::run(app, &command).await,
        Command::Dataset(command) => dataset::run(app, &command).await,
        Command::Db(command) => db::run(app, &command).await,
        Command::Recover(args) => Box::pin(recover::run(app, &args)).await,
        Command::Context(command) => context::run(app, &command),
        Command::Image(command) => image::run(app, &command).await,
        Command::Target(command) => target::run(app, &command).await,
        Command::Type(command) => claw_type::run(app, &command).await,
        Command::Server(command) => server::run(app, &command).await,
        Command::Cert(command) => cert::run(app, &command).await,
        Command::Serve(args) => serve::run_from_client(app, &args).await,
        Command::Service(command) => Box::pin(service::run(app, &command)).await,
        Command::Nginx(args) => Box::pin(nginx::run(app, &args)).await,
        Command::Down(args) => down::run(app, &args).await,
        Command::Doctor(args) => doctor::run(app, &args).await,
        Command::SupportBundle(args) => support::run(app, &args).await,
        Command::Version(args) => version::run(app, &args).await,
        Command::Completion(args) => completion::run(app, &args),
    }
}
