//! How a runtime tells how far it is.

/// Where a runtime reports the steps of a long verb. Implementations must be cheap: they are
/// called from loops.
pub trait Progress: Send + Sync {
    /// A step began, and the ones before it ended. `name` is a stable word (`download`,
    /// `install`, `prepare`, `start`), `total` how far it will go in `unit`, where known.
    fn step(&self, name: &str, message: &str, total: Option<u64>, unit: &str);

    /// The present step is this far.
    fn advance(&self, done: u64);

    /// The present step printed a line.
    fn say(&self, line: &str) {
        let _ = line;
    }
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn step(&self, _name: &str, _message: &str, _total: Option<u64>, _unit: &str) {}

    fn advance(&self, _done: u64) {}
}
