//! One claw from its start to its end, and all that can be asked of it meanwhile.

use clawfarm_model::{Code, ObservedState, Timestamp};
use clawfarm_runtime::{ExecInput, ExecOutput, ExecRequest, ExecSession, LogQuery, Runtime};
use futures::StreamExt;
use tokio::io::AsyncReadExt;

use crate::farm::{Farm, LIMIT, SERVER, alive, file, id, python, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn starts_once_answers_and_stops() {
    let farm = Farm::new().await;
    let claw = id("alice-1");
    assert_eq!(farm.rt.observe(&claw).await.unwrap().state, ObservedState::Absent);
    let place = farm.prepared(&claw).await;
    assert_eq!(place.host_url, "http://127.0.0.1:7");
    assert_eq!(farm.rt.observe(&claw).await.unwrap().state, ObservedState::Prepared);
    let launch = python(&claw, 2, &place, SERVER);
    let seen = farm.rt.start(&launch).await.unwrap();
    assert_eq!((seen.state, seen.run, seen.port), (ObservedState::Running, 2, Some(place.port)));
    let again = farm.rt.start(&launch).await.unwrap();
    assert_eq!(again.pid, seen.pid);
    let error = farm.rt.start(&python(&claw, 3, &place, SERVER)).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("run")));
    // Old news starts nothing.
    assert_eq!(farm.rt.start(&python(&claw, 1, &place, SERVER)).await.unwrap().run, 2);

    farm.wait_until_printed(&claw, "listening").await;
    assert_eq!(hello(&farm, &claw, place.port).await, "hello");
    let usage = farm.rt.stats().unwrap().usage(&claw).await.unwrap();
    assert!(usage.memory_bytes > 0 && usage.tasks > 0, "{usage:?}");
    let listed = farm.rt.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].pid, seen.pid);

    let stopped = farm.stop(&claw).await;
    assert_eq!(stopped.state, ObservedState::Exited);
    assert!(stopped.exit.unwrap().requested);
    assert!(!alive(seen.pid.unwrap()));
    let error = farm.rt.dial(&claw, place.port).await.map(drop).unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    let error = farm.rt.freeze().unwrap().freeze(&claw).await.unwrap_err();
    assert_eq!(error.code(), Code::Gone);
    let error = farm.rt.start(&python(&claw, 1, &place, SERVER)).await.unwrap_err();
    assert_eq!(error.code(), Code::Conflict);
}

async fn hello(farm: &Farm, claw: &clawfarm_model::ClawId, port: u16) -> String {
    let mut connection = farm.rt.dial(claw, port).await.unwrap();
    let mut text = String::new();
    connection.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_of_its_own_is_noticed_and_told() {
    let farm = Farm::new().await;
    let claw = id("alice-2");
    let mut events = farm.rt.watch();
    farm.run(&claw, 1, "import sys; sys.stdin.read(); print('last words'); sys.exit(7)").await;
    let exit = wait_for("the exit", || async {
        let seen = farm.rt.observe(&claw).await.unwrap();
        seen.exit.ok_or(seen.state)
    })
    .await;
    assert_eq!((exit.code, exit.requested), (Some(7), false));
    assert!(exit.log_tail.contains("last words"), "{exit:?}");
    let told = tokio::time::timeout(LIMIT, events.recv()).await.expect("it was told within the limit");
    assert_eq!(told.unwrap(), claw);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_finds_its_claws_and_hears_of_their_end() {
    let mut farm = Farm::new().await;
    let claw = id("alice-3");
    let (place, seen) = farm.run(&claw, 1, SERVER).await;
    farm.reopen().await;
    let found = farm.rt.observe(&claw).await.unwrap();
    assert_eq!((found.state, found.pid, found.run), (ObservedState::Running, seen.pid, 1));
    farm.wait_until_printed(&claw, "listening").await;
    assert_eq!(hello(&farm, &claw, place.port).await, "hello");
    let records = farm.rt.records().await.unwrap();
    assert_eq!((records.len(), records[0].run, records[0].port), (1, 1, place.port));
    assert_eq!(records[0].record["name"], "test");

    let mut events = farm.rt.watch();
    let pid = rustix::process::Pid::from_raw(i32::try_from(seen.pid.unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let told = async {
        loop {
            let _ = events.recv().await;
            if farm.rt.observe(&claw).await.unwrap().state == ObservedState::Exited {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, told).await.expect("word of its end comes within the limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_and_thawed() {
    let farm = Farm::new().await;
    let claw = id("alice-4");
    let (_, seen) =
        farm.run(&claw, 1, "import time\nwhile True: print('tick', flush=True); time.sleep(0.02)").await;
    farm.wait_until_printed(&claw, "tick").await;
    for _ in 0..2 {
        let frozen = farm.rt.freeze().unwrap().freeze(&claw).await.unwrap();
        assert_eq!((frozen.state, frozen.pid), (ObservedState::Frozen, seen.pid));
    }
    let thawed = farm.rt.freeze().unwrap().thaw(&claw).await.unwrap();
    assert_eq!(thawed.state, ObservedState::Running);
    farm.rt.freeze().unwrap().freeze(&claw).await.unwrap();
    let stopped = farm.stop(&claw).await;
    assert_eq!(stopped.state, ObservedState::Exited);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_beside_it() {
    let farm = Farm::new().await;
    let claw = id("alice-5");
    farm.run(&claw, 1, "import time; time.sleep(1000)").await;
    let exec = |argv: &[&str]| ExecRequest {
        argv: argv.iter().map(|a| (*a).to_owned()).collect(),
        tty: None,
        term: None,
    };
    let run = async |argv: &[&str]| farm.rt.exec().unwrap().exec(&claw, exec(argv)).await;

    let session = run(&["sh", "-c", "echo out; echo err >&2; exit 3"]).await.unwrap();
    assert_eq!(collect(session).await, ("out\n".into(), "err\n".into(), 3));

    // More than any buffer holds goes through, in both directions.
    let session = run(&["wc", "-c"]).await.unwrap();
    for _ in 0..40 {
        session.input.send(ExecInput::Stdin(vec![b'x'; 100_000].into())).await.unwrap();
    }
    session.input.send(ExecInput::Eof).await.unwrap();
    assert_eq!(collect(session).await.0.trim(), "4000000");
    let session = run(&["head", "-c", "3000000", "/dev/zero"]).await.unwrap();
    assert_eq!(collect(session).await.0.len(), 3_000_000);

    // Whoever stops talking may still listen.
    let ExecSession { input, output } = run(&["sh", "-c", "sleep 0.3; echo late"]).await.unwrap();
    drop(input);
    let (sender, _unused) = tokio::sync::mpsc::channel(1);
    assert_eq!(collect(ExecSession { input: sender, output }).await.0, "late\n");

    // Hanging up ends it.
    let mut session = run(&["sh", "-c", "echo $$; sleep 1000"]).await.unwrap();
    let Some(ExecOutput::Stdout(pid)) = session.output.recv().await else { panic!("no pid") };
    let pid: u32 = String::from_utf8_lossy(&pid).trim().parse().unwrap();
    drop(session);
    wait_for("the end of a command that was hung up", || async {
        if alive(pid) { Err(pid) } else { Ok(()) }
    })
    .await;

    let error = run(&["no-such-command"]).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error:?}");
    farm.rt.kill(&claw).await.unwrap();
    assert_eq!(run(&["true"]).await.unwrap_err().code(), Code::Gone);
}

async fn collect(mut session: ExecSession) -> (String, String, i32) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let all = async {
        loop {
            match session.output.recv().await.expect("an exit code comes last") {
                ExecOutput::Stdout(bytes) => out.extend(bytes),
                ExecOutput::Stderr(bytes) => err.extend(bytes),
                ExecOutput::Exit(code) => return code,
            }
        }
    };
    let code = tokio::time::timeout(LIMIT, all).await.expect("the command ends within the limit");
    (String::from_utf8_lossy(&out).into(), String::from_utf8_lossy(&err).into(), code)
}

#[tokio::test(flavor = "multi_thread")]
async fn its_output_is_kept_and_followed() {
    let farm = Farm::new().await;
    let claw = id("alice-6");
    let error = farm.rt.logs().unwrap().logs(&claw, LogQuery::default()).await.map(drop).unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    let before = Timestamp::now();
    farm.run(&claw, 1, "import sys\nfor n in range(5): print('line', n)\nprint('wrong', file=sys.stderr)")
        .await;
    farm.wait_until_printed(&claw, "wrong").await;
    let texts = async |query| {
        let stream = farm.rt.logs().unwrap().logs(&claw, query).await.unwrap();
        let lines: Vec<_> = stream.map(|line| line.unwrap()).collect().await;
        lines.into_iter().map(|line| line.text).collect::<Vec<_>>()
    };
    let all = texts(LogQuery { since: Some(before), ..LogQuery::default() }).await;
    assert!(all.contains(&"line 4".to_owned()) && all.contains(&"wrong".to_owned()), "{all:?}");
    assert_eq!(texts(LogQuery { tail: Some(2), ..LogQuery::default() }).await.len(), 2);

    let query = LogQuery { tail: Some(0), follow: true, since: None };
    let mut following = farm.rt.logs().unwrap().logs(&claw, query).await.unwrap();
    wait_for("its end", || async {
        let seen = farm.rt.observe(&claw).await.unwrap();
        if seen.state == ObservedState::Exited { Ok(()) } else { Err(seen) }
    })
    .await;
    farm.run(&claw, 2, "print('second run')").await;
    let next = tokio::time::timeout(LIMIT, following.next()).await.expect("a line within the limit");
    assert_eq!(next.unwrap().unwrap().text, "second run");
}

#[tokio::test(flavor = "multi_thread")]
async fn gets_its_files_and_exactly_its_environment() {
    let farm = Farm::new().await;
    let claw = id("alice-7");
    let place = farm.prepared(&claw).await;
    let program = "import os\nfor k in sorted(os.environ): print(k)\nprint('tmp', os.environ['TMPDIR'], 'home', os.environ['HOME'])\nprint(open('conf/a.json').read())\ntry: open('conf/fixed', 'a'); print('changed')\nexcept OSError as e: print('kept')\nopen(os.environ['TMPDIR'] + '/x', 'w').write('x'); print('done')";
    let mut launch = python(&claw, 1, &place, program);
    launch.files = vec![file("conf/a.json", "{1}", false), file("conf/fixed", "f", true)];
    farm.rt.start(&launch).await.unwrap();
    farm.wait_until_printed(&claw, "done").await;
    let printed = farm.printed(&claw);
    let dir = farm.claw(&claw).canonicalize().unwrap();
    assert!(printed.contains(&format!("tmp {0}/tmp home {0}/state", dir.display())), "{printed}");
    assert!(printed.contains("{1}"), "{printed}");
    assert!(!printed.contains("CARGO"), "{printed}");
    assert!(!printed.contains("s3cret-value"));
    if rustix::process::geteuid().is_root() {
        assert!(printed.contains("kept"), "{printed}");
    }
    let read = |path: &'static str| {
        let farm = &farm;
        let claw = &claw;
        async move { farm.rt.files().unwrap().read(claw, path.as_ref(), 100).await }
    };
    assert_eq!(read("conf/a.json").await.unwrap().unwrap(), b"{1}");
    assert_eq!(read("conf/none").await.unwrap(), None);
    assert_eq!(read("../instance.json").await.unwrap_err().code(), Code::InvalidInput);
    farm.rt.files().unwrap().write(&claw, "conf/a.json".as_ref(), b"{2}", false).await.unwrap();
    assert_eq!(read("conf/a.json").await.unwrap().unwrap(), b"{2}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_said_before_the_start() {
    let farm = Farm::new().await;
    let claw = id("alice-8");
    let place = farm.prepared(&claw).await;
    let other = std::net::TcpListener::bind(("127.0.0.1", place.port)).unwrap();
    let error = farm.rt.start(&python(&claw, 1, &place, SERVER)).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("port")));
    assert!(error.message().contains(&format!("process {}", std::process::id())), "{error}");
    assert_eq!(farm.rt.observe(&claw).await.unwrap().state, ObservedState::Prepared);
    drop(other);

    // One that takes the port while the claw runs is not mistaken for it.
    farm.rt.start(&python(&claw, 1, &place, "import time; print('deaf'); time.sleep(1000)")).await.unwrap();
    farm.wait_until_printed(&claw, "deaf").await;
    let error = farm.rt.dial(&claw, place.port).await.map(drop).unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    let _impostor = std::net::TcpListener::bind(("127.0.0.1", place.port)).unwrap();
    let error = farm.rt.dial(&claw, place.port).await.map(drop).unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("port")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_the_port_the_moment_a_claw_ends_is_sent_nothing() {
    let farm = Farm::new().await;
    let claw = id("alice-11");
    let (place, seen) = farm.run(&claw, 1, SERVER).await;
    farm.wait_until_printed(&claw, "listening").await;
    assert_eq!(hello(&farm, &claw, place.port).await, "hello");
    let pid = rustix::process::Pid::from_raw(i32::try_from(seen.pid.unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let begun = std::time::Instant::now();
    let _impostor = loop {
        match std::net::TcpListener::bind(("127.0.0.1", place.port)) {
            Ok(listener) => break listener,
            Err(_) => std::thread::yield_now(),
        }
        assert!(begun.elapsed() < LIMIT, "the port was not let go");
    };
    // What was found out of its port is not a second old.
    let error = farm.rt.dial(&claw, place.port).await.map(drop).unwrap_err();
    assert!(matches!(error.code(), Code::Conflict | Code::Unavailable), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_fails_the_start_and_leaves_nothing() {
    let farm = Farm::new().await;
    let claw = id("alice-9");
    let place = farm.prepared(&claw).await;
    let mut launch = python(&claw, 1, &place, "");
    launch.argv = vec!["/no/such/program".into()];
    let error = farm.rt.start(&launch).await.unwrap_err();
    assert_eq!(error.code(), Code::ClawFailed);
    assert!(error.to_string().contains("/no/such/program"), "{error:?}");
    assert!(!farm.rt.observe(&claw).await.unwrap().state.is_up());
    farm.rt.start(&python(&claw, 1, &place, SERVER)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_looks_at_everything() {
    let farm = Farm::new().await;
    let diagnosis = farm.rt.diagnose().await;
    for name in
        ["npm", "Landlock", "own users", "limits (cgroups)", "private mounts", "memory", "disk space (home)"]
    {
        assert!(diagnosis.checks.iter().any(|check| check.name == name), "{name} in {diagnosis:?}");
    }
    for check in &diagnosis.checks {
        assert_eq!(check.level == clawfarm_model::target::CheckLevel::Ok, check.fix.is_none(), "{check:?}");
    }
    assert!(farm.rt.capacity().await.unwrap().memory_mib > 0);
}
