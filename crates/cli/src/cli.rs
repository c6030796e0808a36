//! What can be typed: the tree of commands and the options that all of them have.

use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{
    apply, backup, cert, claw_type, completion, config, context, dataset, db, doctor, down, events, exec,
    forward, image, inbox, lifecycle, logs, new, nginx, open, policy, ps, recover, rm, rollout, run, secret,
    send, serve, server, service, setup, shell, status, support, target, token, update, version,
};
use crate::context::Typed;
use crate::errors::EXIT_CODES;
use crate::output::ColourMode;

const ABOUT: &str = "Runs a fleet of claws (OpenClaw and its kin) on what you have";

const EXAMPLES: &str = "\
Examples:
  clawfarm new openclaw alice          make a claw and wait until it answers
  clawfarm send alice \"hello\"          talk to it
  clawfarm ps                          see what there is
  clawfarm suspend alice               let it sleep
  clawfarm rm alice                    remove it; its data stays as a dataset";

/// The command line of clawfarm.
#[derive(Debug, Parser)]
#[command(
    name = "clawfarm",
    version,
    about = ABOUT,
    long_about = "Runs a fleet of claws (OpenClaw and its kin) on what you have.\n\nThe first command starts the server in the background by itself; everything it keeps is in ~/.clawfarm. An instance is named by its id, its name, or the beginning of either, as long as only one is meant.",
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"),
    disable_help_subcommand = false,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 110
)]
pub(crate) struct Cli {
    /// What every command understands.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Print documents for programs (JSON) instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// When to colour the output; NO_COLOR is honoured
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) color: ColourMode,

    /// The folder that the server and its claws live in [default: ~/.clawfarm]
    #[arg(long, global = true, env = "CLAWFARM_HOME", value_name = "DIR", hide_env_values = true)]
    pub(crate) home: Option<PathBuf>,

    /// A server by the name that 'clawfarm context add' gave it
    #[arg(long, global = true, env = "CLAWFARM_CONTEXT", value_name = "NAME", hide_env_values = true)]
    pub(crate) context: Option<String>,

    /// A server elsewhere, as http://HOST:PORT or https://HOST:PORT
    #[arg(long, global = true, env = "CLAWFARM_HOST", value_name = "URL", hide_env_values = true)]
    pub(crate) host: Option<String>,

    /// The file with the bearer token for --host, and for 'context add'
    #[arg(long, global = true, env = "CLAWFARM_TOKEN_FILE", value_name = "FILE", hide_env_values = true)]
    pub(crate) token_file: Option<PathBuf>,

    /// Which of these were typed.
    #[arg(skip)]
    pub(crate) typed: Typed,

    /// The command is for this machine's own server: the current context does not count.
    #[arg(skip)]
    pub(crate) local_only: bool,
}

impl Global {
    /// `--token-file`, when it was typed: one from the environment is for another server.
    pub(crate) fn typed_token_file(&self) -> Option<&PathBuf> {
        self.token_file.as_ref().filter(|_| self.typed.token_file)
    }
}

impl Cli {
    /// Reads what was typed, and what of it comes from the environment.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches()?;
        let mut cli = Self::from_arg_matches(&matches)?;
        cli.global.typed = Typed::of(&matches);
        cli.global.local_only = matches!(
            cli.command,
            Command::Serve(_) | Command::Service(_) | Command::Db(_) | Command::Recover(_) | Command::Type(_)
        );
        Ok(cli)
    }
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make an instance and wait until it answers
    New(Box<new::NewArgs>),
    /// Make a virtual machine with an OpenClaw in it
    Run(Box<run::RunArgs>),
    /// List the instances
    Ps(ps::PsArgs),
    /// Show everything known of one instance
    Status(status::StatusArgs),
    /// Start stopped instances
    Start(lifecycle::StartArgs),
    /// Stop instances, once they have finished their work
    Stop(lifecycle::StopArgs),
    /// Stop instances and start them again
    Restart(lifecycle::RestartArgs),
    /// End instances at once, without asking them
    Kill(lifecycle::KillArgs),
    /// Put idle instances to sleep
    Suspend(lifecycle::SuspendArgs),
    /// Wake sleeping instances
    Resume(lifecycle::ResumeArgs),
    /// Show or change when instances sleep by themselves
    #[command(subcommand, after_help = policy::EXAMPLES)]
    Policy(policy::PolicyCommand),
    /// What is said for many instances, in revisions, and what one is configured with
    #[command(subcommand, after_help = config::EXAMPLES)]
    Config(config::ConfigCommand),
    /// Revisions of configurations on their way to their instances
    #[command(subcommand, after_help = rollout::EXAMPLES)]
    Rollout(rollout::RolloutCommand),
    /// Make configurations and instances as a file says
    Apply(apply::ApplyArgs),
    /// Write configurations and instances as a file that 'apply' takes
    Export(apply::ExportArgs),
    /// Have instances run another version of their software
    Update(update::UpdateArgs),
    /// Save an instance with its data to a file
    Backup(backup::BackupArgs),
    /// Make a new instance of what 'backup' has saved
    Restore(backup::RestoreArgs),
    /// Remove instances; their data stays as datasets unless purged
    Rm(rm::RmArgs),
    /// Send an instance a message and print its answer
    Send(send::SendArgs),
    /// Print what an instance has printed
    Logs(logs::LogsArgs),
    /// Print what has happened
    Events(events::EventsArgs),
    /// Run a command inside an instance
    Exec(exec::ExecArgs),
    /// Go on with the commands that set a virtual machine up
    Setup(setup::SetupArgs),
    /// Open a shell inside an instance
    Shell(shell::ShellArgs),
    /// Make ports of an instance reachable on this machine
    PortForward(forward::ForwardArgs),
    /// Print the address of an instance's dashboard
    Open(open::OpenArgs),
    /// Show or change an instance's gateway token
    #[command(subcommand, after_help = token::EXAMPLES)]
    Token(token::TokenCommand),
    /// Keep keys and passwords that configuration refers to by name
    #[command(subcommand, after_help = secret::EXAMPLES)]
    Secret(secret::SecretCommand),
    /// Messages of services that wait for an instance, or were given up
    #[command(subcommand, after_help = inbox::EXAMPLES)]
    Inbox(inbox::InboxCommand),
    /// The data of instances that were removed
    #[command(subcommand, after_help = dataset::EXAMPLES)]
    Dataset(dataset::DatasetCommand),
    /// Several servers by name
    #[command(subcommand, after_help = context::EXAMPLES)]
    Context(context::ContextCommand),
    /// What instances in containers and virtual machines are made from
    #[command(subcommand, after_help = image::EXAMPLES)]
    Image(image::ImageCommand),
    /// The kinds of claws, and those that you add yourself
    #[command(subcommand, after_help = claw_type::EXAMPLES)]
    Type(claw_type::TypeCommand),
    /// The places that instances run on
    #[command(subcommand, after_help = target::EXAMPLES)]
    Target(target::TargetCommand),
    /// The servers that share one database
    #[command(subcommand, after_help = server::EXAMPLES)]
    Server(server::ServerCommand),
    /// The certificates that people are shown
    #[command(subcommand, after_help = cert::EXAMPLES)]
    Cert(cert::CertCommand),
    /// Run the server in the foreground
    Serve(Box<serve::ServeArgs>),
    /// Have systemd run the server
    #[command(subcommand, after_help = service::EXAMPLES)]
    Service(service::ServiceCommand),
    /// Have nginx stand before the edge
    Nginx(Box<nginx::NginxArgs>),
    /// Save the server's state to a file, and put it back
    #[command(subcommand, after_help = db::EXAMPLES)]
    Db(db::DbCommand),
    /// Rebuild a lost database from what is kept beside the claws
    Recover(recover::RecoverArgs),
    /// Stop the server; the claws go on
    Down(down::DownArgs),
    /// See what works here, and what would mend the rest
    Doctor(doctor::DoctorArgs),
    /// Gather what somebody who helps you needs to see, without secrets
    SupportBundle(support::SupportArgs),
    /// Print the versions of this command and of the server
    Version(version::VersionArgs),
    /// Print a completion script for your shell
    Completion(completion::CompletionArgs),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `look` with each command and its path.
    fn each(command: &clap::Command, path: &str, look: &mut impl FnMut(&clap::Command, &str)) {
        for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name());
            look(sub, &path);
            each(sub, &path, look);
        }
    }

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_of_every_command_says_what_it_does_and_shows_an_example() {
        let mut seen = 0;
        each(&Cli::command(), "clawfarm", &mut |command, path| {
            seen += 1;
            assert!(command.get_about().is_some(), "'{path}' says not what it does");
            let help = command.clone().render_long_help().to_string();
            let examples = help.split_once("Examples:").map(|(_, rest)| rest);
            assert!(
                examples.is_some_and(|e| e.contains(&format!("  {path}"))),
                "'{path}' has no example of itself:\n{help}"
            );
        });
        assert!(seen >= 30, "only {seen} commands were seen");
    }

    #[test]
    fn every_argument_says_what_it_is() {
        each(&Cli::command(), "clawfarm", &mut |command, path| {
            for arg in command.get_arguments().filter(|a| !a.is_hide_set()) {
                assert!(arg.get_help().is_some(), "'{path}': {} has no help", arg.get_id());
            }
        });
    }

    #[test]
    fn no_secret_can_be_given_as_an_argument() {
        each(&Cli::command(), "clawfarm", &mut |command, path| {
            for arg in command.get_arguments().filter(|a| a.get_action().takes_values()) {
                let id = arg.get_id().as_str();
                let touches_a_secret =
                    ["key", "token", "secret", "password", "value"].iter().any(|word| id.contains(word));
                // `tls_key` is the path of a file; `master_key_command` and `new_key_command` are
                // programs that print the key.
                let refers = ["file", "env", "name", "instance", "tls_key", "key_command"]
                    .iter()
                    .any(|word| id.contains(word));
                assert!(
                    !touches_a_secret || refers,
                    "'{path}': {id} would show a secret in the process list"
                );
            }
        });
    }

    /// The reference of all commands, as `docs/commands.md` has it.
    fn reference() -> String {
        let mut text =
            "# Commands\n\nWhat `clawfarm help <command>` prints, for every command. Made from the program; \
            do not edit. [The command line](cli.md) says what all of them have in common.\n"
                .to_owned();
        each(&Cli::command(), "clawfarm", &mut |command, path| {
            let help = command.clone().bin_name(path).term_width(100).render_long_help().to_string();
            let help: Vec<&str> = help.lines().map(str::trim_end).collect();
            text.push_str(&format!("\n## `{path}`\n\n```text\n{}\n```\n", help.join("\n").trim_end()));
        });
        text
    }

    #[test]
    fn the_reference_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/commands.md");
        let now = reference();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &now).expect("written");
        }
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            there == now,
            "docs/commands.md is out of date: UPDATE_DOCS=1 cargo nextest run -p clawfarm the_reference_is_current"
        );
    }
}
