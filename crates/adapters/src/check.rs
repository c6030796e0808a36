//! How a running claw is asked whether it would take a configuration that it does not have yet.

use std::fmt;

/// A question to a running claw: a command to run beside it.
///
/// What the command is asked goes to its standard input as one line, never into its arguments,
/// which everybody on the machine may read. It makes what it needs itself, and has taken it away
/// again when it ends, however it ends; the end of its input ends it.
pub struct ConfigCheck {
    /// The program, as the claw's place has it, and its arguments.
    pub argv: Vec<String>,
    /// The line. Values of secrets are not in it: each has a stand-in.
    pub input: String,
}

impl fmt::Debug for ConfigCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigCheck").field("argv", &self.argv).finish_non_exhaustive()
    }
}

/// What a claw says to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It would go by it.
    Takes,
    /// It would not, for these faults; never none.
    Refuses(Vec<ConfigFault>),
    /// It did not say: what came is no answer.
    Unclear,
}

/// What a claw does not take of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigFault {
    /// The field of the unified config where that can be told, else the place in the type's own
    /// file.
    pub field: String,
    /// The place in the type's own file, as the claw names it.
    pub place: String,
    /// What is wrong there, in the claw's words.
    pub reason: String,
}
