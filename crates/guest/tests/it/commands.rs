use clawfarm_guest::client::{Event, GuestError};
use clawfarm_guest::message::{Exec, Exit, RefusalCode, Size};

use crate::support::{LIMIT, agent, all_of, gone, sh};

const SIZE: Size = Size { rows: 33, cols: 77 };

#[tokio::test]
async fn output_errors_and_exit_codes_come_apart() {
    let agent = agent().await;
    let running = agent.exec(&sh("echo out; echo err >&2; exit 7"), LIMIT).await.unwrap();
    let (output, errors, exit) = all_of(running).await;
    assert_eq!((output.as_str(), errors.as_str()), ("out\n", "err\n"));
    assert_eq!(exit, Exit { code: Some(7), signal: None });
    let running = agent.exec(&sh("kill -9 $$"), LIMIT).await.unwrap();
    assert_eq!(all_of(running).await.2, Exit { code: None, signal: Some(9) });
}

#[tokio::test]
async fn it_has_what_a_login_of_root_has_and_what_is_given() {
    let agent = agent().await;
    let exec = Exec {
        env: vec![("GIVEN".into(), "a b;$c".into())],
        cwd: Some("/usr".into()),
        ..sh("pwd; echo $HOME; echo \"$GIVEN\"; env | wc -l; echo $PATH")
    };
    let (output, _, _) = all_of(agent.exec(&exec, LIMIT).await.unwrap()).await;
    let lines: Vec<_> = output.lines().collect();
    let elsewhere = Exec { cwd: Some("/no/such".into()), ..sh("pwd") };
    assert_eq!(all_of(agent.exec(&elsewhere, LIMIT).await.unwrap()).await.0, "/tmp\n");
    // PATH, HOME, USER, LOGNAME, SHELL, LANG, GIVEN, and the shell's own PWD.
    assert_eq!(lines[..4], ["/usr", "/tmp", "a b;$c", "8"], "{output}");
    assert!(lines[4].contains("/usr/sbin"), "{output}");
}

#[tokio::test]
async fn input_is_read_to_its_end() {
    let agent = agent().await;
    let mut running = agent.exec(&sh("wc -c; echo done"), LIMIT).await.unwrap();
    // More than the window, so that it is given back as it is read.
    let bytes = vec![b'x'; 1_000_000];
    running.input.write(&bytes).await.unwrap();
    running.input.end().await.unwrap();
    let next = running.output.next().await.unwrap();
    assert!(matches!(next, Event::Output(_)));
    let Event::Output(piece) = next else { return };
    let (rest, _, exit) = all_of(running).await;
    assert_eq!(format!("{}{rest}", String::from_utf8_lossy(&piece)), "1000000\ndone\n");
    assert_eq!(exit.code, Some(0));
}

#[tokio::test]
async fn one_that_reads_nothing_takes_its_input_all_the_same() {
    let agent = agent().await;
    let running = agent.exec(&sh("exec <&-; sleep 0.2; echo x"), LIMIT).await.unwrap();
    // It has ended before all is written, or has thrown it away: neither waits for ever.
    let written = tokio::time::timeout(LIMIT, running.input.write(&vec![0; 2_000_000])).await;
    written.expect("writing ends").ok();
    assert_eq!(all_of(running).await.0, "x\n");
}

#[tokio::test]
async fn a_terminal_has_a_size_which_changes() {
    let agent = agent().await;
    let exec = Exec {
        tty: Some(SIZE),
        env: vec![("TERM".into(), "vt100".into())],
        ..sh("stty size; read -r line; stty size; tty; echo $TERM; read -r line || echo end")
    };
    let mut running = agent.exec(&exec, LIMIT).await.unwrap();
    let mut said = String::new();
    while !said.contains("33 77") {
        let Event::Output(piece) = running.output.next().await.unwrap() else { panic!("{said}") };
        said.push_str(&String::from_utf8_lossy(&piece));
    }
    running.input.resize(Size { rows: 5, cols: 6 }).unwrap();
    running.input.write(b"go\n").await.unwrap();
    running.input.end().await.unwrap();
    let (rest, errors, exit) = all_of(running).await;
    assert!(rest.contains("5 6\r\n") && rest.contains("/dev/pts/") && rest.contains("vt100"), "{rest}");
    assert!(rest.ends_with("end\r\n") && errors.is_empty() && exit.code == Some(0), "{rest}");
}

#[tokio::test]
async fn a_signal_reaches_all_that_it_started() {
    let agent = agent().await;
    let mut running = agent.exec(&sh("sleep 1000 & echo $!; wait"), LIMIT).await.unwrap();
    let Event::Output(child) = running.output.next().await.unwrap() else { panic!("no number") };
    let child: u32 = String::from_utf8_lossy(&child).trim().parse().unwrap();
    running.input.signal(15).unwrap();
    assert_eq!(all_of(running).await.2.signal, Some(15));
    gone(child).await;
}

#[tokio::test]
async fn a_service_that_holds_the_output_does_not_hold_up_the_end() {
    let agent = agent().await;
    let running = agent.exec(&sh("sleep 1000 & echo $!"), LIMIT).await.unwrap();
    let (output, _, exit) = all_of(running).await;
    assert_eq!(exit.code, Some(0));
    let service: i32 = output.trim().parse().unwrap();
    let service = nix::unistd::Pid::from_raw(service);
    nix::sys::signal::kill(service, None).expect("the service goes on");
    nix::sys::signal::kill(service, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn a_whole_output_comes_though_it_is_read_slowly() {
    let agent = agent().await;
    let mut slow = agent.exec(&sh("head -c 3000000 /dev/zero; echo -n end"), LIMIT).await.unwrap();
    // Nobody reads it: another one is not held up by that.
    let quick = agent.exec(&sh("head -c 100000 /dev/zero"), LIMIT).await.unwrap();
    assert_eq!(all_of(quick).await.0.len(), 100_000);
    let mut read = 0;
    let exit = loop {
        match tokio::time::timeout(LIMIT, slow.output.next()).await.expect("more").unwrap() {
            Event::Output(piece) => read += piece.len(),
            Event::Errors(_) => panic!("no errors"),
            Event::Exit(exit) => break exit,
        }
    };
    assert_eq!((read, exit.code), (3_000_003, Some(0)));
}

#[tokio::test]
async fn what_can_t_be_started_is_told() {
    let agent = agent().await;
    for (exec, why) in [
        (Exec { argv: vec!["/no/such".into()], ..Exec::default() }, "No such file"),
        (Exec::default(), "there is no program"),
        (Exec { argv: vec!["/".into()], ..Exec::default() }, "Permission denied"),
        (Exec { argv: vec!["a\0b".into()], ..Exec::default() }, "nul byte"),
    ] {
        let error = agent.exec(&exec, LIMIT).await.unwrap_err();
        let GuestError::Refused(refusal) = error else { panic!("{error}") };
        assert_eq!(refusal.code, RefusalCode::Invalid, "{refusal:?}");
        assert!(refusal.message.contains(why), "{refusal:?}");
    }
}

#[tokio::test]
async fn what_nobody_wants_any_more_ends() {
    let agent = agent().await;
    let running = agent.exec(&sh("exec sleep 1000"), LIMIT).await.unwrap();
    let pid = running.pid;
    drop(running);
    gone(pid).await;
    // And what doesn't listen to SIGHUP.
    let running = agent.exec(&sh("trap '' HUP; echo; sleep 1000 & wait"), LIMIT).await.unwrap();
    let (pid, mut output) = (running.pid, running.output);
    assert!(matches!(output.next().await, Ok(Event::Output(_))));
    drop((running.input, output, agent));
    gone(pid).await;
}
