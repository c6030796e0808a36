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
    /// # Errors
    /// See [`Client`]; what can't be mended later comes through the stream.
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
            done: false,
        };
        follower.stream = Some(follower.open().await?);
        Ok(stream::unfold(follower, |mut follower| async move {
            let item = follower.next().await?;
            follower.done = item.is_err();
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
    stream: Option<ItemStream<Event>>,
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
            let stream = self.stream.as_mut()?;
            match stream.next().await? {
                Ok(event) => {
                    self.query.after = Some(event.seq);
                    return Some(Ok(event));
                }
                Err(error) if passing(&error) => {
                    if let Err(error) = self.reopen().await {
                        return Some(Err(error));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
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
