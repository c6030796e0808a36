//! Taking an existing OpenClaw home in: its keys become secrets, its paths the new home's.
//!
//! The home is copied as it is; only the files returned here replace the copied ones. At
//! the first start the file that comes out of this goes through the seeded merge like any
//! other, so what clawfarm owns is not touched here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clawfarm_model::config::{ClawConfig, EnvValue};
use clawfarm_model::secret::{SecretName, SecretRef};
use clawfarm_model::{Error, Result};
use secrecy::SecretString;
use serde_json::{Map, Value};

use super::config::{FILE, shown};
use super::{DEFAULT_VERSION, json as tree, secrets, validate};
use crate::{Imported, Warning};

const DOT_ENV: &str = ".env";
/// Where OpenClaw before 2026.9 kept provider logins; later ones are in its database.
const AUTH_PROFILES: &str = "agents/main/agent/auth-profiles.json";
/// Copies that OpenClaw keeps of its configuration (its names in 2026.9.6); each has the same keys.
const COPIES: [&str; 7] = [
    "openclaw.json.bak",
    "openclaw.json.bak.1",
    "openclaw.json.bak.2",
    "openclaw.json.bak.3",
    "openclaw.json.bak.4",
    "openclaw.json.last-good",
    "openclaw.json.pre-update",
];

/// The files that are looked at.
pub(super) fn files() -> Vec<PathBuf> {
    [FILE, DOT_ENV, AUTH_PROFILES].into_iter().chain(COPIES).map(PathBuf::from).collect()
}

/// Takes a home in.
pub(super) fn import(files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<Imported> {
    let bytes = files.get(Path::new(FILE)).ok_or_else(|| {
        Error::invalid("import", format!("the folder has no {FILE}"))
            .fix("give the folder that OpenClaw keeps its state in, usually ~/.openclaw")
    })?;
    let document = tree::parse(bytes).map_err(|why| {
        Error::invalid("import", format!("{FILE} could not be read: {why}"))
            .fix("mend it first: openclaw config validate")
    })?;
    let mut taken = Taken { document, ..Taken::default() };
    taken.check_version()?;
    check_logins(files)?;
    taken.drop_gateway_secrets();
    taken.provider_keys();
    taken.channel_tokens();
    taken.skill_keys();
    taken.hooks_token();
    taken.config_variables();
    if let Some(bytes) = files.get(Path::new(DOT_ENV)) {
        taken.dot_env(bytes);
    }
    taken.say_what_stays();
    taken.move_paths();
    Ok(taken.finish(files))
}

/// Logins in the old file: the gateway refuses to start until its own command has moved them
/// into its database (exit code 1, "requires legacy credential migration", seen in 2026.9.6).
fn check_logins(files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<()> {
    if !files.contains_key(Path::new(AUTH_PROFILES)) {
        return Ok(());
    }
    Err(Error::invalid(
        "import",
        format!("the home keeps provider logins as OpenClaw before 2026.9 did, in {AUTH_PROFILES}; {DEFAULT_VERSION} does not start with them"),
    )
    .fix("run 'openclaw doctor --fix' of a new OpenClaw in that home, or move the file away and give the key with --provider and --api-key-env"))
}

/// An import under way.
#[derive(Default)]
struct Taken {
    document: Map<String, Value>,
    env: BTreeMap<String, EnvValue>,
    secrets: BTreeMap<SecretName, SecretString>,
    warnings: Vec<Warning>,
}

impl Taken {
    fn warn(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(Warning { field: field.into(), message: message.into() });
    }

    /// A state that a newer OpenClaw wrote can't be opened by an older one.
    fn check_version(&mut self) -> Result<()> {
        let Some(written) =
            tree::get(&self.document, &["meta", "lastTouchedVersion"]).and_then(Value::as_str)
        else {
            return Ok(());
        };
        let (Some(theirs), Some(ours)) = (numbers(written), numbers(DEFAULT_VERSION)) else { return Ok(()) };
        if theirs > ours {
            return Err(Error::invalid(
                "import",
                format!("this home was last written by OpenClaw {}; this clawfarm knows {DEFAULT_VERSION}, which can't open what a newer one wrote", shown(written)),
            )
            .fix("use a newer clawfarm"));
        }
        if theirs[..2] < ours[..2] {
            let message = format!(
                "this home was last written by OpenClaw {}, and some keys have changed since; if the claw refuses its configuration, run 'openclaw doctor --fix' in the old home first",
                shown(written)
            );
            self.warn("meta.lastTouchedVersion", message);
        }
        Ok(())
    }

    fn drop_gateway_secrets(&mut self) {
        for key in ["token", "password"] {
            if tree::remove(&mut self.document, &["gateway", "auth", key]).is_some() {
                self.warn(
                    format!("gateway.auth.{key}"),
                    "left out: the gateway gets a new token; see it with: clawfarm token reveal <id>",
                );
            }
        }
    }

    fn provider_keys(&mut self) {
        let providers = tree::get(&self.document, &["models", "providers"]).and_then(Value::as_object);
        let names: Vec<String> = providers.into_iter().flatten().map(|(name, _)| name.clone()).collect();
        for name in names {
            self.take(&["models", "providers", &name, "apiKey"], &format!("{name}-api-key"));
        }
    }

    fn channel_tokens(&mut self) {
        for (channel, key, what) in [
            ("telegram", "botToken", "bot-token"),
            ("discord", "token", "bot-token"),
            ("feishu", "appSecret", "app-secret"),
        ] {
            self.take(&["channels", channel, key], &format!("{channel}-{what}"));
            let accounts =
                tree::get(&self.document, &["channels", channel, "accounts"]).and_then(Value::as_object);
            let names: Vec<String> = accounts.into_iter().flatten().map(|(name, _)| name.clone()).collect();
            for name in names {
                self.take(
                    &["channels", channel, "accounts", &name, key],
                    &format!("{channel}-{name}-{what}"),
                );
            }
        }
    }

    fn skill_keys(&mut self) {
        let skills = tree::get(&self.document, &["skills", "entries"]).and_then(Value::as_object);
        let names: Vec<String> = skills.into_iter().flatten().map(|(name, _)| name.clone()).collect();
        for name in names {
            self.take(&["skills", "entries", &name, "apiKey"], &format!("{name}-api-key"));
        }
    }

    /// The token of its hooks, for which OpenClaw takes a text only.
    fn hooks_token(&mut self) {
        if let Some(variable) = self.move_out(&["hooks", "token"], "hooks-token") {
            tree::set(&mut self.document, &["hooks", "token"], format!("${{{variable}}}").into());
        }
    }

    /// Turns a plain text at `path` into a secret and a reference to it.
    fn take(&mut self, path: &[&str], name: &str) {
        if let Some(variable) = self.move_out(path, name) {
            tree::set(&mut self.document, path, secrets::env_reference(&variable));
        }
    }

    /// Turns a plain text at `path` into a secret, in a variable of this name.
    fn move_out(&mut self, path: &[&str], name: &str) -> Option<String> {
        let plain = tree::get(&self.document, path).and_then(Value::as_str).filter(|text| is_plain(text))?;
        let plain = SecretString::from(plain.to_owned());
        let name = self.free_name(name);
        let variable = secrets::variable(&name).replacen("CLAWFARM_SECRET_", "", 1);
        self.env.insert(variable.clone(), EnvValue::Secret(SecretRef { secret: name.clone() }));
        self.secrets.insert(name, plain);
        Some(variable)
    }

    /// A secret's name that is valid and not used yet.
    fn free_name(&self, wanted: &str) -> SecretName {
        let clean: String = wanted
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .take(SecretName::MAX - 14)
            .collect();
        let base = format!("imported-{}", clean.trim_matches('-'));
        (1_u32..)
            .map(|n| if n == 1 { base.clone() } else { format!("{base}-{n}") })
            .filter_map(|text| SecretName::new(text).ok())
            .find(|name| !self.secrets.contains_key(name))
            // Not reached: the base is valid and the numbers do not end before the secrets do.
            .unwrap_or_else(|| unreachable!("some number is free"))
    }

    fn config_variables(&mut self) {
        let Some(Value::Object(vars)) = tree::remove(&mut self.document, &["env", "vars"]) else { return };
        for (name, value) in vars {
            match value {
                Value::String(text) if !is_plain(&text) => {
                    // It refers to another variable; OpenClaw resolves it where it stands.
                    tree::set(&mut self.document, &["env", "vars", &name], Value::String(text));
                }
                Value::String(text) => self.variable(&name, text, "env.vars"),
                other => self.warn(format!("env.vars.{name}"), format!("left out: {other} is no text")),
            }
        }
    }

    fn dot_env(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes).into_owned();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            let line = line.strip_prefix("export ").unwrap_or(line);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once('=') {
                Some((name, value)) => self.variable(name.trim(), unquote(value.trim()), DOT_ENV),
                None => self.warn(DOT_ENV, format!("line {} is no NAME=value and was left out", number + 1)),
            }
        }
    }

    /// Keeps a variable: as a secret, unless its name says that it is none.
    fn variable(&mut self, name: &str, value: String, from: &str) {
        let good = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && name.len() <= 128
            && !value.contains('\0');
        if !good {
            return self.warn(
                from,
                format!("the variable '{}' was left out: no process can be given it", shown(name)),
            );
        }
        if validate::is_reserved(name) {
            return self.warn(from, format!("the variable {name} was left out: clawfarm sets it"));
        }
        if self.env.contains_key(name) {
            return self.warn(from, format!("the variable {name} was left out: it was given before"));
        }
        if matches!(name, "TZ" | "LANG") || name.starts_with("LC_") {
            self.env.insert(name.to_owned(), EnvValue::Plain(value));
            return;
        }
        let secret = self.free_name(name);
        self.env.insert(name.to_owned(), EnvValue::Secret(SecretRef { secret: secret.clone() }));
        self.secrets.insert(secret, value.into());
    }

    /// What looks like a key and has no reference to be replaced with.
    fn say_what_stays(&mut self) {
        let mut stays = Vec::new();
        find_keys(&self.document, "", &mut stays);
        for field in stays {
            self.warn(field, "stays as plain text in openclaw.json, which the claw's tools can read");
        }
        if self.document.contains_key("$include") {
            self.warn(
                "$include",
                "the included files are taken as they are: keys in them stay as plain text",
            );
        }
    }

    /// The claw's home is another now. `~` is its state folder, into which the old home was copied.
    fn move_paths(&mut self) {
        let mut moved = Vec::new();
        for (key, value) in &mut self.document {
            move_value(value, key, &mut moved);
        }
        for (field, text) in moved {
            self.warn(field, format!("now {}: the path led into the old home", shown(&text)));
        }
        let path = ["agents", "defaults", "workspace"];
        match tree::get(&self.document, &path).and_then(Value::as_str) {
            // The place that OpenClaw uses when it is told none.
            None => tree::set(&mut self.document, &path, "~/workspace".into()),
            Some(other) if !other.starts_with("~/") => {
                let other = shown(other);
                self.warn(path.join("."), format!("'{other}' is outside of the home and is not imported; the claw starts with an empty workspace"));
            }
            Some(_) => {}
        }
    }

    fn finish(self, had: &BTreeMap<PathBuf, Vec<u8>>) -> Imported {
        let mut text = serde_json::to_string_pretty(&self.document).unwrap_or_default();
        text.push('\n');
        let mut files = BTreeMap::from([(PathBuf::from(FILE), text.clone().into_bytes())]);
        for copy in COPIES.map(PathBuf::from) {
            if had.contains_key(&copy) {
                files.insert(copy, text.clone().into_bytes());
            }
        }
        if had.contains_key(Path::new(DOT_ENV)) {
            // Emptied, not absent: the copied one would still have the keys.
            files.insert(DOT_ENV.into(), b"# moved into clawfarm's secrets\n".to_vec());
        }
        Imported {
            config: ClawConfig { env: self.env, ..ClawConfig::default() },
            secrets: self.secrets,
            files,
            warnings: self.warnings,
        }
    }
}

/// A version's leading numbers.
fn numbers(version: &str) -> Option<[u64; 3]> {
    let mut parts = version.split(['.', '-']).map(|p| p.parse().ok());
    Some([parts.next()??, parts.next()??, parts.next()??])
}

/// Whether a text is a key itself, and not a variable that OpenClaw looks up: `${VARIABLE}`,
/// or the bare `PROVIDER_API_KEY` of older files.
fn is_plain(text: &str) -> bool {
    let bare = text.contains('_') && text.chars().all(|c| matches!(c, 'A'..='Z' | '0'..='9' | '_'));
    !text.is_empty() && !text.contains("${") && !bare
}

/// The value of a `.env` line: quotes around it are not part of it, a comment behind an
/// unquoted one neither.
fn unquote(value: &str) -> String {
    for quote in ['"', '\'', '`'] {
        if let Some(rest) = value.strip_prefix(quote)
            && let Some(end) = rest.rfind(quote)
        {
            let inner = &rest[..end];
            return if quote == '"' {
                inner.replace("\\n", "\n").replace("\\r", "\r")
            } else {
                inner.to_owned()
            };
        }
    }
    value.split(" #").next().unwrap_or_default().trim_end().to_owned()
}

/// Collects the paths of plain texts whose key says that they are secret.
fn find_keys(at: &Map<String, Value>, path: &str, out: &mut Vec<String>) {
    for (key, value) in at {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value {
            Value::Object(inner) => find_keys(inner, &path, out),
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    if let Value::Object(inner) = item {
                        find_keys(inner, &format!("{path}.{i}"), out);
                    }
                }
            }
            Value::String(text) if is_plain(text) && names_a_secret(key) => out.push(path),
            _ => {}
        }
    }
}

fn names_a_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["token", "apikey", "api_key", "-key", "secret", "password", "passwd", "privatekey", "authorization"]
        .iter()
        .any(|word| key.ends_with(word))
}

/// Moves every path that leads into the old home, and notes where.
fn move_value(value: &mut Value, path: &str, moved: &mut Vec<(String, String)>) {
    match value {
        Value::Object(inner) => {
            for (key, value) in inner {
                move_value(value, &format!("{path}.{key}"), moved);
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                move_value(item, &format!("{path}.{i}"), moved);
            }
        }
        Value::String(text) => {
            if let Some(now) = moved_path(text) {
                moved.push((path.to_owned(), now.clone()));
                *text = now;
            }
        }
        _ => {}
    }
}

/// The new path of one that leads into `…/.openclaw`.
fn moved_path(text: &str) -> Option<String> {
    let rest =
        text.strip_prefix("~/").or_else(|| text.strip_prefix("$HOME/")).or_else(|| text.strip_prefix('/'))?;
    let mut parts = rest.split('/');
    parts.find(|part| *part == ".openclaw")?;
    let inside: Vec<&str> = parts.filter(|p| !p.is_empty()).collect();
    if inside.contains(&"..") || text.contains(char::is_whitespace) {
        return None;
    }
    Some(if inside.is_empty() { "~".to_owned() } else { format!("~/{}", inside.join("/")) })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;
    use serde_json::json;

    use super::*;

    fn import_(files: &[(&str, &str)]) -> Result<Imported> {
        import(&files.iter().map(|(p, c)| (PathBuf::from(p), c.as_bytes().to_vec())).collect())
    }

    const HOME: &str = r#"{
        // my claw
        meta: {lastTouchedVersion: "2026.9.1"},
        gateway: {port: 18789, auth: {mode: 'token', token: "gw-plain"}},
        models: {providers: {
            anthropic: {apiKey: "sk-ant-plain"},
            openai: {apiKey: {source: "env", provider: "default", id: "OPENAI_API_KEY"}},
            google: {apiKey: "${GEMINI_API_KEY}"},
        }},
        channels: {telegram: {botToken: "tg-plain", accounts: {two: {botToken: "tg-two"}}},
            feishu: {accounts: {one: {appId: "cli_x", appSecret: "fs-plain"}}}},
        hooks: {enabled: true, token: "hook-plain", gmail: {pushToken: "push-plain"}},
        env: {vars: {TZ: "Europe/Berlin", SEARCH_KEY: "search-plain", OPENCLAW_PROFILE: "x"}},
        agents: {defaults: {workspace: "/home/ann/.openclaw/workspace"}},
        skills: {load: {extraDirs: ["~/.openclaw/more", "/opt/skills"]}, entries: {maps: {apiKey: "maps-plain"}}},
    }"#;

    #[test]
    fn keys_become_secrets_and_paths_the_new_homes() {
        let dot_env = "# keys\nexport OPENAI_API_KEY=\"sk-open-plain\"\nGEMINI_API_KEY=gm-plain # mine\nbroken\nHOME=/x\n";
        let imported = import_(&[(FILE, HOME), (DOT_ENV, dot_env)]).unwrap();
        let document: Value = serde_json::from_slice(&imported.files[Path::new(FILE)]).unwrap();
        insta::assert_json_snapshot!(
            "imported",
            json!({
                "document": document,
                "env": imported.config.env,
                "warnings": imported.warnings,
                "secrets": imported.secrets.keys().collect::<Vec<_>>(),
            })
        );
        let values: Vec<_> = imported.secrets.values().map(|s| s.expose_secret()).collect();
        for plain in [
            "sk-ant-plain",
            "tg-plain",
            "tg-two",
            "fs-plain",
            "maps-plain",
            "hook-plain",
            "search-plain",
            "sk-open-plain",
            "gm-plain",
        ] {
            assert!(values.contains(&plain), "{plain}");
            for contents in imported.files.values() {
                assert!(!String::from_utf8_lossy(contents).contains(plain), "{plain} is still in a file");
            }
        }
        // Every secret is referred to, and every reference has its secret.
        let referred: Vec<_> = imported.config.secrets().map(|r| r.secret.clone()).collect();
        assert!(
            referred.iter().all(|n| imported.secrets.contains_key(n))
                && referred.len() == imported.secrets.len()
        );
    }

    #[test]
    fn what_is_no_home_is_refused() {
        for (files, why) in [
            (vec![], "no openclaw.json"),
            (vec![(FILE, "{")], "could not be read"),
            (vec![(FILE, r#"{"meta":{"lastTouchedVersion":"2027.1.1"}}"#)], "2027.1.1"),
        ] {
            let error = import_(&files).unwrap_err();
            assert!(error.message().contains(why) && error.fix_text().is_some(), "{error}");
        }
    }

    #[test]
    fn copies_of_the_configuration_lose_its_keys_too() {
        let imported =
            import_(&[(FILE, HOME), ("openclaw.json.bak", HOME), ("openclaw.json.bak.1", "{")]).unwrap();
        let clean = &imported.files[Path::new(FILE)];
        for copy in ["openclaw.json.bak", "openclaw.json.bak.1"] {
            assert_eq!(&imported.files[Path::new(copy)], clean, "{copy}");
        }
        assert!(!imported.files.contains_key(Path::new("openclaw.json.last-good")), "there was none");
        assert!(files().contains(&PathBuf::from("openclaw.json.bak.4")));
    }

    #[test]
    fn logins_that_the_gateway_does_not_start_with_are_refused() {
        let error = import_(&[(FILE, HOME), (AUTH_PROFILES, "{\"profiles\":{}}")]).unwrap_err();
        assert_eq!(error.field_name(), Some("import"));
        assert!(error.fix_text().is_some_and(|fix| fix.contains("openclaw doctor --fix")), "{error}");
    }

    #[test]
    fn an_old_home_is_taken_with_a_word() {
        let imported = import_(&[(FILE, r#"{"meta":{"lastTouchedVersion":"2026.2.3"}}"#)]).unwrap();
        assert!(imported.warnings[0].message.contains("2026.2.3"));
    }

    #[test]
    fn only_paths_into_the_old_home_move() {
        for (from, to) in [
            ("~/.openclaw/workspace", Some("~/workspace")),
            ("/home/a/.openclaw", Some("~")),
            ("/home/a/.openclaw/x/../../y", None),
            ("/home/a/work", None),
            ("read ~/.openclaw/x first", None),
            (".openclaw/x", None),
        ] {
            assert_eq!(moved_path(from).as_deref(), to, "{from}");
        }
    }

    #[test]
    fn dot_env_values_lose_their_quotes() {
        for (from, to) in
            [("\"a b\" # c", "a b"), ("'a#b'", "a#b"), ("a#b # c", "a#b"), ("\"x\\ny\"", "x\ny"), ("", "")]
        {
            assert_eq!(unquote(from), to);
        }
    }

    #[test]
    fn fuzz_homes() {
        let seeds = [
            r#"{"meta":{"lastTouchedVersion":"2026.9.6"},"models":{"providers":{"openai":{"apiKey":"sk-x"}}},"channels":{"telegram":{"botToken":"1:a"}}}"#,
            "OPENAI_API_KEY=sk-x\n# c\nexport A='b'\nB=\"c\"\n",
        ];
        clawfarm_fuzz::fuzz_text(&seeds, |text| {
            let _ = import_(&[("openclaw.json", text)]);
            let _ = import_(&[("openclaw.json", "{}"), (".env", text)]);
        });
    }
}
