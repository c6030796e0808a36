//! The API's description, made without starting anything.

use clawfarm_api::Problem;
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, OpenApi, Ref, RefOr, Required, Response, ResponseBuilder,
};
use utoipa::{OpenApi as _, ToSchema};

use crate::api::documented;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "clawfarm",
        description = "Runs a fleet of claws.\n\nRequests carry `Authorization: Bearer <token>`; the admin's token is in `admin.token` in the server's home folder. Bodies are JSON; unknown fields are refused. What takes a while is answered at once with an operation, which `GET /api/v1/operations/{id}?wait=30` waits for. Every error is a problem document (RFC 9457) with the field at fault, the reason and what to do. Lists are read page by page: `next` of one page is the `cursor` of the next.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    components(schemas(Problem)),
    security(("bearer" = [])),
    tags(
        (name = "instances", description = "Claws: made, shown, changed, removed, talked to"),
        (name = "lifecycle", description = "Started, stopped, put to sleep, woken"),
        (name = "sleep", description = "When they sleep by themselves, and when the clock wakes them"),
        (name = "configs", description = "What is said for many of them, in revisions, and how those go out"),
        (name = "console", description = "Commands and shells inside an instance"),
        (name = "events", description = "What happened"),
        (name = "operations", description = "What was asked for, and how far it is"),
        (name = "secrets", description = "Set and listed, never read"),
        (name = "inbox", description = "Messages of services that wait for a claw, or were given up"),
        (name = "datasets", description = "Data that outlived its instance"),
        (name = "targets", description = "Places that instances run on"),
        (name = "images", description = "What instances in containers, and virtual machines, are made from"),
        (name = "server", description = "The server itself"),
        (name = "health", description = "For load balancers and monitoring"),
    ),
)]
struct Frame;

/// The API's description, as OpenAPI 3.1.
#[must_use]
pub fn openapi() -> OpenApi {
    let mut document = Frame::openapi();
    document.merge(documented().into_openapi());
    let components = document.components.get_or_insert_with(|| ComponentsBuilder::new().build());
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("The admin's token: `admin.token` in the server's home folder"))
        .build();
    components.security_schemes.insert("bearer".to_owned(), RefOr::T(SecurityScheme::Http(scheme)));
    for (name, description) in PROBLEMS {
        components.responses.insert(format!("problem-{name}"), RefOr::T(problem(description)));
    }
    for (path, item) in &mut document.paths.paths {
        for operation in operations(item) {
            add_problems(path, operation);
            loosen(path, operation);
        }
    }
    document
}

/// The errors that requests are answered with.
const PROBLEMS: [(&str, &str); 17] = [
    ("400", "Something in the request can't be accepted; `field` names it"),
    ("401", "The token is missing or wrong"),
    ("403", "Known, but not allowed"),
    ("404", "There is no such thing, or it is not visible to the caller"),
    ("408", "The body did not arrive in time"),
    ("409", "In conflict with what is there: taken, busy, under way, or not enough left"),
    ("410", "It is gone for good"),
    ("412", "`If-Match` names another version than the present one"),
    ("413", "The body is too large"),
    ("415", "The body is not JSON"),
    ("422", "The runtime, claw type or machine can't do this"),
    ("426", "A console is a WebSocket"),
    ("429", "Too many requests at a time; `Retry-After` says when to try again"),
    ("500", "A defect, or a broken machine"),
    ("502", "The claw itself failed"),
    ("503", "Something that is needed does not answer at the moment"),
    ("504", "It took too long"),
];

fn problem(description: &str) -> Response {
    let schema = RefOr::<utoipa::openapi::Schema>::Ref(Ref::from_schema_name(Problem::name()));
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description(description).content("application/problem+json", content).build()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.put, &mut item.delete, &mut item.patch, &mut item.head]
        .into_iter()
        .filter_map(Option::as_mut)
}

/// Where a body may be left out: it only changes what is done by default.
const BODY_OPTIONAL: [&str; 9] = [
    "/stop",
    "/suspend",
    "/update",
    "/console",
    "/shutdown",
    "/support-bundle",
    "/plan",
    "/publish",
    "/rollback",
];

/// What the derive takes for required and is not, and what it can't say.
fn loosen(path: &str, operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        if parameter.parameter_in == ParameterIn::Header {
            parameter.required = Required::False;
        }
        // Given to the derive, it would take the place of the description.
        if parameter.name == "label" {
            parameter.schema = Some(clawfarm_model::schema::label_filter());
        }
    }
    if let Some(RefOr::T(body)) = &mut operation.request_body
        && BODY_OPTIONAL.iter().any(|end| path.ends_with(end))
    {
        body.required = Some(Required::False);
    }
}

/// Says which errors an operation can be answered with, by what it takes.
fn add_problems(path: &str, operation: &mut Operation) {
    let api = path.starts_with(clawfarm_api::PREFIX);
    // By its path, or by a name that can't stand in one.
    let by_query = |parameter: &RefOr<_>| {
        let RefOr::T(utoipa::openapi::path::Parameter { name, .. }) = parameter else { return false };
        name == "image"
    };
    let named = path.contains('{') || operation.parameters.iter().flatten().any(by_query);
    let body = operation.request_body.is_some();
    let applies = |status: &str| match status {
        "400" | "429" | "504" => api,
        "401" => path != "/healthz" && path != "/readyz",
        // A new configuration of a project that there is not, an instance of such a template.
        "404" => {
            let of_something = ["/configs", "/instances", "/vm-images", "/vm-images/warm"]
                .iter()
                .any(|end| path.ends_with(end));
            named || path.ends_with("/operations") || (body && of_something)
        }
        "410" => named || body || path.ends_with("/events"),
        "409" | "422" | "502" => named || body,
        "403" => api && (named || body),
        "412" => ["/instances/{id}", "/instances/{id}/policy", "/instances/{id}/config", "/configs/{name}"]
            .iter()
            .any(|end| path.ends_with(end)),
        "408" | "413" | "415" => body,
        "426" => path.starts_with("/api/v1/consoles/"),
        "500" | "503" => path != "/healthz",
        _ => false,
    };
    for (status, _) in PROBLEMS.iter().filter(|(status, _)| applies(status)) {
        operation
            .responses
            .responses
            .entry((*status).to_owned())
            .or_insert_with(|| RefOr::Ref(Ref::new(format!("#/components/responses/problem-{status}"))));
    }
}
