//! The shim as a program of this package, for its tests.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(dir) => clawfarm_shim::main(Path::new(&dir)),
        None => ExitCode::from(2),
    }
}
