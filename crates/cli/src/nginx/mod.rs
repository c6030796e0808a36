//! nginx before the edge: its configuration, and putting it in place.

mod place;
mod text;

pub(crate) use place::{Nginx, Placed};
pub(crate) use text::Front;
