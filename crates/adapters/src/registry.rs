//! The claw types that are known here: those of this build, and those that the user has added.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use clawfarm_model::name::ClawType;
use clawfarm_model::{Code, Error, Result};

use crate::ClawAdapter;
use crate::generic::{Generic, MAX_BYTES};

/// The ending of a type's file.
const ENDING: &str = "toml";

/// The claw types, by name.
#[derive(Clone, Default)]
pub struct Registry {
    adapters: BTreeMap<ClawType, Arc<dyn ClawAdapter>>,
    own: Option<Arc<Own>>,
}

/// The types of a folder. A file is read again when it has changed, so that a type can be added
/// while a server runs.
struct Own {
    folder: PathBuf,
    read: Mutex<BTreeMap<ClawType, (Stamp, Arc<Generic>)>>,
}

/// What tells one state of a file from another.
type Stamp = (Option<SystemTime>, u64);

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("types", &self.types()).finish()
    }
}

impl Registry {
    /// A registry of these types.
    #[must_use]
    pub fn new(adapters: impl IntoIterator<Item = Arc<dyn ClawAdapter>>) -> Self {
        Self { adapters: adapters.into_iter().map(|a| (a.claw_type(), a)).collect(), own: None }
    }

    /// Every type that this build has an adapter for.
    #[must_use]
    pub fn builtin() -> Self {
        Self::new([
            Arc::new(crate::openclaw::OpenClaw) as Arc<dyn ClawAdapter>,
            Arc::new(crate::machine::Machine),
            Arc::new(crate::nanobot::Nanobot),
            Arc::new(crate::nanoclaw::NanoClaw),
            Arc::new(crate::zeroclaw::ZeroClaw),
        ])
    }

    /// The same with the types whose files are in a folder: `<type>.toml`.
    #[must_use]
    pub fn with_folder(self, folder: impl Into<PathBuf>) -> Self {
        let own = Own { folder: folder.into(), read: Mutex::default() };
        Self { own: Some(Arc::new(own)), ..self }
    }

    /// The adapter of a type.
    ///
    /// # Errors
    /// `InvalidInput` with the types there are, or with what is wrong with the type's file.
    pub fn get(&self, claw_type: &ClawType) -> Result<Arc<dyn ClawAdapter>> {
        if let Some(adapter) = self.adapters.get(claw_type) {
            return Ok(Arc::clone(adapter));
        }
        if let Some(own) = &self.own
            && let Some(generic) = own.get(claw_type)?
        {
            return Ok(generic);
        }
        let known: Vec<_> = self.types().iter().map(|it| it.as_str().to_owned()).collect();
        Err(Error::invalid("claw_type", format!("'{claw_type}' is no claw type known here")).fix(format!(
            "use one of {}, or add a type of your own: clawfarm type add {claw_type}.{ENDING}",
            known.join(", ")
        )))
    }

    /// Whether a type is one of this build's.
    #[must_use]
    pub fn is_builtin(&self, claw_type: &ClawType) -> bool {
        self.adapters.contains_key(claw_type)
    }

    /// Every type, by name; those with a file that can't be read among them.
    #[must_use]
    pub fn types(&self) -> Vec<ClawType> {
        let mut all: Vec<ClawType> = self.adapters.keys().cloned().collect();
        all.extend(self.own.iter().flat_map(|own| own.names()).filter(|name| !self.is_builtin(name)));
        all.sort();
        all
    }
}

/// The file of a type in a folder of types.
#[must_use]
pub fn type_file(folder: &Path, claw_type: &ClawType) -> PathBuf {
    folder.join(format!("{claw_type}.{ENDING}"))
}

impl Own {
    fn get(&self, claw_type: &ClawType) -> Result<Option<Arc<dyn ClawAdapter>>> {
        let path = type_file(&self.folder, claw_type);
        let failed = |e: std::io::Error| {
            Error::new(
                Code::Internal,
                format!("the claw type '{claw_type}' can't be read: {}: {e}", path.display()),
            )
            .field("claw_type")
            .fix("let the server's user read the file")
            .source(e)
        };
        let meta = match std::fs::metadata(&path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let stamp = (meta.modified().ok(), meta.len());
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, generic)) = read.get(claw_type)
            && *of == stamp
        {
            return Ok(Some(Arc::clone(generic) as _));
        }
        let in_file = |error: Error| {
            let field = error.field_name().unwrap_or_default().to_owned();
            let fix =
                error.fix_text().unwrap_or("docs/claw-types.md has every field of a type's file").to_owned();
            Error::invalid("claw_type", format!("{}: {field}: {}", path.display(), error.message())).fix(fix)
        };
        if meta.len() > MAX_BYTES {
            return Err(in_file(Error::invalid("type", format!("it is larger than {MAX_BYTES} bytes"))));
        }
        let text = std::fs::read_to_string(&path).map_err(failed)?;
        let generic = Arc::new(Generic::parse(claw_type.clone(), &text).map_err(in_file)?);
        read.insert(claw_type.clone(), (stamp, Arc::clone(&generic)));
        Ok(Some(generic))
    }

    fn names(&self) -> Vec<ClawType> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let name = entry.file_name();
                let stem = name.to_str()?.strip_suffix(ENDING)?.strip_suffix('.')?;
                ClawType::new(stem).ok()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_type_is_answered_with_the_known_ones() {
        let registry = Registry::builtin();
        assert!(registry.get(&ClawType::new("openclaw").unwrap()).is_ok());
        let error = registry.get(&ClawType::new("nobody").unwrap()).map(|_| ()).unwrap_err();
        assert_eq!(error.field_name(), Some("claw_type"));
        assert!(error.fix_text().is_some_and(|f| f.contains("openclaw")));
    }

    #[test]
    fn a_type_can_be_added_changed_and_broken_while_it_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::builtin().with_folder(folder.path());
        let mine = ClawType::new("mine").unwrap();
        assert!(registry.get(&mine).is_err());
        let write = |text: &str| std::fs::write(type_file(folder.path(), &mine), text).unwrap();
        write("version = \"1\"\ncommand = [\"mine\"]\n");
        assert_eq!(registry.get(&mine).unwrap().default_version(), "1");
        assert_eq!(
            registry.types().iter().map(ClawType::as_str).collect::<Vec<_>>(),
            ["machine", "mine", "nanobot", "nanoclaw", "openclaw", "zeroclaw"]
        );
        write("version = \"2.0\"\ncommand = [\"mine\"]\n");
        assert_eq!(registry.get(&mine).unwrap().default_version(), "2.0");
        write("version = \"2.0\"\ncommand = []\n");
        let error = registry.get(&mine).map(|_| ()).unwrap_err();
        assert!(error.message().contains("mine.toml: command: is empty"), "{error}");
        // A file of a built-in type's name changes nothing.
        std::fs::write(folder.path().join("openclaw.toml"), "nonsense").unwrap();
        assert!(registry.get(&ClawType::new("openclaw").unwrap()).is_ok());
    }
}
