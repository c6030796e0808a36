//! Waiting until records are at all of the domain's own servers: an authority asks any of them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use futures::future::join_all;
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::time::{Instant, sleep};

use super::ask::{ask, name, resolve, zone_of};
use super::{Dns, Record};

/// How often they are asked.
const POLL: Duration = Duration::from_secs(2);
/// Which part of the limit servers have to answer, while others have all records: resolvers go on to
/// the next one, too, when one is dead.
const SILENT: u32 = 10;

/// What the servers say.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// All have all records.
    Everywhere,
    /// Some have all, and these did not answer.
    Silent(Vec<String>),
    /// These do not have all, or did not answer.
    NotYet(Vec<String>),
}

impl Dns {
    /// Waits until all servers have all records. One that does not answer is not waited for as
    /// long as one that does not have them.
    ///
    /// # Errors
    /// `Timeout` with the servers that do not have them.
    pub(crate) async fn wait_for(&self, records: &[Record], limit: Duration) -> Result<()> {
        let began = Instant::now();
        let until = began + limit;
        loop {
            let why = match self.look(records).await {
                Ok(Seen::Everywhere) => return Ok(()),
                Ok(Seen::Silent(servers)) => {
                    let servers = servers.join("; ");
                    if began.elapsed() >= limit / SILENT {
                        tracing::warn!(%servers, "a DNS server of the domain does not answer; the others have the record");
                        return Ok(());
                    }
                    servers
                }
                Ok(Seen::NotYet(servers)) => servers.join("; "),
                Err(error) => error.message().to_owned(),
            };
            if Instant::now() >= until {
                return Err(Error::new(
                    Code::Timeout,
                    format!("the DNS record was not to be seen within {} s: {why}", limit.as_secs()),
                )
                .fix("see whether the provider's key is for this domain, and whether the domain is delegated to its servers"));
            }
            sleep(POLL).await;
        }
    }

    /// Looks once.
    ///
    /// # Errors
    /// When the domain's servers can't be found.
    pub async fn look(&self, records: &[Record]) -> Result<Seen> {
        let mut asked = Vec::new();
        for record in records {
            let at = name(&record.name)?;
            let servers =
                if self.look_at.is_empty() { own_servers(&at).await? } else { self.look_at.clone() };
            // Together: one that is dead takes its time.
            asked.extend(servers.into_iter().map(|server| {
                let at = at.clone();
                async move { (server, record, has(server, &at, &record.value).await) }
            }));
        }
        let (mut have, mut missing, mut silent) = (BTreeSet::new(), Vec::new(), Vec::new());
        let mut without = BTreeSet::new();
        for (server, record, answer) in join_all(asked).await {
            match answer {
                Ok(true) => {
                    have.insert(server);
                }
                Ok(false) => missing.push(format!("{server} does not have {}", record.name)),
                Err(error) => {
                    without.insert(server);
                    silent.push(error.message().to_owned());
                }
            }
        }
        Ok(if missing.is_empty() && silent.is_empty() {
            Seen::Everywhere
        } else if missing.is_empty() && have.iter().any(|server| !without.contains(server)) {
            Seen::Silent(silent)
        } else {
            missing.append(&mut silent);
            Seen::NotYet(missing)
        })
    }
}

async fn has(server: SocketAddr, at: &Name, value: &str) -> Result<bool> {
    let answer = ask(server, at, RecordType::TXT, false).await?;
    Ok(answer.answers.iter().any(|record| match &record.data {
        RData::TXT(text) => text.txt_data.concat() == value.as_bytes(),
        _ => false,
    }))
}

/// The addresses of the servers of the zone that a name is in.
async fn own_servers(at: &Name) -> Result<Vec<SocketAddr>> {
    let zone = zone_of(at, None).await?;
    let answer = resolve(&zone, RecordType::NS).await?;
    let mut servers = BTreeSet::new();
    for record in &answer.answers {
        let RData::NS(server) = &record.data else { continue };
        for kind in [RecordType::A, RecordType::AAAA] {
            // One that has no address of a kind is asked at the other.
            let Ok(addresses) = resolve(&server.0, kind).await else { continue };
            let first = addresses.answers.iter().find_map(|record| record.data.ip_addr());
            // One address a server, the older kind where it has both: not every machine can send
            // the newer.
            if let Some(address) = first {
                servers.insert(SocketAddr::new(address, 53));
                break;
            }
        }
    }
    if servers.is_empty() {
        return Err(Error::new(Code::Unavailable, format!("no servers of {zone} are found")));
    }
    Ok(servers.into_iter().collect())
}
