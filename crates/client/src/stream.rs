//! Event streams as streams of typed items.

use std::collections::VecDeque;
use std::time::Duration;

use clawfarm_api::stream::{ANSWER, BUILD, END, ERROR, EVENT, LOG};
use clawfarm_api::{EndReason, Problem, StreamEnd};
use clawfarm_model::error::ErrorReport;
use clawfarm_model::{Code, Error, Result};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use crate::sse::{Parser, SseEvent};

/// Items of an event stream. It ends after its last item, or after an error.
pub type ItemStream<T> = BoxStream<'static, Result<T>>;

/// The server sends a comment every 15 s when it has nothing else to send; nothing for four
/// times as long means that it, or the way to it, is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What one event of a stream means.
#[derive(Debug, PartialEq, Eq)]
enum Meaning<T> {
    Item(T),
    Failed(ErrorReport),
    Ended(EndReason),
    /// Of a kind that this client does not know yet.
    Unknown,
}

/// Reads `body` as a stream of `T`.
pub(crate) fn items<T: DeserializeOwned + Send + 'static>(body: Incoming) -> ItemStream<T> {
    let state = Reader { body, parser: Parser::new(), ready: VecDeque::new(), done: false };
    stream::unfold(state, |mut reader| async move {
        let item = reader.next().await?;
        reader.done |= item.is_err();
        Some((item, reader))
    })
    .boxed()
}

struct Reader {
    body: Incoming,
    parser: Parser,
    ready: VecDeque<SseEvent>,
    done: bool,
}

impl Reader {
    async fn next<T: DeserializeOwned>(&mut self) -> Option<Result<T>> {
        while !self.done {
            let Some(event) = self.ready.pop_front() else {
                match self.fill().await {
                    Ok(()) => continue,
                    Err(error) => return Some(Err(error)),
                }
            };
            match meaning(&event) {
                Meaning::Item(item) => return Some(Ok(item)),
                Meaning::Failed(report) => return Some(Err(report.into())),
                Meaning::Ended(EndReason::Complete) => self.done = true,
                Meaning::Ended(EndReason::Shutdown) => return Some(Err(stopped())),
                Meaning::Unknown => {}
            }
        }
        None
    }

    async fn fill(&mut self) -> Result<()> {
        let cut = || Error::new(Code::Unavailable, "the server's stream was cut off before its end");
        let frame = tokio::time::timeout(SILENCE_MAX, self.body.frame()).await.map_err(|_| {
            Error::new(Code::Unavailable, format!("the server was silent for {} s", SILENCE_MAX.as_secs()))
        })?;
        let frame = frame.ok_or_else(cut)?.map_err(|error| cut().source(error))?;
        let mut events = Vec::new();
        if let Some(bytes) = frame.data_ref() {
            self.parser.push(bytes, &mut events).map_err(|why| Error::new(Code::Internal, why))?;
        }
        self.ready.extend(events);
        Ok(())
    }
}

fn stopped() -> Error {
    Error::new(Code::Unavailable, "the server was stopped").fix("ask again when it is back")
}

fn meaning<T: DeserializeOwned>(event: &SseEvent) -> Meaning<T> {
    match event.kind.as_str() {
        EVENT | LOG | ANSWER | BUILD => match serde_json::from_str(&event.data) {
            Ok(item) => Meaning::Item(item),
            Err(error) => Meaning::Failed(strange(&error)),
        },
        ERROR => Meaning::Failed(
            serde_json::from_str::<Problem>(&event.data)
                .map_or_else(|error| strange(&error), |problem| Error::from(problem).report()),
        ),
        END => Meaning::Ended(
            serde_json::from_str::<StreamEnd>(&event.data).map_or(EndReason::Complete, |end| end.reason),
        ),
        _ => Meaning::Unknown,
    }
}

fn strange(error: &serde_json::Error) -> ErrorReport {
    Error::new(Code::Internal, format!("the server's stream is not understood: {error}"))
        .fix("make client and server the same version: 'clawfarm version'")
        .report()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawfarm_api::SendEvent;

    fn of(kind: &str, data: &str) -> Meaning<SendEvent> {
        meaning(&SseEvent { kind: kind.into(), id: None, data: data.into() })
    }

    #[test]
    fn each_kind_of_event_has_its_meaning() {
        let text = SendEvent::Text { text: "hi".into() };
        assert_eq!(of("answer", r#"{"type":"text","text":"hi"}"#), Meaning::Item(text));
        assert_eq!(of("end", r#"{"reason":"shutdown"}"#), Meaning::Ended(EndReason::Shutdown));
        assert_eq!(of("end", "{}"), Meaning::Ended(EndReason::Complete));
        assert_eq!(of("later", "?"), Meaning::Unknown);
        let given = Error::new(Code::Busy, "it works").fix("wait");
        let problem = serde_json::to_string(&Problem::new(&given, "r")).unwrap();
        assert_eq!(of("error", &problem), Meaning::Failed(given.report()));
        assert!(matches!(of("answer", "[]"), Meaning::Failed(report) if report.code == Code::Internal));
    }
}
