//! Noticing that something happened to an instance: the engine's events.
//!
//! A container has the restart policy `unless-stopped`, so that claws come back with the
//! machine although no server runs. While one runs, the reconciler alone starts claws again: by
//! their own policy, with its count, and with the reason in front of people. So an end that
//! nobody asked for is written down here, and the container kept from being started again.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bollard::models::{ContainerStateStatusEnum as Status, EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::EventsOptionsBuilder;
use clawfarm_model::observed::Exit;
use clawfarm_model::{ClawId, Result, Timestamp};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::fault::failed;
use crate::inner::Inner;
use crate::spec::{INSTANCE, SERVER, TARGET};
use crate::{drift, end, logs, network, observe};

/// How long until an engine that does not answer is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Follows the engine's events for as long as the runtime exists.
pub(crate) fn follow(inner: &Arc<Inner>) {
    let (weak, ending) = (Arc::downgrade(inner), inner.ending.clone());
    tokio::spawn(async move {
        loop {
            let Some(inner) = weak.upgrade() else { return };
            let listened = listen(&inner, &ending).await;
            // What happened while nobody listened is found by looking.
            tell_all(&inner).await;
            drop(inner);
            if let Err(error) = listened {
                tracing::debug!(?error, "the engine's events can't be followed");
            }
            tokio::select! {
                () = ending.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    });
}

async fn listen(inner: &Arc<Inner>, ending: &CancellationToken) -> Result<()> {
    let client = inner.engine.docker().await?;
    // Not by label, which what is told of a network does not have.
    let filters = HashMap::from([("type".to_owned(), vec!["container".to_owned(), "network".to_owned()])]);
    let options = EventsOptionsBuilder::default().filters(&filters).build();
    // The first answer to a request for events is the first event: nothing limits that wait.
    let client = client.with_timeout(Duration::from_secs(u64::from(u32::MAX)));
    let mut events = client.events(Some(options));
    // An engine that was away may have forgotten nothing but the ways to the server.
    network::take_up(inner).await?;
    tell_all(inner).await;
    tokio::spawn(drift::mend_all(Arc::downgrade(inner)));
    let mut out_of_memory = HashSet::new();
    loop {
        let event = tokio::select! {
            () = ending.cancelled() => return Ok(()),
            event = events.next() => event,
        };
        match event {
            Some(Ok(event)) => happened(inner, &event, &mut out_of_memory),
            Some(Err(error)) => return Err(failed("follow the engine's events", error)),
            None => return Ok(()),
        }
    }
}

/// Has every instance looked at.
async fn tell_all(inner: &Inner) {
    let (paths, target) = (inner.paths.clone(), inner.config.target.clone());
    let ids = clawfarm_files::blocking(move || crate::record::ids(&paths, &target)).await;
    for id in ids.unwrap_or_default() {
        inner.tell(&id);
    }
}

fn happened(inner: &Arc<Inner>, event: &EventMessage, out_of_memory: &mut HashSet<String>) {
    let Some(actor) = &event.actor else { return };
    let (Some(container), Some(attributes)) = (&actor.id, &actor.attributes) else { return };
    if event.typ == Some(EventMessageTypeEnum::NETWORK) {
        let of_ours = attributes.get("name").is_some_and(|name| inner.is_own_network(name));
        if let (Some("disconnect"), true, Some(container)) =
            (event.action.as_deref(), of_ours, attributes.get("container"))
        {
            tokio::spawn(drift::mend_container(Arc::downgrade(inner), container.clone()));
        }
        return;
    }
    let is = |label: &str, wanted: &str| attributes.get(label).is_some_and(|value| value == wanted);
    if !is(SERVER, &inner.server()) || !is(TARGET, inner.config.target.as_str()) {
        return;
    }
    let Some(id) = attributes.get(INSTANCE).and_then(|id| ClawId::new(id.as_str()).ok()) else { return };
    match event.action.as_deref() {
        Some("oom") => {
            out_of_memory.insert(container.clone());
        }
        Some("die") => {
            let died = Died {
                at: event
                    .time_nano
                    .map_or_else(Timestamp::now, |nano| Timestamp::from_millis(nano / 1_000_000)),
                status: attributes.get("exitCode").and_then(|code| code.parse().ok()),
                out_of_memory: out_of_memory.remove(container),
            };
            tokio::spawn(take_over(Arc::downgrade(inner), id, died));
        }
        // Looking makes these.
        Some(action) if action.starts_with("exec_") => {}
        Some("update" | "start") => {
            tokio::spawn(drift::mend(Arc::downgrade(inner), id));
        }
        _ => inner.tell(&id),
    }
}

/// What the engine says of an end.
struct Died {
    at: Timestamp,
    status: Option<i64>,
    out_of_memory: bool,
}

/// Writes an end down that nobody asked for, and keeps the engine from making it undone.
async fn take_over(weak: Weak<Inner>, id: ClawId, died: Died) {
    let Some(inner) = weak.upgrade() else { return };
    if let Err(error) = note_end(&inner, &id, &died).await {
        tracing::warn!(%id, ?error, "how it ended is not known in full");
    }
    inner.tell(&id);
}

async fn note_end(inner: &Arc<Inner>, id: &ClawId, died: &Died) -> Result<()> {
    let asked = |inner: &Inner| inner.record(id).map(|record| record.asked || record.ended.is_some());
    if asked(inner)? {
        return Ok(());
    }
    // A stop that is under way does not hold it, a start does.
    let _verb = inner.lock(id).await;
    let record = inner.record(id)?;
    if record.asked || record.ended.is_some() {
        return Ok(());
    }
    let Some(found) = observe::container(inner, id).await? else { return Ok(()) };
    let state = found.state.unwrap_or_default();
    // One that was started since then by somebody else than the engine is another run.
    let by_engine = found.restart_count.unwrap_or(0) > 0;
    let up = matches!(state.status, Some(Status::RUNNING | Status::PAUSED));
    if !observe::has_begun(&state, &record) || (up && !by_engine) {
        return Ok(());
    }
    let exit = Exit {
        code: None,
        signal: None,
        at: died.at,
        out_of_memory: died.out_of_memory || (!up && state.oom_killed == Some(true)),
        requested: false,
        log_tail: logs::tail(inner, id).await,
    };
    let exit = observe::with_status(exit, died.status);
    observe::keep_exit(inner, id, record.run, exit).await?;
    end::end_now(inner, id).await
}
