//! A claw's file: a line for each state it was in, of which the last whole one counts.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use clawfarm_model::{Code, Error, Result};

use crate::disk::replace;
use crate::record::Record;

/// A claw's file is begun anew when it has grown to this, in bytes: some fifty states.
const FILE_MAX: u64 = 64 << 10;
/// The state a claw is in: the last whole line. What a process that died (or a full disk)
/// left half-written is no state.
pub(crate) fn last_state(path: &Path, text: &[u8]) -> Result<Option<Record>> {
    let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
    let mut error = None;
    for line in text[..whole].split(|b| *b == b'\n').rev().filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(record) => return Ok(Some(record)),
            Err(e) => error = Some(e),
        }
    }
    match error {
        // Not even its first state was written whole: it never came to be.
        None => Ok(None),
        Some(e) => Err(Error::new(Code::Unavailable, format!("a simulated claw's file can't be read: {e}"))
            .fix(format!("mend or remove {}", path.display()))
            .source(e)),
    }
}

/// Adds a state to a claw's file.
pub(crate) fn write_state(path: &Path, mut line: Vec<u8>) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let length = file.metadata()?.len();
    if length > FILE_MAX {
        return replace(path, &line, 0o600);
    }
    // Apart from a line that was torn before.
    if length > 0 {
        line.insert(0, b'\n');
    }
    file.write_all(&line)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn state(run: i64) -> String {
        format!(
            r#"{{"id":"a-12345","born":1,"rev":{run},"port":1,"memory_mib":64,"cpus":1.0,"run":{run},"starts":0,"life":"prepared"}}"#
        )
    }

    #[test]
    fn what_was_written_half_is_no_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a-12345");
        let run = || last_state(&path, &fs::read(&path).unwrap()).map(|state| state.map(|record| record.run));
        fs::write(&path, "").unwrap();
        assert_eq!(run().unwrap(), None);
        fs::write(&path, &state(1)[..30]).unwrap();
        assert_eq!(run().unwrap(), None);
        write_state(&path, (state(2) + "\n").into()).unwrap();
        assert_eq!(run().unwrap(), Some(2));
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&state(3).as_bytes()[..50]).unwrap();
        assert_eq!(run().unwrap(), Some(2));
        write_state(&path, (state(4) + "\n").into()).unwrap();
        assert_eq!(run().unwrap(), Some(4));
        fs::write(&path, "nonsense\n").unwrap();
        assert_eq!(run().unwrap_err().code(), Code::Unavailable);
    }

    #[test]
    fn a_claw_of_many_states_keeps_a_small_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a-12345");
        for _ in 0..1_000 {
            write_state(&path, vec![b'x'; 500]).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() < FILE_MAX + 1_000);
    }
}
