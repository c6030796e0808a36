//! Versions of secrets, their rotation, and which of them a claw was given.
//!
//! Only columns that have a default or may be empty, and a table of its own: a server of before
//! neither reads nor writes them. One that has no instances' secrets alone to list, because
//! somebody set a project's meanwhile, can't list them until it is upgraded, too.

use sea_orm_migration::prelude::*;

use super::columns::{Columns, table};

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0011_secrets"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let c = Columns(manager.get_database_backend());
        // SQLite adds one column at a time.
        for column in [
            c.int("version").default(1).take(),
            c.text_null("previous_key"),
            c.text_null("previous_value"),
            c.text_null("rotation"),
            c.text_null("value_id"),
            c.text_null("previous_id"),
        ] {
            manager.alter_table(Table::alter().table("secrets").add_column(column).take()).await?;
        }
        // What is looked for every few seconds is mostly nothing.
        let index = Index::create().name("secrets_rotation").table("secrets").col("rotation").take();
        manager.create_index(index).await?;
        let given = vec![c.text("instance"), c.int("run"), c.text("secrets")];
        manager.create_table(table("given_secrets", given, &["instance"])).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
