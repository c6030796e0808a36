//! The shim alone: `clawfarm-shim <instance-dir>`, the same as `clawfarm shim <instance-dir>`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(dir), None) => clawfarm_shim::main(Path::new(&dir)),
        _ => {
            eprintln!("usage: clawfarm-shim <instance-dir> < spec.json");
            ExitCode::from(2)
        }
    }
}
