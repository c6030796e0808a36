//! A disk of files to be read: ISO 9660 (ECMA-119) with one folder, and the names and rights of
//! POSIX beside those of 1988 (Rock Ridge: IEEE P1281 and P1282).
//!
//! ```text
//! sector 0..16   empty            18, 19   path tables, little and big endian
//! 16             volume           20..     the folder
//! 17             end of volumes   behind   the files, each from a sector's beginning
//! ```
//!
//! The same files make the same bytes: no clock and no chance is asked.

use clawfarm_model::{Error, Result};

/// A sector, in bytes.
const SECTOR: usize = 2048;
const VOLUME_AT: u32 = 16;
const LITTLE_TABLE_AT: u32 = 18;
const BIG_TABLE_AT: u32 = 19;
const FOLDER_AT: u32 = 20;
/// The longest name: what fits into ISO 9660's own with its version behind it.
const NAME_MAX: usize = 28;
/// The longest label, in characters.
const LABEL_MAX: usize = 32;
/// The largest file, in bytes: a seed is some text and a program of a few MiB.
const FILE_MAX: usize = 1 << 28;
/// The day of every file: 1980-01-01, no later than any clock.
const DAY: [u8; 7] = [80, 1, 1, 0, 0, 0, 0];

/// A file of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    name: String,
    contents: Vec<u8>,
    executable: bool,
}

/// A disk of files, to be written as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iso {
    label: String,
    entries: Vec<Entry>,
}

impl Iso {
    /// An empty disk with a label.
    ///
    /// # Errors
    /// `InvalidInput` for one that is not 1 to 32 of A-Z, a-z, 0-9, `-` and `_`.
    pub fn new(label: &str) -> Result<Self> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if !(1..=LABEL_MAX).contains(&label.len()) || !label.chars().all(good) {
            return Err(Error::invalid(
                "label",
                format!("'{}' is no label of a disk", label.escape_default()),
            )
            .fix("use 1 to 32 of A-Z, a-z, 0-9, '-' and '_'"));
        }
        Ok(Self { label: label.to_owned(), entries: Vec::new() })
    }

    /// Adds a file, readable by all.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is not 1 to 28 of a-z, 0-9, `-`, `_` and at most one `.`
    /// between them, or that is there already, and for more than 256 MiB.
    pub fn add(&mut self, name: &str, contents: Vec<u8>, executable: bool) -> Result<()> {
        let refuse = |why: &str| {
            Err(Error::invalid("name", format!("'{}' {why}", name.escape_default()))
                .fix("use another name for the file, such as user-data"))
        };
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
        if !(1..=NAME_MAX).contains(&name.len()) || !name.chars().all(good) {
            return refuse("is no name of 1 to 28 of a-z, 0-9, '-', '_' and '.'");
        }
        if name.starts_with('.') || name.ends_with('.') || name.matches('.').count() > 1 {
            return refuse("has its '.' where none can be");
        }
        if self.entries.iter().any(|entry| entry.name == name) {
            return refuse("is there already");
        }
        if contents.len() > FILE_MAX {
            return Err(Error::invalid("contents", format!("'{name}' has more than {} MiB", FILE_MAX >> 20)));
        }
        self.entries.push(Entry { name: name.to_owned(), contents, executable });
        Ok(())
    }

    /// The disk's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut entries: Vec<&Entry> = self.entries.iter().collect();
        // As the standard wants them: by name, as bytes.
        entries.sort_by_key(|entry| identifier(&entry.name));
        // A folder's size does not depend on where its files are, so it is laid out twice.
        let length = folder(&entries, 0, 0).len();
        let first = FOLDER_AT + sectors(length);
        let contents = folder(&entries, u32_of(length), first);
        let total = first + entries.iter().map(|entry| sectors(entry.contents.len())).sum::<u32>();

        let mut disk = vec![0; VOLUME_AT as usize * SECTOR];
        disk.extend(self.volume(total, u32_of(length)));
        disk.extend(end_of_volumes());
        debug_assert_eq!(disk.len(), LITTLE_TABLE_AT as usize * SECTOR);
        for table in
            [path_table(FOLDER_AT.to_le_bytes(), [1, 0]), path_table(FOLDER_AT.to_be_bytes(), [0, 1])]
        {
            disk.extend(table);
            pad(&mut disk);
        }
        disk.extend(contents);
        pad(&mut disk);
        for entry in entries {
            disk.extend(&entry.contents);
            pad(&mut disk);
        }
        debug_assert_eq!(disk.len(), total as usize * SECTOR);
        disk
    }

    /// The primary volume descriptor (ECMA-119, 8.4).
    fn volume(&self, total: u32, folder: u32) -> Vec<u8> {
        let mut volume = vec![1];
        volume.extend(b"CD001\x01\0");
        volume.extend(text("LINUX", 32));
        volume.extend(text(&self.label, 32));
        volume.extend([0; 8]);
        volume.extend(both32(total));
        volume.extend([0; 32]);
        // One volume of one, sectors of 2048 bytes.
        for number in [1, 1, 2048] {
            volume.extend(both16(number));
        }
        volume.extend(both32(u32_of(path_table([0; 4], [0; 2]).len())));
        volume.extend(LITTLE_TABLE_AT.to_le_bytes());
        volume.extend([0; 4]);
        volume.extend(BIG_TABLE_AT.to_be_bytes());
        volume.extend([0; 4]);
        volume.extend(record(&[0], FOLDER_AT, folder, true, &[]));
        // The set, the publisher, who prepared it, the program; three files, of which is none.
        for (what, width) in
            [("", 128), ("", 128), ("", 128), ("CLAWFARM", 128), ("", 37), ("", 37), ("", 37)]
        {
            volume.extend(text(what, width));
        }
        // Four days that are not told.
        for _ in 0..4 {
            volume.extend(b"0000000000000000\0");
        }
        volume.push(1);
        volume.resize(SECTOR, 0);
        volume
    }
}

fn end_of_volumes() -> Vec<u8> {
    let mut end = vec![255];
    end.extend(b"CD001\x01");
    end.resize(SECTOR, 0);
    end
}

/// The one folder, as path tables list it (ECMA-119, 9.4).
fn path_table(at: [u8; 4], parent: [u8; 2]) -> Vec<u8> {
    let mut table = vec![1, 0];
    table.extend(at);
    table.extend(parent);
    // Its name, which is one 0, and what makes the length even.
    table.extend([0, 0]);
    table
}

/// The folder: itself, its parent, which it is, too, and the files from sector `first` on.
fn folder(entries: &[&Entry], length: u32, first: u32) -> Vec<u8> {
    /// A folder that everybody may read.
    const FOLDER: u32 = 0o040_555;
    let mut records = Vec::new();
    let mut own = b"SP\x07\x01\xbe\xef\0".to_vec();
    own.extend(rights(FOLDER, 2));
    // Whose extensions these are; a longer text is for people, and would not fit in here.
    own.extend(b"ER\x12\x01\x0a\0\0\x01RRIP_1991A");
    records.push(record(&[0], FOLDER_AT, length, true, &own));
    records.push(record(&[1], FOLDER_AT, length, true, &rights(FOLDER, 2)));
    let mut at = first;
    for entry in entries {
        let mode = if entry.executable { 0o100_555 } else { 0o100_444 };
        let mut posix = rights(mode, 1);
        posix.extend(b"NM");
        posix.push(u8_of(5 + entry.name.len()));
        posix.extend([1, 0]);
        posix.extend(entry.name.as_bytes());
        // An empty file has no place; 0 would be read as one by some.
        records.push(record(&identifier(&entry.name), at, u32_of(entry.contents.len()), false, &posix));
        at += sectors(entry.contents.len());
    }
    let mut folder = Vec::new();
    for record in records {
        // A record lies in one sector.
        if folder.len() % SECTOR + record.len() > SECTOR {
            pad(&mut folder);
        }
        folder.extend(record);
    }
    pad(&mut folder);
    folder
}

/// A name as ISO 9660 has it: `user-data` is `USER-DATA.;1`.
fn identifier(name: &str) -> Vec<u8> {
    let mut identifier = name.to_ascii_uppercase();
    if !identifier.contains('.') {
        identifier.push('.');
    }
    identifier.push_str(";1");
    identifier.into_bytes()
}

/// An entry of a folder (ECMA-119, 9.1).
fn record(identifier: &[u8], at: u32, length: u32, folder: bool, beside: &[u8]) -> Vec<u8> {
    let mut record = vec![0, 0];
    record.extend(both32(at));
    record.extend(both32(length));
    record.extend(DAY);
    record.push(if folder { 2 } else { 0 });
    record.extend([0, 0]);
    record.extend(both16(1));
    record.push(u8_of(identifier.len()));
    record.extend(identifier);
    if identifier.len().is_multiple_of(2) {
        record.push(0);
    }
    record.extend(beside);
    if record.len() % 2 == 1 {
        record.push(0);
    }
    record[0] = u8_of(record.len());
    record
}

/// What POSIX knows of a file: mode, links, user and group, which are root's.
fn rights(mode: u32, links: u32) -> Vec<u8> {
    let mut rights = b"PX\x24\x01".to_vec();
    for number in [mode, links, 0, 0] {
        rights.extend(both32(number));
    }
    rights
}

/// Fills a text's place with blanks.
fn text(text: &str, width: usize) -> Vec<u8> {
    let mut text = text.as_bytes().to_vec();
    text.resize(width, b' ');
    text
}

/// A number twice, little endian first.
fn both16(number: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d]
}

/// A number twice, little endian first.
fn both32(number: u32) -> [u8; 8] {
    let mut both = [0; 8];
    both[..4].copy_from_slice(&number.to_le_bytes());
    both[4..].copy_from_slice(&number.to_be_bytes());
    both
}

/// Fills up the last sector.
fn pad(disk: &mut Vec<u8>) {
    disk.resize(disk.len().next_multiple_of(SECTOR), 0);
}

fn sectors(length: usize) -> u32 {
    u32_of(length.div_ceil(SECTOR))
}

/// Lengths are below 4 GiB: files are limited, and so are they in number by what a seed has.
fn u32_of(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Records are shorter than 256 bytes: names are limited.
fn u8_of(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// What the disk holds, read by its Rock Ridge names as an operating system does.
    fn read(disk: &[u8]) -> BTreeMap<String, (Vec<u8>, u32)> {
        let number = |at: usize| u32::from_le_bytes(disk[at..at + 4].try_into().unwrap()) as usize;
        let root = 16 * SECTOR + 156;
        let (begin, length) = (number(root + 2) * SECTOR, number(root + 10));
        let mut files = BTreeMap::new();
        let mut at = begin;
        while at < begin + length {
            let size = usize::from(disk[at]);
            if size == 0 {
                at = (at + 1).next_multiple_of(SECTOR);
                continue;
            }
            assert_eq!(at / SECTOR, (at + size - 1) / SECTOR, "a record crosses a sector");
            let (from, len) = (number(at + 2) * SECTOR, number(at + 10));
            let named = usize::from(disk[at + 32]);
            let mut beside = at + 33 + named + (named + 1) % 2;
            let (mut name, mut mode) = (None, 0);
            while beside + 4 <= at + size {
                let field = &disk[beside..beside + usize::from(disk[beside + 2])];
                match &field[..2] {
                    b"NM" => name = Some(String::from_utf8(field[5..].to_vec()).unwrap()),
                    b"PX" => mode = u32::from_le_bytes(field[4..8].try_into().unwrap()),
                    _ => {}
                }
                beside += field.len();
            }
            if let Some(name) = name {
                files.insert(name, (disk[from..from + len].to_vec(), mode));
            }
            at += size;
        }
        files
    }

    proptest! {
        #[test]
        fn every_file_is_read_back(
            files in proptest::collection::btree_map(
                "[a-z0-9]([a-z0-9_-]{0,11})(\\.[a-z0-9]{1,8})?",
                ((any::<u8>(), 0_usize..5000).prop_map(|(byte, len)| vec![byte; len]), any::<bool>()),
                0..40,
            ),
        ) {
            let mut iso = Iso::new("cidata").unwrap();
            for (name, (contents, executable)) in &files {
                iso.add(name, contents.clone(), *executable).unwrap();
            }
            let disk = iso.to_bytes();
            prop_assert_eq!(disk.len() % SECTOR, 0);
            let expected: BTreeMap<String, (Vec<u8>, u32)> = files
                .into_iter()
                .map(|(name, (contents, executable))| {
                    (name, (contents, if executable { 0o100_555 } else { 0o100_444 }))
                })
                .collect();
            prop_assert_eq!(read(&disk), expected);
        }
    }

    fn small() -> Iso {
        let mut iso = Iso::new("cidata").unwrap();
        iso.add("user-data", b"#cloud-config\n{}\n".to_vec(), false).unwrap();
        iso.add("meta-data", b"instance-id: a\n".to_vec(), false).unwrap();
        iso.add("agent", vec![7; 3000], true).unwrap();
        iso
    }

    #[test]
    fn it_is_laid_out_as_the_standard_says() {
        let disk = small().to_bytes();
        // Volume, folder, two small files, and one of two sectors.
        assert_eq!(disk.len(), (FOLDER_AT as usize + 1 + 2 + 2) * SECTOR);
        let volume = &disk[16 * SECTOR..17 * SECTOR];
        assert_eq!(&volume[..7], b"\x01CD001\x01");
        assert_eq!(&volume[40..47], b"cidata ");
        assert_eq!(volume[80..88], both32(u32_of(disk.len() / SECTOR)));
        assert_eq!(volume[128..132], both16(2048));
        assert_eq!(volume[156], 34, "the root's record");
        assert_eq!(volume[881], 1, "the version of its files");
        assert_eq!(&disk[17 * SECTOR..17 * SECTOR + 7], b"\xffCD001\x01");
        let folder = &disk[20 * SECTOR..21 * SECTOR];
        let at = |what: &[u8]| folder.windows(what.len()).position(|it| it == what).expect("it is there");
        assert!(at(b"AGENT.;1") < at(b"META-DATA.;1") && at(b"META-DATA.;1") < at(b"USER-DATA.;1"));
        assert_eq!(disk, small().to_bytes(), "the same files, the same bytes");
    }

    #[test]
    fn others_read_it_too() {
        // blkid tells the label as cloud-init asks it; isoinfo, where it is, reads all. What a
        // kernel makes of it, the boot of an image shows.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seed.iso");
        std::fs::write(&path, small().to_bytes()).unwrap();
        let output = Command::new("blkid")
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .args(["--probe", "--output", "export"])
            .arg(&path)
            .output()
            .expect("util-linux is on every Linux");
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(told.contains("TYPE=iso9660") && told.contains("LABEL=cidata"), "{told}");
        if let Ok(output) = Command::new("isoinfo").args(["-R", "-f", "-i"]).arg(&path).output() {
            let told = String::from_utf8_lossy(&output.stdout);
            assert_eq!(told.split_whitespace().collect::<Vec<_>>(), ["/agent", "/meta-data", "/user-data"]);
        }
    }

    #[test]
    fn names_that_readers_would_not_find_are_refused() {
        let mut iso = small();
        for name in ["", "A", "a b", "../x", "a/b", ".a", "a.", "a.b.c", "user-data", &"a".repeat(29)] {
            let error = iso.add(name, Vec::new(), false).expect_err(name);
            assert_eq!(error.field_name(), Some("name"));
        }
        for label in ["", "a b", &"a".repeat(33), "ä"] {
            assert!(Iso::new(label).is_err(), "{label}");
        }
    }
}
