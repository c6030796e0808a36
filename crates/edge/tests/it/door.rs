//! Who is let in.

use clawfarm_model::ClawId;
use http_body_util::Full;

use crate::claw::Claw;
use crate::farm::{Answer, Farm, State, bearer};

async fn status(farm: &Farm, request: http::request::Builder) -> u16 {
    farm.ask(request.body(Full::default()).unwrap()).await.status().as_u16()
}

#[tokio::test]
async fn a_stranger_wakes_nobody_and_learns_nothing() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Asleep, claw.address);
    let browser = |id| farm.request("GET", id, "/").header("accept", "text/html");
    for id in ["a-1", "nobody-1"] {
        let plain =
            Answer::of(farm.ask(farm.request("GET", id, "/").body(Full::default()).unwrap()).await).await;
        assert_eq!((plain.status, plain.json()["code"].as_str()), (401, Some("unauthenticated")));
        assert!(!plain.text.contains(id), "{plain:?}");
        let wrong = farm.request("GET", id, "/").header("authorization", "Bearer wrong");
        assert_eq!(status(&farm, wrong).await, 401);
        let led = farm.ask(browser(id).body(Full::default()).unwrap()).await;
        assert_eq!(led.status(), 303);
        let to = led.headers()["location"].to_str().unwrap().replace(id, "ID");
        assert_eq!(to, format!("http://claws.test:{}/_clawfarm/go?claw=ID&to=%2F", farm.address.port()));
    }
    assert_eq!((farm.wakes(), claw.seen()), (0, 0));
}

#[tokio::test]
async fn a_person_signs_in_once_and_goes_to_a_claw() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let base = format!("claws.test:{}", farm.address.port());
    let form = |token: &str| {
        http::Request::post("/_clawfarm/sign-in")
            .header("host", &base)
            .header("origin", format!("http://{base}"))
            .header("sec-fetch-site", "same-origin")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::from(format!("token={token}&to=%2F_clawfarm%2Fgo%3Fclaw%3Da-1%26to%3D%252Fchat")))
            .unwrap()
    };
    let wrong = Answer::of(farm.ask(form("wrong")).await).await;
    assert_eq!(wrong.status, 403);
    assert!(wrong.text.contains("nobody's here") && !wrong.headers.contains_key("set-cookie"));
    let signed = farm.ask(form("ann%27s+token")).await;
    let cookie = signed.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let go = signed.headers()["location"].to_str().unwrap();
    assert_eq!(go, "/_clawfarm/go?claw=a-1&to=%2Fchat");
    let at_base = |path: &str| {
        http::Request::get(path).header("host", &base).header("cookie", cookie).body(Full::default()).unwrap()
    };
    let listed = Answer::of(farm.ask(at_base("/")).await).await;
    assert!(listed.text.contains("/_clawfarm/go?claw=a-1"), "{listed:?}");
    let sent = farm.ask(at_base(go)).await;
    let enter = sent.headers()["location"].to_str().unwrap().to_owned();
    let host = format!("http://{}", farm.host("a-1"));
    let ticket = enter.strip_prefix(&host).unwrap_or_else(|| panic!("{enter}"));
    let entered = farm.ask(farm.request("GET", "a-1", ticket).body(Full::default()).unwrap()).await;
    assert_eq!((entered.status().as_u16(), &entered.headers()["location"]), (303, &"/chat".parse().unwrap()));
    let session = entered.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(status(&farm, farm.request("GET", "a-1", "/chat").header("cookie", &session)).await, 200);
    // The ticket is used; whoever finds it in a history comes to the door.
    let again = farm.ask(farm.request("GET", "a-1", ticket).body(Full::default()).unwrap()).await;
    assert!(!again.headers().contains_key("set-cookie"));
    assert!(again.headers()["location"].to_str().unwrap().contains("/_clawfarm/go?"));
    // The base domain's session is none at a claw, and the other way round.
    assert_eq!(status(&farm, farm.request("GET", "a-1", "/").header("cookie", cookie)).await, 401);
    let wrong_way = http::Request::get("/").header("host", &base).header("cookie", &session);
    let page = Answer::of(farm.ask(wrong_way.body(Full::default()).unwrap()).await).await;
    assert!(page.text.contains("Sign in"));
}

#[tokio::test]
async fn a_session_is_for_one_claw_and_its_own_pages() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    farm.put("b-1", State::Awake, claw.address);
    let a = farm.session("a-1").await;
    let own = format!("http://{}", farm.host("a-1"));
    let other = format!("http://{}", farm.host("b-1"));
    let ask = |method: &str, id: &str| farm.request(method, id, "/").header("cookie", &a);
    assert_eq!(status(&farm, ask("GET", "a-1")).await, 200);
    assert_eq!(status(&farm, ask("GET", "b-1")).await, 401, "a session of another claw");
    assert_eq!(status(&farm, ask("POST", "a-1").header("origin", &own)).await, 200);
    assert_eq!(status(&farm, ask("POST", "a-1").header("origin", &other)).await, 403);
    assert_eq!(status(&farm, ask("POST", "a-1").header("origin", "null")).await, 403);
    assert_eq!(status(&farm, ask("POST", "a-1")).await, 403, "a form of who knows where");
    let socket = |origin: &str| {
        ask("GET", "a-1")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("origin", origin.to_owned())
    };
    assert_eq!(status(&farm, socket(&other)).await, 403);
    assert_eq!(claw.seen(), 2);
}

#[tokio::test]
async fn a_message_needs_no_session_and_has_no_word_in_who_it_is() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let request = farm.request("POST", "a-1", "/hooks/wake").header("authorization", "Bearer hook-token");
    let told = Answer::of(farm.ask(request.body(Full::from("{}")).unwrap()).await).await.json();
    assert_eq!(told["headers"]["authorization"], "Bearer hook-token");
    assert!(told["headers"].get(crate::farm::USER_HEADER).is_none());
}

#[tokio::test]
async fn what_is_closed_is_closed_to_all() {
    let (farm, claw) = (Farm::new().await, Claw::new().await);
    farm.put("a-1", State::Awake, claw.address);
    let session = farm.session("a-1").await;
    for path in ["/api/v1/admin/rpc", "/api/v1/%61dmin/rpc", "//api/v1/admin", "/x/../api/v1/admin"] {
        let with_token = farm.request("POST", "a-1", path).header("authorization", bearer("a-1"));
        assert_eq!(status(&farm, with_token).await, 404, "{path}");
        let with_session = farm.request("GET", "a-1", path).header("cookie", &session);
        assert_eq!(status(&farm, with_session).await, 404, "{path}");
    }
    assert_eq!(claw.seen(), 0);
    assert!(farm.edge.load(&ClawId::new("a-1").unwrap()).is_none());
}
