//! The instances of rollouts.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "rollout_members")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub rollout: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub instance: String,
    pub place: i64,
    pub state: String,
    pub since: i64,
    pub before_revision: Option<i64>,
    pub impact: String,
    pub ends_before: i64,
    pub was_well: i64,
    pub was_up: i64,
    pub seen: i64,
    pub error: Option<String>,
    /// What the instance says otherwise, as JSON, in a rollout of that.
    pub changes: Option<String>,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
