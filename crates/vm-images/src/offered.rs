//! The images as a server offers them.

use std::path::Path;

use async_trait::async_trait;
use clawfarm_model::Result;
use clawfarm_model::vm_image::{VmBase, VmImage, VmImageReference};
use clawfarm_runtime::{Progress, VmImages};

use crate::record::{Origin, Record, Signature};
use crate::store::{Images, Listed};
use crate::supported::find;
use crate::warm::Base;

#[async_trait]
impl VmImages for Images {
    async fn list(&self) -> Result<Vec<VmImage>> {
        Ok(Images::list(self).await?.into_iter().map(shown).collect())
    }

    async fn check(&self, reference: &VmImageReference) -> Result<()> {
        match self.get(reference).await? {
            Some(_) => Ok(()),
            None => find(reference).map(|_| ()),
        }
    }

    async fn fetch(&self, reference: &VmImageReference, progress: &dyn Progress) -> Result<VmImage> {
        Ok(self.here(Images::fetch(self, reference, progress).await?))
    }

    async fn import(
        &self,
        file: &Path,
        reference: &VmImageReference,
        progress: &dyn Progress,
    ) -> Result<VmImage> {
        Ok(self.here(Images::import(self, file, reference, progress).await?))
    }

    async fn build(&self, reference: &VmImageReference, progress: &dyn Progress) -> Result<VmImage> {
        Ok(self.here(Images::build(self, reference, progress).await?))
    }

    async fn remove(&self, reference: &VmImageReference) -> Result<()> {
        Images::remove(self, reference).await
    }
}

impl Images {
    fn here(&self, record: Record) -> VmImage {
        let reference = record.reference.clone();
        shown(Listed { record: Some(record), ..self.one(reference) })
    }
}

fn shown(listed: Listed) -> VmImage {
    let record = listed.record.as_ref();
    VmImage {
        downloaded: record.is_some(),
        supported: listed.supported,
        partial_bytes: listed.partial_bytes,
        size_bytes: record.map(|it| it.size_bytes),
        disk_bytes: record.map(|it| it.disk_bytes),
        digest: record.map(|it| it.digest.clone()),
        origin: record.map(|it| origin(&it.origin)),
        made_at: record.map(|it| it.made_at),
        used_by: listed.pinned_by,
        snapshots: listed.bases.into_iter().map(base).collect(),
        reference: listed.reference,
    }
}

fn base(base: Base) -> VmBase {
    VmBase {
        cpus: base.record.cpus,
        memory_mib: base.record.memory_mib,
        size_bytes: base.size_bytes,
        made_at: base.record.made_at,
        used_by: base.used_by,
    }
}

/// Where it came from, in words.
fn origin(origin: &Origin) -> String {
    match origin {
        Origin::Fetched { url, signature } => {
            let signed = match signature {
                Signature::Good => "signed by its maker",
                Signature::NoKeyring => "its maker's signature was not checked: there is no keyring here",
                Signature::NotSigned => "its maker does not sign",
            };
            format!("fetched from {url}; {signed}")
        }
        Origin::Imported { file } => format!("imported from {file}"),
        Origin::Built { .. } => "built here from packages".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clawfarm_model::Code;

    use super::*;
    use crate::ImagesConfig;

    #[tokio::test]
    async fn what_is_offered_is_what_a_machine_can_be_made_of() {
        let folder = tempfile::tempdir().unwrap();
        let images = Images::open(ImagesConfig::new(folder.path())).unwrap();
        let offered: &dyn VmImages = &images;
        let listed = offered.list().await.unwrap();
        assert!(listed.iter().all(|it| it.supported && !it.downloaded && it.digest.is_none()));
        for one in &listed {
            offered.check(&one.reference).await.unwrap();
        }
        let unknown = VmImageReference::new("nobody:1").unwrap();
        assert_eq!(offered.check(&unknown).await.unwrap_err().code(), Code::NotFound);
        assert!(
            origin(&Origin::Fetched { url: "https://a/b".into(), signature: Signature::NoKeyring })
                .contains("not checked")
        );
    }
}
