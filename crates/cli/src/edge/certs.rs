//! The edge's certificates: where they come from, and where they are kept.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clawfarm_certs::acme::{AcmeSource, Names, Owner};
use clawfarm_certs::{FileSource, Lease, LocalSource, Source, Table, Vault, server_config};
use clawfarm_control::Control;
use clawfarm_edge::{EdgeTls, Proofs};
use clawfarm_model::certificate::Certificate;
use clawfarm_model::target::Check;
use clawfarm_model::{ClawId, Context, Phase, Result};
use clawfarm_store::Store;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::tls::Wanted;

/// Where an edge's certificates come from.
#[derive(Clone)]
pub(super) enum Certs {
    Files(Arc<FileSource>),
    Local(Arc<LocalSource>),
    Acme(Arc<AcmeSource>),
}

impl Certs {
    /// Reads, makes or finds what is there.
    pub(super) async fn open(wanted: Wanted, home: &Path, base: &str, store: &Store) -> Result<Self> {
        Ok(match wanted {
            Wanted::Files(files) => Self::Files(FileSource::open(files)?),
            Wanted::Local => Self::Local(LocalSource::open(home, base)?),
            Wanted::Acme(config) => {
                Self::Acme(AcmeSource::open(*config, Arc::new(InStore(store.clone()))).await?)
            }
        })
    }

    fn table(&self) -> Arc<Table> {
        match self {
            Self::Files(source) => source.table(),
            Self::Local(source) => source.table(),
            Self::Acme(source) => source.table(),
        }
    }

    fn source(&self) -> Arc<dyn Source> {
        match self {
            Self::Files(source) => Arc::clone(source) as _,
            Self::Local(source) => Arc::clone(source) as _,
            Self::Acme(source) => Arc::clone(source) as _,
        }
    }

    /// How callers are answered.
    pub(super) fn tls(&self) -> Result<EdgeTls> {
        let certificates: Option<Arc<dyn clawfarm_edge::Certificates>> = match self {
            Self::Acme(_) => Some(Arc::new(Shown(self.source()))),
            Self::Files(_) | Self::Local(_) => None,
        };
        Ok(EdgeTls { config: server_config(self.table())?, certificates })
    }

    /// What an authority reads at port 80.
    pub(super) fn proofs(&self) -> Option<Arc<dyn Proofs>> {
        match self {
            Self::Acme(source) => Some(Arc::new(LaidOut(Arc::clone(source)))),
            Self::Files(_) | Self::Local(_) => None,
        }
    }

    /// Keeps them current.
    pub(super) fn begin(self, control: &Control, store: &Store, shutdown: CancellationToken) {
        control.set_certificates(Arc::new(Shown(self.source())));
        let names = Arc::new(Ids { control: control.clone(), store: store.clone() });
        tokio::spawn(async move {
            match self {
                Self::Files(source) => source.follow(shutdown).await,
                Self::Local(source) => source.follow(shutdown).await,
                Self::Acme(source) => Box::pin(source.run(names, shutdown)).await,
            }
        });
    }
}

/// What the edge and the use cases see of a source.
struct Shown(Arc<dyn Source>);

#[async_trait]
impl clawfarm_control::Certificates for Shown {
    fn list(&self) -> Vec<Certificate> {
        self.0.list()
    }

    async fn renew(&self, name: &str) -> Result<()> {
        self.0.renew(name).await
    }

    fn checks(&self) -> Vec<Check> {
        self.0.checks()
    }
}

#[async_trait]
impl clawfarm_edge::Certificates for Shown {
    async fn ready(&self, name: &str) {
        self.0.ready(name).await;
    }
}

struct LaidOut(Arc<AcmeSource>);

#[async_trait]
impl Proofs for LaidOut {
    async fn proof(&self, token: &str) -> Option<String> {
        self.0.answer(token).await
    }
}

/// The claws there are.
struct Ids {
    control: Control,
    store: Store,
}

#[async_trait]
impl Names for Ids {
    async fn owner(&self, label: &str) -> Result<Option<Owner>> {
        let Ok(id) = ClawId::new(label) else { return Ok(None) };
        let found = self.control.entrance(&Context::system("edge"), &id).await?;
        let Some(found) = found.filter(|it| it.instance.phase != Phase::Destroyed) else { return Ok(None) };
        let tenant = found.instance.tenant.as_str().to_owned();
        let projects = self.store.projects(&system()).await?;
        let alone = projects.iter().all(|(other, _)| other.as_str() == tenant);
        Ok(Some(Owner { tenant, alone }))
    }
}

/// Certificates in the server's own store, encrypted.
struct InStore(Store);

fn system() -> Context {
    Context::system("certificates")
}

#[async_trait]
impl Vault for InStore {
    async fn version(&self) -> Result<i64> {
        self.0.certificates_version(&system()).await
    }

    async fn all(&self) -> Result<Vec<(String, SecretString)>> {
        self.0.certificate_documents(&system()).await
    }

    async fn get(&self, name: &str) -> Result<Option<SecretString>> {
        self.0.certificate_document(&system(), name).await
    }

    async fn put(&self, name: &str, value: Option<&SecretString>, lease: Option<Lease>) -> Result<()> {
        let epoch = lease.map(|lease| lease.0);
        self.0.put_certificate_document(&system(), name, value, epoch).await
    }

    async fn lease(&self, held: Option<Lease>, ttl: Duration) -> Result<Option<Lease>> {
        let epoch = self.0.lease_certificates(&system(), held.map(|lease| lease.0), ttl).await?;
        Ok(epoch.map(Lease))
    }

    async fn release(&self, lease: Lease) -> Result<()> {
        self.0.release_certificates(&system(), lease.0).await
    }
}
