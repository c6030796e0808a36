//! The machine's clock is set back by an hour while a server works: for the server's process,
//! by a library that is put before the system's. What counts time for waits (the monotonic
//! clock) is left, as by a real step.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use clawfarm_test_postgres::Database;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{serve, signal};
use crate::support::{Home, finish};

/// Adds the seconds that the file of `CLOCK_OFFSET` holds to what the clock says.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long *offset;
__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_OFFSET");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *map = mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (map != MAP_FAILED) offset = map;
    close(file);
}
int clock_gettime(clockid_t clock, struct timespec *time) {
    int outcome = syscall(SYS_clock_gettime, clock, time);
    if (!outcome && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        time->tv_sec += *offset;
    return outcome;
}
int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    struct timespec now;
    int outcome = clock_gettime(CLOCK_REALTIME, &now);
    if (!outcome) { time->tv_sec = now.tv_sec; time->tv_usec = now.tv_nsec / 1000; }
    return outcome;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"#;

/// An hour, in seconds.
const BACK: i64 = -3600;

struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    fn new(folder: &Path) -> Self {
        let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
        fs::write(&source, LIBRARY).expect("written");
        let made =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).output();
        let made = made.expect("a C compiler, which Rust needs too");
        assert!(made.status.success(), "{made:?}");
        let clock = Self { library, offset: folder.join("offset") };
        clock.set(0);
        clock
    }

    /// In place: the server has the file mapped.
    fn set(&self, seconds: i64) {
        use std::os::unix::fs::FileExt;
        let file = fs::File::options().create(true).write(true).truncate(false).open(&self.offset);
        file.and_then(|f| f.write_all_at(&seconds.to_ne_bytes(), 0)).expect("written");
    }

    fn serve(&self, home: &Home, arguments: &[&str]) -> Child {
        let log = fs::File::options().create(true).append(true).open(home.path().join("log")).expect("a log");
        let mut command = home.command(&[&["serve"], arguments].concat());
        command.env("LD_PRELOAD", &self.library).env("CLOCK_OFFSET", &self.offset).stderr(log);
        serve(home, command)
    }
}

fn events(home: &Home) -> Vec<Value> {
    let out = home.run(&["events", "--json"]).ends(0).out;
    out.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
}

fn at(event: &Value) -> clawfarm_model::Timestamp {
    clawfarm_model::Timestamp::parse(event["at"].as_str().expect("a time")).expect("a time")
}

fn a_clock_that_is_set_back_stops_nothing(more: &[&str]) {
    let home = Home::new();
    let clock = Clock::new(home.path());
    // What is older than a day goes, and of the rest what is beyond the newest of each claw.
    let arguments = [&["--keep-days", "1", "--keep-events", "1000"], more].concat();
    let server = clock.serve(&home, &arguments);
    home.run(&["new", "openclaw", "alice", "--runtime", "sim"]).ends(0);
    home.run(&["suspend", "alice"]).ends(0);
    let before = events(&home);

    clock.set(BACK);
    for (verb, state) in [
        (&["resume", "alice"][..], "ready"),
        (&["suspend", "alice", "--warm"], "warm"),
        (&["resume", "alice"], "ready"),
        (&["restart", "alice"], "ready"),
        (&["stop", "alice"], "stopped"),
        (&["start", "alice"], "ready"),
    ] {
        let done = home.run(verb).ends(0);
        assert!(done.out.contains(&format!("is {state}")), "{verb:?}: {done:?}");
    }
    home.run(&["new", "openclaw", "bob", "--runtime", "sim"]).ends(0);
    home.run(&["rm", "bob", "--purge"]).ends(0);
    assert_eq!(home.run(&["exec", "alice", "--", "echo", "x"]).ends(0).out, "x\n", "tickets are good");

    let after = events(&home);
    assert_eq!(after[..before.len()], before, "nothing of before went, and nothing came between");
    let (last, first) = (after.last().expect("events"), &before[0]);
    assert!(at(last) < at(first), "the clock was not set back: {first} {last}");
    let numbers: Vec<i64> = after.iter().map(|event| event["seq"].as_i64().expect("a number")).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    // Each phase goes on from the one before it.
    let mut phase = "creating".to_owned();
    let alices = after.iter().filter(|e| e["instance"].as_str().is_some_and(|id| id.starts_with("alice")));
    for event in alices.filter(|event| event["reason"] == "phase") {
        let (from, to) = event["message"].as_str().and_then(|text| text.split_once(" -> ")).expect("phases");
        assert_eq!(from, phase, "{event}");
        phase = to.to_owned();
    }
    assert_eq!(phase, "ready");

    // A server that begins under the clock of before has the same, and goes on.
    signal(&server, Signal::SIGKILL);
    finish(server);
    let server = clock.serve(&home, &arguments);
    assert_eq!(events(&home)[..after.len()], after, "nothing went with the restart");
    assert!(home.run(&["stop", "alice"]).ends(0).out.contains("is stopped"));
    clock.set(0);
    assert!(home.run(&["start", "alice"]).ends(0).out.contains("is ready"));
    home.run(&["rm", "alice", "--purge"]).ends(0);
    signal(&server, Signal::SIGTERM);
    finish(server).ends(0);
}

#[test]
fn a_clock_that_is_set_back_stops_nothing_on_sqlite() {
    a_clock_that_is_set_back_stops_nothing(&[]);
}

/// With leases, which are by the database's clock.
#[test]
fn a_clock_that_is_set_back_stops_nothing_on_postgresql() {
    let database = Database::new();
    a_clock_that_is_set_back_stops_nothing(&["--database", &database.url()]);
}
