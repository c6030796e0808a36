//! Images of claw types, where a runtime runs such.

use async_trait::async_trait;
use clawfarm_model::Result;
use clawfarm_model::image::Image;
use clawfarm_model::launch::ImageRecipe;

use crate::Progress;

/// Making and listing images.
#[async_trait]
pub trait Images: Send + Sync {
    /// Makes an image by its recipe, on `base` or what the target or the recipe says; one that
    /// was made from the same is left as it is. What the build prints goes to
    /// [`Progress::say`]. Many who ask at once get one build.
    ///
    /// # Errors
    /// `Unavailable` when the target does not answer or the build fails, with its last lines.
    async fn build(&self, recipe: &ImageRecipe, base: Option<&str>, progress: &dyn Progress)
    -> Result<Image>;

    /// The images of claw types that the target has, by their names.
    ///
    /// # Errors
    /// `Unavailable` when the target does not answer.
    async fn images(&self) -> Result<Vec<Image>>;
}
