//! `run`: a claw in a virtual machine of its own.

use clap::Args;
use clawfarm_api::CreateInstance;
use clawfarm_model::Error;
use clawfarm_model::name::InstanceName;
use clawfarm_model::target::RuntimeKind;

use super::new::{self, NewOptions};
use crate::app::App;
use crate::errors::Outcome;

const EXAMPLES: &str = "\
Examples:
  clawfarm run ubuntu:24.04
      an OpenClaw with the demo model
  clawfarm run ubuntu:24.04 --workspace=. --publish 8080:80 --provider anthropic --api-key-env ANTHROPIC_API_KEY
      one that works in this folder; what it serves at port 80 is at 127.0.0.1:8080
  clawfarm run debian:12 --port=18789 --cpus=2 --memory-mib=4096 --ready-timeout-secs=900";

/// `clawfarm run`.
#[derive(Debug, Args)]
#[command(
    long_about = "Makes a virtual machine of an image with an OpenClaw in it, and waits until that answers. Node and OpenClaw come from this machine's cache, so the virtual machine needs no network for it. The same as 'clawfarm new openclaw --runtime vm --image IMAGE'.",
    after_help = EXAMPLES
)]
pub(crate) struct RunArgs {
    /// The image of the machine; see 'clawfarm image ls'
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Its name: a-z, 0-9 and '-' [default: the claw type]
    #[arg(value_name = "NAME", conflicts_with = "name")]
    positional_name: Option<InstanceName>,
    /// The claw type that runs in it
    #[arg(long = "type", value_name = "CLAW TYPE", default_value = "openclaw")]
    claw_type: String,
    /// What else is said of it.
    #[command(flatten)]
    options: NewOptions,
}

impl RunArgs {
    fn request(&self) -> Result<CreateInstance, Error> {
        let said = self.options.request()?;
        if let Some(other) = said.runtime.filter(|kind| !matches!(kind, RuntimeKind::Vm | RuntimeKind::Sim)) {
            return Err(Error::invalid("--runtime", format!("'{other}' runs no virtual machines"))
                .fix("leave it out, or use clawfarm new"));
        }
        Ok(CreateInstance {
            claw_type: self.claw_type.clone(),
            name: self.positional_name.clone().or(said.name),
            vm: Some(self.options.machine(&self.image)?),
            ..said
        })
    }
}

/// `clawfarm run`.
pub(crate) async fn run(app: &App, args: RunArgs) -> Outcome {
    let request = args.request()?;
    Box::pin(new::make(app, request, &args.options)).await
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn request(arguments: &[&str]) -> Result<CreateInstance, Error> {
        let line = ["clawfarm", "run"].iter().chain(arguments);
        match Cli::try_parse_from(line).expect("understood").command {
            Command::Run(args) => args.request(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_documented_commands_are_understood() {
        let line = "ubuntu:24.04 --workspace=. --port=18789 --publish 8080:80 --cpus=2 --memory-mib=4096 --ready-timeout-secs=900";
        let asked = request(&line.split(' ').collect::<Vec<_>>()).expect("fine");
        let vm = asked.vm.expect("a machine");
        assert_eq!((asked.claw_type.as_str(), asked.port), ("openclaw", Some(18789)));
        assert_eq!((vm.image.to_string().as_str(), vm.publish.len()), ("ubuntu:24.04", 1));
        assert!(vm.workspace.is_some_and(|folder| folder.starts_with('/')));
        assert_eq!(asked.ready_timeout_secs, Some(900));
        assert_eq!(
            request(&["debian:12", "--runtime", "docker"]).expect_err("no").field_name(),
            Some("--runtime")
        );
        assert_eq!(request(&["openclaw"]).expect_err("no image").field_name(), Some("image"));
    }
}
