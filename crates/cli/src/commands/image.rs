//! `image`: what instances are made from, on targets that run images.

use clap::{Args, Subcommand};
use clawfarm_api::{BuildEvent, BuildImage, ImageQuery, PullImage};
use clawfarm_client::ItemStream;
use clawfarm_model::image::{Image, ImageReference};
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
  clawfarm image pull ghcr.io/openclaw/openclaw:2026.9.6
  clawfarm image ls";

/// `clawfarm image`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Build the container image of a claw type
    #[command(
        long_about = "Builds the container image of a claw type by clawfarm's own recipe, from the package registries or from the claw's git source. One that was made from the same recipe, base and version is left as it is; many who ask at once get one build. The first instance of a version does the same by itself.",
        after_help = "Examples:\n  clawfarm image build openclaw\n  clawfarm image build openclaw --version 2026.9.6 --base debian:12-slim\n  clawfarm image build openclaw --source https://github.com/openclaw/openclaw.git --ref main\n      prints the image, whose tag is the version to give: clawfarm new openclaw --version TAG --runtime docker"
    )]
    Build(BuildArgs),
    /// Fetch an image from its registry, such as a claw type's official one
    #[command(
        long_about = "Fetches an image from its registry and looks whether it is one of the claw type. For a registry that wants a password, what `docker login` has kept for the server's user is used.",
        after_help = "Examples:\n  clawfarm image pull ghcr.io/openclaw/openclaw:2026.9.6\n  clawfarm new openclaw --image ghcr.io/openclaw/openclaw:2026.9.6"
    )]
    Pull(PullArgs),
    /// List the images of all targets
    #[command(after_help = "Examples:\n  clawfarm image ls\n  clawfarm image ls --json")]
    Ls,
    /// Show what the last build of an image printed
    #[command(after_help = "Examples:\n  clawfarm image logs clawfarm/openclaw:2026.9.6")]
    Logs(OneArgs),
    /// Remove images that no instance uses
    #[command(after_help = "Examples:\n  clawfarm image rm clawfarm/openclaw:2026.9.5")]
    Rm(RmArgs),
}

/// `clawfarm image build`.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The claw type, such as openclaw
    #[arg(value_name = "CLAW TYPE")]
    claw_type: String,
    /// The claw's version [default: the one this clawfarm was tested with]
    #[arg(long, conflicts_with = "source")]
    version: Option<String>,
    /// A git repository to build from instead of the package: a URL, or a folder of the server's machine
    #[arg(long, value_name = "REPOSITORY")]
    source: Option<String>,
    /// The branch, tag or commit of --source [default: what it has checked out]
    #[arg(long = "ref", value_name = "REF", requires = "source")]
    reference: Option<String>,
    /// On which target [default: the first that runs images]
    #[arg(long)]
    target: Option<TargetName>,
    /// What it is built on [default: what the target or the recipe says]
    #[arg(long, value_name = "IMAGE")]
    base: Option<String>,
}

/// `clawfarm image pull`.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// The image, with its registry, tag or digest
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The claw type in it
    #[arg(long, value_name = "CLAW TYPE", default_value = "openclaw")]
    claw_type: String,
    /// On which target [default: the first that runs images]
    #[arg(long)]
    target: Option<TargetName>,
}

/// `clawfarm image logs`.
#[derive(Debug, Args)]
pub(crate) struct OneArgs {
    /// The image
    #[arg(value_name = "IMAGE")]
    image: ImageReference,
    /// On which target [default: the first that runs images]
    #[arg(long)]
    target: Option<TargetName>,
}

/// `clawfarm image rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<ImageReference>,
    /// On which target [default: the first that runs images]
    #[arg(long)]
    target: Option<TargetName>,
}

/// `clawfarm image`.
pub(crate) async fn run(app: &App, command: &ImageCommand) -> Outcome {
    match command {
        ImageCommand::Build(args) => build(app, args).await,
        ImageCommand::Pull(args) => pull(app, args).await,
        ImageCommand::Ls => list(app).await,
        ImageCommand::Logs(args) => logs(app, args).await,
        ImageCommand::Rm(args) => remove(app, args).await,
    }
}

async fn build(app: &App, args: &BuildArgs) -> Outcome {
    let request = BuildImage {
        claw_type: args.claw_type.clone(),
        version: args.version.clone(),
        source: args.source.as_deref().map(repository).transpose()?,
        reference: args.reference.clone(),
        target: args.target.clone(),
        base: args.base.clone(),
    };
    let news = app.client().await?.build_image(&request).await?;
    follow(app, news, "the build").await
}

/// The server does not know which folder this command was typed in.
fn repository(text: &str) -> Result<String, Error> {
    let is_folder = !text.contains("://") && std::path::Path::new(text).is_dir();
    if !is_folder {
        return Ok(text.to_owned());
    }
    let path = std::path::absolute(text)
        .map_err(|e| Error::invalid("--source", format!("{} can't be used: {e}", clean_line(text))))?;
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| Error::invalid("--source", format!("{} is no UTF-8 path", path.display())))
}

async fn pull(app: &App, args: &PullArgs) -> Outcome {
    let request = PullImage {
        image: args.image.clone(),
        claw_type: args.claw_type.clone(),
        target: args.target.clone(),
    };
    let news = app.client().await?.pull_image(&request).await?;
    follow(app, news, "the pull").await
}

/// Shows what is told until the image is there.
async fn follow(app: &App, mut news: ItemStream<BuildEvent>, what: &str) -> Outcome {
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
    Err(Error::new(Code::Unavailable, format!("{what} was cut off"))
        .fix("it may go on without this command: clawfarm image ls; else ask again")
        .into())
}

async fn list(app: &App) -> Outcome {
    let images = app.client().await?.images().await?;
    if app.ui.json {
        app.ui.document(&images)?;
        return Ok(OK);
    }
    let columns =
        ["KIND", "IMAGE", "VERSION", "TARGET", "USED BY", "SIZE(MIB)", "CREATED(UTC)", "DIGEST"].map(Column);
    let mut table = Table::new(&app.ui, &columns);
    for Image { kind, reference, version, digest, target, size_bytes, used_by, created_at, .. } in
        &images.items
    {
        table.row(vec![
            table.text(kind.as_str()),
            table.text(reference),
            table.text(version),
            table.text(target.as_str()),
            table.text(&used_by.to_string()),
            table.text(&(size_bytes >> 20).to_string()),
            table.text(&clock(*created_at)),
            table.text(&digest.chars().take(19).collect::<String>()),
        ]);
    }
    app.ui.line(table.render())?;
    for target in &images.unseen {
        app.ui.note(format_args!("Without those of target {target}, which is not reached from this server."));
    }
    Ok(OK)
}

async fn logs(app: &App, args: &OneArgs) -> Outcome {
    let query = ImageQuery { image: args.image.clone(), target: args.target.clone() };
    let log = app.client().await?.build_log(&query).await?;
    if app.ui.json {
        app.ui.document(&log)?;
        return Ok(OK);
    }
    for line in log.text.lines() {
        app.ui.line(clean_line(line))?;
    }
    Ok(OK)
}

async fn remove(app: &App, args: &RmArgs) -> Outcome {
    let client = app.client().await?;
    for image in &args.images {
        client.remove_image(&ImageQuery { image: image.clone(), target: args.target.clone() }).await?;
        if !app.ui.json {
            app.ui.line(image)?;
        }
    }
    Ok(OK)
}
