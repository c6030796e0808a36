//! Revisions on their way to instances.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "rollouts")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub tenant: String,
    pub config: String,
    /// `tenant/config` while it is under way, and nothing afterwards: the unique key lets one be.
    pub active: Option<String>,
    pub from_revision: Option<i64>,
    pub to_revision: i64,
    pub selector: String,
    pub strategy: String,
    pub stage: String,
    pub step: i64,
    pub stage_since: i64,
    pub paused_from: Option<String>,
    pub promoted: i64,
    pub author: String,
    pub message: String,
    pub error: Option<String>,
    pub version: i64,
    pub created_at: i64,
    pub ended_at: Option<i64>,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
