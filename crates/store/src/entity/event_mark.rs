//! Up to where events were pruned: of each instance, and of each tenant (with no instance).

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "event_marks")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub tenant: String,
    /// Empty for the tenant's own: `NULL`s would not be unique.
    #[sea_orm(primary_key, auto_increment = false)]
    pub instance: String,
    /// The highest number that is gone.
    pub gone: i64,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
