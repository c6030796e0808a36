//! Disks of instances, made of images by each way that there is.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use clawfarm_model::Code;
use clawfarm_runtime::NoProgress;
use clawfarm_vm_images::{Disk, Format, How, Images, ImagesConfig};
use tempfile::tempdir;

use crate::import::{alone, qcow2, qemu_img};
use crate::support::{config, named, raw_disk};

const MIB: u64 = 1 << 20;

/// Images with `raw:1` and `qcow2:1`, of the same disk of 2 MiB.
async fn two(folder: &Path) -> (Images, Vec<u8>) {
    let images = alone(folder);
    let disk = raw_disk(2, 1);
    let file = qcow2(folder, "a.qcow2", &disk);
    images.import(&folder.join("raw"), &named("raw:1"), &NoProgress).await.unwrap();
    images.import(&file, &named("qcow2:1"), &NoProgress).await.unwrap();
    (images, disk)
}

fn disk(folder: &Path, name: &str, how: Option<How>, size_bytes: Option<u64>) -> Disk {
    Disk { path: folder.join(name), size_bytes, owner: name.to_owned(), how }
}

/// The disk's bytes, as QEMU reads them.
fn contents(folder: &Path, disk: &Path, format: Format) -> Vec<u8> {
    let out = folder.join("contents");
    qemu_img(&["convert", "-f", format.as_str(), "-O", "raw", disk.to_str().unwrap(), out.to_str().unwrap()]);
    std::fs::read(out).unwrap()
}

#[tokio::test]
async fn a_disk_has_what_its_image_has_and_grows() {
    let folder = tempdir().unwrap();
    let (images, bytes) = two(folder.path()).await;
    for reference in ["raw:1", "qcow2:1"] {
        for how in [How::Reflink, How::Overlay, How::Copy] {
            for size in [None, Some(8 * MIB)] {
                let name = format!("{how:?}-{}-{}", &reference[..3], size.is_some());
                let wanted = disk(folder.path(), &name, Some(how), size);
                let made = match images.make_disk(&named(reference), &wanted, &NoProgress).await {
                    // Most file systems do not share blocks.
                    Err(error) if how == How::Reflink => {
                        assert_eq!(error.code(), Code::Unsupported, "{error}");
                        assert!(!wanted.path.exists());
                        continue;
                    }
                    made => made.unwrap(),
                };
                let expected = size.unwrap_or(bytes.len() as u64);
                assert_eq!((made.how, made.disk_bytes), (how, expected), "{name}");
                let mut whole = bytes.clone();
                whole.resize(usize::try_from(expected).unwrap(), 0);
                assert_eq!(contents(folder.path(), &wanted.path, made.format), whole, "{name}");
                let file = wanted.path.metadata().unwrap();
                assert_eq!(file.mode() & 0o777, 0o600, "{name}");
                assert!(file.blocks() * 512 < 4 * MIB, "{name} takes up {} blocks", file.blocks());
            }
        }
    }
    assert_eq!(images.pins(&named("raw:1")).unwrap(), ["Overlay-raw-false", "Overlay-raw-true"]);
}

#[tokio::test]
async fn the_cheapest_way_is_chosen_that_is_safe() {
    let folder = tempdir().unwrap();
    let (images, _) = two(folder.path()).await;
    let wanted = disk(folder.path(), "kept", None, None);
    let made = images.make_disk(&named("qcow2:1"), &wanted, &NoProgress).await.unwrap();
    assert!(matches!(made.how, How::Reflink | How::Overlay), "{made:?}");
    // Of a cache that people empty no overlay is made.
    let cache = ImagesConfig { kept: false, ..config(folder.path(), "http://localhost:1/") };
    let wanted = disk(folder.path(), "cached", None, None);
    let made = Images::open(cache).unwrap().make_disk(&named("qcow2:1"), &wanted, &NoProgress).await.unwrap();
    assert!(matches!(made.how, How::Reflink | How::Copy), "{made:?}");
}

#[tokio::test]
async fn what_can_t_be_made_changes_nothing() {
    let folder = tempdir().unwrap();
    let (images, _) = two(folder.path()).await;
    let make = async |reference: &str, disk: Disk| {
        images.make_disk(&named(reference), &disk, &NoProgress).await.unwrap_err()
    };
    let small = make("raw:1", disk(folder.path(), "d", None, Some(MIB))).await;
    assert_eq!((small.code(), small.field_name()), (Code::InvalidInput, Some("disk_gib")), "{small}");
    let missing = make("none:1", disk(folder.path(), "d", None, None)).await;
    assert_eq!((missing.code(), missing.field_name()), (Code::NotFound, Some("image")), "{missing}");
    let owner = Disk { owner: "../x".into(), ..disk(folder.path(), "d", Some(How::Overlay), None) };
    assert_eq!(make("raw:1", owner).await.code(), Code::InvalidInput);
    let relative = Disk { path: "d".into(), ..disk(folder.path(), "d", None, None) };
    assert_eq!(make("raw:1", relative).await.code(), Code::InvalidInput);
    let nowhere = disk(&folder.path().join("nowhere"), "d", Some(How::Overlay), None);
    make("raw:1", nowhere).await;
    std::fs::write(folder.path().join("d"), "somebody's").unwrap();
    assert_eq!(make("raw:1", disk(folder.path(), "d", None, None)).await.code(), Code::Conflict);
    assert_eq!(std::fs::read(folder.path().join("d")).unwrap(), b"somebody's");
    assert!(images.pins(&named("raw:1")).unwrap().is_empty());
    assert!(!folder.path().join(".d.part").exists());
}

#[tokio::test]
async fn what_a_kill_left_of_a_disk_is_made_anew() {
    let folder = tempdir().unwrap();
    let (images, bytes) = two(folder.path()).await;
    std::fs::write(folder.path().join(".d.part"), "half a disk").unwrap();
    for how in [How::Copy, How::Overlay] {
        let wanted = disk(folder.path(), "d", Some(how), None);
        let made = images.make_disk(&named("qcow2:1"), &wanted, &NoProgress).await.unwrap();
        assert_eq!(contents(folder.path(), &wanted.path, made.format), bytes);
        std::fs::remove_file(&wanted.path).unwrap();
        std::fs::write(folder.path().join(".d.part"), "half a disk").unwrap();
    }
}
