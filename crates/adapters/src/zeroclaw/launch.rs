//! How ZeroClaw is started: arguments and environment.

use std::path::Path;

use clawfarm_model::config::LogLevel;
use clawfarm_model::launch::SYSTEM_FOLDER;
use clawfarm_model::{Launch, Result};

use super::{PROGRAM, config};
use crate::shared::environment::Environment;
use crate::shared::{document, inbox};
use crate::{RenderInput, Rendered};

/// Renders everything for a start.
pub(super) fn render(input: &RenderInput<'_>) -> Result<Rendered> {
    let place = input.place;
    let config::Generated { file, variables } = config::generate(input)?;
    let generated = document::generate(&[file], input.spec.config_mode, input.existing, input.run)?;
    let mut env = Environment::begin(input)?;
    for (name, value) in variables {
        env.set_secret(&name, value);
    }
    env.set("ZEROCLAW_CONFIG_DIR", place.state_dir.to_string_lossy());
    if let Some(level) = input.spec.config.logging.level {
        let level = match level {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
        };
        env.set("RUST_LOG", level);
    }
    let host = if place.listen_on_all { "0.0.0.0" } else { "127.0.0.1" };
    let port = place.port.to_string();
    // One of the system's own folders is found by its name.
    let program = if place.install_dir == Path::new(SYSTEM_FOLDER) {
        PROGRAM.to_owned()
    } else {
        place.install_dir.join("bin").join(PROGRAM).to_string_lossy().into_owned()
    };
    let argv = [program.as_str(), "daemon", "--host", host, "--port", &port].map(str::to_owned).to_vec();
    Ok(Rendered {
        launch: Launch {
            id: input.id.clone(),
            run: input.run,
            argv,
            env: env.all(),
            cwd: place.workspace_dir.clone(),
            files: generated.files,
            resources: input.spec.resources,
        },
        warnings: generated.warnings,
        inbox: inbox::declared(input)?,
    })
}
