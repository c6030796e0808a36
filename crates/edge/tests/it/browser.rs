//! What a real browser does at the door: its forms, its cookies, and the rules of its own.

use std::sync::Arc;

use clawfarm_edge::{BaseDomain, EdgeConfig, EdgeTls};
use clawfarm_test_browser::Browser;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::claw::Claw;
use crate::farm::{Farm, State};

/// For all names below `localhost`, by nobody.
fn certificate() -> EdgeTls {
    let names = vec!["localhost".to_owned(), "*.localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let chain = vec![made.cert.der().clone()];
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    EdgeTls { config: Arc::new(config), certificates: None }
}

async fn farm(tls: bool) -> Farm {
    let base = BaseDomain::new("localhost").unwrap();
    Farm::over(tls.then(certificate), |config| EdgeConfig { base, ..config }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2e_a_person_signs_in_without_tls() {
    signs_in(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2e_a_person_signs_in_with_tls() {
    signs_in(true).await;
}

/// From a claw's address over the form to where it was wanted to go; a sibling's page can do nothing
/// with that; and out again.
async fn signs_in(tls: bool) {
    let (farm, claw) = (farm(tls).await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    farm.put("b-1", State::Awake, claw.address);
    let scheme = if tls { "https" } else { "http" };
    let port = farm.address.port();
    let at = move |name: &str, path: &str| format!("{scheme}://{name}.localhost:{port}{path}");
    let targets = claw.targets.clone();
    let came = move |target: &str| targets.lock().unwrap().iter().any(|it| it == target);
    tokio::task::spawn_blocking(move || {
        let mut browser = Browser::new(&["--ignore-certificate-errors"]);
        browser.go(&at("a-1", "/chat?x=1"));
        browser.until_text("Your clawfarm token");
        assert!(browser.address().starts_with(&at("clawfarm", "/_clawfarm/go?")), "{}", browser.address());
        browser.until("the cursor is in the field", "document.activeElement.id === 'token'");
        browser.type_text("not it");
        browser.press_enter();
        browser.until_text("That token is nobody's here.");
        browser.until("the cursor is in the field", "document.activeElement.id === 'token'");
        browser.type_text("ann's token");
        // The policy of the page names where its form may lead, redirects included.
        browser.press_enter();
        let there = format!("location.href === '{}'", at("a-1", "/chat?x=1"));
        browser.until("it is where it was going", &there);
        browser.until_text("\"target\":\"/chat?x=1\"");
        assert_eq!(browser.eval("document.cookie"), "", "no script sees the session");
        let text = browser.text();
        assert!(!text.contains("clawfarm-session") && !text.contains("ticket"), "{text}");
        // A page of its own may do all that its person may.
        let own = "fetch('/own', {method: 'POST', body: 'x'}).then(a => a.status)";
        assert_eq!(browser.eval(own), 200);
        // Another claw is opened without being asked again.
        browser.go(&at("b-1", "/"));
        browser.until_text("\"target\":\"/\"");
        let sibling = format!(
            "fetch('{}', {{method: 'POST', credentials: 'include', mode: 'no-cors', body: 'x'}}).then(a => a.type)",
            at("a-1", "/act")
        );
        assert_eq!(browser.eval(&sibling), "opaque");
        let socket = format!(
            "new Promise(d => {{ const s = new WebSocket('{}'); s.onopen = () => d('open'); s.onerror = () => d('refused') }})",
            at("a-1", "/ws").replacen("http", "ws", 1)
        );
        assert_eq!(browser.eval(&socket), "refused");
        assert!(!came("/act") && !came("/ws"), "nothing of it comes to the claw");
        let own = socket.replace("a-1.", "b-1.");
        assert_eq!(browser.eval(&own), "open", "its own WebSocket is its own");
        browser.go(&at("clawfarm", "/"));
        browser.until_text("Your claws");
        browser.eval("document.querySelector('form').submit()");
        browser.until_text("Sign in");
    })
    .await
    .unwrap();
}
