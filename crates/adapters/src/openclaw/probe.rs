//! The probes. The JSON is looked at, not only the status: OpenClaw answers a path that it
//! does not know with 200 and its dashboard.

use std::time::Duration;

use serde_json::Value;

use super::http::{Http, Response, request};
use crate::{Dial, Probe};

/// How long one probe may take. A gateway that loads its plugins holds its event loop for
/// seconds at a time on a small machine.
const LIMIT: Duration = Duration::from_secs(5);
/// The largest answer to a probe, in bytes; the real ones have 30 to 70.
const MAX: usize = 64 << 10;

/// Whether it takes requests.
pub(super) async fn startup(dial: &dyn Dial) -> Probe {
    ask(dial, "/startupz", |body| body["ok"] == true && body["status"] == "started").await
}

/// Whether it is alive. It is while it drains, too.
pub(super) async fn liveness(dial: &dyn Dial) -> Probe {
    ask(dial, "/healthz", |body| body["ok"] == true && body["status"] == "live").await
}

async fn ask(dial: &dyn Dial, path: &'static str, good: fn(&Value) -> bool) -> Probe {
    let answer = async {
        let mut http = Http::open(dial).await?;
        http.whole(request(http::Method::GET, path, None, None)?, LIMIT, MAX).await
    };
    match answer.await {
        Ok(response) => judge(path, &response, good),
        Err(error) => Probe::NoAnswer(error.message().to_owned()),
    }
}

fn judge(path: &str, response: &Response, good: fn(&Value) -> bool) -> Probe {
    let Ok(body) = serde_json::from_slice::<Value>(&response.body) else {
        return Probe::Failed(format!(
            "{path} answers {} and no JSON: it is no OpenClaw gateway",
            response.status.as_u16()
        ));
    };
    if response.status.is_success() && good(&body) {
        return Probe::Passed;
    }
    let status = super::config::shown(body["status"].as_str().unwrap_or("no status"));
    Probe::Failed(format!("{path} answers {}: {status}", response.status.as_u16()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, body: &str) -> Probe {
        let response = Response { status: status.try_into().unwrap(), body: body.to_owned().into() };
        judge("/startupz", &response, |b| b["ok"] == true && b["status"] == "started")
    }

    #[test]
    fn looks_at_the_json() {
        assert_eq!(
            judged(200, r#"{"ok":true,"status":"started","version":"2026.9.6","uptimeMs":4129}"#),
            Probe::Passed
        );
        assert!(matches!(judged(200, "<!doctype html>"), Probe::Failed(w) if w.contains("no JSON")));
        assert!(matches!(judged(200, r#"{"ok":true,"status":"live"}"#), Probe::Failed(_)));
        let draining = r#"{"ok":false,"status":"draining","version":"2026.9.6","uptimeMs":1}"#;
        assert_eq!(judged(503, draining), Probe::Failed("/startupz answers 503: draining".into()));
    }

    #[test]
    fn fuzz_answers_to_probes() {
        clawfarm_fuzz::fuzz_text(&[r#"{"ok":true,"status":"started"}"#, "<!doctype html>"], |body| {
            if let Probe::Failed(why) = judged(503, body) {
                assert!(why.len() < 1_000 && !why.contains(char::is_control), "{why:?}");
            }
        });
    }
}
