//! The audit log: who did what to which object, and what came of it.

use clawfarm_model::{Context, Granted, Result, Timestamp};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde::Serialize;

use crate::convert::time;
use crate::entity::audit;
use crate::error::db;
use crate::guard::visible;
use crate::page::{Page, PageRequest, Place, page};
use crate::store::Store;
use crate::tx::Tx;

const LIST: &str = "audit";

/// What came of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was not.
    Refused,
}

impl Outcome {
    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
        }
    }
}

/// One entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// Its number: grows with every entry.
    pub seq: i64,
    /// When.
    pub at: Timestamp,
    /// Whose object it was.
    pub tenant: String,
    /// Who did it: `owner:<name>` or `system:<task>`.
    pub actor: String,
    /// What: the word of an [`Action`](clawfarm_model::Action).
    pub action: String,
    /// To what kind of object.
    pub kind: String,
    /// To which.
    pub object: String,
    /// In which request; empty for the server's own tasks.
    pub request_id: String,
    /// What came of it.
    pub outcome: Outcome,
    /// More, in words.
    pub detail: String,
}

impl Store {
    /// The audit log, newest first.
    ///
    /// # Errors
    /// When the cursor or limit is wrong, or the database fails.
    pub async fn audit(&self, context: &Context, request: &PageRequest) -> Result<Page<AuditEntry>> {
        let limit = request.rows()?;
        let mut query = visible(audit::Entity::find(), context, audit::Column::Tenant)
            .order_by_desc(audit::Column::Seq)
            .limit(limit as u64 + 1);
        if let Some(place) = request.place(LIST)? {
            query = query.filter(audit::Column::Seq.lt(place.at));
        }
        let rows = query.all(&self.0.reader).await.map_err(db)?;
        page(rows, limit, LIST, |row| Place { at: row.seq, id: String::new() }, |row| Ok(entry(row)))
    }

    /// Writes down a thing that changes nothing in the store but must be known of, such as a
    /// token that was shown. Never put the thing itself into `detail`.
    ///
    /// # Errors
    /// When the database fails: then the thing must not happen either.
    pub async fn record_audit(&self, granted: &Granted, outcome: Outcome, detail: &str) -> Result<()> {
        let tx = Tx::begin(&self.0).await?;
        tx.audit(granted, outcome, detail).await?;
        tx.commit().await
    }
}

fn entry(row: audit::Model) -> AuditEntry {
    AuditEntry {
        seq: row.seq,
        at: time(row.at),
        tenant: row.tenant,
        actor: row.actor,
        action: row.action,
        kind: row.kind,
        object: row.object,
        request_id: row.request_id,
        outcome: if row.outcome == Outcome::Done.as_str() { Outcome::Done } else { Outcome::Refused },
        detail: row.detail,
    }
}
