//! Giving a secret a new value, and bringing it to those that run with it.

use clawfarm_model::secret::{RotationStage, SecretInfo, SecretName, SecretRotation};
use clawfarm_model::{Context, Error, Result, Timestamp};
use secrecy::SecretString;

use super::{SecretAt, check_name, check_value, leave};
use crate::Control;

/// A new value, and how it is brought to instances.
#[derive(Debug, Default)]
pub struct RotateSecret {
    /// The value; the one before when there is none.
    pub value: Option<SecretString>,
    /// So many instances at a time; [`SecretRotation::PARALLEL`] when nothing is said.
    pub parallel: Option<u32>,
    /// For how long the value before is kept at least, in seconds, although all have the new one.
    pub grace_secs: Option<u32>,
}

impl Control {
    /// Gives a secret a new value, and brings it to the instances that run with it: those that
    /// can take it up while they run do, the others are started again, a few at a time; one that
    /// is down gets it at its next start. It stops when one does not come up with it. The value
    /// before is kept until all have the new one.
    ///
    /// # Errors
    /// As for [`Self::set_secret`]; `NotFound` when there is no such secret; `Conflict` when the
    /// value before is wanted and not kept any more.
    pub async fn rotate_secret(
        &self,
        context: &Context,
        at: impl Into<SecretAt>,
        name: &SecretName,
        new: RotateSecret,
    ) -> Result<SecretInfo> {
        check_name(name)?;
        if let Some(value) = &new.value {
            check_value(value)?;
        }
        let parallel = new.parallel.unwrap_or(SecretRotation::PARALLEL);
        if !(1..=SecretRotation::PARALLEL_MAX).contains(&parallel) {
            return Err(Error::invalid("parallel", format!("{parallel} at a time is out of range"))
                .fix(format!("give 1 to {}", SecretRotation::PARALLEL_MAX)));
        }
        if new.grace_secs.is_some_and(|secs| secs > SecretRotation::GRACE_MAX) {
            return Err(Error::invalid("grace_secs", "that is too long")
                .fix(format!("give at most {} seconds (30 days)", SecretRotation::GRACE_MAX)));
        }
        let owner = self.secret_owner(context, at.into()).await?;
        let grant = leave(context, &owner, name)?;
        let rotation = SecretRotation {
            stage: RotationStage::Going,
            parallel,
            grace_secs: new.grace_secs,
            begun_at: Timestamp::now(),
            error: None,
            after_halt: false,
        };
        let info = self.core.store.rotate_secret(&grant, &owner, name, new.value.as_ref(), &rotation).await?;
        self.core.rotations.wake();
        Ok(info)
    }
}
