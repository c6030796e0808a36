//! Documents about certificates, which all servers of a database have in common: encrypted as
//! secrets are, since they hold keys. One server at a time may get new ones, under a lease.

use std::time::Duration;

use clawfarm_model::{Code, Context, Error, Result};
use sea_orm::sea_query::OnConflict;
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::convert::{from_json, to_json};
use crate::crypto::{self, Sealed};
use crate::entity::meta;
use crate::error::{db, unreadable};
use crate::guard::server_only;
use crate::servers::millis;
use crate::store::{Store, fact, put_fact};
use crate::tx::Tx;

/// Where the documents are among the facts.
pub(crate) const DOCUMENT: &str = "store.certificates.document.";
/// Counts the writes.
const VERSION: &str = "store.certificates.version";
/// Who may get new ones.
const LEASE: &str = "store.certificates.lease";

/// Who may get new certificates, by the database's clock.
#[derive(Default, Serialize, Deserialize)]
struct Held {
    epoch: i64,
    until: i64,
}

impl Store {
    /// A number that is another after each write of a document.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database does not answer.
    pub async fn certificates_version(&self, context: &Context) -> Result<i64> {
        server_only(context, "certificates")?;
        version(&self.0.reader).await
    }

    /// All documents, by name.
    ///
    /// # Errors
    /// When one can't be opened, or the database does not answer.
    pub async fn certificate_documents(&self, context: &Context) -> Result<Vec<(String, SecretString)>> {
        server_only(context, "certificates")?;
        let rows = meta::Entity::find()
            .filter(meta::Column::Key.starts_with(DOCUMENT))
            .order_by_asc(meta::Column::Key)
            .all(&self.0.reader)
            .await
            .map_err(db)?;
        let mut documents = Vec::new();
        for row in &rows {
            if let Some(name) = row.key.strip_prefix(DOCUMENT) {
                documents.push((name.to_owned(), open(self, name, &row.value).await?));
            }
        }
        Ok(documents)
    }

    /// One document; `None` when there is none of this name.
    ///
    /// # Errors
    /// As for [`Self::certificate_documents`].
    pub async fn certificate_document(&self, context: &Context, name: &str) -> Result<Option<SecretString>> {
        server_only(context, "certificates")?;
        let kept = fact(&self.0.reader, &format!("{DOCUMENT}{name}")).await?;
        match kept {
            Some(kept) => open(self, name, &kept).await.map(Some),
            None => Ok(None),
        }
    }

    /// Writes a document, or removes it. With an epoch it is refused when the lease of that epoch
    /// is no longer held.
    ///
    /// # Errors
    /// `Conflict` when another server has the lease; when the database does not answer.
    pub async fn put_certificate_document(
        &self,
        context: &Context,
        name: &str,
        value: Option<&SecretString>,
        epoch: Option<i64>,
    ) -> Result<()> {
        server_only(context, "certificates")?;
        let tx = Tx::begin(&self.0).await?;
        if let Some(epoch) = epoch {
            let held = tx.held().await?;
            if held.epoch != epoch || held.until == 0 {
                return Err(Error::new(Code::Conflict, "another server gets the certificates by now"));
            }
        }
        let key = format!("{DOCUMENT}{name}");
        match value {
            Some(value) => {
                let sealed = self.0.keyring.seal(belongs(name), value.expose_secret().as_bytes())?;
                put_fact(tx.on(), &key, to_json(&(sealed.wrapped_key, sealed.value))?, tx.now).await?;
            }
            None => {
                meta::Entity::delete_by_id(key).exec(tx.on()).await.map_err(db)?;
            }
        }
        tx.lock_fact(VERSION, "0").await?;
        let next = version(tx.on()).await?.saturating_add(1);
        put_fact(tx.on(), VERSION, next.to_string(), tx.now).await?;
        tx.commit().await
    }

    /// Takes the lease to get certificates, under a new epoch, or keeps the one of `epoch` for
    /// another while. `None` when it is another server's.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database does not answer.
    pub async fn lease_certificates(
        &self,
        context: &Context,
        epoch: Option<i64>,
        ttl: Duration,
    ) -> Result<Option<i64>> {
        server_only(context, "certificates")?;
        let tx = Tx::begin(&self.0).await?;
        let held = tx.held().await?;
        let now = tx.database_now().await?;
        let epoch = match epoch {
            // Nobody else has taken it meanwhile, also when its time was over.
            Some(epoch) if epoch == held.epoch && held.until != 0 => epoch,
            // Above every earlier one also when the database was put back from a backup.
            None if held.until <= now => held.epoch.saturating_add(1).max(now),
            _ => return Ok(None),
        };
        let held = Held { epoch, until: now.saturating_add(millis(ttl)) };
        put_fact(tx.on(), LEASE, to_json(&held)?, tx.now).await?;
        tx.commit().await?;
        Ok(Some(epoch))
    }

    /// Gives the lease back, when it is still the one of this epoch.
    ///
    /// # Errors
    /// When the database does not answer; then its time runs out.
    pub async fn release_certificates(&self, context: &Context, epoch: i64) -> Result<()> {
        server_only(context, "certificates")?;
        let tx = Tx::begin(&self.0).await?;
        if tx.held().await?.epoch == epoch {
            put_fact(tx.on(), LEASE, to_json(&Held { epoch, until: 0 })?, tx.now).await?;
            tx.commit().await?;
        }
        Ok(())
    }
}

impl Tx {
    /// The lease as it is, held fast until this change is committed.
    async fn held(&self) -> Result<Held> {
        let text = self.lock_fact(LEASE, &to_json(&Held::default())?).await?;
        from_json("lease", "certificates", &text)
    }

    /// A fact that nobody else changes until this change is committed; made when there is none.
    pub(crate) async fn lock_fact(&self, key: &str, first: &str) -> Result<String> {
        let row =
            meta::Model { key: key.to_owned(), value: first.to_owned(), updated_at: self.now.as_millis() };
        let there = OnConflict::column(meta::Column::Key).do_nothing().to_owned();
        meta::Entity::insert(row.into_active_model())
            .on_conflict(there)
            .exec_without_returning(self.on())
            .await
            .map_err(db)?;
        let row = meta::Entity::find_by_id(key).lock_exclusive().one(self.on()).await.map_err(db)?;
        Ok(row.map_or_else(|| first.to_owned(), |row| row.value))
    }
}

async fn version(on: &impl ConnectionTrait) -> Result<i64> {
    match fact(on, VERSION).await? {
        Some(text) => text.parse().map_err(|error| unreadable("fact", VERSION, error)),
        None => Ok(0),
    }
}

const fn belongs(name: &str) -> crypto::Belongs<'_> {
    ["", "certificates", name]
}

async fn open(store: &Store, name: &str, kept: &str) -> Result<SecretString> {
    let (wrapped_key, value) = from_json("certificate", name, kept)?;
    let plain = store.0.unseal(belongs(name), &Sealed { wrapped_key, value }).await?;
    let text = std::str::from_utf8(&plain).map_err(|error| unreadable("certificate", name, error))?;
    Ok(SecretString::from(text))
}
