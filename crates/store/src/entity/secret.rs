//! Secrets, encrypted: a data key each, wrapped by the master key.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "secrets")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub tenant: String,
    /// The instance's id, `project/<name>`, or `global/` for the whole farm's; empty for the
    /// tenant's own: `NULL`s would not be unique.
    #[sea_orm(primary_key, auto_increment = false)]
    pub instance: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    pub wrapped_key: String,
    pub value: String,
    pub created_at: i64,
    pub updated_at: i64,
    /// Counts its values. This and those after it since the eleventh schema.
    pub version: i64,
    /// The value before, sealed as the value is, while it is kept.
    pub previous_key: Option<String>,
    pub previous_value: Option<String>,
    /// Its rotation, as JSON.
    pub rotation: Option<String>,
    /// By what its values are told apart: nothing for one of before this column.
    pub value_id: Option<String>,
    pub previous_id: Option<String>,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
