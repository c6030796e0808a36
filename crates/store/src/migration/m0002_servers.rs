//! Several servers on one database: who they are, and which of them reconciles what.

use sea_orm_migration::prelude::*;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0002_servers"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(servers()).await?;
        manager.create_table(leases()).await?;
        // A server that takes over a shard looks for what is under way in it.
        let running = Index::create().name("operations_state").table("operations").col("state").take();
        manager.create_index(running).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

fn text(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).text().not_null().take()
}

fn int(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().not_null().take()
}

fn servers() -> TableCreateStatement {
    Table::create()
        .table("servers")
        .col(text("node").primary_key())
        .col(text("session"))
        .col(text("name").unique_key())
        .col(text("version"))
        .col(ColumnDef::new("address").text().null())
        .col(text("targets"))
        .col(int("started_at"))
        .col(int("seen_at"))
        .col(int("expires_at"))
        .take()
}

fn leases() -> TableCreateStatement {
    Table::create()
        .table("leases")
        .col(text("target"))
        .col(int("shard"))
        .col(ColumnDef::new("holder").text().null())
        .col(int("epoch"))
        .col(int("expires_at"))
        .primary_key(Index::create().col("target").col("shard"))
        .take()
}
