//! Virtual machines by their runtime: QEMU is real, and the guest is as small as can be, except
//! in one test that boots a real one.

mod base;
mod claw;
mod cut;
mod e2e;
mod farm;
mod killed;
mod life;
mod memory;
mod stuck;
mod trouble;

#[path = "../../../qemu/tests/it/guest.rs"]
mod guest;
