//! Lists of digests that are signed, checked with the real gpgv.
//!
//! `keys/` has a list of the digest of [`disk`], its signature, the key's keyring, and the
//! keyring of another key. They were made once by gpg; the secret keys are gone.

use std::path::{Path, PathBuf};

use clawfarm_model::Code;
use clawfarm_runtime::NoProgress;
use clawfarm_vm_images::{Images, ImagesConfig, Origin, Signature};
use tempfile::tempdir;

use crate::site::{Page, Site, UBUNTU, ubuntu_file};
use crate::support::{config, named, names};

fn key(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/keys").join(name)
}

/// The image that the list is of: an empty disk of one sector.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 512];
    disk[510..].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// A site with the signed list, or with `list` instead.
async fn site(list: Option<Vec<u8>>) -> Site {
    let site = Site::start().await;
    let page = |body| Page { body, ..Page::default() };
    site.put_ubuntu(page(disk()));
    let list = list.unwrap_or_else(|| std::fs::read(key("SHA256SUMS")).unwrap());
    site.put(&format!("{UBUNTU}SHA256SUMS"), page(list));
    let signature = std::fs::read(key("SHA256SUMS.gpg")).unwrap();
    site.put(&format!("{UBUNTU}SHA256SUMS.gpg"), page(signature));
    site
}

fn images(folder: &Path, site: &Site, keyring: &str) -> Images {
    let config = ImagesConfig { ubuntu_keyring: key(keyring), ..config(folder, &site.url) };
    Images::open(config).unwrap()
}

#[tokio::test]
async fn a_good_signature_is_told() {
    let (folder, site) = (tempdir().unwrap(), site(None).await);
    let images = images(folder.path(), &site, "keyring.gpg");
    let record = images.fetch(&named("ubuntu:24.04"), &NoProgress).await.unwrap();
    assert!(matches!(record.origin, Origin::Fetched { signature: Signature::Good, .. }), "{record:?}");
}

#[tokio::test]
async fn a_list_that_was_changed_or_signed_by_another_is_refused() {
    let mut changed = std::fs::read(key("SHA256SUMS")).unwrap();
    changed.extend_from_slice(b"\n");
    for (list, keyring) in [(Some(changed), "keyring.gpg"), (None, "another.gpg")] {
        let (folder, site) = (tempdir().unwrap(), site(list).await);
        let images = images(folder.path(), &site, keyring);
        let error = images.fetch(&named("ubuntu:24.04"), &NoProgress).await.unwrap_err();
        assert_eq!((error.code(), error.field_name()), (Code::Forbidden, Some("image")), "{error}");
        // The image itself was not even asked for.
        assert!(site.asked(&ubuntu_file()).is_empty());
        assert!(names(&folder.path().join("images/.work")).is_empty());
    }
}

#[tokio::test]
async fn a_mirror_that_leaves_the_signature_out_is_refused() {
    let (folder, site) = (tempdir().unwrap(), site(None).await);
    site.remove(&format!("{UBUNTU}SHA256SUMS.gpg"));
    let images = images(folder.path(), &site, "keyring.gpg");
    let error = images.fetch(&named("ubuntu:24.04"), &NoProgress).await.unwrap_err();
    assert!(error.code() == Code::Forbidden && error.message().contains("SHA256SUMS.gpg"), "{error}");
}
