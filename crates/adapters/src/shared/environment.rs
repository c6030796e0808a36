//! The environment of a claw.

use std::path::Path;

use clawfarm_model::config::EnvValue;
use clawfarm_model::{Error, InstanceSpec, Result};
use secrecy::SecretString;

use super::secrets;
use crate::{KeyVariables, RenderInput};

/// The variable with the token which the claw's gateway must ask for.
pub(crate) const GATEWAY_TOKEN: &str = "CLAWFARM_GATEWAY_TOKEN";
/// The variable with the key for clawfarm's own model endpoint.
pub(crate) const MODEL_KEY: &str = "CLAWFARM_MODEL_KEY";
/// Where a claw finds other programs.
pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables that decide where a claw is and what it loads.
const RESERVED: [&str; 6] = ["HOME", "PATH", "TMPDIR", "LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT"];

/// Where a launch has clawfarm's own keys.
pub(crate) const fn key_variables() -> KeyVariables {
    KeyVariables { gateway_token: GATEWAY_TOKEN, model_key: MODEL_KEY }
}

/// Variables in order, each once.
#[derive(Default)]
pub(crate) struct Environment(Vec<(String, SecretString)>);

impl Environment {
    /// What every claw has, and what its owner gives it.
    ///
    /// # Errors
    /// `InvalidInput` when a secret does not exist.
    pub(crate) fn begin(input: &RenderInput<'_>) -> Result<Self> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut env = Self::default();
        env.set("TZ", "UTC");
        env.set("LANG", "C.UTF-8");
        env.set("DO_NOT_TRACK", "1");
        env.set("PATH", SYSTEM_PATH);
        env.set("HOME", text(&input.place.state_dir));
        env.set("TMPDIR", text(&input.place.tmp_dir));
        if let Some(proxy) = &input.spec.config.proxy {
            for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
                env.set(name, proxy.url.as_str());
            }
            // The claw's own machine and clawfarm are reached directly.
            let except = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
            let except = except.into_iter().chain(proxy.except.iter().cloned()).collect::<Vec<_>>().join(",");
            env.set("NO_PROXY", except.as_str());
            env.set("no_proxy", except);
        }
        for (name, value) in &input.spec.config.env {
            match value {
                EnvValue::Plain(text) => env.set(name, text.as_str()),
                EnvValue::Secret(secret) => {
                    let value = secrets::value(input.secrets, secret, &format!("config.env.{name}"))?;
                    env.set_secret(name, value.clone());
                }
            }
        }
        env.set_secret(GATEWAY_TOKEN, input.gateway_token.clone());
        env.set_secret(MODEL_KEY, input.model_key.clone());
        Ok(env)
    }

    /// Sets a variable; the last one wins.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.set_secret(name, SecretString::from(value.into()));
    }

    /// Sets a variable to a secret.
    pub(crate) fn set_secret(&mut self, name: &str, value: SecretString) {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), value));
    }

    /// As a launch has them.
    pub(crate) fn all(self) -> Vec<(String, SecretString)> {
        self.0
    }
}

/// Whether a variable is set by clawfarm and can't be set by anybody else.
pub(crate) fn is_reserved(name: &str) -> bool {
    name.starts_with("CLAWFARM_") || RESERVED.contains(&name)
}

/// Checks what its owner gives a claw, beside what [`InstanceSpec::check`] looks at. `own` says
/// which further variables are the type's.
///
/// # Errors
/// `InvalidInput`, naming the variable.
pub(crate) fn check(spec: &InstanceSpec, own: impl Fn(&str) -> bool) -> Result<()> {
    for name in spec.config.env.keys() {
        if is_reserved(name) || own(name) {
            return Err(Error::invalid(format!("config.env.{name}"), format!("{name} is set by clawfarm"))
                .fix("remove it"));
        }
    }
    Ok(())
}
