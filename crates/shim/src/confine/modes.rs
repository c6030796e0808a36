//! No setuid programs: a seccomp filter for what writes files that somebody else decides about.
//!
//! Who serves a folder to a virtual machine does to it what the guest's kernel says. A program
//! there that is setuid would be one on this machine, too, for whoever can pass the folder. No
//! mount option forbids making one, and Landlock knows no modes; so the kernel's calls that set a
//! mode are refused where that has the bit.

use nix::errno::Errno;

/// The setuid and the setgid bit.
const SET: u32 = libc::S_ISUID | libc::S_ISGID;
/// With these a call that opens a file has a mode to look at.
const MAKES: u32 = (libc::O_CREAT | libc::O_TMPFILE).cast_unsigned() & !libc::O_DIRECTORY.cast_unsigned();

/// A call with a mode.
struct Call {
    number: libc::c_long,
    /// Which argument the mode is.
    mode: u8,
    /// Which argument has the flags that say whether the mode means anything.
    flags: Option<u8>,
}

const fn sets(number: libc::c_long, mode: u8) -> Call {
    Call { number, mode, flags: None }
}

const fn opens(number: libc::c_long, flags: u8, mode: u8) -> Call {
    Call { number, mode, flags: Some(flags) }
}

/// All of them but `mkdir`, which takes no such bits (`mkdir(2)`).
#[cfg(target_arch = "x86_64")]
const CALLS: [Call; 9] = [
    sets(libc::SYS_chmod, 1),
    sets(libc::SYS_fchmod, 1),
    sets(libc::SYS_fchmodat, 2),
    sets(libc::SYS_fchmodat2, 2),
    sets(libc::SYS_creat, 1),
    sets(libc::SYS_mknod, 1),
    sets(libc::SYS_mknodat, 2),
    opens(libc::SYS_open, 1, 2),
    opens(libc::SYS_openat, 2, 3),
];
#[cfg(not(target_arch = "x86_64"))]
const CALLS: [Call; 5] = [
    sets(libc::SYS_fchmod, 1),
    sets(libc::SYS_fchmodat, 2),
    sets(libc::SYS_fchmodat2, 2),
    sets(libc::SYS_mknodat, 2),
    opens(libc::SYS_openat, 2, 3),
];

/// Calls whose mode can't be seen by a filter: they are said not to exist, and programs do without
/// (`openat2` is younger than who uses it).
const UNSEEN: [libc::c_long; 2] = [libc::SYS_openat2, libc::SYS_io_uring_setup];

/// This processor's name to seccomp (`linux/audit.h`), and where its calls end: x32's come after.
#[cfg(target_arch = "x86_64")]
const MACHINE: (u32, u32) = (0xC000_003E, 0x4000_0000);
#[cfg(target_arch = "aarch64")]
const MACHINE: (u32, u32) = (0xC000_00B7, u32::MAX);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("its number is in linux/audit.h");

/// Forbids this process and its later children, for good, to make anything setuid or setgid.
/// `no_new_privs` must be set.
pub(crate) fn forbid_setuid() -> Result<(), Errno> {
    let mut program = filter();
    let filter = libc::sock_fprog {
        len: program.len().try_into().map_err(|_| Errno::E2BIG)?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the program, which is alive over the call.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
    Errno::result(done).map(drop)
}

fn filter() -> Vec<libc::sock_filter> {
    let denied = give(libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned());
    let missing = give(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned());
    let allowed = give(libc::SECCOMP_RET_ALLOW);
    // `struct seccomp_data`: the number at 0, the machine at 4, arguments of 8 bytes from 16 on, of
    // which the lower half comes first.
    let argument = |number: u8| load(16 + 8 * u32::from(number));
    let mut program = vec![
        load(4),
        jump(libc::BPF_JEQ, MACHINE.0, 1, 0),
        denied,
        load(0),
        jump(libc::BPF_JGE, MACHINE.1, 0, 1),
        denied,
    ];
    for number in UNSEEN {
        program.extend([jump(libc::BPF_JEQ, number_of(number), 0, 1), missing]);
    }
    for call in CALLS {
        let mut block = Vec::new();
        if let Some(flags) = call.flags {
            block.extend([argument(flags), jump(libc::BPF_JSET, MAKES, 1, 0), allowed]);
        }
        block.extend([argument(call.mode), jump(libc::BPF_JSET, SET, 0, 1), denied, allowed]);
        // A block has some seven steps.
        let rest = u8::try_from(block.len()).unwrap_or(u8::MAX);
        program.push(jump(libc::BPF_JEQ, number_of(call.number), 0, rest));
        program.extend(block);
    }
    program.push(allowed);
    program
}

/// Numbers of calls are small.
fn number_of(call: libc::c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

const fn load(offset: u32) -> libc::sock_filter {
    step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

const fn give(answer: u32) -> libc::sock_filter {
    step(libc::BPF_RET | libc::BPF_K, answer, 0, 0)
}

/// Goes on after so many steps, when it is so and when it is not.
const fn jump(how: u32, value: u32, then: u8, or: u8) -> libc::sock_filter {
    step(libc::BPF_JMP | how | libc::BPF_K, value, then, or)
}

#[expect(clippy::cast_possible_truncation, reason = "the codes of steps have 16 bits")]
const fn step(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}
