//! `secret rotate`: a new value, shown on its way.

use std::time::Duration;

use clap::Args;
use clawfarm_api::{RotateSecret, SecretDetail, SecretQuery};
use clawfarm_client::Client;
use clawfarm_model::secret::{RotationStage, SecretName, SecretUse};
use clawfarm_model::{Code, Error};
use tokio::time::{Instant, sleep};

use super::{From, Whose, input, tell};
use crate::app::App;
use crate::commands::wait::CtrlC;
use crate::connect;
use crate::errors::{FAILED, Failure, INTERRUPTED, OK, Outcome, tell_error};
use crate::output::Progress;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(300);
/// How long a server that went away is looked for.
const LOST_MAX: Duration = Duration::from_secs(60);

/// `clawfarm secret rotate`.
#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// Its name
    name: SecretName,
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    from: From,
    /// Go back to the value before, as long as it is kept
    #[arg(long, conflicts_with_all = ["from_file", "from_env"])]
    back: bool,
    /// How many claws are started again at a time; 5 when not given
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    parallel: Option<u32>,
    /// How long the value before is kept at least, although all have the new one
    #[arg(long, value_name = "TIME", value_parser = input::seconds)]
    grace: Option<u32>,
    /// Only show who would be started again, and because of what; no value is asked for
    #[arg(long, conflicts_with = "back")]
    dry_run: bool,
    /// Return once it has begun
    #[arg(long, conflicts_with = "dry_run")]
    detach: bool,
}

/// Begins, and shows it until its end.
pub(super) async fn run(app: &App, args: &RotateArgs) -> Outcome {
    let mut ctrl_c = CtrlC::watch()?;
    if args.dry_run {
        let client = app.client().await?;
        let query = args.whose.query(&client).await?;
        tell(app, &client.secret(&args.name, &query).await?)?;
        return Ok(OK);
    }
    let value = if args.back { None } else { Some(args.from.read(&format!("New value of {}", args.name))?) };
    let client = app.client().await?;
    let query = args.whose.query(&client).await?;
    let new = RotateSecret {
        value,
        back: args.back,
        scope: query.scope,
        project: query.project.clone(),
        instance: query.instance.clone(),
        parallel: args.parallel,
        grace_secs: args.grace,
    };
    let begun = client.rotate_secret(&args.name, &new).await?;
    if args.detach {
        if app.ui.json {
            app.ui.document(&begun)?;
        } else {
            app.ui.line(format_args!("{} has version {}, which is on its way", begun.name, begun.version))?;
        }
        return Ok(OK);
    }
    let ended = tokio::select! {
        ended = until_over(app, &client, &args.name, &query) => ended?,
        () = ctrl_c.pressed() => {
            app.ui.note(format_args!(
                "Not waiting any longer: the rotation goes on. Look at it with: clawfarm secret show {0}; go back with: clawfarm secret rotate {0} --back",
                args.name
            ));
            return Err(Failure::Told(INTERRUPTED));
        }
    };
    let rotation = ended.secret.rotation.as_ref();
    let halted = rotation.filter(|it| it.stage == RotationStage::Halted);
    if halted.is_some() || app.ui.json {
        tell(app, &ended)?;
    } else {
        let next = ended.instances.iter().filter(|it| it.state == SecretUse::NextStart).count();
        let next = if next > 0 { format!("; {next} that are down begin with it") } else { String::new() };
        app.ui.line(format_args!(
            "{} has version {} everywhere{next}",
            ended.secret.name, ended.secret.version
        ))?;
    }
    let Some(halted) = halted else { return Ok(OK) };
    let why = halted.error.as_deref().unwrap_or("it was halted");
    let error = Error::new(Code::ClawFailed, format!("the new value of '{}' is halted: {why}", args.name))
        .fix(format!(
            "look at the claw's logs; give a right value, or go back: clawfarm secret rotate {} --back",
            args.name
        ));
    tell_error(&app.ui, &error);
    Err(Failure::Told(FAILED))
}

async fn until_over(
    app: &App,
    client: &Client,
    name: &SecretName,
    query: &SecretQuery,
) -> Result<SecretDetail, Failure> {
    let mut progress = Progress::new(&app.ui);
    let mut answered = Instant::now();
    loop {
        match client.secret(name, query).await {
            Ok(now) => {
                answered = Instant::now();
                let going = now.secret.rotation.as_ref();
                if !going.is_some_and(|it| it.stage == RotationStage::Going) {
                    return Ok(now);
                }
                let count =
                    |state: SecretUse| now.instances.iter().filter(|it| it.state == state).count() as u32;
                let done = count(SecretUse::Current);
                let all = done + count(SecretUse::OnItsWay) + count(SecretUse::Behind);
                progress.update(&format!("{name}: version {} goes out", now.secret.version), done, all);
            }
            Err(e)
                if matches!(e.code(), Code::Unavailable | Code::Timeout | Code::Overloaded)
                    && answered.elapsed() < LOST_MAX =>
            {
                // What can't be mended now may mend itself until the time is over.
                let _ = connect::revive(app).await;
            }
            Err(e) => return Err(e.into()),
        }
        sleep(PAUSE).await;
    }
}
