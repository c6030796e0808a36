//! Giving up what a claw must not have: capabilities, groups, the server's user.

use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};

use crate::spec::User;

/// Gives up every capability and group but `groups`, for good, and becomes `user` where one is given.
/// With a user, any failure is an error; without one, what can't be given up by a process
/// that has few privileges itself is left.
pub(crate) fn drop_all(user: Option<User>, groups: &[u32]) -> Result<(), Errno> {
    prctl::set_no_new_privs()?;
    if geteuid().is_root() {
        let strict = user.is_some();
        let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
        tolerate(setgroups(&groups), strict)?;
        tolerate(drop_bounding_set(), strict)?;
    }
    if let Some(user) = user {
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
    }
    drop_capabilities()
}

fn tolerate(result: Result<(), Errno>, strict: bool) -> Result<(), Errno> {
    match result {
        Err(Errno::EPERM) if !strict => Ok(()),
        other => other,
    }
}

/// Without this, a program executed by user 0 would get all capabilities back
/// (`capabilities(7)`).
fn drop_bounding_set() -> Result<(), Errno> {
    for capability in 0..64 {
        // SAFETY: takes numbers only.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0) };
        match Errno::result(result) {
            Ok(_) => {}
            Err(Errno::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn drop_capabilities() -> Result<(), Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    // Two sets of (effective, permitted, inheritable), 32 capabilities each.
    let none = [0u32; 6];
    // SAFETY: both pointers are to values of the layout capset(2) asks for, alive over the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    Errno::result(result)?;
    // SAFETY: takes numbers only. Kernels before 4.3 have no ambient set and answer EINVAL.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    Ok(())
}
