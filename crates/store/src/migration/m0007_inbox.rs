//! Messages for claws that could not take them when they came.

use sea_orm_migration::prelude::*;

use super::columns::{Columns, table};

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0007_inbox"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let c = Columns(manager.get_database_backend());
        let inbox = table(
            "inbox",
            vec![
                c.serial("seq"),
                c.text("id"),
                c.text("tenant"),
                c.text("instance"),
                c.text("lane"),
                c.text("path"),
                c.text("state"),
                c.text("wrapped_key"),
                c.text("content"),
                c.int("size"),
                c.int("received_at"),
                c.int("attempts"),
                c.int("next_at"),
                c.text_null("last_error"),
            ],
            &[],
        );
        manager.create_table(inbox).await?;
        let index = |name: &str, columns: &[&'static str]| {
            let mut index = Index::create().name(name).table("inbox").take();
            for column in columns {
                index.col(*column);
            }
            index
        };
        manager.create_index(index("inbox_id", &["id"]).unique().take()).await?;
        // The oldest of each sender, and whether one waits.
        manager.create_index(index("inbox_lane", &["instance", "state", "lane", "seq"])).await?;
        manager.create_index(index("inbox_received", &["state", "received_at"])).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
