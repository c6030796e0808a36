//! Asking again when the server has no room.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use clawfarm_model::Error;
use http::header::RETRY_AFTER;
use http::{HeaderMap, Method, StatusCode};

/// How often a request is made at most. With the server's pause of a second, its callers are
/// gone or served after a few; more of them would only be more load.
pub(crate) const ATTEMPTS: u32 = 5;
/// The shortest and the longest pause between two, whatever the answer says.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Whom to tell of a pause: why, and how long.
pub(crate) type Tell = Arc<dyn Fn(&Error, Duration) + Send + Sync>;

/// What came instead of an answer.
pub(crate) struct Refused {
    pub(crate) error: Error,
    /// The pause after which to ask again, where that is what was asked for.
    pub(crate) later: Option<Duration>,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self { error, later: None }
    }
}

/// After which pause to ask again. 429 is given by our server, and by others, before a request
/// is looked at. A 503 is different: ours tells what is away, and that is to be told now. Of
/// something in front of it (`is_ours` is false) it means the same as 429, but whether the
/// request was begun is not known.
pub(crate) fn later(
    status: StatusCode,
    headers: &HeaderMap,
    method: &Method,
    is_ours: bool,
) -> Option<Duration> {
    let asked = headers.get(RETRY_AFTER);
    let busy = status == StatusCode::SERVICE_UNAVAILABLE && asked.is_some() && !is_ours;
    if status != StatusCode::TOO_MANY_REQUESTS && !(busy && method.is_idempotent()) {
        return None;
    }
    // The other form of the header, a date, is that of maintenance: the shortest pause will do.
    let secs = asked.and_then(|value| value.to_str().ok()?.trim().parse().ok()).unwrap_or(0);
    Some(Duration::from_secs(secs).clamp(PAUSES.0, PAUSES.1))
}

/// The pause, and up to a half more: those who were refused together come back apart.
pub(crate) fn spread(pause: Duration) -> Duration {
    // Its keys are random; no library is needed for this little.
    let part = u32::try_from(RandomState::new().hash_one(0_u8) % 1000).unwrap_or(0);
    pause + pause * part / 2000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_begun_is_asked_again_and_within_bounds() {
        let of = |status: u16, after: Option<&str>, method: Method, is_ours: bool| {
            let mut headers = HeaderMap::new();
            if let Some(text) = after {
                headers.insert(RETRY_AFTER, text.parse().unwrap());
            }
            later(StatusCode::from_u16(status).unwrap(), &headers, &method, is_ours).map(|d| d.as_secs())
        };
        let table = [
            (429, Some("3"), Method::POST, true, Some(3)),
            (429, Some("0"), Method::GET, true, Some(1)),
            (429, Some("99999999999999999999"), Method::GET, true, Some(1)),
            (429, Some("3600"), Method::GET, false, Some(10)),
            (429, Some("Fri, 31 Dec 1999 23:59:59 GMT"), Method::GET, true, Some(1)),
            (429, None, Method::POST, false, Some(1)),
            (503, Some("2"), Method::GET, true, None),
            (503, Some("2"), Method::GET, false, Some(2)),
            (503, Some("2"), Method::POST, false, None),
            (503, None, Method::GET, false, None),
            (500, Some("2"), Method::GET, false, None),
            (200, Some("2"), Method::GET, true, None),
        ];
        for (status, after, method, ours, wanted) in table {
            assert_eq!(of(status, after, method.clone(), ours), wanted, "{status} {after:?} {method} {ours}");
        }
        for _ in 0..100 {
            let spread = spread(PAUSES.0);
            assert!(spread >= PAUSES.0 && spread < PAUSES.0 * 3 / 2, "{spread:?}");
        }
    }
}
