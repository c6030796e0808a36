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
    // Read as if it were absent otherwise; whoever sends `limit=$N` with no N wants to know.
    if let Some(name) = query.split('&').find_map(|pair| pair.strip_suffix('=')) {
        let shown: String = name.chars().take(60).flat_map(char::escape_default).collect();
        return Err(Error::invalid(shown, "it is empty").fix("give a value, or leave it out"));
    }
    let deserializer = serde_html_form::Deserializer::from_bytes(query.as_bytes());
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let (field, message) = field_error(&error.path().to_string(), &error.inner().to_string());
        let times = query.split('&').filter(|pair| pair.split('=').next() == Some(field.as_str())).count();
        // What the form's reader says of a list where one value is wanted.
        let message = if times > 1 && message == "unsupported value" {
            "it is given more than once".to_owned()
        } else {
            message
        };
        let error = Error::of_serde(if field.is_empty() { "query".to_owned() } else { field }, &message);
        if error.fix_text().is_some() {
            return error;
        }
        error.fix("the API's description has the names and forms: GET /api/v1/openapi.json")
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
        assert_eq!(field("phase=ready&limit="), "limit");
        assert_eq!(field("target="), "target");
        assert_eq!(field("target=No+Target"), "target");
        let error = parse::<EventsQuery>("follow=perhaps").unwrap_err();
        assert_eq!(error.field_name(), Some("follow"));
        assert_eq!(parse::<LogsQuery>("since=yesterday").unwrap_err().field_name(), Some("since"));
    }

    #[test]
    fn fuzz_queries() {
        let seeds =
            ["limit=5&label=a%3Db&phase=ready", "after=7&follow=true", "since=2026-11-21T07:36:40Z&tail=3"];
        clawfarm_fuzz::fuzz_text(&seeds, |text| {
            for refused in [
                parse::<InstanceQuery>(text).err(),
                parse::<EventsQuery>(text).err(),
                parse::<LogsQuery>(text).err(),
            ] {
                assert!(refused.is_none_or(|e| e.field_name().is_some() && e.fix_text().is_some()));
            }
        });
    }
}
