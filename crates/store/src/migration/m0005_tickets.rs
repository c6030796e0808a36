//! Tickets of the edge that were used, so that each is used once at whichever server.
//!
//! A server of before does not read it: what was used there can be used here once more, within
//! the minute that a ticket lasts.

use sea_orm_migration::prelude::*;

use super::columns::{Columns, table};

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0005_tickets"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let c = Columns(manager.get_database_backend());
        manager.create_table(table("edge_tickets", vec![c.text("number"), c.int("until")], &["number"])).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
