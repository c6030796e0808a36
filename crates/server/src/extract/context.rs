//! Who asks.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use clawfarm_model::{Code, Context, Error};
use http::request::Parts;

use crate::error::ApiError;

/// The context that the authentication layer put in.
#[derive(Clone, Debug)]
pub(crate) struct Ctx(pub(crate) Context);

impl<S: Send + Sync> FromRequestParts<S> for Ctx {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // Absent only when a route was added outside of the layer; then nobody gets in.
        parts
            .extensions
            .get::<Context>()
            .cloned()
            .map(Self)
            .ok_or_else(|| Error::new(Code::Internal, "a route lacks the authentication layer").into())
    }
}

/// Put into the requests that come over the unix socket: whoever opened it is the server's own
/// user (or root), and sees the same files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OverSocket;

/// Whether the caller sits at this machine as the server's own user.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IsLocal(pub(crate) bool);

impl<S: Send + Sync> FromRequestParts<S> for IsLocal {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get::<OverSocket>().is_some()))
    }
}
