//! Installations by pip: as those of npm, offline, of a package that is made here.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use clawfarm_model::Code;
use clawfarm_model::launch::{Lock, PipInstall, Placement};
use clawfarm_runtime::{NoProgress, Runtime};

use crate::farm::{Farm, Reported, id, wait_for};

/// Writes a wheel of `tiny-claw` 1.0.0 with one program, and prints the hash of the file.
const WHEEL: &str = r#"
import base64, hashlib, sys, zipfile
files = {
    "tiny_claw.py": "def main():\n    print('tiny')\n",
    "tiny_claw-1.0.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny-claw\nVersion: 1.0.0\n",
    "tiny_claw-1.0.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "tiny_claw-1.0.0.dist-info/entry_points.txt": "[console_scripts]\ntiny-claw = tiny_claw:main\n",
}
record = "tiny_claw-1.0.0.dist-info/RECORD"
lines = [f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}"
         for name, text in files.items()]
path = sys.argv[1] + "/tiny_claw-1.0.0-py3-none-any.whl"
with zipfile.ZipFile(path, "w") as wheel:
    for name, text in files.items():
        wheel.writestr(name, text)
    wheel.writestr(record, "\n".join(lines) + f"\n{record},,\n")
print(hashlib.sha256(open(path, "rb").read()).hexdigest())
"#;

fn wheel(folder: &Path) -> String {
    let output = Command::new("/usr/bin/python3").args(["-c", WHEEL]).arg(folder).output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A placement of it, from `folder` and nowhere else, by this hash.
fn placement(farm: &Farm, name: &str, folder: &Path, hash: &str) -> Placement {
    let lock =
        format!("--no-index\n--find-links {}\ntiny-claw==1.0.0 --hash=sha256:{hash}\n", folder.display());
    let mut placement = farm.placement(&id(name));
    placement.software.npm = None;
    placement.software.pip = Some(PipInstall {
        package: "tiny-claw".to_owned(),
        version: "1.0.0".to_owned(),
        with: Vec::new(),
        python: "3.8".to_owned(),
        lock: Lock::of(lock.leak()),
        lock_id: Some("test".to_owned()),
        about_packages: 1,
    });
    placement
}

#[tokio::test(flavor = "multi_thread")]
async fn real_environment_is_made_whole_by_hashes_and_shared() {
    let farm = Farm::new().await;
    let wheels = farm.path("wheels");
    std::fs::create_dir(&wheels).unwrap();
    let hash = wheel(&wheels);

    let wrong = placement(&farm, "a-1", &wheels, &"0".repeat(64));
    let error = farm.rt.ensure(&wrong, &NoProgress).await.unwrap_err();
    assert_eq!(error.code(), Code::Unsupported, "{error}");
    assert!(error.message().contains("not the one that was tested") && error.fix_text().is_some(), "{error}");
    let dir = farm.home().join("cache/installs/tiny-claw-1.0.0-python-test");
    assert!(!dir.exists());

    // Called off half-way: what it left is never used.
    let right = placement(&farm, "a-1", &wheels, &hash);
    {
        let ensure = farm.rt.ensure(&right, &NoProgress);
        tokio::pin!(ensure);
        let log = farm.home().join("cache/installs/.tiny-claw-1.0.0-python-test.work/venv.log");
        let begun = wait_for("the environment's beginning", || async { std::fs::metadata(&log) });
        tokio::select! {
            done = &mut ensure => panic!("ended early: {done:?}"),
            _ = begun => {}
        }
    }
    assert!(!dir.exists());

    let reported = Reported::default();
    let place = farm.rt.ensure(&right, &reported).await.unwrap();
    assert_eq!(place.install_dir, dir.canonicalize().unwrap());
    assert!(
        reported.all().iter().any(|said| said == "install tiny-claw Some(1) packages"),
        "{:?}",
        reported.all()
    );
    let mode = |path: &str| std::fs::metadata(dir.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("clawfarm-install.json")), (0o555, 0o444));
    // Its own program runs from where it is, not from where it was made.
    let output = Command::new(dir.join("bin/tiny-claw")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "tiny\n");
    let installs = dir.parent().unwrap();
    assert!(!installs.join(".tiny-claw-1.0.0-python-test.work").exists());

    // It is there, whatever the wheels are.
    std::fs::remove_dir_all(&wheels).unwrap();
    let again = farm.rt.ensure(&placement(&farm, "b-1", &wheels, &hash), &NoProgress).await.unwrap();
    assert_eq!(again.install_dir, place.install_dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_a_package_can_be_asked_for() {
    let farm = Farm::new().await;
    for (package, version, field) in [
        ("--index-url=http://x", "1.0.0", "package"),
        ("tiny claw", "1.0.0", "package"),
        ("tiny-claw", "latest", "version"),
    ] {
        let mut asked = placement(&farm, "a-1", Path::new("/nowhere"), "0");
        let pip = asked.software.pip.as_mut().unwrap();
        pip.package = package.to_owned();
        pip.version = version.to_owned();
        let error = farm.rt.ensure(&asked, &NoProgress).await.unwrap_err();
        assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some(field)));
    }
}
