//! `image`: what instances in containers and virtual machines are made from. A container's image
//! has a claw type in it; a virtual machine's has a name and a tag, and is in `vm_image`.

use clap::{Args, Subcommand};
use clawfarm_api::{BuildEvent, BuildImage, ImageList, ImageQuery, PullImage};
use clawfarm_client::{Client, ItemStream};
use clawfarm_model::image::{Image, ImageKind, ImageReference};
use clawfarm_model::name::TargetName;
use clawfarm_model::vm_image::VmImage;
use clawfarm_model::{Code, Error};
use futures::StreamExt;
use serde::Serialize;

use super::{several, vm_image};
use crate::app::App;
use crate::errors::{OK, Outcome};
use crate::output::{Column, Table, clean_line, clock};

/// The help's examples.
pub(crate) const EXAMPLES: &str = "\
Examples:
  clawfarm image ls
  clawfarm image fetch ubuntu:24.04
  clawfarm image build debian:12
  clawfarm image build openclaw
  clawfarm image pull ghcr.io/openclaw/openclaw:2026.9.6";

/// `clawfarm image`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Build the container image of a claw type, or an image for virtual machines
    #[command(
        long_about = "With a claw type, builds the container image of a claw type by clawfarm's own recipe, from the package registries or from the claw's git source. One that was made from the same recipe, base and version is left as it is; many who ask at once get one build. The first instance of a version does the same by itself. With an image's name (debian:12), makes an image for virtual machines from the distribution's packages, for networks that its site of images can't be reached from.",
        after_help = "Examples:\n  clawfarm image build debian:12\n  clawfarm image build openclaw\n  clawfarm image build openclaw --version 2026.9.6 --base debian:12-slim\n  clawfarm image build openclaw --source https://github.com/openclaw/openclaw.git --ref main\n      prints the image, whose tag is the version to give: clawfarm new openclaw --version TAG --runtime docker"
    )]
    Build(BuildArgs),
    /// Fetch an image from its registry, such as a claw type's official one
    #[command(
        long_about = "Fetches an image from its registry and looks whether it is one of the claw type. For a registry that wants a password, what `docker login` has kept for the server's user is used.",
        after_help = "Examples:\n  clawfarm image pull ghcr.io/openclaw/openclaw:2026.9.6\n  clawfarm new openclaw --image ghcr.io/openclaw/openclaw:2026.9.6"
    )]
    Pull(PullArgs),
    /// Fetch images for virtual machines from their makers
    #[command(
        long_about = "Fetches images for virtual machines from the site of their distribution, or the mirror that the server was told of, and holds them against the digests that are published there. One that is here is left as it is; one that was cut off is gone on with; many who ask at once get one download.",
        after_help = "Examples:\n  clawfarm image fetch ubuntu:24.04\n  clawfarm image fetch ubuntu:24.04@20250115"
    )]
    Fetch(vm_image::FetchArgs),
    /// Take a file in as an image for virtual machines
    #[command(
        long_about = "Copies a file of the server's machine in as an image for virtual machines: a whole disk that boots, raw or qcow2. One that names other files is refused, because those could be any.",
        after_help = "Examples:\n  clawfarm image import ./disk.qcow2 --name lab:3"
    )]
    Import(vm_image::ImportArgs),
    /// Make a base snapshot of an image, that machines are restored from
    #[command(
        long_about = "Makes a base snapshot of an image for virtual machines: boots a machine of it, waits until it is idle, and saves it. With `new IMAGE --from-snapshot` others are made from it in seconds, because they need not boot; each gets its own name, keys and random numbers before anything else runs in it. A snapshot is of one size: its processors and its memory are those of the machines. One that is there and fits is left as it is; one that does not fit any more, because of another QEMU or another clawfarm, is made again.",
        after_help = "Examples:\n  clawfarm image warm debian:12\n  clawfarm image warm ubuntu:24.04 --cpus 2 --memory-mib 4096\n  clawfarm new ubuntu:24.04 --from-snapshot"
    )]
    Warm(vm_image::WarmArgs),
    /// List the images of all targets, and those for virtual machines
    #[command(
        long_about = "Lists the container images of all targets, and the images for virtual machines: those that can be fetched, whether they are downloaded or not, and those that were taken in.",
        after_help = "Examples:\n  clawfarm image ls\n  clawfarm image ls --json"
    )]
    Ls,
    /// Show what the last build of an image printed
    #[command(after_help = "Examples:\n  clawfarm image logs clawfarm/openclaw:2026.9.6")]
    Logs(OneArgs),
    /// Remove images that no instance uses
    #[command(
        after_help = "Examples:\n  clawfarm image rm ubuntu:22.04\n  clawfarm image rm clawfarm/openclaw:2026.9.5"
    )]
    Rm(RmArgs),
}

/// `clawfarm image build`.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The claw type, such as openclaw; or an image for virtual machines: debian:12
    #[arg(value_name = "CLAW TYPE OR IMAGE")]
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
    images: Vec<String>,
    /// On which target [default: the first that runs images]
    #[arg(long)]
    target: Option<TargetName>,
}

/// `clawfarm image`.
pub(crate) async fn run(app: &App, command: &ImageCommand) -> Outcome {
    match command {
        ImageCommand::Build(args) => build(app, args).await,
        ImageCommand::Pull(args) => pull(app, args).await,
        ImageCommand::Fetch(args) => vm_image::fetch(app, args).await,
        ImageCommand::Import(args) => vm_image::import(app, args).await,
        ImageCommand::Warm(args) => vm_image::warm(app, args).await,
        ImageCommand::Ls => list(app).await,
        ImageCommand::Logs(args) => logs(app, args).await,
        ImageCommand::Rm(args) => remove(app, args).await,
    }
}

async fn build(app: &App, args: &BuildArgs) -> Outcome {
    if args.claw_type.contains(':') {
        let said = [
            ("--version", args.version.is_some()),
            ("--source", args.source.is_some()),
            ("--target", args.target.is_some()),
            ("--base", args.base.is_some()),
        ];
        if let Some((option, _)) = said.into_iter().find(|(_, said)| *said) {
            return Err(Error::invalid(option, "an image for virtual machines has no such thing")
                .fix("leave it out; for a container's image give a claw type")
                .into());
        }
        return vm_image::build(app, &args.claw_type).await;
    }
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

/// The document that `--json` prints.
#[derive(Serialize)]
struct Listing {
    #[serde(flatten)]
    containers: ImageList,
    /// Those for virtual machines.
    machines: Vec<VmImage>,
}

async fn list(app: &App) -> Outcome {
    let client = app.client().await?;
    let all = Listing { containers: client.images().await?, machines: client.vm_images().await?.items };
    if app.ui.json {
        app.ui.document(&all)?;
        return Ok(OK);
    }
    let columns = [
        "KIND",
        "IMAGE",
        "DOWNLOADED",
        "VERSION",
        "TARGET",
        "USED BY",
        "SIZE(MIB)",
        "CREATED(UTC)",
        "DIGEST",
    ]
    .map(Column);
    let mut table = Table::new(&app.ui, &columns);
    for image in &all.machines {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let partly = image.partial_bytes.map(|bytes| format!("partly, {} MiB", bytes >> 20));
        let downloaded = if image.downloaded { "yes".to_owned() } else { partly.unwrap_or("no".to_owned()) };
        table.row(vec![
            table.text(ImageKind::Vm.as_str()),
            table.text(image.reference.as_str()),
            table.text(&downloaded),
            table.text("-"),
            table.text("-"),
            table.text(&image.used_by.len().to_string()),
            table.text(&or_dash(image.size_bytes.map(|bytes| (bytes >> 20).to_string()))),
            table.text(&or_dash(image.made_at.map(clock))),
            table.text(&short(&or_dash(image.digest.clone()))),
        ]);
    }
    for Image { kind, reference, version, digest, target, size_bytes, used_by, created_at, .. } in
        &all.containers.items
    {
        table.row(vec![
            table.text(kind.as_str()),
            table.text(reference),
            table.text("yes"),
            table.text(version),
            table.text(target.as_str()),
            table.text(&used_by.to_string()),
            table.text(&(size_bytes >> 20).to_string()),
            table.text(&clock(*created_at)),
            table.text(&short(digest)),
        ]);
    }
    app.ui.line(table.render())?;
    for image in &all.machines {
        if let Some(snapshots) = snapshots(image) {
            app.ui.note(format_args!("Base snapshots of {}: {snapshots}", image.reference));
        }
    }
    for target in &all.containers.unseen {
        app.ui.note(format_args!("Without those of target {target}, which is not reached from this server."));
    }
    Ok(OK)
}

/// The base snapshots of an image, each with what it takes up.
fn snapshots(image: &VmImage) -> Option<String> {
    let one = |it| format!("{} ({} MiB)", vm_image::size(it), it.size_bytes >> 20);
    let all: Vec<String> = image.snapshots.iter().map(one).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// Enough of a digest to tell it from others.
fn short(digest: &str) -> String {
    digest.chars().take(19).collect()
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
    let one = async |image: &String| remove_one(&client, args, image).await;
    several::remove(app, &args.images, one, |image| clean_line(image)).await
}

async fn remove_one(client: &Client, args: &RmArgs, image: &str) -> Result<(), Error> {
    // An image for virtual machines is on no target.
    if args.target.is_none() && vm_image::remove(client, image).await? {
        return Ok(());
    }
    let query = ImageQuery { image: ImageReference::new(image)?, target: args.target.clone() };
    client.remove_image(&query).await.map_err(|error| match error.field_name() {
        // No target runs containers: then it can't be one of theirs.
        Some("runtime") => Error::not_found("image", image).field("image").fix("see: clawfarm image ls"),
        _ => error,
    })
}
