//! Base snapshots as they are kept: whole, pinned, swept.

use std::path::Path;
use std::time::Duration;

use clawfarm_model::{Code, Timestamp};
use clawfarm_runtime::NoProgress;
use clawfarm_vm_images::{Base, BaseRecord, Disk, Format, How, Images, ImagesConfig};
use tempfile::tempdir;

use crate::import::{alone, qcow2, qemu_img};
use crate::support::{named, raw_disk};

const MIB: u64 = 1 << 20;

async fn with_image(folder: &Path) -> Images {
    let images = alone(folder);
    let file = qcow2(folder, "a.qcow2", &raw_disk(2, 1));
    images.import(&file, &named("a:1"), &NoProgress).await.unwrap();
    images
}

fn record(cpus: u32, memory_mib: u32) -> BaseRecord {
    BaseRecord {
        version: 1,
        digest: "sha256:x".into(),
        cpus,
        memory_mib,
        disk_bytes: 8 * MIB,
        agent: "x".into(),
        made_at: Timestamp::now(),
    }
}

/// A base with nothing in its memory.
async fn made(images: &Images, cpus: u32) -> Base {
    let making = images.begin_base(&named("a:1"), (cpus, 512), &NoProgress).await.unwrap();
    making.clear().await.unwrap();
    let (disk, memory) = (making.folder().join("disk"), making.folder().join("mem"));
    images.make_disk_of_base(&making, &disk, 8 * MIB).await.unwrap();
    std::fs::create_dir(&memory).unwrap();
    std::fs::write(memory.join("memory"), [1; 5000]).unwrap();
    images.publish_base(&making, (&disk, &memory), record(cpus, 512)).await.unwrap()
}

fn disk(folder: &Path, owner: &str) -> Disk {
    Disk { path: folder.join(owner), size_bytes: None, owner: owner.into(), how: None }
}

#[tokio::test]
async fn a_base_stays_as_long_as_a_disk_leans_on_it() {
    let folder = tempdir().unwrap();
    let images = with_image(folder.path()).await;
    let image = named("a:1");
    assert!(images.bases(&image).await.unwrap().is_empty());
    let (old, other) = (made(&images, 1).await, made(&images, 2).await);
    assert!(old.size_bytes >= 4096, "{old:?}");
    let wanted = disk(folder.path(), "alice-x7k2");
    let made_disk = images.make_disk_on_base(&image, &old.name, &wanted).await.unwrap();
    assert_eq!(
        (made_disk.how, made_disk.format, made_disk.disk_bytes),
        (How::Overlay, Format::Qcow2, 8 * MIB)
    );
    // It has what the image has, through both.
    let out = folder.path().join("contents");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    qemu_img(&["convert", "-f", "qcow2", "-O", "raw", &path(&wanted.path), &path(&out)]);
    let mut whole = raw_disk(2, 1);
    whole.resize(8 << 20, 0);
    assert!(std::fs::read(out).unwrap() == whole, "it has other contents");
    // Nobody writes to it.
    let mode = std::os::unix::fs::PermissionsExt::mode(&old.disk().metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o444);

    // A newer one of the size stands beside it until nobody's disk leans on the old.
    let newer = made(&images, 1).await;
    let keep = |kept: [&Base; 2]| {
        let kept = kept.map(|base| base.name.clone());
        move |base: &Base| kept.contains(&base.name)
    };
    images.sweep_bases(&image, keep([&newer, &other])).await.unwrap();
    let all = images.bases(&image).await.unwrap();
    assert_eq!(all.len(), 3);
    let leaned: Vec<_> = all.iter().filter(|base| !base.used_by.is_empty()).collect();
    assert!(leaned.len() == 1 && leaned[0].name == old.name && leaned[0].used_by == ["alice-x7k2"]);
    let refused = images.remove(&image).await.unwrap_err();
    assert!(refused.code() == Code::Conflict && refused.message().contains("alice-x7k2"), "{refused}");
    let listed = images.list().await.unwrap();
    assert_eq!(listed.iter().find(|it| it.reference == image).unwrap().bases.len(), 3);

    std::fs::remove_file(&wanted.path).unwrap();
    images.unpin(&image, "alice-x7k2").await.unwrap();
    images.sweep_bases(&image, keep([&newer, &other])).await.unwrap();
    assert_eq!(images.bases(&image).await.unwrap().len(), 2);
    assert!(!old.folder.exists());
    let gone = images.make_disk_on_base(&image, &old.name, &wanted).await.unwrap_err();
    assert_eq!((gone.code(), gone.field_name()), (Code::NotFound, Some("vm.from_snapshot")));
    assert!(images.pins(&image).unwrap().is_empty() && !wanted.path.exists());
    images.remove(&image).await.unwrap();
    assert!(!newer.folder.exists());
}

#[tokio::test]
async fn one_is_made_at_a_time_and_what_is_half_is_never_seen() {
    let folder = tempdir().unwrap();
    let images = with_image(folder.path()).await;
    let image = named("a:1");
    let making = images.begin_base(&image, (1, 512), &NoProgress).await.unwrap();
    std::fs::write(making.folder().join("half"), "x").unwrap();
    // Another size is nobody's business; the image stays meanwhile.
    let other = images.begin_base(&image, (2, 512), &NoProgress).await.unwrap();
    assert_ne!(making.folder(), other.folder());
    drop(other);
    assert_eq!(images.remove(&image).await.unwrap_err().code(), Code::Conflict);
    let second = images.clone();
    let waits =
        tokio::spawn(async move { second.begin_base(&named("a:1"), (1, 512), &NoProgress).await.map(drop) });
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!waits.is_finished(), "two make the same");
    assert!(images.bases(&image).await.unwrap().is_empty());
    // The one that is held is nobody's to sweep; the other's folder is.
    let left = images.abandoned_bases().await.unwrap();
    assert!(left.len() == 1 && left[0].folder != making.folder(), "{left:?}");
    drop(left);
    drop(making);
    waits.await.unwrap().unwrap();
    let left = images.abandoned_bases().await.unwrap();
    assert_eq!(left.len(), 2);
    for one in left {
        one.remove().await.unwrap();
    }
    assert!(images.abandoned_bases().await.unwrap().is_empty());

    // What has lost a part of it is none, and hides no other.
    let (broken, whole) = (made(&images, 1).await, made(&images, 2).await);
    std::fs::remove_file(broken.disk()).unwrap();
    std::fs::create_dir(broken.folder.with_file_name("stray")).unwrap();
    let names: Vec<_> = images.bases(&image).await.unwrap().into_iter().map(|base| base.name).collect();
    assert_eq!(names, [whole.name]);

    // Nothing is made of an image that is not here, and a cache keeps none.
    let refused = images.begin_base(&named("b:1"), (1, 512), &NoProgress).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let cache = ImagesConfig { kept: false, ..ImagesConfig::new(folder.path().join("cache")) };
    assert!(!Images::open(cache).unwrap().keeps_bases());
}
