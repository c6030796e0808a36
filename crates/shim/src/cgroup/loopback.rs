//! What listens on this machine's own addresses (127.0.0.1, ::1) is nobody's business in a claw
//! that has a network of its own in QEMU: there it is at 10.0.2.2.
//!
//! QEMU has no switch for that, but the kernel asks a program of the claw's cgroup before each
//! `connect` and each datagram (`BPF_PROG_TYPE_CGROUP_SOCK_ADDR`, Linux 4.17, cgroup v2). Ours are
//! some twenty instructions, written here; they go with the cgroup. It holds for a QEMU that was
//! broken into as well.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

/// Names are asked for here, and the one who answers may be on this machine (systemd-resolved's
/// 127.0.0.53).
const DNS: u16 = 53;

/// What the kernel asks about (`linux/bpf.h`, `enum bpf_attach_type`), and whether its address is
/// one of IPv6.
const ASKED: [(u32, bool); 4] = [(10, false), (11, true), (14, false), (15, true)];
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const CGROUP_SOCK_ADDR: u32 = 18;
/// Beside what others have put there, of which each may say no.
const ALLOW_MULTI: u32 = 2;

/// Where `struct bpf_sock_addr` has the address and the port, both in the network's order.
const IP4: i16 = 4;
const IP6: i16 = 8;
const PORT: i16 = 24;

/// Keeps what is in a cgroup of version 2 from this machine's own addresses, but for these ports.
///
/// # Errors
/// Says why not; nothing is kept from it then.
pub(super) fn guard(cgroup: &Path, ports: &[u16]) -> Result<(), String> {
    let folder =
        File::open(cgroup).map_err(|error| format!("{} can't be opened: {error}", cgroup.display()))?;
    for (asked, long) in ASKED {
        let program = load(asked, long, ports)?;
        attach(&folder, &program, asked).map_err(|errno| format!("the kernel takes no guard: {errno}"))?;
    }
    Ok(())
}

/// Whether this process could do that here, cgroups apart.
///
/// # Errors
/// Says why not.
pub(super) fn can_guard() -> Result<(), String> {
    ASKED.iter().try_for_each(|(asked, long)| load(*asked, *long, &[]).map(drop))
}

/// One instruction (`struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Step {
    code: u8,
    /// The one that is changed in the lower half, the one that is read in the upper.
    registers: u8,
    jump: i16,
    value: i32,
}

const fn step(code: u8, register: u8, jump: i16, value: u32) -> Step {
    Step { code, registers: register, jump, value: value.cast_signed() }
}

/// Register `to` becomes the word at this place of what is asked about, which register 1 points to.
const fn word(to: u8, at: i16) -> Step {
    step(0x61, 1 << 4 | to, at, 0)
}

/// Goes on so many steps further when the lower half of a register is, or is not, this.
const fn if_is(register: u8, value: u32, jump: i16) -> Step {
    step(0x16, register, jump, value)
}

const fn unless_is(register: u8, value: u32, jump: i16) -> Step {
    step(0x56, register, jump, value)
}

const fn mask(register: u8, value: u32) -> Step {
    step(0x54, register, 0, value)
}

/// The first byte of an address alone, and the one that 127.0.0.0/8 has.
const FIRST: u32 = u32::from_ne_bytes([255, 0, 0, 0]);
const OWN: u32 = u32::from_ne_bytes([127, 0, 0, 0]);

fn program(long: bool, ports: &[u16]) -> Vec<Step> {
    // What is asked about the port comes last: "no" unless it is one of these.
    let mut about_port = vec![word(3, PORT)];
    let last = i16::try_from(ports.len() + 1).unwrap_or(i16::MAX);
    for (before, port) in (0_i16..).zip(ports.iter().chain([&DNS])) {
        // Over the rest of them, and over "no".
        about_port.push(if_is(3, u32::from(port.to_be()), last - before - 1 + 2));
    }
    let (no, yes) = ([step(0xb7, 0, 0, 0), step(0x95, 0, 0, 0)], [step(0xb7, 0, 0, 1), step(0x95, 0, 0, 0)]);
    // Nowhere (0.0.0.0, ::) is this machine, too.
    let to_yes = i16::try_from(about_port.len() + no.len()).unwrap_or(i16::MAX);
    let mut steps = if long {
        let mapped = u32::from_ne_bytes([0, 0, 255, 255]);
        let one = u32::from_ne_bytes([0, 0, 0, 1]);
        vec![
            word(2, IP6),
            unless_is(2, 0, to_yes + 12),
            word(2, IP6 + 4),
            unless_is(2, 0, to_yes + 10),
            word(2, IP6 + 8),
            word(3, IP6 + 12),
            if_is(2, 0, 5),
            unless_is(2, mapped, to_yes + 6),
            if_is(3, 0, 5),
            mask(3, FIRST),
            unless_is(3, OWN, to_yes + 3),
            if_is(3, OWN, 2),
            if_is(3, 0, 1),
            unless_is(3, one, to_yes),
        ]
    } else {
        vec![word(2, IP4), if_is(2, 0, 2), mask(2, FIRST), unless_is(2, OWN, to_yes)]
    };
    steps.extend(about_port);
    steps.extend(no);
    steps.extend(yes);
    steps
}

/// The part of `union bpf_attr` that loads a program.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    steps: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    asked: u32,
}

#[repr(C)]
struct Attach {
    cgroup: i32,
    program: i32,
    asked: u32,
    flags: u32,
}

fn load(asked: u32, long: bool, ports: &[u16]) -> Result<OwnedFd, String> {
    let steps = program(long, ports);
    let address = |pointer: *const libc::c_void| pointer.addr() as u64;
    let what = Load {
        kind: CGROUP_SOCK_ADDR,
        count: u32::try_from(steps.len()).unwrap_or(u32::MAX),
        steps: address(steps.as_ptr().cast()),
        license: address(c"Apache-2.0".as_ptr().cast()),
        name: *b"clawfarm_own\0\0\0\0",
        asked,
        ..Load::default()
    };
    let fd = bpf(PROG_LOAD, &what).map_err(|errno| format!("the kernel takes no such program: {errno}"))?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attach(cgroup: &File, program: &OwnedFd, asked: u32) -> Result<(), Errno> {
    let what = Attach { cgroup: cgroup.as_raw_fd(), program: program.as_raw_fd(), asked, flags: ALLOW_MULTI };
    bpf(PROG_ATTACH, &what).map(drop)
}

fn bpf<T>(command: libc::c_int, what: &T) -> Result<i32, Errno> {
    // SAFETY: `what` is of the layout and the size that bpf(2) asks for, and what it points to is
    // alive over the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(what), size_of::<T>()) };
    Errno::result(done).map(|done| i32::try_from(done).unwrap_or(-1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel's machine would answer, as far as it is used.
    fn answer(steps: &[Step], about: &[u8]) -> u32 {
        let mut registers = [0_u32; 4];
        let mut at = 0_usize;
        for _ in 0..100 {
            let step = steps[at];
            let to = usize::from(step.registers & 15);
            let value = step.value.cast_unsigned();
            let jumps = match step.code {
                0x61 => {
                    let from = usize::try_from(step.jump).unwrap();
                    registers[to] = u32::from_ne_bytes(about[from..from + 4].try_into().unwrap());
                    false
                }
                0x54 => {
                    registers[to] &= value;
                    false
                }
                0xb7 => {
                    registers[to] = value;
                    false
                }
                0x16 => registers[to] == value,
                0x56 => registers[to] != value,
                0x95 => return registers[0],
                other => panic!("no instruction {other:x}"),
            };
            at += 1 + if jumps { usize::try_from(step.jump).unwrap() } else { 0 };
        }
        panic!("it does not end")
    }

    #[test]
    fn only_this_machines_own_addresses_are_kept_from_it_and_not_all_of_their_ports() {
        use std::net::{IpAddr, Ipv6Addr};
        for (address, own) in [
            ("127.0.0.1", true),
            ("127.0.0.53", true),
            ("127.255.1.2", true),
            ("0.0.0.0", true),
            ("128.0.0.1", false),
            ("10.0.0.127", false),
            ("8.8.8.8", false),
            ("::1", true),
            ("::", true),
            ("::ffff:127.0.0.1", true),
            ("::ffff:0.0.0.0", true),
            ("::ffff:8.8.8.8", false),
            ("::2", false),
            ("1::1", false),
            ("0:1::1", false),
            ("0:0:1::1", false),
            ("0:0:0:1::1", false),
            ("0:0:0:0:1::1", false),
            ("0:0:0:0:0:1:127.0.0.1", false),
            ("fe80::1", false),
        ] {
            for (port, open) in [(53, true), (7000, true), (7001, true), (22, false), (5432, false)] {
                let mut about = [0_u8; 32];
                about[24..26].copy_from_slice(&u16::to_be_bytes(port));
                let long = match address.parse().unwrap() {
                    IpAddr::V4(it) => {
                        about[4..8].copy_from_slice(&it.octets());
                        false
                    }
                    IpAddr::V6(it) => {
                        about[8..24].copy_from_slice(&Ipv6Addr::octets(&it));
                        true
                    }
                };
                let allowed = answer(&program(long, &[7000, 7001]), &about) == 1;
                assert_eq!(allowed, !own || open, "{address} {port}");
            }
        }
    }
}
