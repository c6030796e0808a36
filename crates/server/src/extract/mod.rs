//! What handlers take from a request, each refusing with a problem that names the field.

mod context;
mod form;
mod headers;
mod json;
mod path;
mod query;
mod strict;

pub(crate) use context::{Ctx, IsLocal, OverSocket};
pub(crate) use headers::{IdempotencyKey, IfMatch, LastEventId, WantsStream};
pub(crate) use json::{Json, JsonOrDefault};
pub(crate) use path::{IdText, RevisionOf, Segment, Segments};
pub(crate) use query::Query;
