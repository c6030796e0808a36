//! A JSON body.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use clawfarm_model::{Code, Error};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::form::Form;
use super::strict;
use crate::error::{ApiError, ApiResult};
use crate::layers::BODY_MAX;

/// How long a body may take to arrive.
const READ_LIMIT: Duration = Duration::from_secs(20);

/// A JSON body as `T`, and a hash of what it says.
#[derive(Clone, Debug)]
pub(crate) struct Json<T> {
    pub(crate) value: T,
    /// SHA-256 of the body in canonical form (names sorted, no spaces), in hexadecimal: the
    /// same for two bodies that say the same.
    pub(crate) hash: String,
}

/// A JSON body as `T`; the default when there is none.
#[derive(Clone, Debug)]
pub(crate) struct JsonOrDefault<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> ApiResult<Self> {
        check_type(request.headers())?;
        read(&body(request, state).await?)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for JsonOrDefault<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> ApiResult<Self> {
        let typed = check_type(request.headers());
        let bytes = body(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        typed?;
        read(&bytes).map(|json| Self(json.value))
    }
}

fn refused(status: StatusCode, title: &'static str, message: &str, fix: &str) -> ApiError {
    ApiError::http(status, title, Error::new(Code::InvalidInput, message).field("body").fix(fix))
}

fn too_large() -> ApiError {
    let (title, message) = ("The body is too large", "the body is longer than 1 MiB");
    refused(StatusCode::PAYLOAD_TOO_LARGE, title, message, "send less")
}

async fn body<S: Send + Sync>(request: Request, state: &S) -> ApiResult<Bytes> {
    // Said at once, instead of after what would have been sent up to the limit.
    let told = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if told.is_some_and(|length| length > BODY_MAX as u64) {
        return Err(too_large());
    }
    let read = tokio::time::timeout(READ_LIMIT, Bytes::from_request(request, state)).await;
    match read {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(BytesRejection::FailedToBufferBody(rejection)))
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE =>
        {
            Err(too_large())
        }
        Ok(Err(_)) => Err(refused(
            StatusCode::BAD_REQUEST,
            "The body was cut off",
            "the body was cut off before its end",
            "send it again",
        )),
        Err(_) => Err(refused(
            StatusCode::REQUEST_TIMEOUT,
            "The body took too long",
            "the body did not arrive within 20 s",
            "send it again, faster",
        )),
    }
}

fn check_type(headers: &HeaderMap) -> ApiResult<()> {
    let plain = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if let Some(coding) = headers.get(CONTENT_ENCODING).filter(|value| !plain(value)) {
        // Unpacked, a small body could be of any size.
        let shown: String = String::from_utf8_lossy(coding.as_bytes()).chars().take(60).collect();
        return Err(ApiError::http(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Unsupported media type",
            Error::invalid(
                "Content-Encoding",
                format!("a body packed as '{}' is not taken", shown.escape_default()),
            )
            .fix("send it as it is, without Content-Encoding"),
        ));
    }
    let given = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json") {
        return Ok(());
    }
    let shown: String = given.chars().take(60).flat_map(char::escape_default).collect();
    Err(ApiError::http(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "Unsupported media type",
        Error::invalid("Content-Type", format!("the body is '{shown}', not JSON"))
            .fix("send JSON with 'Content-Type: application/json'"),
    ))
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<Json<T>> {
    let value = strict::parse(bytes).map_err(|refused| match refused.path {
        Some(path) => Error::invalid(path, refused.reason).fix("give each name once, and less nesting"),
        None => {
            Error::invalid("body", format!("it is no JSON: {}", refused.reason)).fix("send a JSON object")
        }
    })?;
    if !value.is_object() {
        return Err(Error::invalid("body", "it is JSON, but no object").fix("send a JSON object").into());
    }
    let hash = hash(&value);
    let value = serde_path_to_error::deserialize(Form(value)).map_err(|error| {
        let (field, message) = field_error(&error.path().to_string(), &error.inner().to_string());
        let field = if field.is_empty() { "body".to_owned() } else { field };
        let error = Error::of_serde(field, &message);
        if error.fix_text().is_some() {
            return error;
        }
        error.fix("the API's description has the fields and their forms: GET /api/v1/openapi.json")
    })?;
    Ok(Json { value, hash })
}

/// The hash of a value in canonical form.
fn hash(value: &Value) -> String {
    let mut text = String::new();
    canonical(value, &mut text);
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a value with its names sorted. (Whether `serde_json` sorts them itself depends on a
/// feature that any other crate may turn on.)
fn canonical(value: &Value, to: &mut String) {
    match value {
        Value::Object(map) => {
            let mut names: Vec<_> = map.keys().collect();
            names.sort_unstable();
            to.push('{');
            for name in names {
                to.push_str(&Value::from(name.as_str()).to_string());
                to.push(':');
                canonical(&map[name], to);
                to.push(',');
            }
            to.push('}');
        }
        Value::Array(items) => {
            to.push('[');
            for item in items {
                canonical(item, to);
                to.push(',');
            }
            to.push(']');
        }
        plain => to.push_str(&plain.to_string()),
    }
}

/// The field at fault and the reason, from what serde says. What was given is left out of the
/// reason when it is text: it may be a secret that was put into the wrong field.
pub(super) fn field_error(path: &str, message: &str) -> (String, String) {
    let mut field = if path == "." { String::new() } else { path.to_owned() };
    for begin in ["unknown field `", "missing field `"] {
        if let Some(name) = message.strip_prefix(begin).and_then(|rest| rest.split('`').next())
            && field.rsplit('.').next() != Some(name)
        {
            if !field.is_empty() {
                field.push('.');
            }
            field.push_str(name);
        }
    }
    let mut message = message.to_owned();
    if let Some(from) = message.find("string \"")
        && let Some(to) = message.rfind("\", expected")
        && from < to
    {
        message.replace_range(from + "string".len()..=to, "");
    }
    (field, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawfarm_api::{CreateInstance, SetSecret};

    fn refused<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> Error {
        let error = read::<T>(text.as_bytes()).expect_err(text);
        error.error().report().into()
    }

    #[test]
    fn each_mistake_names_its_field() {
        for (text, field) in [
            ("", "body"),
            ("[1", "body"),
            ("nonsense", "body"),
            ("[]", "body"),
            ("null", "body"),
            (r#"{"claw_type":"openclaw","colour":"red"}"#, "colour"),
            (r#"{"claw_type":"openclaw","resources":{"cpu":1}}"#, "resources.cpu"),
            (r#"{"claw_type":"openclaw","resources":{"cpus":"many"}}"#, "resources.cpus"),
            (r#"{"claw_type":7}"#, "claw_type"),
            (r#"{"claw_type":"a","claw_type":"b"}"#, "claw_type"),
            (r#"{"claw_type":"a","port":70000}"#, "port"),
            (r#"{"claw_type":"a","port":-1}"#, "port"),
            (r#"{"claw_type":"a","name":"Not A Name"}"#, "name"),
            (r#"{"claw_type":"a","config":{"model":{"provider":"nobody"}}}"#, "config.model.provider"),
            (r#"{"claw_type":"a","config":{"model":{}}}"#, "config.model.provider"),
            (r#"{"claw_type":"a","labels":{"x":1}}"#, "labels.x"),
        ] {
            let error = refused::<CreateInstance>(text);
            assert_eq!(error.field_name(), Some(field), "{text}: {error}");
            assert!(error.fix_text().is_some(), "{text}");
        }
    }

    #[test]
    fn a_secret_in_the_wrong_place_is_not_repeated() {
        let error = refused::<CreateInstance>(r#"{"claw_type":"a","secrets":"sk-very \"secret\""}"#);
        assert!(!error.to_string().contains("very"), "{error}");
        assert_eq!(error.field_name(), Some("secrets"));
        let error = refused::<SetSecret>(r#"{"value":["sk-very"]}"#);
        assert!(!error.to_string().contains("very"), "{error}");
    }

    #[test]
    fn the_hash_is_of_what_it_says() {
        let hash = |text: &str| read::<CreateInstance>(text.as_bytes()).unwrap().hash;
        assert_eq!(hash(r#"{"claw_type":"a","name":"b"}"#), hash("{\"name\": \"b\",\n \"claw_type\":\"a\"}"));
        assert_ne!(hash(r#"{"claw_type":"a","name":"b"}"#), hash(r#"{"claw_type":"a","name":"c"}"#));
    }

    #[test]
    fn fuzz_bodies() {
        let seeds: [&[u8]; 2] = [
            br#"{"claw_type":"openclaw","name":"a","resources":{"cpus":0.5},"config":{"model":{"provider":"openai","api_key":{"secret":"k"}}}}"#,
            br#"{"claw_type":"openclaw","restart":{"mode":"never"},"secrets":{"k":"v"},"labels":{"a":"b"}}"#,
        ];
        clawfarm_fuzz::fuzz(&seeds, |bytes| {
            if let Err(refused) = read::<CreateInstance>(bytes) {
                let error = refused.error();
                assert!(error.field_name().is_some() && error.fix_text().is_some(), "{error}");
            }
        });
    }
}
