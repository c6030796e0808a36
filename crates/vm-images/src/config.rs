//! Where images are kept and come from, and how long is waited for them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clawfarm_model::{Error, Result};

use crate::supported::Distribution;

/// Where Ubuntu publishes its cloud images.
pub const UBUNTU_SITE: &str = "https://cloud-images.ubuntu.com/";
/// Where Debian publishes its cloud images.
pub const DEBIAN_SITE: &str = "https://cloud.debian.org/images/cloud/";
/// Where Debian's and Ubuntu's packages put the key that Ubuntu's cloud images are signed with.
const UBUNTU_KEYRING: &str = "/usr/share/keyrings/ubuntu-cloudimage-keyring.gpg";

/// What [`crate::Images`] is told.
#[derive(Clone, Debug)]
pub struct ImagesConfig {
    /// The folder of all images; made when it is missing.
    pub folder: PathBuf,
    /// Whether the folder is ours alone, so that an image which disks are overlays of stays.
    /// Not where it is in a cache, which people empty.
    pub kept: bool,
    /// Ubuntu's site or a mirror with the same layout, ending in `/`.
    pub ubuntu_site: String,
    /// Debian's site or a mirror with the same layout, ending in `/`.
    pub debian_site: String,
    /// The key that Ubuntu's lists of digests are signed with, checked where it exists.
    pub ubuntu_keyring: PathBuf,
    /// A PEM file of the authorities that sites are trusted by, instead of the system's.
    pub site_ca: Option<PathBuf>,
    /// Where Debian's packages come from when an image is built: a mirror's URL, or a file in
    /// apt's own format. What mmdebstrap says when absent, which is Debian's own.
    pub packages: Option<String>,
    /// How long is waited, and how large a file may be.
    pub limits: Limits,
}

/// How long is waited for each step, and how large a file may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a connection, with its TLS.
    pub connect: Duration,
    /// For the head of an answer.
    pub head: Duration,
    /// For the next piece of a body: a download may take as long as it likes while something comes.
    pub stall: Duration,
    /// Before a download that was cut off goes on; twice as long each time that nothing came.
    pub pause: Duration,
    /// How often a download goes on without that anything came.
    pub tries: u32,
    /// The largest image that is fetched or imported, in bytes of the file and of the disk in
    /// it: 2 TiB, which no cloud image is near, and which a header made up in bad faith exceeds.
    pub image_max: u64,
    /// For a step of a build, in which packages are downloaded and unpacked.
    pub build_step: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            head: Duration::from_secs(30),
            stall: Duration::from_secs(60),
            pause: Duration::from_secs(1),
            tries: 5,
            image_max: 2 << 40,
            build_step: Duration::from_mins(60),
        }
    }
}

impl ImagesConfig {
    /// The images of a home, from their makers' own sites; where another cache was chosen
    /// (`CLAWFARM_CACHE_DIR`), they are there.
    #[must_use]
    pub fn of(home: &Path, cache: Option<&Path>) -> Self {
        Self { kept: cache.is_none(), ..Self::new(cache.unwrap_or(home).join("images")) }
    }

    /// Images in `folder`, from their makers' own sites.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            kept: true,
            ubuntu_site: UBUNTU_SITE.to_owned(),
            debian_site: DEBIAN_SITE.to_owned(),
            ubuntu_keyring: PathBuf::from(UBUNTU_KEYRING),
            site_ca: None,
            packages: None,
            limits: Limits::default(),
        }
    }

    /// Checks what a person may have set.
    ///
    /// # Errors
    /// `InvalidInput` on `ubuntu_site` or `debian_site`.
    pub fn check(&self) -> Result<()> {
        for (field, site) in [("ubuntu_site", &self.ubuntu_site), ("debian_site", &self.debian_site)] {
            let refuse = |why: &str| {
                Err(Error::invalid(field, format!("'{}' {why}", site.escape_default()))
                    .fix("give the URL of a mirror, such as https://mirror.example/cloud-images/"))
            };
            let Ok(url) = site.parse::<http::Uri>() else { return refuse("is no URL") };
            if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none() {
                return refuse("is no URL with http or https");
            }
            if !site.ends_with('/') || url.query().is_some() {
                return refuse("does not end in '/'");
            }
            if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
                return refuse("has a user's name in it, which would be told to everybody in messages");
            }
        }
        Ok(())
    }

    pub(crate) fn site(&self, distribution: Distribution) -> &str {
        match distribution {
            Distribution::Ubuntu => &self.ubuntu_site,
            Distribution::Debian => &self.debian_site,
        }
    }

    pub(crate) fn keyring(&self, distribution: Distribution) -> Option<&Path> {
        match distribution {
            Distribution::Ubuntu => Some(&self.ubuntu_keyring),
            Distribution::Debian => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_makers_own_sites_are_fine() {
        ImagesConfig::new("/x").check().unwrap();
    }

    #[test]
    fn a_mirror_that_can_t_be_one_is_refused() {
        for (site, why) in [
            ("", "no URL"),
            ("cloud", "no URL"),
            ("ftp://a/", "http or https"),
            ("file:///x/", "no URL"),
            ("https://a/b", "end in '/'"),
            ("https://a/?x=/", "end in '/'"),
            ("https://u:p@a/", "user's name"),
        ] {
            let config = ImagesConfig { debian_site: site.to_owned(), ..ImagesConfig::new("/x") };
            let error = config.check().expect_err(site);
            assert_eq!(error.field_name(), Some("debian_site"));
            assert!(error.message().contains(why), "{site}: {error}");
            assert!(!error.to_string().contains("u:p") || why.contains("user"));
        }
    }

    #[test]
    fn a_chosen_cache_comes_before_the_home_and_is_not_kept() {
        let home = ImagesConfig::of(Path::new("/h"), None);
        assert_eq!((home.folder.as_path(), home.kept), (Path::new("/h/images"), true));
        let cache = ImagesConfig::of(Path::new("/h"), Some(Path::new("/c")));
        assert_eq!((cache.folder.as_path(), cache.kept), (Path::new("/c/images"), false));
    }
}
