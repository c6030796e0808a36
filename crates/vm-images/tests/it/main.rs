//! Images of virtual machines, as whoever runs them uses them: against a site that misbehaves
//! in every way, with the real qemu-img, and one that is built and booted.

mod disks;
mod e2e;
mod fetch;
mod import;
mod shared;
mod signed;
mod site;
mod store;
mod support;
mod warm;
