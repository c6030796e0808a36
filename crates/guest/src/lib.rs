//! What clawfarm has inside a virtual machine: commands with or without a terminal, figures,
//! quiet disks, the clock, and a machine's end.
//!
//! The agent is a small static program that the seed of a first boot brings along. It and the
//! host talk over one line of bytes: a port of virtio-serial, or a socket of vsock. Many
//! conversations share the line ([`frame`], [`message`]), each with a window, so that one that
//! nobody reads holds up no other. A line has no beginning: what an earlier server left half
//! said is thrown away by the frames' own marks, and a [`message::Hello`] with a number of its
//! own tells both sides from where on they understand each other.
//!
//! The host believes nothing of what a guest says: every size is bounded, and nonsense ends the
//! conversation.

pub mod agent;
pub mod client;
pub mod frame;
pub mod message;
mod window;

/// The name of the port of virtio-serial, as the guest sees it in `/dev/virtio-ports`.
pub const PORT: &str = "org.clawfarm.guest.0";
/// The port of vsock on which the agent listens.
pub const VSOCK_PORT: u32 = 18_744;
