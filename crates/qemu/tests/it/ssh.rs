//! The real ssh against a real sshd.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clawfarm_model::Code;
use clawfarm_qemu::ssh::{Ended, Key, Ssh, known_host, login_bash};
use tempfile::TempDir;

use crate::support::{LIMIT, Process, free_port};

struct Guest {
    folder: TempDir,
    ssh: Ssh,
    _sshd: Process,
    // It reads the keys at each connection.
    _plain: TempDir,
}

fn sshd(folder: &Path, port: u16) -> Process {
    let config = format!(
        "ListenAddress 127.0.0.1\nPort {port}\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\n\
         PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n",
        folder.display()
    );
    let configuration = folder.join("config");
    std::fs::write(&configuration, config).unwrap();
    let argv = ["/usr/sbin/sshd", "-D", "-e", "-f", configuration.to_str().unwrap()].map(str::to_owned);
    Process::start(&argv, &folder.join("log"))
}

fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

impl Guest {
    async fn new() -> Self {
        // Where ssh would expand or split a path that is not quoted.
        let folder = tempfile::Builder::new().prefix("cf q%h~").tempdir_in("/tmp").unwrap();
        let at = |name: &str| folder.path().join(name);
        let (host, user) = (Key::make("guest").unwrap(), Key::make("clawfarm").unwrap());
        write_private(&at("host"), &host.private);
        write_private(&at("identity"), &user.private);
        write_private(&at("authorized"), &user.public);
        write_private(&at("known"), &known_host("clawfarm-test", &host.public).unwrap());
        let name = crate::support::is_root().then(|| "root".to_owned());
        let name = name.unwrap_or_else(|| std::env::var("USER").unwrap());
        if crate::support::is_root() {
            // Its service makes it; sshd does not begin without.
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        // sshd expands `%` here, and has no quotes for some options: it gets paths without.
        let plain = tempfile::Builder::new().prefix("cfsshd").tempdir_in("/tmp").unwrap();
        for file in ["host", "authorized"] {
            std::fs::copy(at(file), plain.path().join(file)).unwrap();
        }
        for _ in 0..10 {
            let port = free_port();
            let mut sshd = sshd(plain.path(), port);
            let ssh = Ssh {
                program: Ssh::find().unwrap(),
                port,
                user: name.clone(),
                identity: at("identity"),
                known_hosts: at("known"),
                alias: "clawfarm-test".into(),
            };
            // It ends at once when somebody took the port in between.
            let messages = at("messages");
            tokio::select! {
                answers = ssh.answers(LIMIT, &messages) => match answers {
                    Ok(()) => return Self { folder, ssh, _plain: plain, _sshd: sshd },
                    Err(error) => {
                        panic!("{error}: {}", std::fs::read_to_string(plain.path().join("log")).unwrap())
                    }
                },
                () = sshd.ended_sometime() => {}
            }
        }
        panic!("no sshd starts: {}", std::fs::read_to_string(plain.path().join("log")).unwrap());
    }

    fn messages(&self) -> PathBuf {
        self.folder.path().join("messages")
    }

    fn client(&self, line: &str, tty: bool) -> Command {
        let argv = self.ssh.argv(line, tty, &self.messages()).unwrap();
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

#[tokio::test]
async fn commands_arrive_as_they_were_typed() {
    let guest = Guest::new().await;
    let texts = ["", "it's", "a  b", "$HOME `id` \"x\" \\ !", "-n", "line\nline", "é漢 \u{1f980}", "*", "~"];
    let words: Vec<String> = texts.iter().map(|text| clawfarm_qemu::ssh::posix_word(text).unwrap()).collect();
    let line = login_bash(&format!("printf '%s|' {}", words.join(" "))).unwrap();
    let (ended, out) = guest.ssh.output(&line, &guest.messages()).await.unwrap();
    let expected = texts.map(|text| format!("{text}|")).concat();
    assert_eq!((ended, String::from_utf8(out).unwrap()), (Ended::Code(0), expected), "{line}");
}

#[tokio::test]
async fn codes_and_both_streams_come_back_apart() {
    let guest = Guest::new().await;
    // A command may end with the code that ssh takes for its own.
    for code in [0, 7, 255] {
        let line = login_bash(&format!("echo out; echo err >&2; exit {code}")).unwrap();
        let said = guest.client(&line, false).output().unwrap();
        assert_eq!((said.stdout.as_slice(), said.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!(guest.ssh.ended(said.status, &guest.messages()).await.unwrap(), Ended::Code(code));
    }
    let mut cat = guest.client("cat; exit 3", false).stdin(Stdio::piped()).spawn().unwrap();
    cat.stdin.take().unwrap().write_all(&[0, 255, b'\n']).unwrap();
    let said = cat.wait_with_output().unwrap();
    assert_eq!((said.stdout, said.status.code()), (vec![0, 255, b'\n'], Some(3)));
}

/// The command waits for a file that is made once its first line was read.
#[tokio::test]
async fn output_comes_while_the_command_runs() {
    let guest = Guest::new().await;
    let seen = tempfile::tempdir().unwrap();
    let line = login_bash(&format!(
        "echo first; for i in $(seq 600); do [ -e {0} ] && exit 5; sleep 0.1; done; exit 6",
        seen.path().join("seen").display()
    ))
    .unwrap();
    let mut running = guest.client(&line, false).spawn().unwrap();
    let mut out = BufReader::new(running.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    assert_eq!(first, "first\n");
    std::fs::write(seen.path().join("seen"), "").unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(5));
}

/// A command that asks, in a terminal of its own: `script` gives ssh one.
#[tokio::test]
async fn a_command_in_a_terminal_can_ask() {
    let guest = Guest::new().await;
    let line =
        login_bash("test -t 0 && test -t 1 && read -p 'name? ' name && echo \"hello $name\" && exit 9")
            .unwrap();
    let argv = guest.ssh.argv(&line, true, &guest.messages()).unwrap();
    let words: Vec<String> = argv.iter().map(|word| clawfarm_qemu::ssh::posix_word(word).unwrap()).collect();
    let mut script = Command::new("script")
        .args(["-q", "-e", "-c", &words.join(" "), "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = script.stdin.take().unwrap();
    let mut output = script.stdout.take().unwrap();
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(b"name? ") && output.read(&mut byte).unwrap() == 1 {
        said.extend(byte);
    }
    input.write_all(b"crab\n").unwrap();
    output.read_to_end(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said);
    drop(input);
    assert_eq!(script.wait().unwrap().code(), Some(9), "{said}");
    assert!(said.contains("name? ") && said.contains("hello crab"), "{said}");
}

#[tokio::test]
async fn another_host_than_the_pinned_one_is_refused_at_once() {
    let guest = Guest::new().await;
    let other = Key::make("other").unwrap();
    write_private(&guest.ssh.known_hosts, &known_host("clawfarm-test", &other.public).unwrap());
    let error = guest.ssh.answers(LIMIT, &guest.messages()).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("port")), "{error}");
    // Nor one that is not known at all: nobody is asked.
    write_private(&guest.ssh.known_hosts, "");
    let error = guest.ssh.output("true", &guest.messages()).await.unwrap_err();
    assert_eq!(error.code(), Code::Conflict, "{error}");
}

#[tokio::test]
async fn a_key_that_is_not_let_in_and_a_guest_that_is_not_there_are_told() {
    let guest = Guest::new().await;
    write_private(&guest.ssh.identity, &Key::make("other").unwrap().private);
    let (ended, _) = guest.ssh.output("true", &guest.messages()).await.unwrap();
    assert!(matches!(&ended, Ended::Lost(why) if why.contains("Permission denied")), "{ended:?}");
    let mut nobody = guest.ssh.clone();
    nobody.port = free_port();
    let error = nobody.answers(Duration::from_millis(500), &guest.messages()).await.unwrap_err();
    assert_eq!(error.code(), Code::Timeout, "{error}");
}
