//! Servers that are started on one home at the same moment.

use nix::sys::signal::Signal;

use super::signal;
use crate::support::{Done, Home, eventually, finish};

#[test]
fn of_twenty_servers_started_at_once_one_lives_and_the_others_name_it() {
    let home = Home::new();
    let mut left: Vec<_> = (0..20).map(|_| home.command(&["serve"]).spawn().expect("starts")).collect();
    let mut ended: Vec<Done> = Vec::new();
    eventually("all but one to end", || {
        for n in (0..left.len()).rev() {
            if left[n].try_wait().expect("waited").is_some() {
                ended.push(finish(left.swap_remove(n)));
            }
        }
        (left.len() <= 1).then_some(())
    });
    let winner = left.pop().expect("one of them lives");
    let pid = i64::from(winner.id());
    for done in ended {
        let done = done.ends(4);
        assert!(done.err.contains(&format!("process {pid}\n")), "{done:?}");
        assert!(done.err.contains("clawfarm down"), "{done:?}");
    }
    eventually("the one to serve", || (home.server_pid()? == pid).then_some(()));
    signal(&winner, Signal::SIGTERM);
    finish(winner).ends(0);
}
