//! The first schema.
//!
//! The names of tables and columns are written out here and not taken from the entities: an
//! entity changes with later migrations, what this one made does not.

use sea_orm_migration::prelude::*;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0001_first"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in tables() {
            manager.create_table(table).await?;
        }
        for index in indexes() {
            manager.create_index(index).await?;
        }
        Ok(())
    }

    /// A kill in the middle leaves the schema as it was.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

fn text(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).text().not_null().take()
}

fn text_null(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).text().null().take()
}

fn int(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().not_null().take()
}

fn int_null(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().null().take()
}

fn serial(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().not_null().auto_increment().primary_key().take()
}

fn table(name: &'static str, columns: Vec<ColumnDef>, key: &[&'static str]) -> TableCreateStatement {
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

fn belongs_to_tenant(mut table: TableCreateStatement, from: &'static str) -> TableCreateStatement {
    table.foreign_key(ForeignKey::create().from(from, "tenant").to("tenants", "name")).take()
}

fn tables() -> Vec<TableCreateStatement> {
    let mut all = vec![
        table("meta", vec![text("key"), text("value"), int("updated_at")], &["key"]),
        table("tenants", vec![text("name"), int("created_at")], &["name"]),
        belongs_to_tenant(
            table("projects", vec![text("tenant"), text("name"), int("created_at")], &["tenant", "name"]),
            "projects",
        ),
        table(
            "targets",
            vec![
                text("name"),
                text("runtime"),
                text("labels"),
                text_null("reachable_from"),
                text("settings"),
                int("created_at"),
                int("updated_at"),
            ],
            &["name"],
        ),
    ];
    all.extend(instance_tables());
    all.extend(history_tables());
    all.extend(owned_tables());
    all
}

fn instance_tables() -> Vec<TableCreateStatement> {
    let mut instances = table(
        "instances",
        vec![
            text("id"),
            text("tenant"),
            text("project"),
            text("name"),
            text("claw_type"),
            text("runtime"),
            text("target"),
            text("phase"),
            text("desired"),
            int("generation"),
            int("run"),
            int_null("port"),
            int("version"),
            text("spec"),
            text("intent"),
            text_null("observed"),
            int_null("observed_at"),
            int_null("unknown_since"),
            text("health"),
            int("restarts"),
            int("memory_mib"),
            int("restarts_total"),
            int("attempts"),
            int_null("not_before"),
            int("phase_since"),
            text_null("last_error"),
            text("labels"),
            int("created_at"),
            int("updated_at"),
        ],
        &["id"],
    );
    instances
        .foreign_key(
            ForeignKey::create().from("instances", ("tenant", "project")).to("projects", ("tenant", "name")),
        )
        .foreign_key(ForeignKey::create().from("instances", "target").to("targets", "name"));
    let mut labels =
        table("instance_labels", vec![text("instance"), text("name"), text("value")], &["instance", "name"]);
    labels.foreign_key(
        ForeignKey::create()
            .from("instance_labels", "instance")
            .to("instances", "id")
            .on_delete(ForeignKeyAction::Cascade),
    );
    vec![instances, labels]
}

fn history_tables() -> Vec<TableCreateStatement> {
    vec![
        belongs_to_tenant(
            table(
                "events",
                vec![
                    serial("seq"),
                    int("at"),
                    text("tenant"),
                    text_null("instance"),
                    text("level"),
                    text("reason"),
                    text("message"),
                ],
                &[],
            ),
            "events",
        ),
        belongs_to_tenant(
            table(
                "audit",
                vec![
                    serial("seq"),
                    int("at"),
                    text("tenant"),
                    text("actor"),
                    text("action"),
                    text("kind"),
                    text("object"),
                    text("request_id"),
                    text("outcome"),
                    text("detail"),
                ],
                &[],
            ),
            "audit",
        ),
        belongs_to_tenant(
            table(
                "operations",
                vec![
                    text("id"),
                    text("tenant"),
                    text_null("instance"),
                    text("kind"),
                    int("generation"),
                    text("state"),
                    text("steps"),
                    text_null("error"),
                    int("created_at"),
                    int("updated_at"),
                    int_null("ended_at"),
                ],
                &["id"],
            ),
            "operations",
        ),
    ]
}

fn owned_tables() -> Vec<TableCreateStatement> {
    vec![
        belongs_to_tenant(
            table(
                "secrets",
                vec![
                    text("tenant"),
                    text("instance"),
                    text("name"),
                    text("wrapped_key"),
                    text("value"),
                    int("created_at"),
                    int("updated_at"),
                ],
                &["tenant", "instance", "name"],
            ),
            "secrets",
        ),
        belongs_to_tenant(
            table(
                "datasets",
                vec![
                    text("id"),
                    text("tenant"),
                    text("project"),
                    text("claw_type"),
                    text("version"),
                    text("target"),
                    int("size_bytes"),
                    int("created_at"),
                    text_null("taken_by"),
                ],
                &["id"],
            ),
            "datasets",
        ),
        belongs_to_tenant(
            table(
                "idempotency_keys",
                vec![
                    text("tenant"),
                    text("key"),
                    text("request_hash"),
                    text("instance"),
                    text("operation"),
                    int("created_at"),
                ],
                &["tenant", "key"],
            ),
            "idempotency_keys",
        ),
    ]
}

fn indexes() -> Vec<IndexCreateStatement> {
    let index = |name: &str, table: &'static str, columns: &[&'static str]| {
        let mut index = Index::create().name(name).table(table).take();
        for column in columns {
            index.col(*column);
        }
        index
    };
    vec![
        // NULLs are distinct in both databases: destroyed instances hold no port.
        index("instances_target_port", "instances", &["target", "port"]).unique().take(),
        index("instances_created", "instances", &["created_at", "id"]),
        index("instances_tenant_created", "instances", &["tenant", "created_at", "id"]),
        index("instances_tenant_name", "instances", &["tenant", "name"]),
        index("instances_phase", "instances", &["phase"]),
        index("instance_labels_value", "instance_labels", &["name", "value"]),
        index("events_instance", "events", &["instance", "seq"]),
        index("events_tenant", "events", &["tenant", "seq"]),
        index("audit_tenant", "audit", &["tenant", "seq"]),
        index("operations_instance", "operations", &["instance", "state"]),
        index("operations_tenant_created", "operations", &["tenant", "created_at", "id"]),
        index("operations_created", "operations", &["created_at", "id"]),
        index("datasets_taken_by", "datasets", &["taken_by"]),
        index("idempotency_keys_created", "idempotency_keys", &["created_at"]),
    ]
}
