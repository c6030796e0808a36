//! `support-bundle`: what is in it, and what must not be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::Home;

/// Set as a secret, and known by nothing in its look.
const SECRET: &str = "Korrekt/Pferd+Batterie Heft\"klammer";

/// Unpacks a bundle as anybody does who is sent one.
pub(crate) fn unpack(home: &Home, file: &Path) -> BTreeMap<String, String> {
    let folder = home.path().join("unpacked");
    fs::create_dir_all(&folder).expect("a folder");
    let tar = std::process::Command::new("tar").arg("-xzf").arg(file).arg("-C").arg(&folder).status();
    assert!(tar.expect("tar runs").success());
    let mut files = BTreeMap::new();
    collect(&folder.join("clawfarm-support"), "", &mut files);
    files
}

fn collect(folder: &Path, prefix: &str, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().expect("a kind").is_dir() {
            collect(&entry.path(), &format!("{name}/"), files);
        } else {
            files.insert(name, fs::read_to_string(entry.path()).expect("text"));
        }
    }
}

fn append(path: &Path, line: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(path).expect("a log");
    writeln!(file, "{line}").expect("written");
}

/// The file that a simulated claw's output is in.
fn sim_log(home: &Home, id: &str) -> PathBuf {
    let data = fs::read_dir(home.path().join("world/data")).expect("a world").flatten();
    data.map(|shard| shard.path().join(id).join("log")).find(|log| log.exists()).expect("its log")
}

#[test]
fn a_bundle_has_everything_but_secrets() {
    let home = Home::new();
    home.run_with_input(&["secret", "set", "pass"], SECRET).ends(0);
    home.run_with_input(&["secret", "set", "word"], "Turm-77_Wasser").ends(0);
    let set_native = format!("native.note=before {SECRET} after");
    let made = home.run(&[
        "new",
        "openclaw",
        "alice",
        "--runtime",
        "sim",
        "--set",
        "env.PASS.secret=pass",
        "--set",
        &set_native,
        "--set",
        "env.OTHER_API_KEY=unknown-to-the-store",
        "--label",
        "team=support",
        "--label",
        "note=Turm-77_Wasser",
        "--json",
    ]);
    let id = made.ends(0).json()["instance"]["id"].as_str().expect("an id").to_owned();
    let gateway = home.run(&["token", "reveal", &id]).ends(0).out.trim().to_owned();
    let admin = fs::read_to_string(home.farm().join("admin.token")).expect("a token").trim().to_owned();
    let quoted = Value::from(SECRET).to_string();
    let quoted = &quoted[1..quoted.len() - 1];
    let url = "Korrekt%2FPferd%2BBatterie%20Heft%22klammer";
    // As `printf %s '<secret>' | base64` has it.
    let base64 = "S29ycmVrdC9QZmVyZCtCYXR0ZXJpZSBIZWZ0ImtsYW1tZXI=";
    // And with one letter before it.
    let base64_within = "eEtvcnJla3QvUGZlcmQrQmF0dGVyaWUgSGVmdCJrbGFtbWVy";
    let log = sim_log(&home, &id);
    for text in [
        format!("my gateway token is {gateway}."),
        format!("got {SECRET} ok"),
        format!("{{\"p\":\"{quoted}\"}}"),
    ] {
        append(&log, &json!({ "at": "2026-11-21T07:00:00Z", "stream": "stdout", "text": text }).to_string());
    }
    let server_log = home.farm().join("server.log");
    for line in [
        format!("GET /x?q={url} {base64}"),
        format!("Basic-less: {base64_within}"),
        format!("{admin}{SECRET}{SECRET}"),
        "using sk-ant-api03-0123456789abcdef for https://me:hunter2@model.test".to_owned(),
    ] {
        append(&server_log, &line);
    }

    let file = home.path().join("out.tar.gz");
    let path = file.to_str().expect("UTF-8");
    let done = home.run(&["support-bundle", &id, "-o", path]).ends(0);
    assert!(done.out.contains("clawfarm-support/manifest.json") && done.out.contains(path), "{done:?}");
    assert!(done.err.contains("Look at it before you send it"), "{done:?}");
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);

    let files = unpack(&home, &file);
    let names: BTreeSet<&str> = files.keys().map(String::as_str).collect();
    let (of_instance, output) =
        (format!("instances/{id}/instance.json"), format!("instances/{id}/output.log"));
    let wanted = [
        "doctor.json",
        "events.json",
        &of_instance,
        &output,
        "instances.json",
        "manifest.json",
        "metrics.txt",
        "operations.json",
        "server.json",
        "server.log",
        "targets.json",
    ];
    assert_eq!(names, BTreeSet::from(wanted));
    for (name, text) in &files {
        for gone in [
            SECRET,
            quoted,
            url,
            "ycmVrdC9QZmVy",
            "dGVyaWUgSGVmdC",
            "tZXI",
            &admin,
            &gateway,
            "unknown-to-the-store",
            "0123456789abcdef",
            "hunter2",
            "Batterie",
            "Wasser",
        ] {
            assert!(!text.contains(gone), "{name} has {gone}: {text}");
        }
        if name.ends_with(".json") {
            serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
    // What is wanted is there, and tells where something was taken out.
    let instance: Value = serde_json::from_str(&files[of_instance.as_str()]).expect("JSON");
    assert_eq!(instance["labels"], json!({ "team": "support", "note": "[redacted]" }), "{instance}");
    assert_eq!(instance["config"]["native"]["note"], "before [redacted] after", "{instance}");
    assert_eq!(instance["config"]["env"]["PASS"], json!({ "secret": "pass" }), "{instance}");
    assert_eq!(instance["config"]["env"]["OTHER_API_KEY"], "[redacted]", "{instance}");
    assert!(
        files[output.as_str()].contains("2026-11-21T07:00:00.000Z stdout got [redacted] ok\n"),
        "{files:?}"
    );
    assert!(files["server.log"].contains("GET /x?q=[redacted] [redacted]=\n"), "{files:?}");
    assert!(
        files["events.json"].contains(&id) && files["metrics.txt"].contains("clawfarm_instances"),
        "{files:?}"
    );
    let manifest: Value = serde_json::from_str(&files["manifest.json"]).expect("JSON");
    assert_eq!(manifest["left_out"], json!([]), "{manifest}");
    assert_eq!(manifest["files"].as_array().map(Vec::len), Some(wanted.len() - 1), "{manifest}");

    // A second one does not take the first one's place, nor does a link lead it elsewhere.
    let before = fs::read(&file).expect("read");
    let refused = home.run(&["support-bundle", "-o", path]).ends(4);
    assert!(refused.err.contains("--output") && fs::read(&file).expect("read") == before, "{refused:?}");
    let link = home.path().join("link.tar.gz");
    std::os::unix::fs::symlink(home.path().join("elsewhere"), &link).expect("linked");
    home.run(&["support-bundle", "-o", link.to_str().expect("UTF-8")]).ends(4);
    assert!(!home.path().join("elsewhere").exists());
}

#[test]
fn a_preview_writes_nothing_and_without_a_server_it_says_what_to_do() {
    let home = Home::new();
    let here = home.path().join("here");
    fs::create_dir_all(&here).expect("a folder");
    let run = |arguments: &[&str]| {
        let child = home.command(arguments).current_dir(&here).spawn();
        crate::support::finish(child.expect("starts"))
    };
    let refused = run(&["support-bundle"]).ends(5);
    assert!(refused.err.contains("clawfarm serve --background"), "{refused:?}");
    assert_eq!(home.server_pid(), None, "none was started");

    home.run(&["ps"]).ends(0);
    let listed = run(&["support-bundle", "--preview", "--json"]).ends(0).json();
    let has = |name: &str| {
        listed["files"]
            .as_array()
            .is_some_and(|all| all.iter().any(|f| f["name"] == name && f["bytes"].as_u64() > Some(0)))
    };
    assert!(has("clawfarm-support/manifest.json") && has("clawfarm-support/server.log"), "{listed}");
    assert_eq!(fs::read_dir(&here).expect("a folder").count(), 0);
    let refused = run(&["support-bundle", "nobody"]).ends(3);
    assert!(refused.err.contains("'nobody'"), "{refused:?}");
    let refused = run(&["support-bundle", "-o", "no/such/folder/x.tar.gz"]).ends(2);
    assert!(refused.err.contains("--output"), "{refused:?}");
    assert_eq!(fs::read_dir(&here).expect("a folder").count(), 0);

    // Its own name, here.
    let made = run(&["support-bundle", "--json"]).ends(0).json();
    let path = made["path"].as_str().expect("a path");
    assert!(path.starts_with("clawfarm-support-2") && path.ends_with(".tar.gz"), "{path}");
    assert!(here.join(path).is_file());
}

#[test]
fn without_a_server_the_files_of_its_home_are_told() {
    let home = Home::new();
    home.run(&["ps"]).ends(0);
    home.run(&["down"]).ends(0);
    // It does not start any more, and its log says why.
    fs::write(home.farm().join("clawfarm.db"), "x".repeat(8192)).expect("written");
    let refused = home.run(&["ps"]);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    let admin = fs::read_to_string(home.farm().join("admin.token")).expect("a token").trim().to_owned();
    append(&home.farm().join("server.log"), &format!("{admin} sk-ant-api03-0123456789abcdef"));
    fs::create_dir_all(home.farm().join("claws/alice-x7k2b")).expect("a folder");
    let refused = home.run(&["support-bundle"]).ends(5);
    assert!(refused.err.contains("--offline"), "{refused:?}");

    let file = home.path().join("out.tar.gz");
    let done = home.run(&["support-bundle", "--offline", "-o", file.to_str().expect("UTF-8")]).ends(0);
    assert!(done.err.contains("manifest.json says what is missing"), "{done:?}");
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    let files = unpack(&home, &file);
    assert!(files["server.log"].contains("damaged"), "why it does not start: {}", files["server.log"]);
    assert!(files["files.json"].contains("clawfarm.db") && files["claws.json"].contains("alice-x7k2b"));
    assert!(files.values().all(|text| !text.contains(&admin) && !text.contains("0123456789abcdef")));
    let manifest: Value = serde_json::from_str(&files["manifest.json"]).expect("JSON");
    let left_out = manifest["left_out"].as_array().expect("a list");
    assert!(left_out.iter().any(|it| it["name"] == "instances.json" && it["why"].is_string()), "{manifest}");
}
