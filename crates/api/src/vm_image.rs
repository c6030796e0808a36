//! `/vm-images`.

use clawfarm_model::vm_image::{VmImage, VmImageReference};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::instance::ResourcesInput;

/// `POST /vm-images`: an image of virtual machines that is to be here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddVmImage {
    /// What it is called, or is to be called.
    pub image: VmImageReference,
    /// Where it comes from.
    #[serde(default)]
    pub from: ImageSource,
    /// With `file`: the file, as a whole path of the server's machine (for callers of that machine
    /// only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 4096, pattern = "^/[^\\u0000]*$")]
    pub file: Option<String>,
}

/// Where an image of virtual machines comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    /// Its maker's site, or the mirror that the server was told of.
    #[default]
    Site,
    /// Its distribution's packages, put together by the server.
    Packages,
    /// A file.
    File,
}

/// `POST /vm-images/warm`: a base snapshot that is to be there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WarmVmImage {
    /// The image that it is of.
    pub image: VmImageReference,
    /// The size of the machines that are made from it; what a machine has by itself when absent.
    #[serde(default)]
    pub resources: ResourcesInput,
}

/// Which image: `DELETE /vm-images`.
#[derive(Clone, Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct VmImageQuery {
    /// What it is called.
    #[param(inline, example = "ubuntu:24.04")]
    pub image: VmImageReference,
}

/// What is told while an image comes to be here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum VmImageEvent {
    /// A step began, and the ones before it ended.
    Step {
        /// What it does.
        message: String,
        /// How far it will go, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
        /// In what: `bytes`, or something that is counted.
        unit: String,
    },
    /// The present step is this far.
    Advance {
        /// In the step's unit.
        done: u64,
    },
    /// It said something.
    Line {
        /// What.
        text: String,
    },
    /// The image is here.
    Done {
        /// The image.
        image: Box<VmImage>,
    },
}

/// `GET /vm-images`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmImageList {
    /// Those that can be fetched first, whether they are here or not; then the others.
    pub items: Vec<VmImage>,
}
