//! Against the real programs: QEMU with guests that boot in a second, virtiofsd, sshd.
#![cfg(target_arch = "x86_64")]

mod boot;
mod guest;
mod killed;
mod peers;
mod probe;
mod qmp;
mod snapshot;
mod ssh;
mod support;
mod virtiofs;
