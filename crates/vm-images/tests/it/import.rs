//! Taking in files, and refusing what would lead to others.

use std::path::{Path, PathBuf};
use std::process::Command;

use clawfarm_model::Code;
use clawfarm_runtime::NoProgress;
use clawfarm_vm_images::{Format, Images, Origin};
use tempfile::tempdir;

use crate::support::{images, named, names, on_the_way, raw_disk};

/// Runs the real qemu-img.
pub(crate) fn qemu_img(arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").args(arguments).output().expect("qemu-img is there");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A disk as a file of qcow2.
pub(crate) fn qcow2(folder: &Path, name: &str, disk: &[u8]) -> PathBuf {
    let (raw, path) = (folder.join("raw"), folder.join(name));
    std::fs::write(&raw, disk).unwrap();
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), path.to_str().unwrap()]);
    path
}

/// Images that are fetched from nowhere.
pub(crate) fn alone(folder: &Path) -> Images {
    images(folder, "http://localhost:1/")
}

#[tokio::test]
async fn raw_and_qcow2_are_told_apart_and_taken_in() {
    let folder = tempdir().unwrap();
    let images = alone(folder.path());
    let disk = raw_disk(2, 1);
    let raw = folder.path().join("my disk.img");
    std::fs::write(&raw, &disk).unwrap();
    let made = images.import(&raw, &named("lab:1"), &NoProgress).await.unwrap();
    assert_eq!((made.format, made.disk_bytes), (Format::Raw, disk.len() as u64));
    assert_eq!(made.origin, Origin::Imported { file: "my disk.img".into() });
    assert_eq!(std::fs::read(images.path_of(&named("lab:1"))).unwrap(), disk);

    let file = qcow2(folder.path(), "a.qcow2", &disk);
    // Also as one that could be fetched: networks without its site have it so.
    let made = images.import(&file, &named("ubuntu:24.04"), &NoProgress).await.unwrap();
    assert_eq!((made.format, made.disk_bytes), (Format::Qcow2, disk.len() as u64));
    assert_eq!(images.fetch(&named("ubuntu:24.04"), &NoProgress).await.unwrap(), made);
    let sum = Command::new("sha256sum").arg(&file).output().unwrap();
    assert_eq!(made.digest, format!("sha256:{}", &String::from_utf8(sum.stdout).unwrap()[..64]));
}

#[tokio::test]
async fn a_name_is_taken_once() {
    let folder = tempdir().unwrap();
    let images = alone(folder.path());
    let raw = folder.path().join("raw");
    std::fs::write(&raw, raw_disk(1, 1)).unwrap();
    let first = images.import(&raw, &named("lab:1"), &NoProgress).await.unwrap();
    std::fs::write(&raw, raw_disk(1, 2)).unwrap();
    let error = images.import(&raw, &named("lab:1"), &NoProgress).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("name")), "{error}");
    assert_eq!(images.get(&named("lab:1")).await.unwrap(), Some(first));
}

#[tokio::test]
async fn what_names_other_files_is_refused() {
    let folder = tempdir().unwrap();
    let images = alone(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let base = qcow2(folder.path(), "base.qcow2", &raw_disk(1, 1));
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base.to_str().unwrap(), &path("overlay")]);
    let data = format!("data_file={}", path("data"));
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &data, &path("outside"), "1M"]);
    qemu_img(&["convert", "-O", "vmdk", base.to_str().unwrap(), &path("vmdk")]);
    for (name, why) in [("overlay", "backing file"), ("outside", "data file"), ("vmdk", "VMDK")] {
        let error = images.import(path(name).as_ref(), &named("lab:1"), &NoProgress).await.unwrap_err();
        assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("file")));
        assert!(error.message().contains(why), "{name}: {error}");
    }
    assert!(names(&folder.path().join("images")).is_empty());
    assert!(on_the_way(&folder.path().join("images")).is_empty());
}

#[tokio::test]
async fn what_is_no_file_with_a_disk_is_refused() {
    let folder = tempdir().unwrap();
    let images = alone(folder.path());
    std::fs::write(folder.path().join("text"), "hello").unwrap();
    std::fs::write(folder.path().join("empty"), "").unwrap();
    let mut cut = raw_disk(1, 1);
    cut.pop();
    std::fs::write(folder.path().join("cut"), cut).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.path().join("pipe"), rustix::fs::Mode::RUSR).unwrap();
    for (name, why) in [
        ("text", "neither"),
        ("empty", "neither"),
        ("cut", "cut off"),
        ("pipe", "no plain file"),
        (".", "a folder"),
        ("missing", "can't be read"),
    ] {
        let file = folder.path().join(name);
        let error = images.import(&file, &named("lab:1"), &NoProgress).await.unwrap_err();
        assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("file")), "{name}: {error}");
        assert!(error.message().contains(why), "{name}: {error}");
    }
}
