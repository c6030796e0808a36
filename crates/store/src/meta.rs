//! Small facts of the server itself: its node id, the version that ran last.

use clawfarm_model::{Context, Error, Result};

use crate::guard::server_only;
use crate::store::{Store, fact, put_fact};
use crate::tx::Tx;

/// Keys that begin so are the store's own.
const RESERVED: &str = "store.";

impl Store {
    /// Reads a fact; for the server's own tasks.
    ///
    /// # Errors
    /// When the context is a tenant's, or the database fails.
    pub async fn meta_get(&self, context: &Context, key: &str) -> Result<Option<String>> {
        server_only(context, "a fact of the server")?;
        fact(&self.0.reader, key).await
    }

    /// Writes a fact; for the server's own tasks. Not for secrets: it is stored as it is.
    ///
    /// # Errors
    /// When the context is a tenant's, the key is the store's own, or the database fails.
    pub async fn meta_set(
        &self,
        context: &Context,
        key: &str,
        value: impl Into<String> + Send,
    ) -> Result<()> {
        server_only(context, "a fact of the server")?;
        if key.is_empty() || key.starts_with(RESERVED) {
            return Err(Error::invalid("key", format!("'{key}' is no key for a fact"))
                .fix(format!("give a key that does not begin with '{RESERVED}'")));
        }
        let tx = Tx::begin(&self.0).await?;
        put_fact(tx.on(), key, value.into(), tx.now).await?;
        tx.commit().await
    }
}
