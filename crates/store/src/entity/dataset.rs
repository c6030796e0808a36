//! Datasets: data that outlived its instance.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "datasets")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub tenant: String,
    pub project: String,
    pub claw_type: String,
    pub version: String,
    pub target: String,
    pub size_bytes: i64,
    pub created_at: i64,
    /// The instance it was given to; it is listed no more, and the row goes when that one runs.
    pub taken_by: Option<String>,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
