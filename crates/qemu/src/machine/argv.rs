//! The arguments, one after the other.

use clawfarm_model::Result;
use serde_json::{Value, json};

use super::keyval::{KeyVal, text};
use super::{Format, Machine, SHARE_QUEUE, Serial};
use crate::found::Qemu;
use crate::probe::Accelerator;

/// QEMU's seccomp filter, as strict as it gets. It refuses a change of the user
/// (`-run-with user=` ends in SIGSYS), so the starter changes it before it executes QEMU.
pub(crate) const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

impl Machine {
    /// QEMU's program and its arguments, after [`Self::check`].
    ///
    /// # Errors
    /// As for [`Self::check`].
    pub fn argv(&self, qemu: &Qemu) -> Result<Vec<String>> {
        self.check(qemu)?;
        let mut argv = vec![text("qemu", &qemu.path)?.to_owned()];
        let mut add = |option: &str, value: String| argv.extend([option.to_owned(), value]);
        for folder in &qemu.data {
            add("-L", text("qemu", folder)?.to_owned());
        }
        add("-name", KeyVal::new(&format!("guest={}", self.name)).with("debug-threads", "on").done());
        add("-machine", self.machine_option());
        add("-accel", accelerator(self.accelerator));
        add("-cpu", self.cpu().to_owned());
        add("-smp", self.cpus.to_string());
        add("-m", format!("{}M", self.memory_mib));
        // Memory that another process can map is what virtiofsd needs; it costs nothing without.
        let size = u64::from(self.memory_mib) << 20;
        add(
            "-object",
            json!({"qom-type": "memory-backend-memfd", "id": "ram", "size": size, "share": true}).to_string(),
        );
        add("-display", "none".into());
        add("-sandbox", SANDBOX.into());
        if self.tells_crash {
            // By itself it would end as one that was switched off.
            add("-action", "panic=exit-failure".into());
        }
        add("-msg", "timestamp=on".into());
        if let Some(path) = &self.pid_file {
            add("-pidfile", text("pid_file", path)?.to_owned());
        }
        let listen = |id: &str, path: &std::path::Path| -> Result<String> {
            let option = KeyVal::new("socket").with("id", id).with("path", text("socket", path)?);
            Ok(option.with("server", "on").with("wait", "off").done())
        };
        add("-chardev", listen("qmp", &self.qmp)?);
        add("-mon", "chardev=qmp,mode=control".into());
        if let Some(path) = &self.power {
            add("-chardev", listen("power", path)?);
            add("-mon", "chardev=power,mode=control".into());
        }
        add("-chardev", self.serial_option()?);
        add("-serial", "chardev:serial".into());
        if let Some(path) = &self.firmware_log {
            let option = KeyVal::new("file").with("id", "firmware").with("path", text("firmware_log", path)?);
            add("-chardev", option.with("append", "on").done());
        }
        for disk in &self.disks {
            add("-blockdev", blockdev(disk)?.to_string());
        }
        if let Some(network) = &self.network {
            // Without `guest-reset` a reboot of the guest keeps the forwarded ports.
            let mut option = KeyVal::new("user").with("id", "net0").with("ipv6", "off");
            option = option.with("restrict", if network.closed { "on" } else { "off" });
            for forward in &network.forwards {
                option = option.with("hostfwd", format!("tcp:127.0.0.1:{}-:{}", forward.host, forward.guest));
            }
            add("-netdev", option.done());
        }
        for share in &self.shares {
            let id = format!("chr-share-{}", share.tag);
            let option =
                KeyVal::new("socket").with("id", id).with("path", text("shares.socket", &share.socket)?);
            add("-chardev", option.done());
        }
        for channel in &self.channels {
            add("-chardev", listen(&format!("chr-port-{}", channel.name), &channel.socket)?);
        }
        for device in devices(self) {
            add("-device", device.to_string());
        }
        if let Some(path) = &self.launch {
            // By a file: an argument can be read by others.
            let option = KeyVal::new("name=opt/clawfarm/launch").with("file", text("launch", path)?);
            add("-fw_cfg", option.done());
        }
        if let Some(kernel) = &self.kernel {
            add("-kernel", text("kernel", &kernel.kernel)?.to_owned());
            if let Some(initrd) = &kernel.initrd {
                add("-initrd", text("initrd", initrd)?.to_owned());
            }
            add("-append", kernel.append.clone());
        }
        if self.incoming {
            add("-incoming", "defer".into());
        }
        argv.extend(["-nodefaults", "-no-user-config"].map(str::to_owned));
        if self.paused {
            argv.push("-S".into());
        }
        Ok(argv)
    }

    fn machine_option(&self) -> String {
        // No virtual floppy, mouse port, USB or VMware port: less that a guest can attack.
        KeyVal::new(&self.machine)
            .with("memory-backend", "ram")
            .with("usb", "off")
            .with("vmport", "off")
            .with("dump-guest-core", "off")
            .done()
    }

    fn serial_option(&self) -> Result<String> {
        Ok(match &self.serial {
            Serial::None => KeyVal::new("null").with("id", "serial").done(),
            Serial::Output => KeyVal::new("stdio").with("id", "serial").with("signal", "off").done(),
            Serial::File(path) => KeyVal::new("file")
                .with("id", "serial")
                .with("path", text("serial", path)?)
                .with("append", "on")
                .done(),
        })
    }
}

fn accelerator(accelerator: Accelerator) -> String {
    match accelerator {
        Accelerator::Kvm => "kvm".into(),
        // A thread for each processor; QEMU's default where it is safe, said so that it is.
        Accelerator::Tcg => "tcg,thread=multi".into(),
    }
}

fn blockdev(disk: &super::Disk) -> Result<Value> {
    let format = match disk.format {
        Format::Raw => "raw",
        Format::Qcow2 => "qcow2",
    };
    // Locked by QEMU, so that no second machine writes to it. What the guest discards is given
    // back to the host's disk.
    Ok(json!({
        "driver": format, "node-name": format!("blk-{}", disk.id), "read-only": disk.read_only,
        "discard": "unmap",
        "file": {"driver": "file", "filename": text("disks.path", &disk.path)?, "locking": "auto",
                 "discard": "unmap"},
    }))
}

/// The devices, each at a place of its own choosing in the order in which they come: the order
/// is part of [`Machine::shape`].
pub(super) fn devices(machine: &Machine) -> Vec<Value> {
    let mut devices = Vec::new();
    for (slot, chassis) in (0..machine.hotplug_slots).zip(1u16..) {
        devices.push(json!({"driver": "pcie-root-port", "id": format!("slot{slot}"), "chassis": chassis}));
    }
    for (index, disk) in (1u16..).zip(&machine.disks) {
        let mut device = json!({
            "driver": "virtio-blk-pci", "id": format!("disk-{}", disk.id), "drive": format!("blk-{}", disk.id),
            "serial": disk.id,
        });
        if !disk.read_only {
            // What can't be written now (a full disk above all) stops the machine instead of being
            // an error in it, which its file systems would not get over. QEMU's own default does so
            // for "no space" alone, not for a quota. What can't be read is told to the guest: it
            // may do without, and stopped it could not even be switched off.
            device["werror"] = "stop".into();
            device["rerror"] = "report".into();
        }
        if machine.kernel.is_none() {
            device["bootindex"] = index.into();
        }
        devices.push(device);
    }
    if let Some(network) = &machine.network {
        // Without a ROM to boot from the network by.
        devices.push(json!({
            "driver": "virtio-net-pci", "id": "nic0", "netdev": "net0", "mac": network.mac, "romfile": "",
        }));
    }
    devices.push(json!({"driver": "virtio-rng-pci", "id": "rng0"}));
    if machine.tells_crash {
        // Before what not every machine has as many of, so that its place is the same in a machine that is
        // restored with other folders.
        devices.push(json!({"driver": "pvpanic-pci", "id": "crash0"}));
    }
    if !machine.channels.is_empty() {
        devices.push(json!({"driver": "virtio-serial-pci", "id": "ports0"}));
    }
    for (number, channel) in (1u16..).zip(&machine.channels) {
        devices.push(json!({
            "driver": "virtserialport", "id": format!("port-{}", channel.name), "bus": "ports0.0", "nr": number,
            "chardev": format!("chr-port-{}", channel.name), "name": channel.name,
        }));
    }
    for share in &machine.shares {
        let mut device = json!({
            "driver": "vhost-user-fs-pci", "id": format!("share-{}", share.tag),
            "chardev": format!("chr-share-{}", share.tag), "tag": share.tag, "queue-size": SHARE_QUEUE,
        });
        if let Some(slot) = share.slot {
            device["bus"] = format!("slot{slot}").into();
        }
        devices.push(device);
    }
    if let Some(cid) = machine.vsock {
        devices.push(json!({"driver": "vhost-vsock-pci", "id": "vsock0", "guest-cid": cid}));
    }
    if machine.balloon {
        devices.push(json!({
            "driver": "virtio-balloon-pci", "id": "balloon0", "free-page-reporting": true,
        }));
    }
    if let Some(generation) = &machine.generation {
        devices.push(json!({"driver": "vmgenid", "id": "generation0", "guid": generation}));
    }
    if machine.firmware_log.is_some() {
        devices.push(
            json!({"driver": "isa-debugcon", "id": "firmware0", "iobase": 0x402, "chardev": "firmware"}),
        );
    }
    devices
}

/// A device without what may differ when its machine is restored.
pub(super) fn shape_of(mut device: Value) -> Value {
    if let Some(device) = device.as_object_mut() {
        device.remove("guid");
        device.remove("guest-cid");
        // What QEMU does about the host's errors.
        device.remove("werror");
        device.remove("rerror");
    }
    device
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::{Disk, Forward, Network, Share};
    use super::*;
    use crate::found::Version;

    fn qemu() -> Qemu {
        Qemu {
            path: "/usr/bin/qemu-system-x86_64".into(),
            data: vec![],
            version: Version::new(10, 0, 0),
            machine: "pc-q35-10.0".into(),
            devices: ["vhost-user-fs-pci", "vmgenid"].map(str::to_owned).into(),
        }
    }

    fn machine() -> Machine {
        let mut machine = Machine::new(&qemu(), Accelerator::Tcg, "/run/a,server=off/qmp".into());
        machine.disks = vec![Disk {
            id: "root".into(),
            path: "/images/a,read-only=on\",\"x.img".into(),
            format: Format::Qcow2,
            read_only: false,
        }];
        machine.shares = vec![Share { tag: "data".into(), socket: "/run/data.sock".into(), slot: None }];
        machine.network = Some(Network {
            mac: "52:54:00:12:34:56".into(),
            forwards: vec![Forward { host: 40022, guest: 22 }, Forward { host: 40080, guest: 80 }],
            closed: false,
        });
        machine
    }

    fn after<'a>(argv: &'a [String], option: &str) -> Vec<&'a str> {
        argv.windows(2).filter(|w| w[0] == option).map(|w| w[1].as_str()).collect()
    }

    #[test]
    fn paths_stay_paths() {
        let argv = machine().argv(&qemu()).unwrap();
        assert!(after(&argv, "-chardev")[0].contains("path=/run/a,,server=off/qmp,server=on"), "{argv:?}");
        let disk: Value = serde_json::from_str(after(&argv, "-blockdev")[0]).unwrap();
        assert_eq!(disk["file"]["filename"], "/images/a,read-only=on\",\"x.img");
        assert_eq!(disk["read-only"], false);
    }

    #[test]
    fn ports_are_on_loopback_and_the_sandbox_is_on() {
        let argv = machine().argv(&qemu()).unwrap();
        assert_eq!(
            after(&argv, "-netdev"),
            [
                "user,id=net0,ipv6=off,restrict=off,hostfwd=tcp:127.0.0.1:40022-:22,hostfwd=tcp:127.0.0.1:40080-:80"
            ]
        );
        assert_eq!(after(&argv, "-sandbox"), [SANDBOX]);
        assert!(argv.contains(&"-nodefaults".to_owned()) && argv.contains(&"-no-user-config".to_owned()));
    }

    #[test]
    fn a_crash_is_told_where_qemu_has_the_device() {
        let without = machine();
        assert!(after(&without.argv(&qemu()).unwrap(), "-action").is_empty());
        let mut qemu = qemu();
        qemu.devices.insert("pvpanic-pci".into());
        let mut with =
            Machine { disks: without.disks.clone(), ..Machine::new(&qemu, Accelerator::Tcg, "/q".into()) };
        let argv = with.argv(&qemu).unwrap();
        assert_eq!(after(&argv, "-action"), ["panic=exit-failure"]);
        let place = |machine: &Machine| {
            devices(machine).iter().position(|device| device["driver"] == "pvpanic-pci").unwrap()
        };
        let before = place(&with);
        with.shares = without.shares;
        assert_eq!(place(&with), before);
    }

    #[test]
    fn the_shape_knows_devices_and_not_places() {
        let shape = machine().shape();
        let with = |change: fn(&mut Machine)| {
            let mut other = machine();
            change(&mut other);
            other.shape()
        };
        assert_eq!(shape, with(|m| m.qmp = "/elsewhere".into()));
        assert_eq!(shape, with(|m| m.disks[0].path = PathBuf::from("/elsewhere")));
        assert_eq!(shape, with(|m| m.network.as_mut().unwrap().forwards.clear()));
        assert_ne!(shape, with(|m| m.network.as_mut().unwrap().mac = "52:54:00:12:34:57".into()));
        assert_ne!(shape, with(|m| m.shares[0].tag = "other".into()));
        assert_ne!(shape, with(|m| m.memory_mib += 1));
        assert_ne!(shape, with(|m| m.balloon = true));
        let generation = |text: &'static str| {
            let mut other = machine();
            other.generation = Some(text.into());
            other.shape()
        };
        assert_eq!(
            generation("00000000-0000-0000-0000-000000000001"),
            generation("00000000-0000-0000-0000-000000000002")
        );
    }
}
