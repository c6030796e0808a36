//! Telling which claws something happened to: by following the journal, which every process
//! writes, and by waiting for the ends that were written down in it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use clawfarm_model::{ClawId, Timestamp};
use tokio::sync::broadcast;
use tokio::task::AbortHandle;

use crate::disk::now;
use crate::journal;
use crate::record::Life;
use crate::world::World;

/// How often the journal is looked at.
const EVERY: Duration = Duration::from_millis(50);
/// How many happenings a receiver may be behind before it must look at everything.
const BACKLOG: usize = 4096;

/// The task that follows the journal; it ends with this.
#[derive(Debug)]
pub(crate) struct Watch {
    happened: broadcast::Sender<ClawId>,
    task: Option<AbortHandle>,
}

impl Watch {
    pub(crate) fn start(world: Arc<World>) -> Self {
        let happened = broadcast::Sender::new(BACKLOG);
        let follower = Follower { ends: BinaryHeap::new(), read: 0, rest: Vec::new(), world };
        let task = tokio::runtime::Handle::try_current()
            .ok()
            .map(|runtime| runtime.spawn(follower.run(happened.clone())).abort_handle());
        Self { happened, task }
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<ClawId> {
        self.happened.subscribe()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

struct Follower {
    world: Arc<World>,
    /// Claws that will end by themselves, the next one first.
    ends: BinaryHeap<Reverse<(i64, ClawId)>>,
    /// How much of the journal was read.
    read: u64,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl Follower {
    async fn run(mut self, happened: broadcast::Sender<ClawId>) {
        self.begin();
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            for id in self.look(now()) {
                // Nobody listens: nobody has to be told.
                let _ = happened.send(id);
            }
        }
    }

    /// What happened before is not told, but what will happen because of it is.
    fn begin(&mut self) {
        self.read = std::fs::metadata(self.world.journal_path()).map_or(0, |meta| meta.len());
        match self.world.records() {
            Ok(records) => {
                for record in records {
                    if let Life::Up(up) = &record.life
                        && let Some(end) = &up.ends
                    {
                        self.ends.push(Reverse((end.at, record.id.clone())));
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "the simulated world can't be watched from its beginning"),
        }
    }

    fn look(&mut self, now: i64) -> Vec<ClawId> {
        let mut ids = Vec::new();
        for act in journal::parse(&self.new_lines()) {
            if let Some(ends_at) = act.ends_at {
                self.ends.push(Reverse((Timestamp::as_millis(ends_at), act.id.clone())));
            }
            ids.push(act.id);
        }
        while let Some(Reverse((at, _))) = self.ends.peek()
            && *at <= now
        {
            if let Some(Reverse((_, id))) = self.ends.pop() {
                ids.push(id);
            }
        }
        ids
    }

    /// The whole lines that were added since. A line begins with its line feed, so the last
    /// one is whole when it closes its bracket.
    fn new_lines(&mut self) -> Vec<u8> {
        let path = self.world.journal_path();
        let Ok(meta) = std::fs::metadata(&path) else { return Vec::new() };
        if meta.len() < self.read {
            self.read = 0;
            self.rest.clear();
        }
        if meta.len() == self.read {
            return Vec::new();
        }
        let mut text = std::mem::take(&mut self.rest);
        let added = File::open(&path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.read))?;
            file.read_to_end(&mut text)
        });
        match added {
            Ok(added) => self.read += added as u64,
            Err(error) => tracing::warn!(%error, "the simulated world's journal can't be read"),
        }
        if !text.ends_with(b"}") {
            let whole = text.iter().rposition(|b| *b == b'\n').unwrap_or(0);
            self.rest = text.split_off(whole);
        }
        text
    }
}
