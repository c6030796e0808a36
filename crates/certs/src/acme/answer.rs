//! What the authority reads when it looks at a proof by HTTP (HTTP-01, RFC 8555 8.3).

use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::sleep;

use super::AcmeSource;
use super::record::PROOF;

/// How often the vault is asked at most for proofs that this server does not know: another one
/// may have laid one out this moment.
const PAUSE: Duration = Duration::from_millis(50);
/// How many wait for that at a time: an authority looks from several places at once.
const WAITING_MAX: usize = 32;
/// Tokens have at least 128 bits in base64 (RFC 8555 8.3), and are no novels.
const TOKEN: std::ops::RangeInclusive<usize> = 16..=256;

/// Answers what is asked under `/.well-known/acme-challenge/`.
pub struct Answers {
    places: Semaphore,
    last: Mutex<Option<Looked>>,
}

/// What was looked for last, and found.
struct Looked {
    at: Instant,
    token: String,
    answer: Option<String>,
}

impl Default for Answers {
    fn default() -> Self {
        Self { places: Semaphore::new(WAITING_MAX), last: Mutex::default() }
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
        // Strangers may ask as often as they like: the vault is asked now and then.
        let _place = self.answers.places.try_acquire().ok()?;
        let mut last = self.answers.last.lock().await;
        if let Some(looked) = last.as_ref() {
            if looked.token == token && looked.at.elapsed() < PAUSE {
                return looked.answer.clone();
            }
            sleep(PAUSE.saturating_sub(looked.at.elapsed())).await;
        }
        let found = self.vault.get(&format!("{PROOF}{token}")).await.ok().flatten();
        let answer = found.map(|answer| answer.expose_secret().to_owned());
        *last = Some(Looked { at: Instant::now(), token: token.to_owned(), answer: answer.clone() });
        answer
    }
}
