//! Cloudflare's DNS, by its API (version 4) and a token that may edit the zone's records.

use std::path::Path;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use clawfarm_model::{Code, Error, Result};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Provider, Record};
use crate::http::Client;

/// Where its API is.
const API: &str = "https://api.cloudflare.com/client/v4";
/// How long others may keep the record, in seconds: the least that it takes.
const TTL: u32 = 60;

/// An account at Cloudflare.
pub struct Cloudflare {
    http: Client,
    api: String,
    /// Read at each use, so that a new token needs no restart.
    token: PathBuf,
}

#[derive(Deserialize)]
struct Answer {
    success: bool,
    #[serde(default)]
    errors: Vec<Told>,
    #[serde(default)]
    result: Value,
}

#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
}

impl Cloudflare {
    /// Code of a record that is there already.
    const EXISTS: i64 = 81_058;

    /// Takes the file with the token, and where the API is when it is not at Cloudflare.
    ///
    /// # Errors
    /// `InvalidInput` when there is no token in the file, or the address is none.
    pub fn new(token: &Path, api: Option<&str>) -> Result<Self> {
        let api = api.unwrap_or(API).trim_end_matches('/').to_owned();
        let uri: http::Uri =
            api.parse().map_err(|_| Error::invalid("acme_dns_api", format!("'{api}' is no address")))?;
        let local = uri.host().is_some_and(|host| host == "localhost" || host == "127.0.0.1");
        if uri.scheme_str() != Some("https") && !local {
            return Err(Error::invalid(
                "acme_dns_api",
                format!("the token would go to '{api}' readable by all on the way"),
            )
            .fix("give an address with https"));
        }
        let this = Self { http: Client::new(None)?, api, token: token.to_owned() };
        this.authorization()?;
        Ok(this)
    }

    fn authorization(&self) -> Result<HeaderValue> {
        let unusable = |why: String| {
            Error::invalid("acme_dns_token_file", format!("{} can't be used: {why}", self.token.display()))
                .fix("put an API token into the file that may edit the DNS of the zone, and nothing else")
        };
        let text = std::fs::read_to_string(&self.token).map_err(|error| unusable(error.to_string()))?;
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(unusable("it holds no token".to_owned()));
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| unusable("it holds no token".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<(StatusCode, Answer)> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.api))
            .header(AUTHORIZATION, self.authorization()?);
        let body = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        let request = request
            .body(Full::new(body))
            .map_err(|error| Error::internal("a request to Cloudflare can't be made", error))?;
        let response = self.http.send(request).await?;
        let status = response.status();
        let answer = serde_json::from_slice(response.body()).map_err(|_| {
            Error::new(Code::Unavailable, format!("Cloudflare answered {status} without saying why"))
        })?;
        Ok((status, answer))
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let (status, answer) = self.call(method, path, body).await?;
        if answer.success {
            return Ok(answer.result);
        }
        Err(refused(status, &answer))
    }

    /// The id of the zone that a name is in: the longest that the token sees.
    async fn zone(&self, name: &str) -> Result<String> {
        let mut at = name;
        loop {
            let found = self.ask(Method::GET, &format!("/zones?name={at}"), None).await?;
            if let Some(id) = found.pointer("/0/id").and_then(Value::as_str) {
                return id_of(id);
            }
            match at.split_once('.') {
                Some((_, above)) if above.contains('.') => at = above,
                _ => {
                    return Err(Error::new(
                        Code::NotFound,
                        format!("Cloudflare has no zone for {name} that the token sees"),
                    )
                    .fix("give the token 'Zone: DNS: Edit' for that zone"));
                }
            }
        }
    }
}

/// What it gives as an id goes into paths.
fn id_of(id: &str) -> Result<String> {
    if !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Ok(id.to_owned());
    }
    Err(Error::new(Code::Unavailable, "Cloudflare gave an id that is none"))
}

fn refused(status: StatusCode, answer: &Answer) -> Error {
    let told: Vec<String> = answer.errors.iter().map(|it| format!("{} ({})", it.message, it.code)).collect();
    Error::new(Code::Unavailable, format!("Cloudflare refused ({status}): {}", told.join(", ")))
        .fix("see whether the token may edit the DNS of the zone, and has not run out")
}

#[async_trait]
impl Provider for Cloudflare {
    async fn present(&self, record: &Record) -> Result<()> {
        let zone = self.zone(&record.domain).await?;
        let body = json!({
            "type": "TXT", "name": record.name, "content": format!("\"{}\"", record.value), "ttl": TTL,
            "comment": "clawfarm: proof for a certificate, removed after it",
        });
        let (status, answer) =
            self.call(Method::POST, &format!("/zones/{zone}/dns_records"), Some(body)).await?;
        if answer.success || answer.errors.iter().any(|it| it.code == Self::EXISTS) {
            return Ok(());
        }
        Err(refused(status, &answer))
    }

    async fn clean_up(&self, record: &Record) -> Result<()> {
        let zone = self.zone(&record.domain).await?;
        let path = format!("/zones/{zone}/dns_records?type=TXT&name={}", record.name);
        let found = self.ask(Method::GET, &path, None).await?;
        for there in found.as_array().into_iter().flatten() {
            let content = there.get("content").and_then(Value::as_str).unwrap_or_default();
            let Some(id) = there.get("id").and_then(Value::as_str) else { continue };
            if content.trim_matches('"') == record.value {
                self.ask(Method::DELETE, &format!("/zones/{zone}/dns_records/{}", id_of(id)?), None).await?;
            }
        }
        Ok(())
    }
}
