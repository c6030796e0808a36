//! The removal of several things at once, which is no operation of the server's.

use clawfarm_model::Error;
use serde::Serialize;

use crate::app::App;
use crate::errors::{Failure, OK, Outcome, exit_code, tell_error};

/// Removes one after the other, and tells what went, by `line`, and what did not. One that can't be
/// removed keeps no other from it; its exit code is the command's.
pub(crate) async fn remove<T: Serialize>(
    app: &App,
    all: &[T],
    remove_one: impl AsyncFn(&T) -> Result<(), Error>,
    line: impl Fn(&T) -> String,
) -> Outcome {
    let (mut removed, mut first_error) = (Vec::new(), None);
    for one in all {
        match remove_one(one).await {
            Ok(()) => removed.push(one),
            Err(error) => {
                tell_error(&app.ui, &error);
                first_error.get_or_insert(exit_code(error.code()));
            }
        }
    }
    if app.ui.json {
        app.ui.document(&serde_json::json!({ "removed": removed }))?;
    } else {
        for one in removed {
            app.ui.line(line(one))?;
        }
    }
    first_error.map_or(Ok(OK), |code| Err(Failure::Told(code)))
}
