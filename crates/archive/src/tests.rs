use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use clawfarm_model::config::ConfigMode;
use clawfarm_model::instance::RestartPolicy;
use clawfarm_model::name::{ClawType, InstanceName, TargetName};
use clawfarm_model::resources::Resources;
use clawfarm_model::target::RuntimeKind;
use clawfarm_model::{ClawId, Error, InstanceSpec, Timestamp};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};
use tempfile::TempDir;

use super::*;
use crate::closing::Closing;
use crate::write::hex;

fn origin() -> Origin {
    Origin {
        id: ClawId::new("alice-x7k2b").unwrap(),
        name: InstanceName::new("alice").unwrap(),
        spec: InstanceSpec {
            claw_type: ClawType::new("openclaw").unwrap(),
            version: "2026.9.6".into(),
            image: None,
            vm: None,
            runtime: RuntimeKind::Process,
            target: TargetName::new("process").unwrap(),
            resources: Resources { cpus: 1.0, memory_mib: 512 },
            port: None,
            config: Box::default(),
            config_mode: ConfigMode::default(),
            restart: RestartPolicy::default(),
            import: None,
            dataset: None,
            restore: None,
            overcommit: false,
            ready_timeout_secs: 300,
            labels: Default::default(),
            policy: Default::default(),
        },
        schemas: [("state".to_owned(), 18)].into(),
    }
}

/// A tree with one of each kind.
fn tree() -> TempDir {
    let dir = folder_in_memory();
    let state = dir.path().join("state");
    fs::create_dir_all(state.join("workspace/deep")).unwrap();
    fs::create_dir_all(dir.path().join("dot-config")).unwrap();
    fs::write(state.join("openclaw.json"), "{}").unwrap();
    fs::set_permissions(state.join("openclaw.json"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(state.join("workspace/deep/run.sh"), "#!/bin/sh\n".repeat(500)).unwrap();
    fs::set_permissions(state.join("workspace/deep/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(state.join("workspace").join("n".repeat(200)), "long").unwrap();
    symlink("deep/run.sh", state.join("workspace/run")).unwrap();
    dir
}

/// A folder in memory, where the machine has such: the disk's own pace is not looked at here.
fn folder_in_memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

fn packed(tree: &Path) -> (Vec<u8>, Manifest) {
    let mut archive = Vec::new();
    let manifest = pack(tree, origin(), Vec::new(), &mut archive, &mut |_| Ok(())).unwrap();
    (archive, manifest)
}

/// What becomes of an archive. What is refused must have been refused as such.
fn taken(archive: &[u8]) -> std::result::Result<(TempDir, Manifest), Error> {
    let dir = folder_in_memory();
    let path = dir.path().to_owned();
    let (_, manifest) = unpack(archive, &mut |_| Ok(path.clone()), &mut |_| Ok(()))?;
    Ok((dir, manifest))
}

/// Every path below a folder with what it is.
fn listing(dir: &Path) -> Vec<(PathBuf, u32, i64, Vec<u8>)> {
    fn walk(at: &Path, root: &Path, all: &mut Vec<(PathBuf, u32, i64, Vec<u8>)>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            let short = path.strip_prefix(root).unwrap().to_owned();
            if found.is_symlink() {
                let target = fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes();
                all.push((short, 0, 0, target));
            } else if found.is_dir() {
                all.push((short, found.mode() & 0o777, 0, Vec::new()));
                walk(&path, root, all);
            } else {
                all.push((short, found.mode() & 0o777, found.mtime(), fs::read(&path).unwrap()));
            }
        }
    }
    let mut all = Vec::new();
    walk(dir, dir, &mut all);
    all.sort();
    all
}

#[test]
fn what_is_packed_comes_out_as_it_was() {
    let tree = tree();
    let (archive, manifest) = packed(tree.path());
    check_closed(archive.as_slice(), &mut |_| {}).unwrap();
    let (out, read) = taken(&archive).unwrap();
    assert_eq!(read, manifest);
    assert_eq!(listing(out.path()), listing(tree.path()));
    let order: Vec<_> = manifest.entries.iter().map(|e| e.path.to_str().unwrap()).collect();
    assert_eq!(order[..4], ["dot-config", "state", "state/openclaw.json", "state/workspace"]);
    // Any tar can read it, without this program.
    let plain = zstd::Decoder::new(archive.as_slice()).unwrap();
    let names: Vec<_> = tar::Archive::new(plain)
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert!(names.contains(&"alice-x7k2b/state/openclaw.json".to_owned()), "{names:?}");
    let (again, _) = taken(&packed(tree.path()).0).unwrap();
    assert_eq!(listing(again.path()), listing(tree.path()), "in the same order each time");
}

#[test]
fn what_leads_out_and_what_is_no_file_is_left_out_and_named() {
    let dir = tree();
    let state = dir.path().join("state");
    fs::create_dir_all(state.join("a/b")).unwrap();
    for (link, target) in [
        ("passwd", "/etc/passwd"),
        ("up", "../dot-config"),
        // Within by their texts, and not by way of each other.
        ("a/b/top", "../.."),
        ("a/b/out", "top/../../x"),
        ("itself", "itself"),
    ] {
        symlink(target, state.join(link)).unwrap();
    }
    let _socket = std::os::unix::net::UnixListener::bind(state.join("socket")).unwrap();
    let (archive, manifest) = packed(dir.path());
    let mut left: Vec<_> = manifest.left_out.iter().map(|l| l.path.to_str().unwrap()).collect();
    left.sort_unstable();
    let wanted = ["state/a/b/out", "state/itself", "state/passwd", "state/socket", "state/up"];
    assert_eq!(left, wanted, "{manifest:?}");
    let (out, _) = taken(&archive).unwrap();
    assert!(out.path().join("state/a/b/top").is_symlink());
    assert!(!out.path().join("state/passwd").exists());
}

#[test]
fn a_large_file_of_nothing_takes_no_room() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("state")).unwrap();
    let file = fs::File::create(dir.path().join("state/sparse")).unwrap();
    file.set_len(8 << 20).unwrap();
    let (archive, manifest) = packed(dir.path());
    assert!(archive.len() < 1 << 20, "{} bytes", archive.len());
    assert_eq!(manifest.bytes(), 8 << 20);
    let (out, _) = taken(&archive).unwrap();
    let found = fs::metadata(out.path().join("state/sparse")).unwrap();
    assert_eq!(found.len(), 8 << 20);
    assert!(found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());
}

#[test]
fn any_byte_that_is_changed_is_noticed() {
    let (archive, _) = packed(tree().path());
    // A bit of each byte; small enough an archive for that.
    assert!(archive.len() < 20_000, "{}", archive.len());
    for at in 0..archive.len() {
        let mut other = archive.clone();
        other[at] ^= 1 << (at % 8);
        let error = taken(&other).expect_err("a changed byte");
        assert_eq!(error.field_name(), Some("archive"), "byte {at}: {error}");
        assert!(error.fix_text().is_some() && check_closed(other.as_slice(), &mut |_| {}).is_err());
    }
    for length in 0..archive.len() {
        assert!(check_closed(&archive[..length], &mut |_| {}).is_err(), "cut off at {length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_cut_off_doubled_or_put_in_is_refused(from in 0_usize..5_000, to in 0_usize..5_000, junk in prop::collection::vec(any::<u8>(), 0..80), how in 0..4) {
        let (archive, _) = packed(tree().path());
        let (from, to) = (from % archive.len(), to % archive.len());
        let (from, to) = (from.min(to), from.max(to));
        let mut other = archive.clone();
        match how {
            0 => other.truncate(from),
            1 => { other.splice(from..from, junk); }
            2 => { other.drain(from..to); }
            _ => { let again = other[from..to].to_vec(); other.splice(to..to, again); }
        }
        prop_assume!(other != archive);
        let error = taken(&other).expect_err("another archive");
        prop_assert_eq!(error.field_name(), Some("archive"));
        let damaged = check_closed(other.as_slice(), &mut |_| {}).is_err();
        prop_assert!(damaged);
    }
}

#[test]
fn fuzz_archives() {
    let (archive, _) = packed(tree().path());
    clawfarm_fuzz::fuzz(&[&archive, b"", b"PK\x03\x04"], |bytes| {
        if let Err(error) = taken(bytes) {
            assert_eq!(error.field_name(), Some("archive"), "{error}");
        } else {
            assert_eq!(bytes, archive, "only what was packed is taken");
        }
    });
}

/// The same behind a closing frame that fits: what a forger can do.
#[test]
fn fuzz_contents() {
    let (archive, _) = packed(tree().path());
    let plain = zstd::decode_all(archive.as_slice()).unwrap();
    clawfarm_fuzz::fuzz(&[&plain, b""], |bytes| {
        let mut closed = Vec::new();
        let mut packed = zstd::Encoder::new(Closing::new(&mut closed), 1).unwrap();
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap().finish().unwrap();
        match taken(&closed) {
            Err(error) => assert_eq!(error.field_name(), Some("archive"), "{error}"),
            Ok((dir, manifest)) => assert_eq!(listing(dir.path()).len(), manifest.entries.len()),
        }
    });
}

/// An entry as a forger writes it.
struct Forged {
    name: &'static str,
    kind: EntryType,
    contents: &'static [u8],
    link: Option<&'static str>,
}

fn file(name: &'static str, contents: &'static [u8]) -> Forged {
    Forged { name, kind: EntryType::Regular, contents, link: None }
}

fn folder(name: &'static str) -> Forged {
    Forged { name, kind: EntryType::Directory, contents: b"", link: None }
}

fn link(name: &'static str, target: &'static str) -> Forged {
    Forged { name, kind: EntryType::Symlink, contents: b"", link: Some(target) }
}

/// An archive with a closing frame that fits, whatever is in it.
fn forged(manifest: &serde_json::Value, entries: &[Forged]) -> Vec<u8> {
    let mut archive = Vec::new();
    let packed = zstd::Encoder::new(Closing::new(&mut archive), 3).unwrap();
    let mut tar = tar::Builder::new(packed);
    let text = serde_json::to_vec(manifest).unwrap();
    let mut put = |name: &str, kind, contents: &[u8], link: Option<&str>| {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o600);
        header.set_size(contents.len() as u64);
        // By hand: the library would refuse to write such names.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if let Some(link) = link {
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        tar.append(&header, contents).unwrap();
    };
    put("alice-x7k2b/", EntryType::Directory, b"", None);
    put("alice-x7k2b/manifest.json", EntryType::Regular, &text, None);
    for entry in entries {
        put(entry.name, entry.kind, entry.contents, entry.link);
    }
    tar.into_inner().unwrap().finish().unwrap().finish().unwrap();
    archive
}

fn manifest_of(entries: serde_json::Value) -> serde_json::Value {
    let whole = Manifest {
        format: FORMAT,
        clawfarm: "0".into(),
        created_at: Timestamp::now(),
        origin: origin(),
        entries: Vec::new(),
        left_out: Vec::new(),
    };
    let mut manifest = serde_json::to_value(whole).unwrap();
    manifest["entries"] = entries;
    manifest
}

fn a_file(path: &str, contents: &[u8]) -> serde_json::Value {
    let sha256 = hex(&Sha256::digest(contents));
    serde_json::json!({ "path": path, "kind": "file", "size": contents.len(), "mode": 0o600, "mtime": 1, "sha256": sha256 })
}

#[test]
fn an_archive_that_was_made_to_harm_is_refused_and_what_is_wrong_is_named() {
    use serde_json::json;
    let state = || json!({ "path": "state", "kind": "folder", "mode": 0o700 });
    let top = || folder("alice-x7k2b/state/");
    let a = |contents: &[u8]| a_file("state/a", contents);
    let table: Vec<(&str, serde_json::Value, Vec<Forged>)> = vec![
        (
            "'state/../../x' in the archive: that is no path",
            json!([state(), a_file("state/../../x", b"x")]),
            vec![top(), file("alice-x7k2b/state/../../x", b"x")],
        ),
        ("that is no path", json!([a_file("/etc/x", b"x")]), vec![file("/etc/x", b"x")]),
        ("that is no path", json!([state(), a_file("state//a", b"x")]), vec![top()]),
        ("that is no path", json!([state(), a_file("state/a\u{0}b", b"x")]), vec![top()]),
        ("none of the folders", json!([{ "path": "logs", "kind": "folder", "mode": 0o700 }]), vec![]),
        ("it is no folder", json!([a_file("state", b"x")]), vec![file("alice-x7k2b/state", b"x")]),
        ("twice, or out of order", json!([state(), a(b"x"), a(b"x")]), vec![top()]),
        ("twice, or out of order", json!([state(), a_file("state/b", b""), a(b"x")]), vec![top()]),
        ("the folder that it lies in is missing", json!([state(), a_file("state/b/c", b"")]), vec![top()]),
        ("permission bits", json!([{ "path": "state", "kind": "folder", "mode": 0o4755 }]), vec![top()]),
        ("leads out", json!([state(), { "path": "state/l", "kind": "link", "target": "/etc" }]), vec![top()]),
        ("leads out", json!([state(), { "path": "state/l", "kind": "link", "target": "../x" }]), vec![top()]),
        ("leads out", json!([state(), { "path": "state/l", "kind": "link", "target": "" }]), vec![top()]),
        // A folder behind a link is no folder of the archive.
        (
            "the folder that it lies in is missing",
            json!([
                state(), { "path": "state/l", "kind": "link", "target": "." }, a_file("state/l/x", b"x")
            ]),
            vec![top(), link("alice-x7k2b/state/l", "."), file("alice-x7k2b/state/l/x", b"x")],
        ),
        (
            "by way of others",
            json!([
                state(),
                { "path": "state/a", "kind": "folder", "mode": 0o700 },
                { "path": "state/a/out", "kind": "link", "target": "top/../x" },
                { "path": "state/a/top", "kind": "link", "target": ".." },
            ]),
            vec![
                top(),
                folder("alice-x7k2b/state/a/"),
                link("alice-x7k2b/state/a/out", "top/../x"),
                link("alice-x7k2b/state/a/top", ".."),
            ],
        ),
        (
            "the link leads elsewhere",
            json!([state(), { "path": "state/l", "kind": "link", "target": "a" }]),
            vec![top(), link("alice-x7k2b/state/l", "/etc/passwd")],
        ),
        ("'state/a' in the archive: it is missing", json!([state(), a(b"x")]), vec![top()]),
        ("its manifest does not know it", json!([state()]), vec![top(), file("alice-x7k2b/state/a", b"x")]),
        ("stands in its place", json!([state(), a(b"x")]), vec![top(), file("alice-x7k2b/state/b", b"x")]),
        ("stands in its place", json!([state(), a(b"x")]), vec![top(), file("../../state/a", b"x")]),
        ("SHA-256 differs", json!([state(), a(b"x")]), vec![top(), file("alice-x7k2b/state/a", b"y")]),
        ("should have 1", json!([state(), a(b"x")]), vec![top(), file("alice-x7k2b/state/a", b"xx")]),
        (
            "of another kind",
            json!([state(), a(b"")]),
            vec![top(), link("alice-x7k2b/state/a", "/etc/passwd")],
        ),
        (
            "of another kind",
            json!([state(), a(b"")]),
            vec![
                top(),
                Forged {
                    name: "alice-x7k2b/state/a",
                    kind: EntryType::Link,
                    contents: b"",
                    link: Some("/etc/passwd"),
                },
            ],
        ),
        (
            "of another kind",
            json!([state(), a(b"")]),
            vec![
                top(),
                Forged { name: "alice-x7k2b/state/a", kind: EntryType::Char, contents: b"", link: None },
            ],
        ),
    ];
    for (wanted, entries, forgery) in table {
        let archive = forged(&manifest_of(entries), &forgery);
        check_closed(archive.as_slice(), &mut |_| {}).unwrap();
        let error = taken(&archive).expect_err(wanted);
        assert!(error.message().contains(wanted), "wanted '{wanted}': {error}");
        assert_eq!(error.field_name(), Some("archive"), "{error}");
    }
    let one = Entry { path: "state".into(), what: What::Folder { mode: 0o700 } };
    let mut many: Manifest = serde_json::from_value(manifest_of(json!([]))).unwrap();
    many.entries = vec![one; ENTRIES_MAX + 1];
    assert!(many.check().unwrap_err().message().contains("too many"));
    // The forger's tools themselves work.
    let good = forged(&manifest_of(json!([state(), a(b"x")])), &[top(), file("alice-x7k2b/state/a", b"x")]);
    taken(&good).unwrap();
}

#[test]
fn a_manifest_of_another_form_or_instance_is_refused() {
    let mut newer = manifest_of(serde_json::json!([]));
    newer["format"] = 2.into();
    newer["origin"] = serde_json::json!("a form to come");
    let error = taken(&forged(&newer, &[])).expect_err("a newer form");
    assert!(error.message().contains("form 2") && error.fix_text().unwrap().contains("newer"), "{error}");
    let mut other = manifest_of(serde_json::json!([]));
    other["origin"]["id"] = "bob-x7k2b".into();
    let error = taken(&forged(&other, &[])).expect_err("another's");
    assert!(error.message().contains("another instance"), "{error}");
    let mut junk = Vec::new();
    let mut plain = zstd::Encoder::new(Closing::new(&mut junk), 3).unwrap();
    plain.write_all(&[b'x'; 2048]).unwrap();
    plain.finish().unwrap().finish().unwrap();
    assert_eq!(taken(&junk).unwrap_err().field_name(), Some("archive"));
}

#[test]
fn whoever_hands_it_in_may_refuse_it_and_stop_it() {
    let (archive, _) = packed(tree().path());
    let dir = tempfile::tempdir().unwrap();
    let full = || Error::new(clawfarm_model::Code::Insufficient, "full");
    let error = unpack(archive.as_slice(), &mut |_| Err(full()), &mut |_| Ok(())).unwrap_err();
    assert_eq!(error.message(), "full");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was written");
    let error =
        unpack(archive.as_slice(), &mut |_| Ok(dir.path().to_owned()), &mut |_| Err(full())).unwrap_err();
    assert_eq!(error.code(), clawfarm_model::Code::Insufficient);
    let mut out = Vec::new();
    let stop = &mut |bytes| if bytes > 0 { Err(full()) } else { Ok(()) };
    let error = pack(tree().path(), origin(), Vec::new(), &mut out, stop).unwrap_err();
    assert_eq!(error.message(), "full");
    assert!(check_closed(out.as_slice(), &mut |_| {}).is_err(), "half an archive is none");
}
