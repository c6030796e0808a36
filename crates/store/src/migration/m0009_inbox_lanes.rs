//! What the inbox asks at each message is answered by indexes alone: a row's numbers are behind
//! its content, and to read them is to read all of that. And when a message was wanted again, so
//! that it is kept no longer for that.
//!
//! A column that may be empty: a server of before neither reads nor writes it.

use sea_orm_migration::prelude::*;

use super::columns::Columns;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0009_inbox_lanes"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let column = Columns(manager.get_database_backend()).int_null("replayed_at");
        manager.alter_table(Table::alter().table("inbox").add_column(column).take()).await?;
        let index = |name: &str, columns: &[&'static str]| {
            let mut index = Index::create().name(name).table("inbox").take();
            for column in columns {
                index.col(*column);
            }
            index
        };
        // How many there are, and how large they are together.
        manager.create_index(index("inbox_size", &["instance", "size"])).await?;
        // The oldest of each sender, and when it is to be tried.
        manager.create_index(index("inbox_heads", &["instance", "state", "lane", "seq", "next_at"])).await?;
        // Its columns are the first of the one above.
        manager.drop_index(Index::drop().name("inbox_lane").table("inbox").to_owned()).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
