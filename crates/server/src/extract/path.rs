//! What stands in a path.

use std::str::FromStr;

use axum::extract::{FromRequestParts, RawPathParams};
use clawfarm_model::{Code, ConfigName, Error};
use http::request::Parts;
use utoipa::PartialSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use crate::error::ApiError;

/// The one parameter of a path, checked.
#[derive(Clone, Debug)]
pub(crate) struct Segment<T>(pub(crate) T);

impl<S: Send + Sync, T: FromStr<Err = Error>> FromRequestParts<S> for Segment<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let parameters = RawPathParams::from_request_parts(parts, state).await.map_err(|_| no_text())?;
        let (_, value) = parameters
            .iter()
            .next()
            .ok_or_else(|| Error::new(Code::Internal, "a route lacks its parameter"))?;
        Ok(Self(value.parse()?))
    }
}

/// The instance and the message of a path, checked.
#[derive(Clone, Debug)]
pub(crate) struct Segments(pub(crate) IdText, pub(crate) IdText);

impl<S: Send + Sync> FromRequestParts<S> for Segments {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Segment(id) = Segment::<IdText>::from_request_parts(parts, state).await?;
        let parameters = RawPathParams::from_request_parts(parts, state).await.map_err(|_| no_text())?;
        let (_, message) = parameters
            .iter()
            .nth(1)
            .ok_or_else(|| Error::new(Code::Internal, "a route lacks its second parameter"))?;
        Ok(Self(id, message.parse::<IdText>().map_err(|error| error.field("message"))?))
    }
}

/// The configuration and the number of a revision in a path, checked.
#[derive(Clone, Debug)]
pub(crate) struct RevisionOf(pub(crate) ConfigName, pub(crate) i64);

impl<S: Send + Sync> FromRequestParts<S> for RevisionOf {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Segment(name) = Segment::<ConfigName>::from_request_parts(parts, state).await?;
        let parameters = RawPathParams::from_request_parts(parts, state).await.map_err(|_| no_text())?;
        let number = parameters.iter().nth(1).and_then(|(_, text)| text.parse::<i64>().ok());
        let number = number.filter(|number| *number > 0).ok_or_else(|| {
            Error::invalid("number", "this is no number of a revision").fix("give a number from 1")
        })?;
        Ok(Self(name, number))
    }
}

fn no_text() -> Error {
    Error::new(Code::InvalidInput, "the path is no UTF-8 text").field("path").fix("escape it as UTF-8")
}

/// An id, a unique name or a unique prefix of one, or a ticket: text that is looked up.
#[derive(Clone, Debug)]
pub(crate) struct IdText(pub(crate) String);

impl IdText {
    /// Longer than any id, name or ticket.
    const MAX: usize = 64;
}

/// The rule of [`IdText`], for the API's description.
impl PartialSchema for IdText {
    fn schema() -> utoipa::openapi::RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^[A-Za-z0-9_-]+$"))
            .min_length(Some(1))
            .max_length(Some(Self::MAX))
            .into()
    }
}

impl utoipa::ToSchema for IdText {}

impl FromStr for IdText {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let good = (1..=Self::MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if good {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(60).flat_map(char::escape_default).collect();
        Err(Error::invalid("id", format!("'{shown}' can't be an id, nor the beginning of one"))
            .fix("use 1 to 64 letters, digits, '-' and '_'; GET the list to see the ids there are"))
    }
}
