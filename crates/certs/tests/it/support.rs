//! A vault in memory, waiting, and callers over TLS.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use clawfarm_certs::acme::{AcmeConfig, AcmeSource, Names, Owner, Timing};
use clawfarm_certs::dns::Dns;
use clawfarm_certs::{Lease, Source as _, Vault};
use clawfarm_model::certificate::Certificate;
use clawfarm_model::{Code, Error, Result};
use clawfarm_test_acme::Pebble;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything may take on a machine that is busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Waits until something is so.
pub(crate) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < LIMIT, "waited {LIMIT:?} until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A vault that several sources can have in common.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    documents: BTreeMap<String, String>,
    version: i64,
    epoch: i64,
    until: Option<Instant>,
    /// How often it was asked for its version.
    looks: u64,
}

impl Memory {
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.0.lock().unwrap().documents.get(name).cloned()
    }

    pub(crate) fn looks(&self) -> u64 {
        self.0.lock().unwrap().looks
    }

    /// Writes what a server would have written.
    pub(crate) async fn write(&self, name: &str, value: &serde_json::Value) {
        self.put(name, Some(&SecretString::from(value.to_string())), None).await.unwrap();
    }

    /// Waits until nobody has anything to do: no order is under way, and nothing was written while
    /// everybody has looked often.
    pub(crate) async fn settled(&self) {
        let mut last = (0, self.looks());
        until("nothing is done any more", || {
            let inner = self.0.lock().unwrap();
            let ordered = inner.documents.iter().any(|(name, text)| {
                name.starts_with("cert/")
                    && !serde_json::from_str::<serde_json::Value>(text).unwrap()["order"].is_null()
            });
            if ordered || inner.version != last.0 {
                last = (inner.version, inner.looks);
            }
            (inner.looks > last.1 + 100).then_some(())
        })
        .await;
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().documents.keys().cloned().collect()
    }
}

#[async_trait]
impl Vault for Memory {
    async fn version(&self) -> Result<i64> {
        let mut inner = self.0.lock().unwrap();
        inner.looks += 1;
        Ok(inner.version)
    }

    async fn all(&self) -> Result<Vec<(String, SecretString)>> {
        let inner = self.0.lock().unwrap();
        Ok(inner.documents.iter().map(|(k, v)| (k.clone(), SecretString::from(v.as_str()))).collect())
    }

    async fn get(&self, name: &str) -> Result<Option<SecretString>> {
        Ok(self.text(name).map(SecretString::from))
    }

    async fn put(&self, name: &str, value: Option<&SecretString>, lease: Option<Lease>) -> Result<()> {
        let mut inner = self.0.lock().unwrap();
        if lease.is_some_and(|lease| lease.0 != inner.epoch || inner.until.is_none()) {
            return Err(Error::new(Code::Conflict, "the lease is another's"));
        }
        match value {
            Some(value) => inner.documents.insert(name.to_owned(), value.expose_secret().to_owned()),
            None => inner.documents.remove(name),
        };
        inner.version += 1;
        Ok(())
    }

    async fn lease(&self, held: Option<Lease>, ttl: Duration) -> Result<Option<Lease>> {
        let mut inner = self.0.lock().unwrap();
        let free = inner.until.is_none_or(|until| until < Instant::now());
        match held {
            Some(lease) if lease.0 == inner.epoch && inner.until.is_some() => {}
            None if free => inner.epoch += 1,
            _ => return Ok(None),
        }
        inner.until = Some(Instant::now() + ttl);
        Ok(Some(Lease(inner.epoch)))
    }

    async fn release(&self, lease: Lease) -> Result<()> {
        let mut inner = self.0.lock().unwrap();
        if inner.epoch == lease.0 {
            inner.until = None;
        }
        Ok(())
    }
}

/// The claws there are.
pub(crate) struct Claws(pub(crate) &'static [&'static str]);

#[async_trait]
impl Names for Claws {
    async fn owner(&self, label: &str) -> Result<Option<Owner>> {
        let owner = Owner { tenant: "default".to_owned(), alone: true };
        Ok(self.0.contains(&label).then_some(owner))
    }
}

pub(crate) const CLAWS: &[&str] = &["alice-x7k2m", "bob-q2w3e"];

/// Quick, so that tests need not wait.
pub(crate) fn quick() -> Timing {
    Timing {
        poll: Duration::from_millis(100),
        lease: Duration::from_secs(5),
        again: Duration::from_secs(1),
        again_max: Duration::from_secs(2),
        handshake: LIMIT,
        ..Timing::default()
    }
}

pub(crate) fn config(pebble: &Pebble, dns: Option<Dns>) -> AcmeConfig {
    AcmeConfig {
        directory: pebble.directory(),
        root: Some(pebble.root()),
        contact: vec!["farm@claws.test".to_owned()],
        external: None,
        base: "claws.test".to_owned(),
        dns,
        timing: quick(),
    }
}

/// A source that runs, as a server would have it.
pub(crate) struct Running {
    pub(crate) source: Arc<AcmeSource>,
    stopping: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn begin(config: AcmeConfig, vault: &Memory) -> Self {
        let source = AcmeSource::open(config, Arc::new(vault.clone())).await.unwrap();
        Self::run(source)
    }

    pub(crate) fn run(source: Arc<AcmeSource>) -> Self {
        let stopping = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(&source).run(Arc::new(Claws(CLAWS)), stopping.clone()));
        Self { source, stopping, task }
    }

    pub(crate) async fn end(self) {
        self.stopping.cancel();
        self.task.await.unwrap();
    }

    /// As SIGKILL would.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    pub(crate) fn told(&self, name: &str) -> Option<Certificate> {
        self.source.list().into_iter().find(|it| it.name == name)
    }

    /// The serial number that callers are shown.
    pub(crate) fn shown(&self, name: &str) -> Option<String> {
        self.source.table().find(Some(name)).map(|chain| chain.facts().serial.clone())
    }

    pub(crate) async fn has(&self, name: &str) -> String {
        until(&format!("{name} has a certificate; {:?}", self.source.list()), || self.shown(name)).await
    }

    /// Comes until there is a certificate.
    pub(crate) async fn gets(&self, name: &str) -> String {
        let began = Instant::now();
        loop {
            self.source.ready(name).await;
            if let Some(serial) = self.shown(name) {
                return serial;
            }
            assert!(began.elapsed() < LIMIT, "{name}: {:?}", self.source.list());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for a failure that says something: another may come before it, as pebble refuses one
    /// of twenty requests without a reason.
    pub(crate) async fn fails(&self, name: &str, saying: &str) -> String {
        until(&format!("{name} has failed with '{saying}'; {:?}", self.source.list()), || {
            self.told(name).and_then(|it| it.error).filter(|error| error.contains(saying))
        })
        .await
    }
}
