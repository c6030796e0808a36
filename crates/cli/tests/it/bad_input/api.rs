//! The table of the API.

use serde_json::Value;

use super::http::{ABSENT, Request, ask};
use super::server::Server;

/// What a request is answered with: the status, the field, a part of the reason, and one of the fix.
type Expected = (u16, &'static str, &'static str, &'static str);

const INSTANCES: &str = "/api/v1/instances";
const SECRET: &str = "/api/v1/secrets/key";

fn create(fields: &str) -> Request {
    let comma = if fields.is_empty() { "" } else { "," };
    Request::new("POST", INSTANCES, format!(r#"{{"claw_type":"openclaw","target":"sim"{comma}{fields}}}"#))
}

fn post(target: &str, body: &str) -> Request {
    Request::new("POST", target, body)
}

fn get(target: &str) -> Request {
    Request::get(target)
}

/// A handshake for a connection to a port, with these headers of it.
fn handshake(headers: &[(&'static str, &str)]) -> Request {
    let request = get(&format!("{INSTANCES}/{{id}}/port-forward")).with("connection", "upgrade, close");
    headers.iter().fold(request.with("upgrade", "websocket"), |r, (name, value)| r.with(name, *value))
}

/// `{id}` in a target stands for a claw's id.
#[rustfmt::skip]
fn table() -> Vec<(Request, Expected)> {
    let config = |config: &str| create(&format!(r#""config":{config}"#));
    let model = |model: &str| config(&format!(r#"{{"model":{model}}}"#));
    let list = |query: &str| get(&format!("{INSTANCES}?{query}"));
    let one = |rest: &str| format!("{INSTANCES}/{{id}}{rest}");
    let put = |target: String, body: &str| Request::new("PUT", target, body);
    let description = "openapi.json";
    vec![
        // Bodies.
        (post(INSTANCES, " "), (400, "body", "no JSON", "JSON object")),
        (post(INSTANCES, "{"), (400, "body", "no JSON", "JSON object")),
        (post(INSTANCES, r#"{"claw_type":"openclaw"} trailing"#), (400, "body", "trailing", "JSON object")),
        (post(INSTANCES, "{'claw_type':'openclaw'}"), (400, "body", "no JSON", "JSON object")),
        (post(INSTANCES, r#"{"claw_type":"openclaw",}"#), (400, "body", "trailing comma", "JSON object")),
        (post(INSTANCES, r#"{"claw_type":NaN}"#), (400, "body", "no JSON", "JSON object")),
        (post(INSTANCES, "\u{feff}{}"), (400, "body", "no JSON", "JSON object")),
        (Request::new("POST", INSTANCES, b"{\"claw_type\":\"\xff\xfe\"}"), (400, "body", "no JSON", "JSON object")),
        (post(INSTANCES, r#"{"claw_type":"\ud800"}"#), (400, "body", "no JSON", "JSON object")),
        (post(INSTANCES, "[]"), (400, "body", "no object", "JSON object")),
        (post(INSTANCES, r#""openclaw""#), (400, "body", "no object", "JSON object")),
        (post(INSTANCES, &"[".repeat(10_000)), (400, "[0]", "nested deeper than 64", "less nesting")),
        (post(INSTANCES, &r#"{"a":"#.repeat(10_000)), (400, "a.a", "nested deeper than 64", "less nesting")),
        (create(r#""claw_type":"openclaw""#), (400, "claw_type", "given twice", "each name once")),
        (config(r#"{"native":{"a":{"b":1,"b":2}}}"#), (400, "config.native.a.b", "given twice", "each name once")),
        (post(INSTANCES, &format!(r#"{{"claw_type":"{}"}}"#, "x".repeat(2 << 20))), (413, "body", "longer than 1 MiB", "send less")),
        (post(INSTANCES, "{}").with("content-length", "104857600"), (413, "body", "longer than 1 MiB", "send less")),
        (create("").with("content-type", "text/plain"), (415, "Content-Type", "not JSON", "application/json")),
        (create("").with("content-type", ABSENT), (415, "Content-Type", "not JSON", "application/json")),
        (create("").with("content-type", "application/x-www-form-urlencoded"), (415, "Content-Type", "not JSON", "application/json")),
        (Request::new("POST", INSTANCES, b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03").with("content-encoding", "gzip"), (415, "Content-Encoding", "'gzip'", "as it is")),
        // Types and ranges of fields.
        (post(INSTANCES, "{}"), (400, "claw_type", "is empty", "beginning with a letter")),
        (post(INSTANCES, r#"{"claw_type":7}"#), (400, "claw_type", "expected a string", description)),
        (post(INSTANCES, r#"{"claw_type":null}"#), (400, "claw_type", "expected a string", description)),
        (post(INSTANCES, r#"{"claw_type":"ubuntu:24.04"}"#), (400, "claw_type", "contains ':'", "a-z")),
        (post(INSTANCES, r#"{"claw_type":"nobody"}"#), (400, "claw_type", "nobody", "openclaw")),
        (create(r#""colour":"red""#), (400, "colour", "unknown field", description)),
        (create(r#""name":"""#), (400, "name", "is empty", "beginning with a letter")),
        (create(r#""name":"Alice""#), (400, "name", "contains 'A'", "a-z")),
        (create(r#""name":"../etc""#), (400, "name", "contains '.'", "a-z")),
        (create(r#""name":"a\u0000b""#), (400, "name", "contains '\\u{0}'", "a-z")),
        (create(r#""name":"а""#), (400, "name", "contains '\\u{430}'", "a-z")),
        (create(r#""name":"a\u001b[2Jb""#), (400, "name", "contains '\\u{1b}'", "a-z")),
        (create(r#""name":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa""#), (400, "name", "longer than 32", "1 to 32")),
        (create(r#""name":"-a""#), (400, "name", "begin with a letter", "a-z")),
        (create(r#""version":"latest""#), (400, "version", "no exact version", "such as")),
        (create(r#""version":"1.2.3; rm -rf /""#), (400, "version", "no exact version", "such as")),
        (create(r#""runtime":"wasm""#), (400, "runtime", "unknown variant", description)),
        (create(r#""runtime":"kubernetes""#), (400, "runtime", "no target here", "sim (sim)")),
        (Request::new("POST", INSTANCES, r#"{"claw_type":"openclaw","target":"nowhere"}"#), (404, "target", "nowhere", "local, vm, sim")),
        (create(r#""port":0"#), (400, "port", "privileged", "1024 to 65535")),
        (create(r#""port":1023"#), (400, "port", "privileged", "1024 to 65535")),
        (create(r#""port":65536"#), (400, "port", "65536", description)),
        (create(r#""port":-1"#), (400, "port", "-1", description)),
        (create(r#""port":2000.5"#), (400, "port", "floating point", description)),
        (create(r#""port":"2000""#), (400, "port", "string", description)),
        (create(r#""port":1e400"#), (400, "body", "out of range", "JSON object")),
        (create(r#""resources":[1,2048]"#), (400, "resources", "sequence", description)),
        (create(r#""resources":{"cpus":0}"#), (400, "resources.cpus", "0 cores", "0.05")),
        (create(r#""resources":{"cpus":1e300}"#), (400, "resources.cpus", "cores", "1024")),
        (create(r#""resources":{"cpus":true}"#), (400, "resources.cpus", "boolean", description)),
        (create(r#""resources":{"memory_mib":1}"#), (400, "resources.memory_mib", "1 MiB", "64")),
        (create(r#""resources":{"memory_mib":99999999999999999999}"#), (400, "resources.memory_mib", "invalid type", description)),
        (create(r#""resources":{"memory":"2G"}"#), (400, "resources.memory", "unknown field", description)),
        (create(r#""ready_timeout_secs":0"#), (400, "ready_timeout_secs", "0 s", "1 to 86400")),
        (create(r#""restart":{"window_secs":4294967295}"#), (400, "restart.window_secs", "too much", "2147483647")),
        (create(r#""labels":{"a b":"c"}"#), (400, "labels", "can't be used", "letters")),
        (create(r#""labels":{"x":1}"#), (400, "labels.x", "integer", description)),
        (create(r#""secrets":{"bad name":"x"}"#), (400, "secrets.bad name", "can't be a secret's name", "letters")),
        (create(r#""secrets":{"k":"a\u0000b"}"#), (400, "secrets.k", "NUL", "without NUL")),
        (create(r#""import":"/etc""#), (400, "import", "own machine", "without --host")),
        (create(r#""dataset":"none-x7k2b""#), (404, "id", "none-x7k2b", "dataset ls")),
        (create(r#""dataset":"../../etc""#), (400, "dataset", "contains '.'", "a-z")),
        (config(r#"{"env":{"A-B":"x"}}"#), (400, "config.env", "variable's name", "letters")),
        (config(r#"{"env":{"LD_PRELOAD":"x"}}"#), (400, "config.env.LD_PRELOAD", "set by clawfarm", "remove it")),
        (config(r#"{"env":{"A":"x\u0000y"}}"#), (400, "config.env.A", "NUL", "remove it")),
        (config(r#"{"env":{"A":["kept"]}}"#), (400, "config.env.A", "text, or a reference", "secret")),
        (config(r#"{"native":{"gateway":{"port":1}}}"#), (400, "config.native.gateway.port", "set by clawfarm", "remove it")),
        (config(r#"{"native":null}"#), (400, "config.native", "expected an object", description)),
        (model(r#"{"provider":"nobody"}"#), (400, "config.model.provider", "unknown variant", description)),
        (model(r#"{"provider":"openai"}"#), (400, "config.model.api_key", "needs a key", "secret")),
        (model(r#"{"provider":"openai","api_key":{"secret":"none"}}"#), (400, "config", "'none', which does not exist", "secret set")),
        (model(r#"{"provider":"openai","api_key":"sk-in-the-wrong-place"}"#), (400, "config.model.api_key", "expected", description)),
        (model(r#"{"provider":"openai-compatible","name":"m","base_url":"file:///etc/passwd"}"#), (400, "config.model.base_url", "no address", "https://")),
        (model(r#"{"provider":"openai","name":"a\nb","api_key":{"secret":"kept"}}"#), (400, "config.model.name", "model's name", "letters")),
        // Paths.
        (get("/api/v1/instances/%2e%2e%2fetc%2fpasswd"), (400, "id", "can't be an id", "letters")),
        (get("/api/v1/instances/a%00b"), (400, "id", "can't be an id", "letters")),
        (get("/api/v1/instances/%ff"), (400, "path", "no UTF-8", "escape")),
        (get(&format!("/api/v1/instances/{}", "a".repeat(65))), (400, "id", "can't be an id", "1 to 64")),
        (get("/api/v1/instances/nobody"), (404, "id", "no instance named 'nobody'", "clawfarm ps")),
        (get("/api/v1/instances/{id}/nothing"), (404, "path", "nothing at this path", description)),
        (get("/api/v1/instances/"), (404, "path", "nothing at this path", description)),
        (get("/api/v2/instances"), (404, "path", "nothing at this path", description)),
        (get("/api/v1/operations/nothing"), (404, "id", "nothing", "operations")),
        (Request::new("DELETE", "/api/v1/datasets/claw", ""), (404, "id", "claw", "dataset ls")),
        (Request::new("DELETE", "/api/v1/datasets/UPPER", ""), (400, "id", "contains 'U'", "a-z")),
        (Request::new("DELETE", "/api/v1/secrets/none", ""), (404, "name", "none", "secret ls")),
        // Methods.
        (Request::new("DELETE", INSTANCES, "{}"), (405, "method", "does not know", "Allow")),
        (Request::new("TRACE", INSTANCES, ""), (405, "method", "does not know", "Allow")),
        (Request::new("BREW", one("/start"), ""), (405, "method", "does not know", "Allow")),
        (get(&one("/start")), (405, "method", "does not know", "Allow")),
        // Queries.
        (list("limit=0"), (400, "limit", "0 items", "1 to 500")),
        (list("limit=-1"), (400, "limit", "invalid digit", description)),
        (list("limit=99999999999"), (400, "limit", "too large", description)),
        (list("limit="), (400, "limit", "empty", "leave it out")),
        (list("limit=1&limit=2"), (400, "limit", "more than once", description)),
        (list("colour=red"), (400, "colour", "unknown field", description)),
        (list("phase=tired"), (400, "phase", "unknown variant", description)),
        (list("target=No%20Where"), (400, "target", "contains 'N'", "a-z")),
        (list("include_destroyed=perhaps"), (400, "include_destroyed", "true", description)),
        (list("label=nothing"), (400, "label", "key=value", "team=support")),
        (list("label=a=1&label=a=2"), (400, "label", "two values", "once")),
        (list("cursor=MS5pbnN0YW5jZXMuMS4nIE9SIDE9MQ"), (400, "cursor", "no cursor", "next")),
        (get("/api/v1/events?after=-5"), (400, "after", "numbered from 1", "0")),
        (get("/api/v1/events?after=9223372036854775808"), (400, "after", "too large", description)),
        (get("/api/v1/operations/x?wait=61"), (400, "wait", "so long", "60 seconds")),
        (get("/api/v1/operations?instance=a%2Fb"), (400, "instance", "can't be an id", "letters")),
        (get(&one("/logs?tail=10001")), (400, "tail", "so many lines", "10000")),
        (get(&one("/logs?since=yesterday")), (400, "since", "RFC 3339", description)),
        // Headers.
        (get(INSTANCES).with("authorization", ABSENT), (401, "Authorization", "no token", "admin.token")),
        (get(INSTANCES).with("authorization", "Bearer wrong"), (401, "Authorization", "not this server's", "admin.token")),
        (get(INSTANCES).with("authorization", "Basic YTpi"), (401, "Authorization", "not this server's", "admin.token")),
        (create("").with("idempotency-key", "a b"), (400, "Idempotency-Key", "no key", "visible ASCII")),
        (create("").with("idempotency-key", "k".repeat(129)), (400, "Idempotency-Key", "no key", "128")),
        (create("").with("idempotency-key", "a").with("idempotency-key", "b"), (400, "Idempotency-Key", "no key", "once")),
        (put(one(""), "{}").with("if-match", "7"), (400, "If-Match", "no single ETag", "quotes")),
        (put(one(""), "{}").with("if-match", "\"+7\""), (400, "If-Match", "no single ETag", "quotes")),
        (put(one(""), "{}").with("if-match", "\"1\", \"2\""), (400, "If-Match", "no single ETag", "quotes")),
        (put(one(""), "{}").with("if-match", "\"999999\""), (412, "If-Match", "not 999999", "read it again")),
        (get("/api/v1/events").with("last-event-id", "x"), (400, "Last-Event-ID", "no number", "last event")),
        (get("/api/v1/events").with("last-event-id", "-1"), (400, "Last-Event-ID", "no number", "last event")),
        // Changes of what is there.
        (put(one(""), r#"{"name":"other"}"#), (400, "name", "unknown field", description)),
        (put(one(""), r#"{"resources":{"cpus":-1}}"#), (400, "resources.cpus", "-1 cores", "0.05")),
        (Request::new("DELETE", one("?purge=perhaps"), ""), (400, "purge", "true", description)),
        (post(&one("/stop"), r#"{"force":1}"#), (400, "force", "integer", description)),
        (post(&one("/suspend"), r#"{"hard":true}"#), (400, "hard", "unknown field", description)),
        (post(&one("/update"), r#"{"version":"latest"}"#), (400, "version", "no exact version", "2026.9.6")),
        (post(&one("/update"), r#"{"versions":1}"#), (400, "versions", "unknown field", description)),
        (post(&one("/send"), r#"{"message":""}"#), (400, "message", "0 bytes", "1 byte to 64 KiB")),
        (post(&one("/send"), r#"{"message":["hi"]}"#), (400, "message", "expected a string", description)),
        (post(&one("/console"), r#"{"argv":["a\u0000"]}"#), (400, "argv", "NUL", "remove it")),
        (post(&one("/console"), r#"{"argv":[""]}"#), (400, "argv[0]", "no program", "shell")),
        (post(&one("/console"), r#"{"argv":"ls"}"#), (400, "argv", "expected", description)),
        (post(&one("/console"), r#"{"tty":true,"cols":0}"#), (400, "cols", "no terminal", "1 to 1000")),
        (post(&one("/console"), r#"{"term":"x\u001b[2J"}"#), (400, "term", "no terminal's type", "xterm")),
        (get("/api/v1/consoles/none"), (401, "ticket", "never was", "console")),
        // Broken handshakes of a WebSocket.
        (get(&one("/port-forward")), (426, "Upgrade", "WebSocket", "as a WebSocket")),
        (handshake(&[]), (426, "Upgrade", "WebSocket", "as a WebSocket")),
        (handshake(&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]), (426, "Upgrade", "Version", "as a WebSocket")),
        (handshake(&[("sec-websocket-version", "12"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]), (426, "Upgrade", "Version", "as a WebSocket")),
        (handshake(&[("sec-websocket-version", "13")]), (426, "Upgrade", "Key", "as a WebSocket")),
        (get(&one("/port-forward")).with("upgrade", "h2c").with("sec-websocket-version", "13"), (426, "Upgrade", "WebSocket", "as a WebSocket")),
        (post(&one("/port-forward"), "{}"), (405, "method", "does not know", "Allow")),
        (put(SECRET.into(), r#"{"value":""}"#), (400, "value", "empty", "1 byte")),
        (put(SECRET.into(), r#"{"value":"a\u0000"}"#), (400, "value", "NUL", "without NUL")),
        (put(SECRET.into(), r#"{"value":["x"]}"#), (400, "value", "expected a string", description)),
        (put(SECRET.into(), &format!(r#"{{"value":"{}"}}"#, "x".repeat(70_000))), (400, "value", "64 KiB", "64 KiB")),
        (put(SECRET.into(), r#"{"value":"x","instance":"nobody-x7k2b"}"#), (404, "id", "nobody-x7k2b", "clawfarm ps")),
        (put(SECRET.into(), r#"{"value":"x","scope":"project"}"#), (400, "scope", "does not fit", "'project' with a project")),
        (put(SECRET.into(), r#"{"value":"x","project":"nowhere"}"#), (404, "project", "nowhere", "clawfarm status")),
        (get("/api/v1/secrets/none"), (404, "name", "none", "secret ls")),
        (post("/api/v1/secrets/none/rotate", r#"{"value":"x"}"#), (404, "name", "none", "secret ls")),
        (post("/api/v1/secrets/key/rotate", "{}"), (400, "value", "one new value", "the one before")),
        (post("/api/v1/secrets/key/rotate", r#"{"value":"x","parallel":0}"#), (400, "parallel", "out of range", "1 to 1000")),
        (put("/api/v1/secrets/clawfarm.x".into(), r#"{"value":"x"}"#), (400, "secret", "clawfarm's own", "another name")),
        (put("/api/v1/secrets/a%2Fb".into(), r#"{"value":"x"}"#), (400, "secret", "secret's name", "letters")),
    ]
}

/// What is no HTTP at all, or more than a head may hold: the library in front of the API answers
/// with the status alone, and hangs up.
fn not_http() -> Vec<(&'static str, Vec<u8>, u16)> {
    let (long, longer) = ("a".repeat(70_000), "a".repeat(300_000));
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    vec![
        ("nonsense", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), 400),
        ("a NUL in the path", b"GET /api/v1/in\0stances HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), 400),
        ("a line end in a header", b"GET / HTTP/1.1\r\nhost: x\r\nx-a: b\0c\r\n\r\n".to_vec(), 400),
        ("no version that there is", b"GET / HTTP/9.9\r\nhost: x\r\n\r\n".to_vec(), 400),
        (
            "two lengths",
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_vec(),
            400,
        ),
        ("a long target", format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes(), 414),
        ("a long header", format!("GET / HTTP/1.1\r\nhost: x\r\nx: {longer}\r\n\r\n").into_bytes(), 431),
        ("many headers", format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n").into_bytes(), 431),
    ]
}

#[test]
fn every_case_names_field_reason_and_fix_and_changes_nothing() {
    let mut server = Server::start(2);
    let before = server.state();
    let table = table();
    assert!(table.len() >= 60, "{}", table.len());
    let mut wrong = Vec::new();
    for (request, (status, field, reason, fix)) in table {
        let request = Request { target: request.target.replace("{id}", &server.claws[0]), ..request };
        let answer = ask(&server.address, &request.bytes(&server.token));
        let text = answer.text();
        let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let part = |name: &str| problem[name].as_str().unwrap_or_default();
        let named = if field.starts_with("[0]") || field == "a.a" {
            part("field").starts_with(field)
        } else {
            part("field") == field
        };
        let good = answer.status == status
            && problem["status"] == status
            && named
            && part("reason").contains(reason)
            && part("fix").contains(fix)
            && !part("fix").is_empty()
            && answer.head.contains("application/problem+json")
            && (status != 405 || answer.head.contains("\r\nallow: "))
            && !text.contains("sk-in-the-wrong-place")
            && !text.chars().any(|c| c.is_control() && c != '\n');
        if !good {
            let body = String::from_utf8_lossy(&request.body).chars().take(120).collect::<String>();
            wrong.push(format!(
                "{} {} {body}\n  wanted {status} {field:?} {reason:?} {fix:?}\n  got {} {text}",
                request.method,
                request.target.chars().take(80).collect::<String>(),
                answer.status
            ));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
    for (what, bytes, status) in not_http() {
        let answer = ask(&server.address, &bytes);
        assert_eq!(answer.status, status, "{what}: {}", answer.head);
        assert!(answer.head.contains("connection: close"), "{what}: {}", answer.head);
    }
    server.is_as_before(&before);
}

#[test]
fn http_1_0_is_served_as_well() {
    let server = Server::start(0);
    let request = format!("GET /api/v1/server HTTP/1.0\r\nauthorization: Bearer {}\r\n\r\n", server.token);
    assert_eq!(ask(&server.address, request.as_bytes()).status, 200);
    let refused = ask(&server.address, b"GET /api/v1/server HTTP/1.0\r\n\r\n");
    assert_eq!(refused.status, 401);
    assert!(refused.text().contains("admin.token"), "{}", refused.text());
}
