//! The first schema.
//!
//! The names of tables and columns are written out here and not taken from the entities: an
//! entity changes with later migrations, what this one made does not.

use sea_orm_migration::prelude::*;

use super::columns::{Columns, table};

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0001_first"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in tables(Columns(manager.get_database_backend())) {
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

fn belongs_to_tenant(mut table: TableCreateStatement, from: &'static str) -> TableCreateStatement {
    table.foreign_key(ForeignKey::create().from(from, "tenant").to("tenants", "name")).take()
}

fn tables(c: Columns) -> Vec<TableCreateStatement> {
    let mut all = vec![
        table("meta", vec![c.text("key"), c.text("value"), c.int("updated_at")], &["key"]),
        table("tenants", vec![c.text("name"), c.int("created_at")], &["name"]),
        belongs_to_tenant(
            table(
                "projects",
                vec![c.text("tenant"), c.text("name"), c.int("created_at")],
                &["tenant", "name"],
            ),
            "projects",
        ),
        table(
            "targets",
            vec![
                c.text("name"),
                c.text("runtime"),
                c.text("labels"),
                c.text_null("reachable_from"),
                c.text("settings"),
                c.int("created_at"),
                c.int("updated_at"),
            ],
            &["name"],
        ),
    ];
    all.extend(instance_tables(c));
    all.extend(history_tables(c));
    all.extend(owned_tables(c));
    all
}

fn instance_tables(c: Columns) -> Vec<TableCreateStatement> {
    let mut instances = table(
        "instances",
        vec![
            c.text("id"),
            c.text("tenant"),
            c.text("project"),
            c.text("name"),
            c.text("claw_type"),
            c.text("runtime"),
            c.text("target"),
            c.text("phase"),
            c.text("desired"),
            c.int("generation"),
            c.int("run"),
            c.int_null("port"),
            c.int("version"),
            c.text("spec"),
            c.text("intent"),
            c.text_null("observed"),
            c.int_null("observed_at"),
            c.int_null("unknown_since"),
            c.text("health"),
            c.int("restarts"),
            c.int("memory_mib"),
            c.int("restarts_total"),
            c.int("attempts"),
            c.int_null("not_before"),
            c.int("phase_since"),
            c.text_null("last_error"),
            c.text("labels"),
            c.int("created_at"),
            c.int("updated_at"),
        ],
        &["id"],
    );
    instances
        .foreign_key(
            ForeignKey::create().from("instances", ("tenant", "project")).to("projects", ("tenant", "name")),
        )
        .foreign_key(ForeignKey::create().from("instances", "target").to("targets", "name"));
    let mut labels = table(
        "instance_labels",
        vec![c.text("instance"), c.text("name"), c.text("value")],
        &["instance", "name"],
    );
    labels.foreign_key(
        ForeignKey::create()
            .from("instance_labels", "instance")
            .to("instances", "id")
            .on_delete(ForeignKeyAction::Cascade),
    );
    vec![instances, labels]
}

fn history_tables(c: Columns) -> Vec<TableCreateStatement> {
    vec![
        belongs_to_tenant(
            table(
                "events",
                vec![
                    c.serial("seq"),
                    c.int("at"),
                    c.text("tenant"),
                    c.text_null("instance"),
                    c.text("level"),
                    c.text("reason"),
                    c.text("message"),
                ],
                &[],
            ),
            "events",
        ),
        belongs_to_tenant(
            table(
                "audit",
                vec![
                    c.serial("seq"),
                    c.int("at"),
                    c.text("tenant"),
                    c.text("actor"),
                    c.text("action"),
                    c.text("kind"),
                    c.text("object"),
                    c.text("request_id"),
                    c.text("outcome"),
                    c.text("detail"),
                ],
                &[],
            ),
            "audit",
        ),
        belongs_to_tenant(
            table(
                "operations",
                vec![
                    c.text("id"),
                    c.text("tenant"),
                    c.text_null("instance"),
                    c.text("kind"),
                    c.int("generation"),
                    c.text("state"),
                    c.text("steps"),
                    c.text_null("error"),
                    c.int("created_at"),
                    c.int("updated_at"),
                    c.int_null("ended_at"),
                ],
                &["id"],
            ),
            "operations",
        ),
    ]
}

fn owned_tables(c: Columns) -> Vec<TableCreateStatement> {
    vec![
        belongs_to_tenant(
            table(
                "secrets",
                vec![
                    c.text("tenant"),
                    c.text("instance"),
                    c.text("name"),
                    c.text("wrapped_key"),
                    c.text("value"),
                    c.int("created_at"),
                    c.int("updated_at"),
                ],
                &["tenant", "instance", "name"],
            ),
            "secrets",
        ),
        belongs_to_tenant(
            table(
                "datasets",
                vec![
                    c.text("id"),
                    c.text("tenant"),
                    c.text("project"),
                    c.text("claw_type"),
                    c.text("version"),
                    c.text("target"),
                    c.int("size_bytes"),
                    c.int("created_at"),
                    c.text_null("taken_by"),
                ],
                &["id"],
            ),
            "datasets",
        ),
        belongs_to_tenant(
            table(
                "idempotency_keys",
                vec![
                    c.text("tenant"),
                    c.text("key"),
                    c.text("request_hash"),
                    c.text("instance"),
                    c.text("operation"),
                    c.int("created_at"),
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
