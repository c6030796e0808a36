//! How the agent gets into a virtual machine: as a file on the seed's disk, and a service that
//! the first boot makes of it.

use crate::iso::Iso;
use crate::seed::{LABEL, Seed, SeedFile};
use clawfarm_model::Result;

/// The agent's file on the seed's disk.
const FILE: &str = "clawfarm-guest";
/// Where it lies in the machine.
const PROGRAM: &str = "/usr/local/sbin/clawfarm-guest";
/// Where the seed's disk is looked into.
const FOLDER: &str = "/run/clawfarm-seed";

/// What the system starts when it boots: a link in there is all that `systemctl enable` makes.
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";
/// Starts it. `enable` and `daemon-reload` have all units read again, a second each where the processor
/// is emulated; systemd before 246 finds a new one only so.
const START: &str =
    "systemctl start --no-block clawfarm-guest.service || systemctl enable --now clawfarm-guest.service";

/// The service. What it runs for the host outlives it (`KillMode`), and it is the last that a
/// machine without memory ends. Where the host has no line for it, it is tried again now and
/// then: one may come with the next start.
const UNIT: &str = "\
[Unit]
Description=clawfarm's agent
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/local/sbin/clawfarm-guest
Restart=always
RestartSec=10
KillMode=process
OOMScoreAdjust=-900

[Install]
WantedBy=multi-user.target
";

/// Adds what the first boot has to do for the agent. It comes before the seed's other commands,
/// so that a failing one does not keep it out.
pub fn add_service(seed: &mut Seed) {
    seed.files.push(SeedFile {
        path: "/etc/systemd/system/clawfarm-guest.service".into(),
        mode: 0o644,
        contents: UNIT.into(),
    });
    let label = format!("LABEL={LABEL}");
    let from = format!("{FOLDER}/{FILE}");
    let commands: [&[&str]; 6] = [
        &["mkdir", "-p", FOLDER, WANTS],
        &["mount", "-o", "ro", &label, FOLDER],
        &["install", "-m", "0755", &from, PROGRAM],
        &["umount", FOLDER],
        &["ln", "-sf", "/etc/systemd/system/clawfarm-guest.service", WANTS],
        &["sh", "-c", START],
    ];
    let commands = commands.map(|words| words.iter().map(|&word| word.to_owned()).collect());
    seed.commands.splice(0..0, commands);
}

/// Adds the agent itself to the seed's disk.
///
/// # Errors
/// `InvalidInput` when it is larger than a file of such a disk can be.
pub fn add_program(iso: &mut Iso, program: Vec<u8>) -> Result<()> {
    iso.add(FILE, program, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_comes_before_all_else() {
        let mut seed = Seed {
            instance_id: "a".into(),
            hostname: "a".into(),
            authorized_key: "ssh-ed25519 AAAA".into(),
            host_key: None,
            files: Vec::new(),
            boot_commands: Vec::new(),
            commands: vec![vec!["own".into()]],
            packages: Vec::new(),
        };
        add_service(&mut seed);
        assert_eq!(seed.commands.last(), Some(&vec!["own".to_owned()]));
        assert_eq!(seed.commands[1], ["mount", "-o", "ro", "LABEL=cidata", "/run/clawfarm-seed"]);
        assert!(seed.files[0].contents.contains(&format!("ExecStart={PROGRAM}\n")));
        let mut iso = seed.iso().unwrap();
        add_program(&mut iso, b"\x7fELF".to_vec()).unwrap();
    }
}
