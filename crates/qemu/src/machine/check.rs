//! What is refused before anything is started.

use std::collections::BTreeSet;
use std::path::Path;

use clawfarm_model::{Code, Error, Result};

use super::keyval::text;
use super::{CPUS, MAX_SOCKET, MEMORY_MIB, Machine, Serial};
use crate::found::Qemu;

impl Machine {
    /// Checks what can be checked without starting it.
    ///
    /// # Errors
    /// `InvalidInput` with the field, `Unsupported` where this QEMU lacks a device.
    pub fn check(&self, qemu: &Qemu) -> Result<()> {
        if !CPUS.contains(&self.cpus) {
            return Err(Error::invalid(
                "cpus",
                format!("a virtual machine can't have {} processors", self.cpus),
            )
            .fix(format!("give {} to {}", CPUS.start(), CPUS.end())));
        }
        if !MEMORY_MIB.contains(&self.memory_mib) {
            return Err(Error::invalid(
                "memory_mib",
                format!("a virtual machine can't have {} MiB of memory", self.memory_mib),
            )
            .fix(format!("give {} to {} MiB", MEMORY_MIB.start(), MEMORY_MIB.end())));
        }
        word("name", &self.name, 64)?;
        word("machine", &self.machine, 64)?;
        self.names()?;
        self.sockets()?;
        if let Some(network) = &self.network {
            network.check()?;
        }
        if let Some(cid) = self.vsock
            && !(3..u32::MAX).contains(&cid)
        {
            return Err(Error::invalid("vsock", format!("{cid} is no guest's number")).fix("use 3 or more"));
        }
        if let Some(generation) = &self.generation
            && !is_uuid(generation)
        {
            return Err(Error::invalid(
                "generation",
                format!("'{}' is no UUID", generation.escape_default()),
            ));
        }
        if let Serial::File(path) = &self.serial {
            text("serial", path)?;
        }
        let wanted = [
            (!self.shares.is_empty() || self.hotplug_slots > 0, "vhost-user-fs-pci"),
            (self.vsock.is_some(), "vhost-vsock-pci"),
            (self.generation.is_some(), "vmgenid"),
            (self.balloon, "virtio-balloon-pci"),
            (self.firmware_log.is_some(), "isa-debugcon"),
        ];
        match wanted.iter().find(|(wanted, name)| *wanted && !qemu.devices.contains(*name)) {
            None => Ok(()),
            Some((_, name)) => Err(Error::new(
                Code::Unsupported,
                format!("{} was built without the device {name}", qemu.path.display()),
            )
            .fix("install the distribution's whole QEMU (Debian, Ubuntu: qemu-system-x86)")),
        }
    }

    fn names(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        let disks = self.disks.iter().map(|disk| ("disks.id", disk.id.as_str(), 20));
        // 36 bytes are what the device's configuration has for a tag (virtio 1.2, 5.11.4).
        let shares = self.shares.iter().map(|share| ("shares.tag", share.tag.as_str(), 36));
        let channels = self.channels.iter().map(|channel| ("channels.name", channel.name.as_str(), 60));
        for (field, name, longest) in disks.chain(shares).chain(channels) {
            word(field, name, longest)?;
            if !seen.insert((field, name)) {
                return Err(
                    Error::invalid(field, format!("'{name}' is given twice")).fix("give each its own name")
                );
            }
        }
        Ok(())
    }

    fn sockets(&self) -> Result<()> {
        let shares = self.shares.iter().map(|share| ("shares.socket", share.socket.as_path()));
        let channels = self.channels.iter().map(|channel| ("channels.socket", channel.socket.as_path()));
        let power = self.power.iter().map(|path| ("power", path.as_path()));
        for (field, path) in shares.chain(channels).chain(power).chain([("qmp", self.qmp.as_path())]) {
            socket(field, path)?;
        }
        Ok(())
    }
}

impl super::Network {
    fn check(&self) -> Result<()> {
        let bytes: Vec<&str> = self.mac.split(':').collect();
        let hex = |b: &&str| b.len() == 2 && b.bytes().all(|b| b.is_ascii_hexdigit());
        let first = bytes.first().and_then(|b| u8::from_str_radix(b, 16).ok()).unwrap_or(1);
        if bytes.len() != 6 || !bytes.iter().all(hex) || first & 1 == 1 {
            return Err(Error::invalid(
                "network.mac",
                format!("'{}' is no address", self.mac.escape_default()),
            )
            .fix("use six bytes as 52:54:00:12:34:56, the first of them even"));
        }
        let mut seen = BTreeSet::new();
        for forward in &self.forwards {
            if forward.host == 0 || forward.guest == 0 {
                return Err(
                    Error::invalid("network.forwards", "port 0 can't be forwarded").fix("use 1 to 65535")
                );
            }
            if !seen.insert(forward.host) {
                return Err(Error::invalid(
                    "network.forwards",
                    format!("port {} of the host is given twice", forward.host),
                )
                .fix("give each port of the guest another port of the host"));
            }
        }
        Ok(())
    }
}

/// A name that means nothing else to QEMU or the guest.
fn word(field: &str, name: &str, longest: usize) -> Result<()> {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    // QEMU's names of devices begin with a letter.
    if plain && name.len() <= longest && name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err(Error::invalid(field, format!("'{}' can't be used", name.escape_default())).fix(format!(
        "use at most {longest} letters, digits, '-', '.' and '_', and begin with a letter or digit"
    )))
}

/// A path that a unix socket can have.
pub(crate) fn socket(field: &str, path: &Path) -> Result<()> {
    let name = text(field, path)?;
    if !path.is_absolute() || name.len() > MAX_SOCKET {
        return Err(Error::invalid(
            field,
            format!(
                "'{name}' can't be the path of a socket: it is relative, or longer than {MAX_SOCKET} bytes"
            ),
        )
        .fix("use a home with a shorter path"));
    }
    Ok(())
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<usize> = text.split('-').map(str::len).collect();
    parts == [8, 4, 4, 4, 12] && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::{Channel, Disk, Format, Forward, Network, Share};
    use super::*;
    use crate::found::Version;
    use crate::probe::Accelerator;

    fn qemu() -> Qemu {
        Qemu {
            path: "/usr/bin/q".into(),
            data: vec![],
            version: Version::new(10, 0, 0),
            machine: "pc-q35-10.0".into(),
            devices: ["vhost-user-fs-pci", "vmgenid"].map(str::to_owned).into(),
        }
    }

    fn refused(change: impl FnOnce(&mut Machine)) -> String {
        let mut machine = Machine::new(&qemu(), Accelerator::Tcg, "/run/qmp".into());
        machine.check(&qemu()).unwrap();
        change(&mut machine);
        let error = machine.check(&qemu()).unwrap_err();
        assert!(error.fix_text().is_some() || error.field_name() == Some("generation"), "{error}");
        error.field_name().unwrap_or("-").to_owned()
    }

    #[test]
    fn what_qemu_would_take_otherwise_is_refused() {
        let network = |mac: &str, forwards: &[(u16, u16)]| {
            let forwards = forwards.iter().map(|&(host, guest)| Forward { host, guest }).collect();
            Some(Network { mac: mac.into(), forwards, closed: false })
        };
        let mac = "52:54:00:00:00:01";
        assert_eq!(refused(|m| m.cpus = 0), "cpus");
        assert_eq!(refused(|m| m.memory_mib = 8), "memory_mib");
        assert_eq!(refused(|m| m.name = "a,process=b".into()), "name");
        assert_eq!(refused(|m| m.machine = "q35,accel=kvm".into()), "machine");
        assert_eq!(refused(|m| m.network = network("52:54:00:00:00", &[])), "network.mac");
        assert_eq!(refused(|m| m.network = network("53:54:00:00:00:01", &[])), "network.mac");
        assert_eq!(refused(|m| m.network = network(mac, &[(0, 22)])), "network.forwards");
        assert_eq!(refused(|m| m.network = network(mac, &[(80, 22), (80, 23)])), "network.forwards");
        assert_eq!(refused(|m| m.vsock = Some(2)), "vsock");
        assert_eq!(refused(|m| m.generation = Some("x".into())), "generation");
        assert_eq!(refused(|m| m.balloon = true), "-");
        assert_eq!(refused(|m| m.qmp = PathBuf::from(format!("/{}", "x".repeat(107)))), "qmp");
        assert_eq!(refused(|m| m.qmp = "relative".into()), "qmp");
        let share = |tag: &str| Share { tag: tag.into(), socket: "/run/s".into(), slot: None };
        assert_eq!(refused(|m| m.shares = vec![share("a"), share("a")]), "shares.tag");
        assert_eq!(refused(|m| m.shares = vec![share(&"a".repeat(37))]), "shares.tag");
        assert_eq!(
            refused(|m| m.channels = vec![Channel { name: "a b".into(), socket: "/s".into() }]),
            "channels.name"
        );
        let disk = Disk { id: "-x".into(), path: "/d".into(), format: Format::Raw, read_only: false };
        assert_eq!(refused(|m| m.disks = vec![disk]), "disks.id");
    }
}
