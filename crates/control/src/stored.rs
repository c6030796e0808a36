//! Datasets: data that outlived its instance.

use clawfarm_model::dataset::Dataset;
use clawfarm_model::{Action, ClawId, Context, Resource, Result, authorize};

use clawfarm_store::PageRequest;

use crate::Control;

impl Control {
    /// The datasets.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn datasets(&self, context: &Context) -> Result<Vec<Dataset>> {
        let mut all = Vec::new();
        let mut cursor = None;
        loop {
            let page =
                self.core.store.datasets(context, &PageRequest::after(cursor, PageRequest::MAX)).await?;
            all.extend(page.items);
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// Removes a dataset and its data for good.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Unavailable` when its target does not answer, in which
    /// case it stays listed.
    pub async fn remove_dataset(&self, context: &Context, id: &ClawId) -> Result<()> {
        let dataset = self.core.store.dataset(context, id).await?;
        let resource = Resource::new(dataset.tenant.clone(), "dataset", id.as_str());
        let grant = authorize(context, Action::DataPurge, &resource)?;
        // The data first: what is listed can be removed again, what is not listed can't.
        self.core.runtime(&dataset.target)?.remove_dataset(id).await?;
        self.core.store.remove_dataset(&grant, id).await?;
        Ok(())
    }
}
