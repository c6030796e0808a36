//! A request's way: which claw, who, and whether it may pass.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use clawfarm_model::ClawId;
use http::header::STRICT_TRANSPORT_SECURITY;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::directory::{Directory, Person, Site};
use crate::gate::{self, Refused, Who};
use crate::hold::Wakes;
use crate::host::{BaseDomain, Place};
use crate::limits::{Limits, Meter};
use crate::load::{Load, Loads};
use crate::paths::{self, Kind};
use crate::proxied::Proxies;
use crate::session::{self, Passes};
use crate::told::{self, Reason};
use crate::upstream::Upstream;
use crate::{base, below, forward, headers, host, inbox, own, pages, problem};

/// The edge's own paths at every name.
pub(crate) const OWN: &str = "/_clawfarm/";

/// How an edge is set up.
pub struct EdgeConfig {
    /// The base domain; claws are one label below it.
    pub base: BaseDomain,
    /// What sessions are signed with: the same for all servers of a fleet, and random.
    pub key: SecretString,
    /// How long a request is held while its claw wakes.
    pub hold: Duration,
    /// How long a browser waits until it is shown that the claw wakes.
    pub page_after: Duration,
    /// How much callers and claws may have of it.
    pub limits: Limits,
    /// Proxies before it, whose word about a caller counts.
    pub proxies: Option<Proxies>,
    /// Whether claws are at `/c/CLAWID/` of the base domain, too, for programs.
    pub paths: bool,
    /// For how long browsers are told to come over TLS alone (RFC 6797); never over a plain
    /// connection. `None` to say nothing.
    pub hsts: Option<Duration>,
}

impl EdgeConfig {
    /// A request of a program is held this long. A cold OpenClaw takes 8 to 27 s (measured), and
    /// many clients give up after 60.
    pub const HOLD: Duration = Duration::from_secs(55);
    /// A year, which lists of such sites ask for at least.
    pub const HSTS: Duration = Duration::from_secs(365 * 24 * 3600);
    /// A person wonders after a second.
    pub const PAGE_AFTER: Duration = Duration::from_secs(1);
}

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Its address.
    pub address: IpAddr,
    /// Whether it came over TLS.
    pub tls: bool,
}

impl Caller {
    pub(crate) const fn scheme(self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

/// The edge.
pub struct Edge {
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) config: EdgeConfig,
    pub(crate) passes: Passes,
    pub(crate) upstream: Upstream,
    pub(crate) wakes: Wakes,
    pub(crate) loads: Loads,
    pub(crate) meter: Meter,
    pub(crate) inbox: inbox::Intake,
    /// WebSockets.
    pub(crate) tunnels: TaskTracker,
    /// Cancelled when they are to end.
    pub(crate) cut: CancellationToken,
    /// Cancelled when nobody is to wait any more.
    pub(crate) stopping: CancellationToken,
}

/// A request's name and sender, found out once.
pub(crate) struct Asked {
    pub(crate) caller: Caller,
    /// The host as the request has it, with its port.
    pub(crate) host: String,
    /// `scheme://host:port`, as a browser would say in `Origin`.
    pub(crate) origin: String,
    /// What it is called in logs.
    pub(crate) id: String,
    /// `/c/CLAWID`, when the claw was named by a path and not by the host.
    pub(crate) prefix: Option<String>,
}

impl Edge {
    /// An edge of a fleet.
    #[must_use]
    pub fn new(directory: Arc<dyn Directory>, config: EdgeConfig) -> Self {
        Self {
            passes: Passes::new(config.key.clone()),
            upstream: Upstream::new(Arc::clone(&directory)),
            wakes: Wakes::new(Arc::clone(&directory)),
            loads: Loads::default(),
            meter: Meter::new(config.limits.clone()),
            inbox: inbox::Intake::default(),
            tunnels: TaskTracker::new(),
            cut: CancellationToken::new(),
            stopping: CancellationToken::new(),
            directory,
            config,
        }
    }

    /// What goes to a claw now; `None` when nothing has since this edge began.
    #[must_use]
    pub fn load(&self, id: &ClawId) -> Option<Load> {
        self.loads.of(id)
    }

    /// The same of every claw that was used.
    #[must_use]
    pub fn loads(&self) -> Vec<(ClawId, Load)> {
        self.loads.all()
    }

    /// Forgets a claw that has gone.
    pub fn forget(&self, id: &ClawId) {
        self.upstream.forget(id);
        self.loads.forget(id);
    }

    /// An address that opens a claw's pages in a browser, once and within a minute.
    ///
    /// # Errors
    /// When no random bytes can be had.
    pub fn ticket(&self, site: &Site, person: &Person) -> clawfarm_model::Result<String> {
        own::ticket(self, site, person)
    }

    /// The person that a pass says it is of, when there is one of that name.
    pub(crate) async fn claimed(&self, pass: &str) -> Option<Person> {
        let name = session::claimed(pass)?;
        self.directory.person(&name).await.ok().flatten()
    }

    /// Answers a request. `peer` is who the connection is from.
    pub async fn handle(self: &Arc<Self>, peer: Caller, request: Request<Incoming>) -> Response<Body> {
        let proxies = self.config.proxies.as_ref().filter(|it| it.are_at(peer.address));
        let given = proxies.and(request.headers().get(headers::REQUEST_ID));
        let id = headers::request_id(given);
        let mut response = match self.asked(peer, proxies, &id, &request) {
            Ok(asked) => self.answer(asked, request).await,
            Err(response) => *response,
        };
        headers::tell_request(response.headers_mut(), &id);
        // For one name at a time: what else is below the base domain, or beside it, is not ours.
        if let Some(life) = self.config.hsts.filter(|_| peer.tls)
            && let Ok(value) = HeaderValue::from_str(&format!("max-age={}", life.as_secs()))
        {
            response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, value);
        }
        response
    }

    /// What a request asks for and who sent it, when it can be read in one way only and its sender
    /// has not sent too many.
    fn asked(
        &self,
        peer: Caller,
        proxies: Option<&Proxies>,
        id: &str,
        request: &Request<Incoming>,
    ) -> Result<Asked, Box<Response<Body>>> {
        let malformed = |why| {
            told::refused(Reason::Malformed);
            Box::new(problem::bad_request(why))
        };
        let mut host = host::of(request).map_err(malformed)?;
        headers::check_lengths(request.headers()).map_err(malformed)?;
        let mut caller = peer;
        if let Some(proxies) = proxies {
            let seen = proxies.seen(peer, request.headers(), &host).map_err(malformed)?;
            caller = seen.caller;
            host = seen.host.unwrap_or(host);
        }
        self.meter.request(caller.address)?;
        let origin = format!("{}://{}", caller.scheme(), host.to_ascii_lowercase());
        Ok(Asked { caller, host, origin, id: id.to_owned(), prefix: None })
    }

    async fn answer(self: &Arc<Self>, mut asked: Asked, mut request: Request<Incoming>) -> Response<Body> {
        match self.config.base.place(&asked.host) {
            Place::AtPage => pages::redirect(&format!("{}/", base::page_address(self, &asked))),
            Place::Base => match below::claw(self, &mut asked, &mut request) {
                Ok(None) => base::handle(self, &asked, request).await,
                Ok(Some(id)) => below::clean(&asked, Box::pin(self.at_claw(&asked, &id, request)).await),
                Err(refused) => *refused,
            },
            Place::Claw(id) => Box::pin(self.at_claw(&asked, &id, request)).await,
            Place::Unknown => pages::nothing("No claw has this address."),
        }
    }

    async fn at_claw(
        self: &Arc<Self>,
        asked: &Asked,
        id: &ClawId,
        request: Request<Incoming>,
    ) -> Response<Body> {
        if request.uri().path().starts_with(OWN) {
            return own::handle(self, asked, id, request).await;
        }
        let (parts, body) = request.into_parts();
        if gate::shows_nothing(&parts, asked.caller.tls) {
            return self.refuse(asked, id, &parts, Refused::Unknown);
        }
        let site = match self.directory.look_up(id).await {
            Ok(site) => site,
            Err(error) => return problem::of(&error, Some(forward::RETRY_SECS)),
        };
        // A stranger is told the same of a claw that there is and of one that there is not.
        let Some(site) = site else { return self.refuse(asked, id, &parts, Refused::Unknown) };
        let kind = paths::kind(&site.rules, parts.uri.path());
        let person = match session::cookie(&parts.headers, asked.caller.tls) {
            Some(pass) => self.claimed(pass).await,
            None => None,
        };
        let who = match gate::check(&parts, kind, &site, &self.passes, person.as_ref(), asked) {
            Ok(who) => who,
            Err(refused) => return self.refuse(asked, id, &parts, refused),
        };
        if kind == Kind::Closed {
            told::refused(Reason::ClosedPath);
            let status = StatusCode::NOT_FOUND;
            return problem::problem(status, "not_found", "this path is closed to the outside", None);
        }
        if parts.method == Method::TRACE {
            return problem::not_allowed(forward::METHODS);
        }
        let request = Request::from_parts(parts, body);
        if who == Who::Messenger {
            // Apart, as it is large, and every request has room for what it may become.
            return Box::pin(inbox::handle(self, asked, &site, request)).await;
        }
        forward::forward(self, asked, site, who, request).await
    }

    /// Answers one who may not pass.
    fn refuse(&self, asked: &Asked, id: &ClawId, parts: &Parts, refused: Refused) -> Response<Body> {
        told::refused(match refused {
            Refused::Unknown => Reason::Stranger,
            Refused::CrossSite => Reason::CrossSite,
        });
        tracing::debug!(
            target: "clawfarm::access",
            request = asked.id, instance = %id, caller = %asked.caller.address, why = ?refused, "refused"
        );
        match refused {
            Refused::Unknown if asked.prefix.is_none() && gate::wants_page(&parts.method, &parts.headers) => {
                let to = parts.uri.path_and_query().map_or("/", |it| it.as_str());
                pages::redirect(&base::go_address(self, asked, id, to))
            }
            Refused::Unknown => problem::unauthorized(),
            Refused::CrossSite => problem::problem(
                StatusCode::FORBIDDEN,
                "forbidden",
                "another site's page can't use the session of this one",
                Some("send the gateway token as `Authorization: Bearer`"),
            ),
        }
    }

    /// Who a request is from, in words for the log.
    pub(crate) const fn who(who: &Who) -> &'static str {
        match who {
            Who::Person(_) => "session",
            Who::Bearer => "token",
            Who::Messenger => "inbox",
        }
    }
}
