//! virtiofsd alone: `clawfarm-virtiofsd --shared-dir=… --socket-path=…`, the same as
//! `clawfarm virtiofsd …`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    clawfarm_qemu::serve_folder(&arguments)
}
