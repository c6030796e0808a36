//! What `docker login` has kept for the server's user.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bollard::auth::DockerCredentials;
use clawfarm_model::image::ImageReference;
use serde::Deserialize;

/// How Docker Hub is called in that file.
const HUB: &str = "https://index.docker.io/v1/";

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: HashMap<String, Auth>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identitytoken: Option<String>,
}

/// The credentials for an image's registry, if there are any. Helpers that keep them elsewhere
/// are not asked.
pub(super) async fn of(reference: &ImageReference) -> Option<DockerCredentials> {
    let path = file()?;
    let bytes = tokio::fs::read(&path).await.ok()?;
    match serde_json::from_slice::<File>(&bytes) {
        Ok(file) => find(&file, reference.registry()),
        Err(error) => {
            // Without its text, which is secret.
            tracing::warn!(path = %path.display(), line = error.line(), "it is no file of docker login");
            None
        }
    }
}

fn file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")))?;
    Some(folder.join(Path::new("config.json")))
}

fn find(file: &File, registry: Option<&str>) -> Option<DockerCredentials> {
    let names = match registry {
        None | Some("docker.io") => vec![HUB.to_owned(), "docker.io".to_owned()],
        Some(host) => vec![host.to_owned(), format!("https://{host}"), format!("http://{host}")],
    };
    let (name, auth) = names.iter().find_map(|name| file.auths.get_key_value(name))?;
    let decoded = BASE64_STANDARD.decode(auth.auth.trim()).ok()?;
    let (username, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(DockerCredentials {
        username: Some(username.to_owned()),
        password: Some(password.trim_end_matches('\0').to_owned()),
        serveraddress: Some(name.clone()),
        identitytoken: auth.identitytoken.clone(),
        ..DockerCredentials::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_s_credentials_are_those_of_its_own_name() {
        let text = r#"{"auths":{"ghcr.io":{"auth":"bWU6YTpi"},"https://index.docker.io/v1/":{"auth":"aHViOng="},"broken.example":{"auth":"?"},"helped.example":{}},"credsStore":"x"}"#;
        let file: File = serde_json::from_str(text).unwrap();
        let found = |registry| {
            find(&file, registry).map(|it| (it.username.unwrap_or_default(), it.password.unwrap_or_default()))
        };
        assert_eq!(found(Some("ghcr.io")), Some(("me".into(), "a:b".into())));
        assert_eq!(found(None), Some(("hub".into(), "x".into())));
        for other in ["evil.ghcr.io", "broken.example", "helped.example"] {
            assert_eq!(found(Some(other)), None, "{other}");
        }
    }
}
