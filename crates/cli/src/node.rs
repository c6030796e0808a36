//! Which server this home is, where several share one database.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use clawfarm_model::name::TargetName;
use clawfarm_model::target::LOCAL_TARGET;
use clawfarm_model::{Code, Error};
use serde::{Deserialize, Serialize};

/// Its file in the home folder. There is one only where the state is in PostgreSQL.
const FILE: &str = "node.json";
/// Names that targets of every server have.
const TAKEN: [&str; 2] = [LOCAL_TARGET, "sim"];
/// The longest part of the machine's name that goes into a server's.
const HOST_MAX: usize = 24;

/// A server's identity: kept with its home, because its instances are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    /// Random, never to be met twice.
    pub(crate) id: String,
    /// What it is called, and its own target.
    pub(crate) name: TargetName,
}

impl Node {
    /// The identity of a home; `None` when it has none, because it was always alone.
    pub(crate) fn load(home: &Path) -> Result<Option<Self>, Error> {
        let path = home.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed("read", &path, e)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|e| {
            Error::internal(format!("{} can't be understood", path.display()), e).fix(
                "put it back from a backup of the home folder: the instances of this machine are bound to it",
            )
        })
    }

    /// The identity of a home, made at its first start on a shared database.
    pub(crate) fn load_or_make(home: &Path, name: Option<&str>) -> Result<Self, Error> {
        let wanted = name.map(checked).transpose()?;
        if let Some(known) = Self::load(home)? {
            return match wanted {
                Some(wanted) if wanted != known.name => Err(Error::new(
                    Code::Conflict,
                    format!("the server of {} is named '{}'", home.display(), known.name),
                )
                .field("--node")
                .fix("leave out --node: its instances are on a target of that name; another server needs another home")),
                _ => Ok(known),
            };
        }
        let id = format!("n{}", random_hex::<5>()?);
        let name = match wanted {
            Some(name) => name,
            None => TargetName::new(default_name(&id))?,
        };
        let node = Self { id, name };
        node.keep(home)?;
        Ok(node)
    }

    fn keep(&self, home: &Path) -> Result<(), Error> {
        let path = home.join(FILE);
        let part = home.join(format!(".{FILE}.{}", std::process::id()));
        let text = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::internal("the server's identity can't be written", e))?;
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
            fs::File::open(home)?.sync_all()
        };
        write().map_err(|e| failed("written", &path, e))
    }
}

fn checked(name: &str) -> Result<TargetName, Error> {
    if TAKEN.contains(&name) {
        return Err(Error::invalid("--node", format!("'{name}' is the name of a target that servers have"))
            .fix("give another name, such as the machine's"));
    }
    TargetName::new(name).map_err(|e| {
        Error::invalid("--node", e.message().to_owned())
            .fix("use lower-case letters, digits and '-', such as 'host1'")
    })
}

/// The machine's name, and a part of the id: machines made from one image have the same name.
fn default_name(id: &str) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    let host: String = host
        .chars()
        .take_while(|c| *c != '.')
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(HOST_MAX)
        .collect();
    let host = host.trim_matches('-');
    let begins = host.starts_with(|c: char| c.is_ascii_lowercase());
    let host = if begins { host.to_owned() } else { format!("host-{host}").trim_matches('-').to_owned() };
    format!("{host}-{}", &id[1..5])
}

/// `N` random bytes as hexadecimal digits.
pub(crate) fn random_hex<const N: usize>() -> Result<String, Error> {
    let mut bytes = [0_u8; N];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::internal("the operating system gives no random bytes", e.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn failed(verb: &str, path: &Path, error: io::Error) -> Error {
    Error::new(Code::Internal, format!("{} can't be {verb}: {error}", path.display()))
        .fix("check the folder's owner and that the disk is not full")
        .source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_one_server_for_ever() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(Node::load(home.path()).unwrap(), None);
        let node = Node::load_or_make(home.path(), None).unwrap();
        assert!(node.name.as_str().ends_with(&node.id[1..5]), "{node:?}");
        assert!(node.id.len() <= 12 && !node.id.contains('-'), "a ticket holds it: {node:?}");
        assert_eq!(Node::load_or_make(home.path(), Some(node.name.as_str())).unwrap(), node);
        let error = Node::load_or_make(home.path(), Some("other")).unwrap_err();
        assert_eq!((error.code(), error.field_name()), (Code::Conflict, Some("--node")));
        for wrong in ["sim", "local", "", "A", "a b", "../x"] {
            let other = tempfile::tempdir().unwrap();
            let error = Node::load_or_make(other.path(), Some(wrong)).unwrap_err();
            assert_eq!(error.field_name(), Some("--node"), "{wrong}");
            assert_eq!(Node::load(other.path()).unwrap(), None, "nothing is kept");
        }
    }
}
