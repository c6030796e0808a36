//! The configuration centre.

use sea_orm_migration::prelude::*;

use super::columns::{Columns, table};

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0010_configs"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let c = Columns(manager.get_database_backend());
        for table in tables(c) {
            manager.create_table(table).await?;
        }
        // SQLite adds one column at a time.
        for column in [c.text_null("template"), c.text_null("layers"), c.int("in_force").default(0).take()] {
            manager.alter_table(Table::alter().table("instances").add_column(column).take()).await?;
        }
        let index = |name: &str, table: &'static str, columns: &[&'static str]| {
            let mut index = Index::create().name(name).table(table).take();
            for column in columns {
                index.col(*column);
            }
            index
        };
        // One rollout of a configuration at a time.
        manager.create_index(index("rollouts_active", "rollouts", &["active"]).unique().take()).await?;
        manager.create_index(index("rollouts_of", "rollouts", &["tenant", "config", "created_at"])).await?;
        let turns = index("rollout_members_turn", "rollout_members", &["rollout", "state", "place"]);
        manager.create_index(turns).await?;
        manager.create_index(index("instances_template", "instances", &["tenant", "template"])).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

fn tables(c: Columns) -> Vec<TableCreateStatement> {
    let configs = vec![
        c.text("tenant"),
        c.text("name"),
        c.int("head"),
        c.int_null("published"),
        c.int("version"),
        c.int("created_at"),
        c.int("updated_at"),
        c.int_null("removed_at"),
    ];
    let revisions = vec![
        c.text("tenant"),
        c.text("config"),
        c.int("number"),
        c.text("author"),
        c.text("message"),
        c.text("content"),
        c.int("created_at"),
        c.int_null("proven_at"),
        c.int_null("over_revision"),
        c.int("change_count"),
    ];
    let rollouts = vec![
        c.text("id"),
        c.text("tenant"),
        c.text("config"),
        c.text_null("active"),
        c.int_null("from_revision"),
        c.int("to_revision"),
        c.text("selector"),
        c.text("strategy"),
        c.text("stage"),
        c.int("step"),
        c.int("stage_since"),
        c.text_null("paused_from"),
        c.int("promoted"),
        c.text("author"),
        c.text("message"),
        c.text_null("error"),
        c.int("version"),
        c.int("created_at"),
        c.int_null("ended_at"),
    ];
    let members = vec![
        c.text("rollout"),
        c.text("instance"),
        c.int("place"),
        c.text("state"),
        c.int("since"),
        c.int_null("before_revision"),
        c.text("impact"),
        c.int("ends_before"),
        c.int("was_well"),
        c.int("was_up"),
        c.int("seen"),
        c.text_null("error"),
    ];
    vec![
        table("configs", configs, &["tenant", "name"]),
        table("config_revisions", revisions, &["tenant", "config", "number"]),
        table("rollouts", rollouts, &["id"]),
        table("rollout_members", members, &["rollout", "instance"]),
    ]
}
