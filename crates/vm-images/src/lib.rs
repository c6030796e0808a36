//! Images of virtual machines: fetched, imported, built, kept, and made into disks.
//!
//! ```text
//! <images>/                      ~/.clawfarm/images, or below CLAWFARM_CACHE_DIR
//!   ubuntu:24.04/                one folder a reference
//!     image.img                  the image, raw or qcow2, read-only
//!     image.json                 what it is: format, size, digest, where it came from
//!     pins/<name>                one file a disk that is an overlay of it
//!   .work/ubuntu:24.04/          what is on its way: a download that goes on where it ended
//!   ubuntu:24.04/warm/           its base snapshots: machines that wait to be copied
//!   .warm/                       those that are being made
//!   .gone/                       what is being removed
//!   .locks/ubuntu:24.04          held by whoever makes or removes it, shared by who reads it
//! ```
//!
//! [`Images`] is all of it. A folder is moved into place whole and never changed, so what has
//! an `image.json` is whole; what was cut off is in `.work`, and is gone on with or begun anew.
//! Files from elsewhere are believed in nothing: a download is held against the digest that
//! its site publishes, and a qcow2 that names other files (a backing file, an external data
//! file) is refused, because those could be any of this machine's.
//!
//! `docs/design/0028-vm-images.md` has the decisions.

mod build;
mod config;
mod disk;
mod fetch;
mod folder;
mod format;
mod import;
mod lock;
mod offered;
mod record;
mod run;
mod store;
mod supported;
mod warm;

pub use build::{RECIPE, recipe_digest};
pub use config::{DEBIAN_SITE, ImagesConfig, Limits, UBUNTU_SITE};
pub use disk::{Disk, How, Made};
pub use folder::disk_of_folder;
pub use format::{Format, Shape, shape_of};
pub use record::{Origin, Record, Signature};
pub use store::{Images, Listed};
pub use supported::{Distribution, Supported, supported};
pub use warm::{Abandoned, BASE_DISK, BASE_MEMORY, Base, BaseMaking, BaseRecord};
