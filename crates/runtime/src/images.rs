//! Images of claw types, where a runtime runs such.

use async_trait::async_trait;
use clawfarm_model::Result;
use clawfarm_model::image::{Image, ImageReference};
use clawfarm_model::launch::{GitSource, ImageMark, ImageRecipe, SourceRecipe};

use crate::Progress;

/// Making, fetching and listing images.
#[async_trait]
pub trait Images: Send + Sync {
    /// Makes an image by its recipe, on `base` or what the target or the recipe says; one that
    /// was made from the same is left as it is. What the build prints goes to
    /// [`Progress::say`], and is kept for [`Self::build_log`]. Many who ask at once, at this server or at
    /// another one on the same engine, get one build.
    ///
    /// # Errors
    /// `Unavailable` when the target does not answer or the build fails, with its last lines.
    async fn build(&self, recipe: &ImageRecipe, base: Option<&str>, progress: &dyn Progress)
    -> Result<Image>;

    /// The same from a commit of the claw type's source.
    ///
    /// # Errors
    /// As for [`Self::build`]; `InvalidInput` on `source` and `ref` for what can't be fetched,
    /// and for what is no source of the claw type.
    async fn build_source(
        &self,
        recipe: &SourceRecipe,
        source: &GitSource,
        base: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Image>;

    /// Fetches an image from its registry, and looks whether it is one of the claw type.
    ///
    /// # Errors
    /// `InvalidInput` on `image` for one that does not exist there, or is none of the claw type
    /// or for another processor; `Unavailable` when its registry does not answer.
    async fn pull(
        &self,
        reference: &ImageReference,
        mark: &ImageMark,
        progress: &dyn Progress,
    ) -> Result<Image>;

    /// Removes an image under one of its names.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while an instance or something else of the target uses it.
    async fn remove_image(&self, reference: &ImageReference) -> Result<()>;

    /// What the last build of an image printed here, in its lines; the last of them where there
    /// are very many.
    ///
    /// # Errors
    /// `NotFound` when none was made here.
    async fn build_log(&self, reference: &ImageReference) -> Result<String>;

    /// The images of claw types that the target has, by their names.
    ///
    /// # Errors
    /// `Unavailable` when the target does not answer.
    async fn images(&self) -> Result<Vec<Image>>;
}
