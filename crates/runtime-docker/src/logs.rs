//! What a claw printed, as the engine keeps it.

use std::sync::Arc;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use clawfarm_model::{ClawId, Code, Error, Result, Timestamp};
use clawfarm_runtime::{LogLine, LogQuery, LogStream, OutputStream};
use futures::{Stream, StreamExt};

use crate::fault::failed;
use crate::inner::Inner;
use crate::observe;

/// How many of a claw's last lines are told with its end.
const TAIL: usize = 20;
/// How often they are asked for, and the pause before the next time.
const TAIL_TRIES: usize = 20;
const TAIL_PAUSE: Duration = Duration::from_millis(100);
/// The longest line that is passed on whole, in bytes: more of it is cut off.
const LINE: usize = 64 * 1024;

/// [`clawfarm_runtime::Logs::logs`].
pub(crate) async fn logs(inner: &Arc<Inner>, id: &ClawId, query: LogQuery) -> Result<LogStream> {
    if observe::container(inner, id).await?.is_none() {
        return Err(Error::new(Code::NotFound, format!("'{id}' has not printed anything yet"))
            .fix(format!("start it with `clawfarm start {id}`")));
    }
    Ok(read(inner, id, query).await?.boxed())
}

async fn read(
    inner: &Inner,
    id: &ClawId,
    query: LogQuery,
) -> Result<impl Stream<Item = Result<LogLine>> + Send + 'static> {
    let client = inner.engine.docker().await?;
    let name = inner.container(id);
    // The engine takes whole seconds; what is in that second and before is left out here.
    let since = query.since.map_or(0, |at| i32::try_from(at.as_millis() / 1000).unwrap_or(i32::MAX));
    let tail = query.tail.map_or_else(|| "all".to_owned(), |count| count.to_string());
    let options = LogsOptionsBuilder::default()
        .follow(query.follow)
        .stdout(true)
        .stderr(true)
        .timestamps(true)
        .since(since)
        .tail(&tail)
        .build();
    let (sender, receiver) = tokio::sync::mpsc::channel(256);
    let ending = inner.ending.clone();
    let claw = id.clone();
    // The engine's stream borrows its client.
    tokio::spawn(async move {
        let mut pieces = client.logs(&name, Some(options));
        let mut lines = Lines::default();
        loop {
            let piece = tokio::select! {
                () = ending.cancelled() => return,
                () = sender.closed() => return,
                piece = pieces.next() => piece,
            };
            let found: Vec<Result<LogLine>> = match piece {
                Some(Ok(piece)) => lines.take(piece).into_iter().map(Ok).collect(),
                Some(Err(error)) => vec![Err(failed(format!("read what '{claw}' printed"), error))],
                None => return,
            };
            for line in found {
                let wanted =
                    line.as_ref().map_or(true, |l| query.since.is_none_or(|since| is_since(l.at, since)));
                if wanted && sender.send(line).await.is_err() {
                    return;
                }
            }
        }
    });
    Ok(futures::stream::unfold(receiver, |mut lines| async move { Some((lines.recv().await?, lines)) }))
}

/// Whether a line was printed at this time or later, as far as is known: Podman tells whole
/// seconds, and what was printed in the second of `since` is rather told than lost.
fn is_since(at: Timestamp, since: Timestamp) -> bool {
    let latest = if at.as_millis() % 1000 == 0 { at.as_millis() + 999 } else { at.as_millis() };
    latest >= since.as_millis()
}

/// The last lines, for the record of an end; none when they can't be had. Asked for again when
/// there are none: on a busy machine the engine tells of an end before it can tell what was said
/// last, and few claws end without a word.
pub(crate) async fn tail(inner: &Inner, id: &ClawId) -> String {
    for _ in 0..TAIL_TRIES {
        let lines = last_lines(inner, id).await;
        if !lines.is_empty() {
            return lines;
        }
        tokio::time::sleep(TAIL_PAUSE).await;
    }
    String::new()
}

async fn last_lines(inner: &Inner, id: &ClawId) -> String {
    let query = LogQuery { since: None, tail: Some(TAIL), follow: false };
    let lines = match read(inner, id, query).await {
        Ok(lines) => lines,
        Err(error) => {
            tracing::debug!(%id, ?error, "what it said last can't be read");
            return String::new();
        }
    };
    let lines: Vec<String> = lines
        .filter_map(|line| async {
            line.inspect_err(|error| tracing::debug!(%id, ?error, "what it said last can't be read")).ok()
        })
        .map(|line| line.text.chars().filter(|c| !c.is_control() || *c == '\t').collect())
        .collect()
        .await;
    lines.join("\n")
}

/// The engine's pieces as lines. As a rule each is one line, with its time before it.
#[derive(Default)]
struct Lines {
    rest: [Vec<u8>; 2],
}

impl Lines {
    fn take(&mut self, piece: LogOutput) -> Vec<LogLine> {
        let stream = match &piece {
            LogOutput::StdErr { .. } => OutputStream::Stderr,
            _ => OutputStream::Stdout,
        };
        let rest = &mut self.rest[usize::from(stream == OutputStream::Stderr)];
        rest.extend_from_slice(&piece.into_bytes());
        let mut lines = Vec::new();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            lines.push(line_of(&line[..end], stream));
        }
        if rest.len() > LINE {
            lines.push(line_of(&std::mem::take(rest), stream));
        }
        lines
    }
}

fn line_of(bytes: &[u8], stream: OutputStream) -> LogLine {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LINE)]);
    let text = text.trim_end_matches('\r');
    let (at, text) = match text.split_once(' ').map(|(at, text)| (Timestamp::parse(at), text)) {
        Some((Ok(at), text)) => (at, text),
        // A line without a word has its time alone.
        _ => match Timestamp::parse(text) {
            Ok(at) => (at, ""),
            Err(_) => (Timestamp::now(), text),
        },
    };
    LogLine { at, stream, text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_lines_with_their_times() {
        let mut lines = Lines::default();
        let out = |text: &'static str| LogOutput::StdOut { message: text.into() };
        assert!(lines.take(out("2026-11-21T10:00:00.123456789Z hel")).is_empty());
        let error = LogOutput::StdErr { message: "2026-11-21T10:00:01Z oh\n".into() };
        assert_eq!(lines.take(error)[0].stream, OutputStream::Stderr);
        let found = lines.take(out("lo\n2026-11-21T10:00:02Z \n"));
        let texts: Vec<_> = found.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["hello", ""]);
        assert_eq!(found[0].at, Timestamp::parse("2026-11-21T10:00:00.123Z").unwrap());
    }

    #[test]
    fn a_time_of_whole_seconds_may_be_any_in_its_second() {
        let at = |text| Timestamp::parse(text).unwrap();
        let since = at("2026-11-21T10:00:01.500Z");
        for (line, told) in [
            ("2026-11-21T10:00:01Z", true),
            ("2026-11-21T10:00:00Z", false),
            ("2026-11-21T10:00:01.499Z", false),
            ("2026-11-21T10:00:01.500Z", true),
        ] {
            assert_eq!(is_since(at(line), since), told, "{line}");
        }
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut lines = Lines::default();
        let found = lines.take(LogOutput::StdOut { message: vec![b'x'; 2 * LINE].into() });
        assert_eq!((found.len(), found[0].text.len()), (1, LINE));
    }
}
