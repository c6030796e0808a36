//! What was pruned is known, so that a watcher who comes back too late is told.

use sea_orm_migration::prelude::*;

use super::columns::{Columns, table};

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0003_retention"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let c = Columns(manager.get_database_backend());
        let marks = table(
            "event_marks",
            vec![c.text("tenant"), c.text("instance"), c.int("gone")],
            &["tenant", "instance"],
        );
        manager.create_table(marks).await?;
        // Ended operations are pruned from the oldest on.
        let ended = Index::create().name("operations_ended").table("operations").col("ended_at").take();
        manager.create_index(ended).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
