//! `/events` and `/instances/{id}/events`.

use std::time::Duration;

use clawfarm_api::{EventList, EventsQuery};
use clawfarm_model::event::Event;
use clawfarm_model::{Code, Error, Result};
use futures::StreamExt;
use futures::stream;
use tokio::time::{Instant, sleep};

use crate::Client;
use crate::http::Call;
use crate::stream::{ItemStream, items};

/// How long a lost server is looked for until the follower is told.
const LOST_MAX: Duration = Duration::from_secs(60);
/// The pause before the first attempt to reach it again; doubled each time.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_secs(5);

impl Client {
    /// Events, of one instance or of all.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn events(&self, instance: Option<&str>, query: EventsQuery) -> Result<EventList> {
        let query = EventsQuery { follow: false, ..query };
        self.call(events_call(instance, query)?).await
    }

    /// Events as they happen, after those that `query` asks for. When the connection breaks
    /// or the server is stopped, it is looked for again for a minute, and the stream goes on
    /// after the last event that was seen: none is lost and none comes twice.
    ///
    /// Only where it comes back so late that the server keeps some of them no more, an error
    /// `Gone` comes in their place. Whoever keeps a picture of the fleet reads it afresh then;
    /// the stream goes on after it, with all that is left and was not seen.
    ///
    /// # Errors
    /// See [`Client`]; `Gone` at once when `query` asks for what is kept no more. What can't be
    /// mended later comes through the stream and ends it.
    pub async fn follow_events(
        &self,
        instance: Option<&str>,
        query: EventsQuery,
    ) -> Result<ItemStream<Event>> {
        let mut follower = Follower {
            client: self.clone(),
            instance: instance.map(str::to_owned),
            query: EventsQuery { follow: true, ..query },
            stream: None,
            seen: 0,
            done: false,
        };
        follower.stream = Some(follower.open().await?);
        Ok(stream::unfold(follower, |mut follower| async move {
            let item = follower.next().await?;
            follower.done = item.as_ref().is_err_and(|error| error.code() != Code::Gone);
            Some((item, follower))
        })
        .boxed())
    }
}

fn events_call(instance: Option<&str>, query: EventsQuery) -> Result<Call> {
    match instance {
        Some(id) => Call::get(&["instances", id, "events"]),
        None => Call::get(&["events"]),
    }
    .query(&query)
}

struct Follower {
    client: Client,
    instance: Option<String>,
    query: EventsQuery,
    /// `None` before the first, and when it is to be opened anew.
    stream: Option<ItemStream<Event>>,
    /// The number of the last event that was handed out.
    seen: i64,
    done: bool,
}

impl Follower {
    async fn open(&mut self) -> Result<ItemStream<Event>> {
        let call = events_call(self.instance.as_deref(), self.query)?;
        Ok(items(self.client.open(call.header("accept", "text/event-stream")?).await?))
    }

    async fn next(&mut self) -> Option<Result<Event>> {
        if self.done {
            return None;
        }
        loop {
            let Some(stream) = self.stream.as_mut() else {
                match self.reopen().await {
                    Ok(()) => continue,
                    Err(error) => return Some(Err(self.or_gone(error))),
                }
            };
            match stream.next().await? {
                // After a gap it begins with all that is left.
                Ok(event) if event.seq <= self.seen => {}
                Ok(event) => {
                    self.seen = event.seq;
                    self.query.after = Some(event.seq);
                    return Some(Ok(event));
                }
                Err(error) if passing(&error) => self.stream = None,
                Err(error) => return Some(Err(self.or_gone(error))),
            }
        }
    }

    /// An error on its way out. After `Gone` the stream is opened anew, from the first event that
    /// there still is.
    fn or_gone(&mut self, error: Error) -> Error {
        if error.code() == Code::Gone {
            self.query.after = Some(0);
            self.stream = None;
        }
        error
    }

    async fn reopen(&mut self) -> Result<()> {
        let since = Instant::now();
        let mut pause = PAUSE;
        loop {
            sleep(pause).await;
            match self.open().await {
                Ok(stream) => {
                    self.stream = Some(stream);
                    return Ok(());
                }
                Err(error) if passing(&error) && since.elapsed() < LOST_MAX => {
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether the same request may go well in a moment.
fn passing(error: &Error) -> bool {
    matches!(error.code(), Code::Unavailable | Code::Timeout | Code::Overloaded)
}
