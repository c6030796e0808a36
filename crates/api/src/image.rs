//! `/images`.

use clawfarm_model::image::Image;
use clawfarm_model::name::{ClawType, TargetName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /images`: an image that is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildImage {
    /// The claw type.
    #[schema(value_type = ClawType)]
    pub claw_type: String,
    /// The claw's version; the one this clawfarm was tested with when absent.
    #[serde(default)]
    pub version: Option<String>,
    /// On which target; the first that runs images when absent.
    #[serde(default)]
    pub target: Option<TargetName>,
    /// What it is made on; what the target or the recipe says when absent.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255)]
    pub base: Option<String>,
}

/// What is told of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BuildEvent {
    /// A line that it printed.
    Line {
        /// The line.
        text: String,
    },
    /// The image is there.
    Done {
        /// The image.
        image: Image,
    },
}

/// `GET /images`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageList {
    /// The images, by target and name.
    pub items: Vec<Image>,
}
