//! Images of claw types: made and listed on the targets that run such.

use clawfarm_model::image::Image;
use clawfarm_model::name::{ClawType, TargetName, TenantName};
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::{Action, Code, Context, Error, Resource, Result, authorize};
use clawfarm_runtime::Progress;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

use crate::Control;

/// How many lines of a build wait for a slow reader; more of them are not told.
const LINES: usize = 1024;

/// An image that is to be made.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// The claw type.
    pub claw_type: String,
    /// The claw's version; the one that was tested when absent.
    pub version: Option<String>,
    /// On which target; the first that runs images when absent.
    pub target: Option<TargetName>,
    /// What it is made on; what the target or the recipe says when absent.
    pub base: Option<String>,
}

/// What is told of a build.
#[derive(Clone, Debug)]
pub enum BuildNews {
    /// A line that it printed.
    Line(String),
    /// The image is there.
    Done(Image),
}

impl Control {
    /// Makes an image, and tells how that goes. It goes on when nobody listens any more.
    ///
    /// # Errors
    /// `InvalidInput` for an unknown claw type or version, `Unsupported` when the target runs
    /// no images or the type has no recipe. How the build ends is the stream's last item.
    pub async fn build_image(
        &self,
        context: &Context,
        new: NewImage,
    ) -> Result<BoxStream<'static, Result<BuildNews>>> {
        let core = &self.core;
        let adapter = core.adapters.get(&ClawType::new(new.claw_type)?)?;
        let version = new.version.unwrap_or_else(|| adapter.default_version().to_owned());
        let recipe = adapter.image_recipe(&version)?.ok_or_else(|| {
            Error::new(Code::Unsupported, format!("there is no recipe for images of {}", adapter.claw_type()))
                .field("claw_type")
        })?;
        let kind = new.target.is_none().then_some(RuntimeKind::Docker);
        let (target, runtime) = core.choose_target(kind, new.target.as_ref())?;
        let resource = Resource::new(TenantName::default_tenant(), "target", target.name.as_str());
        authorize(context, Action::TargetWrite, &resource)?;
        if runtime.images().is_none() {
            return Err(Error::new(Code::Unsupported, format!("target '{}' runs no images", target.name))
                .field("target")
                .fix("name one of docker: clawfarm target ls"));
        }
        let (sender, receiver) = mpsc::channel(LINES);
        tokio::spawn(async move {
            let Some(images) = runtime.images() else { return };
            let built = images.build(&recipe, new.base.as_deref(), &Teller(sender.clone())).await;
            // Whoever asked may have gone.
            let _ = sender.send(built.map(BuildNews::Done)).await;
        });
        let news =
            futures::stream::unfold(receiver, |mut news| async move { Some((news.recv().await?, news)) });
        Ok(news.boxed())
    }

    /// The images of all targets that answer.
    ///
    /// # Errors
    /// Never at present; a target that does not answer is left out, with a warning in the log.
    pub async fn images(&self, _context: &Context) -> Result<Vec<Image>> {
        let mut all = Vec::new();
        for (target, runtime) in self.core.targets().iter() {
            let Some(images) = runtime.images() else { continue };
            match images.images().await {
                Ok(found) => all.extend(found),
                Err(error) => tracing::warn!(target = %target.name, ?error, "its images can't be listed"),
            }
        }
        Ok(all)
    }
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
