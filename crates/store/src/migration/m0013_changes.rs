//! Rollouts of what instances say themselves: what each says otherwise, for the way there and back.
//!
//! Only a column that may be empty. A server of before can't read such a rollout, and leaves it to
//! those that can.

use sea_orm_migration::prelude::*;

use super::columns::Columns;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0013_changes"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let c = Columns(manager.get_database_backend());
        let column = c.text_null("changes");
        manager.alter_table(Table::alter().table("rollout_members").add_column(column).take()).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
