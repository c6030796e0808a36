//! Images of virtual machines: listed, fetched, taken in, built and removed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clawfarm_adapters::machine::MACHINE;
use clawfarm_model::name::{ClawType, TargetName, TenantName};
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::vm::VmSpec;
use clawfarm_model::vm_image::{VmImage, VmImageReference};
use clawfarm_model::{Action, Code, Context, Error, InstanceSpec, Resource, Result, authorize};
use clawfarm_runtime::{Bases, Progress, VmImages, WantedSize};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

use crate::Control;
use crate::core::Core;

/// How much news waits for a slow reader; more of it is not told.
const DEPTH: usize = 256;
/// How often is told how far a step is: as often as a bar is worth drawing.
const EVERY: Duration = Duration::from_millis(200);

/// How an image comes to be here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HowImage {
    /// From its maker's site.
    Fetch,
    /// From its distribution's packages.
    Build,
    /// From a file of the server's machine.
    Import(PathBuf),
}

/// What is told while an image comes to be here.
#[derive(Clone, Debug, PartialEq)]
pub enum VmImageNews {
    /// A step began.
    Step {
        /// What it does.
        message: String,
        /// How far it will go, where that is known.
        total: Option<u64>,
        /// In what: `bytes`, or something that is counted.
        unit: String,
    },
    /// The present step is this far.
    Advance(u64),
    /// It said something.
    Line(String),
    /// The image is here.
    Done(Box<VmImage>),
}

impl Control {
    /// Offers images of virtual machines. Once; a second time is ignored.
    pub fn keep_vm_images(&self, images: Arc<dyn VmImages>) {
        let _ = self.core.vm_images.set(images);
    }

    /// The images that are here or could be.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn vm_images(&self) -> Result<Vec<VmImage>> {
        match self.core.vm_images.get() {
            Some(images) => images.list().await,
            None => Ok(Vec::new()),
        }
    }

    /// Has an image come to be here, and tells how that goes. It goes on when nobody listens any
    /// more.
    ///
    /// # Errors
    /// `Forbidden`, `NotFound` for what can't be fetched, and `Unsupported` where no images are kept.
    /// How it ends is the stream's last item.
    pub async fn add_vm_image(
        &self,
        context: &Context,
        reference: VmImageReference,
        how: HowImage,
    ) -> Result<BoxStream<'static, Result<VmImageNews>>> {
        let images = self.changeable(context)?;
        if how == HowImage::Fetch {
            images.check(&reference).await?;
        }
        Ok(told(move |teller| {
            Box::pin(async move {
                match how {
                    HowImage::Fetch => images.fetch(&reference, teller).await,
                    HowImage::Build => images.build(&reference, teller).await,
                    HowImage::Import(file) => images.import(&file, &reference, teller).await,
                }
            })
        }))
    }

    /// Has a base snapshot of an image made, and tells how that goes. It goes on when nobody listens
    /// any more.
    ///
    /// # Errors
    /// `Forbidden`, `NotFound` for what is neither here nor can be fetched, and `Unsupported` where no
    /// virtual machines run. How it ends is the stream's last item.
    pub async fn warm_vm_image(
        &self,
        context: &Context,
        reference: VmImageReference,
        wanted: WantedSize,
    ) -> Result<BoxStream<'static, Result<VmImageNews>>> {
        let images = self.changeable(context)?;
        images.check(&reference).await?;
        let (_, runtime) = self.core.choose_target(Some(RuntimeKind::Vm), None)?;
        offered(runtime.bases())?;
        Ok(told(move |teller| {
            Box::pin(async move {
                offered(runtime.bases())?.warm(&reference, wanted, teller).await?;
                let all = images.list().await?;
                let image = all.into_iter().find(|image| image.reference == reference);
                image.ok_or_else(|| Error::not_found("image", &reference))
            })
        }))
    }

    /// Removes an image that no disk is made on.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while it is used.
    pub async fn remove_vm_image(&self, context: &Context, reference: &VmImageReference) -> Result<()> {
        self.changeable(context)?.remove(reference).await
    }

    /// The images, for who may change what the machine has for everybody.
    fn changeable(&self, context: &Context) -> Result<Arc<dyn VmImages>> {
        let resource = Resource::new(TenantName::default_tenant(), "target", RuntimeKind::Vm.as_str());
        authorize(context, Action::TargetWrite, &resource)?;
        self.core.vm_images.get().cloned().ok_or_else(|| {
            Error::new(Code::Unsupported, "this server keeps no images of virtual machines")
                .fix("ask the server of the machine that runs them")
        })
    }
}

/// Does it in the background, and gives what is told of it.
fn told<F>(work: F) -> BoxStream<'static, Result<VmImageNews>>
where
    F: for<'a> FnOnce(&'a Teller) -> BoxFuture<'a, Result<VmImage>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(DEPTH);
    tokio::spawn(async move {
        let teller = Teller { to: sender.clone(), told: std::sync::Mutex::new(None) };
        let done = work(&teller).await;
        // Whoever asked may have gone.
        let _ = sender.send(done.map(|image| VmImageNews::Done(Box::new(image)))).await;
    });
    futures::stream::unfold(receiver, |mut news| async move { Some((news.recv().await?, news)) }).boxed()
}

fn offered(bases: Option<&dyn Bases>) -> Result<&dyn Bases> {
    bases.ok_or_else(|| {
        Error::new(Code::Unsupported, "there are no base snapshots on this target")
            .field("vm.from_snapshot")
            .fix("leave --from-snapshot out")
    })
}

impl Core {
    /// The size of a new machine as far as it is said: a base snapshot's where it is made from one.
    pub(crate) async fn size_of_vm(
        &self,
        vm: Option<&VmSpec>,
        claw_type: &ClawType,
        target: &TargetName,
        wanted: WantedSize,
    ) -> Result<WantedSize> {
        let Some(vm) = vm.filter(|vm| vm.from_snapshot) else { return Ok(wanted) };
        if claw_type.as_str() != MACHINE {
            return Err(Error::invalid(
                "vm.from_snapshot",
                format!("{claw_type} in a machine is not made from a base snapshot"),
            )
            .fix("leave --from-snapshot out; or make a machine of the image without a claw"));
        }
        let runtime = self.runtime(target)?;
        let size = offered(runtime.bases())?.size(&vm.image, wanted).await?;
        Ok(WantedSize { cpus: Some(size.cpus), memory_mib: Some(size.memory_mib) })
    }

    /// Whether there is the image that an instance is to be made of, as far as this server keeps
    /// the images of its target.
    pub(crate) async fn check_vm_image(&self, spec: &InstanceSpec) -> Result<()> {
        let (Some(vm), Some(images)) = (&spec.vm, self.vm_images.get()) else { return Ok(()) };
        images.check(&vm.image).await.map_err(|error| error.field("vm.image"))?;
        let Some(wanted) = vm.disk_gib else { return Ok(()) };
        // Of one that is still to come it is not known, and told when its disk is made.
        let here = images.list().await?.into_iter().find(|it| it.reference == vm.image);
        match here.and_then(|it| it.disk_bytes).map(|bytes| bytes.div_ceil(1 << 30)) {
            Some(least) if u64::from(wanted) < least => Err(Error::invalid(
                "vm.disk_gib",
                format!("the image '{}' has a disk of {least} GiB, which can't be made smaller", vm.image),
            )
            .fix(format!("give at least {least} GiB, or leave it out"))),
            _ => Ok(()),
        }
    }
}

/// Tells whoever asked.
struct Teller {
    to: mpsc::Sender<Result<VmImageNews>>,
    /// When was told last how far it is.
    told: std::sync::Mutex<Option<Instant>>,
}

impl Progress for Teller {
    fn step(&self, _name: &str, message: &str, total: Option<u64>, unit: &str) {
        let step = VmImageNews::Step { message: message.to_owned(), total, unit: unit.to_owned() };
        // A reader that is too slow misses some of it.
        let _ = self.to.try_send(Ok(step));
    }

    fn advance(&self, done: u64) {
        let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= EVERY) {
            *told = Some(Instant::now());
            let _ = self.to.try_send(Ok(VmImageNews::Advance(done)));
        }
    }

    fn say(&self, line: &str) {
        let _ = self.to.try_send(Ok(VmImageNews::Line(line.to_owned())));
    }
}
