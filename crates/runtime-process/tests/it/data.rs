//! Data that outlives its instance, and data that comes from elsewhere.

use std::os::unix::fs::symlink;
use std::path::Path;

use clawfarm_model::{Code, DataFate, ObservedState};
use clawfarm_runtime::{NoProgress, Runtime};

use crate::farm::{Farm, Reported, id, python, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn kept_data_becomes_a_dataset_and_moves_into_another() {
    let farm = Farm::new().await;
    let (first, second, third) = (id("carol-1"), id("carol-2"), id("carol-3"));
    farm.run(
        &first,
        1,
        "import time; open('workspace/notes', 'w').write('remember'); print('up'); time.sleep(1000)",
    )
    .await;
    farm.wait_until_printed(&first, "up").await;
    let size = farm.rt.destroy(&first, DataFate::Keep).await.unwrap();
    assert!(size > 0);
    assert_eq!(farm.rt.destroy(&first, DataFate::Keep).await.unwrap(), size);
    assert_eq!(farm.rt.observe(&first).await.unwrap().state, ObservedState::Absent);
    assert!(!farm.claw(&first).exists());
    let datasets = farm.rt.datasets().await.unwrap();
    assert_eq!((datasets.len(), &datasets[0].id, datasets[0].size_bytes), (1, &first, size));

    let mut placement = farm.placement(&second);
    placement.dataset = Some(first.clone());
    for _ in 0..2 {
        let place = farm.rt.ensure(&placement, &NoProgress).await.unwrap();
        assert_eq!(std::fs::read_to_string(place.workspace_dir.join("notes")).unwrap(), "remember");
    }
    assert!(farm.rt.datasets().await.unwrap().is_empty());
    // Its new owner may write to it.
    let place = farm.rt.ensure(&placement, &NoProgress).await.unwrap();
    farm.rt
        .start(&python(&second, 1, &place, "open('workspace/notes', 'a').write('!'); print('written')"))
        .await
        .unwrap();
    farm.wait_until_printed(&second, "written").await;

    placement.id = third;
    let error = farm.rt.ensure(&placement, &NoProgress).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::NotFound, Some("dataset")));

    farm.rt.destroy(&second, DataFate::Keep).await.unwrap();
    farm.rt.remove_dataset(&second).await.unwrap();
    farm.rt.remove_dataset(&second).await.unwrap();
    assert!(farm.rt.datasets().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_on_its_way_out_is_cleared_by_the_next_server() {
    let own = tempfile::tempdir().unwrap();
    let home = own.path().join("home");
    let doomed = ["claws/.removing-alice-x7k2b", "datasets/.removing-bob-x7k2b"].map(|name| home.join(name));
    // Names that no removal gives, and what is set aside and may be wanted yet.
    let kept =
        ["claws/.removing-", "claws/.removing-NO", "claws/carol-x7k2b", "datasets/.dave-x7k2b.partial"]
            .map(|name| home.join(name));
    for folder in doomed.iter().chain(&kept) {
        std::fs::create_dir_all(folder.join("state/locked")).unwrap();
        std::fs::write(folder.join("state/locked/file"), "x").unwrap();
    }
    // As its claw may have left it.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o500);
    std::fs::set_permissions(doomed[0].join("state/locked"), mode).unwrap();
    let _next = Farm::at(own.path()).await;
    wait_for("the end of what was to be removed", || async {
        if doomed.iter().any(|folder| folder.exists()) { Err("it is there") } else { Ok(()) }
    })
    .await;
    assert!(kept.iter().all(|folder| folder.join("state/locked/file").exists()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_was_cut_off_anywhere_is_finished_by_the_next() {
    let farm = Farm::new().await;
    let home = farm.home();
    // Each leaves what a kill at one point of the removal leaves.
    type Cut = fn(&Path, &str);
    let cuts: [Cut; 4] = [
        |home, name| std::fs::create_dir_all(home.join(format!("datasets/.{name}.partial"))).unwrap(),
        |home, name| {
            let partial = home.join(format!("datasets/.{name}.partial"));
            std::fs::create_dir_all(&partial).unwrap();
            std::fs::rename(home.join("claws").join(name).join("state"), partial.join("state")).unwrap();
        },
        |home, name| {
            let partial = home.join(format!("datasets/.{name}.partial"));
            std::fs::create_dir_all(&partial).unwrap();
            for part in ["state", "volumes"] {
                std::fs::rename(home.join("claws").join(name).join(part), partial.join(part)).unwrap();
            }
        },
        |home, name| {
            let junk = home.join("claws").join(format!(".removing-{name}"));
            std::fs::create_dir_all(junk.join("state")).unwrap();
        },
    ];
    for (number, cut) in cuts.iter().enumerate() {
        let claw = id(&format!("dave-{number}"));
        let place = farm.prepared(&claw).await;
        std::fs::write(place.state_dir.join("precious"), "data").unwrap();
        cut(&home, claw.as_str());
        farm.rt.destroy(&claw, DataFate::Keep).await.unwrap();
        let kept = home.join("datasets").join(claw.as_str()).join("state/precious");
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), "data", "cut {number}");
        assert!(!farm.claw(&claw).exists());
        farm.rt.remove_dataset(&claw).await.unwrap();
    }
    for folder in ["claws", "datasets"] {
        let left: Vec<_> = std::fs::read_dir(home.join(folder)).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_on_its_way_in_is_kept_with_the_instance() {
    let farm = Farm::new().await;
    let (first, second) = (id("gina-1"), id("gina-2"));
    let place = farm.prepared(&first).await;
    std::fs::write(place.state_dir.join("precious"), "data").unwrap();
    farm.rt.destroy(&first, DataFate::Keep).await.unwrap();
    farm.prepared(&second).await;
    // As a kill leaves it: noted in the record, and not moved yet.
    let path = farm.claw(&second).join("instance.json");
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    record["dataset"] = first.as_str().into();
    record["dataset_moving"] = true.into();
    std::fs::write(&path, record.to_string()).unwrap();
    farm.rt.destroy(&second, DataFate::Keep).await.unwrap();
    let kept = farm.home().join("datasets").join(second.as_str()).join("state/precious");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "data");
    let left = farm.rt.datasets().await.unwrap();
    assert_eq!(left.into_iter().map(|d| d.id).collect::<Vec<_>>(), [second]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_done_does_not_miss_its_source() {
    let farm = Farm::new().await;
    let claw = id("hank-1");
    let from = farm.path("openclaw");
    std::fs::create_dir_all(&from).unwrap();
    std::fs::write(from.join("openclaw.json"), "{}").unwrap();
    farm.prepared(&claw).await;
    let files = farm.rt.files().unwrap();
    files.import(&claw, &from, &NoProgress).await.unwrap();
    std::fs::remove_dir_all(&from).unwrap();
    let error = files.import(&claw, &from, &NoProgress).await.unwrap_err();
    assert_eq!(error.code(), Code::Conflict, "it is there already, whatever became of its source: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_was_begun_and_called_off_gives_the_data_back() {
    let farm = Farm::new().await;
    let claw = id("erin-1");
    let placement = farm.placement(&claw);
    let place = farm.rt.ensure(&placement, &NoProgress).await.unwrap();
    std::fs::write(place.state_dir.join("precious"), "data").unwrap();
    let partial = farm.home().join("datasets/.erin-1.partial");
    std::fs::create_dir_all(&partial).unwrap();
    std::fs::rename(&place.state_dir, partial.join("state")).unwrap();
    farm.rt.ensure(&placement, &NoProgress).await.unwrap();
    assert_eq!(std::fs::read_to_string(place.state_dir.join("precious")).unwrap(), "data");
    assert!(!partial.exists());
    // And a purge after a cut-off removal leaves no part of it.
    std::fs::create_dir_all(&partial).unwrap();
    std::fs::rename(&place.state_dir, partial.join("state")).unwrap();
    farm.rt.destroy(&claw, DataFate::Purge).await.unwrap();
    assert!(!partial.exists() && !farm.claw(&claw).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_is_imported_without_what_leads_out_of_it() {
    let farm = Farm::new().await;
    let claw = id("frank-1");
    let from = farm.path("openclaw");
    std::fs::create_dir_all(from.join("workspace/skills")).unwrap();
    std::fs::write(from.join("openclaw.json"), "{}").unwrap();
    std::fs::write(from.join("workspace/skills/a"), "skill").unwrap();
    std::fs::write(farm.path("secret"), "secret").unwrap();
    symlink("../secret", from.join("out")).unwrap();
    symlink("skills/a", from.join("workspace/in")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    let place = farm.prepared(&claw).await;
    let files = farm.rt.files().unwrap();
    let error = files.import(&claw, &farm.path("nowhere"), &NoProgress).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::NotFound, Some("import")));
    let error = files.import(&claw, &farm.home(), &NoProgress).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidInput);

    let reported = Reported::default();
    // What an import that was killed has left is no obstacle.
    std::fs::create_dir(farm.claw(&claw).join("importing")).unwrap();
    let bytes = files.import(&claw, &from, &reported).await.unwrap();
    assert_eq!(bytes, 7);
    assert!(reported.all()[0].starts_with("copy"), "{:?}", reported.all());
    assert_eq!(std::fs::read_to_string(place.workspace_dir.join("in")).unwrap(), "skill");
    assert!(std::fs::symlink_metadata(place.state_dir.join("out")).is_err());
    assert!(!place.state_dir.join("socket").exists());
    assert!(!farm.claw(&claw).join("importing").exists());
    let error = files.import(&claw, &from, &NoProgress).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("import")));
    // The claw can use what was imported.
    farm.rt
        .start(&python(&claw, 1, &place, "print(open('workspace/in').read()); open('openclaw.json', 'a')"))
        .await
        .unwrap();
    farm.wait_until_printed(&claw, "skill").await;
}
