//! When a WebSocket to a claw was last seen open, at whichever server.
//!
//! A column that may be empty: a server of before neither reads nor writes it.

use sea_orm_migration::prelude::*;

use super::columns::Columns;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0008_sockets"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let c = Columns(manager.get_database_backend());
        let column = c.int_null("sockets_at");
        manager.alter_table(Table::alter().table("rests").add_column(column).take()).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
