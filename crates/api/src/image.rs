//! `/images`.

use clawfarm_model::image::{Image, ImageReference};
use clawfarm_model::name::{ClawType, TargetName};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// `POST /images`: an image that is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildImage {
    /// The claw type.
    #[schema(value_type = ClawType)]
    pub claw_type: String,
    /// The claw's version; the one this clawfarm was tested with when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// A git repository that it is made from, instead of a package: a URL, or a folder of the
    /// server's machine (for callers of that machine only). The version is then that of the
    /// source, with its commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 1024)]
    pub source: Option<String>,
    /// The branch, tag or commit of `source`; what the repository has checked out when absent.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200)]
    pub reference: Option<String>,
    /// On which target; the first that runs images when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetName>,
    /// What it is made on; what the target or the recipe says when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 255)]
    pub base: Option<String>,
}

/// `POST /images/pull`: an image that is to be fetched from its registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// What it is called.
    #[schema(value_type = ImageReference)]
    pub image: String,
    /// The claw type in it; `openclaw` when absent.
    #[serde(default = "openclaw")]
    #[schema(value_type = ClawType)]
    pub claw_type: String,
    /// On which target; the first that runs images when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetName>,
}

/// The claw type of images where none is named.
fn openclaw() -> String {
    "openclaw".to_owned()
}

/// Which image: `DELETE /images`, `GET /images/log`.
#[derive(Clone, Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImageQuery {
    /// What it is called.
    #[param(inline, example = "clawfarm/openclaw:2026.9.6")]
    pub image: ImageReference,
    /// On which target; the first that runs images when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub target: Option<TargetName>,
}

/// `GET /images/log`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BuildLog {
    /// What the last build of the image printed, in lines: the last MiB of it.
    pub text: String,
}

/// What is told of a build or a pull.
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
    /// Targets whose images are not among them: they do not answer, or only other servers
    /// reach them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unseen: Vec<TargetName>,
}
