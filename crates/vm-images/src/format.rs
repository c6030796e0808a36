//! What kind of image a file is, told from its own bytes, and whether it names other files.
//!
//! The layout of qcow2 is that of QEMU's `docs/interop/qcow2.txt`. No program of QEMU is asked:
//! what it opens by itself while it looks is the very thing to be found out.

use std::fs::File;
use std::os::unix::fs::FileExt;

use clawfarm_files::io_error;
use clawfarm_model::{Error, Result};
use serde::{Deserialize, Serialize};

/// How an image's file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU's own, version 2 or 3.
    Qcow2,
}

impl Format {
    /// The name as QEMU has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// What a file turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How it is laid out.
    pub format: Format,
    /// The size of the disk in it, in bytes.
    pub disk_bytes: u64,
}

/// A sector, in bytes: the unit of a disk's size.
const SECTOR: u64 = 512;
const QCOW2: &[u8; 4] = b"QFI\xfb";
/// What ends the first sector of every disk that has a partition table or a boot loader.
const BOOT_MARK: [u8; 2] = [0x55, 0xaa];
/// How far header extensions are read; QEMU writes a few hundred bytes.
const HEADER_MAX: usize = 64 << 10;
/// The header extension that names an external data file.
const DATA_FILE: u32 = 0x4441_5441;
/// The incompatible features that are taken: the compression type (bit 3) and subclusters (bit 4).
const FEATURES: u64 = 1 << 3 | 1 << 4;

/// Formats that are not taken, by what their files begin with, and their names.
const OTHERS: [(&[u8], &str); 8] = [
    (b"KDMV", "a VMDK image"),
    (b"# Disk DescriptorFile", "a VMDK description"),
    (b"vhdxfile", "a VHDX image"),
    (b"conectix", "a VHD image"),
    (b"<<< ", "a VDI image"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\xfd7zXZ\0", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard"),
];

/// What an image's file is. `max` is the largest disk that is taken, in bytes.
///
/// # Errors
/// `InvalidInput` on the field `file`: no image of a disk, one that names other files of the
/// machine it is opened on, one that is encrypted or damaged, or too large a disk.
pub fn shape_of(file: &File, max: u64) -> Result<Shape> {
    let read = |error| io_error("read the image", error);
    let size = file.metadata().map_err(read)?.len();
    let mut head = vec![0; usize::try_from(size).unwrap_or(HEADER_MAX).min(HEADER_MAX)];
    file.read_exact_at(&mut head, 0).map_err(read)?;
    let shape = shape(&head, size)?;
    if shape.disk_bytes > max {
        return Err(refused(
            format!("its disk has {} GiB, and at most {} are taken", shape.disk_bytes >> 30, max >> 30),
            "make a smaller one: qemu-img create, and copy what is in it",
        ));
    }
    Ok(shape)
}

fn refused(why: impl std::fmt::Display, fix: &str) -> Error {
    Error::invalid("file", format!("the image is not taken: {why}")).fix(fix)
}

/// As [`shape_of`], by the first bytes of a file of `size`.
fn shape(head: &[u8], size: u64) -> Result<Shape> {
    if head.starts_with(QCOW2) {
        return qcow2(head, size);
    }
    if let Some((_, name)) = OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
        let fix = if name.starts_with("compressed") {
            "decompress it first"
        } else {
            "convert it: qemu-img convert -O qcow2 FILE NEW.qcow2"
        };
        return Err(refused(format!("it is {name}"), fix));
    }
    if head.get(510..512) != Some(&BOOT_MARK[..]) {
        return Err(refused(
            "it is neither qcow2 nor a disk with a boot sector",
            "give the image of a whole disk that boots, raw or qcow2",
        ));
    }
    if !size.is_multiple_of(SECTOR) {
        return Err(refused(
            format!(
                "it has {size} bytes, which is no whole number of sectors: it was cut off, or is no disk"
            ),
            "get the file again",
        ));
    }
    Ok(Shape { format: Format::Raw, disk_bytes: size })
}

/// Big-endian numbers of a header; `None` beyond its end.
struct Header<'a>(&'a [u8]);

impl Header<'_> {
    fn u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_be_bytes(self.0.get(at..at.checked_add(4)?)?.try_into().ok()?))
    }

    fn u64(&self, at: usize) -> Option<u64> {
        Some(u64::from_be_bytes(self.0.get(at..at.checked_add(8)?)?.try_into().ok()?))
    }
}

fn qcow2(head: &[u8], size: u64) -> Result<Shape> {
    let header = Header(head);
    let cut = || refused("its qcow2 header is cut off", "get the file again");
    let broken = |why: &str| {
        refused(format!("its qcow2 header says {why}"), "look at it with qemu-img check, or get it again")
    };
    let version = header.u32(4).ok_or_else(cut)?;
    if !matches!(version, 2 | 3) {
        return Err(broken("another version than 2 and 3"));
    }
    let elsewhere = |what: &str| {
        refused(
            format!("it names another file as its {what}, which could be any file of this machine"),
            "make one file of it where that file is: qemu-img convert -O qcow2 FILE NEW.qcow2",
        )
    };
    if header.u64(8).ok_or_else(cut)? != 0 {
        return Err(elsewhere("backing file"));
    }
    let cluster_bits = header.u32(20).ok_or_else(cut)?;
    if !(9..=21).contains(&cluster_bits) {
        return Err(broken("clusters of a size that there is not"));
    }
    let disk_bytes = header.u64(24).ok_or_else(cut)?;
    if disk_bytes == 0 || !disk_bytes.is_multiple_of(SECTOR) {
        return Err(broken("that its disk has no whole number of sectors"));
    }
    if header.u32(32).ok_or_else(cut)? != 0 {
        return Err(refused("it is encrypted", "decrypt it: qemu-img convert"));
    }
    let l1_entries = u64::from(header.u32(36).ok_or_else(cut)?);
    let l1_at = header.u64(40).ok_or_else(cut)?;
    let refcounts_at = header.u64(48).ok_or_else(cut)?;
    // An entry of the first table leads to a cluster of the second, and each entry of that to
    // a cluster of the disk.
    let l1_reach = l1_entries.saturating_mul(1 << (2 * cluster_bits - 3));
    let l1_end = l1_at.checked_add(l1_entries * 8);
    // With subclusters an entry has 16 bytes: half the reach, which is checked by QEMU itself.
    if l1_end.is_none_or(|end| end > size) || refcounts_at >= size || l1_reach < disk_bytes / 2 {
        return Err(refused("it is cut off: its tables lie behind its end", "get the file again"));
    }
    if version == 3 {
        features(&header, head.len())?;
    } else if has_data_file(&header, 72) {
        return Err(elsewhere("data file"));
    }
    Ok(Shape { format: Format::Qcow2, disk_bytes })
}

/// What only version 3 has.
fn features(header: &Header<'_>, read: usize) -> Result<()> {
    let cut = || refused("its qcow2 header is cut off", "get the file again");
    let features = header.u64(72).ok_or_else(cut)?;
    let length = header.u32(100).ok_or_else(cut)? as usize;
    let other = |what: &str, fix: &str| Err(refused(what, fix));
    let check = "repair it with qemu-img check -r all, or get it again";
    if features & 1 << 2 != 0 || has_data_file(header, length) {
        return other(
            "it names another file as its data file, which could be any file of this machine",
            "make one file of it where that file is: qemu-img convert -O qcow2 FILE NEW.qcow2",
        );
    }
    if features & 1 != 0 {
        return other("it was not closed by the program that wrote it last", check);
    }
    if features & 1 << 1 != 0 {
        return other("it says of itself that it is damaged", check);
    }
    if features & !FEATURES != 0 {
        return other(
            "it has features that are not known here",
            "convert it: qemu-img convert -O qcow2 FILE NEW.qcow2",
        );
    }
    if length < 104 || length > read {
        return other("its qcow2 header has a length that can't be", check);
    }
    Ok(())
}

/// Whether one of the extensions behind the header, which begin at `at`, names a data file.
fn has_data_file(header: &Header<'_>, mut at: usize) -> bool {
    while let (Some(kind), Some(length)) = (header.u32(at), header.u32(at + 4)) {
        match kind {
            0 => return false,
            DATA_FILE => return true,
            _ => {}
        }
        // Padded to a multiple of 8.
        let Some(next) = (length as usize).checked_next_multiple_of(8).and_then(|l| l.checked_add(at + 8))
        else {
            return false;
        };
        at = next;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 3 as QEMU writes it, of a disk of 1 GiB in a file of 1 MiB.
    fn header() -> Vec<u8> {
        let mut head = vec![0; 512];
        head[..4].copy_from_slice(QCOW2);
        let mut put32 = |at: usize, number: u32| head[at..at + 4].copy_from_slice(&number.to_be_bytes());
        put32(4, 3);
        put32(20, 16);
        put32(36, 2);
        put32(100, 104);
        let mut put64 = |at: usize, number: u64| head[at..at + 8].copy_from_slice(&number.to_be_bytes());
        put64(24, 1 << 30);
        put64(40, 0x30000);
        put64(48, 0x10000);
        head
    }

    fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut head = header();
        head[at..at + bytes.len()].copy_from_slice(bytes);
        head
    }

    const SIZE: u64 = 1 << 20;

    #[test]
    fn qcow2_is_told_by_its_header() {
        let expected = Shape { format: Format::Qcow2, disk_bytes: 1 << 30 };
        assert_eq!(shape(&header(), SIZE).unwrap(), expected);
        assert_eq!(shape(&with(4, &2_u32.to_be_bytes()), SIZE).unwrap(), expected);
        // Compression with Zstandard, as newer images have it.
        assert_eq!(shape(&with(72, &(1_u64 << 3).to_be_bytes()), SIZE).unwrap(), expected);
    }

    #[test]
    fn a_raw_disk_is_told_by_its_boot_sector() {
        let mut head = vec![0; 4096];
        head[510..512].copy_from_slice(&BOOT_MARK);
        assert_eq!(shape(&head, 1 << 30).unwrap(), Shape { format: Format::Raw, disk_bytes: 1 << 30 });
        assert!(shape(&head, (1 << 30) + 1).unwrap_err().message().contains("sectors"));
    }

    #[test]
    fn what_names_other_files_or_is_damaged_is_refused() {
        let mut extension = with(104, &DATA_FILE.to_be_bytes());
        extension[108..112].copy_from_slice(&11_u32.to_be_bytes());
        let mut second = with(104, &0x6803_f857_u32.to_be_bytes());
        second[108..112].copy_from_slice(&3_u32.to_be_bytes());
        second[120..124].copy_from_slice(&DATA_FILE.to_be_bytes());
        for (head, why) in [
            (with(8, &0x200_u64.to_be_bytes()), "backing file"),
            (with(72, &(1_u64 << 2).to_be_bytes()), "data file"),
            (extension, "data file"),
            (second, "data file"),
            (with(72, &1_u64.to_be_bytes()), "not closed"),
            (with(72, &2_u64.to_be_bytes()), "damaged"),
            (with(72, &(1_u64 << 9).to_be_bytes()), "not known"),
            (with(32, &1_u32.to_be_bytes()), "encrypted"),
            (with(4, &4_u32.to_be_bytes()), "version"),
            (with(20, &63_u32.to_be_bytes()), "clusters"),
            (with(24, &1_u64.to_be_bytes()), "sectors"),
            (with(24, &u64::MAX.to_be_bytes()), "sectors"),
            (with(40, &u64::MAX.to_be_bytes()), "cut off"),
            (with(36, &0_u32.to_be_bytes()), "cut off"),
            (with(100, &8_u32.to_be_bytes()), "length"),
            (header()[..64].to_vec(), "cut off"),
            (b"KDMV....".to_vec(), "VMDK"),
            (b"\x1f\x8b\x08".to_vec(), "gzip"),
            (b"#!/bin/sh".to_vec(), "neither"),
            (Vec::new(), "neither"),
        ] {
            let error = shape(&head, SIZE).expect_err(why);
            assert!(error.message().contains(why), "{why}: {error}");
            assert_eq!(error.field_name(), Some("file"));
            assert!(error.fix_text().is_some());
        }
    }

    #[test]
    fn too_large_a_disk_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let mut whole = header();
        whole.resize(1 << 20, 0);
        std::fs::write(&path, whole).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(shape_of(&file, 1 << 30).unwrap().disk_bytes, 1 << 30);
        assert!(shape_of(&file, 1 << 29).unwrap_err().message().contains("at most"));
    }

    #[test]
    fn fuzz_image_headers() {
        let mut raw = vec![0; 512];
        raw[510..].copy_from_slice(&BOOT_MARK);
        clawfarm_fuzz::fuzz(&[&header(), &with(4, &2_u32.to_be_bytes()), &raw], |head| {
            if let Ok(taken) = shape(head, SIZE) {
                assert!(taken.disk_bytes.is_multiple_of(SECTOR));
                // Whatever else is in it, this is what would lead to other files.
                let backing = head.get(8..16).is_some_and(|at| at != [0; 8]);
                assert!(taken.format == Format::Raw || !backing);
            }
        });
    }
}
