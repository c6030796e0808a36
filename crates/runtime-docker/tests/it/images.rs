//! Images: made once for all who ask, from packages or from a commit; pulled and looked into.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use clawfarm_model::Code;
use clawfarm_model::image::{Image, ImageReference};
use clawfarm_model::launch::{GitSource, ImageMark, ImageRecipe, SourceRecipe};
use clawfarm_model::name::{ClawType, TargetName};
use clawfarm_runtime::{Images, NoProgress, Progress, Runtime};
use clawfarm_runtime_docker::{DockerConfig, DockerRuntime};
use clawfarm_test_docker::{DEBIAN, Engine, Kind, TINY, TINY_CLAW, TINY_CLAW_VERSION};
use tempfile::TempDir;

use crate::farm::{Farm, launch, until};
use crate::registry::Registry;

/// Says that it builds, for long enough that others ask meanwhile; with certificates it never ends.
const SLOW: &str = "ARG BASE
FROM ${BASE}
ARG MARK
COPY ca-certificates.crt /trusted
RUN echo building ${MARK}; if [ -s /trusted ]; then sleep 3600; fi; sleep 3
HEALTHCHECK CMD [\"true\"]
";

/// Remembers what it was told.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn has(&self, text: &str) -> bool {
        self.0.lock().unwrap().iter().any(|line| line.contains(text))
    }
}

impl Progress for Heard {
    fn step(&self, _name: &str, message: &str, _total: Option<u64>, _unit: &str) {
        self.say(message);
    }

    fn advance(&self, _done: u64) {}

    fn say(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

/// A name that no other test and no other run has.
fn unique(what: &str) -> String {
    let folder = TempDir::new().unwrap();
    let name = folder.path().file_name().unwrap().to_str().unwrap().to_lowercase();
    format!("{what}-{}-{}", std::process::id(), name.trim_start_matches('.'))
}

fn openclaw() -> ClawType {
    ClawType::new("openclaw").unwrap()
}

fn recipe(mark: &str) -> ImageRecipe {
    ImageRecipe {
        reference: format!("clawfarm-test/{mark}:1"),
        dockerfile: SLOW,
        base: TINY,
        args: vec![("MARK", mark.to_owned())],
        claw_type: openclaw(),
        version: "1".into(),
        about_lines: 5,
    }
}

fn mark() -> ImageMark {
    ImageMark { claw_type: openclaw(), package: "openclaw", folder: "/app", program: "openclaw.mjs" }
}

fn reference(text: &str) -> ImageReference {
    ImageReference::new(text).unwrap()
}

/// Another server on the same engine: with a home of its own.
async fn other(engine: &Engine, home: &TempDir, certificates: &str) -> DockerRuntime {
    let trusted = home.path().join("trusted.pem");
    std::fs::write(&trusted, certificates).unwrap();
    let mut config = DockerConfig::new(home.path(), TargetName::new("docker").unwrap());
    config.socket = engine.socket();
    config.certificates = Some(trusted);
    DockerRuntime::open(config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_ask_get_one_build_also_from_two_servers() {
    let Some(farm) = Farm::of(Kind::Docker).await else { return };
    let (home, another) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let first = Arc::new(other(&farm.engine, &home, "").await);
    let second = Arc::new(other(&farm.engine, &another, "").await);
    let name = unique("once");
    let mut asked = Vec::new();
    for runtime in [&first, &first, &second, &second] {
        let (runtime, recipe, heard) = (Arc::clone(runtime), recipe(&name), Heard::default());
        let told = heard.clone();
        let building = tokio::spawn(async move { Images::build(&*runtime, &recipe, None, &told).await });
        asked.push((building, heard));
    }
    let (mut images, mut built) = (Vec::<Image>::new(), 0);
    for (building, heard) in asked {
        images.push(building.await.unwrap().unwrap());
        built += u32::from(heard.has(&format!("building {name}")));
    }
    assert_eq!(built, 1, "one of the four has built it");
    assert!(images.iter().all(|image| image.digest == images[0].digest), "{images:?}");
    assert_eq!((images[0].version.as_str(), images[0].base.as_deref()), ("1", Some(TINY)));
    assert_eq!(images[0].source.as_deref(), Some("openclaw@1"));
    // Who built it can show what it printed, as a whole.
    let wanted = reference(&images[0].reference);
    let logs = [first.build_log(&wanted).await, second.build_log(&wanted).await];
    let (there, missing): (Vec<_>, Vec<_>) = logs.into_iter().partition(Result::is_ok);
    assert_eq!((there.len(), missing.len()), (1, 1));
    assert!(there[0].as_ref().unwrap().contains(&format!("building {name}\n")), "{there:?}");
    assert_eq!(missing[0].as_ref().unwrap_err().code(), Code::NotFound);
    // The same again is not built, another base is.
    let heard = Heard::default();
    assert_eq!(Images::build(&*first, &recipe(&name), None, &heard).await.unwrap().digest, images[0].digest);
    assert!(!heard.has("building"), "{:?}", heard.0);
    first.remove_image(&wanted).await.unwrap();
    assert_eq!(second.remove_image(&wanted).await.unwrap_err().code(), Code::NotFound);
    assert!(
        Images::images(&*first).await.unwrap().iter().all(|image| image.reference != images[0].reference)
    );
    // What clawfarm does not know is not its to remove.
    assert_eq!(first.remove_image(&reference(TINY)).await.unwrap_err().code(), Code::NotFound);
    farm.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_while_it_builds_is_in_nobody_s_way() {
    let Some(farm) = Farm::of(Kind::Docker).await else { return };
    let (home, another) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let dying = Arc::new(other(&farm.engine, &home, "never ends").await);
    let name = unique("cut");
    let (heard, recipe) = (Heard::default(), recipe(&name));
    let (told, of) = (heard.clone(), recipe.clone());
    let building = tokio::spawn(async move { Images::build(&*dying, &of, None, &told).await.map(drop) });
    until("it builds", || async { heard.has(&format!("building {name}")) }).await;
    let next = Arc::new(other(&farm.engine, &another, "").await);
    let (waits, of) = (Heard::default(), recipe.clone());
    let (told, runtime) = (waits.clone(), Arc::clone(&next));
    let waiting = tokio::spawn(async move { Images::build(&*runtime, &of, None, &told).await });
    until("the other waits", || async { waits.has("another server makes this image") }).await;
    // As a killed server: its connection and its lock are gone at once.
    building.abort();
    let _ = building.await;
    let image = tokio::time::timeout(crate::farm::LIMIT, waiting).await.unwrap().unwrap().unwrap();
    assert!(waits.has(&format!("building {name}")));
    next.remove_image(&reference(&image.reference)).await.unwrap();
    farm.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_pulled_looked_into_and_run_by_its_digest() {
    let Some(farm) = Farm::of(Kind::Docker).await else { return };
    let (engine, runtime) = (&farm.engine, &farm.runtime);
    engine.with_tiny_claw();
    let registry = Registry::start();
    let path = unique("team/openclaw");
    let named = format!("{path}:{TINY_CLAW_VERSION}");
    let digest = registry.take(engine, TINY_CLAW, &named);
    let (by_tag, by_digest) = (registry.name(&named), format!("{}@{digest}", registry.name(&path)));
    let heard = Heard::default();
    let image = runtime.pull(&reference(&by_tag), &mark(), &heard).await.unwrap();
    assert!(heard.has(&format!("pulling the image {by_tag}")), "{:?}", heard.0);
    assert_eq!((image.reference.as_str(), image.version.as_str()), (by_tag.as_str(), TINY_CLAW_VERSION));
    assert_eq!(image.source.as_deref(), by_tag.split('/').next());
    runtime.remove_image(&reference(&by_tag)).await.unwrap();
    // An instance that is pinned by digest fetches it by itself, and says what it runs.
    let id = farm.id("pulled");
    let mut placement = farm.placement(&id, "default").await;
    placement.software.image = Some(by_digest.clone());
    placement.software.version = TINY_CLAW_VERSION.into();
    placement.mark = Some(mark());
    runtime.ensure(&placement, &NoProgress).await.unwrap();
    let seen = runtime.start(&launch(&id, 1, "sleep 1000 & wait")).await.unwrap();
    let pinned = engine.docker(&["inspect", "-f", "{{.Image}}", &farm.container(&id)]);
    assert_eq!(seen.image.as_deref(), Some(pinned.as_str()));
    let listed =
        Images::images(runtime).await.unwrap().into_iter().find(|image| image.reference == by_digest);
    assert_eq!(listed.map(|image| (image.digest, image.used_by)), Some((pinned, 1)));
    assert_eq!(runtime.remove_image(&reference(&by_digest)).await.unwrap_err().code(), Code::Conflict);
    // What it holds must be what was asked for.
    placement.software.version = "9.9.9".into();
    let error = runtime.ensure(&placement, &NoProgress).await.map(drop).unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("version")));
    assert!(error.message().contains(TINY_CLAW_VERSION), "{error}");
    refuses(&farm, registry).await;
    farm.clear().await;
}

/// What can't be had, each with what is wrong with it.
async fn refuses(farm: &Farm, registry: Registry) {
    let (engine, runtime) = (&farm.engine, &farm.runtime);
    let refused = |name: String| async move {
        let error = runtime.pull(&reference(&name), &mark(), &NoProgress).await.map(drop).unwrap_err();
        assert!(error.fix_text().is_some() && error.field_name() == Some("image"), "{error:?}");
        (error.code(), error.message().to_owned())
    };
    let missing = refused(registry.name("team/openclaw:none")).await;
    assert_eq!(missing.0, Code::InvalidInput, "{missing:?}");
    let other = format!("{}:1", unique("other"));
    registry.take(engine, TINY, &other);
    let no_claw = refused(registry.name(&other)).await;
    assert!(no_claw.0 == Code::InvalidInput && no_claw.1.contains("/app/openclaw.mjs"), "{no_claw:?}");
    let left = engine.docker(&["images", "-q", &registry.name(&other)]);
    assert_eq!(left, "", "what is of no use is not left");
    let elsewhere = if cfg!(target_arch = "x86_64") { "arm64" } else { "amd64" };
    let foreign = format!("clawfarm-test/{}:1", unique("foreign"));
    let folder = TempDir::new().unwrap();
    let archive = folder.path().join("image.tar");
    std::fs::write(&archive, image_for(elsewhere, &foreign)).unwrap();
    let _ = engine.docker(&["load", "--input", archive.to_str().unwrap()]);
    registry.take(engine, &foreign, &foreign);
    engine.remove_image(&foreign);
    let wrong = refused(registry.name(&foreign)).await;
    assert!(wrong.0 == Code::InvalidInput && wrong.1.contains(elsewhere), "{wrong:?}");
    let gone = registry.name("team/openclaw:1");
    drop(registry);
    let down = refused(gone).await;
    assert_eq!(down.0, Code::Unavailable, "{down:?}");
}

/// An image without a file, for a processor, as `docker save` writes one.
fn image_for(architecture: &str, name: &str) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let layer = tar::Builder::new(Vec::new()).into_inner().unwrap();
    let diff: String = Sha256::digest(&layer).iter().map(|byte| format!("{byte:02x}")).collect();
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff}")]},
    });
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    let mut archive = tar::Builder::new(Vec::new());
    for (name, contents) in [
        ("config.json", config.to_string().into_bytes()),
        ("layer.tar", layer),
        ("manifest.json", manifest.to_string().into_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, contents.as_slice()).unwrap();
    }
    archive.into_inner().unwrap()
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"])
        .args(arguments)
        .output()
        .expect("git is installed: scripts/test-setup");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A repository laid out as OpenClaw's: built by pnpm, with a program that runs what was built.
fn repository(folder: &Path) -> String {
    std::fs::write(
        folder.join("package.json"),
        r#"{"name":"openclaw","version":"2026.9.9","packageManager":"pnpm@10.23.0+sha512.0","scripts":{"build":"node build.mjs"}}"#,
    )
    .unwrap();
    std::fs::write(folder.join("openclaw.mjs"), "await import('./dist/entry.mjs');\n").unwrap();
    std::fs::write(
        folder.join("build.mjs"),
        "import fs from 'node:fs';\nfs.mkdirSync('dist');\nfs.writeFileSync('dist/entry.mjs', `console.log('built by', ${JSON.stringify(process.env.npm_config_user_agent.split('/')[0])});`);\n",
    )
    .unwrap();
    git(folder, &["init", "--quiet", "--initial-branch=main"]);
    git(folder, &["add", "."]);
    git(folder, &["commit", "--quiet", "-m", "One"]);
    git(folder, &["tag", "v2026.9.9"]);
    let commit = git(folder, &["rev-parse", "HEAD"]);
    // Another commit, of which the tag knows nothing.
    std::fs::write(folder.join("openclaw.mjs"), "process.exit(1);\n").unwrap();
    git(folder, &["commit", "--quiet", "--all", "-m", "Two"]);
    commit
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2e_an_image_is_built_from_a_commit() {
    let Some(farm) = Farm::of(Kind::Docker).await else { return };
    let (engine, runtime) = (&farm.engine, &farm.runtime);
    engine.with_debian();
    let folder = TempDir::new().unwrap();
    let commit = repository(folder.path());
    let recipe = SourceRecipe {
        name: "clawfarm-test/source",
        dockerfile: include_str!("../../../../images/openclaw/source.Dockerfile"),
        base: DEBIAN,
        args: vec![("NODE_VERSION", "24.21.0".to_owned())],
        mark: mark(),
        about_lines: 60,
    };
    let from = |repository: &str, reference: Option<&str>| GitSource {
        repository: repository.to_owned(),
        reference: reference.map(str::to_owned),
    };
    let place = folder.path().to_str().unwrap();
    for (source, field) in [
        (from(place, Some("no-such-branch")), "source"),
        (from(place, Some("0123456789abcdef")), "ref"),
        (from(place, Some("--upload-pack=true")), "ref"),
        (from("ext::true", None), "source"),
        (from("/nowhere/at/all", None), "source"),
    ] {
        let refused = runtime.build_source(&recipe, &source, None, &NoProgress).await.map(drop).unwrap_err();
        assert_eq!((refused.code(), refused.field_name()), (Code::InvalidInput, Some(field)), "{refused}");
    }
    let source = from(place, Some("v2026.9.9"));
    let heard = Heard::default();
    let image = runtime.build_source(&recipe, &source, None, &heard).await.unwrap();
    let version = format!("2026.9.9-g{}", &commit[..12]);
    assert_eq!(image.reference, format!("clawfarm-test/source:{version}"));
    assert_eq!((&image.version, &image.source), (&version, &Some(format!("{place}#{commit}"))));
    let printed = engine.docker(&["run", "--rm", "--network=none", &image.reference]);
    assert_eq!(printed, "built by pnpm");
    let config = engine.docker(&["inspect", "-f", "{{json .Config}}", &image.reference]);
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!((&config["User"], &config["WorkingDir"]), (&"node".into(), &"/app".into()));
    assert!(config["Healthcheck"]["Test"].to_string().contains("/healthz"), "{config}");
    assert_eq!(config["Labels"]["org.opencontainers.image.revision"], commit.as_str());
    // The same commit under another name is there already.
    let again = Heard::default();
    let same = runtime.build_source(&recipe, &from(place, Some(&commit)), None, &again).await.unwrap();
    assert!(same.digest == image.digest && !again.has("Step 1"), "{:?}", again.0);
    runtime.remove_image(&reference(&image.reference)).await.unwrap();
    farm.clear().await;
}
