//! Several servers on one database: who they are, and which of them reconciles what.

use sea_orm_migration::prelude::*;

use super::columns::Columns;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0002_servers"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let c = Columns(manager.get_database_backend());
        manager.create_table(servers(c)).await?;
        manager.create_table(leases(c)).await?;
        // A server that takes over a shard looks for what is under way in it.
        let running = Index::create().name("operations_state").table("operations").col("state").take();
        manager.create_index(running).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

fn servers(c: Columns) -> TableCreateStatement {
    Table::create()
        .table("servers")
        .col(c.text("node").primary_key())
        .col(c.text("session"))
        .col(c.text("name").unique_key())
        .col(c.text("version"))
        .col(c.text_null("address"))
        .col(c.text("targets"))
        .col(c.int("started_at"))
        .col(c.int("seen_at"))
        .col(c.int("expires_at"))
        .take()
}

fn leases(c: Columns) -> TableCreateStatement {
    Table::create()
        .table("leases")
        .col(c.text("target"))
        .col(c.int("shard"))
        .col(c.text_null("holder"))
        .col(c.int("epoch"))
        .col(c.int("expires_at"))
        .primary_key(Index::create().col("target").col("shard"))
        .take()
}
