//! The instances that there are, read once for all documents.

use std::collections::BTreeMap;

use clawfarm_api::{InstanceQuery, InstanceView};
use clawfarm_client::Client;
use clawfarm_model::name::InstanceName;
use clawfarm_model::{Code, ConfigKind, ConfigName, Desired, Error};

/// All instances, by their names.
pub(super) struct Fleet(BTreeMap<InstanceName, Vec<InstanceView>>);

impl Fleet {
    pub(super) async fn read(client: &Client) -> Result<Self, Error> {
        let mut by_name: BTreeMap<_, Vec<InstanceView>> = BTreeMap::new();
        for view in client.all_instances(&InstanceQuery::default()).await? {
            if view.desired != Desired::Destroyed {
                by_name.entry(view.name.clone()).or_default().push(view);
            }
        }
        Ok(Self(by_name))
    }

    /// The one of a name.
    ///
    /// # Errors
    /// `Conflict` when there are several.
    pub(super) fn named(&self, name: &InstanceName) -> Result<Option<&InstanceView>, Error> {
        match self.0.get(name).map(Vec::as_slice) {
            Some([one, other, ..]) => Err(Error::new(
                Code::Conflict,
                format!("{} and {} are both named '{name}'", one.id, other.id),
            )
            .field("metadata.name")
            .fix(
                "apply is for names that are unique; remove one of them, or change it with clawfarm config set",
            )),
            Some([one]) => Ok(Some(one)),
            _ => Ok(None),
        }
    }

    /// Those whose name nobody else has; and the names that several have, with who they are.
    pub(super) fn apart(self) -> (Vec<InstanceView>, Vec<(InstanceName, Vec<InstanceView>)>) {
        let (mut unique, mut shared) = (Vec::new(), Vec::new());
        for (name, mut views) in self.0 {
            match views.len() {
                1 => unique.append(&mut views),
                _ => shared.push((name, views)),
            }
        }
        (unique, shared)
    }

    /// How many go by a configuration, or would when it was published.
    pub(super) fn go_by(&self, config: &ConfigName) -> usize {
        let kind = config.kind();
        let goes = |view: &&InstanceView| match &kind {
            ConfigKind::Global | ConfigKind::Tenant => true,
            ConfigKind::Project(project) => view.project == *project,
            ConfigKind::Own => false,
            ConfigKind::Template => view.template.as_ref() == Some(config),
        };
        self.0.values().flatten().filter(goes).count()
    }
}
