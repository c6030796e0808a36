//! How the simulated world behaves: what `sim.json` says.
//!
//! The file belongs to the world, not to a server, and is looked at again before every
//! verb, so a test (or a person with an editor) changes the behaviour of a running server.

use std::collections::BTreeMap;
use std::fmt;

use clawfarm_model::observed::Confinement;
use clawfarm_model::{Code, Error, Result};
use serde::{Deserialize, Serialize};

/// Something a runtime is asked to do; the key of delays and failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is the verb of the runtime's traits by that name")]
pub enum Verb {
    Capacity,
    Ensure,
    KeepRecord,
    Start,
    Observe,
    List,
    Stop,
    Kill,
    Destroy,
    RemoveDataset,
    Dial,
    Freeze,
    Thaw,
    Suspend,
    Resume,
    Exec,
    Usage,
    Logs,
    Read,
    Write,
    Import,
    Install,
    SoftwareFile,
    CopyData,
    PutBack,
    RemoveCopy,
    CopyOut,
    TakeIn,
}

impl Verb {
    /// Its name as in `sim.json`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Capacity => "capacity",
            Self::Ensure => "ensure",
            Self::KeepRecord => "keep_record",
            Self::Start => "start",
            Self::Observe => "observe",
            Self::List => "list",
            Self::Stop => "stop",
            Self::Kill => "kill",
            Self::Destroy => "destroy",
            Self::RemoveDataset => "remove_dataset",
            Self::Dial => "dial",
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Exec => "exec",
            Self::Usage => "usage",
            Self::Logs => "logs",
            Self::Read => "read",
            Self::Write => "write",
            Self::Import => "import",
            Self::Install => "install",
            Self::SoftwareFile => "software_file",
            Self::CopyData => "copy_data",
            Self::PutBack => "put_back",
            Self::RemoveCopy => "remove_copy",
            Self::CopyOut => "copy_out",
            Self::TakeIn => "take_in",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Least and most, in milliseconds; each time one between them is drawn from the seed.
pub type Millis = (u64, u64);

/// The whole of `sim.json`. Everything has a default: no delays, no failures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// What every draw comes from: the same seed, ids and calls give the same delays and
    /// failures.
    pub seed: u64,
    /// The target does not answer: every verb is `Unavailable`, and dialled claws too.
    pub target_down: bool,
    /// What the target has; thousands of claws fit when nothing is said.
    pub capacity: SimCapacity,
    /// How long verbs take.
    pub delays: BTreeMap<Verb, Millis>,
    /// Which verbs fail; the first that applies does.
    pub failures: Vec<Failure>,
    /// Ports that something else on the target holds: a start on one is a `Conflict`.
    pub taken_ports: Vec<u16>,
    /// How every claw behaves.
    pub claw: ClawBehaviour,
    /// How the claws of some names behave otherwise; later entries win.
    pub overrides: Vec<Override>,
    /// The `package.json` of versions of the software, by version.
    pub packages: BTreeMap<String, serde_json::Value>,
}

/// What the target has.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimCapacity {
    /// Processor cores.
    pub cpus: f64,
    /// Memory in all, in MiB.
    pub memory_mib: u64,
    /// Memory that is free, in MiB. Simulated claws hold none, so it is what it is set to.
    pub memory_available_mib: u64,
}

impl Default for SimCapacity {
    /// Room for a hundred thousand claws of 2 GiB.
    fn default() -> Self {
        Self { cpus: 100_000.0, memory_mib: 204_800_000, memory_available_mib: 204_800_000 }
    }
}

/// Makes calls of a verb fail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Which verb.
    pub verb: Verb,
    /// Of which claws: a name with `*` for anything.
    #[serde(default = "any")]
    pub claws: String,
    /// Which calls, counted from 1 over all processes; empty: any call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<u64>,
    /// How many of those calls fail, from 0 to 1.
    #[serde(default = "always")]
    pub probability: f64,
    /// The error's code.
    #[serde(default = "unavailable")]
    pub code: Code,
    /// The error comes after the verb has done its work: done, but nobody was told.
    #[serde(default)]
    pub after: bool,
    /// Whose count of calls it goes by. The same label goes on counting, a new one begins at 1.
    #[serde(default)]
    pub label: String,
}

impl Failure {
    /// Every call of `verb` fails with `code`.
    #[must_use]
    pub fn new(verb: Verb, code: Code) -> Self {
        Self {
            verb,
            claws: any(),
            calls: Vec::new(),
            probability: always(),
            code,
            after: false,
            label: String::new(),
        }
    }

    /// Only these calls, counted from 1.
    #[must_use]
    pub fn on_calls(mut self, calls: &[u64]) -> Self {
        self.calls = calls.to_vec();
        self
    }

    /// Only claws whose id matches.
    #[must_use]
    pub fn of(mut self, claws: &str) -> Self {
        claws.clone_into(&mut self.claws);
        self
    }

    /// With this probability, from 0 to 1.
    #[must_use]
    pub const fn with_probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    /// After the verb has done its work.
    #[must_use]
    pub const fn after_the_act(mut self) -> Self {
        self.after = true;
        self
    }

    /// With a count of its own.
    #[must_use]
    pub fn labelled(mut self, label: &str) -> Self {
        label.clone_into(&mut self.label);
        self
    }

    pub(crate) fn error(&self, what: &str) -> Error {
        Error::new(self.code, format!("simulated failure of {} {what}", self.verb))
            .fix("change or remove the failure in the simulated world's sim.json")
    }
}

fn any() -> String {
    "*".to_owned()
}

const fn always() -> f64 {
    1.0
}

const fn unavailable() -> Code {
    Code::Unavailable
}

/// How a claw behaves; what is not said has its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClawBehaviour {
    /// From its start until its gateway listens; half of `boot_ms` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_ms: Option<Millis>,
    /// From its start until its startup probe passes; at once by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_ms: Option<Millis>,
    /// It ends by itself so long after each start; never by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crash_after_ms: Option<Millis>,
    /// It does so after its first so many starts only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crash_times: Option<u64>,
    /// The code it then exits with; 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// It then ends because it went over its memory limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_of_memory: Option<bool>,
    /// From being asked to end until it has; at once by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_ms: Option<Millis>,
    /// What it is working on, as its gateway's blockers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy: Option<Vec<Blocker>>,
    /// How long after a drain began its work is done; never, while it is `busy`, by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_ms: Option<Millis>,
    /// How long an answer to a message takes, end to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_ms: Option<Millis>,
    /// How often it fails over a message of a service: it answers that it can't, or breaks off,
    /// before or after it has taken the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_fail: Option<f64>,
    /// How long after it is ready its channels are: until then their paths are nobody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels_ms: Option<Millis>,
    /// Its probes fail although it is up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<bool>,
    /// It takes connections and never answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silent: Option<bool>,
    /// From a change of its configuration file until it has taken it up; at once by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reload_ms: Option<Millis>,
    /// It takes no change of its configuration up before its next start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_reload: Option<bool>,
    /// When its scheduled jobs are due, in milliseconds since the epoch; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jobs: Option<Vec<i64>>,
    /// When its latest session was used, in milliseconds since the epoch; it says none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_at: Option<i64>,
    /// What is said to confine it. By default nothing is, because nothing runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confinement: Option<Confinement>,
}

/// One thing that a claw is working on, in the words of OpenClaw's gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blocker {
    /// What kind of work: `queue`, `embedded-run`, `root-request`.
    pub kind: String,
    /// How many.
    #[serde(default = "one")]
    pub count: u64,
    /// In words.
    pub message: String,
}

const fn one() -> u64 {
    1
}

impl Blocker {
    /// One piece of work.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: kind.into(), count: 1, message: message.into() }
    }
}

/// Another behaviour for the claws of some names and versions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Which: a name with `*` for anything.
    pub claws: String,
    /// In which versions: one with `*` for anything.
    #[serde(default = "any")]
    pub versions: String,
    /// What is different.
    pub claw: ClawBehaviour,
}

impl Override {
    /// For the claws whose id matches, in every version.
    #[must_use]
    pub fn of(claws: &str, claw: ClawBehaviour) -> Self {
        Self { claws: claws.to_owned(), versions: any(), claw }
    }

    /// For all claws, in the versions that match.
    #[must_use]
    pub fn of_version(versions: &str, claw: ClawBehaviour) -> Self {
        Self { claws: any(), versions: versions.to_owned(), claw }
    }
}

impl Behaviour {
    /// Reads what a `sim.json` says.
    ///
    /// # Errors
    /// `InvalidInput` with what is wrong and where.
    pub fn parse(text: &[u8]) -> Result<Self> {
        serde_json::from_slice(text).map_err(|e| {
            Error::invalid("sim.json", format!("the simulated world's behaviour can't be read: {e}"))
                .fix("mend or remove sim.json in the simulated world's folder")
        })
    }

    /// How the claw of this id behaves in this version.
    #[must_use]
    pub fn claw(&self, id: &str, version: &str) -> ClawBehaviour {
        let mut claw = self.claw.clone();
        let applies = |o: &&Override| matches(&o.claws, id) && matches(&o.versions, version);
        for other in self.overrides.iter().filter(applies) {
            claw.take_over(&other.claw);
        }
        claw
    }

    /// A number between least and most, the same for the same seed and key.
    pub(crate) fn draw(&self, (least, most): Millis, key: &[&str], nth: u64) -> u64 {
        let span = most.saturating_sub(least).saturating_add(1);
        least.saturating_add(self.hash(key, nth) % span)
    }

    /// Whether something of this probability happens.
    pub(crate) fn happens(&self, probability: f64, key: &[&str], nth: u64) -> bool {
        // 53 bits are what a double holds exactly.
        #[expect(clippy::cast_precision_loss, reason = "both sides are below 2^53")]
        let drawn = (self.hash(key, nth) >> 11) as f64 / (1_u64 << 53) as f64;
        drawn < probability
    }

    fn hash(&self, key: &[&str], nth: u64) -> u64 {
        // FNV-1a over the key, then splitmix64's finish: spreads well, needs no library, and
        // stays the same from one version of Rust to the next.
        let mut hash = 0xcbf2_9ce4_8422_2325 ^ self.seed;
        for byte in key.iter().flat_map(|part| part.bytes().chain([0xff])).chain(nth.to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^ (hash >> 31)
    }
}

impl ClawBehaviour {
    fn take_over(&mut self, other: &Self) {
        fn set<T: Clone>(mine: &mut Option<T>, theirs: &Option<T>) {
            if theirs.is_some() {
                mine.clone_from(theirs);
            }
        }
        set(&mut self.listen_ms, &other.listen_ms);
        set(&mut self.boot_ms, &other.boot_ms);
        set(&mut self.crash_after_ms, &other.crash_after_ms);
        set(&mut self.crash_times, &other.crash_times);
        set(&mut self.exit_code, &other.exit_code);
        set(&mut self.out_of_memory, &other.out_of_memory);
        set(&mut self.stop_ms, &other.stop_ms);
        set(&mut self.busy, &other.busy);
        set(&mut self.drain_ms, &other.drain_ms);
        set(&mut self.answer_ms, &other.answer_ms);
        set(&mut self.messages_fail, &other.messages_fail);
        set(&mut self.channels_ms, &other.channels_ms);
        set(&mut self.unhealthy, &other.unhealthy);
        set(&mut self.silent, &other.silent);
        set(&mut self.reload_ms, &other.reload_ms);
        set(&mut self.no_reload, &other.no_reload);
        set(&mut self.jobs, &other.jobs);
        set(&mut self.used_at, &other.used_at);
        set(&mut self.confinement, &other.confinement);
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for anything.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, wanted) in [
            ("*", "", true),
            ("*", "a", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, text), wanted, "{pattern} on {text}");
        }
    }

    #[test]
    fn later_overrides_win_and_leave_the_rest() {
        let behaviour = Behaviour::parse(
            br#"{"claw": {"boot_ms": [5, 5], "exit_code": 2},
                 "overrides": [{"claws": "a*", "claw": {"exit_code": 3}},
                               {"claws": "ab*", "claw": {"exit_code": 4}}]}"#,
        )
        .unwrap();
        assert_eq!(behaviour.claw("x", "1").exit_code, Some(2));
        assert_eq!(behaviour.claw("ax", "1").exit_code, Some(3));
        assert_eq!(behaviour.claw("abx", "1").exit_code, Some(4));
        assert_eq!(behaviour.claw("abx", "1").boot_ms, Some((5, 5)));
    }

    #[test]
    fn a_mistyped_key_is_said_so() {
        let error = Behaviour::parse(br#"{"claw": {"bot_ms": [5, 5]}}"#).unwrap_err();
        assert_eq!(error.code(), Code::InvalidInput);
        assert!(error.message().contains("bot_ms"), "{error}");
    }

    #[test]
    fn draws_are_within_their_bounds_and_repeatable() {
        let one = Behaviour { seed: 1, ..Behaviour::default() };
        let two = Behaviour { seed: 2, ..Behaviour::default() };
        let draws =
            |b: &Behaviour| (0..200).map(|n| b.draw((10, 20), &["a", "start"], n)).collect::<Vec<_>>();
        assert_eq!(draws(&one), draws(&one));
        assert_ne!(draws(&one), draws(&two));
        assert!(draws(&one).iter().all(|d| (10..=20).contains(d)));
        assert!(draws(&one).contains(&10) && draws(&one).contains(&20));
        let hits = (0..10_000).filter(|n| one.happens(0.25, &["a"], *n)).count();
        assert!((2_300..2_700).contains(&hits), "{hits} of 10000 at 25 %");
    }

    #[test]
    fn fuzz_sim_json() {
        let whole = serde_json::to_vec(&Behaviour::default()).unwrap();
        let failing = br#"{"seed":7,"failures":[{"verb":"start","code":"timeout","on_calls":[1]}]}"#;
        clawfarm_fuzz::fuzz(&[&whole, failing], |bytes| {
            if let Ok(behaviour) = Behaviour::parse(bytes) {
                let again = serde_json::to_vec(&behaviour).unwrap();
                Behaviour::parse(&again).expect("what it wrote");
                let _ = behaviour.claw("alice-x7k2m", "1");
            }
        });
    }
}
