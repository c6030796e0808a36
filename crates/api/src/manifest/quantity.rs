//! Amounts of processor and memory as Kubernetes writes them.

use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// An amount: `2`, `500m`, `4Gi`; a plain number may stand without quotes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Quantity {
    /// As a number.
    Number(f64),
    /// As text.
    Text(String),
}

/// The letters of a memory's amount, and how many bytes each stands for.
const UNITS: [(&str, f64); 8] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
];
const MIB: f64 = 1_048_576.0;

impl Quantity {
    /// Processor cores: `2`, `0.5`, `500m`. `None` when it is no such amount.
    #[must_use]
    pub fn cores(&self) -> Option<f64> {
        let cores = match self {
            Self::Number(number) => *number,
            Self::Text(text) => match text.strip_suffix('m') {
                Some(thousandths) => plain(thousandths)? / 1000.0,
                None => plain(text)?,
            },
        };
        (cores > 0.0).then_some(cores)
    }

    /// Whole MiB, upwards: `4Gi`, `512Mi`, `1G`, or plain bytes. `None` when it is no such amount.
    #[must_use]
    pub fn mebibytes(&self) -> Option<u32> {
        let bytes = match self {
            Self::Number(number) => *number,
            Self::Text(text) => {
                let unit = UNITS.iter().find_map(|(name, size)| Some((text.strip_suffix(name)?, size)));
                match unit {
                    Some((number, size)) => plain(number)? * size,
                    None => plain(text)?,
                }
            }
        };
        let mebibytes = (bytes / MIB).ceil();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
        (mebibytes >= 1.0 && mebibytes <= f64::from(u32::MAX)).then_some(mebibytes as u32)
    }

    /// So many cores.
    #[must_use]
    pub fn of_cores(cores: f64) -> Self {
        Self::Text(cores.to_string())
    }

    /// So many MiB.
    #[must_use]
    pub fn of_mebibytes(mebibytes: u32) -> Self {
        Self::Text(match mebibytes % 1024 {
            0 => format!("{}Gi", mebibytes / 1024),
            _ => format!("{mebibytes}Mi"),
        })
    }
}

impl PartialSchema for Quantity {
    fn schema() -> RefOr<Schema> {
        let text =
            ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9.]+(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"));
        let number = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(0));
        OneOfBuilder::new().item(text).item(number).description(Some("An amount: `2`, `500m`, `4Gi`.")).into()
    }
}

impl ToSchema for Quantity {}

/// A number without sign, exponent or spaces.
fn plain(text: &str) -> Option<f64> {
    let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if good { text.parse().ok().filter(|number: &f64| number.is_finite()) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_written() {
        let text = |text: &str| Quantity::Text(text.to_owned());
        assert_eq!(text("2").cores(), Some(2.0));
        assert_eq!(text("500m").cores(), Some(0.5));
        assert_eq!(Quantity::Number(0.25).cores(), Some(0.25));
        assert_eq!(text("4Gi").mebibytes(), Some(4096));
        assert_eq!(text("1G").mebibytes(), Some(954));
        assert_eq!(Quantity::Number(1.0).mebibytes(), Some(1));
        for wrong in ["", "-1", "1e3", "2x", "m", "NaN", "0", "1.2.3"] {
            assert_eq!((text(wrong).cores(), text(wrong).mebibytes()), (None, None), "{wrong}");
        }
        for cores in [0.05, 0.5, 1.0, 1.25, 64.0] {
            assert_eq!(Quantity::of_cores(cores).cores(), Some(cores));
        }
        for mebibytes in [64, 1024, 1500, 4096] {
            assert_eq!(Quantity::of_mebibytes(mebibytes).mebibytes(), Some(mebibytes));
        }
    }
}
