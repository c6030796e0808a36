//! What a claw printed, read from the files its shim keeps and rotates.

mod reader;

use std::path::Path;
use std::time::Duration;

use clawfarm_model::{ClawId, Code, Error, Result};
use clawfarm_runtime::{LogLine, LogQuery, LogStream};
use futures::StreamExt;
use tokio::sync::mpsc;

use clawfarm_files::{blocking, io_error};
use reader::Reader;

/// How often a followed log is looked at: no claw is read faster than that by a person.
const POLL: Duration = Duration::from_millis(200);
/// How many lines wait for a slow reader.
const LINES: usize = 256;

/// [`clawfarm_runtime::Logs::logs`] of the instance in a folder.
///
/// # Errors
/// `NotFound` when there is no folder, or nothing was printed and nothing is waited for.
pub async fn logs(dir: &Path, id: &ClawId, query: LogQuery) -> Result<LogStream> {
    let dir = dir.to_owned();
    if !dir.exists() {
        return Err(Error::not_found("instance", id));
    }
    let reader = blocking({
        let (dir, id) = (dir.clone(), id.clone());
        move || Reader::open(&dir, query).map_err(|e| unreadable(&id, e))
    })
    .await?;
    if !reader.found_any() && !query.follow {
        return Err(Error::new(Code::NotFound, format!("'{id}' has not printed anything yet"))
            .fix(format!("start it with `clawfarm start {id}`, or wait with `clawfarm logs -f {id}`")));
    }
    let (sender, receiver) = mpsc::channel(LINES);
    let id = id.clone();
    tokio::spawn(async move {
        if let Err(error) = send_all(reader, query, &id, &sender).await {
            // Whoever read this went away, or gets the reason.
            let _ = sender.send(Err(error)).await;
        }
    });
    let lines =
        futures::stream::unfold(receiver, |mut lines| async move { Some((lines.recv().await?, lines)) });
    Ok(lines.boxed())
}

async fn send_all(
    mut reader: Reader,
    query: LogQuery,
    id: &ClawId,
    sender: &mpsc::Sender<Result<LogLine>>,
) -> Result<()> {
    loop {
        let claw = id.clone();
        let (back, batch) = blocking(move || {
            let batch = reader.next_batch().map_err(|e| unreadable(&claw, e))?;
            Ok((reader, batch))
        })
        .await?;
        reader = back;
        let nothing = batch.is_empty();
        for line in batch {
            if sender.send(Ok(line)).await.is_err() {
                return Ok(());
            }
        }
        if !nothing {
            continue;
        }
        if !query.follow || !reader.folder_exists() {
            return Ok(());
        }
        tokio::select! {
            () = sender.closed() => return Ok(()),
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

fn unreadable(id: &ClawId, error: std::io::Error) -> Error {
    io_error(format!("read what '{id}' printed"), error)
}
