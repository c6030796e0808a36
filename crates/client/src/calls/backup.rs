//! Archives of instances.

use std::time::Duration;

use bytes::Bytes;
use clawfarm_api::{ARCHIVE_TYPE, Accepted, RestoreQuery};
use clawfarm_model::{Code, Error, Result};
use futures::stream::{self, BoxStream, StreamExt};
use http_body_util::BodyExt;

use crate::Client;
use crate::http::Call;

/// How long an instance may take to finish its work, and its data to be copied.
const COPY_LIMIT: Duration = Duration::from_secs(35 * 60);
/// How long the server may take for the next piece.
const SILENCE_MAX: Duration = Duration::from_secs(120);

impl Client {
    /// Makes an archive of an instance, and streams it. An archive is whole when the stream has
    /// ended without an error and its closing frame is there.
    ///
    /// # Errors
    /// See [`Client`]. One that breaks off ends the stream with an error.
    pub async fn backup(&self, id: &str) -> Result<BoxStream<'static, Result<Bytes>>> {
        let call =
            Call::post(&["instances", id, "backup"]).limit(COPY_LIMIT).header("accept", ARCHIVE_TYPE)?;
        let body = self.open(call).await?;
        let pieces = stream::unfold(Some(body), |body| async {
            let mut body = body?;
            loop {
                let frame = match tokio::time::timeout(SILENCE_MAX, body.frame()).await {
                    Ok(Some(Ok(frame))) => frame,
                    Ok(Some(Err(error))) => return Some((Err(cut_off().source(error)), None)),
                    Ok(None) => return None,
                    Err(_) => return Some((Err(cut_off()), None)),
                };
                if let Ok(piece) = frame.into_data() {
                    return Some((Ok(piece), Some(body)));
                }
            }
        });
        Ok(pieces.boxed())
    }

    /// Makes a new instance of an archive of `length` bytes. The server answers when it has read
    /// all of it and found it whole.
    ///
    /// # Errors
    /// See [`Client`]; `InvalidInput` on `archive` for one that is not taken.
    pub async fn restore(
        &self,
        query: &RestoreQuery,
        length: u64,
        archive: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<Accepted> {
        self.upload(Call::post(&["restore"]).query(query)?, ARCHIVE_TYPE, length, archive).await
    }
}

fn cut_off() -> Error {
    Error::new(
        Code::Unavailable,
        "the archive was cut off: the server, or the way to it, is gone, or its disk is full",
    )
    .fix("see the server's log, then try again: nothing was kept of it")
}
