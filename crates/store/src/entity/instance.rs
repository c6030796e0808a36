//! Instances. Columns of their own for what is filtered, ordered or unique; the rest is JSON.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "instances")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub tenant: String,
    pub project: String,
    pub name: String,
    pub claw_type: String,
    pub runtime: String,
    pub target: String,
    pub phase: String,
    pub desired: String,
    pub generation: i64,
    pub run: i64,
    /// `NULL` once destroyed, so that the unique key lets the next instance have it.
    pub port: Option<i64>,
    /// What it was promised, in MiB, so that a target's promises can be summed.
    pub memory_mib: i64,
    /// Of the row: grows with every write.
    pub version: i64,
    pub spec: String,
    pub intent: String,
    pub observed: Option<String>,
    pub observed_at: Option<i64>,
    pub unknown_since: Option<i64>,
    pub health: String,
    pub restarts: i64,
    pub restarts_total: i64,
    pub attempts: i64,
    pub not_before: Option<i64>,
    pub phase_since: i64,
    pub last_error: Option<String>,
    /// Since the fourth schema.
    pub software_update: Option<String>,
    /// The template it is bound to. This and the next two since the configuration centre.
    pub template: Option<String>,
    pub layers: Option<String>,
    pub in_force: i64,
    /// How far the commands are that set its machine up. Since virtual machines.
    pub setup: Option<String>,
    pub labels: String,
    pub created_at: i64,
    pub updated_at: i64,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
