//! Several processes that want the same, and one that is killed.

use std::process::Stdio;

use clawfarm_model::Code;
use clawfarm_runtime::NoProgress;
use clawfarm_vm_images::Images;
use tempfile::tempdir;
use tokio::process::{Child, Command};

use crate::site::{Page, Site};
use crate::support::{Heard, LIMIT, config, images, named, raw_disk};

const REF: &str = "ubuntu:24.04";
const MIB: usize = 1 << 20;
const FOLDER: &str = "CLAWFARM_TEST_IMAGES_FOLDER";
const SITE: &str = "CLAWFARM_TEST_IMAGES_SITE";

/// Not a test: what [`another`] runs in a process of its own.
#[tokio::test]
#[ignore = "it is run by others, in a process of its own"]
async fn as_another_process() {
    let (Some(folder), Ok(site)) = (std::env::var_os(FOLDER), std::env::var(SITE)) else { return };
    images(folder.as_ref(), &site).fetch(&named(REF), &NoProgress).await.unwrap();
}

/// Fetches in another process.
fn another(folder: &std::path::Path, site: &Site) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "shared::as_another_process", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(SITE, &site.url)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("this test can be run again")
}

/// Waits until so much has come.
async fn come(folder: &std::path::Path, bytes: usize) {
    let part = folder.join("images/.work").join(REF).join("image.img");
    let come = async {
        while !part.metadata().is_ok_and(|it| it.len() >= bytes as u64) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, come).await.expect("half of the image came");
}

#[tokio::test]
async fn two_who_want_the_same_download_it_once() {
    let (folder, site) = (tempdir().unwrap(), Site::start().await);
    let disk = raw_disk(2, 1);
    let etag = "\"one\"".to_owned();
    site.put_ubuntu(Page { body: disk.clone(), etag, hold_at: Some(MIB), ..Page::default() });
    let mut other = another(folder.path(), &site);
    come(folder.path(), MIB).await;
    let images = images(folder.path(), &site.url);
    let heard = std::sync::Arc::new(Heard::default());
    let (this, listening) = (images.clone(), heard.clone());
    let second = tokio::spawn(async move { this.fetch(&named(REF), listening.as_ref()).await });
    // It hears how far the other one is.
    let told = async {
        let waits = format!("step wait {}", disk.len());
        while !heard.all().iter().any(|line| line.starts_with(&waits))
            || !heard.all().contains(&format!("at {MIB}"))
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, told).await.expect("the second one waits, and says so");
    // Meanwhile it is not removed.
    assert_eq!(images.remove(&named(REF)).await.unwrap_err().code(), Code::Conflict);
    site.let_go();
    tokio::time::timeout(LIMIT, second).await.expect("it is there").unwrap().unwrap();
    let ended = tokio::time::timeout(LIMIT, other.wait()).await.expect("the other one ends").unwrap();
    assert!(ended.success());
    assert_eq!(site.asked(".img").len(), 1);
    assert_eq!(std::fs::read(images.path_of(&named(REF))).unwrap(), disk);
}

#[tokio::test]
async fn what_was_killed_half_way_is_gone_on_with() {
    let (folder, site) = (tempdir().unwrap(), Site::start().await);
    let disk = raw_disk(2, 1);
    let etag = "\"one\"".to_owned();
    site.put_ubuntu(Page { body: disk.clone(), etag, hold_at: Some(MIB), ..Page::default() });
    let mut other = another(folder.path(), &site);
    come(folder.path(), MIB).await;
    other.kill().await.unwrap();
    assert!(images(folder.path(), &site.url).get(&named(REF)).await.unwrap().is_none());
    site.let_go();
    let images = Images::open(config(folder.path(), &site.url)).unwrap();
    images.fetch(&named(REF), &NoProgress).await.unwrap();
    assert_eq!(site.asked(".img").last().unwrap().range, Some(format!("bytes={MIB}-")));
    assert_eq!(std::fs::read(images.path_of(&named(REF))).unwrap(), disk);
}

#[tokio::test]
async fn a_full_disk_is_told_and_the_fetch_goes_on_when_there_is_room() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount a small disk");
        return;
    }
    let (folder, site) = (tempdir().unwrap(), Site::start().await);
    let small = folder.path().join("images");
    std::fs::create_dir(&small).unwrap();
    let mounted = Mounted::new(&small);
    let disk = raw_disk(4, 1);
    // Its length is not told, so that the disk is full only when it is.
    site.put_ubuntu(Page { body: disk.clone(), etag: "\"one\"".into(), no_length: true, ..Page::default() });
    let images = images(folder.path(), &site.url);
    let error = images.fetch(&named(REF), &NoProgress).await.unwrap_err();
    assert_eq!(error.code(), Code::Insufficient, "{error}");
    assert!(error.fix_text().unwrap().contains("df -h"), "{error}");
    mounted.grow();
    images.fetch(&named(REF), &NoProgress).await.unwrap();
    assert_eq!(std::fs::read(images.path_of(&named(REF))).unwrap(), disk);
}

/// A disk of 3 MiB in a folder.
struct Mounted<'a>(&'a std::path::Path);

impl<'a> Mounted<'a> {
    fn new(folder: &'a std::path::Path) -> Self {
        let flags = rustix::mount::MountFlags::NOSUID;
        rustix::mount::mount("clawfarm", folder, "tmpfs", flags, Some(c"size=3m")).expect("mounted");
        Self(folder)
    }

    fn grow(&self) {
        let flags = rustix::mount::MountFlags::NOSUID;
        rustix::mount::mount_remount(self.0, flags, c"size=64m").expect("made larger");
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}
