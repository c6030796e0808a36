//! A secret that the servers of one database agreed on, renewed.

use clawfarm_model::{Context, Result};
use secrecy::{ExposeSecret, SecretString};

use crate::convert::{from_json, to_json};
use crate::crypto::Sealed;
use crate::error::unreadable;
use crate::guard::server_only;
use crate::store::{Store, fact, put_fact};
use crate::tx::Tx;

/// Earlier values that are remembered: as many renewals may a server miss while it is down.
const BEFORE_MAX: usize = 100;

impl Store {
    /// Puts a new value over the one that [`Self::agree_on`] has kept under this name, or keeps it
    /// as the first. The other servers read it again and again ([`Self::agreed`]).
    ///
    /// # Errors
    /// When the kept one can't be opened, or the database does not answer.
    pub async fn renew_agreed(&self, context: &Context, name: &str, new: &SecretString) -> Result<()> {
        server_only(context, "a secret of the servers")?;
        let tx = Tx::begin(&self.0).await?;
        if let Some(kept) = fact(tx.on(), &key(name)).await? {
            let old = open(self, name, &kept).await?;
            let mut before = self.before(tx.on(), name).await?;
            before.push(self.0.keyring.keyed_hash("earlier secrets v1", old.expose_secret())?);
            let surplus = before.len().saturating_sub(BEFORE_MAX);
            before.drain(..surplus);
            put_fact(tx.on(), &key_before(name), to_json(&before)?, tx.now).await?;
        }
        let sealed = self.0.keyring.seal(["", "servers", name], new.expose_secret().as_bytes())?;
        put_fact(tx.on(), &key(name), to_json(&(sealed.wrapped_key, sealed.value))?, tx.now).await?;
        tx.commit().await
    }

    /// The value that is kept under this name; `None` when there is none.
    ///
    /// # Errors
    /// As [`Self::renew_agreed`].
    pub async fn agreed(&self, context: &Context, name: &str) -> Result<Option<SecretString>> {
        server_only(context, "a secret of the servers")?;
        let kept = fact(&self.0.reader, &key(name)).await?;
        match kept {
            Some(kept) => open(self, name, &kept).await.map(Some),
            None => Ok(None),
        }
    }

    /// Whether this value was kept under this name before it was renewed.
    ///
    /// # Errors
    /// As [`Self::renew_agreed`].
    pub async fn was_agreed(&self, context: &Context, name: &str, value: &SecretString) -> Result<bool> {
        server_only(context, "a secret of the servers")?;
        let hash = self.0.keyring.keyed_hash("earlier secrets v1", value.expose_secret())?;
        Ok(self.before(&self.0.reader, name).await?.contains(&hash))
    }

    async fn before(&self, on: &impl sea_orm::ConnectionTrait, name: &str) -> Result<Vec<String>> {
        match fact(on, &key_before(name)).await? {
            Some(text) => from_json("secret", name, &text),
            None => Ok(Vec::new()),
        }
    }
}

/// Where `agree_on` keeps it.
fn key(name: &str) -> String {
    format!("store.agreed.{name}")
}

/// Codes of the values before, by which a server that was down sees that its own is one of them.
fn key_before(name: &str) -> String {
    format!("store.agreed.{name}.before")
}

async fn open(store: &Store, name: &str, kept: &str) -> Result<SecretString> {
    let (wrapped_key, value) = from_json("secret", name, kept)?;
    let sealed = Sealed { wrapped_key, value };
    let plain = store.0.unseal(["", "servers", name], &sealed).await?;
    let text = std::str::from_utf8(&plain).map_err(|e| unreadable("secret", name, e))?;
    Ok(SecretString::from(text))
}
