//! How OpenClaw is started: arguments and environment.

use std::path::Path;

use clawfarm_model::config::{ClawConfig, ConfigMode, EnvValue, Proxy};
use clawfarm_model::launch::{Layout, Place};
use clawfarm_model::secret::SecretRef;
use clawfarm_model::{Launch, Result};
use secrecy::SecretString;

use super::{config, dotenv, inbox, secrets};
use crate::{RenderInput, Rendered};

/// What OpenClaw holds beside its JavaScript heap, in MiB: with a heap of 384 it grew to 1188
/// resident, and its two helpers hold 170 (measured on 2026.9.6).
const BESIDE_HEAP_MIB: u32 = 1000;
/// The smallest heap that was seen to work, in MiB.
const LEAST_HEAP_MIB: u32 = 384;
/// More than Node gives itself on a large machine; more memory than this is for the tools.
const MOST_HEAP_MIB: u32 = 4096;

/// Where the claw finds other programs, after its own Node.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Renders everything for a start.
pub(super) fn render(input: &RenderInput<'_>) -> Result<Rendered> {
    let variables = environment(input)?;
    let mut generated = config::generate(input);
    let inbox = inbox::routes(&generated.document, input, &|name| variables.value(name))?;
    let env = match input.place.layout {
        Layout::Npm | Layout::Machine => variables.all(),
        Layout::Image => {
            let (open, secret) = variables.apart();
            let present = input.existing.get(Path::new(dotenv::FILE)).map(Vec::as_slice);
            generated.files.push(dotenv::file(present, &secret)?);
            open
        }
    };
    Ok(Rendered {
        launch: Launch {
            id: input.id.clone(),
            run: input.run,
            argv: argv(input),
            env,
            cwd: input.place.workspace_dir.clone(),
            files: generated.files,
            resources: input.spec.resources,
        },
        warnings: generated.warnings,
        inbox,
    })
}

/// The npm package that holds Node for this machine.
fn node_package() -> String {
    let os = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("node-{os}-{arch}")
}

fn node_bin(install_dir: &Path) -> std::path::PathBuf {
    install_dir.join("node_modules").join(node_package()).join("bin")
}

/// The heap that leaves room for the rest within the memory limit. Always given: Node sizes
/// its heap by the whole machine's memory, knows nothing of a limit that a watchdog keeps,
/// and would sooner grow to it than collect.
fn heap_mib(memory_mib: u32) -> u32 {
    memory_mib.saturating_sub(BESIDE_HEAP_MIB).clamp(LEAST_HEAP_MIB, MOST_HEAP_MIB)
}

/// Node, and the arguments that it alone needs in a layout.
fn node(place: &Place) -> Vec<String> {
    let path = |p: std::path::PathBuf| p.to_string_lossy().into_owned();
    match place.layout {
        Layout::Npm | Layout::Machine => vec![node_program(place)],
        Layout::Image => {
            vec![node_program(place), format!("--env-file={}", path(place.state_dir.join(dotenv::FILE)))]
        }
    }
}

/// Node alone: a command beside the claw takes its variables from elsewhere.
pub(super) fn node_program(place: &Place) -> String {
    match place.layout {
        Layout::Npm | Layout::Machine => {
            node_bin(&place.install_dir).join("node").to_string_lossy().into_owned()
        }
        Layout::Image => "node".to_owned(),
    }
}

/// OpenClaw's own program.
pub(super) fn program(place: &Place) -> std::path::PathBuf {
    match place.layout {
        Layout::Npm | Layout::Machine => place.install_dir.join("node_modules/openclaw/openclaw.mjs"),
        Layout::Image => place.install_dir.join("openclaw.mjs"),
    }
}

fn argv(input: &RenderInput<'_>) -> Vec<String> {
    let place = input.place;
    let mut argv = node(place);
    argv.extend([
        // An argument of Node's, not NODE_OPTIONS: the claw's own commands should not inherit it.
        format!("--max-old-space-size={}", heap_mib(input.spec.resources.memory_mib)),
        program(place).to_string_lossy().into_owned(),
        "gateway".to_owned(),
        "--port".to_owned(),
        place.port.to_string(),
        "--bind".to_owned(),
        if place.listen_on_all { "lan" } else { "loopback" }.to_owned(),
    ]);
    argv
}

/// Where the claw finds other programs.
fn search_path(place: &Place) -> String {
    match place.layout {
        Layout::Npm | Layout::Machine => {
            let bin = node_bin(&place.install_dir);
            let tools = place.install_dir.join("node_modules/.bin");
            format!("{}:{}:{SYSTEM_PATH}", bin.display(), tools.display())
        }
        Layout::Image => SYSTEM_PATH.to_owned(),
    }
}

/// Its home: what it calls `~`.
fn home(place: &Place) -> &Path {
    match place.layout {
        Layout::Npm => &place.state_dir,
        // As in its own image, where the state is `~/.openclaw`.
        Layout::Machine | Layout::Image => place.state_dir.parent().unwrap_or(&place.state_dir),
    }
}

/// The whole environment. What clawfarm sets comes last and wins.
///
/// `NODE_COMPILE_CACHE` is left alone on purpose: OpenClaw keeps a cache under `TMPDIR` by
/// itself, and a second start with it took 8.5 to 9.8 s against 9.8 to 11.3 without. Set from
/// outside it gained nothing more (8.6 to 9.5 s), and OpenClaw answers it by starting itself
/// again as a child, so that the process which is watched would be an empty launcher.
fn environment(input: &RenderInput<'_>) -> Result<Environment> {
    let place = input.place;
    let text = |p: &Path| p.to_string_lossy().into_owned();
    let mut env = Environment::default();
    env.set("TZ", "UTC");
    env.set("LANG", "C.UTF-8");
    for (name, value) in &input.spec.config.env {
        match value {
            EnvValue::Plain(text) => env.set(name, text.as_str()),
            EnvValue::Secret(secret) => {
                let value = secrets::value(input.secrets, secret, &format!("config.env.{name}"))?;
                env.set_secret(name, value.clone());
            }
        }
    }
    for (field, secret) in config_secrets(&input.spec.config) {
        env.set_secret(
            &secrets::variable(&secret.secret),
            secrets::value(input.secrets, secret, &format!("config.{field}"))?.clone(),
        );
    }
    if let Some(proxy) = &input.spec.config.proxy {
        for (name, value) in proxy_variables(proxy, place) {
            env.set(name, value);
        }
    }
    env.set("PATH", search_path(place));
    env.set("HOME", text(home(place)));
    env.set("TMPDIR", text(&place.tmp_dir));
    env.set("OPENCLAW_STATE_DIR", text(&place.state_dir));
    env.set("OPENCLAW_CONFIG_PATH", text(&place.state_dir.join(config::FILE)));
    env.set("OPENCLAW_GATEWAY_PORT", place.port.to_string());
    env.set_secret(secrets::GATEWAY_TOKEN, input.gateway_token.clone());
    env.set_secret(secrets::MODEL_KEY, input.model_key.clone());
    if let Some(telegram) = &input.spec.config.channels.telegram
        && inbox::telegram_url(telegram, input.public_url).is_some()
    {
        env.set_secret(inbox::TELEGRAM_SECRET, inbox::telegram_secret(input.gateway_token));
    }
    // A restart of its own making stays in the process that is watched.
    env.set("OPENCLAW_NO_RESPAWN", "1");
    env.set("OPENCLAW_DISABLE_BONJOUR", "1");
    env.set("OPENCLAW_NO_AUTO_UPDATE", "1");
    env.set("DO_NOT_TRACK", "1");
    if input.spec.config_mode == ConfigMode::Managed {
        env.set("OPENCLAW_CONFIG_READONLY", "1");
    }
    Ok(env)
}

/// What a claw has in its environment: what everybody may read, and what not.
pub(super) fn variables(input: &RenderInput<'_>) -> Result<(Variables, Variables)> {
    Ok(environment(input)?.apart())
}

/// The secrets that `openclaw.json` refers to, and the field each is named in.
pub(super) fn config_secrets(config: &ClawConfig) -> impl Iterator<Item = (String, &SecretRef)> {
    // A variable has its secret's value itself; what is left in the inbox is checked before it
    // reaches the claw.
    config
        .secret_fields()
        .into_iter()
        .filter(|(field, _)| !field.starts_with("env.") && !field.starts_with("inbox."))
}

/// The variables that tell programs of a proxy. By the environment, and not by OpenClaw's own
/// `proxy.proxyUrl`: that knows no exceptions, and of what the claw runs it tells nobody.
pub(super) fn proxy_variables(proxy: &Proxy, place: &Place) -> Vec<(&'static str, String)> {
    // The claw's own server, which has the demo model, and the claw itself are never behind it.
    let server = place.host_url.parse::<http::Uri>().ok();
    let server = server.as_ref().and_then(http::Uri::host).unwrap_or_default();
    let mut except: Vec<&str> = vec!["127.0.0.1", "localhost", "::1"];
    if !server.is_empty() && !except.contains(&server) {
        except.push(server);
    }
    except.extend(proxy.except.iter().map(String::as_str));
    let except = except.join(",");
    // Some programs look for the one spelling, some for the other.
    let mut variables = Vec::new();
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        variables.push((name, proxy.url.clone()));
    }
    for name in ["NO_PROXY", "no_proxy"] {
        variables.push((name, except.clone()));
    }
    variables
}

/// Variables in order, each once, and whether it is a secret.
#[derive(Default)]
struct Environment(Vec<(String, SecretString, bool)>);

/// Variables and their values.
pub(super) type Variables = Vec<(String, SecretString)>;

impl Environment {
    fn set(&mut self, name: &str, value: impl Into<String>) {
        self.put(name, SecretString::from(value.into()), false);
    }

    fn set_secret(&mut self, name: &str, value: SecretString) {
        self.put(name, value, true);
    }

    fn put(&mut self, name: &str, value: SecretString, secret: bool) {
        self.0.retain(|(known, ..)| known != name);
        self.0.push((name.to_owned(), value, secret));
    }

    fn value(&self, name: &str) -> Option<SecretString> {
        self.0.iter().find(|(known, ..)| known == name).map(|(_, value, _)| value.clone())
    }

    fn all(self) -> Variables {
        self.0.into_iter().map(|(name, value, _)| (name, value)).collect()
    }

    /// Those that everybody may read, and the others.
    fn apart(self) -> (Variables, Variables) {
        let (secret, open): (Vec<_>, Vec<_>) = self.0.into_iter().partition(|(.., secret)| *secret);
        (Self(open).all(), Self(secret).all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heap_leaves_room_within_the_limit() {
        assert_eq!([64, 1024, 2048, 4096, 65_536].map(heap_mib), [384, 384, 1048, 3096, 4096]);
    }
}
