//! A copy of a container's data that leaves its folders, and one that comes into another's.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use clawfarm_model::{Code, ObservedState as S};
use clawfarm_runtime::{NoProgress, Runtime};

use crate::farm::{Farm, SERVES};

fn folder(farm: &Farm, name: &str) -> PathBuf {
    let path = farm.runtime.backup().unwrap().room().join(name);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).unwrap();
    path
}

crate::farm::on_engines! {
    both [
        a_frozen_container_is_copied_and_another_begins_with_the_copy
    ]
    docker []
}

async fn a_frozen_container_is_copied_and_another_begins_with_the_copy(farm: Farm) {
    let (alice, bob) = (farm.id("copied"), farm.id("restored"));
    let (runtime, backup) = (&farm.runtime, farm.runtime.backup().unwrap());
    farm.up(&alice, SERVES).await;
    let writes = "echo old > /home/node/.openclaw/workspace/notes; echo set > /home/node/.config/rc; \
                  echo conf > /home/node/.openclaw/conf; ln -s /etc/passwd /home/node/.openclaw/out";
    assert_eq!(farm.run(&alice, &["sh", "-c", writes]).await.1, 0);
    let to = folder(&farm, "one");
    assert_eq!(backup.copy_out(&alice, &to).await.unwrap_err().code(), Code::Conflict);
    assert_eq!(runtime.freeze().unwrap().freeze(&alice).await.unwrap().state, S::Frozen);
    backup.copy_out(&alice, &to).await.unwrap();
    assert_eq!(runtime.freeze().unwrap().thaw(&alice).await.unwrap().state, S::Running);
    for (path, text) in
        [("state/workspace/notes", "old\n"), ("dot-config/rc", "set\n"), ("state/conf", "conf\n")]
    {
        assert_eq!(std::fs::read_to_string(to.join(path)).unwrap(), text, "{path}");
    }
    let own = backup.take_in(&alice, &to).await.unwrap_err();
    assert_eq!((own.code(), own.field_name()), (Code::Conflict, Some("archive")));

    runtime.ensure(&farm.placement(&bob, "default").await, &NoProgress).await.unwrap();
    for _ in 0..2 {
        backup.take_in(&bob, &to).await.unwrap();
        assert!(!to.exists(), "it was moved");
    }
    farm.up(&bob, SERVES).await;
    let reads = "cat ~/.openclaw/workspace/notes ~/.config/rc ~/.openclaw/conf; echo er >> ~/.openclaw/workspace/notes";
    assert_eq!(farm.run(&bob, &["sh", "-c", reads]).await, ("old\nset\nconf\n".to_owned(), 0));
    let claw = farm.home.path().join("claws").join(bob.as_str());
    let owner = |path: &Path| std::fs::metadata(path).unwrap().uid();
    assert_eq!(owner(&claw.join("workspace/notes")), owner(&claw.join("workspace")));
    // What no container has a place for is not lost in silence.
    let carol = farm.id("refused");
    runtime.ensure(&farm.placement(&carol, "default").await, &NoProgress).await.unwrap();
    let from = folder(&farm, "two");
    std::fs::create_dir_all(from.join("volumes/shared")).unwrap();
    assert_eq!(backup.take_in(&carol, &from).await.unwrap_err().code(), Code::Unsupported);
    let gone = backup.take_in(&carol, &from.join("nothing")).await.unwrap_err();
    assert_eq!((gone.code(), gone.field_name()), (Code::Gone, Some("archive")));
    farm.clear().await;
}
