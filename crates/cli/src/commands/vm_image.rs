//! `image` for virtual machines: fetched, taken in, built and removed.

use std::path::{Path, PathBuf};

use clap::Args;
use clawfarm_api::{AddVmImage, ImageSource, ResourcesInput, VmImageEvent, VmImageQuery, WarmVmImage};
use clawfarm_client::{Client, ItemStream};
use clawfarm_model::vm_image::{VmBase, VmImage, VmImageReference};
use clawfarm_model::{Code, Error};
use futures::StreamExt;

use crate::app::App;
use crate::errors::{Failure, OK, Outcome};
use crate::output::{Meter, clean_line};

/// `clawfarm image fetch`.
#[derive(Debug, Args)]
pub(crate) struct FetchArgs {
    /// The images, such as ubuntu:24.04, or ubuntu:24.04@20250115 for that of a day
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<VmImageReference>,
}

/// `clawfarm image import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The image of a whole disk that boots, raw or qcow2
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What it is to be called: a name and a tag
    #[arg(long, value_name = "IMAGE")]
    name: VmImageReference,
}

/// `clawfarm image warm`.
#[derive(Debug, Args)]
pub(crate) struct WarmArgs {
    /// The image, such as debian:12
    #[arg(value_name = "IMAGE")]
    image: VmImageReference,
    /// How many processors machines from it have [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    cpus: Option<u32>,
    /// How much memory machines from it have [default: 2048]
    #[arg(long, value_name = "MIB", allow_negative_numbers = true)]
    memory_mib: Option<u32>,
}

/// `clawfarm image warm`.
pub(super) async fn warm(app: &App, args: &WarmArgs) -> Outcome {
    let resources = ResourcesInput { cpus: args.cpus.map(f64::from), memory_mib: args.memory_mib };
    let news =
        app.client().await?.warm_vm_image(&WarmVmImage { image: args.image.clone(), resources }).await?;
    let image = follow(app, news).await?;
    if app.ui.json {
        app.ui.document(&image)?;
        return Ok(OK);
    }
    for snapshot in &image.snapshots {
        app.ui.line(format_args!(
            "{} {} ({} MiB on the disk)",
            image.reference,
            size(snapshot),
            snapshot.size_bytes >> 20
        ))?;
    }
    Ok(OK)
}

/// A base snapshot's size, as the table has it.
pub(super) fn size(snapshot: &VmBase) -> String {
    format!("{}x{}", snapshot.cpus, snapshot.memory_mib)
}

/// `clawfarm image fetch`.
pub(super) async fn fetch(app: &App, args: &FetchArgs) -> Outcome {
    let client = app.client().await?;
    for image in &args.images {
        let request = AddVmImage { image: image.clone(), from: ImageSource::Site, file: None };
        add(app, &client, &request).await?;
    }
    Ok(OK)
}

/// `clawfarm image import`.
pub(super) async fn import(app: &App, args: &ImportArgs) -> Outcome {
    let request =
        AddVmImage { image: args.name.clone(), from: ImageSource::File, file: Some(whole_path(&args.file)?) };
    add(app, &app.client().await?, &request).await?;
    Ok(OK)
}

/// `clawfarm image build` of an image for virtual machines.
pub(super) async fn build(app: &App, image: &str) -> Outcome {
    let image = VmImageReference::new(image)?;
    let request = AddVmImage { image, from: ImageSource::Packages, file: None };
    add(app, &app.client().await?, &request).await?;
    Ok(OK)
}

/// Removes an image of virtual machines, if there is one of that name; whether there was.
pub(super) async fn remove(client: &Client, text: &str) -> Result<bool, Error> {
    let Ok(image) = VmImageReference::new(text) else { return Ok(false) };
    let all = client.vm_images().await?.items;
    let here = |it: &&VmImage| it.reference == image && (it.downloaded || it.partial_bytes.is_some());
    if !all.iter().any(|it| here(&it)) {
        return Ok(false);
    }
    client.remove_vm_image(&VmImageQuery { image }).await?;
    Ok(true)
}

/// The server does not know which folder this command was typed in.
fn whole_path(path: &Path) -> Result<String, Error> {
    let absolute = std::path::absolute(path)
        .map_err(|e| Error::invalid("FILE", format!("{} can't be used: {e}", path.display())))?;
    match absolute.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(Error::invalid("FILE", format!("{} is no UTF-8 path", path.display()))),
    }
}

/// Has an image come to be there.
async fn add(app: &App, client: &Client, request: &AddVmImage) -> Result<(), Failure> {
    let image = follow(app, client.add_vm_image(request).await?).await?;
    if app.ui.json {
        return app.ui.document(&image);
    }
    app.ui.line(format_args!("{} {}", image.reference, image.digest.unwrap_or_default()))?;
    if let Some(origin) = image.origin {
        app.ui.note(clean_line(&origin));
    }
    Ok(())
}

/// Shows what is told until the image is there.
async fn follow(app: &App, mut news: ItemStream<VmImageEvent>) -> Result<VmImage, Failure> {
    let mut meter: Option<Meter> = None;
    while let Some(piece) = news.next().await {
        match piece? {
            VmImageEvent::Step { message, total, unit } => {
                let message = clean_line(&message);
                // A bar stands for its line.
                if !app.ui.err_is_terminal && !app.ui.json {
                    app.ui.note(&message);
                }
                let bar = Meter::new(&app.ui, &message);
                if unit == "bytes" {
                    bar.count(&message, total);
                }
                meter = Some(bar);
            }
            VmImageEvent::Advance { done } => {
                if let Some(meter) = &meter {
                    meter.at(done);
                }
            }
            VmImageEvent::Line { text } if !app.ui.json => app.ui.note(clean_line(&text)),
            VmImageEvent::Line { .. } => {}
            VmImageEvent::Done { image } => {
                drop(meter);
                return Ok(*image);
            }
        }
    }
    Err(Error::new(Code::Unavailable, "the connection to the server was cut off")
        .fix("it may go on without this command: clawfarm image ls; else ask again, and it goes on where it ended")
        .into())
}
