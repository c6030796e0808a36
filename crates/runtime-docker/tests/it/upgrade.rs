//! Another version beside the old one, and the copy of a claw's data.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use clawfarm_model::launch::ImageRecipe;
use clawfarm_model::name::ClawType;
use clawfarm_model::{Code, DataFate, ObservedState as S, Software};
use clawfarm_runtime::{NoProgress, Progress, Runtime, Upgrade};
use clawfarm_test_docker::TINY;

use crate::farm::{Farm, GRACE, SERVES, launch, until};

crate::farm::on_engines! {
    both [
        an_image_is_made_once_for_all_that_ask_and_looked_into
        what_runs_and_is_recorded_is_the_new_image
        a_copy_is_of_what_was_there_and_comes_back_as_it_was
    ]
    docker []
}

fn upgrade(farm: &Farm) -> &dyn Upgrade {
    farm.runtime.upgrade().expect("the Docker runtime can")
}

/// Software whose image is this test's own.
fn software(farm: &Farm, version: &str) -> Software {
    let name = farm.id("image");
    Software {
        claw_type: ClawType::new("openclaw").unwrap(),
        version: version.into(),
        npm: None,
        own: None,
        pip: None,
        image: Some(format!("clawfarm-test/{name}:{version}")),
    }
}

fn recipe(software: &Software) -> ImageRecipe {
    ImageRecipe {
        reference: software.image.clone().unwrap(),
        // Each test's image is another, so that one which removes its own takes no other's.
        dockerfile: "ARG BASE\nFROM ${BASE}\nARG VERSION\nARG OWN\n\
                     RUN mkdir -p /opt/package /opt/package/deep && busybox ln -s /opt/package /app \
                     && printf '{\"version\":\"%s\"}' \"$VERSION\" > /app/package.json \
                     && echo \"$OWN\" > /app/own\n",
        base: TINY,
        args: vec![("VERSION", software.version.clone()), ("OWN", software.image.clone().unwrap())],
        claw_type: software.claw_type.clone(),
        version: software.version.clone(),
        about_lines: 10,
    }
}

/// Counts what is built.
#[derive(Default)]
struct Builds(AtomicU32);

impl Progress for Builds {
    fn step(&self, name: &str, _: &str, _: Option<u64>, _: &str) {
        self.0.fetch_add(u32::from(name == "build"), Ordering::Relaxed);
    }
    fn advance(&self, _: u64) {}
    fn say(&self, _: &str) {}
}

async fn an_image_is_made_once_for_all_that_ask_and_looked_into(farm: Farm) {
    let (new, builds) = (software(&farm, "2.0.0"), Builds::default());
    let file = |path: &'static str, limit| {
        let new = &new;
        let farm = &farm;
        async move { upgrade(farm).software_file(new, Path::new(path), limit).await }
    };
    assert_eq!(file("package.json", 100).await.unwrap_err().code(), Code::NotFound, "not installed");
    let error = upgrade(&farm).install(&new, None, &builds).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("version")), "{error}");
    let recipe = recipe(&new);
    let install = || upgrade(&farm).install(&new, Some(&recipe), &builds);
    let (a, b, c) = tokio::join!(install(), install(), install());
    for done in [a, b, c, install().await] {
        done.unwrap();
    }
    assert_eq!(builds.0.load(Ordering::Relaxed), 1);
    let (one, other) = tokio::join!(file("package.json", 100), file("package.json", 100));
    for contents in [one, other] {
        assert_eq!(contents.unwrap().as_deref(), Some(br#"{"version":"2.0.0"}"#.as_slice()));
    }
    assert_eq!(file("none", 100).await.unwrap(), None);
    assert_eq!(file("no/such/folder", 100).await.unwrap(), None);
    assert_eq!(file("package.json", 5).await.unwrap_err().code(), Code::Insufficient);
    assert_eq!(file("deep", 100).await.unwrap_err().code(), Code::InvalidInput);
    assert_eq!(file("../etc/passwd", 100).await.unwrap_err().code(), Code::InvalidInput);
    // What it was looked into by is gone.
    let filter = format!("label=io.clawfarm.server={}", farm.server());
    assert_eq!(farm.engine.docker(&["ps", "-aq", "--filter", &filter]), "");
    farm.engine.remove_image(&recipe.reference);
    farm.clear().await;
}

async fn what_runs_and_is_recorded_is_the_new_image(farm: Farm) {
    let (id, new) = (farm.id("newer"), software(&farm, "2.0.0"));
    let recipe = recipe(&new);
    farm.up(&id, SERVES).await;
    farm.run(&id, &["sh", "-c", "echo kept > memory"]).await;
    upgrade(&farm).install(&new, Some(&recipe), &NoProgress).await.unwrap();
    assert_eq!(farm.runtime.observe(&id).await.unwrap().state, S::Running, "it was not touched");
    farm.runtime.stop(&id, GRACE).await.unwrap();
    let digest = |image: &str| {
        farm.engine
            .docker(&["image", "inspect", "-f", "{{.Id}}", image])
            .trim_start_matches("sha256:")
            .to_owned()
    };
    for (run, image) in [(2, recipe.reference.as_str()), (3, TINY)] {
        let mut placement = farm.placement(&id, "default").await;
        placement.software.image = Some(image.to_owned());
        farm.runtime.ensure(&placement, &NoProgress).await.unwrap();
        farm.runtime.start(&launch(&id, run, SERVES)).await.unwrap();
        let runs = farm.engine.docker(&["inspect", "-f", "{{.Image}}", &farm.container(&id)]);
        assert_eq!(runs.trim_start_matches("sha256:"), digest(image));
        let record = std::fs::read(farm.dir(&id).join("container.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        assert_eq!(record["image"].as_str().unwrap().trim_start_matches("sha256:"), digest(image));
        assert_eq!(farm.run(&id, &["cat", "memory"]).await.0, "kept\n", "on the same data");
        farm.runtime.stop(&id, GRACE).await.unwrap();
    }
    farm.runtime.destroy(&id, DataFate::Purge).await.unwrap();
    farm.engine.remove_image(&recipe.reference);
    farm.clear().await;
}

async fn a_copy_is_of_what_was_there_and_comes_back_as_it_was(farm: Farm) {
    let id = farm.id("copied");
    farm.up(&id, SERVES).await;
    farm.run(&id, &["sh", "-c", "echo old > memory; echo old > ../state; echo old > ~/.config/set"]).await;
    let up = upgrade(&farm).copy_data(&id, 7, &NoProgress).await.unwrap_err();
    assert_eq!((up.code(), up.field_name()), (Code::Conflict, Some("id")), "its data changes while it is up");
    assert_eq!(upgrade(&farm).put_back(&id, 7).await.unwrap_err().code(), Code::Conflict);
    farm.runtime.stop(&id, GRACE).await.unwrap();
    let dir = farm.dir(&id);
    let parts = ["workspace/memory", "config/state", "dot-config/set"];
    let owners = || parts.map(|part| std::fs::metadata(dir.join(part)).unwrap().uid());
    let before = owners();
    // Half a copy, as a kill leaves it, is no copy.
    std::fs::create_dir_all(dir.join("copy.partial/config")).unwrap();
    assert_eq!(upgrade(&farm).put_back(&id, 7).await.unwrap_err().code(), Code::NotFound);
    assert!(upgrade(&farm).copy_data(&id, 7, &NoProgress).await.unwrap() > 0);

    // What a newer version does to it, and what a second copy of the same number must not take.
    farm.runtime.start(&launch(&id, 2, SERVES)).await.unwrap();
    farm.run(&id, &["sh", "-c", "echo new > memory; rm ../state; rm ~/.config/set; echo 19 > ../schema"])
        .await;
    farm.runtime.kill(&id).await.unwrap();
    upgrade(&farm).copy_data(&id, 7, &NoProgress).await.unwrap();
    // Cut off when one part was gone, and its older self not yet in its place.
    std::fs::remove_dir_all(dir.join("workspace")).unwrap();
    for _ in 0..2 {
        upgrade(&farm).put_back(&id, 7).await.unwrap();
        for part in parts {
            assert_eq!(std::fs::read_to_string(dir.join(part)).unwrap(), "old\n", "{part}");
        }
        assert!(!dir.join("config/schema").exists());
        assert_eq!(owners(), before);
    }
    for _ in 0..2 {
        upgrade(&farm).remove_copy(&id).await.unwrap();
    }
    assert!(!dir.join("copy").exists());
    // Its claw can work with what came back; and a removal takes a copy with it.
    farm.runtime.start(&launch(&id, 3, SERVES)).await.unwrap();
    until("it can be written", || async {
        farm.run(&id, &["sh", "-c", "echo er >> memory; cat memory"]).await.0.starts_with("old\ner")
    })
    .await;
    farm.runtime.stop(&id, GRACE).await.unwrap();
    upgrade(&farm).copy_data(&id, 8, &NoProgress).await.unwrap();
    farm.runtime.destroy(&id, DataFate::Keep).await.unwrap();
    let dataset = farm.home.path().join("datasets").join(id.as_str());
    assert!(!dir.exists() && !dataset.join("copy").exists() && dataset.join("workspace/memory").exists());
    upgrade(&farm).remove_copy(&id).await.unwrap();
    farm.runtime.remove_dataset(&id).await.unwrap();
    farm.clear().await;
}
