//! Room on a target, looked for in the transaction that takes it: other servers that share the
//! database may give out the same memory at the same moment.

use clawfarm_model::name::TargetName;
use clawfarm_model::{Code, Error, Result};
use sea_orm::sea_query::LockType;
use sea_orm::{EntityTrait, QuerySelect};

use super::count::promised;
use crate::entity::target;
use crate::error::db;
use crate::tx::Tx;

/// Memory that has to be there for a change, or it is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Where.
    pub target: TargetName,
    /// What is wanted beyond what the instance holds already, in MiB.
    pub wanted_mib: u64,
    /// What may be promised there to all instances that are up, in MiB.
    pub most_mib: u64,
}

impl Tx {
    /// Refuses a change for which there is no room. Of several at once on a target, each but
    /// the first waits here until the one before it is committed, and counts what that took:
    /// under PostgreSQL by the lock on the target's row (one that rows which name the target
    /// do not wait for), under SQLite because there is one writer.
    pub(super) async fn check_room(&self, room: Option<&Room>) -> Result<()> {
        let Some(Room { target, wanted_mib, most_mib }) = room else { return Ok(()) };
        target::Entity::find_by_id(target.as_str())
            .lock(LockType::NoKeyUpdate)
            .one(self.on())
            .await
            .map_err(db)?;
        let promised = promised(self.on(), target).await?;
        if promised.saturating_add(*wanted_mib) <= *most_mib {
            return Ok(());
        }
        Err(Error::new(
            Code::Insufficient,
            format!(
                "{wanted_mib} MiB are wanted; '{target}' has {most_mib} MiB for instances, of which {promised} are promised to those that are up"
            ),
        )
        .field("resources.memory_mib")
        .fix("suspend or stop another instance, ask for less with --memory-mib, or take the risk with --overcommit"))
    }
}
