//! Nobody gets in without the token.

use axum::body::Body;
use http::{Method, Request};
use utoipa::openapi::HttpMethod;
use utoipa::openapi::path::PathItem;

use crate::farm::{Farm, TOKEN};

/// What is open on purpose. Whoever adds to this list has thought about it.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

fn methods(item: &PathItem) -> Vec<Method> {
    [
        (HttpMethod::Get, &item.get, Method::GET),
        (HttpMethod::Post, &item.post, Method::POST),
        (HttpMethod::Put, &item.put, Method::PUT),
        (HttpMethod::Patch, &item.patch, Method::PATCH),
        (HttpMethod::Delete, &item.delete, Method::DELETE),
    ]
    .into_iter()
    .filter_map(|(_, operation, method)| operation.as_ref().map(|_| method))
    .collect()
}

/// Every method and path of the description, with its parameters filled in.
fn routes() -> Vec<(Method, String)> {
    let document = clawfarm_server::openapi();
    let mut routes = Vec::new();
    for (path, item) in &document.paths.paths {
        let filled = path.replace("{id}", "alice-x7k2b").replace("{name}", "key").replace("{ticket}", "abc");
        let filled = filled.replace("{project}", "default").replace("{number}", "1");
        let filled = filled.replace("{message}", "in-0");
        assert!(!filled.contains('{'), "{path}: fill its parameter in here");
        routes.extend(methods(item).into_iter().map(|method| (method, filled.clone())));
    }
    assert!(routes.len() > 30, "the description has lost its routes");
    routes
}

#[tokio::test]
async fn every_route_refuses_without_the_token() {
    let farm = Farm::new().await;
    for (method, path) in routes() {
        for credential in [None, Some("Bearer wrong"), Some(TOKEN), Some("Basic dGVzdA=="), Some("Bearer ")] {
            let mut request = Request::builder().method(method.clone()).uri(&path);
            if let Some(credential) = credential {
                request = request.header("authorization", credential);
            }
            let answer = farm.ask(request.body(Body::empty()).unwrap()).await;
            if OPEN.contains(&path.as_str()) {
                assert_eq!(answer.status, 200, "{method} {path}");
                continue;
            }
            assert_eq!(answer.status, 401, "{method} {path} with {credential:?}: {}", answer.text);
            assert_eq!(answer.json()["code"], "unauthenticated");
            assert!(answer.header("www-authenticate").starts_with("Bearer"));
            assert!(!answer.text.contains(TOKEN));
        }
    }
}

#[tokio::test]
async fn what_does_not_exist_is_closed_too() {
    let farm = Farm::new().await;
    for path in ["/", "/api/v1/nothing", "/api/v1/consoles", "/api/v1/healthz", "/metrics/"] {
        let answer = farm.ask(Request::builder().uri(path).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, 401, "{path}");
    }
}

#[tokio::test]
async fn with_the_token_every_route_lets_in() {
    let farm = Farm::new().await;
    for (method, path) in routes() {
        if path.contains("/consoles/") || path.ends_with("/shutdown") {
            continue;
        }
        let answer = farm.send(method.clone(), &path, &[], "").await;
        assert!(answer.status != 401 && answer.status != 403, "{method} {path}: {}", answer.text);
        assert!(!answer.status.is_server_error(), "{method} {path}: {} {}", answer.status, answer.text);
    }
}

#[tokio::test]
async fn the_description_and_its_page_are_open_and_hold_nothing_of_ours() {
    let farm = Farm::new().await;
    let schemas = clawfarm_api::schema::all();
    assert_eq!(schemas.len(), clawfarm_api::schema::NAMES.len());
    let schemas = schemas.iter().map(|(name, _)| format!("/api/v1/schemas/{name}"));
    let pages = ["/api/docs", "/api/v1/openapi.json"].map(str::to_owned);
    for path in pages.into_iter().chain(schemas) {
        let answer = farm.ask(Request::builder().uri(path.as_str()).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert!(!answer.text.contains(TOKEN));
    }
    for path in ["/api/v1/schemas", "/api/v1/schemas/", "/api/v1/schemas/other", "/api/v1/schemas/config/x"] {
        let answer = farm.ask(Request::builder().uri(path).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, 401, "{path}");
    }
}
