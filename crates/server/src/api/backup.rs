//! `/instances/{id}/backup` and `/restore`: archives of instances.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use clawfarm_api::{ARCHIVE_TYPE, Accepted, RestoreQuery};
use clawfarm_control::{NewRestore, Place};
use clawfarm_model::{Code, Error};
use futures::{StreamExt, TryStreamExt};
use http::HeaderMap;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};
use utoipa::ToSchema;

use super::instances::made;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Ctx, IdText, IdempotencyKey, Query, Segment};
use crate::state::ServerState;

/// An archive of an instance.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "it stands in the description alone")]
pub(super) struct ArchiveFile(Vec<u8>);

/// Makes an archive of an instance: its data at one moment, and what is needed to make it again.
/// One that is up finishes its work, is frozen for as long as its data is copied, and goes on. The
/// answer begins when the copy is there. The archive holds the claw's keys. What does not end with
/// its closing frame is no archive, and can't be restored.
#[utoipa::path(
    post, path = "/api/v1/instances/{id}/backup", tag = "instances",
    params(("id" = inline(IdText), Path, description = "Its id, its name when that is unique, or a unique prefix")),
    responses((status = 200, description = "The archive, a `.tar.zst`", body = ArchiveFile,
        content_type = "application/zstd"))
)]
pub(super) async fn backup(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Segment(id): Segment<IdText>,
) -> ApiResult<Response> {
    let archive = state.control().back_up(&context, &id.0).await?;
    let name = HeaderValue::from_str(&format!("attachment; filename=\"{}.tar.zst\"", archive.id))
        .map_err(|error| Error::internal("the archive's name can't be sent", error))?;
    // A server that ends does not wait for whoever reads slowly.
    let stop = state.shutdown().clone().cancelled_owned();
    let ended = || Err(Error::new(Code::Unavailable, "the server ends"));
    let until = futures::stream::once(stop).map(move |()| ended());
    let bytes = futures::stream::select(
        archive.bytes.map(Some).chain(futures::stream::iter([None])),
        until.map(Some),
    );
    // The end of the archive, and an error, are the end.
    let bytes = bytes.take_while(|piece| std::future::ready(piece.is_some())).filter_map(std::future::ready);
    let headers = [(CONTENT_TYPE, HeaderValue::from_static(ARCHIVE_TYPE)), (CONTENT_DISPOSITION, name)];
    Ok((headers, Body::from_stream(bytes.map_err(|error| error.message().to_owned()))).into_response())
}

/// Makes a new instance of an archive, with an id, a port and a gateway token of its own. The
/// archive is read to its end and checked before anything is made of it; one that is damaged, cut
/// off or not one that a backup wrote is refused whole.
#[utoipa::path(
    post, path = "/api/v1/restore", tag = "instances",
    params(
        RestoreQuery,
        ("idempotency-key" = inline(IdempotencyKey), Header, description = "The caller's name for this request"),
    ),
    request_body(content = ArchiveFile, content_type = "application/zstd", description = "The archive"),
    responses((status = 201, description = "It is being made", body = Accepted, headers(
        ("location" = String, description = "The instance"),
        ("etag" = String, description = "Its version"))))
)]
pub(super) async fn restore(
    State(state): State<ServerState>,
    Ctx(context): Ctx,
    Query(query): Query<RestoreQuery>,
    key: IdempotencyKey,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<impl IntoResponse> {
    let given = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    if given != Some(ARCHIVE_TYPE.as_bytes()) {
        return Err(ApiError::http(
            http::StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "The body is no archive",
            Error::invalid("Content-Type", "the body is not said to be an archive")
                .fix(format!("send the file of a backup with 'Content-Type: {ARCHIVE_TYPE}'")),
        ));
    }
    let place = state.control().place_for(&context, query.runtime, query.target.as_ref()).await?;
    if let Place::There { peer, address } = place {
        // An archive is not passed on: it may be larger than all that this server has room for.
        return Err(Error::new(Code::Unavailable, format!("only server '{}' can make that", peer.node))
            .field("target")
            .fix(format!("send the archive there: {}", crate::plain_address(&address)))
            .into());
    }
    let wanted = NewRestore {
        name: query.name,
        runtime: query.runtime,
        target: query.target,
        overcommit: query.overcommit,
    };
    let pieces = body.into_data_stream().map_err(|error| {
        Error::invalid("archive", "the archive was cut off on its way").fix("send it again").source(error)
    });
    Ok(made(state.control().restore(&context, wanted, key.key(), pieces).await?))
}
