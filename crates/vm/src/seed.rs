//! What a first boot is told: cloud-init's source `NoCloud`.
//!
//! The settings are written as JSON, which is YAML as well: so quoting is done by a library and
//! no text of a user can become a setting.

use clawfarm_model::{Error, Result};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::iso::Iso;

/// The label by which cloud-init finds the disk.
pub const LABEL: &str = "cidata";

/// What a first boot is told.
#[derive(Clone, Debug)]
pub struct Seed {
    /// What tells this machine from others; with another one cloud-init begins anew.
    pub instance_id: String,
    /// What the machine is called.
    pub hostname: String,
    /// The key that may log in as root, as a line of `authorized_keys`.
    pub authorized_key: String,
    /// The machine's own key, so that it is known before it is met; made by itself when absent.
    pub host_key: Option<HostKey>,
    /// Files that are written at the first boot.
    pub files: Vec<SeedFile>,
    /// Commands of every boot, each as a program and its arguments, in order: before anything of a first
    /// one is done.
    pub boot_commands: Vec<Vec<String>>,
    /// Commands of the first boot, in the same form.
    pub commands: Vec<Vec<String>>,
    /// Packages that are installed when they are missing.
    pub packages: Vec<String>,
}

/// A machine's key for SSH, of the kind Ed25519.
#[derive(Clone, Debug)]
pub struct HostKey {
    /// In OpenSSH's own format.
    pub private: SecretString,
    /// As a line of `known_hosts` without the host.
    pub public: String,
}

/// A file that the first boot writes, root's.
#[derive(Clone, Debug)]
pub struct SeedFile {
    /// Where, absolute.
    pub path: String,
    /// Its permission bits, such as `0o644`.
    pub mode: u32,
    /// What is in it.
    pub contents: String,
}

impl Seed {
    /// The disk's files, `user-data` and `meta-data`; others may be added.
    ///
    /// # Errors
    /// `InvalidInput` on `hostname`, `authorized_key` or `files` for what can't be one.
    pub fn iso(&self) -> Result<Iso> {
        self.check()?;
        let mut iso = Iso::new(LABEL)?;
        iso.add("meta-data", document("", &self.meta_data())?, false)?;
        iso.add("user-data", document("#cloud-config\n", &self.user_data())?, false)?;
        Ok(iso)
    }

    fn check(&self) -> Result<()> {
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !(1..=63).contains(&self.hostname.len()) || !self.hostname.chars().all(label) {
            return Err(Error::invalid("hostname", "a machine's name has 1 to 63 of a-z, 0-9 and '-'"));
        }
        if self.authorized_key.contains(char::is_control) || !self.authorized_key.starts_with("ssh-") {
            return Err(Error::invalid("authorized_key", "the key is no line of authorized_keys"));
        }
        let relative = self.files.iter().find(|file| !file.path.starts_with('/') || file.path.contains('\0'));
        if let Some(file) = relative {
            let path = file.path.escape_default();
            return Err(Error::invalid("files", format!("'{path}' is no absolute path"))
                .fix("give the path in the virtual machine from / on"));
        }
        Ok(())
    }

    fn meta_data(&self) -> Value {
        json!({ "instance-id": self.instance_id, "local-hostname": self.hostname })
    }

    fn user_data(&self) -> Value {
        let files: Vec<Value> = self
            .files
            .iter()
            .map(|file| {
                json!({
                    "path": file.path,
                    "permissions": format!("{:04o}", file.mode & 0o7777),
                    "owner": "root:root",
                    "content": file.contents,
                })
            })
            .collect();
        let mut data = json!({
            "disable_root": false,
            "ssh_pwauth": false,
            "users": [{ "name": "root", "lock_passwd": true, "ssh_authorized_keys": [self.authorized_key] }],
            // What every system has: a Debian without others would try to make en_US, and fail.
            "locale": "C.UTF-8",
            "growpart": { "mode": "auto", "devices": ["/"] },
            "resize_rootfs": true,
            "write_files": files,
            "runcmd": self.commands,
        });
        if !self.boot_commands.is_empty() {
            data["bootcmd"] = json!(self.boot_commands);
        }
        if let Some(key) = &self.host_key {
            data["ssh_deletekeys"] = json!(true);
            data["ssh_keys"] =
                json!({ "ed25519_private": key.private.expose_secret(), "ed25519_public": key.public });
        }
        if !self.packages.is_empty() {
            data["packages"] = json!(self.packages);
            data["package_update"] = json!(true);
        }
        data
    }
}

fn document(head: &str, value: &Value) -> Result<Vec<u8>> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::internal("a seed can't be written", error))?;
    Ok(format!("{head}{text}\n").into_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seed() -> Seed {
        Seed {
            instance_id: "alice-x7k2".into(),
            hostname: "alice-x7k2".into(),
            authorized_key: "ssh-ed25519 AAAA clawfarm".into(),
            host_key: Some(HostKey {
                private: "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n".to_owned().into(),
                public: "ssh-ed25519 BBBB".into(),
            }),
            files: vec![SeedFile { path: "/etc/a".into(), mode: 0o600, contents: "b\n".into() }],
            boot_commands: vec![vec!["echo".into(), "boots".into()]],
            commands: vec![vec!["systemctl".into(), "start".into(), "x".into()]],
            packages: vec!["openssh-server".into()],
        }
    }

    /// `user-data` as its reader takes it, without its first line.
    fn told(seed: &Seed) -> Value {
        let text = document("#cloud-config\n", &seed.user_data()).unwrap();
        let text = String::from_utf8(text).unwrap();
        serde_json::from_str(text.strip_prefix("#cloud-config\n").expect("the first line")).unwrap()
    }

    #[test]
    fn a_first_boot_is_told_all() {
        let told = told(&seed());
        assert_eq!(told["users"][0]["ssh_authorized_keys"][0], "ssh-ed25519 AAAA clawfarm");
        assert_eq!(told["ssh_keys"]["ed25519_public"], "ssh-ed25519 BBBB");
        assert_eq!(told["write_files"][0]["permissions"], "0600");
        assert_eq!(told["runcmd"][0][1], "start");
        assert_eq!(told["bootcmd"][0][1], "boots");
        assert_eq!(told["packages"][0], "openssh-server");
        assert_eq!(told["ssh_pwauth"], false);
        seed().iso().unwrap();
        assert!(!format!("{:?}", seed()).contains("PRIVATE"), "a key is not shown");
    }

    #[test]
    fn what_is_no_setting_is_left_out() {
        let bare = Seed { host_key: None, packages: Vec::new(), boot_commands: Vec::new(), ..seed() };
        let told = told(&bare);
        for none in ["ssh_keys", "packages", "bootcmd"] {
            assert!(told.get(none).is_none(), "{none}");
        }
    }

    #[test]
    fn what_can_t_be_told_is_refused() {
        for (field, wrong) in [
            ("hostname", Seed { hostname: "a b".into(), ..seed() }),
            ("hostname", Seed { hostname: String::new(), ..seed() }),
            ("authorized_key", Seed { authorized_key: "ssh-x\nssh-y".into(), ..seed() }),
            ("authorized_key", Seed { authorized_key: "command=\"x\" ssh-x".into(), ..seed() }),
            (
                "files",
                Seed {
                    files: vec![SeedFile { path: "a".into(), mode: 0, contents: String::new() }],
                    ..seed()
                },
            ),
        ] {
            assert_eq!(wrong.iso().expect_err(field).field_name(), Some(field));
        }
    }

    proptest! {
        #[test]
        fn no_text_of_a_user_becomes_a_setting(contents in "\\PC{0,80}|[\\n:#{}'\"\\\\-]{0,40}", argument in any::<String>()) {
            let seed = Seed {
                files: vec![SeedFile { path: "/a".into(), mode: 0o644, contents: contents.clone() }],
                commands: vec![vec![argument.clone()]],
                ..seed()
            };
            let told = told(&seed);
            prop_assert_eq!(told["write_files"][0]["content"].as_str(), Some(contents.as_str()));
            prop_assert_eq!(told["runcmd"][0][0].as_str(), Some(argument.as_str()));
            let expected = super::tests::told(&super::tests::seed());
            prop_assert_eq!(told.as_object().unwrap().len(), expected.as_object().unwrap().len());
        }
    }
}
