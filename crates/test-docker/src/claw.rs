//! A claw of busybox: laid out as the image of an OpenClaw, it answers OpenClaw's probes and
//! can nothing else. For tests and benchmarks that need many, or quick ones.

use crate::{Engine, base};

/// The version that [`TINY_CLAW`] goes by. Not one that OpenClaw has or had.
pub const TINY_CLAW_VERSION: &str = "0.0.1-tiny";
/// The image, under the name that instances of that version look for.
pub const TINY_CLAW: &str = "clawfarm/openclaw:0.0.1-tiny";

/// What stands for Node in it: whatever it is to run, it serves the answers to the probes.
const NODE: &str = "#!/bin/sh
trap 'exit 0' TERM
httpd -f -p 18789 -h /www &
wait
";

/// Its files: path, mode, contents.
const FILES: [(&str, u32, &str); 5] = [
    ("usr/local/bin/node", 0o755, NODE),
    ("app/openclaw.mjs", 0o644, "// Nothing runs this.\n"),
    ("app/package.json", 0o644, "{\"name\":\"openclaw\",\"version\":\"0.0.1-tiny\"}\n"),
    ("www/startupz", 0o644, "{\"ok\":true,\"status\":\"started\"}\n"),
    ("www/healthz", 0o644, "{\"ok\":true,\"status\":\"live\"}\n"),
];

impl Engine {
    /// Makes sure of [`TINY_CLAW`].
    ///
    /// # Panics
    /// When there is no busybox.
    pub fn with_tiny_claw(&self) {
        let _one = self.lock();
        if self.try_docker(&["image", "inspect", TINY_CLAW], None).is_err() {
            let made = self.try_docker(&["import", "-", TINY_CLAW], Some(&archive()));
            made.unwrap_or_else(|error| panic!("the image {TINY_CLAW} can't be made: {error}"));
        }
    }
}

fn archive() -> Vec<u8> {
    let mut archive = base();
    for (path, mode, contents) in FILES {
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(mode);
        archive.append_data(&mut header, path, contents.as_bytes()).expect("memory can be written");
    }
    archive.into_inner().expect("memory can be written")
}
