//! `/secrets`, `/datasets` and `/operations`.

use std::time::Duration;

use clawfarm_api::{
    DatasetList, OperationList, OperationQuery, OperationsQuery, RotateSecret, SecretDetail, SecretList,
    SecretQuery, SecretRemovalQuery, SetSecret,
};
use clawfarm_model::secret::{SecretInfo, SecretName};
use clawfarm_model::{ClawId, Operation, Result, Timestamp};
use http::Method;

use crate::http::Call;
use crate::{CALL_TIMEOUT, Client};

impl Client {
    /// What may be shown of the secrets.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn secrets(&self) -> Result<SecretList> {
        self.call(Call::get(&["secrets"])).await
    }

    /// Sets a secret.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn set_secret(&self, name: &SecretName, secret: &SetSecret) -> Result<SecretInfo> {
        self.call(Call::new(Method::PUT, &["secrets", name.as_str()]).json(secret)?).await
    }

    /// What may be shown of one secret, and who is configured with it.
    ///
    /// # Errors
    /// What the server answered; `Unavailable` when it can't be reached.
    pub async fn secret(&self, name: &SecretName, of: &SecretQuery) -> Result<SecretDetail> {
        self.call(Call::get(&["secrets", name.as_str()]).query(of)?).await
    }

    /// Gives a secret a new value, and has it brought to those that run with it.
    ///
    /// # Errors
    /// What the server answered; `Unavailable` when it can't be reached.
    pub async fn rotate_secret(&self, name: &SecretName, new: &RotateSecret) -> Result<SecretInfo> {
        self.call(Call::new(Method::POST, &["secrets", name.as_str(), "rotate"]).json(new)?).await
    }

    /// Removes a secret.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn remove_secret(&self, name: &SecretName, query: &SecretRemovalQuery) -> Result<()> {
        self.done(Call::new(Method::DELETE, &["secrets", name.as_str()]).query(query)?).await
    }

    /// The data of instances that were removed.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn datasets(&self) -> Result<DatasetList> {
        self.call(Call::get(&["datasets"])).await
    }

    /// Removes a dataset for good.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn remove_dataset(&self, id: &ClawId) -> Result<()> {
        self.done(Call::new(Method::DELETE, &["datasets", id.as_str()])).await
    }

    /// One page of operations, newest first.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn operations(&self, query: &OperationsQuery) -> Result<OperationList> {
        self.call(Call::get(&["operations"]).query(query)?).await
    }

    /// One operation as it stands.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn operation(&self, id: &str) -> Result<Operation> {
        self.call(Call::get(&["operations", id])).await
    }

    /// One operation when it has changed after `after` (its `updated_at`) or has ended, but
    /// after `wait` in any case; at most a minute.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn operation_changed(&self, id: &str, after: Timestamp, wait: Duration) -> Result<Operation> {
        let wait = u32::try_from(wait.as_secs().min(60)).unwrap_or(60);
        let query = OperationQuery { after: Some(after), wait: Some(wait) };
        let limit = CALL_TIMEOUT + Duration::from_secs(u64::from(wait));
        self.call(Call::get(&["operations", id]).query(&query)?.limit(limit)).await
    }
}
