//! Landlock: which files may be used, and no signals or abstract sockets to the outside.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::spec::LandlockSpec;

/// The newest rules used here; a kernel with older ones enforces what it knows.
const NEWEST: ABI = ABI::V7;

/// Confines this process and its later children for good. Answers the version of the rules
/// in force.
///
/// # Errors
/// Says why no rules are in force.
pub(crate) fn restrict(spec: &LandlockSpec) -> Result<u32, String> {
    restrict_with(spec, None)
}

/// A folder that is open, whatever its name is by now, and whether it may be written to.
pub(crate) type Opened<'a> = (BorrowedFd<'a>, bool);

/// The same, and a folder of its own.
pub(crate) fn restrict_with(spec: &LandlockSpec, folder: Option<Opened<'_>>) -> Result<u32, String> {
    let abi = kernel_abi().ok_or("the kernel has no Landlock (5.13 or later, enabled at boot)")?;
    let status =
        ruleset(spec, folder).and_then(|rules| Ok(rules.restrict_self()?)).map_err(|e| e.to_string())?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err("the kernel did not enforce the rules".into());
    }
    Ok(abi.min(NEWEST as u32))
}

/// Whether the kernel has Landlock.
pub(crate) fn is_there() -> bool {
    kernel_abi().is_some()
}

fn ruleset(
    spec: &LandlockSpec,
    folder: Option<Opened<'_>>,
) -> Result<RulesetCreated, Box<dyn std::error::Error>> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let execute = read | AccessFs::Execute;
    let write = AccessFs::from_all(NEWEST) & !AccessFs::Execute;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for (paths, access) in [(&spec.read, read), (&spec.write, write), (&spec.execute, execute)] {
        for path in paths {
            rules = allow(rules, path, access)?;
        }
    }
    if let Some((folder, writes)) = folder {
        rules = rules.add_rule(PathBeneath::new(folder, if writes { write } else { read }))?;
    }
    Ok(rules)
}

/// Adds a rule; a path that does not exist has nothing to allow.
fn allow(
    rules: RulesetCreated,
    path: &PathBuf,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, Box<dyn std::error::Error>> {
    let Ok(fd) = PathFd::new(path) else { return Ok(rules) };
    let access = if Path::new(path).is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
    Ok(rules.add_rule(PathBeneath::new(fd, access))?)
}

/// The version the kernel speaks (`landlock_create_ruleset(2)`).
fn kernel_abi() -> Option<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call reads no memory and answers a number.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(abi).ok().filter(|abi| *abi > 0)
}
