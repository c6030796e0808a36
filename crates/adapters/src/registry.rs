//! The claw types this build knows.

use std::collections::BTreeMap;
use std::sync::Arc;

use clawfarm_model::name::ClawType;
use clawfarm_model::{Error, Result};

use crate::ClawAdapter;

/// The claw types, by name.
#[derive(Clone, Default)]
pub struct Registry {
    adapters: BTreeMap<ClawType, Arc<dyn ClawAdapter>>,
}

impl Registry {
    /// A registry of these types.
    #[must_use]
    pub fn new(adapters: impl IntoIterator<Item = Arc<dyn ClawAdapter>>) -> Self {
        Self { adapters: adapters.into_iter().map(|a| (a.claw_type(), a)).collect() }
    }

    /// Every type that this build has an adapter for.
    #[must_use]
    pub fn builtin() -> Self {
        Self::new([Arc::new(crate::openclaw::OpenClaw) as Arc<dyn ClawAdapter>])
    }

    /// The adapter of a type.
    ///
    /// # Errors
    /// `InvalidInput` with the types there are.
    pub fn get(&self, claw_type: &ClawType) -> Result<&Arc<dyn ClawAdapter>> {
        self.adapters.get(claw_type).ok_or_else(|| {
            let known: Vec<_> = self.adapters.keys().map(ClawType::as_str).collect();
            Error::invalid("claw_type", format!("'{claw_type}' is no claw type known here"))
                .fix(format!("use one of {}", known.join(", ")))
        })
    }

    /// Every type, by name.
    pub fn types(&self) -> impl Iterator<Item = &ClawType> {
        self.adapters.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_type_is_answered_with_the_known_ones() {
        let registry = Registry::builtin();
        assert!(registry.get(&ClawType::new("openclaw").unwrap()).is_ok());
        let error = registry.get(&ClawType::new("nobody").unwrap()).map(|_| ()).unwrap_err();
        assert_eq!(error.field_name(), Some("claw_type"));
        assert!(error.fix_text().is_some_and(|f| f.contains("openclaw")));
    }
}
