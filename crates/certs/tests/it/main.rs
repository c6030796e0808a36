//! Certificates from a real ACME server (pebble) with its DNS server, and from a real BIND.

mod cloudflare;
mod dns01;
mod failing;
mod http01;
mod port80;
mod servers;
mod support;
