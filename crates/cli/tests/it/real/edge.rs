//! The real OpenClaw behind the edge: its dashboard in a real browser, its API for programs, and
//! asleep until somebody comes.

use std::fs;
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use clawfarm_test_browser::Browser;
use clawfarm_test_docker::{DEBIAN, Engine};

use super::farm::{Farm, until};
use crate::nginx::Nginx;
use crate::support::finish_within;

const DOMAIN: &str = "claws.localhost";
/// How long the first start of a container on a machine may take: it builds the image.
const FIRST: Duration = Duration::from_secs(9 * 60);

#[test]
fn a_dashboard_and_programs_reach_a_claw_through_nginx_and_wake_it() {
    let mut nginx = Nginx::new(DOMAIN);
    let farm = Farm::new();
    let port = nginx.port.to_string();
    let edge =
        serve(&farm, &["--edge-trusted-proxy", "127.0.0.1", "--edge-public-port", &port, "--edge-paths"]);
    farm.run(&nginx.options(DOMAIN, edge).iter().map(String::as_str).collect::<Vec<_>>()).ends(0);
    nginx.start();
    let id = farm.new_claw("alice", &[]);

    let mut browser = Browser::new(&["--ignore-certificate-errors"]);
    chats(&farm, &mut browser, &id, &format!("https://{id}.{DOMAIN}:{port}/"));
    if let Some(file) = std::env::var_os("CLAWFARM_TEST_SCREENSHOT") {
        browser.screenshot(file.as_ref());
    }

    // A program: an answer in pieces, through nginx and the edge.
    let token = farm.run(&["token", "reveal", &id]).ends(0).out.trim().to_owned();
    let host = format!("{id}.{DOMAIN}");
    let streamed = completion(&nginx, &host, "", &token, "through the proxy");
    assert!(streamed.matches("data: ").count() > 2 && streamed.contains("data: [DONE]"), "{streamed}");
    assert!(streamed.contains("text/event-stream"), "{streamed}");
    // The same below the domain's own name, for those who have no wildcard.
    let below = completion(&nginx, DOMAIN, &format!("/c/{id}"), &token, "by its path");
    assert!(below.contains("data: [DONE]") && below.contains("content-security-policy: sandbox"), "{below}");
    let stranger = nginx.ask(&host, "/v1/models", "");
    assert!(stranger.starts_with("HTTP/1.1 401"), "{stranger}");

    // A page that is open asks again and again, and wakes it itself.
    browser.go("about:blank");
    wakes(&farm, &id, &|| completion(&nginx, &host, "", &token, "are you there?"));
    // Its person finds it as it was, and goes on.
    browser.go(&format!("https://{id}.{DOMAIN}:{port}/"));
    says(&mut browser, "and after the sleep");
}

#[test]
fn a_container_s_dashboard_is_reached_and_wakes_it() {
    if !Engine::possible() {
        return;
    }
    let engine = Engine::shared();
    engine.with_debian();
    // The server is where the engine is, as on any machine: in its network.
    engine.enter();
    let farm = Farm::new();
    let edge = serve(&farm, &[]);
    let socket = engine.socket();
    let socket = socket.to_str().expect("UTF-8");
    farm.run(&["target", "add", "docker", "--socket", socket, "--base-image", DEBIAN]).ends(0);
    let mut made =
        farm.command(&["new", "openclaw", "boxed", "--runtime", "docker", "--memory-mib", "2048", "--json"]);
    let made = finish_within(made.spawn().expect("it starts"), FIRST).ends(0).json();
    let id = made["instance"]["id"].as_str().expect("an id").to_owned();
    let mut browser = Browser::new(&[]);
    chats(&farm, &mut browser, &id, &format!("http://{id}.{DOMAIN}:{edge}/"));
    let token = farm.run(&["token", "reveal", &id]).ends(0).out.trim().to_owned();
    let host = format!("{id}.{DOMAIN}");
    browser.go("about:blank");
    wakes(&farm, &id, &|| {
        let stream = TcpStream::connect(("127.0.0.1", edge)).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("set");
        asked(stream, &host, "", &token, "are you there?")
    });
    farm.run(&["rm", &id, "--purge", "--force"]).ends(0);
}

/// A server in the foreground, ended with its home; the edge's port.
fn serve(farm: &Farm, more: &[&str]) -> u16 {
    let mut arguments = vec!["serve", "--base-domain", DOMAIN];
    arguments.extend(more);
    let mut command = farm.command(&arguments);
    let mut server = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    // It ends with its home.
    std::thread::spawn(move || server.wait());
    let file = farm.folder().join("edge.port");
    let port = || fs::read_to_string(&file).ok()?.trim().parse::<u16>().ok();
    until("the edge listens", || port().is_some_and(|port| TcpStream::connect(("127.0.0.1", port)).is_ok()));
    port().expect("it was there")
}

/// Opens a claw's dashboard as its person does, and talks to it over its WebSocket.
fn chats(farm: &Farm, browser: &mut Browser, id: &str, at: &str) {
    let opened = farm.run(&["open", id]).ends(0).out;
    assert!(opened.starts_with(at), "{opened} is not at {at}");
    browser.go(opened.trim());
    browser.until(
        "it is at the claw's own address",
        &format!("location.href.startsWith('{at}') && !location.href.includes('ticket')"),
    );
    says(browser, "hello from a browser");
}

fn says(browser: &mut Browser, text: &str) {
    // The page puts itself together while it loads, and what was typed meanwhile may be gone.
    let answer = format!("[clawfarm demo model] You said: {text}");
    let typed = serde_json::to_string(text).expect("text");
    browser.until("there is a place to write", &format!("!!({FIELD}) && !({FIELD}).disabled"));
    for _ in 0..6 {
        if !browser.text().contains(text) {
            browser.eval(&format!("({FIELD})?.focus()"));
            if browser.eval(&format!("({FIELD})?.value === {typed}")) != true {
                browser.type_text(text);
            }
            browser.press_enter();
        }
        if browser.comes(&answer, Duration::from_secs(30)) {
            return;
        }
    }
    browser.until_text(&answer);
}

/// The field of the chat, wherever its components have it.
const FIELD: &str = "(function f(n){const r=n.shadowRoot||n;const t=r.querySelector('textarea');if(t)return t;\
for(const c of r.querySelectorAll('*')){if(c.shadowRoot){const g=f(c);if(g)return g}}return null})(document)";

/// Sleeps, warm and then suspended, and is woken by a request each time.
fn wakes(farm: &Farm, id: &str, ask: &dyn Fn() -> String) {
    for (how, phase) in [(&["suspend", "--warm", id][..], "warm"), (&["suspend", id], "suspended")] {
        until("it is idle", || farm.run(how).code == Some(0));
        assert_eq!(farm.phase(id), phase);
        // On a machine with much else to do its own start may be too slow for its probe, which is
        // told, and the next request tries again.
        until(&format!("a request wakes it from {phase}"), || {
            let answer = ask();
            let answered = answer.contains("200 OK") && answer.contains("data: [DONE]");
            if !answered {
                assert!(answer.contains("HTTP/1.1 50") && answer.contains("\"fix\""), "{phase}: {answer}");
            }
            answered
        });
        farm.until_phase(id, "ready");
    }
}

fn completion(nginx: &Nginx, host: &str, prefix: &str, token: &str, text: &str) -> String {
    asked(nginx.connect(host), host, prefix, token, text)
}

/// The whole answer to a streamed completion.
fn asked(
    mut stream: impl std::io::Read + std::io::Write,
    host: &str,
    prefix: &str,
    token: &str,
    text: &str,
) -> String {
    let body = serde_json::json!({
        "model": "openclaw", "stream": true, "messages": [{ "role": "user", "content": text }],
    })
    .to_string();
    let head = format!(
        "POST {prefix}/v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}
