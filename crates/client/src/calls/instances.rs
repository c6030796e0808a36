//! `/instances`.

use std::time::Duration;

use clawfarm_api::{
    Accepted, ChangePolicy, ConsoleRequest, ConsoleTicket, CreateInstance, DashboardView, ForwardQuery,
    InstanceList, InstanceQuery, InstanceView, LogEntry, LogList, LogsQuery, MetricsView, RemoveQuery,
    SendEvent, SendRequest, SetupRequest, SleepView, StopRequest, SuspendRequest, TokenView, Tried, TryQuery,
    UpdateInstance, UpdateSoftware,
};
use clawfarm_model::{Result, RuntimePolicy};
use http::Method;
use serde::Serialize;

use crate::http::Call;
use crate::stream::{ItemStream, items};
use crate::{Client, Console, Tunnel, console};

/// How long a claw may take until it begins to answer a message.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// Every method that takes an `id` takes an id, a name that is unique, or a unique prefix.
/// All fail with what the server answers, and with `Unavailable` or `Timeout` when it does not.
impl Client {
    /// One page of instances.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn instances(&self, query: &InstanceQuery) -> Result<InstanceList> {
        self.call(Call::get(&["instances"]).query(query)?).await
    }

    /// All instances that `query` selects, page after page from its cursor on.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn all_instances(&self, query: &InstanceQuery) -> Result<Vec<InstanceView>> {
        let mut query = InstanceQuery { limit: Some(clawfarm_api::query::MAX_LIMIT), ..query.clone() };
        let mut all = Vec::new();
        loop {
            let page = self.instances(&query).await?;
            all.extend(page.items);
            query.cursor = page.next;
            if query.cursor.is_none() {
                return Ok(all);
            }
        }
    }

    /// One instance.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn instance(&self, id: &str) -> Result<InstanceView> {
        self.call(Call::get(&["instances", id])).await
    }

    /// Says what is to become of the commands that set a machine up.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn change_setup(&self, id: &str, request: &SetupRequest) -> Result<InstanceView> {
        self.call(Call::post(&["instances", id, "setup"]).json(request)?).await
    }

    /// Makes an instance. With a key, doing it again with the same request within a day
    /// answers with the instance that was made the first time.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn create(&self, new: &CreateInstance, idempotency_key: Option<&str>) -> Result<Accepted> {
        let mut call = Call::post(&["instances"]).json(new)?;
        if let Some(key) = idempotency_key {
            call = call.header("idempotency-key", key)?;
        }
        self.call(call).await
    }

    /// Whether an instance could be made so. Makes nothing.
    ///
    /// # Errors
    /// Why it can't; otherwise see [`Client`].
    pub async fn try_create(&self, new: &CreateInstance) -> Result<Tried> {
        self.call(Call::post(&["instances"]).query(&TryQuery { dry_run: true })?.json(new)?).await
    }

    /// Whether an instance could be changed so. Changes nothing.
    ///
    /// # Errors
    /// Why it can't; otherwise see [`Client`].
    pub async fn try_update(&self, id: &str, change: &UpdateInstance) -> Result<Tried> {
        let call = Call::new(Method::PUT, &["instances", id]).query(&TryQuery { dry_run: true })?;
        self.call(call.json(change)?).await
    }

    /// Changes an instance; only while its `resource_version` is `expect`, when that is given.
    ///
    /// # Errors
    /// `PreconditionFailed` when it was changed in the meantime; otherwise see [`Client`].
    pub async fn update(&self, id: &str, change: &UpdateInstance, expect: Option<i64>) -> Result<Accepted> {
        let mut call = Call::new(Method::PUT, &["instances", id]).json(change)?;
        if let Some(version) = expect {
            call = call.header("if-match", &format!("\"{version}\""))?;
        }
        self.call(call).await
    }

    /// Removes an instance; its data too when `query` says so.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn remove(&self, id: &str, query: RemoveQuery) -> Result<Accepted> {
        self.call(Call::new(Method::DELETE, &["instances", id]).query(&query)?).await
    }

    /// Starts an instance that is down.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn start(&self, id: &str) -> Result<Accepted> {
        self.verb(id, "start").await
    }

    /// Stops an instance.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn stop(&self, id: &str, request: StopRequest) -> Result<Accepted> {
        self.verb_with(id, "stop", &request).await
    }

    /// Stops an instance and starts it again.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn restart(&self, id: &str) -> Result<Accepted> {
        self.verb(id, "restart").await
    }

    /// Ends an instance without asking it.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn kill(&self, id: &str) -> Result<Accepted> {
        self.verb(id, "kill").await
    }

    /// Puts an instance to sleep.
    ///
    /// # Errors
    /// `Busy` when it is working, with what on; otherwise see [`Client`].
    pub async fn suspend(&self, id: &str, request: SuspendRequest) -> Result<Accepted> {
        self.verb_with(id, "suspend", &request).await
    }

    /// Wakes an instance.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn resume(&self, id: &str) -> Result<Accepted> {
        self.verb(id, "resume").await
    }

    /// What holds for an instance's sleep, and how it stands with it.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn sleep(&self, id: &str) -> Result<SleepView> {
        self.call(Call::get(&["instances", id, "sleep"])).await
    }

    /// Changes an instance's own sleep policy.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn change_policy(&self, id: &str, change: &ChangePolicy) -> Result<RuntimePolicy> {
        self.call(Call::new(Method::PATCH, &["instances", id, "policy"]).json(change)?).await
    }

    /// What the server, the tenant or a project says of sleep, by the end of its path:
    /// `["server"]`, `["tenant"]`, `["projects", NAME]`.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn policy_of(&self, whose: &[&str]) -> Result<RuntimePolicy> {
        self.call(Call::get(&[&["policies"], whose].concat())).await
    }

    /// Changes that.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn change_policy_of(&self, whose: &[&str], change: &ChangePolicy) -> Result<RuntimePolicy> {
        self.call(Call::new(Method::PATCH, &[&["policies"], whose].concat()).json(change)?).await
    }

    /// Has an instance run another version of its software.
    ///
    /// # Errors
    /// `Conflict` while it is on its way somewhere; otherwise see [`Client`].
    pub async fn update_software(&self, id: &str, request: &UpdateSoftware) -> Result<Accepted> {
        self.verb_with(id, "update", request).await
    }

    /// Sends a message to an instance, and streams its answer.
    ///
    /// # Errors
    /// See [`Client`]; what breaks later comes through the stream.
    pub async fn send(&self, id: &str, message: &str) -> Result<ItemStream<SendEvent>> {
        let request = SendRequest { message: message.to_owned() };
        let call = Call::post(&["instances", id, "send"]).json(&request)?.limit(ANSWER_LIMIT);
        Ok(items(self.open(call.header("accept", "text/event-stream")?).await?))
    }

    /// What an instance uses now.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn metrics(&self, id: &str) -> Result<MetricsView> {
        self.call(Call::get(&["instances", id, "metrics"])).await
    }

    /// What an instance printed.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn logs(&self, id: &str, query: LogsQuery) -> Result<Vec<LogEntry>> {
        let query = LogsQuery { follow: false, ..query };
        let list: LogList = self.call(Call::get(&["instances", id, "logs"]).query(&query)?).await?;
        Ok(list.items)
    }

    /// What an instance printed, and what it prints from now on.
    ///
    /// # Errors
    /// See [`Client`]; what breaks later comes through the stream.
    pub async fn follow_logs(&self, id: &str, query: LogsQuery) -> Result<ItemStream<LogEntry>> {
        let query = LogsQuery { follow: true, ..query };
        let call = Call::get(&["instances", id, "logs"]).query(&query)?;
        Ok(items(self.open(call.header("accept", "text/event-stream")?).await?))
    }

    /// Reads the token of an instance's gateway. Its owner only; it is audited.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn reveal_token(&self, id: &str) -> Result<TokenView> {
        self.call(Call::post(&["instances", id, "token", "reveal"])).await
    }

    /// Gives an instance's gateway a new token, which restarts it.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn rotate_token(&self, id: &str) -> Result<Accepted> {
        self.call(Call::post(&["instances", id, "token", "rotate"])).await
    }

    /// Where an instance's dashboard is, without its token.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn dashboard(&self, id: &str) -> Result<DashboardView> {
        self.call(Call::get(&["instances", id, "dashboard"])).await
    }

    /// Asks for a ticket to a console.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn console_ticket(&self, id: &str, request: &ConsoleRequest) -> Result<ConsoleTicket> {
        self.call(Call::post(&["instances", id, "console"]).json(request)?).await
    }

    /// Opens the console of a ticket; this starts the command.
    ///
    /// # Errors
    /// `Unauthenticated` when the ticket was used before or is too old; otherwise see [`Client`].
    pub async fn console(&self, ticket: &ConsoleTicket) -> Result<Console> {
        console::open(self.endpoint(), &ticket.path).await
    }

    /// Opens a connection to a port of an instance, to its gateway's when none is given. One that
    /// sleeps is woken.
    ///
    /// # Errors
    /// `Unavailable` when it does not listen there; otherwise see [`Client`].
    pub async fn port_forward(&self, id: &str, port: Option<u16>) -> Result<Tunnel> {
        let call = Call::get(&["instances", id, "port-forward"]).query(&ForwardQuery { port })?;
        let credential = self.inner.credential()?;
        let socket = console::socket(self.endpoint(), call.target(), Some(credential)).await?;
        Ok(Tunnel { socket })
    }

    async fn verb(&self, id: &str, verb: &str) -> Result<Accepted> {
        self.call(Call::post(&["instances", id, verb])).await
    }

    async fn verb_with(&self, id: &str, verb: &str, request: &impl Serialize) -> Result<Accepted> {
        self.call(Call::post(&["instances", id, verb]).json(request)?).await
    }
}
