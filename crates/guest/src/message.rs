//! What host and guest say, as JSON in frames. A field that one side does not know is passed
//! over, a request that the agent does not know is refused: so either may be the older one.

use serde::{Deserialize, Serialize};

/// The version of what is said here. It changes when an older side would misunderstand.
pub const VERSION: u32 = 1;

/// The first that either side says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// What the host made up for this conversation, not 0; the agent says it back. It says 0 when
    /// it begins: what was said to another agent before is over.
    pub nonce: u64,
    /// The agent's own version; empty of a host.
    #[serde(default)]
    pub agent: String,
    /// Which boot of the guest this is (`/proc/sys/kernel/random/boot_id`); empty of a host.
    #[serde(default)]
    pub boot: String,
}

/// What the host asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Request {
    /// Nothing but an answer.
    Ping,
    /// To run a command, as root. Answered by [`Started`]; then its output, then [`Exit`].
    Exec(Exec),
    /// How the machine is. Answered by [`Stats`].
    Stats,
    /// That what was written is on the disk.
    Sync,
    /// That the disks hold still: the hooks are run with `freeze`, then file systems are frozen.
    Freeze {
        /// After so many seconds they are thawed whatever happens.
        limit_secs: u32,
    },
    /// That they go on, and the hooks are run with `thaw`.
    Thaw,
    /// That the machine ends.
    Power {
        /// How.
        how: Power,
    },
    /// That its clock is this.
    SetTime {
        /// Nanoseconds since 1970-01-01 UTC.
        unix_nanos: i64,
    },
    /// That it is this machine from now on: it was copied from one that waited.
    Identify(Box<Identity>),
}

/// Who a machine is that was copied from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// What tells it from others for cloud-init.
    pub instance_id: String,
    /// What it is called.
    pub hostname: String,
    /// Its `/etc/machine-id`: 32 hexadecimal digits.
    pub machine_id: String,
    /// At least 64 random bytes that nobody else was given.
    pub entropy: Hidden<Vec<u8>>,
    /// Its clock: nanoseconds since 1970-01-01 UTC.
    pub unix_nanos: i64,
    /// Its own key for SSH, of the kind Ed25519, in OpenSSH's format.
    pub host_key: Hidden<String>,
    /// The public half, as a line of a `.pub` file.
    pub host_key_public: String,
    /// The key that may log in as root, as a line of `authorized_keys`.
    pub authorized_key: String,
    /// The host's folders that it mounts, in this order.
    #[serde(default)]
    pub mounts: Vec<Mount>,
}

/// A folder of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The name of its device.
    pub tag: String,
    /// Where it is mounted.
    pub path: String,
    /// Its line of `/etc/fstab`, for later boots.
    pub fstab: String,
}

/// What is said and not shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden<T>(pub T);

impl<T> std::fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// How a machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// It is off then.
    Off,
    /// It boots again.
    Reboot,
}

/// A command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The program and its arguments; no shell.
    pub argv: Vec<String>,
    /// Beside what a login of root has.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Where it begins; root's home when absent, or when there is no such folder: what is mounted
    /// there may be missing, and somebody wants to look why.
    #[serde(default)]
    pub cwd: Option<String>,
    /// The size of its terminal; without one it has pipes.
    #[serde(default)]
    pub tty: Option<Size>,
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// A command runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its process id in the guest.
    pub pid: u32,
}

/// How a command ended: one of both is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code.
    #[serde(default)]
    pub code: Option<i32>,
    /// The signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
}

/// How the machine is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Memory that it has, in bytes.
    pub memory_total: u64,
    /// Memory that could be had without swapping, in bytes.
    pub memory_available: u64,
    /// Time that its processors worked since the boot, in milliseconds, all of them together.
    pub cpu_millis: u64,
    /// Its processors.
    pub cpus: u32,
    /// Processes that ran or wanted to, on average over the last minute.
    pub load: f64,
    /// Time since its boot, in milliseconds.
    pub uptime_millis: u64,
    /// The size of its root file system, in bytes.
    pub disk_total: u64,
    /// What is free of it for programs, in bytes.
    pub disk_available: u64,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Of what kind this is.
    pub code: RefusalCode,
    /// What happened and what is to be done, for people.
    pub message: String,
}

/// Kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// This agent does not know such a request.
    Unsupported,
    /// What was asked can't be: a program that is not there, a clock before 1970.
    Invalid,
    /// There are too many conversations already.
    Busy,
    /// It was tried and failed.
    Failed,
    /// A kind that a newer agent knows.
    #[serde(other)]
    Other,
}

/// `value` as a frame's body.
pub(crate) fn body(value: &impl Serialize) -> Vec<u8> {
    // What is said here has strings and numbers alone, which can always be written.
    serde_json::to_vec(value).unwrap_or_default()
}
