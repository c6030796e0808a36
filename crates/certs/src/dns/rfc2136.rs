//! Dynamic updates of a DNS server (RFC 2136), signed (TSIG, RFC 8945).

use std::net::SocketAddr;
use std::path::Path;

use async_trait::async_trait;
use clawfarm_model::{Code, Error, Result, Timestamp};
use hickory_proto::op::{Message, ResponseCode, update_message};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, Record as DnsRecord, RecordSet, RecordType, TSigner};

use super::ask::{exchange, name, zone_of};
use super::{Provider, Record, tsig};

/// How long others may keep the record, in seconds: it is gone in a minute.
const TTL: u32 = 60;

/// A server that takes signed updates.
pub struct Rfc2136 {
    server: SocketAddr,
    key: TSigner,
    zone: Option<Name>,
}

impl Rfc2136 {
    /// Reads the key, which is to be in the form that `tsig-keygen` writes. The zone is found by
    /// asking the server, where it is not said.
    ///
    /// # Errors
    /// `InvalidInput` for a key that can't be used.
    pub fn new(server: SocketAddr, key: &Path, zone: Option<&str>) -> Result<Self> {
        Ok(Self { server, key: tsig::read(key)?, zone: zone.map(name).transpose()? })
    }

    async fn update(
        &self,
        record: &Record,
        make: impl FnOnce(RecordSet, Name) -> Message + Send,
    ) -> Result<()> {
        let at = name(&record.name)?;
        let zone = match &self.zone {
            Some(zone) => zone.clone(),
            None => zone_of(&at, Some(self.server)).await?,
        };
        if !zone.zone_of(&at) {
            return Err(Error::invalid("acme_dns_zone", format!("{at} is not in the zone {zone}")));
        }
        let mut set = RecordSet::new(at.clone(), RecordType::TXT, 0);
        set.insert(DnsRecord::from_rdata(at, TTL, RData::TXT(TXT::new(vec![record.value.clone()]))), 0);
        let mut message = make(set, zone);
        let broken = |why: String| {
            Error::new(Code::Unavailable, format!("the update of DNS server {}: {why}", self.server))
        };
        let now = u64::try_from(Timestamp::now().as_millis() / 1000).unwrap_or_default();
        let verifier = message.finalize(&self.key, now).map_err(|error| broken(error.to_string()))?;
        let bytes = message.to_vec().map_err(|error| broken(error.to_string()))?;
        let answer = exchange(self.server, &bytes).await?;
        let read = Message::from_vec(&answer).map_err(|error| broken(error.to_string()))?;
        match read.metadata.response_code {
            ResponseCode::NoError => {}
            code => {
                return Err(broken(format!("it refused ({code})")).fix(
                    "see whether the server lets this key update the zone, and whether its clock is right",
                ));
            }
        }
        // Who answers without the key may be anybody.
        if let Some(mut verifier) = verifier {
            verifier
                .verify(&answer)
                .map_err(|error| broken(format!("its answer is not signed well: {error}")))?;
        }
        Ok(())
    }
}

#[async_trait]
impl Provider for Rfc2136 {
    async fn present(&self, record: &Record) -> Result<()> {
        self.update(record, |set, zone| update_message::append(set, zone, false, false)).await
    }

    async fn clean_up(&self, record: &Record) -> Result<()> {
        self.update(record, |set, zone| update_message::delete_by_rdata(set, zone, false)).await
    }
}
