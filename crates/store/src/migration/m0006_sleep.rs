//! When claws sleep: policies of projects, tenants and the server, and what is remembered of each
//! claw's use.
//!
//! Tables of their own: a server of before goes on beside this one, and puts nothing to sleep.

use sea_orm_migration::prelude::*;

use super::columns::{Columns, table};

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0006_sleep"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let c = Columns(manager.get_database_backend());
        let policies = table(
            "policies",
            vec![c.text("tenant"), c.text("project"), c.text("policy"), c.int("updated_at")],
            &["tenant", "project"],
        );
        manager.create_table(policies).await?;
        let rests = table(
            "rests",
            vec![
                c.text("instance"),
                c.text("tenant"),
                c.int_null("active_at"),
                c.int_null("next_run_at"),
                c.text("facts"),
            ],
            &["instance"],
        );
        manager.create_table(rests).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
