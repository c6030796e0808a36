use clawfarm_model::{Code, Result};
use clawfarm_shim::client::ExecClient;
use clawfarm_shim::protocol::{ExecRequest, Frame, Request, TtySize};

use crate::harness::{Instance, error_of, lives, wait_for};

fn up() -> Instance {
    Instance::new("sleep 60").up()
}

fn exec(instance: &Instance, argv: &[&str], tty: Option<TtySize>) -> Result<ExecClient> {
    let argv = argv.iter().map(|&arg| arg.to_owned()).collect();
    instance.client().exec(ExecRequest { argv, tty, term: None })
}

/// Everything it prints and its exit code.
fn rest(mut exec: ExecClient) -> (String, String, i32) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match exec.receive().unwrap().expect("an exit before the end") {
            Frame::Stdout(bytes) => out.extend(bytes),
            Frame::Stderr(bytes) => err.extend(bytes),
            Frame::Exit(code) => {
                assert_eq!(exec.receive().unwrap(), None, "nothing follows the exit");
                let text = |bytes| String::from_utf8(bytes).unwrap();
                return (text(out), text(err), code);
            }
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// Reads until this text has come.
fn until(exec: &mut ExecClient, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        match exec.receive() {
            Ok(Some(Frame::Stdout(bytes))) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("waited for '{text}', got {other:?} after '{seen}'"),
        }
    }
    seen
}

const SIZE: TtySize = TtySize { cols: 91, rows: 33 };

#[test]
fn pipes_carry_streams_and_code() {
    let instance = up();
    let script = "echo out; echo err >&2; echo $MY_KEY; pwd; exit 5";
    let (out, err, code) = rest(exec(&instance, &["sh", "-c", script], None).unwrap());
    let state = instance.dir.join("state").canonicalize().unwrap();
    assert_eq!(out, format!("out\nsk-secret-value\n{}\n", state.display()));
    assert_eq!((err.as_str(), code), ("err\n", 5));
    let (_, _, code) = rest(exec(&instance, &["sh", "-c", "kill -TERM $$"], None).unwrap());
    assert_eq!(code, 128 + libc::SIGTERM);
}

#[test]
fn standard_input_reaches_it_whole_and_ends() {
    let instance = up();
    let mut wc = exec(&instance, &["wc", "-c"], None).unwrap();
    for _ in 0..40 {
        wc.send(&Frame::Stdin(vec![b'x'; 60_000])).unwrap();
    }
    wc.send(&Frame::Eof).unwrap();
    assert_eq!(rest(wc).0.trim(), "2400000");
}

#[test]
fn much_output_waits_for_a_slow_reader() {
    let instance = up();
    let yes = exec(&instance, &["head", "-c", "5000000", "/dev/zero"], None).unwrap();
    // The claw's own keeper goes on meanwhile.
    instance.ask(&Request::Status);
    assert_eq!(rest(yes).0.len(), 5_000_000);
}

#[test]
fn a_terminal_has_a_size_that_changes() {
    let instance = up();
    let mut shell = exec(&instance, &[], Some(SIZE)).unwrap();
    shell.send(&Frame::Stdin(b"PS1=; stty -echo; stty size; tty; echo $TERM\n".to_vec())).unwrap();
    let seen = until(&mut shell, "xterm-256color\r\n");
    assert!(seen.contains("33 91\r\n") && seen.contains("/dev/pts/"), "{seen}");
    shell.send(&Frame::Resize(TtySize { cols: 120, rows: 50 })).unwrap();
    shell.send(&Frame::Stdin(b"stty size\n".to_vec())).unwrap();
    until(&mut shell, "50 120\r\n");
    shell.send(&Frame::Stdin(b"exit 6\n".to_vec())).unwrap();
    assert_eq!(rest(shell).2, 6);
}

#[test]
fn control_c_interrupts_what_runs_in_the_terminal() {
    let instance = up();
    let mut shell = exec(&instance, &[], Some(SIZE)).unwrap();
    shell.send(&Frame::Stdin(b"PS1=; stty -echo; echo re''ady\n".to_vec())).unwrap();
    until(&mut shell, "ready");
    shell.send(&Frame::Stdin(b"sleep 50 && echo never; echo code $?\n".to_vec())).unwrap();
    let pid = shell.pid;
    wait_for("the sleep in the terminal's foreground", || {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().any(in_foreground)
    });
    shell.send(&Frame::Stdin(vec![3])).unwrap();
    shell.send(&Frame::Stdin(b"echo aft''er\n".to_vec())).unwrap();
    let seen = until(&mut shell, "after");
    assert!(!seen.contains("never"), "{seen}");
    shell.send(&Frame::Stdin(b"exit\n".to_vec())).unwrap();
    rest(shell);
}

/// Whether a process is a `sleep` whose group the terminal sends its signals to; before that
/// Ctrl-C would go to the shell.
fn in_foreground(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((name, rest)) = stat.rsplit_once(')') else { return false };
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // State, parent, group, session, terminal, the terminal's foreground group: proc_pid_stat(5).
    name.ends_with("(sleep") && fields.get(2) == fields.get(5)
}

#[test]
fn the_end_of_input_reaches_a_terminal() {
    let instance = up();
    let mut cat = exec(&instance, &["cat"], Some(SIZE)).unwrap();
    cat.send(&Frame::Stdin(b"hello\n".to_vec())).unwrap();
    // Once as its echo, once from cat.
    until(&mut cat, "hello\r\nhello\r\n");
    cat.send(&Frame::Eof).unwrap();
    assert_eq!(rest(cat).2, 0);
}

#[test]
fn what_does_not_exist_is_said() {
    let instance = up();
    let error = error_of(exec(&instance, &["no-such-command"], None));
    assert_eq!((error.code(), error.field_name()), (Code::NotFound, Some("argv")));
    assert!(exec(&instance, &["true"], None).is_ok(), "the next one works");
}

#[test]
fn a_dropped_connection_hangs_the_command_up() {
    let instance = up();
    let polite = exec(&instance, &["sleep", "50"], None).unwrap();
    let stubborn = exec(&instance, &["sh", "-c", "trap '' HUP; sleep 50; sleep 50"], Some(SIZE)).unwrap();
    let (polite_pid, stubborn_pid) = (polite.pid, stubborn.pid);
    wait_for("the trap", || {
        let status = std::fs::read_to_string(format!("/proc/{stubborn_pid}/status")).unwrap();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 != 0
    });
    drop((polite, stubborn));
    wait_for("the end of the polite one", || !lives(polite_pid));
    assert!(lives(stubborn_pid), "it has five seconds");
    wait_for("the end of the stubborn one", || !lives(stubborn_pid));
    assert!(lives(instance.pid()), "the claw itself goes on");
}

#[test]
fn commands_end_with_the_claw_and_are_told() {
    let instance = up();
    let sleep = exec(&instance, &["sleep", "50"], None).unwrap();
    let pid = sleep.pid;
    instance.ask(&Request::Kill);
    assert_eq!(rest(sleep).2, 128 + libc::SIGKILL);
    assert!(!lives(pid));
}

#[test]
fn a_command_that_leaves_something_behind_still_ends() {
    let instance = up();
    let argv = ["sh", "-c", "sleep 50 & echo $! > background; echo done"];
    let (out, _, code) = rest(exec(&instance, &argv, None).unwrap());
    assert_eq!((out.as_str(), code), ("done\n", 0));
    let background = instance.wait_pid("background");
    assert!(lives(background), "it goes on as a part of the claw");
    instance.ask(&Request::Kill);
    instance.wait_end();
    assert!(!lives(background));
}

#[test]
fn a_client_that_breaks_the_framing_is_disconnected() {
    let instance = up();
    let mut cat = exec(&instance, &["cat"], None).unwrap();
    cat.send(&Frame::Exit(0)).unwrap();
    let pid = cat.pid;
    assert!(matches!(cat.receive(), Ok(None) | Err(_)));
    wait_for("the end of its command", || !lives(pid));
}
