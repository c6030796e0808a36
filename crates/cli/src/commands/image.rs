//! `image`: what instances are made from, on targets that run images.

use clap::{Args, Subcommand};
use clawfarm_api::{BuildEvent, BuildImage};
use clawfarm_model::image::Image;
use clawfarm_model::name::TargetName;
use clawfarm_model::{Code, Error};
use futures::StreamExt;

use crate::app::App;
use crate::errors::{OK, Outcome};
use crate::output::{Column, Table, clean_line, clock};

/// The help's examples.
pub(crate) const EXAMPLES: &str = "\
Examples:
  clawfarm image build openclaw
  clawfarm image ls";

/// `clawfarm image`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Build the container image of a claw type
    #[command(
        long_about = "Builds the container image of a claw type by clawfarm's own recipe, from the package registries. One that was made from the same recipe, base and version is left as it is; many who ask at once get one build. The first instance of a version does the same by itself.",
        after_help = "Examples:\n  clawfarm image build openclaw\n  clawfarm image build openclaw --version 2026.9.6 --base debian:12-slim"
    )]
    Build(BuildArgs),
    /// List the images of all targets
    #[command(after_help = "Examples:\n  clawfarm image ls\n  clawfarm image ls --json")]
    Ls,
}

/// `clawfarm image build`.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The claw type, such as openclaw
    #[arg(value_name = "CLAW TYPE")]
    claw_type: String,
    /// The claw's version [default: the one this clawfarm was tested with]
    #[arg(long)]
    version: Option<String>,
    /// On which target [default: the first that runs images]
    #[arg(long)]
    target: Option<TargetName>,
    /// What it is built on [default: what the target or the recipe says]
    #[arg(long, value_name = "IMAGE")]
    base: Option<String>,
}

/// `clawfarm image`.
pub(crate) async fn run(app: &App, command: &ImageCommand) -> Outcome {
    match command {
        ImageCommand::Build(args) => build(app, args).await,
        ImageCommand::Ls => list(app).await,
    }
}

async fn build(app: &App, args: &BuildArgs) -> Outcome {
    let request = BuildImage {
        claw_type: args.claw_type.clone(),
        version: args.version.clone(),
        target: args.target.clone(),
        base: args.base.clone(),
    };
    let mut news = app.client().await?.build_image(&request).await?;
    while let Some(piece) = news.next().await {
        match piece? {
            BuildEvent::Line { text } if !app.ui.json => app.ui.note(clean_line(&text)),
            BuildEvent::Line { .. } => {}
            BuildEvent::Done { image } => {
                if app.ui.json {
                    app.ui.document(&image)?;
                } else {
                    app.ui.line(format_args!("{} {}", image.reference, image.digest))?;
                }
                return Ok(OK);
            }
        }
    }
    Err(Error::new(Code::Unavailable, "the build was cut off")
        .fix("it may go on without this command: clawfarm image ls; else build again")
        .into())
}

async fn list(app: &App) -> Outcome {
    let images = app.client().await?.images().await?;
    if app.ui.json {
        app.ui.document(&images)?;
        return Ok(OK);
    }
    let columns = ["IMAGE", "TARGET", "SIZE(MIB)", "CREATED(UTC)", "DIGEST"].map(Column);
    let mut table = Table::new(&app.ui, &columns);
    for Image { reference, digest, target, size_bytes, created_at, .. } in &images.items {
        table.row(vec![
            table.text(reference),
            table.text(target.as_str()),
            table.text(&(size_bytes >> 20).to_string()),
            table.text(&clock(*created_at)),
            table.text(&digest.chars().take(19).collect::<String>()),
        ]);
    }
    app.ui.line(table.render())?;
    Ok(OK)
}
