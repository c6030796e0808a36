//! Making an instance's folders, and the data it begins with.

use std::path::PathBuf;
use std::sync::Arc;

use clawfarm_files::{Folder, Owner, blocking, give_to, io_error};
use clawfarm_model::launch::Layout;
use clawfarm_model::{ClawId, Code, Error, Place, Placement, Result, Timestamp};
use clawfarm_runtime::Progress;

use crate::inner::{Inner, guard};
use crate::paths::{INSTALL_IN, PARTS, PORT_IN, STATE_IN, WORKSPACE_IN};
use crate::record::ContainerRecord;
use crate::{dataset, image, network, observe};

/// [`clawfarm_runtime::Runtime::ensure`].
pub(crate) async fn ensure(
    inner: &Arc<Inner>,
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<Place> {
    placement.resources.check()?;
    let host_url = host_url(inner.config.claw_port)?;
    let (recipe, mark) = (placement.image.as_ref(), placement.mark.as_ref());
    image::ensure(inner, &placement.software, recipe, mark, progress).await?;
    let _verb = inner.lock(&placement.id).await;
    let up = observe::is_up(inner, &placement.id).await?;
    let (this, of) = (Arc::clone(inner), placement.clone());
    blocking(move || prepare(&this, &of, up)).await?;
    let _used = inner.networks.read().await;
    let network = network::ensure(inner, &placement.tenant, &placement.id).await?;
    Ok(Place {
        install_dir: INSTALL_IN.into(),
        layout: Layout::Image,
        state_dir: STATE_IN.into(),
        workspace_dir: WORKSPACE_IN.into(),
        log_dir: PathBuf::from(STATE_IN).join("logs"),
        tmp_dir: "/tmp".into(),
        port: PORT_IN,
        listen_on_all: true,
        server_addresses: vec![network.gateway],
        host_url,
        memory_enforced: true,
    })
}

/// Where a container reaches the server.
pub(crate) fn host_url(claw_port: u16) -> Result<String> {
    match claw_port {
        0 => Err(Error::new(Code::Unavailable, "the server's listener for claws is not up yet")
            .fix("try again in a moment")),
        port => Ok(format!("http://{}:{port}", crate::spec::HOST_NAME)),
    }
}

fn prepare(inner: &Inner, placement: &Placement, up: bool) -> Result<()> {
    let dir = inner.dir(&placement.id);
    dataset::finish_removal(inner, &placement.id)?;
    Folder::open_or_make(&dir).map_err(|e| io_error(format!("make '{}'", dir.display()), e))?;
    let record = write_record(inner, placement)?;
    // A running claw has all this, and a folder in use is not to be touched.
    if up {
        return Ok(());
    }
    make_folders(inner, &placement.id)?;
    dataset::undo_partial(inner, &record)?;
    dataset::move_in(inner, &record)?;
    give_all(inner, &placement.id)
}

fn write_record(inner: &Inner, placement: &Placement) -> Result<ContainerRecord> {
    let dir = inner.dir(&placement.id);
    let _writing = guard(&inner.writing);
    let old = ContainerRecord::read(&dir)?;
    if let Some(old) = old.as_ref().filter(|old| old.target != inner.config.target) {
        return Err(Error::new(
            Code::Conflict,
            format!("'{}' is an instance of target '{}'", placement.id, old.target),
        )
        .field("target"));
    }
    let fresh = ContainerRecord {
        version: 1,
        id: placement.id.clone(),
        target: inner.config.target.clone(),
        tenant: placement.tenant.clone(),
        software: placement.software.clone(),
        port: placement.port,
        record: placement.record.clone(),
        ..old.clone().unwrap_or_else(|| ContainerRecord {
            version: 1,
            id: placement.id.clone(),
            target: inner.config.target.clone(),
            tenant: placement.tenant.clone(),
            software: placement.software.clone(),
            port: placement.port,
            run: 0,
            before: None,
            asked: false,
            ended: None,
            image: None,
            created_at: Timestamp::now(),
            dataset: placement.dataset.clone(),
            record: serde_json::Value::Null,
        })
    };
    if old.as_ref() != Some(&fresh) {
        fresh.write(&dir)?;
    }
    Ok(fresh)
}

/// Makes what is missing of an instance's folders.
pub(crate) fn make_folders(inner: &Inner, id: &ClawId) -> Result<()> {
    let dir = inner.dir(id);
    let failed = |e| io_error(format!("make the folders of '{id}'"), e);
    let folder = Folder::open(&dir).map_err(failed)?;
    for part in PARTS {
        folder.make_folder(part.as_ref(), Some(inner.user())).map_err(failed)?;
    }
    Ok(())
}

/// Gives all of them to the container's user: a dataset may come from a server that ran its
/// containers as another.
pub(crate) fn give_all(inner: &Inner, id: &ClawId) -> Result<()> {
    let owner: Owner = inner.user();
    let failed = |e| io_error(format!("give the folders of '{id}' to user {}", owner.uid), e);
    let folder = Folder::open(&inner.dir(id)).map_err(failed)?;
    for part in PARTS {
        let part = folder.folder(part.as_ref()).map_err(failed)?;
        if part.uid().map_err(failed)? != owner.uid {
            give_to(&part, owner, |uid| uid == owner.uid).map_err(failed)?;
        }
    }
    Ok(())
}

/// Keeps what the store knows now beside an instance that has a record.
pub(crate) fn keep_record(inner: &Inner, id: &ClawId, record: serde_json::Value) -> Result<()> {
    inner.change_record(id, |it| it.record = record).map(drop)
}
