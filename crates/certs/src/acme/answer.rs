//! What the authority reads when it looks at a proof by HTTP (HTTP-01, RFC 8555 8.3).

use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::AcmeSource;

/// How long after it was asked for proofs that this server does not know the vault is looked at:
/// once for all who have asked by then, however many strangers there are.
const GATHER: Duration = Duration::from_millis(100);
/// How long an answer waits for that.
const LIMIT: Duration = Duration::from_secs(5);
/// Tokens have at least 128 bits in base64 (RFC 8555 8.3), and are no novels.
const TOKEN: std::ops::RangeInclusive<usize> = 16..=256;

/// Answers what is asked under `/.well-known/acme-challenge/`.
pub struct Answers {
    asked: Notify,
    looks: watch::Sender<Looks>,
}

/// How often the vault was looked at.
#[derive(Clone, Copy, Default)]
struct Looks {
    begun: u64,
    ended: u64,
}

impl Default for Answers {
    fn default() -> Self {
        Self { asked: Notify::new(), looks: watch::Sender::new(Looks::default()) }
    }
}

impl Answers {
    /// Returns when the vault is to be looked at because of what was asked for.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
        sleep(GATHER).await;
    }

    /// The vault is looked at, until this is dropped.
    pub(super) fn look(&self) -> Look<'_> {
        self.looks.send_modify(|looks| looks.begun += 1);
        Look(self)
    }

    /// Waits for a look that begins after this; says whether there was one.
    async fn next(&self) -> bool {
        let mut looks = self.looks.subscribe();
        let before = looks.borrow().begun;
        self.asked.notify_one();
        let there = looks.wait_for(|looks| looks.ended > before);
        timeout(LIMIT, there).await.is_ok_and(|it| it.is_ok())
    }
}

/// One look at the vault.
pub(super) struct Look<'a>(&'a Answers);

impl Drop for Look<'_> {
    fn drop(&mut self) {
        self.0.looks.send_modify(|looks| looks.ended = looks.begun);
    }
}

impl AcmeSource {
    /// The answer to a token; `None` for one that nobody laid out.
    pub async fn answer(&self, token: &str) -> Option<String> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !TOKEN.contains(&token.len()) || !token.bytes().all(plain) {
            return None;
        }
        if let Some(answer) = self.proof(token) {
            return Some(answer);
        }
        // Another server may have laid it out this moment, and told the authority.
        if self.answers.next().await { self.proof(token) } else { None }
    }
}
