//! Questions to DNS servers, over TCP: every server takes it (RFC 7766), and answers are whole.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clawfarm_model::{Code, Error, Result};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a server may take to answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Where the system's resolvers are said.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Sends a message and reads its answer, as bytes.
pub(super) async fn exchange(server: SocketAddr, message: &[u8]) -> Result<Vec<u8>> {
    let failed = |why: String| Error::new(Code::Unavailable, format!("DNS server {server}: {why}"));
    let talk = async {
        let length = u16::try_from(message.len()).map_err(|_| std::io::Error::other("too long a message"))?;
        let mut stream = TcpStream::connect(server).await?;
        stream.write_all(&[&length.to_be_bytes()[..], message].concat()).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    match timeout(LIMIT, talk).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("no answer within {} s", LIMIT.as_secs()))),
    }
}

/// Asks a server for records; a name that there is not has none.
pub(super) async fn ask(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    recursive: bool,
) -> Result<Message> {
    let mut message = Message::query();
    message.metadata.recursion_desired = recursive;
    message.add_query(Query::query(name.clone(), kind));
    let id = message.metadata.id;
    let broken = |why: String| Error::new(Code::Unavailable, format!("DNS server {server} on {name}: {why}"));
    let bytes = message.to_vec().map_err(|error| broken(error.to_string()))?;
    let answer =
        Message::from_vec(&exchange(server, &bytes).await?).map_err(|error| broken(error.to_string()))?;
    if answer.metadata.id != id {
        return Err(broken("an answer to another question".to_owned()));
    }
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer),
        other => Err(broken(other.to_string())),
    }
}

/// A domain's name, as it stands in messages.
pub(super) fn name(text: &str) -> Result<Name> {
    let mut name = Name::from_ascii(text)
        .map_err(|error| Error::invalid("name", format!("'{text}' is no DNS name: {error}")))?;
    name.set_fqdn(true);
    Ok(name)
}

/// The system's resolvers.
pub(super) fn resolvers() -> Result<Vec<SocketAddr>> {
    let text = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let found = in_resolv_conf(&text);
    if found.is_empty() {
        return Err(Error::new(Code::Unavailable, format!("{RESOLV_CONF} names no resolver"))
            .fix("name the domain's servers with --acme-dns-check"));
    }
    Ok(found)
}

fn in_resolv_conf(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()).flatten()
        })
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

/// Asks the resolvers one after the other, until one answers.
pub(super) async fn resolve(name: &Name, kind: RecordType) -> Result<Message> {
    let mut last = None;
    for server in resolvers()? {
        match ask(server, name, kind, true).await {
            Ok(answer) => return Ok(answer),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::new(Code::Unavailable, "no resolver answers")))
}

/// The zone that a name is in: the closest name above it, or itself, that has a SOA record.
pub(super) async fn zone_of(name: &Name, server: Option<SocketAddr>) -> Result<Name> {
    let mut at = name.clone();
    while at.num_labels() > 0 {
        let answer = match server {
            Some(server) => ask(server, &at, RecordType::SOA, false).await?,
            None => resolve(&at, RecordType::SOA).await?,
        };
        if answer.answers.iter().any(|record| record.name == at && matches!(record.data, RData::SOA(_))) {
            return Ok(at);
        }
        at = at.base_name();
    }
    Err(Error::new(Code::Unavailable, format!("no zone is found that {name} is in"))
        .fix("see whether the domain is delegated to its DNS servers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read() {
        let found =
            in_resolv_conf("# x\nsearch a.b\nnameserver 10.0.0.2\nnameserver  fd00::1\nnameserver x\n");
        assert_eq!(found, ["10.0.0.2:53".parse().unwrap(), "[fd00::1]:53".parse::<SocketAddr>().unwrap()]);
    }
}
