//! `open --browser`, with a desktop's `xdg-open` played by a script.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::{Done, Home, eventually, finish};

/// A folder for PATH with an `xdg-open` that notes what it was given, and what was in it.
fn desktop(home: &Home, exit: u8) -> PathBuf {
    let bin = home.path().join("bin");
    fs::create_dir_all(&bin).expect("a folder");
    let script = bin.join("xdg-open");
    let noted = home.path().join("opened");
    let text = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$#\" \"$1\" >'{0}.arguments'\ncat \"$1\" >'{0}.page'\nstat -c %a \"$1\" >'{0}.mode'\nexit {exit}\n",
        noted.display()
    );
    fs::write(&script, text).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("made executable");
    bin
}

fn path_with(bin: &Path) -> String {
    format!("{}:/usr/bin:/bin", bin.display())
}

fn noted(home: &Home, what: &str) -> String {
    fs::read_to_string(home.path().join(format!("opened.{what}"))).unwrap_or_else(|e| panic!("{what}: {e}"))
}

fn pages_left(home: &Home) -> usize {
    let names = fs::read_dir(home.farm()).expect("a folder").flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with("open-")).count()
}

#[test]
fn the_browser_gets_a_page_and_the_process_list_no_token() {
    let home = Home::new();
    home.run(&["new", "openclaw", "alice", "--runtime", "sim"]).ends(0);
    let address = home.run(&["open", "alice"]).ends(0).out;
    let token = home.run(&["token", "reveal", "alice"]).ends(0).out;
    let bin = desktop(&home, 0);
    let opening =
        home.command(&["open", "alice", "--browser"]).env("PATH", path_with(&bin)).spawn().expect("starts");
    eventually("the browser to be opened", || home.path().join("opened.mode").exists().then_some(()));
    let done: Done = finish(opening).ends(0);
    assert!(done.out.is_empty() && done.err.contains("Opened in your browser"), "{done:?}");
    let arguments = noted(&home, "arguments");
    assert!(arguments.starts_with("1\n") && !arguments.contains(token.trim()), "{arguments}");
    let page = noted(&home, "page");
    // Each time another ticket.
    let (door, _) = address.split_once("?ticket=").expect("a ticket");
    assert!(page.contains(&format!("location.replace(\"{door}?ticket=")), "{page}");
    assert_eq!(noted(&home, "mode").trim(), "600");
    assert_eq!(pages_left(&home), 0, "the page holds a token and does not stay");
}

#[test]
fn without_a_browser_it_says_so_and_leaves_no_page() {
    let home = Home::new();
    home.run(&["new", "openclaw", "alice", "--runtime", "sim"]).ends(0);
    let bin = desktop(&home, 3);
    let broken = finish(
        home.command(&["open", "alice", "--browser"]).env("PATH", path_with(&bin)).spawn().expect("starts"),
    )
    .ends(1);
    assert!(broken.err.contains("exit status: 3") && broken.err.contains("field: --browser"), "{broken:?}");
    let none = home.path().join("none");
    fs::create_dir_all(&none).expect("a folder");
    let missing =
        finish(home.command(&["open", "alice", "--browser"]).env("PATH", &none).spawn().expect("starts"))
            .ends(1);
    assert!(missing.err.contains("xdg-open") && missing.err.contains("fix:"), "{missing:?}");
    assert_eq!(pages_left(&home), 0);
}
