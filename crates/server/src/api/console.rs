//! `/instances/{id}/console` and `/consoles/{ticket}`: commands inside an instance.

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::response::Response;
use clawfarm_api::{ConsoleRequest, ConsoleTicket, PREFIX};
use clawfarm_model::vm::VmSpec;
use clawfarm_model::{Code, Error, Result};
use clawfarm_runtime::{ExecRequest, TermSize};
use http::StatusCode;

use crate::console::{MESSAGE_MAX, pump};
use crate::error::{ApiError, ApiResult};
use crate::extract::{Ctx, IdText, JsonOrDefault, Segment};
use crate::state::ServerState;

/// The size of a terminal when none is told: that of a VT100.
const COLS_ROWS: (u16, u16) = (80, 24);
/// Arguments in all, in bytes; well below what the kernel takes (128 KiB for one).
const ARGV_MAX: usize = 64 << 10;

/// Asks for a ticket to run a command, or a shell, in an instance. It is good once, for half a
/// minute.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/console", tag = "console",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    request_body(content = ConsoleRequest, example = json!({"argv": ["ls", "-l"]})),
    responses((status = 200, description = "A ticket", body = ConsoleTicket))
)]
pub(super) async fn ticket(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
    JsonOrDefault(request): JsonOrDefault<ConsoleRequest>,
) -> ApiResult<axum::Json<ConsoleTicket>> {
    let setup = request.setup;
    let request = exec_request(request)?;
    let instance = state.control().get(&context, &id.0).await?;
    let named = match (state.peers(), state.control().node()) {
        (Some(peers), Some(own)) => Some(peers.signer.ticket(own)?),
        _ => None,
    };
    let (text, expires_at) =
        state.consoles().issue(context, instance.id.to_string(), request, setup, named)?;
    Ok(axum::Json(ConsoleTicket { path: format!("{PREFIX}/consoles/{text}"), expires_at }))
}

/// Opens the console of a ticket as a WebSocket, which starts the command. The ticket is the
/// credential. Binary messages go both ways: a byte that says what follows (0 standard input,
/// 1 standard output, 2 standard error, 3 new size, 4 end of input, 5 exit code, 6 error), then
/// the bytes.
#[utoipa::path(
    get, path = "/api/v1/consoles/{ticket}", tag = "console", security(()),
    params(("ticket" = inline(IdText), Path, description = "The ticket")),
    responses((status = 101, description = "The console is open"))
)]
pub(super) async fn open(
    State(state): State<ServerState>,
    Segment(ticket): Segment<IdText>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let ticket = state.consoles().redeem(&ticket.0)?;
    let place = state.consoles().place()?;
    let upgrade = upgrade.map_err(|rejection| no_websocket(&rejection))?;
    let (control, request) = (state.control(), ticket.request);
    let (session, using) = match ticket.setup.and_then(|at| usize::try_from(at).ok()) {
        Some(at) => {
            control.exec_setup(&ticket.context, &ticket.instance, at, request.tty, request.term).await?
        }
        None => control.exec(&ticket.context, &ticket.instance, request).await?,
    };
    let stop = state.shutdown().clone();
    Ok(upgrade.max_message_size(MESSAGE_MAX).max_frame_size(MESSAGE_MAX).on_upgrade(
        move |socket| async move {
            let _using = using;
            pump(socket, session, stop, place).await;
        },
    ))
}

pub(super) fn no_websocket(rejection: &WebSocketUpgradeRejection) -> ApiError {
    ApiError::http(
        StatusCode::UPGRADE_REQUIRED,
        "Upgrade required",
        Error::new(Code::InvalidInput, format!("this is a WebSocket: {rejection}"))
            .field("Upgrade")
            .fix("open it as a WebSocket (a console with a new ticket)"),
    )
}

fn exec_request(request: ConsoleRequest) -> Result<ExecRequest> {
    if request.setup.is_some() && !request.argv.is_empty() {
        return Err(Error::invalid("argv", "a setup command and another one can't both be run")
            .fix("leave one of 'setup' and 'argv' out"));
    }
    if let Some(at) = request.setup.filter(|at| usize::try_from(*at).is_ok_and(|at| at >= VmSpec::SETUP_MAX))
    {
        return Err(Error::invalid("setup", format!("no machine has a setup command {at}, counted from 0"))
            .fix(format!("give 0 to {}", VmSpec::SETUP_MAX - 1)));
    }
    if request.argv.iter().any(|argument| argument.contains('\0')) {
        return Err(Error::invalid("argv", "an argument contains a NUL byte").fix("remove it"));
    }
    if request.argv.iter().map(|argument| argument.len() + 1).sum::<usize>() > ARGV_MAX {
        return Err(Error::invalid("argv", "the arguments are longer than 64 KiB")
            .fix("send the rest as standard input"));
    }
    if request.argv.first().is_some_and(String::is_empty) {
        return Err(Error::invalid("argv[0]", "it names no program").fix("give none to have a shell"));
    }
    let size = TermSize {
        cols: side("cols", request.cols, COLS_ROWS.0)?,
        rows: side("rows", request.rows, COLS_ROWS.1)?,
    };
    let term = request.term.map(check_term).transpose()?;
    Ok(ExecRequest { argv: request.argv, tty: request.tty.then_some(size), term })
}

fn side(field: &str, given: Option<u16>, usual: u16) -> Result<u16> {
    let side = given.unwrap_or(usual);
    if (1..=1000).contains(&side) {
        return Ok(side);
    }
    Err(Error::invalid(field, format!("no terminal has {side}")).fix("give 1 to 1000"))
}

fn check_term(term: String) -> Result<String> {
    let good = (1..=64).contains(&term.len())
        && term.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.' | b'_'));
    if good {
        return Ok(term);
    }
    Err(Error::invalid("term", "it is no terminal's type").fix("such as xterm-256color"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_no_process_could_be_started_with_is_refused() {
        let good = ConsoleRequest { argv: vec!["ls".into()], tty: true, ..ConsoleRequest::default() };
        assert_eq!(exec_request(good.clone()).unwrap().tty, Some(TermSize { cols: 80, rows: 24 }));
        let field = |change: fn(&mut ConsoleRequest)| {
            let mut request = good.clone();
            change(&mut request);
            exec_request(request).unwrap_err().field_name().unwrap().to_owned()
        };
        assert_eq!(field(|r| r.argv = vec!["a\0".into()]), "argv");
        assert_eq!(field(|r| r.argv = vec!["a".repeat(70_000)]), "argv");
        assert_eq!(field(|r| r.argv = vec![String::new()]), "argv[0]");
        assert_eq!(field(|r| r.setup = Some(0)), "argv");
        assert_eq!(field(|r| (r.argv, r.setup) = (Vec::new(), Some(64))), "setup");
        assert_eq!(field(|r| r.cols = Some(0)), "cols");
        assert_eq!(field(|r| r.rows = Some(1001)), "rows");
        assert_eq!(field(|r| r.term = Some("x\x1b[".into())), "term");
    }
}
