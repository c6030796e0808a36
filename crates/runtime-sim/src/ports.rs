//! The ports of the simulated target: which claw has which.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use clawfarm_model::{ClawId, Code, Error, Result};

use crate::disk::{broken, lock_file};
use crate::world::World;

/// What the table of ports has for each, in bytes: more than the longest id.
const PORT_ENTRY: usize = 64;
impl World {
    /// Takes a port for a claw, and keeps every other process from taking one until the
    /// guard is dropped.
    pub(crate) fn take_port(&self, port: u16, id: &ClawId, now: i64) -> Result<File> {
        let path = self.root().join("port-table");
        let table = lock_file(&path)?;
        let at = u64::from(port) * PORT_ENTRY as u64;
        let holder = read_entry(&table, at).map_err(|e| broken(&path, "read", e))?;
        if holder.as_ref() == Some(id) {
            return Ok(table);
        }
        if let Some(holder) = holder
            && self.record(&holder)?.is_some_and(|r| r.port == port && r.is_up(now))
        {
            return Err(port_taken(port, holder.as_str()));
        }
        let mut entry = [0_u8; PORT_ENTRY];
        entry[..id.as_str().len()].copy_from_slice(id.as_str().as_bytes());
        table.write_all_at(&entry, at).map_err(|e| broken(&path, "written", e))?;
        Ok(table)
    }
}

/// The error of a start on a port that something else holds.
pub(crate) fn port_taken(port: u16, by: &str) -> Error {
    Error::new(Code::Conflict, format!("port {port} is taken by {by}"))
        .field("port")
        .fix("choose another port")
}

/// Whom the table gives a port to.
fn read_entry(table: &File, at: u64) -> io::Result<Option<ClawId>> {
    let mut entry = [0_u8; PORT_ENTRY];
    match table.read_exact_at(&mut entry, at) {
        // Nobody has taken this port, nor one above it.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let id = entry.split(|b| *b == 0).next().and_then(|id| std::str::from_utf8(id).ok());
    Ok(id.and_then(|id| ClawId::new(id).ok()))
}
