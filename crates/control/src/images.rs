//! Images of claw types: made, fetched, listed and removed on the targets that run such.

use std::sync::Arc;

use clawfarm_adapters::ClawAdapter;
use clawfarm_model::image::{Image, ImageReference};
use clawfarm_model::launch::{GitSource, ImageMark};
use clawfarm_model::name::{ClawType, TargetName, TenantName};
use clawfarm_model::target::{RuntimeKind, Target};
use clawfarm_model::{Action, Code, Context, Error, Resource, Result, authorize};
use clawfarm_runtime::{Images, Progress, Runtime};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;

use crate::Control;
use crate::admission::CAPACITY_LIMIT;

/// How many lines of a build wait for a slow reader; more of them are not told.
const LINES: usize = 1024;

/// An image that is to be made.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// The claw type.
    pub claw_type: String,
    /// The claw's version; the one that was tested when absent.
    pub version: Option<String>,
    /// The commit it is made from, instead of a package.
    pub source: Option<GitSource>,
    /// On which target; the first that runs images when absent.
    pub target: Option<TargetName>,
    /// What it is made on; what the target or the recipe says when absent.
    pub base: Option<String>,
}

/// An image that is to be fetched.
#[derive(Clone, Debug)]
pub struct PullImage {
    /// The claw type in it.
    pub claw_type: String,
    /// What it is called.
    pub reference: ImageReference,
    /// On which target; the first that runs images when absent.
    pub target: Option<TargetName>,
}

/// What is told of a build.
#[derive(Clone, Debug)]
pub enum BuildNews {
    /// A line that it printed.
    Line(String),
    /// The image is there.
    Done(Image),
}

/// The images of the targets, and which targets could not tell theirs.
#[derive(Clone, Debug, Default)]
pub struct AllImages {
    /// The images.
    pub images: Vec<Image>,
    /// Targets that do not answer, or that other servers reach.
    pub unseen: Vec<TargetName>,
}

/// What an image of a claw type has in it.
pub(crate) fn mark_of(adapter: &dyn ClawAdapter) -> Result<ImageMark> {
    adapter.image_mark().ok_or_else(|| {
        let claw_type = adapter.claw_type();
        Error::new(Code::Unsupported, format!("{claw_type} is run in no image")).field("claw_type")
    })
}

type News = BoxStream<'static, Result<BuildNews>>;

impl Control {
    /// Makes an image, and tells how that goes. It goes on when nobody listens any more.
    ///
    /// # Errors
    /// `InvalidInput` for an unknown claw type or version, `Unsupported` when the target runs
    /// no images or the type has no recipe. How the build ends is the stream's last item.
    pub async fn build_image(&self, context: &Context, new: NewImage) -> Result<News> {
        let adapter = self.core.adapters.get(&ClawType::new(new.claw_type)?)?;
        let no_recipe = || {
            let claw_type = adapter.claw_type();
            Error::new(Code::Unsupported, format!("there is no recipe for images of {claw_type}"))
                .field("claw_type")
        };
        let base = new.base;
        if let Some(source) = new.source {
            if new.version.is_some() {
                return Err(Error::invalid(
                    "version",
                    "a version of the package and a source can't both be built",
                )
                .fix("leave one of them out; the source's version is that of its package.json"));
            }
            let recipe = adapter.source_recipe().ok_or_else(no_recipe)?;
            let (_, runtime) = self.image_target(context, new.target.as_ref())?;
            return Ok(told(runtime, move |images, progress| {
                async move { images.build_source(&recipe, &source, base.as_deref(), progress).await }.boxed()
            }));
        }
        let version = new.version.unwrap_or_else(|| adapter.default_version().to_owned());
        let recipe = adapter.image_recipe(&version)?.ok_or_else(no_recipe)?;
        let (_, runtime) = self.image_target(context, new.target.as_ref())?;
        Ok(told(runtime, move |images, progress| {
            async move { images.build(&recipe, base.as_deref(), progress).await }.boxed()
        }))
    }

    /// Fetches an image from its registry, and tells how that goes. It goes on when nobody
    /// listens any more.
    ///
    /// # Errors
    /// As for [`Self::build_image`]; how it ends is the stream's last item.
    pub async fn pull_image(&self, context: &Context, new: PullImage) -> Result<News> {
        let adapter = self.core.adapters.get(&ClawType::new(new.claw_type)?)?;
        let mark = mark_of(adapter.as_ref())?;
        let (_, runtime) = self.image_target(context, new.target.as_ref())?;
        Ok(told(runtime, move |images, progress| {
            async move { images.pull(&new.reference, &mark, progress).await }.boxed()
        }))
    }

    /// Removes an image of a target.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while an instance uses it.
    pub async fn remove_image(
        &self,
        context: &Context,
        reference: &ImageReference,
        target: Option<&TargetName>,
    ) -> Result<()> {
        let (_, runtime) = self.image_target(context, target)?;
        let images =
            runtime.images().ok_or_else(|| Error::new(Code::Internal, "a target lost its images"))?;
        images.remove_image(reference).await
    }

    /// What the last build of an image printed.
    ///
    /// # Errors
    /// `NotFound` when this server made none on the target.
    pub async fn build_log(
        &self,
        context: &Context,
        reference: &ImageReference,
        target: Option<&TargetName>,
    ) -> Result<String> {
        let (_, runtime) = self.image_target(context, target)?;
        let images =
            runtime.images().ok_or_else(|| Error::new(Code::Internal, "a target lost its images"))?;
        images.build_log(reference).await
    }

    /// The images of all targets that answer, and the targets that do not.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn images(&self, context: &Context) -> Result<AllImages> {
        let mut all = AllImages::default();
        let reached = self.core.targets();
        for (target, runtime) in reached.iter() {
            let Some(images) = runtime.images() else { continue };
            match tokio::time::timeout(CAPACITY_LIMIT, images.images()).await {
                Ok(Ok(found)) => all.images.extend(found),
                answer => {
                    tracing::warn!(target = %target.name, ?answer, "its images can't be listed");
                    all.unseen.push(target.name.clone());
                }
            }
        }
        for target in self.core.store.targets(context).await? {
            let here = reached.iter().any(|(t, _)| t.name == target.name);
            if !here && matches!(target.runtime, RuntimeKind::Docker | RuntimeKind::Vm) {
                all.unseen.push(target.name);
            }
        }
        Ok(all)
    }

    /// The target whose images are meant, which the caller may change.
    fn image_target(
        &self,
        context: &Context,
        name: Option<&TargetName>,
    ) -> Result<(Target, Arc<dyn Runtime>)> {
        let kind = name.is_none().then_some(RuntimeKind::Docker);
        let (target, runtime) = self.core.choose_target(kind, name)?;
        let resource = Resource::new(TenantName::default_tenant(), "target", target.name.as_str());
        authorize(context, Action::TargetWrite, &resource)?;
        if runtime.images().is_none() {
            return Err(Error::new(Code::Unsupported, format!("target '{}' runs no images", target.name))
                .field("target")
                .fix("name one of docker: clawfarm target ls"));
        }
        Ok((target, runtime))
    }
}

/// Does something to a target's images in the background, and tells what it says.
fn told<W>(runtime: Arc<dyn Runtime>, work: W) -> News
where
    W: for<'a> FnOnce(&'a dyn Images, &'a dyn Progress) -> futures::future::BoxFuture<'a, Result<Image>>
        + Send
        + 'static,
{
    let (sender, receiver) = mpsc::channel(LINES);
    tokio::spawn(async move {
        let Some(images) = runtime.images() else { return };
        let teller = Teller(sender.clone());
        let done = work(images, &teller).await;
        // Whoever asked may have gone.
        let _ = sender.send(done.map(BuildNews::Done)).await;
    });
    futures::stream::unfold(receiver, |mut news| async move { Some((news.recv().await?, news)) }).boxed()
}

/// Tells lines to whoever asked.
struct Teller(mpsc::Sender<Result<BuildNews>>);

impl Progress for Teller {
    fn step(&self, _name: &str, message: &str, _total: Option<u64>, _unit: &str) {
        self.say(message);
    }

    fn advance(&self, _done: u64) {}

    fn say(&self, line: &str) {
        // A reader that is too slow misses some of it.
        let _ = self.0.try_send(Ok(BuildNews::Line(line.to_owned())));
    }
}
