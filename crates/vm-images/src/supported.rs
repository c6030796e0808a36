//! The images that can be fetched, and where their makers publish them.

use clawfarm_model::vm_image::VmImageReference;
use clawfarm_model::{Code, Error, Result};

/// Whose images they are: each has a site, a layout and a way of signing of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Ubuntu's cloud images: releases by version, `SHA256SUMS` signed beside each.
    Ubuntu,
    /// Debian's cloud images: by codename, `SHA512SUMS`, not signed.
    Debian,
}

/// An image that can be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supported {
    /// Whose it is.
    pub distribution: Distribution,
    /// What it is called here, without a day: `ubuntu:24.04`.
    pub reference: &'static str,
    version: &'static str,
    /// The release's codename, which Debian's folders have.
    codename: &'static str,
}

/// Every one. Long-term releases that their makers publish cloud images of and that have the
/// cloud-init, the virtio and virtiofs drivers and the systemd that instances need.
const ALL: [Supported; 4] = [
    Supported {
        distribution: Distribution::Ubuntu,
        reference: "ubuntu:24.04",
        version: "24.04",
        codename: "noble",
    },
    Supported {
        distribution: Distribution::Ubuntu,
        reference: "ubuntu:22.04",
        version: "22.04",
        codename: "jammy",
    },
    Supported {
        distribution: Distribution::Debian,
        reference: "debian:13",
        version: "13",
        codename: "trixie",
    },
    Supported {
        distribution: Distribution::Debian,
        reference: "debian:12",
        version: "12",
        codename: "bookworm",
    },
];

/// Every image that can be fetched, by what it is called without a day.
#[must_use]
pub const fn supported() -> &'static [Supported] {
    &ALL
}

/// Where a file is, below its distribution's site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The folder, ending in `/`.
    pub(crate) folder: String,
    /// The image in it.
    pub(crate) file: String,
    /// The list of digests in it.
    pub(crate) sums: &'static str,
    /// The list's signature in it, where the distribution signs.
    pub(crate) signature: Option<&'static str>,
}

/// Finds what a reference names.
///
/// # Errors
/// `NotFound` for what is not in the list; `Unsupported` for a day of a distribution whose
/// folders can't be told from a day.
pub(crate) fn find(reference: &VmImageReference) -> Result<Supported> {
    let Some(found) = ALL.iter().find(|one| one.reference == reference.without_day()) else {
        let known: Vec<&str> = ALL.iter().map(|one| one.reference).collect();
        return Err(Error::new(
            Code::NotFound,
            format!("no image named '{reference}' is here, and it is none that can be fetched"),
        )
        .field("image")
        .fix(format!(
            "use one of {}, or take in a file of your own: clawfarm image import FILE --name {reference}",
            known.join(", ")
        )));
    };
    if found.distribution == Distribution::Debian && reference.day().is_some() {
        return Err(Error::new(
            Code::Unsupported,
            format!("'{reference}' can't be fetched by day: Debian's folders have a number behind the day"),
        )
        .field("image")
        .fix(format!(
            "use {} for the newest, or download the file and take it in: clawfarm image import FILE --name {reference}",
            found.reference
        )));
    }
    Ok(*found)
}

impl Supported {
    /// Where its file is for a processor, and of a day where one is given.
    ///
    /// # Errors
    /// `Unsupported` for a processor that neither distribution's images are made for here.
    pub(crate) fn place(&self, day: Option<&str>, arch: &str) -> Result<Place> {
        let arch = match arch {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => {
                return Err(Error::new(
                    Code::Unsupported,
                    format!("{} is not fetched for this processor ({other})", self.reference),
                )
                .field("image"));
            }
        };
        let version = self.version;
        Ok(match self.distribution {
            Distribution::Ubuntu => Place {
                folder: match day {
                    Some(day) => format!("releases/{version}/release-{day}/"),
                    None => format!("releases/{version}/release/"),
                },
                file: format!("ubuntu-{version}-server-cloudimg-{arch}.img"),
                sums: "SHA256SUMS",
                signature: Some("SHA256SUMS.gpg"),
            },
            Distribution::Debian => Place {
                folder: format!("{}/latest/", self.codename),
                file: format!("debian-{version}-genericcloud-{arch}.qcow2"),
                sums: "SHA512SUMS",
                signature: None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> VmImageReference {
        VmImageReference::new(text).expect(text)
    }

    #[test]
    fn every_supported_one_is_a_reference_and_has_a_place() {
        for one in supported() {
            let found = find(&reference(one.reference)).unwrap();
            assert_eq!(&found, one);
            for arch in ["x86_64", "aarch64"] {
                let place = found.place(None, arch).unwrap();
                assert!(place.folder.ends_with('/') && !place.folder.starts_with('/'), "{place:?}");
            }
            assert_eq!(found.place(None, "riscv64").unwrap_err().code(), Code::Unsupported);
        }
    }

    #[test]
    fn places_are_the_makers_own() {
        let ubuntu = find(&reference("ubuntu:24.04@20250115")).unwrap();
        let place = ubuntu.place(Some("20250115"), "x86_64").unwrap();
        assert_eq!(place.folder, "releases/24.04/release-20250115/");
        assert_eq!(place.file, "ubuntu-24.04-server-cloudimg-amd64.img");
        let debian = find(&reference("debian:12")).unwrap().place(None, "aarch64").unwrap();
        assert_eq!((debian.folder.as_str(), debian.sums), ("bookworm/latest/", "SHA512SUMS"));
        assert_eq!(debian.file, "debian-12-genericcloud-arm64.qcow2");
    }

    #[test]
    fn what_can_t_be_fetched_says_what_can() {
        let unknown = find(&reference("ubuntu:99.10")).unwrap_err();
        assert_eq!((unknown.code(), unknown.field_name()), (Code::NotFound, Some("image")));
        assert!(unknown.fix_text().unwrap().contains("ubuntu:24.04"), "{unknown}");
        let day = find(&reference("debian:12@20250115")).unwrap_err();
        assert_eq!(day.code(), Code::Unsupported);
        assert!(day.fix_text().unwrap().contains("debian:12 for the newest"), "{day}");
    }
}
