//! Instances: the rows everything else hangs on.

mod count;
mod create;
mod read;
mod resolve;
mod room;
pub(crate) mod row;
mod update;

pub use create::{Created, Idempotency, NewInstance};
pub use read::InstanceFilter;
pub use room::Room;
pub use update::{Changes, NewKeys};

use clawfarm_model::{Code, Error};
use sea_orm::DbErr;

use crate::error::{db, unique_violation};

/// A failed write of an instance's row: a taken port and a taken id are the caller's to
/// mend by drawing again, and told apart by their field.
fn write_error(error: DbErr, id: &str, port: Option<u16>, target: &str) -> Error {
    match unique_violation(&error) {
        Some(words) if words.contains("port") => Error::new(
            Code::Conflict,
            format!("port {} of target '{target}' is taken by another instance", port.unwrap_or(0)),
        )
        .field("port")
        .fix("give another port, or none to have one chosen")
        .source(error),
        Some(_) => Error::new(Code::Conflict, format!("an instance with the id '{id}' exists already"))
            .field("id")
            .fix("try again: another id is drawn")
            .source(error),
        None => db(error),
    }
}
