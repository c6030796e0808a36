//! What is remembered of each claw's use, for when it sleeps and when it is woken.
//!
//! Written without an event: nobody watches it, and a claw that is used all day would fill the
//! history. Each write is for the server's own tasks.

use clawfarm_model::{ClawId, Context, Result, Timestamp};
use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{ColumnTrait, EntityTrait, ExprTrait as _, QueryFilter};

use crate::convert::time;
use crate::entity::rest;
use crate::error::db;
use crate::guard::server_only;
use crate::store::Store;
use crate::tx::Tx;

/// What is remembered of one claw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// When it was last used. Behind by as much as such marks are written seldom.
    pub active_at: Option<Timestamp>,
    /// When a WebSocket to it was last seen open at any server, whether or not anybody said anything
    /// on it. Written as seldom.
    pub sockets_at: Option<Timestamp>,
    /// When its next job or heartbeat is due, as it said before it slept.
    pub next_run_at: Option<Timestamp>,
    /// What else the server keeps, as JSON; empty at first.
    pub facts: String,
}

impl Store {
    /// What is remembered of a claw; nothing of one that was never used.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn rest(&self, context: &Context, id: &ClawId) -> Result<Rest> {
        server_only(context, "what is remembered of a claw's use")?;
        let row = rest::Entity::find_by_id(id.as_str()).one(&self.0.reader).await.map_err(db)?;
        Ok(row.map_or_else(Rest::default, |row| Rest {
            active_at: row.active_at.map(time),
            sockets_at: row.sockets_at.map(time),
            next_run_at: row.next_run_at.map(time),
            facts: row.facts,
        }))
    }

    /// Remembers it as it is given, but for [`Rest::active_at`], which only moves on, and
    /// [`Rest::sockets_at`], which is only [`Self::mark_sockets`]'s to write.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn put_rest(&self, context: &Context, id: &ClawId, tenant: &str, rest: &Rest) -> Result<()> {
        server_only(context, "what is remembered of a claw's use")?;
        let tx = Tx::begin(&self.0).await?;
        tx.rest_row(id, tenant).await?;
        rest::Entity::update_many()
            .col_expr(rest::Column::NextRunAt, Expr::value(rest.next_run_at.map(|t| t.as_millis())))
            .col_expr(rest::Column::Facts, Expr::value(rest.facts.clone()))
            .filter(rest::Column::Instance.eq(id.as_str()))
            .exec(tx.on())
            .await
            .map_err(db)?;
        if let Some(at) = rest.active_at {
            tx.mark_active(id, at).await?;
        }
        tx.commit().await
    }

    /// Remembers when claws were last used, in one transaction. An earlier time than what is known
    /// changes nothing: several servers write what each has seen.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn mark_active(&self, context: &Context, used: &[(ClawId, String, Timestamp)]) -> Result<()> {
        server_only(context, "what is remembered of a claw's use")?;
        let tx = Tx::begin(&self.0).await?;
        for (id, tenant, at) in used {
            tx.rest_row(id, tenant).await?;
            tx.mark_active(id, *at).await?;
        }
        tx.commit().await
    }

    /// Remembers that WebSockets to these claws were open at this time, in one transaction. An
    /// earlier time than what is known changes nothing.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn mark_sockets(
        &self,
        context: &Context,
        open: &[(ClawId, String)],
        at: Timestamp,
    ) -> Result<()> {
        server_only(context, "what is remembered of a claw's use")?;
        let tx = Tx::begin(&self.0).await?;
        for (id, tenant) in open {
            tx.rest_row(id, tenant).await?;
            tx.mark(id, rest::Column::SocketsAt, at).await?;
        }
        tx.commit().await
    }
}

impl Tx {
    async fn rest_row(&self, id: &ClawId, tenant: &str) -> Result<()> {
        let row = rest::ActiveModel {
            instance: Set(id.as_str().to_owned()),
            tenant: Set(tenant.to_owned()),
            active_at: Set(None),
            sockets_at: Set(None),
            next_run_at: Set(None),
            facts: Set(String::new()),
        };
        let there = OnConflict::column(rest::Column::Instance).do_nothing().to_owned();
        rest::Entity::insert(row)
            .on_conflict(there)
            .try_insert()
            .exec_without_returning(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }

    async fn mark_active(&self, id: &ClawId, at: Timestamp) -> Result<()> {
        self.mark(id, rest::Column::ActiveAt, at).await
    }

    /// Moves one of its times on.
    async fn mark(&self, id: &ClawId, time: rest::Column, at: Timestamp) -> Result<()> {
        rest::Entity::update_many()
            .col_expr(time, Expr::value(Some(at.as_millis())))
            .filter(rest::Column::Instance.eq(id.as_str()))
            .filter(time.is_null().or(time.lt(at.as_millis())))
            .exec(self.on())
            .await
            .map_err(db)?;
        Ok(())
    }

    pub(crate) async fn forget_rest(&self, id: &ClawId) -> Result<()> {
        rest::Entity::delete_by_id(id.as_str()).exec(self.on()).await.map_err(db)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::MasterKey;
    use crate::store::StoreConfig;

    #[tokio::test]
    async fn use_only_moves_on_and_the_rest_is_as_it_was_put() {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig::sqlite(dir.path().join("clawfarm.db"), MasterKey::from_bytes([7; 32]));
        let store = Store::open(config).await.unwrap();
        let (system, id) = (Context::system("test"), ClawId::new("alice-x7k2m").unwrap());
        assert_eq!(store.rest(&system, &id).await.unwrap(), Rest::default());
        let at = Timestamp::from_millis;
        store.mark_active(&system, &[(id.clone(), "default".into(), at(50))]).await.unwrap();
        let rest =
            Rest { active_at: Some(at(20)), next_run_at: Some(at(90)), facts: "{}".into(), sockets_at: None };
        store.put_rest(&system, &id, "default", &rest).await.unwrap();
        assert_eq!(store.rest(&system, &id).await.unwrap(), Rest { active_at: Some(at(50)), ..rest.clone() });
        store.mark_active(&system, &[(id.clone(), "default".into(), at(60))]).await.unwrap();
        assert_eq!(store.rest(&system, &id).await.unwrap(), Rest { active_at: Some(at(60)), ..rest });
        for (seen, last) in [(70, 70), (65, 70), (80, 80)] {
            store.mark_sockets(&system, &[(id.clone(), "default".into())], at(seen)).await.unwrap();
            store.put_rest(&system, &id, "default", &Rest::default()).await.unwrap();
            let rest = store.rest(&system, &id).await.unwrap();
            assert_eq!((rest.sockets_at, rest.active_at), (Some(at(last)), Some(at(60))));
        }
        let person =
            Context::owner("me".into(), clawfarm_model::name::TenantName::default_tenant(), "r".into());
        assert!(store.rest(&person, &id).await.is_err(), "it spans tenants");
    }
}
