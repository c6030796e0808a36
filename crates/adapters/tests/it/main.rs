//! Tests of the adapters through their public face.

mod cases;
mod everything;
mod gateway;
mod generic;
mod golden;
mod life;
mod nanobot;
mod nanoclaw;
mod real;
mod wire;
mod words;
mod zeroclaw;
