//! The lines of a backup, written and checked.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clawfarm_model::{Code, Error};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Done, FORM, Row, no_file, refused, table};

/// The longest line: an instance's specification and what was last seen of it are the longest
/// row, and the API takes none near this.
const LONGEST: usize = 16 << 20;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    pub(super) clawfarm_backup: u32,
    pub(super) version: String,
    pub(super) made_at: String,
    /// The migrations that had been made.
    pub(super) schema: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RowLine {
    table: String,
    row: Row,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    rows: u64,
    sha256: String,
}

/// Writes a backup beside its place and puts it there when it is whole.
pub(super) struct Writer {
    path: PathBuf,
    part: PathBuf,
    out: BufWriter<File>,
    digest: Sha256,
    rows: u64,
}

impl Writer {
    pub(super) fn begin(path: &Path, head: &Head) -> Done<Self> {
        if path.symlink_metadata().is_ok() {
            return Err(Error::new(Code::Conflict, format!("{} exists already", path.display()))
                .field("file")
                .fix("give another name, or remove it first"));
        }
        let mut part = path.as_os_str().to_owned();
        part.push(format!(".{}.part", std::process::id()));
        let part = PathBuf::from(part);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
        let out = BufWriter::new(file.map_err(|e| no_file(path, &e))?);
        let mut writer = Self { path: path.to_owned(), part, out, digest: Sha256::new(), rows: 0 };
        writer.line(head)?;
        Ok(writer)
    }

    pub(super) fn row(&mut self, table: &str, row: Row) -> Done<()> {
        self.rows += 1;
        self.line(&RowLine { table: table.to_owned(), row })
    }

    fn line(&mut self, value: &impl Serialize) -> Done<()> {
        let mut text = serde_json::to_vec(value).map_err(|e| Error::internal("a row is no JSON", e))?;
        text.push(b'\n');
        self.digest.update(&text);
        self.out.write_all(&text).map_err(|e| no_file(&self.path, &e))
    }

    /// Ends it; says how many rows it has.
    pub(super) fn end(mut self) -> Done<u64> {
        let (rows, sha256) = (self.rows, hex(&self.digest.clone().finalize()));
        self.line(&End { rows, sha256 })?;
        let path = self.path.clone();
        let put = |writer: &mut Self| {
            writer.out.flush()?;
            writer.out.get_ref().sync_all()?;
            // A link, unlike a rename, takes nobody else's place.
            fs::hard_link(&writer.part, &writer.path)?;
            let folder = writer.path.parent().filter(|p| !p.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        put(&mut self).map_err(|e| no_file(&path, &e))?;
        Ok(rows)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.part);
    }
}

/// Reads a backup, handing each row on, and finds out at its end whether it is whole.
pub(super) struct Reader {
    path: PathBuf,
    lines: BufReader<File>,
    digest: Sha256,
    rows: u64,
    pub(super) head: Head,
}

impl Reader {
    pub(super) fn begin(path: &Path) -> Done<Self> {
        let file = File::open(path).map_err(|e| no_file(path, &e))?;
        let head =
            Head { clawfarm_backup: 0, version: String::new(), made_at: String::new(), schema: vec![] };
        let lines = BufReader::new(file);
        let mut reader = Self { path: path.to_owned(), lines, digest: Sha256::new(), rows: 0, head };
        let first = reader.line()?;
        reader.digest.update(&first);
        reader.head =
            serde_json::from_slice(&first).map_err(|_| refused(path, "it does not begin as one"))?;
        if reader.head.clawfarm_backup != FORM {
            return Err(refused(path, "it is of a newer form").fix("use the clawfarm that wrote it"));
        }
        Ok(reader)
    }

    /// The next row; `None` at the end of a whole file.
    pub(super) fn next(&mut self) -> Done<Option<(&'static str, Row)>> {
        let line = self.line()?;
        if let Ok(RowLine { table: name, row }) = serde_json::from_slice(&line) {
            self.digest.update(&line);
            self.rows += 1;
            let Some((name, _)) = table(&name) else {
                return Err(refused(&self.path, "it has a table that is not known"));
            };
            return Ok(Some((name, row)));
        }
        let end: End = serde_json::from_slice(&line)
            .map_err(|_| refused(&self.path, &format!("row {} is damaged", self.rows + 1)))?;
        if end.sha256 != hex(&self.digest.clone().finalize()) || end.rows != self.rows {
            return Err(refused(&self.path, "its checksum is wrong: it was changed or damaged"));
        }
        if !self.lines.fill_buf().map_err(|e| no_file(&self.path, &e))?.is_empty() {
            return Err(refused(&self.path, "something follows its end"));
        }
        Ok(None)
    }

    fn line(&mut self) -> Done<Vec<u8>> {
        use std::io::Read;
        let mut line = Vec::new();
        let mut limited = (&mut self.lines).take(LONGEST as u64);
        limited.read_until(b'\n', &mut line).map_err(|e| no_file(&self.path, &e))?;
        if line.last() != Some(&b'\n') {
            return Err(refused(&self.path, "it ends in its middle"));
        }
        Ok(line)
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
