//! An order at the authority, from its beginning or from where it was left.

use std::time::Duration;

use clawfarm_model::{Code, Error};
use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeStatus, ChallengeType, Identifier,
    NewOrder, Order as AcmeOrder, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::SecretString;

use super::AcmeSource;
use super::account::{is, kind, one_line, told};
use super::record::{Order, PROOF, Record};
use crate::Lease;
use crate::dns::{Dns, Record as DnsRecord};

/// How often the authority is asked how far it is, at first.
const POLL: Duration = Duration::from_millis(500);

/// One try to get a certificate.
pub(super) struct Attempt<'a> {
    pub(super) source: &'a AcmeSource,
    pub(super) account: &'a Account,
    pub(super) name: &'a str,
    /// The names that it is to be for.
    pub(super) names: &'a [String],
    pub(super) lease: Lease,
}

/// Why there is none.
pub(super) enum Failed {
    /// What the authority, or who was asked for it, said.
    Refused {
        /// The reason.
        error: Error,
        /// Whether it was asked too often.
        limited: bool,
    },
    /// The vault can't be written: nothing is known of what was done.
    Lost(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Refused { error, limited: false }
    }
}

impl From<instant_acme::Error> for Failed {
    fn from(error: instant_acme::Error) -> Self {
        Self::Refused { limited: is(&error, "rateLimited"), error: told(&error) }
    }
}

type Outcome<T> = std::result::Result<T, Failed>;

impl Attempt<'_> {
    /// Gets a certificate: its chain and its key, as PEM. How far it has come is in `record`.
    pub(super) async fn run(&self, record: &mut Record) -> Outcome<(String, String)> {
        let mut order = match self.resumed(record).await? {
            Some(order) => order,
            None => self.begin(record).await?,
        };
        let outcome = self.carry_on(&mut order, record).await;
        let over = outcome.is_ok() || order.state().status == OrderStatus::Invalid;
        if over && let Some(done) = record.order.take() {
            self.clean_up(&done).await;
            self.save(record).await?;
        }
        outcome
    }

    /// The order that was left, when it is for the same and the authority still has it.
    async fn resumed(&self, record: &mut Record) -> Outcome<Option<AcmeOrder>> {
        let Some(left) = record.order.clone() else { return Ok(None) };
        if left.names == self.names && left.directory == self.source.config.directory {
            match self.account.order(left.url.clone()).await {
                Ok(mut order) => {
                    if order.state().status != OrderStatus::Invalid {
                        tracing::info!(name = self.name, "an order that was left is gone on with");
                        return Ok(Some(order));
                    }
                }
                // It has forgotten or refused it.
                Err(instant_acme::Error::Api(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.clean_up(&left).await;
        record.order = None;
        self.save(record).await?;
        Ok(None)
    }

    async fn begin(&self, record: &mut Record) -> Outcome<AcmeOrder> {
        let key = KeyPair::generate().map_err(made_wrong)?;
        let identifiers: Vec<Identifier> =
            self.names.iter().map(|name| Identifier::Dns(name.clone())).collect();
        let order = match self.replaced(record) {
            // Renewals that say what they replace are not counted against the authority's limits.
            Some(id) => match self.account.new_order(&NewOrder::new(&identifiers).replaces(id)).await {
                Err(instant_acme::Error::Api(problem)) if kind(&problem) != Some("rateLimited") => {
                    self.account.new_order(&NewOrder::new(&identifiers)).await?
                }
                other => other?,
            },
            None => self.account.new_order(&NewOrder::new(&identifiers)).await?,
        };
        record.order = Some(Order {
            url: order.url().to_owned(),
            directory: self.source.config.directory.clone(),
            names: self.names.to_vec(),
            key: key.serialize_pem(),
            records: Vec::new(),
            tokens: Vec::new(),
        });
        self.save(record).await?;
        Ok(order)
    }

    async fn carry_on(&self, order: &mut AcmeOrder, record: &mut Record) -> Outcome<(String, String)> {
        let limit = self.source.config.timing.authority;
        let patience = RetryPolicy::new().initial_delay(POLL).backoff(1.5).timeout(limit);
        if order.state().status == OrderStatus::Pending {
            self.prove(order, record).await?;
            match order.poll_ready(&patience).await {
                Ok(OrderStatus::Invalid) => return Err(refused(order).await),
                Ok(_) => {}
                // The order says less than its parts do.
                Err(instant_acme::Error::Api(_)) if order.state().status == OrderStatus::Invalid => {
                    return Err(refused(order).await);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let pem = record.order.as_ref().map(|it| it.key.clone()).unwrap_or_default();
        if order.state().status == OrderStatus::Ready {
            let key = KeyPair::from_pem(&pem).map_err(made_wrong)?;
            let mut of = CertificateParams::new(self.names).map_err(made_wrong)?;
            of.distinguished_name = DistinguishedName::new();
            let csr = of.serialize_request(&key).map_err(made_wrong)?;
            order.finalize_csr(csr.der()).await?;
        }
        let chain = order.poll_certificate(&patience).await?;
        Ok((chain, pem))
    }

    /// Shows the authority that the names are ours.
    async fn prove(&self, order: &mut AcmeOrder, record: &mut Record) -> Outcome<()> {
        let kind = match self.source.config.dns {
            Some(_) => ChallengeType::Dns01,
            None => ChallengeType::Http01,
        };
        let mut proofs = Vec::new();
        let mut parts = order.authorizations();
        while let Some(part) = parts.next().await {
            let mut part = part?;
            match part.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                other => {
                    let what = format!("the authority has the proof of {} as {other:?}", part.identifier());
                    return Err(Error::new(Code::Unavailable, what).into());
                }
            }
            let domain = part.identifier().identifier.clone();
            let Identifier::Dns(domain) = domain else { continue };
            let Some(challenge) = part.challenge(kind.clone()) else {
                let what = format!("the authority does not take a proof of {domain} by {kind:?}");
                return Err(Error::new(Code::Unsupported, what)
                    .fix("a wildcard is proven by the DNS: give --acme-dns")
                    .into());
            };
            let answer = challenge.key_authorization();
            proofs.push(Proof {
                token: challenge.token.clone(),
                answer: answer.as_str().to_owned(),
                record: DnsRecord {
                    name: format!("_acme-challenge.{domain}"),
                    domain,
                    value: answer.dns_value(),
                },
            });
        }
        // Written down first: what is put somewhere is taken away also by who comes after a kill.
        if let Some(open) = &mut record.order {
            for proof in &proofs {
                if self.source.config.dns.is_none() {
                    open.tokens.push(proof.token.clone());
                } else if !open.records.contains(&proof.record) {
                    open.records.push(proof.record.clone());
                }
            }
        }
        self.save(record).await?;
        match &self.source.config.dns {
            None => self.lay_out(&proofs).await?,
            Some(dns) => self.publish(dns, &proofs).await?,
        }
        let mut parts = order.authorizations();
        while let Some(part) = parts.next().await {
            let mut part = part?;
            if part.status != AuthorizationStatus::Pending {
                continue;
            }
            if let Some(mut challenge) = part.challenge(kind.clone())
                && challenge.status == ChallengeStatus::Pending
            {
                challenge.set_ready().await?;
            }
        }
        Ok(())
    }

    async fn lay_out(&self, proofs: &[Proof]) -> Outcome<()> {
        for proof in proofs {
            let value = SecretString::from(proof.answer.as_str());
            let name = format!("{PROOF}{}", proof.token);
            self.source.vault.put(&name, Some(&value), Some(self.lease)).await.map_err(Failed::Lost)?;
        }
        // This server knows them now; others read them when they are asked for one.
        self.source.load().await.map_err(Failed::Lost)
    }

    async fn publish(&self, dns: &Dns, proofs: &[Proof]) -> Outcome<()> {
        for proof in proofs {
            dns.provider.present(&proof.record).await?;
        }
        let records: Vec<DnsRecord> = proofs.iter().map(|proof| proof.record.clone()).collect();
        Ok(dns.wait_for(&records, self.source.config.timing.propagation).await?)
    }

    /// Takes proofs away. What can't be is left: it proves nothing any more.
    async fn clean_up(&self, order: &Order) {
        for token in &order.tokens {
            if let Err(error) =
                self.source.vault.put(&format!("{PROOF}{token}"), None, Some(self.lease)).await
            {
                tracing::debug!(?error, "a proof was not taken away");
            }
        }
        let Some(dns) = &self.source.config.dns else { return };
        for record in &order.records {
            if let Err(error) = dns.provider.clean_up(record).await {
                tracing::warn!(name = %record.name, %error, "a DNS record could not be taken out");
            }
        }
    }

    /// The certificate that an order replaces, where the authority wants to know.
    fn replaced(&self, record: &Record) -> Option<CertificateIdentifier<'static>> {
        if !record.says_when || record.directory != self.source.config.directory {
            return None;
        }
        let leaf = CertificateDer::from_pem_slice(record.chain.as_ref()?.as_bytes()).ok()?;
        CertificateIdentifier::try_from(&leaf).ok().map(CertificateIdentifier::into_owned)
    }

    async fn save(&self, record: &Record) -> Outcome<()> {
        self.source.save(self.name, record, self.lease).await.map_err(Failed::Lost)
    }
}

struct Proof {
    token: String,
    answer: String,
    record: DnsRecord,
}

/// What the authority found wrong, from the parts of the order.
async fn refused(order: &mut AcmeOrder) -> Failed {
    let mut why = Vec::new();
    let mut limited = false;
    let mut parts = order.authorizations();
    while let Some(Ok(mut part)) = parts.next().await {
        if part.refresh().await.is_err() {
            continue;
        }
        for challenge in &part.challenges {
            if let Some(problem) = &challenge.error {
                limited |= kind(problem) == Some("rateLimited");
                let detail = problem.detail.as_deref().unwrap_or("no reason was given");
                why.push(format!("{}: {detail}", part.identifier()));
            }
        }
    }
    if why.is_empty() {
        why.push("no reason was given".to_owned());
    }
    let message = one_line(&format!("the certificate authority refused the proof of {}", why.join("; ")));
    let error = Error::new(Code::Unavailable, message)
        .fix("the name must lead to this server, and port 80 to --edge-http; or see to the DNS record");
    Failed::Refused { error, limited }
}

fn made_wrong(error: rcgen::Error) -> Failed {
    Error::internal("a key or a request can't be made", error).into()
}
