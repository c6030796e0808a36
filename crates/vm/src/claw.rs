//! How a claw runs in a virtual machine: as a service of its system, by what the host hands in at
//! each boot.

use crate::seed::{Seed, SeedFile};

/// Where its software is: a folder of the host, which nobody in the machine can write to.
pub const SOFTWARE: &str = "/opt/clawfarm/software";
/// Where its own log file goes.
pub const LOGS: &str = "/var/log/clawfarm";
/// What of the launch every command beside the claw gets, too: a shell's script that sets its
/// environment. In memory, root's alone.
pub const ENVIRONMENT: &str = "/run/clawfarm/environment";
/// The service's name.
pub const SERVICE: &str = "clawfarm-claw.service";

/// What the service runs.
const PROGRAM: &str = "/usr/local/sbin/clawfarm-claw";

/// Takes up what the host hands in: two scripts, with [`PARTED`] between them. They stay in
/// memory, because there are keys in them. A machine that goes on from its saved memory has them
/// there; what it was handed in then is for when its system is started anew, which empties `/run`.
///
/// The service waits for its folders already, where fstab has them. It does not in a machine whose first
/// boot was cut off before that was on the disk: there cloud-init may still mount them, and without them
/// a claw would write beside what is kept.
const SCRIPT: &str = r#"#!/bin/sh
set -eu
umask 077
left=120
for folder in FOLDERS; do
  until mountpoint -q -- "$folder"; do
    left=$((left - 1))
    if [ "$left" -lt 0 ]; then
      echo "clawfarm: $folder is not mounted, so the claw is not started" >&2
      exit 1
    fi
    sleep 1
  done
done
handed=/sys/firmware/qemu_fw_cfg/by_name/opt/clawfarm/launch/raw
mkdir -p /run/clawfarm /var/log/clawfarm
if ! [ -e /run/clawfarm/launch ]; then
  modprobe -q qemu_fw_cfg || true
  if ! [ -e "$handed" ]; then
    echo "clawfarm: the host handed in nothing to run; start this instance anew there: clawfarm restart" >&2
    exit 1
  fi
  cp "$handed" /run/clawfarm/handed
  # Up to the line that parts them, and from there.
  sed '/^#clawfarm-launch$/,$d' /run/clawfarm/handed >/run/clawfarm/environment
  sed '1,/^#clawfarm-launch$/d' /run/clawfarm/handed >/run/clawfarm/launch.new
  rm /run/clawfarm/handed
  mv /run/clawfarm/launch.new /run/clawfarm/launch
fi
. /run/clawfarm/environment
. /run/clawfarm/launch
"#;

/// The line between the two scripts that are handed in: no line of a quoted word can be this,
/// because [`hand_in`] refuses a value that has it.
const PARTED: &str = "#clawfarm-launch";

/// The service. It is the machine's system that starts a claw again which ended; one that ends
/// again and again ends the machine, and then it is whoever runs the fleet that decides.
const UNIT: &str = "\
[Unit]
Description=the claw that this machine is for
RequiresMountsFor=FOLDERS
After=network.target cloud-init.service
StartLimitIntervalSec=600
StartLimitBurst=5
StartLimitAction=poweroff

[Service]
Type=exec
ExecStart=/usr/local/sbin/clawfarm-claw
Restart=always
RestartSec=2
KillMode=mixed
TimeoutStopSec=45
StandardOutput=journal+console
StandardError=inherit

[Install]
WantedBy=multi-user.target
";

/// Adds the claw's service to what the first boot does. It begins when the machine's folders are
/// mounted: `mounted` is the number of the command that does that, and without one of `folders` it
/// is not started, because it would write beside what is kept.
pub fn add_service(seed: &mut Seed, mounted: usize, folders: &[&str]) {
    seed.files.push(SeedFile { path: PROGRAM.into(), mode: 0o755, contents: script(folders) });
    seed.files.push(SeedFile {
        path: format!("/etc/systemd/system/{SERVICE}"),
        mode: 0o644,
        contents: UNIT.replace("FOLDERS", &folders.join(" ")),
    });
    let start = ["systemctl", "enable", "--now", "--no-block", SERVICE].map(str::to_owned).to_vec();
    seed.commands.insert((mounted + 1).min(seed.commands.len()), start);
}

/// The program of the service, for a claw that is not started without `folders`.
fn script(folders: &[&str]) -> String {
    SCRIPT.replace("FOLDERS", &folders.join(" "))
}

/// What is handed in: the environment, then what is to run in which folder, each word quoted as
/// any POSIX shell takes it.
///
/// `None` for a word that would be taken for the line between the two.
#[must_use]
pub fn hand_in(environment: &[String], folder: &str, argv: &[String]) -> Option<String> {
    let run = format!("cd -- {folder}\nexec {}\n", argv.join(" "));
    let text = format!("{}\n{PARTED}\n{run}", environment.join("\n"));
    (text.lines().filter(|line| *line == PARTED).count() == 1).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_scripts_are_taken_by_a_shell_and_the_unit_by_systemd() {
        let script = script(&[SOFTWARE, "/root/.openclaw"]);
        assert!(script.contains("for folder in /opt/clawfarm/software /root/.openclaw; do\n"), "{script}");
        let checked = Command::new("/bin/sh").args(["-n", "-c", &script]).status().unwrap();
        assert!(checked.success());
        assert!(UNIT.contains(&format!("ExecStart={PROGRAM}\n")));
        assert!(SCRIPT.contains(LOGS));
        assert!(SCRIPT.contains(ENVIRONMENT));
    }

    #[test]
    fn what_is_handed_in_comes_apart_again() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let environment = ["export A='1\n2'".to_owned(), "export B='it'\\''s'".to_owned()];
        let argv = ["sh", "-c", "'printf %s \"$A|$B|$PWD\"'"].map(str::to_owned);
        let text = hand_in(&environment, "/", &argv).unwrap();
        std::fs::write(at("raw"), text).unwrap();
        // As in the machine, with other folders, and one that is mounted.
        let script = script(&["/"])
            .replace("/run/clawfarm", at("run").to_str().unwrap())
            .replace("/var/log/clawfarm", at("log").to_str().unwrap())
            .replace("/sys/firmware/qemu_fw_cfg/by_name/opt/clawfarm/launch/raw", at("raw").to_str().unwrap())
            .replace("modprobe -q qemu_fw_cfg", "true");
        let run = || Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
        let out = run();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "1\n2|it's|/", "{out:?}");
        // Again from what is there, when nothing is handed in any more.
        std::fs::remove_file(at("raw")).unwrap();
        assert_eq!(run().stdout, out.stdout);
        std::fs::remove_dir_all(at("run")).unwrap();
        let none = run();
        assert!(
            !none.status.success() && String::from_utf8_lossy(&none.stderr).contains("handed in nothing")
        );
        assert_eq!(hand_in(&["export A='\n#clawfarm-launch\n'".to_owned()], "/", &argv), None);
    }

    #[test]
    fn the_claw_begins_when_its_folders_are_there() {
        let mut seed = Seed {
            instance_id: "a".into(),
            hostname: "a".into(),
            authorized_key: "ssh-ed25519 AAAA".into(),
            host_key: None,
            files: Vec::new(),
            boot_commands: Vec::new(),
            commands: vec![vec!["mounts".into()], vec!["own".into()]],
            packages: Vec::new(),
        };
        add_service(&mut seed, 0, &[SOFTWARE, "/root/.openclaw"]);
        assert_eq!(seed.commands[0], ["mounts"]);
        assert_eq!(seed.commands[1][0], "systemctl");
        assert!(
            seed.files[1].contents.contains("\nRequiresMountsFor=/opt/clawfarm/software /root/.openclaw\n")
        );
    }
}
