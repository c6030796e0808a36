//! Configurations of the centre. Nothing in `tenant`: the fleet's.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "configs")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub tenant: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    pub head: i64,
    pub published: Option<i64>,
    pub version: i64,
    pub created_at: i64,
    pub updated_at: i64,
    /// When it was removed. The row stays, for one of the same name that is made anew: its
    /// revisions are numbered on, so that a number never means two contents.
    pub removed_at: Option<i64>,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
