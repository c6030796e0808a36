//! The edge before claws made for the purpose, over real sockets.

mod browser;
mod claw;
mod door;
mod farm;
mod handshakes;
mod hostile;
mod inbox;
mod limits;
mod links;
mod passing;
mod plain;
mod proxied;
mod renewal;
mod waking;
mod websocket;
