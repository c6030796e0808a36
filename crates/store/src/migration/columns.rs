//! What the tables of all migrations are made of: text and 64-bit integers.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

/// Columns as one database writes them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns(pub(super) DbBackend);

impl Columns {
    /// Text that is compared by its bytes, as SQLite does: PostgreSQL would compare it by the
    /// rules of a language, which change with the machine's C library and can't use an index to
    /// find a beginning.
    pub(super) fn text(self, name: &'static str) -> ColumnDef {
        self.bytewise(ColumnDef::new(name).text().not_null().take())
    }

    /// Text, or nothing.
    pub(super) fn text_null(self, name: &'static str) -> ColumnDef {
        self.bytewise(ColumnDef::new(name).text().null().take())
    }

    fn bytewise(self, mut column: ColumnDef) -> ColumnDef {
        if self.0 == DbBackend::Postgres {
            column.extra("COLLATE \"C\"");
        }
        column
    }

    /// A number.
    pub(super) fn int(self, name: &'static str) -> ColumnDef {
        ColumnDef::new(name).big_integer().not_null().take()
    }

    /// A number, or nothing.
    pub(super) fn int_null(self, name: &'static str) -> ColumnDef {
        ColumnDef::new(name).big_integer().null().take()
    }

    /// A number that the database gives, and gives to no other row later.
    pub(super) fn serial(self, name: &'static str) -> ColumnDef {
        ColumnDef::new(name).big_integer().not_null().auto_increment().primary_key().take()
    }
}

/// A table of these columns, with a key of one or several of them.
pub(super) fn table(
    name: &'static str,
    columns: Vec<ColumnDef>,
    key: &[&'static str],
) -> TableCreateStatement {
    let mut table = Table::create().table(name).take();
    for column in columns {
        table.col(column);
    }
    if !key.is_empty() {
        let mut index = Index::create();
        for column in key {
            index.col(*column);
        }
        table.primary_key(&mut index);
    }
    table
}
