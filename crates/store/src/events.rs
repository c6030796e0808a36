//! Events: read from where a watcher stopped, written with the change they tell of.

use clawfarm_model::event::{Event, NewEvent};
use clawfarm_model::name::TenantName;
use clawfarm_model::{ClawId, Context, Error, Granted, Result};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use tokio::sync::watch;

use crate::convert::{from_word, name, time};
use crate::entity::event;
use crate::error::db;
use crate::guard::{about, server_only, visible};
use crate::page::PageRequest;
use crate::store::Store;
use crate::tx::Tx;

/// Which events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Of this instance only. Events of one that was destroyed stay readable.
    pub instance: Option<ClawId>,
    /// Those after this number.
    pub after_seq: Option<i64>,
    /// The newest of them instead of the oldest; the answer is in order all the same.
    pub newest: bool,
}

/// An event, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The tenant whose event it is.
    pub tenant: TenantName,
    /// What happened.
    pub event: Event,
}

impl Store {
    /// The events of all tenants after number `after`, in the order of [`Store::events`], at
    /// most `limit` (1 to [`PageRequest::MAX`]). For the one reader of a server that tells
    /// everyone who watches.
    ///
    /// # Errors
    /// When the context is a tenant's, the limit is out of range, or the database fails.
    pub async fn events_of_all(&self, context: &Context, after: i64, limit: u32) -> Result<Vec<Told>> {
        server_only(context, "the events of all tenants")?;
        let limit = PageRequest::after(None, limit).rows()?;
        let rows = event::Entity::find()
            .filter(event::Column::Seq.gt(after))
            .order_by_asc(event::Column::Seq)
            .limit(limit as u64)
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        rows.into_iter()
            .map(|row| {
                let tenant = name("event", &row.seq.to_string(), &row.tenant)?;
                Ok(Told { tenant, event: read(row)? })
            })
            .collect()
    }

    /// Events in the order they were written, at most `limit` (1 to [`PageRequest::MAX`]).
    ///
    /// # Errors
    /// When the limit is out of range, or the database fails.
    pub async fn events(&self, context: &Context, filter: &EventFilter, limit: u32) -> Result<Vec<Event>> {
        let limit = PageRequest::after(None, limit).rows()?;
        let mut query = visible(event::Entity::find(), context, event::Column::Tenant).limit(limit as u64);
        if let Some(id) = &filter.instance {
            query = query.filter(event::Column::Instance.eq(id.as_str()));
        }
        if let Some(seq) = filter.after_seq {
            query = query.filter(event::Column::Seq.gt(seq));
        }
        query = if filter.newest {
            query.order_by_desc(event::Column::Seq)
        } else {
            query.order_by_asc(event::Column::Seq)
        };
        let mut rows = query.all(&self.0.reader).await.map_err(db)?;
        if filter.newest {
            rows.reverse();
        }
        rows.into_iter().map(read).collect()
    }

    /// The number of the latest event, told after each commit that wrote one, by whichever
    /// server on this database. It tells that
    /// there is something to read, not what: a watcher reads [`Store::events`] from where it
    /// stopped, so that a slow one misses nothing.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<i64> {
        self.0.signals.events()
    }

    /// Writes an event by itself, of the instance when the leave is for one, else of the
    /// tenant. For what happened without a change in the store.
    ///
    /// # Errors
    /// When the leave is for an instance that is not its tenant's, or the database fails.
    pub async fn record_event(&self, granted: &Granted, event: &NewEvent) -> Result<()> {
        let resource = granted.resource();
        let mut tx = Tx::begin(&self.0).await?;
        let instance = if resource.kind == "instance" {
            let row = tx.instance(&resource.id).await?;
            about(granted, &row.tenant, "instance", &row.id)?;
            Some(ClawId::new(resource.id.as_str()).map_err(|_| Error::not_found("instance", &resource.id))?)
        } else {
            None
        };
        tx.event(resource.tenant.as_str(), instance.as_ref(), event)?;
        tx.commit().await
    }
}

fn read(row: event::Model) -> Result<Event> {
    let id = row.seq.to_string();
    Ok(Event {
        seq: row.seq,
        at: time(row.at),
        instance: row.instance.map(|text| name("event", &id, &text)).transpose()?,
        level: from_word("event", &id, &row.level)?,
        reason: row.reason,
        message: row.message,
    })
}
