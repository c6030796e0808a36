//! Making an image from a distribution's packages, for networks without a site of images and
//! for the tests.
//!
//! ```text
//! mmdebstrap      apt's ordinary client, into a tree of files  -> rootfs.tar
//! disk.sh         GPT, ext4 made of the tree, GRUB's core      -> disk.raw
//! grub            the boot sector, and where the core is
//! qemu-img        what is not empty of it                      -> image.img
//! ```
//!
//! What comes out boots by BIOS as the distribution's own images do, finds its seed by
//! cloud-init and grows into its disk. Nothing needs a mount or a loop device, so root is not
//! needed where the kernel lets a user have a namespace of its own.

mod grub;

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clawfarm_files::{blocking, io_error};
use clawfarm_model::vm_image::VmImageReference;
use clawfarm_model::{Code, Error, Result, Timestamp};
use clawfarm_runtime::Progress;
use ring::digest::{Context, SHA256};

use crate::config::ImagesConfig;
use crate::fetch::{free, hex};
use crate::format::{Format, shape_of};
use crate::record::{Origin, Record};
use crate::run::{Program, need};
use crate::store::{IMAGE, Making};

/// The version of what is done beside the scripts and the list of packages; to be raised when
/// that changes what comes out.
pub const RECIPE: u32 = 1;

/// What can be built.
const REFERENCE: &str = "debian:12";
const SUITE: &str = "bookworm";

/// What is installed beside Debian's required packages, without what those only recommend.
const PACKAGES: [&str; 21] = [
    // The system, with sessions of users and their services.
    "systemd-sysv",
    "libpam-systemd",
    "dbus",
    "dbus-user-session",
    "udev",
    "systemd-resolved",
    // The kernel without what only real machines have, and its initrd.
    "linux-image-cloud-amd64",
    "initramfs-tools",
    "zstd",
    // The seed, and a disk that grows.
    "cloud-init",
    "cloud-guest-utils",
    "e2fsprogs",
    "fdisk",
    // To be worked in.
    "openssh-server",
    "sudo",
    "iproute2",
    "procps",
    "ca-certificates",
    "curl",
    "xz-utils",
    "less",
];

/// What is not unpacked; licences are, which Debian wants kept.
const LEFT_OUT: [&str; 6] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/lintian/*",
];

/// The scripts of the recipe, by name.
const SCRIPTS: [(&str, &str); 3] = [
    ("essential.sh", include_str!("../../../../images/debian-12/essential.sh")),
    ("customize.sh", include_str!("../../../../images/debian-12/customize.sh")),
    (DISK, include_str!("../../../../images/debian-12/disk.sh")),
];

/// The script that is run by itself.
const DISK: &str = "disk.sh";

/// What is run, and Debian's packages that bring it.
const PROGRAMS: [(&str, &str); 6] = [
    ("mmdebstrap", "mmdebstrap"),
    ("tar", "tar"),
    ("sfdisk", "fdisk"),
    ("mke2fs", "e2fsprogs"),
    ("grub-mkimage", "grub-common"),
    ("qemu-img", "qemu-utils"),
];
/// GRUB's boot sector for BIOS, and the modules of its core beside it.
const GRUB_BOOT: &str = "/usr/lib/grub/i386-pc/boot.img";

/// The disk: 3 GiB, as Debian's own image has. In sectors of 512 bytes.
const SECTORS: u64 = 3 << 21;
/// Behind the partition table's 34, up to where the first partition begins: GRUB's core.
const BOOT_FIRST: u64 = 34;
const BOOT_SECTORS: u64 = ROOT_FIRST - BOOT_FIRST;
/// At 1 MiB, as partitions are aligned everywhere.
const ROOT_FIRST: u64 = 2048;
/// To the end but for the copy of the partition table, in whole MiB.
const ROOT_SECTORS: u64 = SECTORS - 2 * ROOT_FIRST;

/// What a build takes up while it goes on, in bytes: the archive of the tree beside the tree,
/// the tree beside the disk, and the disk beside the image, of 500 MiB each.
const ROOM: u64 = 2 << 30;

/// Refuses what can't be built.
pub(crate) fn check(reference: &VmImageReference) -> Result<()> {
    if reference.as_str() == REFERENCE {
        return Ok(());
    }
    Err(Error::new(Code::Unsupported, format!("there is no recipe for the image '{reference}'"))
        .field("image")
        .fix(format!("build {REFERENCE}, fetch it, or import a file of your own")))
}

/// What tells this recipe from others: the SHA-256 of all that it is made of, shortened to 16
/// of 0-9 and a-f.
#[must_use]
pub fn recipe_digest() -> String {
    let mut sha256 = Context::new(&SHA256);
    let mut take = |text: &str| {
        sha256.update(text.as_bytes());
        sha256.update(b"\0");
    };
    take(&RECIPE.to_string());
    for text in PACKAGES.iter().chain(&LEFT_OUT) {
        take(text);
    }
    for (name, script) in SCRIPTS {
        take(name);
        take(script);
    }
    let mut text = hex(sha256);
    text.truncate(16);
    text
}

/// Builds in a folder that is ours alone.
///
/// # Errors
/// `Unsupported` on another processor, and when programs are missing; `Insufficient`; what a
/// program said that failed.
pub(crate) async fn build(
    config: &ImagesConfig,
    reference: &VmImageReference,
    making: &Making,
    progress: &dyn Progress,
) -> Result<Record> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(Error::new(
            Code::Unsupported,
            format!(
                "'{reference}' is built for x86_64 alone, and this machine is {}",
                std::env::consts::ARCH
            ),
        )
        .field("image")
        .fix(format!("fetch it: clawfarm image fetch {reference}")));
    }
    need(&PROGRAMS)?;
    if !Path::new(GRUB_BOOT).exists() {
        return Err(Error::new(
            Code::Unsupported,
            format!("GRUB for BIOS is needed, and there is no {GRUB_BOOT}"),
        )
        .fix("install it (Debian, Ubuntu: sudo apt-get install grub-pc-bin), then try again"));
    }
    let folder = making.folder();
    let free = free(folder)?;
    if free < ROOM {
        return Err(Error::new(
            Code::Insufficient,
            format!(
                "a build takes {} MiB, and '{}' has {} MiB free",
                ROOM >> 20,
                folder.display(),
                free >> 20
            ),
        )
        .fix("free some disk space, or choose a folder on another disk with CLAWFARM_CACHE_DIR"));
    }
    write_script(&folder.join(DISK), script(DISK))?;
    let steps = Steps { config, making, progress };
    steps.step("clean", "looking for what an earlier build left");
    steps.disk(&["clean"]).await?;
    steps.step("packages", &format!("putting {reference} together from its packages: a few minutes"));
    steps.packages().await?;
    steps.step("disk", "making a disk of it");
    steps.disk(&[]).await?;
    steps.step("boot", "making it bootable");
    let boot = folder.to_owned();
    blocking(move || grub::install(&boot, BOOT_FIRST, BOOT_SECTORS)).await?;
    steps.step("image", "making an image of it");
    steps.image().await?;
    let path = folder.join(IMAGE);
    let max = config.limits.image_max;
    let (shape, size_bytes, digest) = blocking(move || {
        let told = |error| io_error("read the image that was built", error);
        let file = File::open(&path).map_err(told)?;
        file.sync_all().map_err(told)?;
        Ok((shape_of(&file, max)?, file.metadata().map_err(told)?.len(), digest(&file)?))
    })
    .await?;
    let keep = folder.to_owned();
    blocking(move || clear(&keep)).await?;
    Ok(Record {
        reference: reference.clone(),
        format: shape.format,
        size_bytes,
        disk_bytes: shape.disk_bytes,
        digest: format!("sha256:{digest}"),
        origin: Origin::Built { recipe: recipe_digest() },
        made_at: Timestamp::now(),
    })
}

struct Steps<'a> {
    config: &'a ImagesConfig,
    making: &'a Making,
    progress: &'a dyn Progress,
}

impl Steps<'_> {
    fn step(&self, name: &str, message: &str) {
        self.progress.step(name, message, None, "");
        tracing::info!(step = name, "building an image");
    }

    fn program<'a>(&self, name: &'a str) -> Program<'a> {
        let packages = PROGRAMS.iter().find(|(program, _)| *program == name).map_or(name, |(_, of)| of);
        Program::new(name, packages, self.config.limits.build_step)
    }

    /// Debian's packages as a tree of files, by apt.
    async fn packages(&self) -> Result<()> {
        let folder = self.making.folder();
        let mut program =
            self.program("mmdebstrap").args(["--variant=minbase", "--format=tar", "--components=main"]);
        program = program.arg(format!("--include={}", PACKAGES.join(",")));
        for option in LEFT_OUT {
            program = program.arg(format!("--dpkgopt={option}"));
        }
        // The scripts' text is given, not their names: what mmdebstrap runs may have other rights
        // than whoever builds. It hands a text to `sh -c`, with the tree as `$1`.
        program = program
            .arg(format!("--essential-hook={}", script("essential.sh")))
            .arg(format!("--customize-hook={}", script("customize.sh")))
            .arg(SUITE)
            .arg(folder.join("rootfs.tar"));
        if let Some(from) = &self.config.packages {
            program = program.arg(from);
        }
        program.gentle().run(Some(self.making.lock()), self.progress).await
    }

    /// Runs `disk.sh`, with the rights over others' files that it needs.
    async fn disk(&self, arguments: &[&str]) -> Result<()> {
        let script = self.making.folder().join(DISK);
        let as_root = rustix::process::geteuid().is_root();
        // The same that mmdebstrap does when it is not root: a namespace with other users.
        let mut program = if as_root {
            self.program("sh")
        } else {
            self.program("mmdebstrap").arg("--unshare-helper").arg("sh")
        };
        program = program.arg(script).args(arguments);
        for (name, value) in [
            ("SECTORS", SECTORS),
            ("ROOT_FIRST", ROOT_FIRST),
            ("ROOT_SECTORS", ROOT_SECTORS),
            ("BOOT_FIRST", BOOT_FIRST),
            ("BOOT_SECTORS", BOOT_SECTORS),
        ] {
            program.env.push((name, value.to_string().into()));
        }
        program.inside(self.making.folder()).run(Some(self.making.lock()), self.progress).await
    }

    /// What is not empty of the disk, as one file.
    async fn image(&self) -> Result<()> {
        let folder = self.making.folder();
        self.program("qemu-img")
            .args(["convert", "-f", "raw", "-O", Format::Qcow2.as_str()])
            .arg(folder.join("disk.raw"))
            .arg(folder.join(IMAGE))
            .run(Some(self.making.lock()), self.progress)
            .await
    }
}

/// The text of a script of the recipe.
fn script(name: &str) -> &'static str {
    SCRIPTS.iter().find(|(one, _)| *one == name).map_or("", |(_, text)| text.trim_end())
}

fn write_script(path: &Path, text: &str) -> Result<()> {
    let told = |error| io_error(format!("write '{}'", path.display()), error);
    std::fs::write(path, text).map_err(told)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(told)
}

/// Removes what was on the way to the image.
fn clear(folder: &Path) -> Result<()> {
    for name in [DISK, "disk.raw", "core.img", "boot.img"] {
        std::fs::remove_file(folder.join(name))
            .map_err(|error| io_error(format!("remove '{name}' of a build"), error))?;
    }
    Ok(())
}

fn digest(mut file: &File) -> Result<String> {
    use std::io::Read;
    let told = |error| io_error("read the image that was built", error);
    let mut sha256 = Context::new(&SHA256);
    let mut piece = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut piece).map_err(told)?;
        if count == 0 {
            return Ok(hex(sha256));
        }
        sha256.update(&piece[..count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_leaves_room_for_both_partition_tables() {
        const { assert!(BOOT_FIRST >= 34 && ROOT_FIRST + ROOT_SECTORS + 33 <= SECTORS) };
        const { assert!(ROOT_SECTORS.is_multiple_of(2048)) };
    }

    #[test]
    fn what_has_no_recipe_is_refused() {
        check(&VmImageReference::new("debian:12").unwrap()).unwrap();
        for text in ["debian:13", "ubuntu:24.04", "debian:12@20250115"] {
            let error = check(&VmImageReference::new(text).unwrap()).expect_err(text);
            assert_eq!((error.code(), error.field_name()), (Code::Unsupported, Some("image")));
        }
    }

    #[test]
    fn a_recipe_s_digest_is_short_and_stable() {
        assert_eq!(recipe_digest().len(), 16);
        assert_eq!(recipe_digest(), recipe_digest());
    }
}
