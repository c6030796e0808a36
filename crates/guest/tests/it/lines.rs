use std::time::Duration;

use clawfarm_guest::agent::serve;
use clawfarm_guest::client::{Client, Event, GuestError};
use clawfarm_guest::frame::{Decoder, Frame, Kind, MAX_BODY};
use clawfarm_guest::message::{Power, RefusalCode, Request, Stats};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use crate::support::{LIMIT, agent, all_of, gone, line, options, sh};

#[tokio::test]
async fn an_agent_says_who_it_is_and_how_the_machine_is() {
    let agent = agent().await;
    let about = agent.about();
    assert_eq!(about.agent, env!("CARGO_PKG_VERSION"));
    assert!(!about.boot.is_empty());
    let stats: Stats = agent.ask(&Request::Stats, LIMIT).await.unwrap();
    assert!(stats.memory_total > 0 && stats.cpus > 0, "{stats:?}");
    for request in [Request::Ping, Request::Sync, Request::Freeze { limit_secs: 60 }, Request::Thaw] {
        let () = agent.ask(&request, LIMIT).await.unwrap();
    }
}

#[tokio::test]
async fn what_can_t_be_is_refused() {
    let agent = agent().await;
    let refused = agent.ask::<()>(&Request::SetTime { unix_nanos: -1 }, LIMIT).await;
    assert!(
        matches!(&refused, Err(GuestError::Refused(it)) if it.code == RefusalCode::Invalid),
        "{refused:?}"
    );
    assert!(serde_json::to_string(&Request::Power { how: Power::Off }).unwrap().contains(r#""how":"off""#));
}

#[tokio::test]
async fn a_request_of_a_newer_host_is_refused_and_the_line_goes_on() {
    let mut host = line();
    let hello = Frame::new(Kind::Hello, 0, r#"{"version":1,"nonce":5,"newer":true}"#);
    host.write_all(&hello.encode()).await.unwrap();
    host.write_all(&Frame::new(Kind::Open, 1, r#"{"ask":"fly"}"#).encode()).await.unwrap();
    host.write_all(&Frame::new(Kind::Open, 2, r#"{"ask":"ping"}"#).encode()).await.unwrap();
    let said = frames(&mut host, 4).await;
    // That it begins, and that it heard the greeting.
    assert!(String::from_utf8_lossy(&said[0].body).contains("\"nonce\":0"));
    let said = &said[1..];
    assert_eq!(said[0].kind, Kind::Hello);
    assert_eq!((said[1].kind, said[1].stream), (Kind::Refused, 1));
    assert!(String::from_utf8_lossy(&said[1].body).contains("unsupported"));
    assert_eq!((said[2].kind, said[2].stream), (Kind::Answer, 2));
}

#[tokio::test]
async fn nothing_is_done_before_a_greeting_or_for_a_half_frame() {
    let mut host = line();
    host.write_all(&Frame::new(Kind::Open, 1, r#"{"ask":"ping"}"#).encode()).await.unwrap();
    // A server was killed in the middle of its word.
    let half = Frame::new(Kind::Input, 9, vec![7; 900]).encode();
    host.write_all(&half[..400]).await.unwrap();
    let client = Client::connect(host, LIMIT).await.unwrap();
    let () = client.ask(&Request::Ping, LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_new_host_ends_what_the_last_one_left() {
    let (host, guest) = tokio::io::duplex(4096);
    tokio::spawn(async move { serve(guest, &options()).await });
    let first = Client::connect(host, LIMIT).await.unwrap();
    let running = first.exec(&sh("echo begun; exec sleep 1000"), LIMIT).await.unwrap();
    let pid = running.pid;
    // The line is cut, as by a killed server, and nothing was closed.
    drop((first, running));
    gone(pid).await;
}

#[tokio::test]
async fn a_line_without_an_agent_is_given_up() {
    let (host, other) = tokio::io::duplex(64);
    let nobody = Client::connect(host, Duration::from_millis(300)).await;
    assert_eq!(nobody.err(), Some(GuestError::TimedOut));
    drop(other);
    let (host, other) = tokio::io::duplex(64);
    drop(other);
    let closed = Client::connect(host, LIMIT).await;
    assert!(matches!(closed, Err(GuestError::Gone(_))), "{:?}", closed.err());
}

#[tokio::test]
async fn an_agent_that_goes_away_is_told_to_all_who_wait() {
    let (host, guest) = tokio::io::duplex(4096);
    let serving = tokio::spawn(async move { serve(guest, &options()).await });
    let client = Client::connect(host, LIMIT).await.unwrap();
    let mut running = client.exec(&sh("exec sleep 1000"), LIMIT).await.unwrap();
    let pid = running.pid;
    serving.abort();
    let end = tokio::time::timeout(LIMIT, running.output.next()).await.expect("told");
    assert!(matches!(end, Err(GuestError::Gone(_))), "{end:?}");
    assert!(client.is_gone());
    let late = client.ask::<()>(&Request::Ping, LIMIT).await;
    assert!(matches!(late, Err(GuestError::Gone(_))), "{late:?}");
    end_of(pid).await;
}

#[tokio::test]
async fn an_agent_that_began_anew_behind_the_same_line_is_noticed() {
    let (host, mut guest) = tokio::io::duplex(4096);
    let (anew, restart) = tokio::sync::oneshot::channel::<()>();
    let agents = tokio::spawn(async move {
        // As when the guest reboots: the line goes on, and the agent is another one.
        let options = options();
        tokio::select! {
            ended = serve(&mut guest, &options) => return ended,
            _ = restart => {}
        }
        serve(&mut guest, &options).await
    });
    let client = Client::connect(host, LIMIT).await.unwrap();
    let mut running = client.exec(&sh("exec sleep 1000"), LIMIT).await.unwrap();
    let pid = running.pid;
    anew.send(()).unwrap();
    let end = tokio::time::timeout(LIMIT, running.output.next()).await.expect("told");
    assert_eq!(end.unwrap_err(), GuestError::Gone("the agent began anew".to_owned()));
    agents.abort();
    end_of(pid).await;
}

#[tokio::test]
async fn pieces_of_nothing_and_pieces_of_one_byte_take_no_memory() {
    let client = hostile(|stream| {
        vec![Frame::new(Kind::Answer, stream, r#"{"pid":1}"#), Frame::new(Kind::Output, stream, "")]
    })
    .await;
    let mut running = client.exec(&sh("true"), LIMIT).await.unwrap();
    let end = tokio::time::timeout(LIMIT, running.output.next()).await.expect("told");
    assert!(end.unwrap_err().to_string().contains("nothing in them"));
    let client = hostile(|stream| {
        let mut frames = vec![Frame::new(Kind::Answer, stream, r#"{"pid":1}"#)];
        for _ in 0..500 {
            frames.extend([Frame::new(Kind::Output, stream, "o"), Frame::new(Kind::Errors, stream, "e")]);
        }
        frames.push(Frame::new(Kind::Exit, stream, "{}"));
        frames
    })
    .await;
    let (output, errors, _) = all_of(client.exec(&sh("true"), LIMIT).await.unwrap()).await;
    assert_eq!((output, errors), ("o".repeat(500), "e".repeat(500)));
}

#[tokio::test]
async fn a_guest_that_allows_much_and_reads_nothing_makes_its_writer_wait() {
    let (host, mut guest) = tokio::io::duplex(4096);
    let serving = tokio::spawn(async move {
        let mut decoder = Decoder::default();
        let mut buffer = vec![0; 4096];
        while let Ok(read @ 1..) = guest.read(&mut buffer).await {
            for frame in decoder.push(&buffer[..read]) {
                let answers = match frame.kind {
                    Kind::Hello => vec![Frame::new(Kind::Hello, 0, frame.body)],
                    Kind::Open => vec![Frame::new(Kind::Answer, frame.stream, r#"{"pid":1}"#)],
                    // It reads no more, and lets everything be sent.
                    Kind::Input => loop {
                        let more = Frame::new(Kind::Credit, frame.stream, "99999999").encode();
                        if guest.write_all(&more).await.is_err() {
                            return;
                        }
                        tokio::task::yield_now().await;
                    },
                    _ => Vec::new(),
                };
                for answer in answers {
                    guest.write_all(&answer.encode()).await.unwrap();
                }
            }
        }
    });
    let client = Client::connect(host, LIMIT).await.unwrap();
    let running = client.exec(&sh("true"), LIMIT).await.unwrap();
    let mut written = 0_usize;
    let all = async {
        loop {
            running.input.write(&[7; MAX_BODY]).await.unwrap();
            written += MAX_BODY;
        }
    };
    // What is not taken is not kept: the queue and the line hold some pieces, no more.
    assert!(tokio::time::timeout(Duration::from_secs(2), all).await.is_err());
    assert!(written < 64 * MAX_BODY, "{written} bytes wait");
    serving.abort();
}

/// A guest that does what it likes.
async fn hostile(say: impl Fn(u32) -> Vec<Frame> + Send + 'static) -> Client {
    let (host, mut guest) = tokio::io::duplex(1 << 20);
    tokio::spawn(async move {
        let mut decoder = Decoder::default();
        let mut buffer = vec![0; 65536];
        while let Ok(read @ 1..) = guest.read(&mut buffer).await {
            for frame in decoder.push(&buffer[..read]) {
                let answers = match frame.kind {
                    Kind::Hello => vec![Frame::new(Kind::Hello, 0, frame.body)],
                    Kind::Open => say(frame.stream),
                    _ => Vec::new(),
                };
                for answer in answers {
                    if guest.write_all(&answer.encode()).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    Client::connect(host, LIMIT).await.unwrap()
}

#[tokio::test]
async fn a_guest_that_floods_its_host_is_cut_off() {
    let client = hostile(|stream| {
        let mut frames = vec![Frame::new(Kind::Answer, stream, r#"{"pid":1}"#)];
        frames.extend((0..100).map(|_| Frame::new(Kind::Output, stream, vec![0; MAX_BODY])));
        frames
    })
    .await;
    let mut running = client.exec(&sh("true"), LIMIT).await.unwrap();
    let mut read = 0;
    let end = loop {
        match tokio::time::timeout(LIMIT, running.output.next()).await.expect("told") {
            Ok(Event::Output(piece)) => read += piece.len(),
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    // What was read meanwhile may have made room for more.
    assert!(read < 100 * MAX_BODY, "{read}");
    assert!(end.to_string().contains("more than it may"), "{end}");
}

#[tokio::test]
async fn nonsense_of_a_guest_is_no_answer() {
    let client = hostile(|stream| vec![Frame::new(Kind::Answer, stream, "nonsense")]).await;
    assert!(client.ask::<Stats>(&Request::Stats, LIMIT).await.is_err());
    let message = "\u{1b}[2Jowned";
    let refusal = serde_json::json!({ "code": "newer", "message": message }).to_string();
    let client = hostile(move |stream| vec![Frame::new(Kind::Refused, stream, refusal.clone())]).await;
    let error = client.ask::<()>(&Request::Ping, LIMIT).await.unwrap_err();
    assert!(!error.to_string().contains('\u{1b}'), "{error}");
    let client = hostile(|stream| {
        vec![
            Frame::new(Kind::Answer, stream, r#"{"pid":1}"#),
            Frame::new(Kind::Credit, stream, "18446744073709551615"),
            Frame::new(Kind::Credit, stream, "18446744073709551615"),
            Frame::new(Kind::Output, 999, "x"),
            Frame::new(Kind::Exit, stream, r#"{"code":0}"#),
        ]
    })
    .await;
    let running = client.exec(&sh("true"), LIMIT).await.unwrap();
    assert_eq!(all_of(running).await.2.code, Some(0));
}

/// Ends what an agent that was cut off could not end.
async fn end_of(pid: u32) {
    let pid_there = nix::unistd::Pid::from_raw(pid.cast_signed());
    let _ = nix::sys::signal::kill(pid_there, nix::sys::signal::Signal::SIGKILL);
    gone(pid).await;
}

async fn frames(line: &mut DuplexStream, many: usize) -> Vec<Frame> {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 4096];
    let mut all = Vec::new();
    let over = async {
        while all.len() < many {
            let read = line.read(&mut buffer).await.unwrap();
            all.extend(decoder.push(&buffer[..read]));
        }
    };
    tokio::time::timeout(LIMIT, over).await.expect("frames of the agent");
    all
}
