//! The simulated world: a folder that several processes share, and that outlives them all.
//!
//! ```text
//! sim.json            how the world behaves; written by tests and people only
//! journal             what was done, one line an act
//! claws/<xx>/<id>     one claw: a line for each state it was in, of which the last whole one
//!                     counts; <xx>/.lock serialises changes of a shard
//! port-table          for each port, in 64 bytes, the claw that took it last
//! data/<xx>/<id>/     a claw's files (state/), a copy of them (copy/) and what it printed (log)
//! datasets/<id>/      data that was set aside
//! calls/<label>       as many bytes as calls were counted for a scripted failure
//! inbox/<id>          what a claw was given by services, a line each
//! fences/<t>-<shard>  the highest epoch of a lease under which anything was done there
//! ```
//! Nothing is synced to the disk: the world survives the death of every process, not a power
//! cut, and that is what makes thousands of claws a second possible. States are appended and
//! not replaced by rename, because ext4 writes a file out when another is renamed onto it.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clawfarm_model::{ClawId, Error, Fence, Observation, Result, Timestamp};

use crate::behaviour::Behaviour;
use crate::disk::{Stamp, broken, lock_file, now, remove, replace, unreadable};
use crate::journal::{self, Act, ActKind};
use crate::record::{Life, Record};
use crate::states::{last_state, write_state};

/// Shards: few enough that a listing opens few folders, enough that two servers rarely wait
/// for one another.
const SHARDS: u64 = 64;
/// A simulated world, by its folder.
#[derive(Clone, Debug)]
pub struct World {
    root: PathBuf,
    seen: Arc<Seen>,
    /// The lease that what is done through this is done under.
    fence: Option<Fence>,
}

/// What was read of it, for as long as it does not change.
#[derive(Debug, Default)]
struct Seen {
    behaviour: Mutex<Option<(Stamp, Arc<Behaviour>)>>,
    records: Mutex<HashMap<ClawId, (Stamp, Arc<Record>)>>,
}

/// What an update did to a claw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Nothing,
    /// Its file is written anew, but nothing happened to it.
    Note,
    /// An act.
    Act(ActKind),
}

impl Step {
    /// The act, when it changed something.
    pub(crate) const fn when(new: bool, act: ActKind) -> Self {
        if new { Self::Act(act) } else { Self::Nothing }
    }
}

impl World {
    /// Opens a world, and makes it when there is none.
    ///
    /// # Errors
    /// `Internal` when the folder can't be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        let failed = |e| broken(&root, "made", e);
        for name in ["data", "datasets", "calls", "fences"] {
            fs::create_dir_all(root.join(name)).map_err(failed)?;
        }
        for shard in 0..SHARDS {
            fs::create_dir_all(root.join("claws").join(format!("{shard:02x}"))).map_err(failed)?;
        }
        Ok(Self { root, seen: Arc::default(), fence: None })
    }

    /// Its folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How it behaves now.
    ///
    /// # Errors
    /// `InvalidInput` when `sim.json` can't be understood.
    pub fn behaviour(&self) -> Result<Arc<Behaviour>> {
        let path = self.root.join("sim.json");
        let meta = match fs::metadata(&path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Arc::default()),
            Err(e) => return Err(broken(&path, "read", e)),
        };
        let stamp = Stamp::of(&meta);
        if let Some((known, behaviour)) = &*lock(&self.seen.behaviour)
            && *known == stamp
        {
            return Ok(behaviour.clone());
        }
        let text = fs::read(&path).map_err(|e| broken(&path, "read", e))?;
        let behaviour = Arc::new(Behaviour::parse(&text)?);
        *lock(&self.seen.behaviour) = stamp.is_settled().then(|| (stamp, behaviour.clone()));
        Ok(behaviour)
    }

    /// Changes how it behaves, from the next verb of any process on.
    ///
    /// # Errors
    /// When `sim.json` can't be written.
    pub fn set_behaviour(&self, behaviour: &Behaviour) -> Result<()> {
        let text = serde_json::to_vec_pretty(behaviour)
            .map_err(|e| Error::internal("the simulated behaviour can't be written", e))?;
        let path = self.root.join("sim.json");
        replace(&path, &text, 0o600).map_err(|e| broken(&path, "written", e))
    }

    /// Changes one thing of how it behaves.
    ///
    /// # Errors
    /// When `sim.json` can't be read or written.
    pub fn change_behaviour(&self, change: impl FnOnce(&mut Behaviour)) -> Result<()> {
        let mut behaviour = (*self.behaviour()?).clone();
        change(&mut behaviour);
        self.set_behaviour(&behaviour)
    }

    /// Every act that took place, oldest first.
    ///
    /// # Errors
    /// When the world can't be read.
    pub fn journal(&self) -> Result<Vec<Act>> {
        let path = self.journal_path();
        // The journal first: what is done meanwhile is in the files only, and is left out.
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(broken(&path, "read", e)),
        };
        let present = self.records()?.iter().map(|r| (r.id.clone(), (r.born, r.rev))).collect();
        Ok(journal::effective(journal::parse(&text), &present))
    }

    /// The acts on one claw, oldest first.
    ///
    /// # Errors
    /// When the world can't be read.
    pub fn acts_on(&self, id: &ClawId) -> Result<Vec<ActKind>> {
        Ok(self.journal()?.into_iter().filter(|act| act.id == *id).map(|act| act.act).collect())
    }

    /// Every claw of the world as it is now, in the order of their ids. For tests: no delay
    /// and no failure is simulated, and the target may be down.
    ///
    /// # Errors
    /// When the world can't be read.
    pub fn instances(&self) -> Result<Vec<Observation>> {
        let now = now();
        let mut seen: Vec<_> = self.records()?.iter().map(|r| r.observe(now)).collect();
        seen.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(seen)
    }

    /// The datasets that were set aside, in the order of their ids.
    ///
    /// # Errors
    /// When the world can't be read.
    pub fn datasets(&self) -> Result<Vec<ClawId>> {
        let folder = self.root.join("datasets");
        let mut ids = Vec::new();
        for entry in fs::read_dir(&folder).map_err(|e| broken(&folder, "read", e))? {
            let entry = entry.map_err(|e| broken(&folder, "read", e))?;
            ids.extend(entry.file_name().to_str().and_then(|name| ClawId::new(name).ok()));
        }
        ids.sort();
        Ok(ids)
    }

    /// What the store knew of a claw when its place was last made ([`Placement::record`]).
    ///
    /// [`Placement::record`]: clawfarm_model::Placement::record
    ///
    /// # Errors
    /// When the world can't be read.
    pub fn kept_record(&self, id: &ClawId) -> Result<Option<serde_json::Value>> {
        Ok(self.record(id)?.map(|record| record.kept))
    }

    pub(crate) fn journal_path(&self) -> PathBuf {
        self.root.join("journal")
    }

    pub(crate) fn data_dir(&self, id: &ClawId) -> PathBuf {
        self.root.join("data").join(shard(id)).join(id.as_str())
    }

    pub(crate) fn dataset_dir(&self, id: &ClawId) -> PathBuf {
        self.root.join("datasets").join(id.as_str())
    }

    /// The claw's record; `None` when there is no such claw, which is never said of a world
    /// that can't be read.
    pub(crate) fn record(&self, id: &ClawId) -> Result<Option<Record>> {
        let path = self.record_path(id);
        match fs::read(&path) {
            Ok(text) => last_state(&path, &text),
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.root.join("claws").is_dir() => Ok(None),
            Err(e) => Err(unreadable(&path, e)),
        }
    }

    /// Every record, those that did not change since they were last read from memory.
    pub(crate) fn records(&self) -> Result<Vec<Arc<Record>>> {
        let mut known = lock(&self.seen.records);
        let mut fresh = HashMap::with_capacity(known.len());
        let mut all = Vec::with_capacity(known.len());
        for shard in 0..SHARDS {
            let folder = self.root.join("claws").join(format!("{shard:02x}"));
            for entry in fs::read_dir(&folder).map_err(|e| unreadable(&folder, e))? {
                let entry = entry.map_err(|e| unreadable(&folder, e))?;
                let Some(id) = entry.file_name().to_str().and_then(|name| ClawId::new(name).ok()) else {
                    continue;
                };
                let Ok(meta) = entry.metadata() else { continue };
                let stamp = Stamp::of(&meta);
                let record = match known.remove(&id) {
                    Some((old, record)) if old == stamp => record,
                    _ => match self.record(&id)? {
                        Some(record) => Arc::new(record),
                        None => continue,
                    },
                };
                if stamp.is_settled() {
                    fresh.insert(id, (stamp, record.clone()));
                }
                all.push(record);
            }
        }
        *known = fresh;
        Ok(all)
    }

    /// Changes a claw with every other process kept out. `change` gets its record and says
    /// which act it did, if any; a record it takes away is the claw's end.
    pub(crate) fn update<T>(
        &self,
        id: &ClawId,
        change: impl FnOnce(&mut Option<Record>, i64) -> Result<(Step, T)>,
    ) -> Result<T> {
        let _alone = lock_file(&self.root.join("claws").join(shard(id)).join(".lock"))?;
        self.pass_fence()?;
        let before = self.record(id)?;
        let mut record = before.clone();
        let now = now();
        let (step, result) = change(&mut record, now)?;
        let rev = match step {
            Step::Nothing => return Ok(result),
            Step::Note => before.as_ref().map_or(0, |b| b.rev),
            Step::Act(act) => self.announce(id, act, before.as_ref(), record.as_ref(), now)?,
        };
        let path = self.record_path(id);
        match &mut record {
            Some(record) => {
                record.rev = rev;
                let mut text = serde_json::to_vec(record)
                    .map_err(|e| Error::internal(format!("simulated claw '{id}' can't be written"), e))?;
                text.push(b'\n');
                write_state(&path, text).map_err(|e| broken(&path, "written", e))?;
            }
            None => remove(&path, fs::remove_file)?,
        }
        Ok(result)
    }

    /// The same world, in which everything is done under a lease.
    pub(crate) fn under(&self, fence: &Fence) -> Self {
        Self { fence: Some(fence.clone()), ..self.clone() }
    }

    /// Refuses what is done under a lease that another server has had since, and remembers the
    /// lease otherwise.
    pub(crate) fn pass_fence(&self) -> Result<()> {
        let Some(fence) = &self.fence else { return Ok(()) };
        let folder = self.root.join("fences");
        let path = folder.join(format!("{}-{}", fence.target, fence.shard));
        let seen = || match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().parse().unwrap_or(0_i64)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(unreadable(&path, e)),
        };
        let mut latest = seen()?;
        if latest < fence.epoch {
            let _alone = lock_file(&folder.join(".lock"))?;
            latest = seen()?;
            if latest < fence.epoch {
                let text = fence.epoch.to_string();
                return replace(&path, text.as_bytes(), 0o600).map_err(|e| broken(&path, "written", e));
            }
        }
        if latest > fence.epoch { Err(fence.refused()) } else { Ok(()) }
    }

    /// Counts a call; the first is 1. Over all processes, by the length of a file.
    pub(crate) fn count_call(&self, label: &str) -> Result<u64> {
        let path = self.root.join("calls").join(file_name(label));
        let count = || -> io::Result<u64> {
            let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
            file.write_all(b".")?;
            // After an appending write the position is behind the byte just written.
            file.stream_position()
        };
        count().map_err(|e| broken(&path, "written", e))
    }

    fn record_path(&self, id: &ClawId) -> PathBuf {
        self.root.join("claws").join(shard(id)).join(id.as_str())
    }

    /// Writes down what is about to be done; returns the revision it will have.
    fn announce(
        &self,
        id: &ClawId,
        act: ActKind,
        before: Option<&Record>,
        after: Option<&Record>,
        now: i64,
    ) -> Result<u64> {
        let (born, run) = after.or(before).map_or((0, 0), |r| (r.born, r.run));
        let rev = before.filter(|b| b.born == born).map_or(0, |b| b.rev) + 1;
        let ends_at = after.and_then(|r| match &r.life {
            Life::Up(up) => up.ends.as_ref().map(|end| Timestamp::from_millis(end.at)),
            Life::Prepared | Life::Saved { .. } => None,
        });
        let at = Timestamp::from_millis(now);
        let act = Act { at, id: id.clone(), act, run, pid: std::process::id(), born, rev, ends_at };
        // The line's end comes first, so that a line torn by a full disk spoils itself only.
        let mut line = vec![b'\n'];
        serde_json::to_writer(&mut line, &act)
            .map_err(|e| Error::internal("an act of the simulated world can't be written down", e))?;
        let path = self.journal_path();
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .and_then(|mut file| file.write_all(&line))
            .map_err(|e| broken(&path, "written", e))?;
        Ok(rev)
    }
}

fn shard(id: &ClawId) -> String {
    let hash = id.as_str().bytes().fold(0_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    format!("{:02x}", hash % SHARDS)
}

/// A label as the name of a file.
fn file_name(label: &str) -> String {
    label.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).take(100).collect()
}

/// What is behind these locks is replaced whole, so it is good even after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
