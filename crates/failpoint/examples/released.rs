//! A program with points in it, as a release is built: `scripts/lint` looks that none of their
//! names is in what comes out.

use clawfarm_failpoint::{point, point_blocking, wait};
use clawfarm_model::Result;

async fn waits() -> Result<()> {
    point!(StoreAfterCommit);
    Ok(())
}

fn blocks() -> Result<()> {
    point_blocking!(ShimStarted);
    Ok(())
}

fn main() {
    let future = std::pin::pin!(waits());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let waited = std::future::Future::poll(future, &mut context).is_ready();
    println!("{} {waited} {:?}", blocks().is_ok(), wait(std::time::Duration::from_secs(1)));
}
