use base64::Engine;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A secret as people and programs make them, of the greatest variety.
fn secret() -> impl Strategy<Value = String> {
    prop_oneof![
        "[A-Za-z0-9_-]{8,60}",
        "[!-~]{8,40}",
        "[!-~]{6}[ -~]{0,20}[!-~]{6}",
        "[a-zäöüß€]{8,20}",
        "[A-Za-z0-9+/]{12,40}\n[A-Za-z0-9+/]{12,40}",
    ]
}

fn url(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

/// A place to plant it in, with words around it that have nothing of a credential about them.
fn planted(secret: &str, form: usize, before: &str, after: &str, cut: usize) -> String {
    let base64 = base64::engine::general_purpose::STANDARD;
    match form {
        0 => format!("{before} {secret} {after}"),
        1 => json!({ "note": format!("{before}{secret}{after}"), "n": [1, 2] }).to_string(),
        2 => format!("GET /path?q={}&x=1", url(secret)),
        3 => format!("{before} {} {after}", base64.encode(secret)),
        // Within something longer, at any of the three places that base64 has.
        4 => base64.encode(format!("{before}{secret}{after}")),
        5 => json!({ "outer": json!({ "inner": secret }).to_string() }).to_string(),
        6 => secret.bytes().map(|b| format!("{b:02x}")).collect(),
        // Across the end of a line.
        7 => {
            let at = secret.char_indices().map(|(at, _)| at).nth(cut % secret.chars().count()).unwrap_or(0);
            format!("{before}{}\n{}{after}", &secret[..at], &secret[at..])
        }
        // Several times, side by side.
        _ => format!("{secret}{secret} {secret}"),
    }
}

/// The value is not there in any form, nor when the ends of its lines are taken away.
fn absent(secret: &str, out: &str) -> Result<(), TestCaseError> {
    let flat = |text: &str| -> String { text.chars().filter(|c| !c.is_whitespace()).collect() };
    let json = json!(secret).to_string();
    for trace in [secret, &json[1..json.len() - 1], &url(secret), &planted(secret, 6, "", "", 0)] {
        prop_assert!(!flat(out).contains(&flat(trace)), "{secret:?} is in {out:?}");
    }
    for word in out.split(|c: char| !c.is_ascii_alphanumeric() && !"+/=".contains(c)) {
        for skip in 0..4_usize.min(word.len()) {
            let whole = word[skip..].trim_end_matches('=');
            let engine = base64::engine::general_purpose::STANDARD_NO_PAD;
            let bytes = engine.decode(&whole[..whole.len() / 4 * 4]).unwrap_or_default();
            prop_assert!(!String::from_utf8_lossy(&bytes).contains(secret), "{secret:?} is in {out:?}");
        }
    }
    Ok(())
}

proptest! {
    // One case takes milliseconds where nothing is optimised.
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_known_value_never_comes_out(
        secret in secret(), other in secret(), form in 0..9_usize, beside in 0..9_usize,
        before in "[a-z .]{0,12}", after in "[a-z .]{0,12}", cut in 0..64_usize,
    ) {
        let redactor = Redactor::new([secret.as_str(), other.as_str()].into_iter());
        // Side by side with another one, in another form.
        let text = planted(&secret, form, &before, &after, cut) + &planted(&other, beside, "", &after, cut);
        let out = redactor.text(&text);
        prop_assert!(out.contains(REDACTED), "{text:?} -> {out:?}");
        absent(&secret, &out)?;
        absent(&other, &out)?;
        prop_assert_eq!(out.matches('\n').count(), text.matches('\n').count(), "lines stay lines");
        // As a text, as a name, and below both.
        let document = json!({ "log": [text, { "n": secret }], &secret: { &other: 1 } });
        let out = redactor.json(document);
        prop_assert!(serde_json::from_str::<Value>(&out).is_ok(), "{out}");
        absent(&secret, &out)?;
        absent(&other, &out)?;
    }

    #[test]
    fn what_has_a_secrets_name_never_comes_out(value in "[A-Za-z0-9!$%*+./:^_~-]{1,30}", which in 0..12_usize) {
        let name = ["token", "bot_token", "apiKey", "API-KEY", "password", "DB_PASSWORD", "client_secret", "key",
            "signing_key", "Authorization", "privateKey", "aws_secret_access_key"][which];
        let redactor = Redactor::new(std::iter::empty());
        let kept = format!("keep-{}", "x".repeat(3));
        let document = json!({ name: value, "a": [{ name: { "deep": [value] } }], "plain": kept });
        let out = redactor.json(document.clone());
        let read: Value = serde_json::from_str(&out).expect("JSON");
        prop_assert_eq!(&read[name], REDACTED);
        prop_assert_eq!(&read["a"][0][name]["deep"][0], REDACTED);
        prop_assert_eq!(&read["plain"], &json!(kept));
        for text in [document.to_string(), format!("{name}={value}"), format!("{name}: {value}\n")] {
            let out = redactor.text(&text);
            prop_assert!(!out.contains(&format!("={value}")) && !out.contains(&format!(": {value}"))
                && !out.contains(&format!(":\"{value}\"")), "{text:?} -> {out:?}");
        }
    }

    #[test]
    fn any_text_is_taken(text in "\\PC{0,200}", value in "\\PC{0,30}") {
        let redactor = Redactor::new(std::iter::once(value.as_str()));
        let _ = redactor.text(&text);
    }
}

#[test]
fn credentials_are_known_by_their_looks() {
    let redactor = Redactor::new(std::iter::empty());
    let hex = "0123456789abcdef".repeat(4);
    let key = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\nAAAA\n-----END EC PRIVATE KEY-----";
    for (text, gone) in [
        ("using sk-ant-api03-AbCdEf0123456789xyz now".to_owned(), "AbCdEf"),
        ("bot 123456789:AAF-abcdefghijklmnopqrstuvwxyz0123456 is up".into(), "AAF-"),
        ("authorization is Bearer abc.def-123456".into(), "abc.def"),
        ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl here".into(), "eyJzdWIi"),
        (format!("{key}\nafter"), "MHcCAQEE"),
        ("-----BEGIN PRIVATE KEY-----\ncut off".into(), "cut off"),
        ("postgres://farm:hunter2@db.example/x".into(), "hunter2"),
        ("GET /ui?a=1&access_token=zzz9 done".into(), "zzz9"),
        ("http://127.0.0.1:1/#token=zzz9".into(), "zzz9"),
        ("ghp_0123456789abcdefghij".into(), "0123456789abc"),
        ("xoxb-12345678-abcdef".into(), "12345678"),
        ("AKIAIOSFODNN7EXAMPLE".into(), "AKIAIOSF"),
        (format!("the token {hex}."), "0123456789abcdef0123"),
        (r#"{"line":"{\"password\":\"hunter2\"}"}"#.into(), "hunter2"),
    ] {
        let out = redactor.text(&text);
        assert!(!out.contains(gone) && out.contains(REDACTED), "{text:?} -> {out:?}");
    }
    let out = redactor.text(&format!("{key}\nafter"));
    assert!(out.ends_with("\nafter") && out.lines().count() == 5, "{out:?}");
    assert_eq!(redactor.text("postgres://farm:hunter2@db/x"), "postgres://[redacted]@db/x");
}

#[test]
fn what_is_no_secret_stays() {
    let redactor = Redactor::new(["abc", "hunter2-hunter2"].into_iter());
    for text in [
        "abc is too short to be looked for",
        "2026-11-21T07:36:40Z INFO the server begins version=0.1.0 pid=4711",
        "alice-x7k2m is ready at http://127.0.0.1:18790",
        "clawfarm_instances{phase=\"ready\"} 3",
    ] {
        assert_eq!(redactor.text(text), text);
    }
}

#[test]
fn a_document_stays_one() {
    let redactor = Redactor::new(["hunter2-hunter2", "4711471147"].into_iter());
    let out = redactor.json(json!({
        "model": { "api_key": { "secret": "anthropic-key" }, "base_url": "http://me:pw@model.test/v1" },
        "env": { "BOT_TOKEN": "plain", "N": 4_711_471_147_u64, "ON": true },
        "native": { "password": { "secret": "a", "b": "c" }, "maxTokens": 4096, "secret": "x" },
    }));
    let wanted = json!({
        "model": { "api_key": { "secret": "anthropic-key" }, "base_url": "http://[redacted]@model.test/v1" },
        "env": { "BOT_TOKEN": REDACTED, "N": REDACTED, "ON": true },
        "native": { "password": { "secret": REDACTED, "b": REDACTED }, "maxTokens": 4096, "secret": REDACTED },
    });
    assert_eq!(serde_json::from_str::<Value>(&out).expect("JSON"), wanted);
}

#[test]
fn of_two_values_that_overlap_nothing_stays() {
    let redactor = Redactor::new(["alpha-beta", "beta-gamma", "alpha-beta-gamma-delta"].into_iter());
    assert_eq!(redactor.text("x alpha-beta-gamma y"), "x [redacted] y");
    assert_eq!(redactor.text("alpha-beta-gamma-delta!"), "[redacted]!");
}

#[test]
fn values_too_short_to_look_for_are_counted() {
    let redactor = Redactor::new(["1234", "hunter2-hunter2"].into_iter());
    assert_eq!((redactor.known(), redactor.too_short()), (1, 1));
}
