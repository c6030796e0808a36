//! The edge's own pages: few, small, without anything from elsewhere.

mod style;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
};
use http::{Response, StatusCode};

use crate::body::{Body, empty, full};
use crate::directory::{Site, SiteState};

/// A page, with the one script it may run.
struct Page<'a> {
    title: &'a str,
    body: String,
    script: &'a str,
    /// Where its form may lead, beside its own name: a browser holds redirects to it, too.
    leads_to: &'a str,
}

impl Page<'_> {
    fn answer(&self, status: StatusCode) -> Response<Body> {
        let mut bytes = [0_u8; 15];
        // Without randomness the page is shown without its script: the policy refuses an empty nonce.
        let nonce =
            getrandom::fill(&mut bytes).map_or_else(|_| String::new(), |()| STANDARD_NO_PAD.encode(bytes));
        let script = match self.script {
            "" => String::new(),
            text => format!("<script nonce=\"{nonce}\">{text}</script>"),
        };
        let html = format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><meta name=\"robots\" content=\"noindex\"><title>{}</title><style nonce=\"{nonce}\">{}</style></head><body><main>{}</main>{script}</body></html>",
            escape(self.title),
            style::STYLE,
            self.body,
        );
        let policy = format!(
            "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; form-action 'self' {}; frame-ancestors 'none'; base-uri 'none'",
            self.leads_to
        );
        let mut response = Response::new(full(html));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers
            .insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
        // `no-referrer` would make a browser send its forms from the origin `null`.
        headers.insert(HeaderName::from_static("referrer-policy"), HeaderValue::from_static("same-origin"));
        if let Ok(policy) = HeaderValue::from_str(&policy) {
            headers.insert(CONTENT_SECURITY_POLICY, policy);
        }
        response
    }
}

/// A claw is on its way: shows that, and goes on by itself.
pub(crate) fn waiting(site: &Site, seconds: u32) -> Response<Body> {
    let page = Page {
        title: &format!("{} is waking", site.name),
        body: format!(
            "<div class=\"bar\"><i></i></div><h1>{} is waking</h1><p id=\"say\">It was asleep. This page goes on by itself as soon as it is up; your request is not lost.</p><p class=\"small\"><span id=\"for\"></span></p><noscript><meta http-equiv=\"refresh\" content=\"3\"></noscript>",
            escape(&site.name)
        ),
        script: WAIT_SCRIPT,
        leads_to: "",
    };
    let mut response = page.answer(StatusCode::SERVICE_UNAVAILABLE);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

const WAIT_SCRIPT: &str = "const began=Date.now(),f=document.getElementById('for'),s=document.getElementById('say');\
async function look(){f.textContent=Math.round((Date.now()-began)/1000)+' s';\
try{const a=await fetch('/_clawfarm/state',{cache:'no-store'});if(a.status===401||a.status===403){location.reload();return}\
const it=await a.json();if(it.state==='awake'||it.state==='asleep'){location.reload();return}\
if(it.state==='down'){document.querySelector('.bar').remove();s.textContent=it.message;return}}catch(e){}\
setTimeout(look,700)}look();";

/// A claw that does not take requests, for its person.
pub(crate) fn down(name: &str, message: &str, fix: Option<&str>) -> Response<Body> {
    let fix = fix.map_or_else(String::new, |fix| format!("<p class=\"small\">{}</p>", escape(fix)));
    Page {
        title: &format!("{name} does not answer"),
        body: format!("<h1>{} does not answer</h1><p>{}</p>{fix}", escape(name), escape(message)),
        script: "",
        leads_to: "",
    }
    .answer(StatusCode::SERVICE_UNAVAILABLE)
}

/// Asks who is there.
pub(crate) fn sign_in(to: &str, wrong: bool, leads_to: &str) -> Response<Body> {
    let wrong = if wrong { "<p class=\"wrong\">That token is nobody's here.</p>" } else { "" };
    Page {
        title: "Sign in",
        body: format!(
            "<h1>Sign in</h1><form method=\"post\" action=\"/_clawfarm/sign-in\"><label for=\"token\">Your clawfarm token</label><input id=\"token\" name=\"token\" type=\"password\" autocomplete=\"current-password\" autofocus required><input type=\"hidden\" name=\"to\" value=\"{}\">{wrong}<button>Sign in</button></form><p class=\"small\">Or let your terminal do it: <code>clawfarm open NAME</code></p>",
            escape(to)
        ),
        script: "",
        leads_to,
    }
    .answer(if wrong.is_empty() { StatusCode::OK } else { StatusCode::FORBIDDEN })
}

/// The claws of a person.
pub(crate) fn claws(sites: &[std::sync::Arc<Site>]) -> Response<Body> {
    let rows: String = sites
        .iter()
        .map(|site| {
            let state = match &site.state {
                SiteState::Awake => "awake",
                SiteState::Asleep { .. } => "asleep",
                SiteState::Starting => "starting",
                SiteState::Down(_) => "down",
            };
            format!(
                "<li><a href=\"/_clawfarm/go?claw={id}\">{name}</a> <span class=\"small\">{kind}, {state}</span></li>",
                id = site.id,
                name = escape(&site.name),
                kind = escape(&site.claw_type),
            )
        })
        .collect();
    let list = if rows.is_empty() {
        "<p>There are none yet. Make one: <code>clawfarm new openclaw</code></p>".to_owned()
    } else {
        format!("<ul>{rows}</ul>")
    };
    Page {
        title: "Your claws",
        body: format!(
            "<h1>Your claws</h1>{list}<form method=\"post\" action=\"/_clawfarm/sign-out\"><button class=\"quiet\">Sign out</button></form>"
        ),
        script: "",
        leads_to: "",
    }
    .answer(StatusCode::OK)
}

/// Nothing is here.
pub(crate) fn nothing(what: &str) -> Response<Body> {
    Page {
        title: "Nothing here",
        body: format!("<h1>Nothing here</h1><p>{}</p>", escape(what)),
        script: "",
        leads_to: "",
    }
    .answer(StatusCode::NOT_FOUND)
}

/// Leads a browser elsewhere.
pub(crate) fn redirect(to: &str) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer"));
    if let Ok(to) = HeaderValue::from_str(to) {
        headers.insert(LOCATION, to);
    }
    response
}

/// Text as it may stand in a page and in an attribute.
fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_chose_is_text_in_a_page() {
        assert_eq!(escape("<b a='1'>\"&"), "&lt;b a=&#39;1&#39;&gt;&quot;&amp;");
    }
}
