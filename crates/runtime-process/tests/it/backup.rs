//! A copy of a claw's data that leaves its folder, and one that comes into another's.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use clawfarm_model::{Code, ObservedState};
use clawfarm_runtime::{Backup, Runtime};

use crate::farm::{Farm, id, python};

fn backup(farm: &Farm) -> &dyn Backup {
    farm.rt.backup().expect("the process runtime can")
}

/// A new folder where copies lie.
fn folder(farm: &Farm, name: &str) -> PathBuf {
    let path = backup(farm).room().join(name);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_claw_is_copied_and_another_begins_with_the_copy() {
    let farm = Farm::new().await;
    let (alice, bob) = (id("alice-1"), id("bob-1"));
    let writes = "import os, socket; os.makedirs('.config/tool'); open('.config/tool/rc', 'w').write('set'); \
                  open('workspace/notes', 'w').write('old'); os.symlink('workspace/notes', 'inwards'); \
                  os.symlink('/etc/passwd', 'outwards'); s = socket.socket(socket.AF_UNIX); s.bind('plug'); \
                  print('written'); import time; time.sleep(1000)";
    farm.run(&alice, 1, writes).await;
    farm.wait_until_printed(&alice, "written").await;
    let to = folder(&farm, "one");
    let up = backup(&farm).copy_out(&alice, &to).await.unwrap_err();
    assert_eq!(up.code(), Code::Conflict, "its data changes while it runs");
    let frozen = farm.rt.freeze().unwrap().freeze(&alice).await.unwrap();
    assert_eq!(frozen.state, ObservedState::Frozen);
    let left_out = backup(&farm).copy_out(&alice, &to).await.unwrap();
    assert_eq!(left_out, [Path::new("state/plug")]);
    assert_eq!(farm.rt.freeze().unwrap().thaw(&alice).await.unwrap().state, ObservedState::Running);
    assert_eq!(std::fs::read_to_string(to.join("state/workspace/notes")).unwrap(), "old");
    assert_eq!(std::fs::read_to_string(to.join("dot-config/tool/rc")).unwrap(), "set");
    assert!(!to.join("state/.config").exists(), "it has a place of its own");
    assert_eq!(std::fs::read_link(to.join("state/inwards")).unwrap(), Path::new("workspace/notes"));

    // Into one that has data of its own: neither is touched.
    let own = backup(&farm).take_in(&alice, &to).await.unwrap_err();
    assert_eq!((own.code(), own.field_name()), (Code::Conflict, Some("archive")));
    assert!(to.join("state/workspace/notes").exists());
    let place = farm.prepared(&bob).await;
    for _ in 0..2 {
        backup(&farm).take_in(&bob, &to).await.unwrap();
        assert!(!to.exists(), "it was moved");
        assert_eq!(std::fs::read_to_string(place.workspace_dir.join("notes")).unwrap(), "old");
    }
    let claw = std::fs::metadata(place.state_dir.join("workspace/notes")).unwrap().uid();
    assert_eq!(claw, std::fs::metadata(&place.state_dir).unwrap().uid(), "it is the claw's own");
    let reads = "print(open('.config/tool/rc').read(), open('inwards').read()); open('workspace/notes', 'a').write('er')";
    farm.rt.start(&python(&bob, 1, &place, reads)).await.unwrap();
    farm.wait_until_printed(&bob, "set old").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_before_it_was_taken_in_is_told() {
    let farm = Farm::new().await;
    let bob = id("bob-1");
    farm.prepared(&bob).await;
    let gone = backup(&farm).take_in(&bob, &backup(&farm).room().join("nothing")).await.unwrap_err();
    assert_eq!((gone.code(), gone.field_name()), (Code::Gone, Some("archive")));
    // Cut off after a part was moved: the rest follows.
    let from = folder(&farm, "half");
    std::fs::create_dir_all(from.join("state/workspace")).unwrap();
    std::fs::write(from.join("state/notes"), "all").unwrap();
    std::fs::create_dir_all(from.join("dot-config")).unwrap();
    symlink("x", from.join("dot-config/link")).unwrap();
    std::fs::rename(from.join("dot-config"), from.join("state/.config")).unwrap();
    backup(&farm).take_in(&bob, &from).await.unwrap();
    let state = farm.claw(&bob).join("state");
    assert_eq!(std::fs::read_to_string(state.join("notes")).unwrap(), "all");
    assert!(state.join(".config/link").is_symlink() && !from.exists());
}
