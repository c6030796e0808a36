//! The update of an instance's software that is under way.
//!
//! A column that may be empty: a server of before neither reads nor writes it, so that it can
//! go on beside this one. What it finds half-way it starts with the version that the row names.

use sea_orm_migration::prelude::*;

use super::columns::Columns;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0004_updates"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let c = Columns(manager.get_database_backend());
        let column = c.text_null("software_update");
        manager.alter_table(Table::alter().table("instances").add_column(column).take()).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
