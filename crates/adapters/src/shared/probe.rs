//! Probes of gateways that answer with a status.

use std::time::Duration;

use super::http::{Http, request};
use crate::{Dial, Probe};

/// How long one probe may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The largest answer to a probe, in bytes.
const MAX: usize = 1 << 20;

/// Passes when `path` is answered with success.
pub(crate) async fn success(dial: &dyn Dial, path: &str) -> Probe {
    let answer = async {
        let mut http = Http::open(dial).await?;
        http.whole(request(::http::Method::GET, path, None, None)?, LIMIT, MAX).await
    };
    match answer.await {
        Ok(response) if response.status.is_success() => Probe::Passed,
        Ok(response) => Probe::Failed(format!("{path} answers {}", response.status.as_u16())),
        Err(error) => Probe::NoAnswer(error.message().to_owned()),
    }
}

/// Passes when a connection is accepted.
pub(crate) async fn connection(dial: &dyn Dial) -> Probe {
    match tokio::time::timeout(LIMIT, dial.dial()).await {
        Ok(Ok(_)) => Probe::Passed,
        Ok(Err(error)) => Probe::NoAnswer(error.message().to_owned()),
        Err(_) => Probe::NoAnswer(format!("no connection was accepted within {} s", LIMIT.as_secs())),
    }
}
