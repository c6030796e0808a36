//! What claws were given by services, as the world remembers it.

use std::fs::OpenOptions;
use std::io::{self, Write};

use clawfarm_model::{ClawId, Result};
use serde::{Deserialize, Serialize};

use crate::disk::broken;
use crate::world::World;

/// A message that a claw was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// Its `Idempotency-Key`.
    pub key: String,
    /// The path and query it came to.
    pub target: String,
    /// Its `Authorization`.
    pub authorization: String,
    /// Its body.
    pub body: String,
}

impl World {
    /// Everything that a claw was given, in order. It stays when the claw is removed.
    ///
    /// # Errors
    /// When the world can't be read.
    pub fn received(&self, id: &ClawId) -> Result<Vec<Received>> {
        let path = self.root().join("inbox").join(id.as_str());
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(broken(&path, "read", e)),
        };
        Ok(text.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }

    /// Remembers a message. A line of its own, written at once.
    pub(crate) fn receive(&self, id: &ClawId, received: &Received) -> Result<()> {
        let folder = self.root().join("inbox");
        std::fs::create_dir_all(&folder).map_err(|e| broken(&folder, "made", e))?;
        let path = folder.join(id.as_str());
        // A line feed before it too: a line that a killed process left half costs itself only.
        let line = format!("\n{}\n", serde_json::to_string(received).unwrap_or_default());
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|e| broken(&path, "opened", e))?;
        file.write_all(line.as_bytes()).map_err(|e| broken(&path, "written", e))
    }
}
