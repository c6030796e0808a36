//! What a virtual machine is asked to be, beside what every instance is.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::error::{Error, Result};
use crate::vm_image::VmImageReference;

/// What is wanted of a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// The image that its disk is made of.
    pub image: VmImageReference,
    /// The size of its disk, in GiB; the image's own, or a larger one that the runtime chooses,
    /// when absent. Never smaller than the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2048)]
    pub disk_gib: Option<u32>,
    /// Folders of its own on the host that it sees as its own, in the order in which they are
    /// mounted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 16)]
    pub volumes: Vec<VolumeMount>,
    /// A folder of the host, absolute, that it sees as [`VmSpec::WORKSPACE`]; mounted before the
    /// volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^/[^\\u0000]*$", max_length = 4096)]
    pub workspace: Option<String>,
    /// Ports of the host's loopback device that lead to ports of the machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub publish: Vec<PublishedPort>,
    /// Commands that set it up: each run once, in order, by root with `bash -lc`, after the first
    /// boot. They are kept and shown as they are, so a secret has no place in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64, schema_with = setup_schema)]
    pub setup: Vec<String>,
    /// It is restored from a base snapshot of its image (`clawfarm image warm`) instead of booted. Its
    /// processors and its memory are the snapshot's then, and so is the size of its disk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_snapshot: bool,
}

impl VmSpec {
    /// Where the workspace is mounted.
    pub const WORKSPACE: &str = "/workspace";
    /// Smallest and largest disk, in GiB: 2 TiB is also the largest image that is taken in.
    pub const DISK_GIB: (u32, u32) = (1, 2048);
    /// The least memory that a distribution's cloud image boots with, in MiB.
    pub const MEMORY_MIN_MIB: u32 = 256;
    /// Most volumes: each is a process of the host.
    pub const VOLUMES_MAX: usize = 16;
    /// Most published ports.
    pub const PUBLISH_MAX: usize = 64;
    /// Most commands that set a machine up.
    pub const SETUP_MAX: usize = 64;
    /// The longest of those, in bytes. Linux takes arguments of 128 KiB, and a `'` is four bytes
    /// where it is quoted.
    pub const SETUP_LEN: usize = 16 * 1024;

    /// A machine of an image, and nothing beside it.
    #[must_use]
    pub const fn new(image: VmImageReference) -> Self {
        Self {
            image,
            disk_gib: None,
            volumes: Vec::new(),
            workspace: None,
            publish: Vec::new(),
            setup: Vec::new(),
            from_snapshot: false,
        }
    }

    /// Checks what can be checked without the host and the image.
    ///
    /// # Errors
    /// Names the field: `vm.disk_gib`, `vm.volumes[1].guest` and so on.
    pub fn check(&self) -> Result<()> {
        let (least, most) = Self::DISK_GIB;
        if let Some(size) = self.disk_gib.filter(|size| !(least..=most).contains(size)) {
            return Err(Error::invalid("vm.disk_gib", format!("a disk can't have {size} GiB"))
                .fix(format!("give {least} to {most} GiB, or leave it out for what the image needs")));
        }
        if self.from_snapshot && self.disk_gib.is_some() {
            return Err(Error::invalid(
                "vm.disk_gib",
                "a machine from a base snapshot has the snapshot's disk",
            )
            .fix("leave the size out, or make the machine without a snapshot"));
        }
        self.check_workspace()?;
        self.check_volumes()?;
        self.check_publish()?;
        self.check_setup()
    }

    fn check_workspace(&self) -> Result<()> {
        let Some(folder) = &self.workspace else { return Ok(()) };
        if !folder.starts_with('/') || folder.len() > 4096 || folder.contains('\0') {
            return Err(Error::invalid("vm.workspace", format!("'{}' is no absolute path", shown(folder)))
                .fix("give the whole path of a folder on the host"));
        }
        Ok(())
    }

    fn check_volumes(&self) -> Result<()> {
        few("vm.volumes", self.volumes.len(), Self::VOLUMES_MAX)?;
        let workspace = self.workspace.as_ref().map(|_| GuestPath(Self::WORKSPACE.to_owned()));
        let mut mounted: Vec<(&GuestPath, String)> = Vec::new();
        mounted.extend(workspace.as_ref().map(|path| (path, "the workspace".to_owned())));
        for (at, volume) in self.volumes.iter().enumerate() {
            let earlier = &self.volumes[..at];
            if earlier.iter().any(|other| other.name == volume.name) {
                return Err(Error::invalid(
                    format!("vm.volumes[{at}].name"),
                    format!("there are two volumes named '{}'", volume.name),
                )
                .fix("give each volume a name of its own"));
            }
            for (path, what) in &mounted {
                let refuse = |why: String, fix: &str| {
                    Err(Error::invalid(format!("vm.volumes[{at}].guest"), why).fix(fix))
                };
                if *path == &volume.guest {
                    return refuse(
                        format!("{what} is at '{path}' already"),
                        "give each a path of its own in the machine",
                    );
                }
                if path.is_within(&volume.guest) {
                    return refuse(
                        format!(
                            "'{}' would hide {what} at '{path}', which is mounted before it",
                            volume.guest
                        ),
                        "give the outer volume before the inner one",
                    );
                }
            }
            mounted.push((&volume.guest, format!("the volume '{}'", volume.name)));
        }
        Ok(())
    }

    fn check_publish(&self) -> Result<()> {
        few("vm.publish", self.publish.len(), Self::PUBLISH_MAX)?;
        let mut taken = BTreeMap::new();
        for (at, port) in self.publish.iter().enumerate() {
            let zero = [("host", port.host), ("guest", port.guest)].into_iter().find(|(_, port)| *port == 0);
            if let Some((side, _)) = zero {
                return Err(Error::invalid(format!("vm.publish[{at}].{side}"), "0 is no port")
                    .fix("give a port from 1 to 65535 on either side, such as 8080:80"));
            }
            if let Some(guest) = taken.insert(port.host, port.guest) {
                return Err(Error::invalid(
                    format!("vm.publish[{at}].host"),
                    format!("the host's port {} leads to the machine's port {guest} already", port.host),
                )
                .fix("give another port of the host"));
            }
        }
        Ok(())
    }

    fn check_setup(&self) -> Result<()> {
        few("vm.setup", self.setup.len(), Self::SETUP_MAX)?;
        for (at, command) in self.setup.iter().enumerate() {
            let refuse =
                |why: String, fix: &str| Err(Error::invalid(format!("vm.setup[{at}]"), why).fix(fix));
            if command.trim().is_empty() {
                return refuse("the command is empty".to_owned(), "leave it out, or say what is to be run");
            }
            if command.len() > Self::SETUP_LEN {
                return refuse(
                    format!("the command has {} bytes", command.len()),
                    "give at most 16 KiB: put a script into a volume or the workspace, and run that",
                );
            }
            if command.contains('\0') {
                return refuse(
                    "the command contains a NUL byte".to_owned(),
                    "remove it: no program takes one",
                );
            }
        }
        Ok(())
    }
}

/// The description of [`VmSpec::setup`].
fn setup_schema() -> utoipa::openapi::RefOr<Schema> {
    let command = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(VmSpec::SETUP_LEN))
        .pattern(Some("^[^\\u0000]*[^\\u0000\\s][^\\u0000]*$"));
    utoipa::openapi::schema::ArrayBuilder::new()
        .items(command)
        .max_items(Some(VmSpec::SETUP_MAX))
        .description(Some(
            "Commands that set it up: each run once, in order, by root with `bash -lc`, after the first boot. They are kept and shown as they are, so a secret has no place in them.",
        ))
        .into()
}

fn few(field: &str, given: usize, most: usize) -> Result<()> {
    if given <= most {
        return Ok(());
    }
    Err(Error::invalid(field, format!("{given} are too many")).fix(format!("give at most {most}")))
}

/// A folder of an instance's own on the host, and where its machine sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeMount {
    /// The name of the folder among the instance's volumes.
    pub name: VolumeName,
    /// Where it is in the machine.
    pub guest: GuestPath,
}

/// `NAME:/path`, as a command line says it.
impl FromStr for VolumeMount {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((name, guest)) = text.split_once(':') else {
            return Err(Error::invalid("volume", format!("'{}' names no path in the machine", shown(text)))
                .fix("give NAME:/path, such as .openclaw:/root/.openclaw"));
        };
        Ok(Self { name: VolumeName::new(name)?, guest: GuestPath::new(guest)? })
    }
}

impl fmt::Display for VolumeMount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.guest)
    }
}

/// A port of the host's loopback device that leads to a port of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishedPort {
    /// The host's, on 127.0.0.1.
    #[schema(minimum = 1, maximum = 65535)]
    pub host: u16,
    /// The machine's.
    #[schema(minimum = 1, maximum = 65535)]
    pub guest: u16,
}

/// `HOST:GUEST`, as a command line says it.
impl FromStr for PublishedPort {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let port = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>().ok().filter(|port| digits && *port > 0)
        };
        match text.split_once(':').map(|(host, guest)| (port(host), port(guest))) {
            Some((Some(host), Some(guest))) => Ok(Self { host, guest }),
            _ => Err(Error::invalid("publish", format!("'{}' is no pair of ports", shown(text)))
                .fix("give HOST:GUEST with ports from 1 to 65535, such as 8080:80")),
        }
    }
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.guest)
    }
}

macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// It as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> std::result::Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(Error::into_serde)
            }
        }

        impl PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .pattern(Some(Self::PATTERN))
                    .min_length(Some(Self::MIN))
                    .max_length(Some(Self::MAX))
                    .into()
            }
        }

        impl ToSchema for $name {}
    };
}

checked_text!(
    /// What a volume is called. Whoever holds one may use it as the name of a folder.
    VolumeName
);

impl VolumeName {
    const MIN: usize = 1;
    /// The longest it may be, in characters.
    pub const MAX: usize = 63;
    /// What one looks like.
    pub const PATTERN: &str = "^(\\.?[A-Za-z0-9_-])+\\.?$";

    /// Checks and takes a name.
    ///
    /// # Errors
    /// What a name may have, on the field `volume`.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let good = (Self::MIN..=Self::MAX).contains(&text.len())
            && text.chars().all(known)
            && text != "."
            && !text.contains("..");
        if good {
            return Ok(Self(text));
        }
        Err(Error::invalid("volume", format!("'{}' can't be a volume's name", shown(&text))).fix(
            "use 1 to 63 of A-Z, a-z, 0-9, '.', '_' and '-', without '..', such as .openclaw in .openclaw:/root/.openclaw",
        ))
    }
}

checked_text!(
    /// Where something is mounted in a machine: absolute, in its shortest form, and none of the
    /// folders that a system is made of.
    GuestPath
);

impl GuestPath {
    const MIN: usize = 2;
    /// The longest it may be, in characters.
    pub const MAX: usize = 255;
    /// What one looks like; which ones are the system's is checked by [`Self::new`].
    pub const PATTERN: &str = "^(/[A-Za-z0-9._+@-]+)+$";
    /// Folders in which nothing may be mounted: they are the kernel's, or made anew at each boot.
    const SYSTEM_WHOLE: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];
    /// Folders that may not be hidden as a whole: the machine would not boot, or root's key would
    /// be gone. `/var`, `/home`, `/opt`, `/srv`, `/mnt` and what is in these may be.
    const SYSTEM: [&str; 12] = [
        "/bin",
        "/boot",
        "/etc",
        "/etc/ssh",
        "/lib",
        "/lib32",
        "/lib64",
        "/root",
        "/root/.ssh",
        "/sbin",
        "/usr",
        "/var",
    ];

    /// Checks and takes a path.
    ///
    /// # Errors
    /// What is wrong with it, on the field `volume`.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        match flaw(&text) {
            None => Ok(Self(text)),
            Some(why) => {
                Err(Error::invalid("volume", format!("the path '{}' in the machine {why}", shown(&text)))
                    .fix("give an absolute path of a folder of your own, such as /root/.openclaw"))
            }
        }
    }

    /// Whether it is in `outer`, at any depth.
    #[must_use]
    pub fn is_within(&self, outer: &Self) -> bool {
        within(&self.0, &outer.0)
    }
}

fn within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))
}

fn flaw(path: &str) -> Option<&'static str> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '@');
    if !path.starts_with('/') {
        return Some("is not absolute");
    }
    if path == "/" {
        return Some("is the whole machine");
    }
    if path.len() > GuestPath::MAX {
        return Some("is longer than 255 characters");
    }
    for part in path[1..].split('/') {
        match part {
            "" => return Some("has an empty part"),
            "." | ".." => return Some("has a part '.' or '..'"),
            _ if !part.chars().all(known) => {
                return Some("has other characters than A-Z, a-z, 0-9, '.', '_', '-', '+' and '@'");
            }
            _ => {}
        }
    }
    let of_system = GuestPath::SYSTEM.contains(&path)
        || GuestPath::SYSTEM_WHOLE.iter().any(|outer| *outer == path || within(path, outer));
    of_system.then_some("is the system's own")
}

/// Foreign text, in a message.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests;
