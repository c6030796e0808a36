//! The versions of the schema, in order. A migration that was released is never changed.

use sea_orm_migration::prelude::*;

mod columns;
mod m0001_first;
mod m0002_servers;

pub(crate) struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m0001_first::Migration), Box::new(m0002_servers::Migration)]
    }
}
