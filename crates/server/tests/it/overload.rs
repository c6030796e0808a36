//! Ten times the load that the server takes: it sheds the rest, stays reachable, and recovers
//! by itself.

use futures::future::join_all;
use http::StatusCode;

use crate::farm::Farm;

/// Plain requests at a time, as `layers/load.rs` has it.
const PLACES: usize = 256;

#[tokio::test]
async fn ten_times_the_load_is_shed_and_over_by_itself() {
    let farm = Farm::new().await;
    farm.new_claw("alice").await;
    // Answers that nobody reads hold their places, as slow clients do.
    let held = join_all((0..10 * PLACES).map(|_| farm.hold("/api/v1/instances"))).await;
    let count = |status| held.iter().filter(|answer| answer.status() == status).count();
    assert_eq!(count(StatusCode::OK), PLACES, "it works on what it can");
    assert_eq!(count(StatusCode::TOO_MANY_REQUESTS), 9 * PLACES, "and refuses the rest at once");
    for answer in held.iter().filter(|answer| answer.status() != StatusCode::OK) {
        assert_eq!(answer.headers()["retry-after"], "1");
    }
    // Whoever looks after the server still sees that it lives.
    for path in ["/healthz", "/readyz"] {
        assert_eq!(farm.get(path).await.status, StatusCode::OK, "{path}");
    }
    drop(held);
    let after = join_all((0..PLACES).map(|_| farm.get("/api/v1/instances"))).await;
    assert!(after.iter().all(|answer| answer.status == StatusCode::OK), "it is over when the load is");
}
