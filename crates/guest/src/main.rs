//! `clawfarm-guest`: runs inside a virtual machine, as root, from its boot to its end.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clawfarm_guest::agent::{Frozen, Options, open_port, serve, vsock};
use clawfarm_guest::{PORT, VSOCK_PORT};

/// How long to wait before the line is looked at again on which no host is: it has no way to say
/// that one came. A wake every half second costs a machine nothing that can be seen.
const AGAIN: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let mut port = PathBuf::from("/dev/virtio-ports").join(PORT);
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.to_str(), arguments.next()) {
            (Some("--version"), None) => {
                println!("clawfarm-guest {}", env!("CARGO_PKG_VERSION"));
                return ExitCode::SUCCESS;
            }
            (Some("--port"), Some(path)) => port = path.into(),
            _ => {
                eprintln!("usage: clawfarm-guest [--port PATH] | --version");
                return ExitCode::from(2);
            }
        }
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("clawfarm-guest can't begin: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&port)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("clawfarm-guest has no line to its host: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(port: &Path) -> std::io::Result<()> {
    let options = Options { frozen: Frozen::of_this_machine(), home: "/root".to_owned() };
    let by_vsock = match vsock(VSOCK_PORT) {
        Ok(listener) => {
            let options = options.clone();
            Some(tokio::spawn(async move {
                while let Ok(line) = listener.accept().await {
                    let options = options.clone();
                    tokio::spawn(async move { serve(line, &options).await });
                }
            }))
        }
        Err(error) => {
            eprintln!("no vsock here: {error}");
            None
        }
    };
    match (open_port(port), by_vsock) {
        (Ok(mut line), _) => loop {
            if let Err(error) = serve(&mut line, &options).await {
                eprintln!("the line to the host was cut: {error}");
            }
            tokio::time::sleep(AGAIN).await;
        },
        (Err(_), Some(by_vsock)) => by_vsock.await.map_err(std::io::Error::other),
        (Err(error), None) => Err(std::io::Error::new(error.kind(), format!("{}: {error}", port.display()))),
    }
}
