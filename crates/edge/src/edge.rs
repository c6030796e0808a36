//! A request's way: which claw, who, and whether it may pass.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use clawfarm_model::ClawId;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::directory::{Directory, Person, Site};
use crate::gate::{self, Refused, Who};
use crate::hold::Wakes;
use crate::host::{BaseDomain, Place};
use crate::load::{Load, Loads};
use crate::paths::{self, Kind};
use crate::session::{self, Passes};
use crate::upstream::Upstream;
use crate::{base, forward, headers, host, own, pages, problem};

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
}

impl EdgeConfig {
    /// A request of a program is held this long. A cold OpenClaw takes 8 to 27 s (measured), and
    /// many clients give up after 60.
    pub const HOLD: Duration = Duration::from_secs(55);
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

    /// Answers a request.
    pub async fn handle(self: &Arc<Self>, caller: Caller, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let host = match host::of(&parts) {
            Ok(host) => host,
            Err(why) => return problem::bad_request(why),
        };
        if let Err(why) = headers::check_lengths(&parts.headers) {
            return problem::bad_request(why);
        }
        let request = Request::from_parts(parts, body);
        let origin = format!("{}://{}", caller.scheme(), host.to_ascii_lowercase());
        let place = self.config.base.place(&host);
        let asked = Asked { caller, host, origin };
        match place {
            Place::AtPage => pages::redirect(&format!("{}/", base::page_address(self, &asked))),
            Place::Base => base::handle(self, &asked, request).await,
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
        let path = request.uri().path();
        if path.starts_with(OWN) {
            return own::handle(self, asked, id, request).await;
        }
        let site = match self.directory.look_up(id).await {
            Ok(site) => site,
            Err(error) => return problem::of(&error, Some(forward::RETRY_SECS)),
        };
        // A stranger is told the same of a claw that there is and of one that there is not.
        let Some(site) = site else { return self.refuse(asked, id, &request, Refused::Unknown) };
        let kind = paths::kind(&site.rules, path);
        let person = match session::cookie(request.headers(), asked.caller.tls) {
            Some(pass) => self.claimed(pass).await,
            None => None,
        };
        let (parts, body) = request.into_parts();
        let who = gate::check(&parts, kind, &site, &self.passes, person.as_ref(), asked);
        let request = Request::from_parts(parts, body);
        let who = match who {
            Ok(who) => who,
            Err(refused) => return self.refuse(asked, id, &request, refused),
        };
        if kind == Kind::Closed {
            let status = StatusCode::NOT_FOUND;
            return problem::problem(status, "not_found", "this path is closed to the outside", None);
        }
        if *request.method() == Method::TRACE {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            return problem::problem(status, "unsupported", "TRACE is not passed on", None);
        }
        forward::forward(self, asked, site, who, request).await
    }

    /// Answers one who may not pass.
    fn refuse(
        &self,
        asked: &Asked,
        id: &ClawId,
        request: &Request<Incoming>,
        refused: Refused,
    ) -> Response<Body> {
        match refused {
            Refused::Unknown if gate::wants_page(request.method(), request.headers()) => {
                let to = request.uri().path_and_query().map_or("/", |it| it.as_str());
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
