//! The socket's file is removed while the server runs.

use std::os::unix::fs::FileTypeExt;

use crate::support::{Home, eventually};

#[test]
fn a_socket_that_was_removed_is_made_again() {
    let home = Home::new();
    home.run(&["ps"]).ends(0);
    let pid = home.server_pid().expect("a server");
    let path = home.farm().join("clawfarm.sock");
    std::fs::remove_file(&path).expect("removed");
    // The command finds no server, starts one, which finds the home taken; and waits for it.
    home.run(&["ps"]).ends(0);
    assert_eq!(home.server_pid(), Some(pid), "it is the same server");
    // Something else in its place.
    let other = home.path().join("other");
    std::fs::write(&other, "no socket").expect("written");
    std::fs::rename(&other, &path).expect("moved");
    eventually("the socket to be back", || {
        std::fs::symlink_metadata(&path).ok().filter(|found| found.file_type().is_socket())
    });
    home.run(&["ps"]).ends(0);
    assert_eq!(home.server_pid(), Some(pid), "it is the same server");
    let log = std::fs::read_to_string(home.farm().join("server.log")).expect("a log");
    assert_eq!(log.matches("it is made again").count(), 2, "{log}");
}
