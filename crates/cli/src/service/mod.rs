//! The server as a service of systemd: its unit, and what the unit and the server say to each
//! other.

pub(crate) mod notify;
mod quote;
mod systemctl;
pub(crate) mod trust;
mod unit;

use std::path::Path;

pub(crate) use systemctl::Systemctl;
pub(crate) use unit::{MARK, NAME, Scope, Unit};

/// Whether systemd is about to start a server on `home`: the unit of this home is on its way up,
/// or waits to be started again. Quick where no unit is installed.
pub(crate) async fn is_coming(home: &Path) -> bool {
    let Ok(config) = crate::context::config_folder() else { return false };
    let Ok(home) = quote::path("--home", home) else { return false };
    for scope in [Scope::User, Scope::System { run_as: None }] {
        let text = std::fs::read_to_string(Unit::path(&scope, &config)).unwrap_or_default();
        if !text.starts_with(MARK) || !text.contains(&format!("\"--home\" {home}")) {
            continue;
        }
        let state = Systemctl::of(&scope).word("is-active", NAME).await;
        if matches!(state.as_deref(), Ok("active" | "activating" | "reloading")) {
            return true;
        }
    }
    false
}
