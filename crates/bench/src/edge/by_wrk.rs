//! wrk, a load generator that takes little for itself.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::fronts::Front;
use super::serve::{CLAW, DOMAIN, TOKEN};

/// What wrk asks for.
pub(crate) struct Load {
    pub(crate) path: &'static str,
    pub(crate) tls: bool,
}

/// What it saw.
pub(crate) struct Asked {
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// Processor time of what is measured, for each request.
    pub(crate) cpu_micros: f64,
}

pub(crate) fn ask(front: &Front, load: &Load, connections: u32, seconds: u64) -> Result<Asked> {
    let (scheme, address) = if load.tls { ("https", front.tls) } else { ("http", front.plain) };
    let before = front.cpu_secs()?;
    let output = Command::new("wrk")
        .args(["--latency", "-t1", "-c", &connections.to_string(), "-d", &format!("{seconds}s")])
        .args(["-H", &format!("Host: {CLAW}.{DOMAIN}"), "-H", &format!("Authorization: Bearer {TOKEN}")])
        .arg(format!("{scheme}://{address}{}", load.path))
        .output()
        .context("wrk can't be started: scripts/bench installs it")?;
    let cpu = front.cpu_secs()? - before;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() || text.contains("Non-2xx") || text.contains("Socket errors") {
        bail!("wrk: {text}{}", String::from_utf8_lossy(&output.stderr));
    }
    let after = |what: &str| {
        let line = text.lines().map(str::trim).find(|line| line.starts_with(what));
        line.and_then(|line| line.split_whitespace().nth(1))
            .with_context(|| format!("no '{what}' in: {text}"))
    };
    let per_second: f64 = after("Requests/sec:")?.parse()?;
    let total = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in ").map(|(count, _)| count))
        .context("a count")?
        .parse::<f64>()?;
    Ok(Asked {
        per_second,
        p50: time(after("50%")?)?,
        p99: time(after("99%")?)?,
        cpu_micros: cpu * 1e6 / total,
    })
}

/// `830.00us`, `1.25ms`, `2.00s`.
fn time(text: &str) -> Result<Duration> {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).context("a unit")?;
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        other => bail!("'{other}' is no unit of wrk's"),
    };
    Ok(Duration::from_secs_f64(number.parse::<f64>()? * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_times_are_read() {
        assert_eq!(time("830.00us").unwrap(), Duration::from_micros(830));
        assert_eq!(time("1.25ms").unwrap(), Duration::from_micros(1250));
        assert_eq!(time("2.00s").unwrap(), Duration::from_secs(2));
        assert!(time("2").is_err() && time("2.00h").is_err());
    }
}
