//! What the tests share.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use clawfarm_model::vm_image::VmImageReference;
use clawfarm_runtime::Progress;
use clawfarm_vm_images::{Images, ImagesConfig, Limits};

/// How long a wait of a test may take, on a machine that does much else.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A reference.
pub(crate) fn named(text: &str) -> VmImageReference {
    VmImageReference::new(text).expect(text)
}

/// Images in `folder`, fetched from `site`, without long pauses.
pub(crate) fn config(folder: &Path, site: &str) -> ImagesConfig {
    ImagesConfig {
        ubuntu_site: site.to_owned(),
        debian_site: site.to_owned(),
        ubuntu_keyring: folder.join("no-keyring"),
        limits: Limits { pause: Duration::from_millis(10), ..Limits::default() },
        ..ImagesConfig::new(folder.join("images"))
    }
}

/// As [`config`], opened.
pub(crate) fn images(folder: &Path, site: &str) -> Images {
    Images::open(config(folder, site)).expect("the folder can be used")
}

/// The names in a folder of images, those of ours left out.
pub(crate) fn names(images: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(images)
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be read").file_name().into_string().expect("a text"))
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

/// What is on its way, by name.
pub(crate) fn on_the_way(images: &Path) -> Vec<String> {
    names(&images.join(".work"))
}

/// The beginning of a disk that boots, and noise behind it: `mib` MiB that differ by `seed`.
pub(crate) fn raw_disk(mib: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let mut disk: Vec<u8> = std::iter::repeat_with(|| {
        // Xorshift: any noise that no two places share will do.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    })
    .take((mib << 20) / 4)
    .flatten()
    .collect();
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// What was told of a piece of work.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    lines: Mutex<Vec<String>>,
}

impl Heard {
    /// Steps as `name total`, their advances, and lines, in the order they came.
    pub(crate) fn all(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    fn push(&self, line: String) {
        self.lines.lock().unwrap().push(line);
    }
}

impl Progress for Heard {
    fn step(&self, name: &str, message: &str, total: Option<u64>, _unit: &str) {
        self.push(format!("step {name} {} {message}", total.unwrap_or_default()));
    }

    fn advance(&self, done: u64) {
        self.push(format!("at {done}"));
    }

    fn say(&self, line: &str) {
        self.push(format!("said {line}"));
    }
}
