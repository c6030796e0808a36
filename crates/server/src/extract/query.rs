//! What stands after the `?`.

use axum::extract::FromRequestParts;
use clawfarm_model::{Error, Result};
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::json::field_error;
use crate::error::ApiError;

/// The query as `T`. Unknown names are refused when `T` denies them.
#[derive(Clone, Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parse(parts.uri.query().unwrap_or_default()).map(Self).map_err(Into::into)
    }
}

fn parse<T: DeserializeOwned>(query: &str) -> Result<T> {
    let deserializer = serde_html_form::Deserializer::from_bytes(query.as_bytes());
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let (field, message) = field_error(&error.path().to_string(), &error.inner().to_string());
        Error::invalid(if field.is_empty() { "query".to_owned() } else { field }, message)
            .fix("the API's description has the names and forms: GET /api/v1/openapi.json")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawfarm_api::{EventsQuery, InstanceQuery, LogsQuery};

    #[test]
    fn reads_numbers_words_and_repeated_names() {
        let query: InstanceQuery = parse("limit=5&label=a%3Db&label=c=d&phase=ready").unwrap();
        assert_eq!((query.limit, query.label.len()), (Some(5), 2));
        assert!(query.phase.is_some());
        assert!(parse::<LogsQuery>("follow=true&since=2026-11-21T07:36:40Z").unwrap().follow);
        assert_eq!(parse::<InstanceQuery>("").unwrap(), InstanceQuery::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let field = |query: &str| {
            let error = parse::<InstanceQuery>(query).expect_err(query);
            error.field_name().unwrap().to_owned()
        };
        assert_eq!(field("limit=many"), "limit");
        assert_eq!(field("limit=-1"), "limit");
        assert_eq!(field("limit=1&limit=2"), "limit");
        assert_eq!(field("phase=sleepy"), "phase");
        assert_eq!(field("colour=red"), "colour");
        assert_eq!(field("target=No+Target"), "target");
        let error = parse::<EventsQuery>("follow=perhaps").unwrap_err();
        assert_eq!(error.field_name(), Some("follow"));
        assert_eq!(parse::<LogsQuery>("since=yesterday").unwrap_err().field_name(), Some("since"));
    }
}
