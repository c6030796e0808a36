//! What is here, and how it goes away.

use clawfarm_model::Code;
use clawfarm_runtime::NoProgress;
use clawfarm_vm_images::{Disk, How, supported};
use rustix::fs::{FlockOperation, flock};
use tempfile::tempdir;

use crate::import::alone;
use crate::support::{named, names, on_the_way, raw_disk};

#[tokio::test]
async fn all_that_can_be_fetched_are_listed_and_those_that_are_here() {
    let folder = tempdir().unwrap();
    let images = alone(folder.path());
    let listed = images.list().await.unwrap();
    assert_eq!(listed.len(), supported().len());
    assert!(listed.iter().all(|one| one.supported && one.record.is_none() && one.pinned_by.is_empty()));
    let raw = folder.path().join("raw");
    std::fs::write(&raw, raw_disk(1, 1)).unwrap();
    images.import(&raw, &named("lab:1"), &NoProgress).await.unwrap();
    images.import(&raw, &named("debian:12"), &NoProgress).await.unwrap();
    let listed = images.list().await.unwrap();
    let here: Vec<(&str, bool)> = listed
        .iter()
        .filter(|one| one.record.is_some())
        .map(|one| (one.reference.as_str(), one.supported))
        .collect();
    assert_eq!(here, [("debian:12", true), ("lab:1", false)]);
    assert_eq!(listed.len(), supported().len() + 1);
}

#[tokio::test]
async fn an_image_is_removed_and_no_other() {
    let folder = tempdir().unwrap();
    let images = alone(folder.path());
    let raw = folder.path().join("raw");
    std::fs::write(&raw, raw_disk(1, 1)).unwrap();
    images.import(&raw, &named("lab:1"), &NoProgress).await.unwrap();
    images.import(&raw, &named("lab:2"), &NoProgress).await.unwrap();
    images.remove(&named("lab:1")).await.unwrap();
    assert_eq!(names(&folder.path().join("images")), ["lab:2"]);
    assert!(on_the_way(&folder.path().join("images")).is_empty());
    assert_eq!(images.remove(&named("lab:1")).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn an_image_that_is_read_or_under_a_disk_stays() {
    let folder = tempdir().unwrap();
    let images = alone(folder.path());
    let raw = folder.path().join("raw");
    std::fs::write(&raw, raw_disk(1, 1)).unwrap();
    images.import(&raw, &named("lab:1"), &NoProgress).await.unwrap();

    // As somebody does who makes a disk of it, in whatever process.
    let lock = std::fs::File::open(folder.path().join("images/.locks/lab:1")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockShared).unwrap();
    assert_eq!(images.remove(&named("lab:1")).await.unwrap_err().code(), Code::Conflict);
    drop(lock);

    let disk = Disk {
        path: folder.path().join("disk"),
        size_bytes: None,
        owner: "alice-x7k2".into(),
        how: Some(How::Overlay),
    };
    images.make_disk(&named("lab:1"), &disk, &NoProgress).await.unwrap();
    let error = images.remove(&named("lab:1")).await.unwrap_err();
    assert!(error.code() == Code::Conflict && error.message().contains("alice-x7k2"), "{error}");
    let listed = images.list().await.unwrap();
    assert!(listed.iter().any(|one| one.pinned_by == ["alice-x7k2"]), "{listed:?}");
    images.unpin(&named("lab:1"), "alice-x7k2").await.unwrap();
    images.unpin(&named("lab:1"), "alice-x7k2").await.unwrap();
    images.remove(&named("lab:1")).await.unwrap();
}

#[tokio::test]
async fn a_damaged_image_is_told_and_can_be_removed() {
    let folder = tempdir().unwrap();
    let images = alone(folder.path());
    let raw = folder.path().join("raw");
    std::fs::write(&raw, raw_disk(1, 1)).unwrap();
    for (name, why) in [("image.img", "missing"), ("image.json", "missing")] {
        images.import(&raw, &named("lab:1"), &NoProgress).await.unwrap();
        std::fs::remove_file(folder.path().join("images/lab:1").join(name)).unwrap();
        let error = images.get(&named("lab:1")).await.unwrap_err();
        assert!(error.message().contains(why) && error.fix_text().is_some(), "{error}");
        // Nothing is put over it, and the list does not fail for it.
        assert!(images.import(&raw, &named("lab:1"), &NoProgress).await.is_err());
        images.list().await.unwrap();
        images.remove(&named("lab:1")).await.unwrap();
    }
    images.import(&raw, &named("lab:1"), &NoProgress).await.unwrap();
    let image = images.path_of(&named("lab:1"));
    std::fs::remove_file(&image).unwrap();
    std::fs::write(&image, "short").unwrap();
    let error = images.get(&named("lab:1")).await.unwrap_err();
    assert!(error.message().contains("has 5 bytes"), "{error}");
}

#[tokio::test]
async fn what_was_cut_off_at_its_last_step_is_finished() {
    let folder = tempdir().unwrap();
    let images = alone(folder.path());
    let raw = folder.path().join("raw");
    std::fs::write(&raw, raw_disk(1, 1)).unwrap();
    let record = images.import(&raw, &named("ubuntu:24.04"), &NoProgress).await.unwrap();
    let (place, work) = (folder.path().join("images"), folder.path().join("images/.work/ubuntu:24.04"));
    std::fs::rename(place.join("ubuntu:24.04"), &work).unwrap();
    // Its site does not answer, and need not.
    assert_eq!(images.fetch(&named("ubuntu:24.04"), &NoProgress).await.unwrap(), record);
    assert_eq!(names(&place), ["ubuntu:24.04"]);
    // A removal that was cut off is finished by whoever comes next.
    std::fs::rename(place.join("ubuntu:24.04"), place.join(".gone/ubuntu:24.04")).unwrap();
    assert_eq!(alone(folder.path()).get(&named("ubuntu:24.04")).await.unwrap(), None);
    assert!(names(&place.join(".gone")).is_empty());
}
