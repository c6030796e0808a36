//! The databases a server is measured on.

use std::process::Command;

use clawfarm_test_postgres as postgres;

/// Where a server keeps its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// In a file of its home
    Sqlite,
    /// In a PostgreSQL server of its own, on the same machine
    Postgres,
}

/// A database that is empty, and goes with this.
pub(crate) enum Database {
    Sqlite,
    /// Dropped in this order.
    Postgres(
        postgres::Database,
        #[expect(dead_code, reason = "it runs as long as this is kept")] postgres::Server,
    ),
}

impl Database {
    pub(crate) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Sqlite => Self::Sqlite,
            Kind::Postgres => {
                let server = postgres::Server::durable();
                Self::Postgres(server.database(), server)
            }
        }
    }

    /// Tells a server to use it.
    pub(crate) fn configure(&self, command: &mut Command) {
        match self {
            Self::Sqlite => {}
            Self::Postgres(database, _) => {
                command.env("CLAWFARM_DATABASE", database.url());
            }
        }
    }
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }
}
