//! An edge behind a proxy with TLS, and claws below one name.

use clawfarm_edge::Proxies;
use http_body_util::Full;

use crate::claw::Claw;
use crate::farm::{Answer, Farm, State, USER_HEADER, bearer};

async fn behind(networks: &str) -> Farm {
    let networks = vec![networks.parse().unwrap()];
    Farm::with(|config| clawfarm_edge::EdgeConfig {
        proxies: Some(Proxies { networks, tls: true, port: 443 }),
        ..config
    })
    .await
}

/// A request as nginx passes it on.
fn passed_on(method: &str, path: &str) -> http::request::Builder {
    http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "a-1.claws.test")
        .header("x-forwarded-for", "6.6.6.6, 198.51.100.7")
        .header("x-forwarded-proto", "https")
        .header("x-request-id", "from-nginx-1")
}

#[tokio::test]
async fn a_proxy_s_word_counts_when_it_is_one_of_ours() {
    let (farm, claw) = (behind("127.0.0.0/8").await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let request = passed_on("GET", "/").header("authorization", bearer("a-1")).body(Full::default()).unwrap();
    let answer = Answer::of(farm.ask(request).await).await;
    assert_eq!(answer.headers["x-request-id"], "from-nginx-1");
    let headers = answer.json()["headers"].clone();
    assert_eq!(headers["x-forwarded-for"], "198.51.100.7");
    assert_eq!(headers["x-forwarded-proto"], "https");
    assert_eq!(headers["x-forwarded-host"], "a-1.claws.test");
    assert_eq!(headers["x-request-id"], "from-nginx-1");
}

#[tokio::test]
async fn a_stranger_s_word_does_not_count() {
    let (farm, claw) = (behind("10.0.0.0/8").await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let request = passed_on("GET", "/").header("authorization", bearer("a-1")).body(Full::default()).unwrap();
    let answer = Answer::of(farm.ask(request).await).await;
    assert_ne!(answer.headers["x-request-id"], "from-nginx-1");
    let headers = answer.json()["headers"].clone();
    assert_eq!(
        (&headers["x-forwarded-for"], &headers["x-forwarded-proto"]),
        (&"192.0.2.1".into(), &"http".into())
    );
}

#[tokio::test]
async fn sessions_are_for_tls_when_people_have_it() {
    let (farm, claw) = (behind("127.0.0.0/8").await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let site = {
        use clawfarm_edge::Directory as _;
        farm.fleet.look_up(&clawfarm_model::ClawId::new("a-1").unwrap()).await.unwrap().unwrap()
    };
    let person = clawfarm_edge::Person { name: "ann".into(), bound: "b".into() };
    let ticket = farm.edge.ticket(&site, &person).unwrap();
    let entered = farm.ask(passed_on("GET", &ticket).body(Full::default()).unwrap()).await;
    let cookie = entered.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.starts_with("__Host-clawfarm-session=") && cookie.contains("; Secure"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let post = |origin: &str| {
        let request = passed_on("POST", "/").header("cookie", cookie).header("origin", origin);
        farm.ask(request.body(Full::default()).unwrap())
    };
    assert_eq!(post("https://a-1.claws.test").await.status(), 200);
    for other in ["http://a-1.claws.test", "https://b-1.claws.test", "https://a-1.claws.test:8443"] {
        assert_eq!(post(other).await.status(), 403, "{other}");
    }
    // Whoever comes past the proxy comes without TLS, and the session is not for that.
    let plain = farm.request("GET", "a-1", "/").header("cookie", cookie).header("x-forwarded-proto", "http");
    assert_eq!(farm.ask(plain.body(Full::default()).unwrap()).await.status(), 401);
    // A page is led back to where people are.
    let page = passed_on("GET", "/chat").header("accept", "text/html").body(Full::default()).unwrap();
    let led = farm.ask(page).await;
    let to = led.headers()["location"].to_str().unwrap();
    assert_eq!(to, "https://claws.test/_clawfarm/go?claw=a-1&to=%2Fchat");
}

#[tokio::test]
async fn what_a_proxy_says_wrong_is_refused() {
    let farm = behind("127.0.0.0/8").await;
    for (name, value) in
        [("x-forwarded-proto", "gopher"), ("x-forwarded-host", "a/b"), ("x-forwarded-port", "x")]
    {
        let request = http::Request::get("/").header("host", "claws.test").header(name, value);
        assert_eq!(farm.ask(request.body(Full::default()).unwrap()).await.status(), 400, "{name}");
    }
}

#[tokio::test]
async fn programs_reach_claws_below_one_name() {
    let farm = Farm::with(|config| clawfarm_edge::EdgeConfig { paths: true, ..config }).await;
    let claw = Claw::new().await;
    farm.put("a-1", State::Awake, claw.address);
    let base = format!("claws.test:{}", farm.address.port());
    let request = |method: &str, path: &str| {
        http::Request::builder().method(method).uri(path.to_owned()).header("host", &base)
    };
    let ask = |request: http::request::Builder| farm.ask(request.body(Full::default()).unwrap());
    let with_token = |path: &str| request("POST", path).header("authorization", bearer("a-1"));
    let told = Answer::of(ask(with_token("/c/a-1/v1/chat?x=%2F").header("cookie", "a=b")).await).await;
    assert_eq!(told.json()["target"], "/v1/chat?x=%2F");
    let headers = told.json()["headers"].clone();
    assert_eq!(headers["x-forwarded-prefix"], "/c/a-1");
    assert!(headers.get("cookie").is_none(), "{headers}");
    assert_eq!(headers[USER_HEADER], "owner");
    // What comes back has no power over the base domain's name.
    assert_eq!(told.headers["content-security-policy"], "sandbox; default-src 'none'");
    let cookies = Answer::of(ask(with_token("/c/a-1/cookies")).await).await;
    assert!(!cookies.headers.contains_key("set-cookie"));
    let power = Answer::of(ask(with_token("/c/a-1/power")).await).await;
    let mut said: Vec<&str> = power.headers.keys().map(http::HeaderName::as_str).collect();
    said.sort_unstable();
    assert_eq!(
        said,
        [
            "content-length",
            "content-security-policy",
            "content-type",
            "date",
            "etag",
            "openai-processing-ms",
            "x-content-type-options",
            "x-request-id"
        ]
    );
    // Messages come in, strangers don't, and no browser does.
    let message = Answer::of(ask(request("POST", "/c/a-1/hooks/wake")).await).await;
    assert_eq!(message.json()["target"], "/hooks/wake");
    for path in ["/c/a-1/", "/c/b-1/", "/c/a-1"] {
        assert_eq!(ask(request("GET", path).header("accept", "text/html")).await.status(), 401, "{path}");
    }
    let stranger = ask(request("GET", "/c/a-1/")).await;
    assert!(stranger.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
    let session = farm.session("a-1").await;
    assert_eq!(ask(request("GET", "/c/a-1/").header("cookie", session)).await.status(), 401);
    assert_eq!(ask(with_token("/c/a-1/").header("sec-fetch-mode", "navigate")).await.status(), 403);
    for site in ["same-origin", "same-site", "cross-site", "made-up"] {
        let script = with_token("/c/a-1/x").header("sec-fetch-site", site).header("sec-fetch-mode", "cors");
        assert_eq!(ask(script).await.status(), 403, "{site}");
    }
    assert_eq!(ask(with_token("/c/a-1/x").header("sec-fetch-site", "none")).await.status(), 200);
    assert_eq!(ask(with_token("/c/a-1/sw.js").header("service-worker", "script")).await.status(), 403);
    assert_eq!(ask(with_token("/c/a-1/_clawfarm/state")).await.status(), 403);
    for closed in ["/c/a-1/api/v1/admin/rpc", "/c/a-1/../a-1/api/v1/%61dmin", "/c/a-1//api/v1/admin"] {
        assert_eq!(ask(with_token(closed)).await.status(), 404, "{closed}");
    }
    // Where it was not asked for, there is no such form.
    let farm = Farm::new().await;
    farm.put("a-1", State::Awake, claw.address);
    let request = http::Request::get("/c/a-1/").header("host", "claws.test");
    let request = request.header("authorization", bearer("a-1")).body(Full::default()).unwrap();
    assert_eq!(farm.ask(request).await.status(), 404);
}
