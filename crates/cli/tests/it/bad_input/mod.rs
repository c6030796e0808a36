//! Bad input: each case gets a 4xx or an exit code that is not 0, with the field, the reason
//! and the fix; none a 5xx, a panic or a change.

mod api;
mod cli;
mod described;
mod http;
mod server;
