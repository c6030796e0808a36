//! Taking messages in.

use clawfarm_model::inbox::InboxState;
use clawfarm_model::{Action, ClawId, Code, Context, Error, Granted, Phase, Result};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::{Expr, ExprTrait, OnConflict};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QuerySelect};

use crate::convert::to_word;
use crate::crypto::Sealed;
use crate::entity::inbox;
use crate::error::db;
use crate::guard::{about, fits, visible};
use crate::store::Store;
use crate::tx::{Tries, Tx};

/// A message to be taken in.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// Its id. One that is there already is the same message, sent again.
    pub id: String,
    /// Whose order it is in.
    pub lane: String,
    /// The path it came in at, for people.
    pub path: String,
    /// The request, packed.
    pub content: Vec<u8>,
}

/// How much of one instance's is kept, waiting and given up together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboxLimits {
    /// Messages.
    pub count: u64,
    /// Their sizes together, in bytes.
    pub bytes: u64,
}

impl Default for InboxLimits {
    /// A claw that sleeps through a day of a busy group chat: a few thousand messages of a
    /// kilobyte. The bytes are what a stranger's mistake may cost of the database's disk.
    fn default() -> Self {
        Self { count: 10_000, bytes: 64 << 20 }
    }
}

impl Store {
    /// Takes a message in; says whether it is new. When this returns, it is on the disk.
    ///
    /// The leave must be for [`Action::InstanceUse`] on the instance.
    ///
    /// # Errors
    /// `NotFound` when there is no such instance or it is being removed; `Overloaded` when too
    /// many messages wait for it, `Insufficient` when they are too large together; `Unavailable`
    /// when it can't be written. Nothing is taken in then.
    pub async fn accept_message(
        &self,
        granted: &Granted,
        id: &ClawId,
        message: &NewMessage,
        limits: InboxLimits,
    ) -> Result<bool> {
        fits(granted, &[Action::InstanceUse], "instance")?;
        let mut tries = Tries::default();
        loop {
            match self.try_accept(granted, id, message, limits).await {
                Err(error) if tries.again(&error).await => {}
                other => return other,
            }
        }
    }

    async fn try_accept(
        &self,
        granted: &Granted,
        id: &ClawId,
        message: &NewMessage,
        limits: InboxLimits,
    ) -> Result<bool> {
        let size = message.content.len() as u64;
        // Whoever sends to a full one costs a look, and not the one place to write of all claws.
        check_limits(&self.0.reader, id, size, limits).await?;
        let mut tx = Tx::begin(&self.0).await?;
        // Locked, so that it is not removed meanwhile and the message left behind.
        let row = tx.instance(id.as_str()).await?;
        about(granted, &row.tenant, "instance", id.as_str())?;
        if row.phase == Phase::Destroyed.as_str() || row.phase == Phase::Destroying.as_str() {
            return Err(Error::not_found("instance", id));
        }
        // Of those who come together, each counts the ones before it.
        check_limits(tx.on(), id, size, limits).await?;
        let sealed = tx.keyring().seal([&row.tenant, id.as_str(), &message.id], &message.content)?;
        let new = inbox::ActiveModel {
            seq: NotSet,
            id: Set(message.id.clone()),
            tenant: Set(row.tenant),
            instance: Set(id.as_str().to_owned()),
            lane: Set(message.lane.clone()),
            path: Set(message.path.clone()),
            state: Set(to_word(&InboxState::Waiting)?),
            wrapped_key: Set(sealed.wrapped_key.clone()),
            content: Set(sealed.value.clone()),
            size: Set(i64::try_from(size).unwrap_or(i64::MAX)),
            received_at: Set(tx.now.as_millis()),
            attempts: Set(0),
            next_at: Set(0),
            last_error: Set(None),
            replayed_at: Set(None),
        };
        let there = OnConflict::column(inbox::Column::Id).do_nothing().to_owned();
        let rows = inbox::Entity::insert(new)
            .on_conflict(there)
            .exec_without_returning(tx.on())
            .await
            .map_err(db)?;
        if rows == 0 {
            tx.wanted_again(id, &message.id, sealed, size).await?;
        }
        tx.message_for(id.as_str());
        tx.commit().await?;
        Ok(rows > 0)
    }

    /// Whether a message of this lane waits: then a later one has to wait, too.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn waits_in_lane(&self, context: &Context, id: &ClawId, lane: &str) -> Result<bool> {
        use inbox::Column as C;
        let one: Option<i64> = visible(inbox::Entity::find(), context, C::Tenant)
            .select_only()
            .column(C::Seq)
            .filter(C::Instance.eq(id.as_str()))
            .filter(C::State.eq(to_word(&InboxState::Waiting)?))
            .filter(C::Lane.eq(lane))
            .limit(1)
            .into_tuple()
            .one(&self.0.reader)
            .await
            .map_err(db)?;
        Ok(one.is_some())
    }
}

impl Tx {
    /// Has a message tried again that was given up: its service sends it once more, and is told
    /// that it was taken. As it is sent now: what it is proven with may be new.
    async fn wanted_again(&self, instance: &ClawId, id: &str, sealed: Sealed, size: u64) -> Result<()> {
        use inbox::Column as C;
        inbox::Entity::update_many()
            .col_expr(C::State, Expr::value(to_word(&InboxState::Waiting)?))
            .col_expr(C::WrappedKey, Expr::value(sealed.wrapped_key))
            .col_expr(C::Content, Expr::value(sealed.value))
            .col_expr(C::Size, Expr::value(i64::try_from(size).unwrap_or(i64::MAX)))
            .col_expr(C::ReplayedAt, Expr::value(self.now.as_millis()))
            .col_expr(C::Attempts, Expr::value(0_i64))
            .col_expr(C::NextAt, Expr::value(0_i64))
            .filter(C::Instance.eq(instance.as_str()))
            .filter(C::Id.eq(id))
            .filter(C::State.eq(to_word(&InboxState::Dead)?))
            .exec(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }
}

/// Whether one more of this size may be kept. Answered by an index alone (`inbox_size`).
async fn check_limits(on: &impl ConnectionTrait, id: &ClawId, size: u64, limits: InboxLimits) -> Result<()> {
    use inbox::Column as C;
    let kept: Option<(i64, Option<i64>)> = inbox::Entity::find()
        .select_only()
        .column_as(C::Seq.count(), "messages")
        .column_as(Expr::col(C::Size).sum().cast_as("bigint"), "bytes")
        .filter(C::Instance.eq(id.as_str()))
        .into_tuple()
        .one(on)
        .await
        .map_err(db)?;
    let (count, bytes) = kept.unwrap_or_default();
    if u64::try_from(count).unwrap_or(0) >= limits.count {
        return Err(Error::new(Code::Overloaded, format!("{count} messages wait for '{id}' already"))
            .fix(format!("see 'clawfarm inbox ls {id}'; wake it, or drop what was given up")));
    }
    let bytes = u64::try_from(bytes.unwrap_or(0)).unwrap_or(0);
    if bytes.saturating_add(size) > limits.bytes {
        return Err(Error::new(
            Code::Insufficient,
            format!("the messages that wait for '{id}' have {bytes} bytes already"),
        )
        .fix(format!("see 'clawfarm inbox ls {id}'; wake it, or drop what was given up")));
    }
    Ok(())
}
