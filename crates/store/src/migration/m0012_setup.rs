//! How far the commands are that set a machine up.
//!
//! A column that may be empty: a server of before neither reads nor writes it, and has no runtime
//! for machines.

use sea_orm_migration::prelude::*;

use super::columns::Columns;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0012_setup"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let c = Columns(manager.get_database_backend());
        let column = c.text_null("setup");
        manager.alter_table(Table::alter().table("instances").add_column(column).take()).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
