//! Tests of the adapters through their public face.

mod cases;
mod gateway;
mod golden;
mod life;
mod real;
mod wire;
