//! Measurements of certificates.

use clawfarm_model::certificate::Certificate;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

const EXPIRY: &str = "clawfarm_certificate_expiry_timestamp_seconds";
const RENEWALS: &str = "clawfarm_certificate_renewals_total";

/// Tells until when each is good.
pub(crate) fn expiry(certificates: &[Certificate]) {
    describe_gauge!(EXPIRY, Unit::Seconds, "Until when a certificate is good, since the epoch");
    for certificate in certificates {
        if let Some(until) = certificate.not_after {
            // Seconds of this era are far below 2^52, up to which a float holds whole numbers.
            #[allow(clippy::cast_precision_loss)]
            let seconds = until.as_millis() as f64 / 1000.0;
            gauge!(EXPIRY, "name" => certificate.name.clone()).set(seconds);
        }
    }
}

/// Counts a try to get a new one.
pub(crate) fn renewed(worked: bool) {
    describe_counter!(RENEWALS, "Tries to get or load a certificate, by outcome");
    counter!(RENEWALS, "outcome" => if worked { "ok" } else { "failed" }).increment(1);
}
