//! Installations: shared, whole or not there, and errors that say what to do.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use clawfarm_model::Code;
use clawfarm_runtime::{NoProgress, Runtime};

use crate::farm::{Farm, Reported, alive, id, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn one_installation_is_made_shared_and_read_only() {
    let farm = Farm::new().await;
    let reported = Reported::default();
    let place = farm.rt.ensure(&farm.placement(&id("a-1")), &reported).await.unwrap();
    let calls = farm.npm_calls();
    assert_eq!(calls.len(), 3, "{calls:?}");
    assert!(calls[0].contains("install node-linux-") && calls[0].contains("without scripts"), "{calls:?}");
    // The claw's own scripts run, and under the Node that was just installed.
    assert!(calls[1].starts_with("install small-claw@1.0.0 without scripts, node v24.0.0"), "{calls:?}");
    assert!(calls[2].starts_with("rebuild small-claw with scripts, node v24.0.0"), "{calls:?}");
    let all = reported.all();
    for expected in ["download node Some(1) packages", "install small-claw Some(3) packages", "3"] {
        assert!(all.iter().any(|said| said == expected), "{expected} in {all:?}");
    }
    let mode =
        |path: &str| std::fs::metadata(place.install_dir.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(""), 0o555);
    assert_eq!(mode("node_modules/small-claw/package.json"), 0o444);
    let names: Vec<_> = std::fs::read_dir(place.install_dir.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!names.iter().any(|name| name.ends_with(".work")), "{names:?}");

    let again = farm.rt.ensure(&farm.placement(&id("b-1")), &NoProgress).await.unwrap();
    assert_eq!(again.install_dir, place.install_dir);
    assert_eq!(farm.npm_calls().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_installation_left_is_never_used() {
    let farm = Farm::new().await;
    let pid_file = farm.path("pid");
    farm.npm_behaves(&format!(
        "case $name in small-claw) mkdir -p $prefix/node_modules/small-claw/half; sleep 1000 & echo $! > {}; wait;; esac",
        pid_file.display()
    ));
    let claw = id("a-1");
    {
        let placement = farm.placement(&claw);
        let ensure = farm.rt.ensure(&placement, &NoProgress);
        tokio::pin!(ensure);
        let helper = wait_for("npm's helper", || async {
            std::fs::read_to_string(&pid_file).map_err(|e| e.to_string())
        });
        tokio::select! {
            done = &mut ensure => panic!("ended early: {done:?}"),
            _ = helper => {}
        }
    }
    // Called off: npm and what it started are gone.
    let pid: u32 = wait_for("its number", || async {
        std::fs::read_to_string(&pid_file).unwrap().trim().parse::<u32>()
    })
    .await;
    wait_for("npm's end", || async { if alive(pid) { Err(pid) } else { Ok(()) } }).await;
    let install_dir = farm.home().join("cache/installs/small-claw-1.0.0-node-24.0.0");
    assert!(!install_dir.exists());
    // As a machine that lost power would leave it: a folder in place, without its marker.
    std::fs::create_dir_all(install_dir.join("junk")).unwrap();

    farm.npm_behaves("");
    let place = farm.prepared(&claw).await;
    assert_eq!(place.install_dir, install_dir.canonicalize().unwrap());
    assert!(!install_dir.join("junk").exists());
    assert!(!install_dir.join("node_modules/small-claw/half").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_ask_at_a_time_share_one_and_all_see_its_progress() {
    let farm = Farm::new().await;
    farm.npm_behaves("case $name in small-claw) for p in 1 2; do echo 'npm http fetch GET 200 x 1ms' >&2; done; sleep 1;; esac");
    // Two servers with homes of their own and one cache.
    let other_home = farm.path("other");
    let cache = farm.home().join("cache");
    let other = farm
        .another(|config| {
            config.home = other_home;
            config.cache_dir = cache;
            config.own_users = false;
        })
        .await;
    let (first, second, third) = (Reported::default(), Reported::default(), Reported::default());
    let (a, b, c) = (farm.placement(&id("a-1")), farm.placement(&id("b-1")), farm.placement(&id("c-1")));
    let all = tokio::join!(farm.rt.ensure(&a, &first), farm.rt.ensure(&b, &second), other.ensure(&c, &third));
    let dirs = [all.0.unwrap().install_dir, all.1.unwrap().install_dir, all.2.unwrap().install_dir];
    assert!(dirs.iter().all(|dir| *dir == dirs[0]), "{dirs:?}");
    assert_eq!(farm.npm_calls().len(), 3);
    for said in [first.all(), second.all(), third.all()] {
        assert!(said.iter().any(|s| s.starts_with("install small-claw")), "{said:?}");
        assert!(said.iter().any(|s| s == "2" || s == "5"), "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_say_what_is_wrong_and_leave_nothing_behind() {
    let farm = Farm::new().await;
    let claw = id("a-1");
    for (script, code, word) in [
        ("echo 'npm error code ENOTFOUND' >&2; exit 1", Code::Unavailable, "could not be reached"),
        ("echo 'npm error code ETARGET' >&2; exit 1", Code::InvalidInput, "no such version"),
        (
            "echo 'npm error ENOSPC: no space left on device' >&2; exit 228",
            Code::Insufficient,
            "disk is full",
        ),
        ("echo 'surprise' >&2; kill -9 $$", Code::Unavailable, "surprise"),
    ] {
        farm.npm_behaves(script);
        let error = farm.rt.ensure(&farm.placement(&claw), &NoProgress).await.unwrap_err();
        assert_eq!(error.code(), code, "{error:?}");
        assert!(error.message().contains(word) && error.fix_text().is_some(), "{error:?}");
    }
    assert!(!farm.claw(&claw).exists());
    farm.npm_behaves("");
    farm.prepared(&claw).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_npm_and_a_slow_one_are_told_apart() {
    let missing = Farm::with(|config| config.npm = "no-such-npm-anywhere".into()).await;
    let error = missing.rt.ensure(&missing.placement(&id("a-1")), &NoProgress).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Unsupported, Some("npm")));
    assert!(error.fix_text().unwrap().contains("apt-get install"), "{error}");
    let diagnosis = missing.rt.diagnose().await;
    assert!(!diagnosis.usable);

    let slow = Farm::with(|config| config.npm_time_limit = Duration::from_secs(1)).await;
    slow.npm_behaves("sleep 1000");
    let error = slow.rt.ensure(&slow.placement(&id("a-1")), &NoProgress).await.unwrap_err();
    assert_eq!(error.code(), Code::Timeout, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_npm_could_take_for_something_else_is_refused() {
    let farm = Farm::new().await;
    let mut placement = farm.placement(&id("a-1"));
    placement.software.npm.as_mut().unwrap().version = "latest; touch /tmp/x".into();
    let error = farm.rt.ensure(&placement, &NoProgress).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("version")));
    placement.software.npm = None;
    let error = farm.rt.ensure(&placement, &NoProgress).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Unsupported, Some("runtime")));
    assert!(farm.npm_calls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn real_npm_understands_what_it_is_told() {
    let farm = Farm::new().await;
    // Node's own package has a hundred megabytes: only the small one is fetched.
    farm.npm_behaves(
        "case $name in is-number*) PATH=$(echo $PATH | cut -d: -f2-); \
         if [ $verb = install ]; then set -- --ignore-scripts --save-exact --loglevel=http --fetch-timeout=60000 --fetch-retries=3; \
         else set -- --ignore-scripts=false --foreground-scripts --loglevel=warn; fi; \
         exec npm $verb --prefix $prefix --global=false --no-audit --no-fund \"$@\" -- $package;; esac",
    );
    let mut placement = farm.placement(&id("a-1"));
    let npm = placement.software.npm.as_mut().unwrap();
    (npm.package, npm.version) = ("is-number".into(), "7.0.0".into());
    let reported = Arc::new(Reported::default());
    let place = farm.rt.ensure(&placement, &*reported).await.unwrap();
    let package =
        std::fs::read_to_string(place.install_dir.join("node_modules/is-number/package.json")).unwrap();
    assert!(package.contains("\"7.0.0\""));

    let npm = placement.software.npm.as_mut().unwrap();
    npm.version = "7.0.99".into();
    let error = farm.rt.ensure(&placement, &*reported).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("version")), "{error:?}");
}
