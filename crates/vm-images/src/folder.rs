//! A folder as a disk that machines only read: what many of them are to have alike.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use clawfarm_files::{Folder, blocking, io_error, make_private, size_on_disk};
use clawfarm_model::{Error, Result};
use clawfarm_runtime::Progress;

use crate::lock::{For, Lock};
use crate::run::Program;

/// How long it may take to write one: some hundred MiB are written in seconds.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// What a file system needs beside the files: a tenth and some MiB, which a file with holes does not take.
const BESIDE: u64 = 64 << 20;

/// Makes a disk with a file system of `folder` as it is now, once: where there is one at `to`, that is
/// it. Its file system has this label.
///
/// It is ext4, which every Linux that boots from a cloud image has, without a journal, because nobody
/// writes to it.
///
/// # Errors
/// `Unsupported` without `mke2fs`; `Insufficient` on a full disk.
pub async fn disk_of_folder(folder: &Path, label: &str, to: &Path, progress: &dyn Progress) -> Result<()> {
    if to.exists() {
        return Ok(());
    }
    let (Some(room), Some(name)) = (to.parent(), to.file_name().and_then(|name| name.to_str())) else {
        return Err(Error::internal("a disk can't be made there", to.display().to_string()));
    };
    make_private(room).map_err(|e| io_error(format!("use the folder '{}'", room.display()), e))?;
    let lock = Lock::take(&room.join(format!(".{name}.lock")), For::Change, || ()).await?;
    if to.exists() {
        return Ok(());
    }
    progress.step("software", "putting its software on a disk for machines", None, "");
    let part = room.join(format!(".{name}.part"));
    let (from, half) = (folder.to_owned(), part.clone());
    let size = blocking(move || {
        match std::fs::remove_file(&half) {
            // Of an attempt that was cut off.
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(io_error(format!("remove '{}'", half.display()), e));
            }
            _ => {}
        }
        let opened = Folder::open(&from).map_err(|e| io_error(format!("open '{}'", from.display()), e))?;
        let used = size_on_disk(&opened);
        Ok(used + used / 10 + BESIDE)
    })
    .await?;
    let made = Program::new("mke2fs", "e2fsprogs", LIMIT)
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-O",
            "^has_journal",
            "-m",
            "0",
            "-i",
            "8192",
            "-E",
            "root_owner=0:0",
        ])
        .args(["-L", label, "-d"])
        .arg(folder)
        .arg(&part)
        .arg(format!("{}k", size.div_ceil(1024)))
        .run(Some(&lock), progress)
        .await;
    let (part, to) = (part, to.to_owned());
    blocking(move || {
        let placed = made.and_then(|()| {
            let failed = |e| io_error(format!("put '{}' in its place", to.display()), e);
            let file = std::fs::File::open(&part).map_err(failed)?;
            file.set_permissions(std::fs::Permissions::from_mode(0o444)).map_err(failed)?;
            file.sync_all().map_err(failed)?;
            std::fs::rename(&part, &to).map_err(failed)
        });
        if placed.is_err() {
            // What is left is removed by the next attempt.
            let _ = std::fs::remove_file(&part);
        }
        placed
    })
    .await
}

#[cfg(test)]
mod tests {
    use clawfarm_runtime::NoProgress;

    use super::*;

    #[tokio::test]
    async fn a_folder_is_a_disk_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, to) = (dir.path().join("folder"), dir.path().join("disks/one.ext4"));
        std::fs::create_dir_all(folder.join("a/b")).unwrap();
        let text = "x".repeat(100_000);
        std::fs::write(folder.join("a/b/c"), &text).unwrap();
        std::os::unix::fs::symlink("b/c", folder.join("a/link")).unwrap();
        // What an attempt left that was cut off.
        std::fs::create_dir(dir.path().join("disks")).unwrap();
        std::fs::write(dir.path().join("disks/.one.ext4.part"), "half").unwrap();
        let make = || disk_of_folder(&folder, "software", &to, &NoProgress);
        let (one, two) = tokio::join!(make(), make());
        one.unwrap();
        two.unwrap();
        let debugfs = |request: &str| {
            let output =
                std::process::Command::new("/usr/sbin/debugfs").args(["-R", request]).arg(&to).output();
            String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
        };
        assert_eq!(debugfs("cat /a/b/c"), text);
        assert!(debugfs("stat /a/link").contains("b/c"));
        assert!(debugfs("show_super_stats -h").contains("software"));
        assert!(!debugfs("show_super_stats -h").contains("has_journal"));
        let names: Vec<_> = std::fs::read_dir(dir.path().join("disks")).unwrap().flatten().collect();
        assert_eq!(names.len(), 2, "the disk and its lock: {names:?}");
        // It is what it is.
        std::fs::write(folder.join("a/b/c"), "new").unwrap();
        make().await.unwrap();
        assert_eq!(debugfs("cat /a/b/c"), text);
        let nothing =
            disk_of_folder(&dir.path().join("no"), "software", &dir.path().join("two"), &NoProgress).await;
        assert!(nothing.is_err() && !dir.path().join("two").exists());
    }
}
