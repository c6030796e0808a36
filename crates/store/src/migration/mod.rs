//! The versions of the schema, in order. A migration that was released is never changed.

use sea_orm_migration::prelude::*;

mod columns;
mod m0001_first;
mod m0002_servers;
mod m0003_retention;
mod m0004_updates;
mod m0005_tickets;
mod m0006_sleep;
mod m0007_inbox;
mod m0008_sockets;
mod m0009_inbox_lanes;
mod m0010_configs;
mod m0011_secrets;
mod m0012_setup;
mod m0013_changes;
#[cfg(test)]
mod tests;

use crate::store::Schema;

pub(crate) struct Migrator;

impl Schema for Migrator {
    /// Since servers share a database, one that knows nothing of leases must not be among them.
    const COMPATIBLE_FROM: usize = 2;
}

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_first::Migration),
            Box::new(m0002_servers::Migration),
            Box::new(m0003_retention::Migration),
            Box::new(m0004_updates::Migration),
            Box::new(m0005_tickets::Migration),
            Box::new(m0006_sleep::Migration),
            Box::new(m0007_inbox::Migration),
            Box::new(m0008_sockets::Migration),
            Box::new(m0009_inbox_lanes::Migration),
            Box::new(m0010_configs::Migration),
            Box::new(m0011_secrets::Migration),
            Box::new(m0012_setup::Migration),
            Box::new(m0013_changes::Migration),
        ]
    }
}
