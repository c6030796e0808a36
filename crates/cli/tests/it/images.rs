//! `image` for virtual machines, fetched from a site of the test's own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sha2::{Digest, Sha512};

use crate::faults::may_mount;
use crate::support::{Done, Home, finish};

/// A site with the files of a folder; it ends with the test's process.
struct Site {
    url: String,
    asked: Arc<AtomicUsize>,
}

impl Site {
    fn of(folder: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                let mut lines = BufReader::new(&connection).lines();
                let first = lines.next().and_then(Result::ok).unwrap_or_default();
                while lines.next().and_then(Result::ok).is_some_and(|line| !line.is_empty()) {}
                let path = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
                let (status, body) = match fs::read(folder.join(path)) {
                    Ok(body) => ("200 OK", body),
                    Err(_) => ("404 Not Found", Vec::new()),
                };
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                let mut connection = &connection;
                let _ = connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(&body));
            }
        });
        Self { url, asked }
    }
}

/// A disk that has what a firmware looks for, and nothing else.
fn disk(seed: u8) -> Vec<u8> {
    let mut disk = vec![seed; 1 << 20];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// Debian's layout, with this image as its twelfth.
fn published(folder: &Path, image: &[u8]) {
    let latest = folder.join("bookworm/latest");
    fs::create_dir_all(&latest).expect("a folder");
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let file = format!("debian-12-genericcloud-{arch}.qcow2");
    let digest: String = Sha512::digest(image).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(latest.join("SHA512SUMS"), format!("{digest}  {file}\n")).expect("written");
    fs::write(latest.join(file), image).expect("written");
}

#[test]
fn images_are_fetched_once_taken_in_listed_and_removed() {
    let home = Home::new();
    let folder = home.path().join("site");
    published(&folder, &disk(7));
    let site = Site::of(folder);
    // The first command starts the server, which is told of the site so.
    let run = |arguments: &[&str]| -> Done {
        finish(home.command(arguments).env("CLAWFARM_DEBIAN_IMAGES", &site.url).spawn().expect("starts"))
    };
    let listed = run(&["image", "ls"]).ends(0).out;
    let line = |listed: &str, image: &str| {
        listed.lines().find(|line| line.contains(image)).unwrap_or_default().to_owned()
    };
    assert!(listed.starts_with("KIND") && listed.contains("DOWNLOADED"), "{listed}");
    for image in ["ubuntu:24.04", "debian:12"] {
        assert!(line(&listed, image).split_whitespace().any(|word| word == "no"), "{listed}");
    }

    let fetched = run(&["image", "fetch", "debian:12"]).ends(0);
    assert!(fetched.out.starts_with("debian:12 sha256:"), "{fetched:?}");
    assert!(fetched.err.contains(&format!("fetched from {}", site.url)), "{fetched:?}");
    let asked = site.asked.load(Ordering::Relaxed);
    let again = run(&["image", "fetch", "debian:12", "--json"]).ends(0).json();
    assert_eq!((&again["downloaded"], again["size_bytes"].as_u64()), (&true.into(), Some(1 << 20)));
    assert_eq!(site.asked.load(Ordering::Relaxed), asked, "it is here");
    let listed = run(&["image", "ls"]).ends(0).out;
    assert!(line(&listed, "debian:12").split_whitespace().any(|word| word == "yes"), "{listed}");
    let missing = run(&["image", "fetch", "debian:13"]);
    assert!(missing.code != Some(0) && missing.err.contains("404"), "{missing:?}");

    let file = home.path().join("my.img");
    fs::write(&file, disk(9)).expect("written");
    let file = file.display().to_string();
    let import = ["image", "import", file.as_str(), "--name", "lab:3"];
    assert!(run(&import).ends(0).out.starts_with("lab:3 sha256:"));
    assert!(run(&import).ends(4).err.contains("image rm lab:3"));
    fs::write(&file, "no image").expect("written");
    let refused = run(&["image", "import", file.as_str(), "--name", "lab:4"]).ends(2);
    assert!(refused.err.contains("error"), "{refused:?}");
    assert!(!run(&["image", "ls"]).ends(0).out.contains("lab:4"));
    let document = run(&["image", "ls", "--json"]).ends(0).json();
    let machines = document["machines"].as_array().expect("a list");
    assert!(machines.iter().any(|it| it["reference"] == "lab:3" && it["supported"] == false), "{document}");

    // A machine is made of what is here or can be had, and of nothing else.
    run(&["new", "lab:3", "--runtime", "sim"]).ends(0);
    let refused = run(&["new", "nobody:1", "--runtime", "sim"]).ends(3);
    assert!(refused.err.contains("vm.image") && refused.err.contains("ubuntu:24.04"), "{refused:?}");
    assert_eq!(run(&["ps", "-q"]).ends(0).out.lines().count(), 1);

    for (arguments, code) in [
        (&["image", "build", "ubuntu:24.04"][..], 1),
        (&["image", "build", "debian:12", "--base", "x"], 2),
        (&["image", "rm", "nobody:1"], 3),
        (&["image", "fetch", "Debian:12"], 2),
    ] {
        let refused = run(arguments).ends(code);
        assert!(refused.err.contains("error"), "{arguments:?}: {refused:?}");
    }
    // What went is told, and what did not.
    let some = run(&["image", "rm", "debian:12", "nobody:1", "--json"]).ends(3);
    assert_eq!(some.json(), serde_json::json!({ "removed": ["debian:12"] }));
    assert!(some.err.contains("'nobody:1'"), "{some:?}");
    assert_eq!(run(&["image", "rm", "lab:3"]).ends(0).out, "lab:3\n");
    let listed = run(&["image", "ls"]).ends(0).out;
    assert!(!listed.contains("lab:3") && !line(&listed, "debian:12").contains("yes"), "{listed}");
}

/// A command that sees a machine without a program, by a mount of its own; it starts a server that does, too.
fn without(program: &Path, command: &Command) -> Command {
    let mut all = Command::new("unshare");
    all.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        "mount --bind /dev/null \"$0\" && exec \"$@\"",
    ])
    .arg(program);
    all.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => all.env(name, value),
            None => all.env_remove(name),
        };
    }
    all.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    all
}

#[test]
fn without_qemu_nothing_is_fetched_for_a_machine() {
    let program = Path::new("/usr/bin/qemu-system-x86_64");
    if !may_mount() || !program.exists() {
        println!("skipped: there is no QEMU here that could be hidden");
        return;
    }
    let home = Home::new();
    let folder = home.path().join("site");
    published(&folder, &disk(7));
    let site = Site::of(folder);
    let mut new = home.command(&["new", "debian:12", "lab"]);
    new.env("CLAWFARM_DEBIAN_IMAGES", &site.url);
    let refused = finish(without(program, &new).spawn().expect("starts")).ends(1);
    assert!(refused.err.contains("qemu-system-x86_64 is not installed"), "{refused:?}");
    assert!(refused.err.contains("  fix: install"), "{refused:?}");
    assert_eq!(home.run(&["ps", "-q", "-a"]).ends(0).out, "");
    assert_eq!(site.asked.load(Ordering::Relaxed), 0, "something was fetched");
    // It is no fault of a farm that has other places for its claws.
    let doctor = home.run(&["doctor"]).out;
    let line = doctor.lines().find(|line| line.contains("QEMU: ")).unwrap_or_default();
    assert!(line.contains("is not installed") && line.contains("warn"), "{doctor}");
}

#[test]
fn a_site_that_can_t_be_one_is_told_when_the_server_begins() {
    let home = Home::new();
    let refused =
        finish(home.command(&["serve"]).env("CLAWFARM_UBUNTU_IMAGES", "not a site").spawn().expect("starts"));
    assert!(refused.code == Some(2) && refused.err.contains("CLAWFARM_UBUNTU_IMAGES"), "{refused:?}");
}
