use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn private() -> NewFile {
    NewFile { mode: 0o600, owner: None, folder_owner: None }
}

#[test]
fn a_planted_link_is_neither_read_nor_written_through() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("master.key");
    fs::write(&secret, "secret").unwrap();
    let dir = tempfile::tempdir().unwrap();
    symlink(&secret, dir.path().join("openclaw.json")).unwrap();
    symlink(outside.path(), dir.path().join("folder")).unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    for path in ["openclaw.json", "folder/master.key", "../x", "/etc/passwd"] {
        let error = folder.read(Path::new(path), 100).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}: {error}");
    }
    assert!(folder.write(Path::new("folder/new"), b"x", private()).is_err());
    assert!(!outside.path().join("new").exists());
    // The link itself is replaced.
    folder.write(Path::new("openclaw.json"), b"{}", private()).unwrap();
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    assert_eq!(folder.read(Path::new("openclaw.json"), 100).unwrap().unwrap(), b"{}");
}

#[test]
fn what_stands_in_the_way_of_the_temporary_file_is_removed_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "kept").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    symlink(&victim, dir.path().join(".a.clawfarm-tmp")).unwrap();
    folder.write(Path::new("a"), b"1", private()).unwrap();
    fs::create_dir_all(dir.path().join(".a.clawfarm-tmp/deep")).unwrap();
    folder.write(Path::new("a"), b"2", private()).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
    assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "2");
    assert_eq!(folder.names().unwrap(), ["a"]);
}

#[test]
fn a_pipe_does_not_block_and_a_socket_is_no_file() {
    let dir = tempfile::tempdir().unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    for name in ["pipe", "socket", "."] {
        assert!(folder.read(Path::new(name), 10).is_err(), "{name}");
    }
    assert_eq!(folder.read(Path::new("none/none"), 10).unwrap(), None);
    fs::write(dir.path().join("big"), "12345678901").unwrap();
    let error = folder.read(Path::new("big"), 10).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
}

#[test]
fn a_removal_follows_no_link_and_opens_what_is_locked() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("kept"), "x").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let claw = dir.path().join("claw");
    fs::create_dir_all(claw.join("a/b")).unwrap();
    symlink(outside.path(), claw.join("a/link")).unwrap();
    symlink("/nowhere", claw.join("a/dangling")).unwrap();
    fs::write(claw.join("a/b/file"), "x").unwrap();
    fs::set_permissions(claw.join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(claw.join("a"), fs::Permissions::from_mode(0o500)).unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    folder.remove("claw".as_ref()).unwrap();
    folder.remove("claw".as_ref()).unwrap();
    assert!(!claw.exists());
    assert!(outside.path().join("kept").exists());
}

#[test]
fn a_removal_reaches_the_bottom_of_any_depth() {
    let dir = tempfile::tempdir().unwrap();
    let mut at = Folder::open(dir.path()).unwrap().make_folder(Path::new("claw"), None).unwrap();
    for _ in 0..3000 {
        at = at.make_folder(Path::new("d"), None).unwrap();
    }
    at.write(Path::new("file"), b"x", private()).unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    assert!(size_on_disk(&folder) > 0);
    folder.remove("claw".as_ref()).unwrap();
    assert!(folder.is_empty().unwrap());
}

#[test]
fn a_copy_leaves_out_what_leads_outside() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let from = tempfile::tempdir().unwrap();
    fs::create_dir_all(from.path().join("a/b")).unwrap();
    fs::write(from.path().join("a/b/file"), "contents").unwrap();
    fs::set_permissions(from.path().join("a/b/file"), fs::Permissions::from_mode(0o4755)).unwrap();
    symlink("b/file", from.path().join("a/good")).unwrap();
    symlink(".", from.path().join("self")).unwrap();
    symlink(outside.path().join("secret"), from.path().join("absolute")).unwrap();
    symlink("../../etc", from.path().join("a/up")).unwrap();
    // By its text it stays: `self` is one level that is none.
    symlink("self/../secret", from.path().join("tricky")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.path().join("socket")).unwrap();
    let to = tempfile::tempdir().unwrap();
    let mut told = 0;
    let copied = copy_tree(
        &Folder::open(from.path()).unwrap(),
        &Folder::open(to.path()).unwrap(),
        Links::Within,
        &mut |bytes| {
            told = bytes;
            true
        },
    )
    .unwrap();
    assert_eq!((copied.bytes, told), (8, 8));
    let mut left_out = copied.left_out.clone();
    left_out.sort();
    assert_eq!(left_out, ["a/up", "absolute", "socket", "tricky"].map(PathBuf::from));
    assert_eq!(fs::read_to_string(to.path().join("a/good")).unwrap(), "contents");
    let mode = fs::metadata(to.path().join("a/b/file")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
}

#[test]
fn a_copy_can_be_called_off() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("a"), "12").unwrap();
    let to = tempfile::tempdir().unwrap();
    let (from, to) = (Folder::open(from.path()).unwrap(), Folder::open(to.path()).unwrap());
    let error = copy_tree(&from, &to, Links::Within, &mut |_| false).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Interrupted);
}

#[test]
fn a_file_with_a_name_outside_is_not_given_away() {
    const OURS: u32 = 2_000_000_000;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::write(&outside, "x").unwrap();
    let inside = dir.path().join("inside");
    fs::create_dir(&inside).unwrap();
    fs::hard_link(&outside, inside.join("linked")).unwrap();
    fs::write(inside.join("own"), "x").unwrap();
    symlink(&outside, inside.join("link")).unwrap();
    let owner = Owner::alone(OURS);
    give_to(&Folder::open(&inside).unwrap(), owner, |uid| uid == OURS).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(&outside).unwrap().uid(), 0);
    assert_eq!(fs::metadata(inside.join("own")).unwrap().uid(), owner.uid);
    assert_eq!(fs::symlink_metadata(inside.join("link")).unwrap().uid(), owner.uid);
    assert_eq!(fs::metadata(&inside).unwrap().uid(), owner.uid);
}
