//! The API reference, from its description: a page of all requests, and one of all types.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

/// The pages.
pub(super) struct Pages {
    pub(super) requests: String,
    pub(super) types: String,
}

/// The order of methods of one path.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];
/// What is said before the requests.
const HEAD: &str = include_str!("api-head.md");

/// Writes both pages.
pub(super) fn pages(document: &Value) -> Result<Pages> {
    let mut requests = HEAD.to_owned();
    requests.push_str("\n| status | means |\n|---|---|\n");
    for (status, response) in problems(document) {
        requests.push_str(&row(&[status, text(response, "description")]));
    }
    for tag in array(document, "/tags") {
        let name = text(tag, "name");
        let of_tag: Vec<_> = operations(document).filter(|(.., op)| op["tags"][0] == name).collect();
        if of_tag.is_empty() {
            continue;
        }
        requests.push_str(&format!("\n## {}\n\n{}.\n", capital(name), text(tag, "description")));
        for (path, method, operation) in of_tag {
            requests.push_str(&request(document, path, method, operation)?);
        }
    }
    let told = requests.matches("\n### `").count();
    let there = operations(document).count();
    if told != there {
        bail!(
            "the reference tells {told} of {there} requests: one has a tag that the description does not have"
        );
    }
    Ok(Pages { requests, types: types(document)? })
}

fn operations(document: &Value) -> impl Iterator<Item = (&str, &'static str, &Value)> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths.flat_map(|(path, item)| {
        METHODS.into_iter().filter_map(move |method| Some((path.as_str(), method, item.get(method)?)))
    })
}

/// The errors that any request may be answered with, by their status.
fn problems(document: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let responses = document["components"]["responses"].as_object().into_iter().flatten();
    responses.filter_map(|(name, response)| Some((name.strip_prefix("problem-")?, response)))
}

fn request(document: &Value, path: &str, method: &str, operation: &Value) -> Result<String> {
    let mut page =
        format!("\n### `{} {path}`\n\n{}\n", method.to_uppercase(), prose(text(operation, "summary")));
    if let Some(more) = operation["description"].as_str() {
        page.push_str(&format!("\n{}\n", prose(more)));
    }
    let parameters = array(operation, "/parameters");
    if !parameters.is_empty() {
        page.push_str("\n| parameter | in | type | what |\n|---|---|---|---|\n");
        for parameter in parameters {
            let name = text(parameter, "name");
            page.push_str(&row(&[
                &format!("`{name}`"),
                &in_words(parameter),
                &kind(&parameter["schema"])?,
                text(parameter, "description"),
            ]));
        }
    }
    let body = &operation["requestBody"];
    if let Some(content) = body["content"].as_object() {
        for (media, content) in content {
            let needed = if body["required"] == true { "" } else { ", may be left out" };
            page.push_str(&format!("\nBody: {} (`{media}`){needed}.\n", kind(&content["schema"])?));
        }
    }
    page.push_str(&answers(document, operation)?);
    page.push_str(&format!("\n```sh\n{}\n```\n", example(document, path, method, operation)?));
    Ok(page)
}

/// Where a parameter goes, and whether it must be there.
fn in_words(parameter: &Value) -> String {
    let place = text(parameter, "in");
    let needed = place != "path" && parameter["required"] == true;
    if needed { format!("{place}, needed") } else { place.to_owned() }
}

/// What it is answered with. Errors, which are alike everywhere, are in one line.
fn answers(document: &Value, operation: &Value) -> Result<String> {
    let mut page = String::new();
    let mut errors = Vec::new();
    let known: Vec<&str> = problems(document).map(|(status, _)| status).collect();
    for (status, response) in operation["responses"].as_object().context("responses")? {
        if response.get("$ref").is_some() {
            if !known.contains(&status.as_str()) {
                bail!("{status} is answered, but what it means is not described");
            }
            errors.push(status.as_str());
            continue;
        }
        page.push_str(&format!("\nAnswers **{status}**: {}", prose(text(response, "description"))));
        let mut kinds = Vec::new();
        for (media, content) in response["content"].as_object().into_iter().flatten() {
            kinds.push(format!("{} (`{media}`)", kind(&content["schema"])?));
        }
        if !kinds.is_empty() {
            page.push_str(&format!(": {}", kinds.join(" or ")));
        }
        page.push('\n');
        let headers = response["headers"].as_object().into_iter().flatten();
        let headers: Vec<String> =
            headers.map(|(name, h)| format!("`{name}`: {}", prose(text(h, "description")))).collect();
        if !headers.is_empty() {
            page.push_str(&format!("\nHeaders of it: {}.\n", headers.join("; ")));
        }
    }
    if !errors.is_empty() {
        page.push_str(&format!("\n[Errors](#errors): {}.\n", errors.join(", ")));
    }
    Ok(page)
}

/// How to ask it with curl over the socket.
fn example(document: &Value, path: &str, method: &str, operation: &Value) -> Result<String> {
    let mut url = path.to_owned();
    let mut query = Vec::new();
    for parameter in array(operation, "/parameters") {
        let name = text(parameter, "name");
        match text(parameter, "in") {
            "path" => url = url.replace(&format!("{{{name}}}"), stand_in(path, name)),
            "query" if parameter["required"] == true => {
                let value = match parameter.get("example") {
                    Some(example) => example.clone(),
                    None => sample(document, &parameter["schema"], 0)?,
                };
                query.push(format!("{name}={}", shown(&value)));
            }
            _ => {}
        }
    }
    if url.contains('{') {
        bail!("{path} has a part that no parameter describes");
    }
    if !query.is_empty() {
        url = format!("{url}?{}", query.join("&"));
    }
    let streams = operation["responses"]["200"]["content"].as_object();
    let streams = streams.is_some_and(|c| c.contains_key("text/event-stream"));
    let mut words = vec!["curl".to_owned(), if streams { "-sSN" } else { "-sS" }.to_owned()];
    words.push("--unix-socket ~/.clawfarm/clawfarm.sock -H @auth".into());
    if method != "get" {
        words.push(format!("-X {}", method.to_uppercase()));
    }
    let mut line = words.join(" ");
    if let Some(content) = operation["requestBody"]["content"].get("application/json") {
        let body = match content.get("example") {
            Some(example) => example.clone(),
            None => sample(document, &content["schema"], 0)?,
        };
        let body = body.to_string();
        if body.contains('\'') {
            bail!("the example of {path} can't stand between quotes: {body}");
        }
        line.push_str(&format!(" -H 'content-type: application/json' \\\n  --data '{body}'"));
    }
    for media in operation["requestBody"]["content"].as_object().into_iter().flat_map(|c| c.keys()) {
        if media != "application/json" {
            line.push_str(&format!(" -H 'content-type: {media}' \\\n  --data-binary @file"));
        }
    }
    let quoted = if url.contains(['?', '&']) {
        format!("'http://localhost{url}'")
    } else {
        format!("http://localhost{url}")
    };
    Ok(format!("{line} \\\n  {quoted}"))
}

/// What stands for a part of a path in an example.
fn stand_in(path: &str, name: &str) -> &'static str {
    match (path, name) {
        (_, "message") => "MESSAGE",
        (p, "name") if p.contains("/configs/") => "support",
        (_, "number") => "1",
        (p, _) if p.contains("/rollouts/") => "ROLLOUT",
        (p, _) if p.contains("/operations/") => "OPERATION",
        (p, _) if p.contains("/datasets/") => "alice-x7k2m",
        (p, _) if p.contains("/consoles/") => "TICKET",
        (p, _) if p.contains("/secrets/") => "anthropic-key",
        (p, _) if p.contains("/policies/projects/") => "default",
        _ => "alice",
    }
}

/// A value that a schema takes: what must be there, or its first field when nothing must.
fn sample(document: &Value, schema: &Value, depth: usize) -> Result<Value> {
    if depth > 8 {
        bail!("a type contains itself: give it an example");
    }
    for given in ["example", "const"] {
        if let Some(value) = schema.get(given) {
            return Ok(value.clone());
        }
    }
    if let Some(value) = schema.pointer("/examples/0").or_else(|| schema.pointer("/enum/0")) {
        return Ok(value.clone());
    }
    if let Some(name) = reference(schema) {
        return sample(document, &document["components"]["schemas"][name], depth + 1);
    }
    if let Some(first) = schema.pointer("/oneOf/0").or_else(|| schema.pointer("/allOf/0")) {
        return sample(document, first, depth + 1);
    }
    let of = &schema["type"];
    Ok(match of.as_str().or_else(|| of[0].as_str()).unwrap_or("object") {
        "string" => json!("text"),
        "integer" | "number" => schema.get("minimum").cloned().unwrap_or_else(|| json!(1)),
        "boolean" => json!(true),
        "array" => json!([sample(document, &schema["items"], depth + 1)?]),
        _ => {
            let mut object = Map::new();
            for name in array(schema, "/required").iter().filter_map(Value::as_str) {
                object.insert(name.to_owned(), sample(document, &schema["properties"][name], depth + 1)?);
            }
            Value::Object(object)
        }
    })
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The page of all types.
fn types(document: &Value) -> Result<String> {
    let mut page = "# API types\n\nWhat the bodies of [the API](api.md) hold. Made from the program; do not edit. \
        Fields marked with * are always there in an answer and must be there in a request; unknown fields of a \
        request are refused.\n"
        .to_owned();
    for (name, schema) in document["components"]["schemas"].as_object().context("schemas")? {
        page.push_str(&format!("\n## {name}\n"));
        if let Some(said) = schema["description"].as_str() {
            page.push_str(&format!("\n{}\n", prose(said)));
        }
        if schema["properties"].is_object() {
            page.push_str(&fields(schema)?);
        } else if let Some(variants) = schema["oneOf"].as_array() {
            page.push_str("\nOne of:\n");
            for variant in variants {
                let said = variant["description"].as_str().map(|d| format!(": {}", prose(d)));
                page.push_str(&format!("\n- {}{}\n", kind(variant)?, said.unwrap_or_default()));
                if variant["properties"].is_object() {
                    page.push_str(&fields(variant)?);
                }
            }
        } else {
            page.push_str(&format!("\n{}\n", capital(&format!("{}{}", kind(schema)?, limits(schema)))));
        }
    }
    Ok(page)
}

fn fields(schema: &Value) -> Result<String> {
    let mut page = "\n| field | type | what |\n|---|---|---|\n".to_owned();
    let needed: Vec<&str> = array(schema, "/required").iter().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().context("properties")? {
        let star = if needed.contains(&name.as_str()) { "*" } else { "" };
        // What is said of a field that may be null stands beside its type.
        let said = field["description"].as_str().or_else(|| field.pointer("/oneOf/0/description")?.as_str());
        let mut what = said.unwrap_or_default().to_owned();
        match field.get("default") {
            None | Some(Value::Null) => {}
            Some(default) if default == "" => {}
            Some(default) => what.push_str(&format!(" Default: `{default}`.")),
        }
        let what = format!("{what}{}", limits(field));
        page.push_str(&row(&[&format!("`{name}`{star}"), &kind(field)?, &what]));
    }
    Ok(page)
}

/// The bounds of a value, as a sentence.
fn limits(schema: &Value) -> String {
    let mut said = Vec::new();
    for (key, words) in [
        ("minimum", "at least"),
        ("maximum", "at most"),
        ("minLength", "bytes at least:"),
        ("maxLength", "bytes at most:"),
        ("maxItems", "items at most:"),
    ] {
        // That a count is not negative need not be said.
        if let Some(bound) = schema.get(key).filter(|b| !(key == "minimum" && **b == 0)) {
            said.push(format!("{words} {bound}"));
        }
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        said.push(format!("as `{pattern}`"));
    }
    if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) }
}

/// A type in words, with a link where it has a name.
fn kind(schema: &Value) -> Result<String> {
    if let Some(name) = reference(schema) {
        return Ok(format!("[{name}](api-types.md#{})", name.to_lowercase()));
    }
    for key in ["oneOf", "anyOf", "allOf"] {
        if let Some(variants) = schema[key].as_array() {
            let kinds: Result<Vec<String>> = variants.iter().map(kind).collect();
            return Ok(kinds?.join(if key == "allOf" { " and " } else { " or " }));
        }
    }
    if let Some(values) = schema["enum"].as_array() {
        return Ok(values.iter().map(|v| format!("`{}`", shown(v))).collect::<Vec<_>>().join(", "));
    }
    if schema["items"].is_object() {
        return Ok(format!("list of {}", kind(&schema["items"])?));
    }
    if schema["additionalProperties"].is_object() {
        return Ok(format!("map of text to {}", kind(&schema["additionalProperties"])?));
    }
    let one = |name: &str| match (name, schema["format"].as_str()) {
        ("string", Some("date-time")) => "time (RFC 3339)".to_owned(),
        ("string", Some(format)) => format!("text ({format})"),
        ("string", None) => "text".to_owned(),
        ("integer", _) => "whole number".to_owned(),
        (name, _) => name.to_owned(),
    };
    Ok(match &schema["type"] {
        Value::String(name) => one(name),
        Value::Array(names) => {
            names.iter().filter_map(Value::as_str).map(one).collect::<Vec<_>>().join(" or ")
        }
        _ => "any value".to_owned(),
    })
}

fn reference(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

fn array<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Doc comments are broken into lines, and name types in brackets as rustdoc has them.
fn prose(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('<', "&lt;")
}

/// A row of a table: what would end a cell is not let through.
fn row(cells: &[&str]) -> String {
    let cells: Vec<String> = cells.iter().map(|c| prose(c).replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_told_with_all_it_takes() {
        let document = json!({
            "components": {
                "schemas": {"Send": {"type": "object", "required": ["text"], "properties": {
                    "text": {"type": "string", "description": "What | is said.", "maxLength": 9},
                    "many": {"oneOf": [{"$ref": "#/components/schemas/Send", "description": "More."}, {"type": "null"}], "default": null}
                }}},
                "responses": {"problem-404": {"description": "Nothing."}}
            },
            "tags": [{"name": "things", "description": "What there is"}],
            "paths": {"/things/{id}": {"post": {
                "tags": ["things"], "summary": "Does\nit.",
                "parameters": [
                    {"name": "id", "in": "path", "required": true, "schema": {"type": "string"}},
                    {"name": "wait", "in": "query", "required": true, "schema": {"type": "integer", "minimum": 3}}
                ],
                "requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Send"}}}},
                "responses": {"200": {"description": "Done", "headers": {"etag": {"description": "Its version"}}},
                              "404": {"$ref": "#/components/responses/problem-404"}}
            }}}
        });
        let pages = pages(&document).unwrap();
        let page = pages.requests;
        for words in [
            "### `POST /things/{id}`\n\nDoes it.\n",
            "| `wait` | query, needed | whole number |  |",
            "Body: [Send](api-types.md#send) (`application/json`).",
            "Answers **200**: Done\n",
            "`etag`: Its version",
            "[Errors](#errors): 404.",
            "| 404 | Nothing. |",
            "--data '{\"text\":\"text\"}'",
            "'http://localhost/things/alice?wait=3'",
        ] {
            assert!(page.contains(words), "{words:?} is missing in:\n{page}");
        }
        for words in [
            "## Send\n",
            "| `text`* | text | What \\| is said. (bytes at most: 9) |",
            "| `many` | [Send](api-types.md#send) or null | More. |",
        ] {
            assert!(pages.types.contains(words), "{words:?} is missing in:\n{}", pages.types);
        }
    }

    #[test]
    fn a_request_that_would_be_left_out_is_an_error() {
        let document = json!({
            "components": {"schemas": {}}, "tags": [],
            "paths": {"/x": {"get": {"tags": ["other"], "responses": {}}}}
        });
        assert!(pages(&document).is_err());
    }
}
