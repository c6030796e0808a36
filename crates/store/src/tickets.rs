//! Tickets of the edge: each is used once, at whichever server it comes in.

use clawfarm_model::{Context, Error, Result, Timestamp};
use sea_orm::sea_query::OnConflict;
use sea_orm::{ColumnTrait as _, EntityTrait as _, IntoActiveModel as _, QueryFilter as _};

use crate::entity::ticket;
use crate::error::db;
use crate::guard::server_only;
use crate::store::Store;
use crate::tx::Tx;

/// For how many milliseconds a ticket is remembered after its end, by this server's clock. Servers' clocks differ:
/// what one takes for long over, another still honours. A day is more than any that is kept at all.
const REMEMBERED_MILLIS: i64 = 24 * 60 * 60 * 1000;
/// The longest number of a ticket, in characters.
const NUMBER_MAX: usize = 64;

impl Store {
    /// Marks a ticket as used, and returns whether it had not been. It is remembered for a
    /// day longer than it is good, since other servers' clocks may be behind.
    ///
    /// # Errors
    /// When the context is a tenant's, the number is too long to be one, or the database fails.
    pub async fn spend_ticket(&self, context: &Context, number: &str, until: Timestamp) -> Result<bool> {
        server_only(context, "a ticket")?;
        if number.is_empty() || number.len() > NUMBER_MAX {
            return Err(Error::invalid("ticket", "this is no number of a ticket")
                .fix("ask for a new one: clawfarm open"));
        }
        let tx = Tx::begin(&self.0).await?;
        ticket::Entity::delete_many()
            .filter(ticket::Column::Until.lt(tx.now.as_millis().saturating_sub(REMEMBERED_MILLIS)))
            .exec(tx.on())
            .await
            .map_err(db)?;
        let row = ticket::Model { number: number.to_owned(), until: until.as_millis() };
        let there = OnConflict::column(ticket::Column::Number).do_nothing().to_owned();
        let made = ticket::Entity::insert(row.into_active_model())
            .on_conflict(there)
            .exec_without_returning(tx.on())
            .await
            .map_err(db)?;
        tx.commit().await?;
        Ok(made > 0)
    }
}
