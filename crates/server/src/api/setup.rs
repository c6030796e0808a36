//! `/instances/{id}/setup`: what becomes of the commands that set a machine up.

use axum::Json as Answer;
use axum::extract::State;
use axum::response::IntoResponse;
use clawfarm_api::{InstanceView, SetupRequest};
use clawfarm_control::{SetupChange, Stuck};
use clawfarm_model::{Error, Result};

use super::instances::tagged;
use crate::error::ApiResult;
use crate::extract::{Ctx, IdText, Json, Segment};
use crate::state::ServerState;

/// Says what is to become of a command that failed, or who runs what is left. The commands
/// themselves are run through consoles (`setup` of `ConsoleRequest`), or by the server.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/setup", tag = "instances",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    request_body(content = SetupRequest, example = json!({"again": 0})),
    responses((status = 200, description = "The instance", body = InstanceView,
        headers(("etag" = String, description = "Its version, for `If-Match`"))))
)]
pub(super) async fn change(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
    Json { value: request, .. }: Json<SetupRequest>,
) -> ApiResult<impl IntoResponse> {
    let instance = Box::pin(state.control().change_setup(&context, &id.0, wanted(request)?)).await?;
    Ok((tagged(&instance), Answer(InstanceView::from(&instance))))
}

fn wanted(request: SetupRequest) -> Result<SetupChange> {
    let at = |at: u32| usize::try_from(at).unwrap_or(usize::MAX);
    let stuck = match (request.ignore, request.again, request.by_server) {
        (Some(step), None, _) => Some(Stuck::Ignore(at(step))),
        (None, Some(step), _) => Some(Stuck::Again(at(step))),
        (None, None, true) => None,
        _ => {
            return Err(Error::invalid(
                "ignore",
                "one of 'ignore' and 'again' is to be said, or 'by_server'",
            )
            .fix("give one of them, such as {\"again\": 0}"));
        }
    };
    Ok(SetupChange { stuck, by_server: request.by_server })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_said_of_a_command() {
        let request = |ignore, again, by_server| wanted(SetupRequest { ignore, again, by_server });
        let is = |stuck, by_server| SetupChange { stuck, by_server };
        assert_eq!(request(Some(1), None, false).unwrap(), is(Some(Stuck::Ignore(1)), false));
        assert_eq!(request(None, Some(0), true).unwrap(), is(Some(Stuck::Again(0)), true));
        assert_eq!(request(None, None, true).unwrap(), is(None, true));
        for wrong in [(None, None, false), (Some(0), Some(0), false), (Some(0), Some(0), true)] {
            let error = request(wrong.0, wrong.1, wrong.2).unwrap_err();
            assert_eq!(error.field_name(), Some("ignore"));
        }
    }
}
