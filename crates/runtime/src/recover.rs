//! What a target knows by itself, for the day the store is lost.

use std::path::Path;

use async_trait::async_trait;
use clawfarm_model::name::TenantName;
use clawfarm_model::{ClawId, Code, Error, Observation, Result, Timestamp};
use secrecy::SecretString;

/// Telling what was kept beside the instances and the data here: where the runtime keeps
/// [`Placement::record`](clawfarm_model::Placement::record) on its own.
#[async_trait]
pub trait Recover: Send + Sync {
    /// Every instance here, in the order of their ids. One whose record is damaged is among
    /// them, with what is wrong.
    ///
    /// # Errors
    /// `Unavailable` when the target does not answer.
    async fn kept(&self) -> Result<Vec<Kept>>;

    /// Every dataset here, in the order of their ids; empty where datasets have no record.
    ///
    /// # Errors
    /// `Unavailable` when the target does not answer.
    async fn kept_data(&self) -> Result<Vec<KeptData>>;

    /// The values that the variables `names` had when an instance was last started, as far as
    /// they can still be had: those of what is up can, as a rule.
    ///
    /// They come from where a claw may have changed them: to be checked before use.
    ///
    /// # Errors
    /// `Unavailable` when the target does not answer.
    async fn environment(&self, seen: &Observation, names: &[&str]) -> Result<Vec<(String, SecretString)>>;
}

/// An instance as its target knows it.
#[derive(Debug)]
pub struct Kept {
    /// Which.
    pub id: ClawId,
    /// What the store knew of it when it last changed.
    pub record: Result<serde_json::Value>,
    /// The last launch that was started, 0 when none was.
    pub run: i64,
    /// What it is doing.
    pub seen: Result<Observation>,
}

/// A dataset as its target knows it.
#[derive(Debug)]
pub struct KeptData {
    /// Which: the id of the instance it came from.
    pub id: ClawId,
    /// What is known of it.
    pub known: Result<KnownData>,
}

/// What is known of a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownData {
    /// Whose it is.
    pub tenant: TenantName,
    /// Its size on disk, in bytes.
    pub size_bytes: u64,
    /// When it was set aside.
    pub created_at: Timestamp,
    /// What the store knew of its instance.
    pub record: serde_json::Value,
}

/// The form of the records beside instances and data that this program knows.
const FORM: u32 = 1;

/// Refuses a record that is not that of `id`, has a form that is not known, or does not say what
/// the store knew.
///
/// # Errors
/// `InvalidInput`, with what is wrong with the file at `path`.
pub fn check_kept(
    path: &Path,
    id: &ClawId,
    (form, of): (u32, &ClawId),
    record: &serde_json::Value,
) -> Result<()> {
    let wrong = if form != FORM {
        format!("has the form {form}, and this clawfarm knows {FORM}")
    } else if of != id {
        format!("is that of '{of}'")
    } else if record.is_null() {
        "does not say what the store knew of it".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::new(Code::InvalidInput, format!("'{}' {wrong}", path.display()))
        .fix("put back the file from a backup"))
}
