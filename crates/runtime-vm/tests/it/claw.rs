//! A claw in a machine, as far as the host sees it: its home, its software, what it is handed in. The
//! guest only counts; `clawfarm`'s own tests run a real one.

use std::path::Path;

use clawfarm_model::launch::{LaunchFile, Layout, NpmInstall, Software};
use clawfarm_model::name::ClawType;
use clawfarm_model::{ClawId, Code, DataFate, Launch, ObservedState, Placement, StopOptions};
use clawfarm_runtime::{Backup, Files, NoProgress, Runtime};

use crate::farm::{self, Farm, id, placement, wait_for};

const SECRET: &str = "a-secret-that-nobody-else-has";

fn software() -> Software {
    version("1.0.0")
}

fn version(version: &str) -> Software {
    Software {
        claw_type: ClawType::new("openclaw").unwrap(),
        version: version.into(),
        npm: Some(NpmInstall {
            node: "24.0.0".into(),
            package: "small-claw".into(),
            version: version.into(),
            about_packages: 1,
        }),
        pip: None,
        own: None,
        image: None,
    }
}

/// Its software is there, as npm would have left it.
fn installed(farm: &Farm) {
    installed_as(farm, &software());
}

fn installed_as(farm: &Farm, software: &Software) {
    let npm = software.npm.clone().unwrap();
    let folder = farm.config.cache_dir.join("installs").join(npm.folder_name());
    let package = folder.join("node_modules/small-claw");
    std::fs::create_dir_all(&package).unwrap();
    std::fs::write(package.join("package.json"), &npm.version).unwrap();
    let marker = serde_json::json!({
        "package": npm.package, "version": npm.version, "node": npm.node, "made_at": "2026-11-22T00:00:00Z",
    });
    std::fs::write(folder.join("clawfarm-install.json"), marker.to_string()).unwrap();
}

fn wanted(id: &ClawId) -> Placement {
    placement(id, |it| it.software = software())
}

fn launch(id: &ClawId, run: i64, key: &str) -> Launch {
    let file =
        |path: &str, read_only| LaunchFile { path: path.into(), contents: "{}".to_owned().into(), read_only };
    Launch {
        argv: ["node", "small.mjs"].map(str::to_owned).to_vec(),
        env: vec![("KEY".into(), key.to_owned().into())],
        cwd: "/root/.openclaw/workspace".into(),
        files: vec![file("openclaw.json", false), file("managed/one.json", true)],
        ..farm::launch(id, run)
    }
}

async fn begins(farm: &Farm, id: &ClawId, times: usize) {
    wait_for(&format!("beginning {times}"), || async {
        let begun = farm.beginnings(id);
        if begun == times { Ok(()) } else { Err(begun) }
    })
    .await;
}

/// The files below a folder that hold the secret.
fn with_secret(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            found.extend(with_secret(&path));
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            if bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[tokio::test]
async fn it_is_handed_in_what_it_runs_with_and_its_memory_belongs_to_that() {
    let mut farm = Farm::new().await;
    installed(&farm);
    let id = id("alice-x7k2");
    let place = farm.rt.ensure(&wanted(&id), &NoProgress).await.unwrap();
    assert_eq!(place.layout, Layout::Machine);
    assert_eq!(place.install_dir, Path::new("/opt/clawfarm/software"));
    assert_eq!(
        (place.state_dir.as_path(), place.workspace_dir.as_path()),
        (Path::new("/root/.openclaw"), Path::new("/root/.openclaw/workspace"),)
    );
    let seen = farm.rt.start(&launch(&id, 1, SECRET)).await.unwrap();
    farm.counts_beyond(&id, 0).await;
    let line = std::fs::read(format!("/proc/{}/cmdline", seen.pid.unwrap())).unwrap();
    let line = String::from_utf8_lossy(&line).into_owned();
    assert!(line.contains("name=opt/clawfarm/launch,file=") && !line.contains(SECRET), "{line}");
    assert_eq!(with_secret(&farm.claw(&id)), Vec::<String>::new());

    // Its home is here, whatever its machine does.
    for path in ["openclaw.json", "managed/one.json"] {
        assert_eq!(Files::read(&farm.rt, &id, Path::new(path), 10).await.unwrap().unwrap(), b"{}");
    }
    Files::write(&farm.rt, &id, Path::new("openclaw.json"), b"{ }", false).await.unwrap();
    assert_eq!(std::fs::read(farm.claw(&id).join("state/openclaw.json")).unwrap(), b"{ }");
    let outside = Files::write(&farm.rt, &id, Path::new("../instance.json"), b"", false).await.unwrap_err();
    assert_eq!(outside.code(), Code::InvalidInput);

    // What a server laid that was killed right then is taken away by the next, whether it runs or not.
    let laid = farm.claw(&id).join("vm/launch");
    std::fs::write(&laid, SECRET).unwrap();
    farm.reopen().await;
    wait_for("the keys to be taken away", || async { if laid.exists() { Err("there") } else { Ok(()) } })
        .await;

    // The same launch goes on with its memory, another one does not.
    farm.suspended(&id).await;
    farm.rt.start(&launch(&id, 2, SECRET)).await.unwrap();
    let at = farm.counted(&id).last().copied().unwrap();
    farm.counts_beyond(&id, at).await;
    farm.counted_without_a_gap(&id);
    // It has it in its memory, and is handed it in all the same: its system may be started anew from inside.
    let line = arguments(&farm, &id).await;
    assert!(line.contains("name=opt/clawfarm/launch,file=") && !line.contains(SECRET), "{line}");
    assert_eq!(with_secret(&farm.claw(&id)), Vec::<String>::new());
    farm.suspended(&id).await;
    std::fs::write(&laid, SECRET).unwrap();
    farm.reopen().await;
    assert!(!laid.exists(), "of a machine that is down");
    farm.rt.start(&launch(&id, 3, "another")).await.unwrap();
    begins(&farm, &id, 2).await;
    assert!(farm.rt.start_note(&id).await.unwrap().contains("was changed while it slept"));
    assert!(farm.halves(&id).is_empty());
}

#[tokio::test]
async fn its_home_outlives_it() {
    let farm = Farm::new().await;
    installed(&farm);
    let bob = id("bob-x7k2");
    farm.rt.ensure(&wanted(&bob), &NoProgress).await.unwrap();
    farm.rt.start(&launch(&bob, 1, SECRET)).await.unwrap();
    farm.counts_beyond(&bob, 0).await;
    let room = Backup::room(&farm.rt).join("one");
    std::fs::create_dir_all(&room).unwrap();
    let up = Backup::copy_out(&farm.rt, &bob, &room).await.unwrap_err();
    assert_eq!(up.code(), Code::Conflict, "{up}");
    farm.rt.stop(&bob, StopOptions { grace: std::time::Duration::ZERO }).await.unwrap();
    Backup::copy_out(&farm.rt, &bob, &room).await.unwrap();
    assert_eq!(std::fs::read(room.join("state/openclaw.json")).unwrap(), b"{}");

    // Into another one, which has none yet; and as a dataset into a third.
    let carol = id("carol-x7k2");
    farm.rt.ensure(&wanted(&carol), &NoProgress).await.unwrap();
    Backup::take_in(&farm.rt, &carol, &room).await.unwrap();
    assert!(farm.claw(&carol).join("state/openclaw.json").exists() && !room.exists());
    assert!(farm.rt.destroy(&bob, DataFate::Keep).await.unwrap() > 0);
    let kept = farm.config.home.join("datasets/bob-x7k2");
    assert!(kept.join("state/managed/one.json").exists() && !farm.claw(&bob).exists());
    let dora = id("dora-x7k2");
    let mut of_bob = wanted(&dora);
    of_bob.dataset = Some(bob.clone());
    farm.rt.ensure(&of_bob, &NoProgress).await.unwrap();
    assert!(farm.claw(&dora).join("state/managed/one.json").exists() && !kept.exists());
    farm.rt.start(&launch(&dora, 1, SECRET)).await.unwrap();
    farm.counts_beyond(&dora, 0).await;
    assert_eq!(farm.rt.observe(&dora).await.unwrap().state, ObservedState::Running);
}

/// The disks that its QEMU was given.
async fn arguments(farm: &Farm, id: &ClawId) -> String {
    let pid = farm.rt.observe(id).await.unwrap().pid.unwrap();
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap()).into_owned()
}

#[tokio::test]
async fn another_version_is_another_disk_and_its_data_comes_back() {
    let farm = Farm::new().await;
    let (id, file) = (id("ute-x7k2"), Path::new("openclaw.json"));
    let (old, new) = (software(), version("2.0.0"));
    installed_as(&farm, &old);
    farm.rt.ensure(&wanted(&id), &NoProgress).await.unwrap();
    farm.rt.start(&launch(&id, 1, SECRET)).await.unwrap();
    farm.counts_beyond(&id, 0).await;
    let upgrade = farm.rt.upgrade().unwrap();
    let package = Path::new("package.json");
    assert_eq!(upgrade.software_file(&old, package, 9).await.unwrap().unwrap(), b"1.0.0");
    assert_eq!(upgrade.software_file(&new, package, 9).await.unwrap_err().code(), Code::NotFound);
    installed_as(&farm, &new);
    upgrade.install(&new, None, &NoProgress).await.unwrap();
    assert_eq!(upgrade.software_file(&new, package, 9).await.unwrap().unwrap(), b"2.0.0");
    let up = upgrade.copy_data(&id, 7, &NoProgress).await.unwrap_err();
    assert_eq!((up.code(), up.field_name()), (Code::Conflict, Some("id")), "{up}");

    // Asleep meanwhile: its memory goes with the software that it began with.
    farm.suspended(&id).await;
    let upgrade = farm.rt.upgrade().unwrap();
    assert!(upgrade.copy_data(&id, 7, &NoProgress).await.unwrap() > 0);
    let wanted = placement(&id, |it| it.software = new.clone());
    farm.rt.ensure(&wanted, &NoProgress).await.unwrap();
    farm.rt.suspend().unwrap().resume(&id).await.unwrap();
    assert!(arguments(&farm, &id).await.contains("small-claw-1.0.0"));
    farm.suspended(&id).await;
    farm.rt.start(&launch(&id, 2, SECRET)).await.unwrap();
    begins(&farm, &id, 2).await;
    assert!(arguments(&farm, &id).await.contains("small-claw-2.0.0"));
    assert!(farm.rt.start_note(&id).await.unwrap().contains("was changed while it slept"));

    // Back to the data from before, which a memory of later does not know.
    Files::write(&farm.rt, &id, file, b"{ \"of\": 2 }", false).await.unwrap();
    farm.suspended(&id).await;
    let upgrade = farm.rt.upgrade().unwrap();
    upgrade.put_back(&id, 7).await.unwrap();
    assert_eq!(Files::read(&farm.rt, &id, file, 99).await.unwrap().unwrap(), b"{}");
    assert!(farm.halves(&id).is_empty());
    assert_eq!(farm.rt.observe(&id).await.unwrap().state, ObservedState::Exited);
    upgrade.remove_copy(&id).await.unwrap();
    assert_eq!(upgrade.put_back(&id, 7).await.unwrap_err().code(), Code::NotFound);
    farm.rt.ensure(&self::wanted(&id), &NoProgress).await.unwrap();
    farm.rt.start(&launch(&id, 3, SECRET)).await.unwrap();
    begins(&farm, &id, 3).await;
    assert!(arguments(&farm, &id).await.contains("small-claw-1.0.0"));
}

#[tokio::test]
async fn what_is_no_package_of_npm_is_refused_before_anything_is_made() {
    let farm = Farm::new().await;
    let id = id("nina-x7k2");
    let mut wanted = wanted(&id);
    (wanted.software.npm, wanted.software.claw_type) = (None, ClawType::new("nanobot").unwrap());
    let error = farm.rt.ensure(&wanted, &NoProgress).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Unsupported, Some("runtime")));
    assert!(error.fix_text().is_some() && !farm.claw(&id).exists());
}
