//! What a configuration said at one time. Rows are never changed, but for when they were proven.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "config_revisions")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub tenant: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub config: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub number: i64,
    pub author: String,
    pub message: String,
    pub content: String,
    pub created_at: i64,
    pub proven_at: Option<i64>,
    /// The one that was published when this first was: what is gone back to from it.
    pub over_revision: Option<i64>,
    /// In how many places it differs from the one before.
    pub change_count: i64,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
