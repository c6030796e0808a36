//! Messages that wait for their claws, in the order they came, encrypted like secrets.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "inbox")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub seq: i64,
    pub id: String,
    pub tenant: String,
    pub instance: String,
    /// One sender's messages, which are delivered one after the other.
    pub lane: String,
    pub path: String,
    pub state: String,
    pub wrapped_key: String,
    pub content: String,
    pub size: i64,
    pub received_at: i64,
    pub attempts: i64,
    /// Before this it is not tried again; 0 before the first try.
    pub next_at: i64,
    pub last_error: Option<String>,
    /// When it was last wanted again after it had been given up: its time to be taken begins then.
    pub replayed_at: Option<i64>,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
