//! Something between the server and its engine that makes the engine look slow, stuck or mad.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use crate::support::pause;

/// How it is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// As the engine is.
    Well = 0,
    /// It answers, some time later.
    Slow = 1,
    /// It takes what it is told and says nothing more.
    Stuck = 2,
    /// It answers what makes no sense.
    Mad = 3,
}

/// How many looks a slow one waits before each answer: half a second.
const WAITS: u32 = 25;

/// The proxy; its threads end with the test's process.
pub(super) struct Proxy {
    pub(super) socket: PathBuf,
    mood: Arc<AtomicU8>,
}

impl Proxy {
    pub(super) fn of(engine: PathBuf, folder: &Path) -> Self {
        let socket = folder.join("engine.sock");
        let listener = UnixListener::bind(&socket).expect("bound");
        let mood = Arc::new(AtomicU8::new(Mood::Well as u8));
        let held = Arc::clone(&mood);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (engine, mood) = (engine.clone(), Arc::clone(&held));
                thread::spawn(move || attend(stream, &engine, &mood));
            }
        });
        Self { socket, mood }
    }

    pub(super) fn is(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::SeqCst);
    }
}

fn attend(mut client: UnixStream, engine: &Path, mood: &Arc<AtomicU8>) {
    if mood.load(Ordering::SeqCst) == Mood::Mad as u8 {
        let _ = client.read(&mut [0; 4096]);
        let body = "<<< {] \u{1b}[2J";
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
        let _ = client.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes());
        return;
    }
    let Ok(server) = UnixStream::connect(engine) else { return };
    let (Ok(from_client), Ok(to_client)) = (client.try_clone(), client.try_clone()) else { return };
    let Ok(to_server) = server.try_clone() else { return };
    let held = Arc::clone(mood);
    thread::spawn(move || pass_on(from_client, to_server, &held, false));
    pass_on(server, to_client, mood, true);
}

fn pass_on(mut from: UnixStream, mut to: UnixStream, mood: &AtomicU8, answers: bool) {
    let mut piece = vec![0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut piece) {
        let mut waited = 0;
        loop {
            match mood.load(Ordering::SeqCst) {
                now if now == Mood::Stuck as u8 => {}
                now if now == Mood::Slow as u8 && answers && waited < WAITS => waited += 1,
                _ => break,
            }
            pause();
        }
        if to.write_all(&piece[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
