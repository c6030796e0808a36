//! Ports of a real claw, and of nobody else.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use super::farm::{Farm, finish};

/// Sends back what it gets, at a port that the kernel chooses and that it prints.
const ECHO: &str = "const s = require('net').createServer({ allowHalfOpen: true }, c => c.pipe(c)); \
    s.listen(0, '127.0.0.1', () => console.log(s.address().port))";

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("read");
    line.trim().to_owned()
}

#[test]
fn only_what_the_claw_itself_listens_on_is_reached() {
    let farm = Farm::new();
    let id = farm.new_claw("alice", &[]);
    let mut echo = farm.start(&["exec", &id, "--", "node", "-e", ECHO]);
    let port = first_line(&mut echo);
    // Somebody else's on the same machine.
    let stranger = TcpListener::bind("127.0.0.1:0").expect("bound");
    stranger.set_nonblocking(true).expect("set");
    let strange = stranger.local_addr().expect("an address").port().to_string();

    let mut command = farm.command(&["port-forward", &id, &port, &strange]);
    let mut forward = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut lines = BufReader::new(forward.stdout.take().expect("a pipe")).lines();
    let mut local = || {
        let line = lines.next().expect("a line").expect("read");
        line.split(' ').next().expect("an address").to_owned()
    };
    let (mine, theirs) = (local(), local());

    let sent: Vec<u8> = (0..1_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut stream = TcpStream::connect(&mine).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    let mut writer = stream.try_clone().expect("cloned");
    let expected = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).expect("written");
        writer.shutdown(Shutdown::Write).expect("ended");
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).expect("read");
    writing.join().expect("written");
    assert!(got == expected, "{} bytes came back", got.len());

    let mut stream = TcpStream::connect(&theirs).expect("connected");
    let mut got = Vec::new();
    let _ = stream.read_to_end(&mut got);
    assert!(got.is_empty());
    let untouched = stranger.accept().map(drop).expect_err("nobody connected to it").kind();
    assert_eq!(untouched, std::io::ErrorKind::WouldBlock);
    forward.kill().expect("killed");
    let said = finish(forward).err;
    assert!(said.contains(&format!("does not listen on port {strange}")), "{said}");
    assert!(!said.contains("process") && !said.contains("held by"), "who does is not told: {said}");
    echo.kill().expect("killed");
    echo.wait().expect("waited");
}
