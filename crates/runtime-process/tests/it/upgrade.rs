//! Another version beside the old one, and the copy of a claw's data.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use clawfarm_model::{ClawId, Code, DataFate};
use clawfarm_runtime::{NoProgress, Runtime, Upgrade};

use crate::farm::{Farm, id, python, software};

fn upgrade(farm: &Farm) -> &dyn Upgrade {
    farm.rt.upgrade().expect("the process runtime can")
}

/// A claw that wrote its notes and ended.
async fn with_notes(farm: &Farm, claw: &ClawId) -> std::path::PathBuf {
    let (place, _) = farm
        .run(claw, 1, "import os; os.mkdir('deep'); open('deep/notes', 'w').write('old'); print('written'); import time; time.sleep(1000)")
        .await;
    farm.wait_until_printed(claw, "written").await;
    place.state_dir
}

fn notes(state: &Path) -> Option<String> {
    std::fs::read_to_string(state.join("deep/notes")).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_installed_beside_the_one_that_runs() {
    let farm = Farm::new().await;
    let claw = id("alice-1");
    with_notes(&farm, &claw).await;
    let (old, new) = (software("1.0.0"), software("2.0.0"));
    let missing = upgrade(&farm).software_file(&new, Path::new("package.json"), 1 << 20).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    for _ in 0..2 {
        upgrade(&farm).install(&new, None, &NoProgress).await.unwrap();
    }
    let installs =
        farm.npm_calls().iter().filter(|call| call.starts_with("install small-claw@2.0.0")).count();
    assert_eq!(installs, 1, "{:?}", farm.npm_calls());
    for (software, version) in [(old, "1.0.0"), (new, "2.0.0")] {
        let file = upgrade(&farm).software_file(&software, Path::new("package.json"), 1 << 20).await.unwrap();
        assert!(String::from_utf8(file.unwrap()).unwrap().contains(version));
        assert_eq!(upgrade(&farm).software_file(&software, Path::new("none"), 9).await.unwrap(), None);
        assert!(upgrade(&farm).software_file(&software, Path::new("../../x"), 9).await.is_err());
    }
    assert!(farm.rt.observe(&claw).await.unwrap().state.is_up(), "the one that runs was not touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_of_what_was_there_and_comes_back_as_it_was() {
    let farm = Farm::new().await;
    let claw = id("alice-1");
    let state = with_notes(&farm, &claw).await;
    let up = upgrade(&farm).copy_data(&claw, 7, &NoProgress).await.unwrap_err();
    assert_eq!(up.code(), Code::Conflict, "its data changes while it is up");
    farm.stop(&claw).await;
    symlink("/nowhere", state.join("outwards")).unwrap();
    symlink("deep/notes", state.join("inwards")).unwrap();
    std::fs::write(state.join("program"), "x").unwrap();
    std::fs::set_permissions(state.join("program"), std::fs::Permissions::from_mode(0o750)).unwrap();
    let written = std::fs::metadata(state.join("deep/notes")).unwrap();
    assert!(upgrade(&farm).copy_data(&claw, 7, &NoProgress).await.unwrap() > 0);

    // What a newer version does to it, and what a second copy of the same number must not take.
    std::fs::remove_dir_all(state.join("deep")).unwrap();
    std::fs::remove_file(state.join("outwards")).unwrap();
    std::fs::write(state.join("newer"), "schema 19").unwrap();
    upgrade(&farm).copy_data(&claw, 7, &NoProgress).await.unwrap();

    let other = upgrade(&farm).put_back(&claw, 8).await.unwrap_err();
    assert_eq!((other.code(), other.field_name()), (Code::NotFound, Some("copy")));
    for _ in 0..2 {
        upgrade(&farm).put_back(&claw, 7).await.unwrap();
        assert_eq!(notes(&state).as_deref(), Some("old"));
        assert!(!state.join("newer").exists());
        assert_eq!(std::fs::read_link(state.join("outwards")).unwrap(), Path::new("/nowhere"));
        assert_eq!(std::fs::read_link(state.join("inwards")).unwrap(), Path::new("deep/notes"));
        assert_eq!(std::fs::metadata(state.join("program")).unwrap().mode() & 0o777, 0o750);
        let back = std::fs::metadata(state.join("deep/notes")).unwrap();
        assert_eq!((back.uid(), back.mode(), back.mtime()), (written.uid(), written.mode(), written.mtime()));
    }
    for _ in 0..2 {
        upgrade(&farm).remove_copy(&claw).await.unwrap();
    }
    assert!(!farm.claw(&claw).join("copy").exists());
    // Its claw can work with what came back.
    let place = farm.prepared(&claw).await;
    let append = "open('deep/notes', 'a').write('er'); print('appended')";
    farm.rt.start(&python(&claw, 2, &place, append)).await.unwrap();
    farm.wait_until_printed(&claw, "appended").await;
    assert_eq!(notes(&state).as_deref(), Some("older"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_or_its_return_that_was_cut_off_is_done_by_the_next() {
    let farm = Farm::new().await;
    let claw = id("alice-1");
    let state = with_notes(&farm, &claw).await;
    farm.stop(&claw).await;
    let dir = farm.claw(&claw);
    // Half a copy, as a kill leaves it, is no copy.
    std::fs::create_dir_all(dir.join("copy.partial/state/deep")).unwrap();
    std::fs::write(dir.join("copy.partial/state/deep/notes"), "ol").unwrap();
    assert_eq!(upgrade(&farm).put_back(&claw, 1).await.unwrap_err().code(), Code::NotFound);
    upgrade(&farm).copy_data(&claw, 1, &NoProgress).await.unwrap();
    assert!(!dir.join("copy.partial").exists());
    // Killed when the newer data was gone and the older one not yet in its place.
    std::fs::remove_dir_all(&state).unwrap();
    upgrade(&farm).put_back(&claw, 1).await.unwrap();
    assert_eq!(notes(&state).as_deref(), Some("old"));
    // Another update's copy takes the place of one that was left.
    std::fs::write(state.join("deep/notes"), "new").unwrap();
    upgrade(&farm).copy_data(&claw, 2, &NoProgress).await.unwrap();
    assert_eq!(upgrade(&farm).put_back(&claw, 1).await.unwrap_err().code(), Code::NotFound);
    std::fs::write(state.join("deep/notes"), "newest").unwrap();
    upgrade(&farm).put_back(&claw, 2).await.unwrap();
    assert_eq!(notes(&state).as_deref(), Some("new"));
    // A removal leaves none of it behind, and takes nothing of it for the data.
    upgrade(&farm).remove_copy(&claw).await.unwrap();
    upgrade(&farm).copy_data(&claw, 3, &NoProgress).await.unwrap();
    farm.rt.destroy(&claw, DataFate::Keep).await.unwrap();
    assert!(!dir.exists());
    let dataset = farm.home().join("datasets").join(claw.as_str());
    assert!(!dataset.join("copy").exists() && dataset.join("state/deep/notes").exists());
    upgrade(&farm).remove_copy(&claw).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_claw_gets_nothing_copied_that_is_not_its_own() {
    let farm = Farm::new().await;
    let claw = id("alice-1");
    let state = with_notes(&farm, &claw).await;
    farm.stop(&claw).await;
    // A link in the place of a folder, a pipe that would block, and a copy of its own making.
    std::fs::write(farm.path("others"), "not its own").unwrap();
    symlink(farm.path("others"), state.join("link")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(state.join("pipe")).status().unwrap();
    assert!(made.success());
    std::fs::create_dir(state.join("copy")).unwrap();
    std::fs::write(state.join("copy/number"), "5").unwrap();
    upgrade(&farm).copy_data(&claw, 5, &NoProgress).await.unwrap();
    let copy = farm.claw(&claw).join("copy");
    assert!(std::fs::symlink_metadata(copy.join("state/link")).unwrap().is_symlink());
    assert!(!copy.join("state/pipe").exists(), "a pipe is not read");
    assert_eq!(std::fs::metadata(&copy).unwrap().mode() & 0o777, 0o700, "the server's own");
}
