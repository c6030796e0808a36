//! The shim as a program of this package, for its tests, and the virtiofsd beside it, which is
//! there when the tests are built with the feature `clawfarm-qemu/virtiofsd`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(word) if word == "virtiofsd" => {
            let rest: Vec<String> = arguments.map(|it| it.to_string_lossy().into_owned()).collect();
            clawfarm_qemu::serve_folder(&rest)
        }
        Some(dir) => clawfarm_shim::main(Path::new(&dir)),
        None => ExitCode::from(2),
    }
}
