//! What an instance is configured with, and where each value came from.

use clawfarm_adapters::Warning;
use clawfarm_config::{Explained, Refused};
use clawfarm_model::{ClawId, Context, InstanceSpec, Layered, Result};
use serde_json::Value;

use super::layering::{Whose, own};
use crate::Control;

/// An instance's configuration, explained.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainedConfig {
    /// Which instance.
    pub id: ClawId,
    /// What it is made of.
    pub layers: Layered,
    /// What came of it.
    pub document: Value,
    /// Each of its values.
    pub values: Vec<Explained>,
    /// What was said but doesn't hold.
    pub refused: Vec<Refused>,
    /// What is worth a word: what it says itself without effect, what its type makes of it, where a
    /// lock can be got round.
    pub warnings: Vec<Warning>,
    /// Whether it is known to run with this.
    pub in_force: bool,
}

impl Control {
    /// Explains an instance's configuration.
    ///
    /// # Errors
    /// `NotFound` when there is no such instance.
    pub async fn explain(&self, context: &Context, id: &str) -> Result<ExplainedConfig> {
        let instance = self.core.find(context, id).await?;
        let own = own(&instance);
        let made = self.core.make(&Whose::of(&instance), &instance.layers, &own).await?;
        let spec = InstanceSpec { config: Box::new(made.config.clone()), ..instance.spec.clone() };
        // What its type refuses is told all the same: it is what there is to explain.
        let warnings = self
            .core
            .adapter(&instance)
            .and_then(|adapter| made.warnings(adapter.as_ref(), &spec))
            .unwrap_or_else(|error| {
                let field = error.field_name().unwrap_or("config").to_owned();
                vec![Warning { field, message: error.message().to_owned() }]
            });
        let in_force = instance.in_force >= instance.layers.revision;
        Ok(ExplainedConfig {
            layers: Layered { own: Some(own), ..instance.layers },
            id: instance.id,
            document: made.effective.document,
            values: made.effective.explained,
            refused: made.effective.refused,
            warnings,
            in_force,
        })
    }
}
