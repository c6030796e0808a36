//! Changing the master key, and wrapping anew what the one before could open.

use std::time::Duration;

use clawfarm_model::{Context, Error, Result, Timestamp};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use sea_orm_migration::MigratorTrait as _;

use crate::certificates::DOCUMENT;
use crate::convert::{from_json, to_json};
use crate::crypto::{self, Belongs};
use crate::entity::{inbox, meta, secret};
use crate::error::db;
use crate::guard::server_only;
use crate::key::MasterKey;
use crate::keyring::{self, KEYRING, Ring};
use crate::migration::Migrator;
use crate::store::{COMPATIBLE_FROM, PROOF, Store, fact, put_fact};
use crate::tx::Tx;

/// So many rows are wrapped anew in one transaction: others wait for it no longer than for a
/// usual write.
const BATCH: usize = 100;
/// For so long after the last value under an earlier key was seen it is looked for more: a server
/// that has not yet read that there is a new key seals under the one before.
const STRAGGLERS: Duration = Duration::from_secs(15 * 60);
/// What the names of the servers' common secrets begin with among the facts.
const AGREED: &str = "store.agreed.";

/// How the database's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// The fingerprints of the master keys that open it: one, and two while it is being changed.
    pub masters: Vec<String>,
    /// That of the one that was added last.
    pub newest: String,
    /// When that was: servers that run know of it some seconds later.
    pub newest_at: Timestamp,
    /// That of the master key which this store was opened with.
    pub own: String,
    /// There may be values that are not yet under the newest key.
    pub rewrapping: bool,
}

/// What came of wrapping anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewrapped {
    /// Data keys that were wrapped anew.
    pub done: u64,
    /// Those that could not be opened, and were left: they were altered.
    pub left: u64,
}

impl Store {
    /// How the database's keys are.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database does not answer.
    pub async fn key_state(&self, context: &Context) -> Result<KeyState> {
        server_only(context, "the master key")?;
        let ring = match fact(&self.0.reader, KEYRING).await? {
            Some(text) => Ring::parse(&text)?,
            None => Ring::first(&self.0.keyring.master)?,
        };
        Ok(KeyState {
            masters: ring.masters(),
            newest: ring.newest.clone(),
            newest_at: ring.newest_at,
            own: self.0.keyring.master.fingerprint()?,
            rewrapping: ring.rewrapping.is_some(),
        })
    }

    /// Makes another master key valid beside the one that this store was opened with. From then on
    /// new values are sealed under a new key, and servers can be opened with either. Nothing
    /// happens when it is valid already.
    ///
    /// # Errors
    /// When the present one is no longer valid; when the database does not answer.
    pub async fn add_master_key(&self, context: &Context, new: &MasterKey) -> Result<()> {
        server_only(context, "the master key")?;
        let tx = Tx::begin(&self.0).await?;
        let mut ring = self.lock_ring(&tx).await?;
        if !ring.add_master(&self.0.keyring.master, new)? {
            return Ok(());
        }
        put_fact(tx.on(), KEYRING, keyring::text(&ring)?, tx.now).await?;
        // A program of before keyrings would take this for a database of another master key, and
        // none of its key's that it could write to.
        put_fact(tx.on(), PROOF, crypto::proof(&MasterKey::generate()?)?, tx.now).await?;
        put_fact(tx.on(), COMPATIBLE_FROM, Migrator::migrations().len().to_string(), tx.now).await?;
        tx.commit().await?;
        self.0.refresh_keyring(&self.0.writer).await
    }

    /// Takes up the keyring as the database has it by now.
    ///
    /// # Errors
    /// When it can't be opened with the master key that this store was opened with; when the
    /// context is a tenant's, or the database does not answer.
    pub async fn take_keys_up(&self, context: &Context) -> Result<()> {
        server_only(context, "the master key")?;
        self.0.refresh_keyring(&self.0.reader).await
    }

    /// Leaves one master key, by its fingerprint, as the only one that is valid. Servers that run
    /// must have taken up that there is a new one: afterwards they could not.
    ///
    /// # Errors
    /// `InvalidInput` when it is none of those that are valid.
    pub async fn keep_master_key(&self, context: &Context, only: &str) -> Result<()> {
        server_only(context, "the master key")?;
        let tx = Tx::begin(&self.0).await?;
        let mut ring = self.lock_ring(&tx).await?;
        if !ring.masters().iter().any(|known| known == only) {
            return Err(Error::invalid("master key", format!("the one of fingerprint {only} is not valid"))
                .fix(format!("those that are have {}", ring.masters().join(" and "))));
        }
        ring.keep_master(only);
        put_fact(tx.on(), KEYRING, keyring::text(&ring)?, tx.now).await?;
        tx.commit().await
    }

    /// The keyring as it is, held fast until the change is committed.
    async fn lock_ring(&self, tx: &Tx) -> Result<Ring> {
        let first = keyring::text(&Ring::first(&self.0.keyring.master)?)?;
        Ring::parse(&tx.lock_fact(KEYRING, &first).await?)
    }

    /// Takes up a changed keyring, and wraps anew what is under an earlier key, in small
    /// transactions; does nothing more when that was done. Several servers may do it at once.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database does not answer; then it is gone on with
    /// next time.
    pub async fn tend_keys(&self, context: &Context) -> Result<Rewrapped> {
        server_only(context, "the master key")?;
        let Some(text) = fact(&self.0.reader, KEYRING).await? else { return Ok(Rewrapped::default()) };
        let ring = Ring::parse(&text)?;
        self.0.keyring.take(&text)?;
        let Some(since) = ring.rewrapping else { return Ok(Rewrapped::default()) };
        let Some(prefix) = self.0.keyring.prefix() else { return Ok(Rewrapped::default()) };
        let mut all = Rewrapped::default();
        self.rewrap_secrets(&prefix, &mut all).await?;
        self.rewrap_messages(&prefix, &mut all).await?;
        self.rewrap_facts(&prefix, &mut all).await?;
        let now = Timestamp::now();
        if all.done > 0 || now.since(since) >= STRAGGLERS {
            let tx = Tx::begin(&self.0).await?;
            let mut ring = self.lock_ring(&tx).await?;
            if self.0.keyring.prefix().is_some_and(|it| it == format!("{}:", ring.current)) {
                ring.rewrapping = (all.done > 0).then_some(now);
                put_fact(tx.on(), KEYRING, keyring::text(&ring)?, tx.now).await?;
                tx.commit().await?;
            }
        }
        Ok(all)
    }

    async fn rewrap_secrets(&self, prefix: &str, all: &mut Rewrapped) -> Result<()> {
        use secret::Column as C;
        let others = Condition::any()
            .add(C::WrappedKey.not_like(format!("{prefix}%")))
            .add(C::PreviousKey.not_like(format!("{prefix}%")));
        let keys: Vec<(String, String, String)> = secret::Entity::find()
            .select_only()
            .columns([C::Tenant, C::Instance, C::Name])
            .filter(others)
            .order_by_asc(C::Tenant)
            .order_by_asc(C::Instance)
            .order_by_asc(C::Name)
            .into_tuple()
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        for batch in keys.chunks(BATCH) {
            let tx = Tx::begin(&self.0).await?;
            for key in batch {
                let Some(row) = secret::Entity::find_by_id(key.clone())
                    .lock_exclusive()
                    .one(tx.on())
                    .await
                    .map_err(db)?
                else {
                    continue;
                };
                let belongs: Belongs<'_> = [&row.tenant, &row.instance, &row.name];
                let now = self.anew(belongs, &row.wrapped_key, all);
                let before = row.previous_key.as_deref().and_then(|it| self.anew(belongs, it, all));
                if now.is_none() && before.is_none() {
                    continue;
                }
                let mut update = secret::Entity::update_many()
                    .filter(C::Tenant.eq(row.tenant.as_str()))
                    .filter(C::Instance.eq(row.instance.as_str()))
                    .filter(C::Name.eq(row.name.as_str()));
                if let Some(now) = now {
                    update = update.col_expr(C::WrappedKey, Expr::value(now));
                }
                if let Some(before) = before {
                    update = update.col_expr(C::PreviousKey, Expr::value(before));
                }
                update.exec(tx.on()).await.map_err(db)?;
            }
            tx.commit().await?;
        }
        Ok(())
    }

    async fn rewrap_messages(&self, prefix: &str, all: &mut Rewrapped) -> Result<()> {
        use inbox::Column as C;
        let numbers: Vec<i64> = inbox::Entity::find()
            .select_only()
            .column(C::Seq)
            .filter(C::WrappedKey.not_like(format!("{prefix}%")))
            .into_tuple()
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        for batch in numbers.chunks(BATCH) {
            let tx = Tx::begin(&self.0).await?;
            let rows = inbox::Entity::find()
                .filter(C::Seq.is_in(batch.iter().copied()))
                .lock_exclusive()
                .all(tx.on())
                .await
                .map_err(db)?;
            for row in rows {
                let belongs: Belongs<'_> = [&row.tenant, &row.instance, &row.id];
                let Some(new) = self.anew(belongs, &row.wrapped_key, all) else { continue };
                inbox::Entity::update_many()
                    .filter(C::Seq.eq(row.seq))
                    .col_expr(C::WrappedKey, Expr::value(new))
                    .exec(tx.on())
                    .await
                    .map_err(db)?;
            }
            tx.commit().await?;
        }
        Ok(())
    }

    /// What the servers have in common, and the documents about certificates: a handful.
    async fn rewrap_facts(&self, prefix: &str, all: &mut Rewrapped) -> Result<()> {
        let tx = Tx::begin(&self.0).await?;
        for (begin, kind) in [(AGREED, "servers"), (DOCUMENT, "certificates")] {
            for (key, text) in sealed_facts(tx.on(), begin).await? {
                let Some(name) = key.strip_prefix(begin) else { continue };
                let (wrapped_key, value): (String, String) = from_json("fact", &key, &text)?;
                if wrapped_key.starts_with(prefix) {
                    continue;
                }
                if let Some(new) = self.anew(["", kind, name], &wrapped_key, all) {
                    put_fact(tx.on(), &key, to_json(&(new, value))?, tx.now).await?;
                }
            }
        }
        tx.commit().await
    }

    /// A data key under the current key; `None` when it is, or when it can't be opened.
    fn anew(&self, belongs: Belongs<'_>, wrapped_key: &str, all: &mut Rewrapped) -> Option<String> {
        match self.0.keyring.rewrap(belongs, wrapped_key) {
            Ok(Some(new)) => {
                all.done += 1;
                Some(new)
            }
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(?belongs, ?error, "a stored secret can't be opened, so it is left as it is");
                all.left += 1;
                None
            }
        }
    }
}

/// The facts that are sealed, of those whose keys begin so. Beside an agreed secret are codes of
/// those before it, which are not.
async fn sealed_facts(on: &impl ConnectionTrait, begin: &str) -> Result<Vec<(String, String)>> {
    let rows = meta::Entity::find()
        .filter(meta::Column::Key.starts_with(begin))
        .lock_exclusive()
        .all(on)
        .await
        .map_err(db)?;
    Ok(rows.into_iter().filter(|row| !row.key.ends_with(".before")).map(|row| (row.key, row.value)).collect())
}
