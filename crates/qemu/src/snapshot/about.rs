//! What a snapshot says of itself, and whether it fits.

use clawfarm_model::{Code, Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::found::Version;
use crate::machine::Shape;
use crate::probe::Accelerator;
use crate::qmp::Stream;

/// The version of this description. A field added later is optional; a change of meaning
/// raises it.
const FORMAT: u32 = 1;

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The version of this description.
    pub format: u32,
    /// The QEMU that wrote it.
    pub qemu: Version,
    /// How bytes lie in the memory's file.
    pub stream: Stream,
    /// The machine.
    pub shape: Shape,
    /// The processor it ran on, where its own is passed through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_cpu: Option<String>,
    /// Size of the memory's file, in bytes, holes counted.
    pub bytes: u64,
    /// When it was written.
    pub saved_at: Timestamp,
}

impl About {
    pub(super) fn new(qemu: Version, stream: Stream, shape: Shape, bytes: u64) -> Self {
        let host_cpu = host_cpu(shape.accelerator);
        Self { format: FORMAT, qemu, stream, shape, host_cpu, bytes, saved_at: Timestamp::now() }
    }

    /// Whether a machine of this shape, run by this QEMU here, can go on from it.
    ///
    /// # Errors
    /// `Unsupported` with what differs.
    pub fn fits(&self, qemu: Version, shape: &Shape) -> Result<()> {
        let mine = &self.shape;
        let differs = |what: &str, then: &dyn std::fmt::Display, now: &dyn std::fmt::Display| {
            Err(Error::new(
                Code::Unsupported,
                format!("the saved memory does not fit: {what} was {then} and is {now}"),
            )
            .field("snapshot")
            .fix("the machine is started anew instead: its disk is as it was when it was suspended"))
        };
        if self.format != FORMAT {
            return differs("its description", &self.format, &FORMAT);
        }
        // Within a version's patches QEMU changes no device; a newer version can be told to be
        // the older machine, but `max` and `host` name other processors in each.
        if (self.qemu.major, self.qemu.minor) != (qemu.major, qemu.minor) {
            return differs("QEMU's version", &self.qemu, &qemu);
        }
        if mine.machine != shape.machine {
            return differs("the machine's type", &mine.machine, &shape.machine);
        }
        if mine.accelerator != shape.accelerator {
            return differs("the accelerator", &name(mine.accelerator), &name(shape.accelerator));
        }
        if mine.cpu != shape.cpu {
            return differs("the processor's model", &mine.cpu, &shape.cpu);
        }
        if mine.cpus != shape.cpus {
            return differs("the number of processors", &mine.cpus, &shape.cpus);
        }
        if mine.memory_mib != shape.memory_mib {
            return differs("the memory in MiB", &mine.memory_mib, &shape.memory_mib);
        }
        if mine.devices != shape.devices {
            return differs("the set of devices", &"another", &"changed");
        }
        let (then, now) = (&self.host_cpu, &host_cpu(shape.accelerator));
        if then != now {
            let shown = |cpu: &Option<String>| cpu.clone().unwrap_or_else(|| "unknown".into());
            return differs("the host's processor", &shown(then), &shown(now));
        }
        Ok(())
    }
}

const fn name(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "KVM",
        Accelerator::Tcg => "the emulator",
    }
}

/// The host's processor, where the guest sees it: with KVM. The emulator's is the same anywhere.
fn host_cpu(accelerator: Accelerator) -> Option<String> {
    match accelerator {
        Accelerator::Tcg => None,
        Accelerator::Kvm => std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| of_cpuinfo(&text)),
    }
}

/// Model and features of the first processor, the features as a short hash.
fn of_cpuinfo(text: &str) -> Option<String> {
    use sha2::{Digest, Sha256};
    let first = text.split("\n\n").next()?;
    let value = |key: &str| {
        first.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then(|| value.trim().to_owned())
        })
    };
    let numbers = ["cpu family", "model", "stepping"].map(|key| value(key).unwrap_or_default()).join("/");
    let flags = Sha256::digest(value("flags")?);
    let flags: String = flags.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    Some(format!("{} ({numbers}, features {flags})", value("model name")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape {
            machine: "pc-q35-10.0".into(),
            accelerator: Accelerator::Tcg,
            cpu: "max".into(),
            cpus: 2,
            memory_mib: 512,
            devices: "abc".into(),
        }
    }

    #[test]
    fn each_difference_is_named() {
        let qemu = Version::new(10, 0, 2);
        let about = About::new(qemu, Stream::MappedRam, shape(), 1);
        about.fits(Version::new(10, 0, 7), &shape()).unwrap();
        let differs = |change: fn(&mut Shape)| {
            let mut other = shape();
            change(&mut other);
            about.fits(qemu, &other).unwrap_err().message().to_owned()
        };
        assert!(differs(|s| s.machine = "pc-q35-9.2".into()).contains("pc-q35-10.0 and is pc-q35-9.2"));
        assert!(differs(|s| s.accelerator = Accelerator::Kvm).contains("the emulator and is KVM"));
        assert!(differs(|s| s.cpu = "host".into()).contains("model"));
        assert!(differs(|s| s.cpus = 1).contains("was 2 and is 1"));
        assert!(differs(|s| s.memory_mib = 1).contains("512"));
        assert!(differs(|s| s.devices = "b".into()).contains("devices"));
        let error = about.fits(Version::new(10, 1, 0), &shape()).unwrap_err();
        assert!(error.message().contains("10.0.2 and is 10.1.0") && error.fix_text().is_some(), "{error}");
        let mut other = about.clone();
        other.host_cpu = Some("another".into());
        assert!(other.fits(qemu, &shape()).unwrap_err().message().contains("host's processor"));
        other = about;
        other.format = 2;
        assert!(other.fits(qemu, &shape()).unwrap_err().message().contains("description"));
    }

    #[test]
    fn a_processor_is_told_by_model_and_features() {
        let text = "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Xeon\nstepping\t: 7\n\
                    flags\t\t: fpu vme\n\nprocessor\t: 1\nflags\t: other\n";
        let cpu = of_cpuinfo(text).unwrap();
        assert!(cpu.starts_with("Xeon (6/85/7, features ") && cpu.len() == 32, "{cpu}");
        assert_ne!(of_cpuinfo(&text.replace("fpu vme", "fpu")), Some(cpu));
        assert_eq!(of_cpuinfo(""), None);
    }
}
