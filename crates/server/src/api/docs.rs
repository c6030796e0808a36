//! The API's description, and a page to read it.
//!
//! The page is one small file of our own: Swagger UI would add about 10 MB to the binary for
//! what a reader of this API needs, a list of the routes with their fields.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::state::ServerState;

/// It loads nothing from elsewhere and talks to nobody else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn router() -> Router<ServerState> {
    let document = crate::openapi().to_json().unwrap_or_default();
    Router::new()
        .route(
            "/api/v1/openapi.json",
            get(move || async move {
                ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")], document.clone())
            }),
        )
        .route("/api/docs", get(page))
        .merge(schemas())
}

/// The JSON Schemas of what people write: for their editors, which have no credentials.
fn schemas() -> Router<ServerState> {
    clawfarm_api::schema::all().into_iter().fold(Router::new(), |router, (name, schema)| {
        let document = schema.to_string();
        let answer = move || async move {
            ([(CONTENT_TYPE, "application/schema+json"), (CACHE_CONTROL, "no-cache")], document.clone())
        };
        router.route(&format!("{}/{name}", clawfarm_api::schema::SCHEMAS), get(answer))
    })
}

async fn page() -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, include_str!("docs.html"))
}
