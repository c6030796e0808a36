//! Every verb: doing it twice is doing it once.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use clawfarm_model::{Code, DataFate, ObservedState as S};
use clawfarm_runtime::{ExecInput, ExecOutput, ExecRequest, LogQuery, NoProgress, Runtime, TermSize};
use clawfarm_test_docker::{Kind, TINY};
use futures::{StreamExt, TryStreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::farm::{Farm, GRACE, LIMIT, SERVES, launch, until};

crate::farm::on_engines! {
    both [
        twice_is_once
        a_launch_of_old_news_is_refused
        its_files_are_its_own_and_stay_over_starts
        a_purge_leaves_nothing_and_data_can_be_given_on
        it_is_reached_at_its_port_and_reaches_the_server
        commands_run_beside_it
        what_it_printed_and_what_it_uses_is_told
    ]
    docker [what_is_in_memory_is_its_own_at_every_start]
}

/// Docker 20.10 forgets the mode of a tmpfs at a container's second start where the image has no
/// such folder.
async fn what_is_in_memory_is_its_own_at_every_start(farm: Farm) {
    let id = farm.id("tmp");
    let (bare, maker) = (format!("clawfarm-test/bare:{id}"), format!("bare-{id}"));
    let _ = farm.engine.docker(&["run", "--name", &maker, "--network=none", TINY, "rm", "-rf", "/tmp"]);
    let _ = farm.engine.docker(&["commit", &maker, &bare]);
    let _ = farm.engine.docker(&["rm", &maker]);
    let mut placement = farm.placement(&id, "default").await;
    placement.software.image = Some(bare.clone());
    for run in 1..=3 {
        farm.runtime.ensure(&placement, &NoProgress).await.unwrap();
        farm.runtime.start(&launch(&id, run, SERVES)).await.unwrap();
        assert_eq!(
            farm.run(&id, &["sh", "-c", "echo x > /tmp/x && echo x > /home/node/x"]).await.1,
            0,
            "run {run}"
        );
        farm.runtime.stop(&id, GRACE).await.unwrap();
    }
    farm.runtime.destroy(&id, DataFate::Purge).await.unwrap();
    farm.engine.remove_image(&bare);
    farm.clear().await;
}

async fn twice_is_once(farm: Farm) {
    let (id, runtime) = (farm.id("twice"), &farm.runtime);
    assert_eq!(runtime.observe(&id).await.unwrap().state, S::Absent);
    let placement = farm.placement(&id, "default").await;
    for _ in 0..2 {
        runtime.ensure(&placement, &NoProgress).await.unwrap();
        assert_eq!(runtime.observe(&id).await.unwrap().state, S::Prepared);
    }
    let mut started = Vec::new();
    for _ in 0..2 {
        let seen = runtime.start(&launch(&id, 3, SERVES)).await.unwrap();
        assert_eq!((seen.state, seen.run, seen.port), (S::Running, 3, Some(placement.port)));
        started.push((seen.started_at, seen.pid));
    }
    assert_eq!(started[0], started[1], "the second found it running");
    assert_eq!(runtime.list().await.unwrap().len(), 1);
    let freeze = runtime.freeze().unwrap();
    for _ in 0..2 {
        assert_eq!(freeze.freeze(&id).await.unwrap().state, S::Frozen);
    }
    for _ in 0..2 {
        assert_eq!(freeze.thaw(&id).await.unwrap().state, S::Running);
    }
    for _ in 0..2 {
        let seen = runtime.stop(&id, GRACE).await.unwrap();
        let exit = seen.exit.clone().unwrap();
        assert_eq!((seen.state, exit.code, exit.requested), (S::Exited, Some(0), true), "{seen:?}");
    }
    // From a frozen one, as from one that runs.
    runtime.start(&launch(&id, 4, SERVES)).await.unwrap();
    freeze.freeze(&id).await.unwrap();
    for _ in 0..2 {
        let seen = runtime.kill(&id).await.unwrap();
        assert_eq!((seen.state, seen.exit.unwrap().signal), (S::Exited, Some(9)));
    }
    let mut sizes = Vec::new();
    for _ in 0..2 {
        sizes.push(runtime.destroy(&id, DataFate::Keep).await.unwrap());
        assert_eq!(runtime.observe(&id).await.unwrap().state, S::Absent);
    }
    assert!(sizes[0] > 0 && sizes[0] == sizes[1], "{sizes:?}");
    assert!(farm.home.path().join("datasets").join(id.as_str()).exists());
    for _ in 0..2 {
        runtime.remove_dataset(&id).await.unwrap();
    }
    assert_eq!(runtime.freeze().unwrap().freeze(&id).await.unwrap_err().code(), Code::Gone);
    farm.clear().await;
}

async fn a_launch_of_old_news_is_refused(farm: Farm) {
    let id = farm.id("news");
    farm.up(&id, SERVES).await;
    farm.runtime.stop(&id, GRACE).await.unwrap();
    farm.runtime.start(&launch(&id, 5, SERVES)).await.unwrap();
    // An older one that runs already later is what was wanted; a newer one must stop it first.
    assert_eq!(farm.runtime.start(&launch(&id, 4, SERVES)).await.unwrap().run, 5);
    let error = farm.runtime.start(&launch(&id, 6, SERVES)).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("run")));
    farm.runtime.stop(&id, GRACE).await.unwrap();
    let error = farm.runtime.start(&launch(&id, 4, SERVES)).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("run")));
    farm.clear().await;
}

async fn its_files_are_its_own_and_stay_over_starts(farm: Farm) {
    let (id, runtime) = (farm.id("files"), &farm.runtime);
    farm.up(&id, SERVES).await;
    let dir = farm.home.path().join("claws").join(id.as_str());
    let meta = |path: &str| std::fs::metadata(dir.join(path)).unwrap();
    for (path, mode, uid) in [
        ("config/openclaw.json", 0o600, 1000),
        ("config/.env", 0o600, 1000),
        ("config/deep/locked.json", 0o440, 0),
    ] {
        assert_eq!((meta(path).permissions().mode() & 0o777, meta(path).uid()), (mode, uid), "{path}");
    }
    assert_eq!(meta("").permissions().mode() & 0o777, 0o700);
    let (printed, code) = farm.run(&id, &["sh", "-c", "echo remember > memory; cat ../openclaw.json"]).await;
    assert_eq!((printed.as_str(), code), ("{\"a\":1}", 0));
    let files = runtime.files().unwrap();
    let read = |path: &'static str| files.read(&id, Path::new(path), 1000);
    assert_eq!(read("workspace/memory").await.unwrap().as_deref(), Some(b"remember\n".as_slice()));
    assert_eq!(read("nothing").await.unwrap(), None);
    files.write(&id, Path::new("workspace/from/outside"), b"here", false).await.unwrap();
    assert_eq!(farm.run(&id, &["cat", "from/outside"]).await, ("here".to_owned(), 0));
    for path in ["../container.json", "/etc/passwd"] {
        assert_eq!(read(path).await.unwrap_err().code(), Code::InvalidInput, "{path}");
    }
    // A link that the claw has planted leads nowhere.
    farm.run(&id, &["sh", "-c", "rm -f ../openclaw.json; ln=1; busybox ln -s /etc/shadow ../stolen"]).await;
    assert_eq!(read("stolen").await.unwrap_err().code(), Code::InvalidInput);
    runtime.stop(&id, GRACE).await.unwrap();
    runtime.start(&launch(&id, 2, SERVES)).await.unwrap();
    assert_eq!(farm.run(&id, &["cat", "memory"]).await.0, "remember\n");
    // What is in memory is as it was at the first start: empty, and its own.
    assert_eq!(farm.run(&id, &["sh", "-c", "touch ~/x /tmp/x"]).await, (String::new(), 0));
    // Other limits make another container of the same data.
    runtime.stop(&id, GRACE).await.unwrap();
    let mut other = launch(&id, 3, SERVES);
    other.resources.memory_mib = 96;
    runtime.start(&other).await.unwrap();
    assert_eq!(farm.run(&id, &["cat", "memory"]).await.0, "remember\n");
    let limit = farm.engine.docker(&["inspect", "-f", "{{.HostConfig.Memory}}", &farm.container(&id)]);
    assert_eq!(limit, (96 << 20).to_string());
    farm.clear().await;
}

async fn a_purge_leaves_nothing_and_data_can_be_given_on(farm: Farm) {
    let (first, second) = (farm.id("first"), farm.id("second"));
    farm.up(&first, SERVES).await;
    farm.run(&first, &["sh", "-c", "echo kept > memory"]).await;
    assert!(farm.runtime.destroy(&first, DataFate::Keep).await.unwrap() > 0);
    let mut placement = farm.placement(&second, "default").await;
    placement.dataset = Some(first.clone());
    farm.runtime.ensure(&placement, &NoProgress).await.unwrap();
    farm.runtime.start(&launch(&second, 1, SERVES)).await.unwrap();
    assert_eq!(farm.run(&second, &["cat", "memory"]).await.0, "kept\n");
    farm.runtime.destroy(&second, DataFate::Purge).await.unwrap();
    for folder in ["claws", "datasets"] {
        let left = std::fs::read_dir(farm.home.path().join(folder)).unwrap().count();
        assert_eq!(left, 0, "{folder}");
    }
    for id in [&first, &second] {
        let filter = format!("name={}", farm.container(id));
        assert_eq!(farm.engine.docker(&["ps", "-aq", "--filter", &filter]), "");
    }
    // The last one's removal takes the tenant's network with it.
    let label = format!("label=io.clawfarm.server={}", farm.server());
    assert_eq!(farm.engine.docker(&["network", "ls", "-q", "--filter", &label]), "");
    assert_eq!(farm.engine.docker(&["volume", "ls", "-q"]), "");
    farm.clear().await;
}

async fn it_is_reached_at_its_port_and_reaches_the_server(farm: Farm) {
    let id = farm.id("net");
    let (_, port) = farm.up(&id, SERVES).await;
    let answer = |port: u16| {
        let (runtime, id) = (&farm.runtime, &id);
        async move {
            let mut stream = runtime.dial(id, port).await.ok()?;
            stream.write_all(b"GET /openclaw.json HTTP/1.0\r\n\r\n").await.ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await.ok()?;
            text.contains("{\"a\":1}").then_some(())
        }
    };
    // By the published port, and by the container's own.
    until("it answers", || async { answer(port).await.is_some() }).await;
    assert!(answer(18_789).await.is_some());
    assert_eq!(farm.runtime.dial(&id, 9).await.map(drop).unwrap_err().code(), Code::Unavailable);
    // The other way: the claw asks the server by the address that its place says.
    let url = farm.runtime.host_route(farm.server.local_addr().unwrap().port()).await.unwrap();
    let serving = async {
        let (mut stream, _) = farm.server.accept().await.unwrap();
        let mut request = [0; 16];
        stream.read_exact(&mut request).await.unwrap();
        stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello").await.unwrap();
    };
    let target = format!("{url}/demo");
    let argv = ["wget", "-q", "-O", "-", &target];
    let asking = farm.run(&id, &argv);
    let ((), answer) = tokio::time::timeout(LIMIT, async { tokio::join!(serving, asking) }).await.unwrap();
    assert_eq!(answer, ("hello".to_owned(), 0));
    farm.runtime.kill(&id).await.unwrap();
    assert_eq!(farm.runtime.dial(&id, port).await.map(drop).unwrap_err().code(), Code::Unavailable);
    farm.clear().await;
}

async fn commands_run_beside_it(farm: Farm) {
    let id = farm.id("exec");
    farm.up(&id, SERVES).await;
    let exec = farm.runtime.exec().unwrap();
    assert_eq!(farm.run(&id, &["sh", "-c", "echo $COLOUR; exit 7"]).await, ("blue\n".to_owned(), 7));
    // What goes in comes out.
    let request = ExecRequest { argv: vec!["cat".into()], tty: None, term: None };
    let mut session = exec.exec(&id, request).await.unwrap();
    session.input.send(ExecInput::Stdin("through".into())).await.unwrap();
    session.input.send(ExecInput::Eof).await.unwrap();
    let mut seen = Vec::new();
    while let Some(piece) = tokio::time::timeout(LIMIT, session.output.recv())
        .await
        .unwrap_or_else(|_| panic!("it is still open after {seen:?}"))
    {
        seen.push(piece);
    }
    assert_eq!(seen, [ExecOutput::Stdout("through".into()), ExecOutput::Exit(0)]);
    // A shell on a terminal, which takes on another size; and hangs up with its caller.
    let request = ExecRequest {
        argv: Vec::new(),
        tty: Some(TermSize { cols: 80, rows: 24 }),
        term: Some("xterm".into()),
    };
    let mut session = exec.exec(&id, request).await.unwrap();
    session.input.send(ExecInput::Resize(TermSize { cols: 100, rows: 40 })).await.unwrap();
    // Podman takes a size and input on two ways: what is typed may be read before the size is set.
    let typed =
        "until [ \"$(stty size)\" = '40 100' ]; do sleep 0.1; done; stty size; echo $TERM; sleep 1234\n";
    session.input.send(ExecInput::Stdin(typed.into())).await.unwrap();
    let mut printed = String::new();
    // What is typed is shown, too, with the wanted size in quotes.
    while !(printed.contains("\n40 100") && printed.contains("xterm")) {
        match tokio::time::timeout(LIMIT, session.output.recv()).await {
            Ok(Some(ExecOutput::Stdout(bytes))) => printed.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?} after {printed:?}"),
        }
    }
    let top = || farm.engine.docker(&["top", &farm.container(&id)]);
    until("the shell's command runs", || async { top().contains("sleep 1234") }).await;
    drop(session);
    until("the shell is hung up", || async { !top().contains("sleep 1234") }).await;
    let missing = ExecRequest { argv: vec!["no-such-command".into()], tty: None, term: None };
    match exec.exec(&id, missing).await {
        Err(error) => assert_eq!(error.code(), Code::NotFound),
        Ok(mut session) => {
            let mut last = None;
            while let Some(piece) = tokio::time::timeout(LIMIT, session.output.recv()).await.unwrap() {
                last = Some(piece);
            }
            assert!(matches!(last, Some(ExecOutput::Exit(126 | 127))), "{last:?}");
        }
    }
    farm.runtime.freeze().unwrap().freeze(&id).await.unwrap();
    let request = ExecRequest { argv: vec!["true".into()], tty: None, term: None };
    assert_eq!(exec.exec(&id, request.clone()).await.unwrap_err().code(), Code::Unavailable);
    farm.runtime.kill(&id).await.unwrap();
    assert_eq!(exec.exec(&id, request).await.unwrap_err().code(), Code::Gone);
    farm.clear().await;
}

async fn what_it_printed_and_what_it_uses_is_told(farm: Farm) {
    let (id, runtime) = (farm.id("logs"), &farm.runtime);
    let nothing = LogQuery::default();
    assert_eq!(
        runtime.logs().unwrap().logs(&id, nothing).await.map(drop).unwrap_err().code(),
        Code::NotFound
    );
    // Two streams are two: only what is printed after something was read is surely after it.
    let script = "rm -f go; echo one; echo two >&2; until [ -e go ]; do sleep 0.1; done; echo three; \
                  trap 'exit 0' TERM; sleep 1000 & wait";
    farm.up(&id, script).await;
    let lines = |query: LogQuery| {
        let id = &id;
        async move {
            let stream = runtime.logs().unwrap().logs(id, query).await.unwrap();
            let lines: Vec<_> = stream.try_collect().await.unwrap();
            lines.into_iter().map(|line| line.text).collect::<Vec<_>>()
        }
    };
    until("it has printed two", || async { lines(LogQuery::default()).await.len() == 2 }).await;
    farm.run(&id, &["touch", "go"]).await;
    until("it has printed", || async { lines(LogQuery::default()).await.len() == 3 }).await;
    // The engine reads the two outputs beside each other, so which of their lines is last is its own.
    let last = lines(LogQuery::default()).await.split_off(2);
    assert_eq!(lines(LogQuery { tail: Some(1), ..LogQuery::default() }).await, last);
    let later = clawfarm_model::Timestamp::now().after(LIMIT * 60);
    assert!(lines(LogQuery { since: Some(later), ..LogQuery::default() }).await.is_empty());
    // Followed, it goes on until it ends.
    let mut followed =
        runtime.logs().unwrap().logs(&id, LogQuery { follow: true, ..LogQuery::default() }).await.unwrap();
    let mut texts = Vec::new();
    for _ in 0..3 {
        texts.push(tokio::time::timeout(LIMIT, followed.next()).await.unwrap().unwrap().unwrap().text);
    }
    texts.sort();
    assert_eq!(texts, ["one", "three", "two"]);
    let used = runtime.stats().unwrap().usage(&id).await.unwrap();
    assert_eq!(used.memory_limit_bytes, 64 << 20);
    assert!(used.memory_bytes > 0 && used.tasks >= 2, "{used:?}");
    runtime.stop(&id, GRACE).await.unwrap();
    assert!(tokio::time::timeout(LIMIT, followed.next()).await.unwrap().is_none());
    assert_eq!(runtime.stats().unwrap().usage(&id).await.unwrap_err().code(), Code::Gone);
    // What an earlier run printed stays.
    runtime.start(&launch(&id, 2, script)).await.unwrap();
    farm.run(&id, &["touch", "go"]).await;
    until("both runs are told", || async { lines(LogQuery::default()).await.len() == 6 }).await;
    farm.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_first_ones_of_a_tenant_get_one_network() {
    let Some(farm) = Farm::of(Kind::Docker).await else { return };
    let tenant = format!("t{}", std::process::id());
    let mut placements = Vec::new();
    for n in 0..6 {
        placements.push(farm.placement(&farm.id(&format!("many{n}")), &tenant).await);
    }
    let name = format!("clawfarm-{}-{tenant}", farm.server());
    // An engine that is asked at the same moment makes several of one name, such as for a server
    // that was killed and for the next one.
    std::thread::scope(|scope| {
        for _ in 0..6 {
            let command = std::process::Command::new("docker")
                .args(["--host", &format!("unix://{}", farm.engine.socket().display())])
                .args(["network", "create", &name])
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn();
            scope.spawn(|| command.unwrap().wait());
        }
    });
    let runtime = &farm.runtime;
    let made = placements.iter().map(|placement| runtime.ensure(placement, &NoProgress));
    for made in futures::future::join_all(made).await {
        made.unwrap();
    }
    let networks = || farm.engine.docker(&["network", "ls", "-q", "--filter", &format!("name={name}")]);
    assert_eq!(networks().lines().count(), 1, "{}", networks());
    farm.clear().await;
}
