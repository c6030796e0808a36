//! What is remembered of a claw's use: not part of its row, which grows a version with each write.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "rests")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub instance: String,
    pub tenant: String,
    /// When it was last used, as far as that was written down.
    pub active_at: Option<i64>,
    /// When a WebSocket to it was last seen open, as far as that was written down.
    pub sockets_at: Option<i64>,
    /// When its next job or heartbeat is due, as it said before it slept.
    pub next_run_at: Option<i64>,
    /// The rest, as JSON.
    pub facts: String,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
