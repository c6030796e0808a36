//! How much one caller, and one claw, may have of the edge.
//!
//! Rates are counted in tables of a fixed size and places in maps that hold what is open, so that no
//! number of addresses makes the edge grow.

mod places;
mod rate;

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use clawfarm_model::{ClawId, Error, Result};
use http::{Response, StatusCode};

use crate::body::Body;
use crate::problem;
use crate::told::{self, Reason};
use places::Places;
use rate::Rates;

pub(crate) use places::Place;

/// What is held, and for how long. A number of 0 is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; the rest wait in the kernel's queue.
    pub connections: u32,
    /// Connections at a time from one address.
    pub connections_per_address: u32,
    /// TLS handshakes a second with one address, each of which costs a signature; five times as
    /// many at once.
    pub handshakes_per_address: u32,
    /// Requests a second from one address; five times as many at once.
    pub requests_per_address: u32,
    /// Requests a second to one claw; five times as many at once.
    pub requests_per_claw: u32,
    /// Requests at a time to one claw, of those who are let in.
    pub at_once_per_claw: u32,
    /// Messages at a time to one claw: of strangers, and as many of those who have proven themselves.
    pub messages_per_claw: u32,
    /// WebSockets at a time to one claw.
    pub websockets_per_claw: u32,
    /// Attempts to sign in a minute from one address.
    pub sign_ins_per_address: u32,
    /// How long the head of a request may take to arrive, and an idle connection is kept; a TLS
    /// handshake takes no longer either, and ten seconds at most.
    pub head: Duration,
    /// How long a caller may send nothing of a body that is waited for, or take nothing of an
    /// answer that is ready for it.
    pub silence: Duration,
}

/// Bodies of messages that may be on their way from one address: an eighth of those that are read at
/// once in all, so that nobody's unfinished ones keep others' out. One that is there takes no time.
const UNREAD_PER_ADDRESS: u32 = 16;

/// How many of a second's requests may come at once: a dashboard loads its parts in one go.
const BURST: u32 = 5;

impl Default for Limits {
    /// Far above what a person or a program does, and below what keeps others from their turn.
    fn default() -> Self {
        Self {
            // With one to a claw for each, they fit into the open files that a server asks for
            // (32,768).
            connections: 8192,
            connections_per_address: 512,
            handshakes_per_address: 50,
            requests_per_address: 200,
            requests_per_claw: 500,
            // Twice as many as may wait for it while it wakes.
            at_once_per_claw: 512,
            // A quarter of those that are read at once in all; most are there and answered in an instant.
            messages_per_claw: 32,
            websockets_per_claw: 128,
            sign_ins_per_address: 10,
            head: Duration::from_secs(30),
            // As nginx has it (`client_body_timeout`, `send_timeout`).
            silence: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// The names by which a limit is set, each with what it counts.
    pub const NAMES: [&str; 9] = [
        "connections",
        "connections-per-address",
        "handshakes-per-address",
        "requests-per-address",
        "requests-per-claw",
        "at-once-per-claw",
        "messages-per-claw",
        "websockets-per-claw",
        "sign-ins-per-address",
    ];

    /// Sets a limit as a person writes it: `requests-per-address=50`.
    ///
    /// # Errors
    /// `InvalidInput` for a name that there is not, or what is no number.
    pub fn set(&mut self, text: &str) -> Result<()> {
        let (name, number) = text.split_once('=').unwrap_or((text, ""));
        let place = match name {
            "connections" => &mut self.connections,
            "connections-per-address" => &mut self.connections_per_address,
            "handshakes-per-address" => &mut self.handshakes_per_address,
            "requests-per-address" => &mut self.requests_per_address,
            "requests-per-claw" => &mut self.requests_per_claw,
            "at-once-per-claw" => &mut self.at_once_per_claw,
            "messages-per-claw" => &mut self.messages_per_claw,
            "websockets-per-claw" => &mut self.websockets_per_claw,
            "sign-ins-per-address" => &mut self.sign_ins_per_address,
            _ => {
                let shown: String = name.chars().take(40).flat_map(char::escape_default).collect();
                return Err(Error::invalid("edge_limit", format!("there is no limit '{shown}'"))
                    .fix(format!("set one of these: {}", Self::NAMES.join(", "))));
            }
        };
        // Its square is never made, so any number that fits is one.
        *place = number.parse().ok().filter(|it| *it <= Self::MOST).ok_or_else(|| {
            Error::invalid("edge_limit", format!("'{name}' is set to what is no number up to {}", Self::MOST))
                .fix(format!("write it so: {name}=100; 0 is no limit"))
        })?;
        Ok(())
    }

    /// The greatest number that can be set.
    const MOST: u32 = 1_000_000;
}

/// An address as callers are told apart: with IPv6 a household has 2^64 of them (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct From(IpAddr);

impl From {
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

/// From whom a request to a claw is. Each sort is counted apart: strangers must not use up what a
/// claw's people have, nor what services have that have shown who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Sort {
    /// One who was let in.
    Known,
    /// A message whose sender has proven itself.
    Proven,
    /// A message of anybody.
    Stranger,
}

/// What is counted of callers and claws.
pub(crate) struct Meter {
    pub(crate) limits: Limits,
    requests: Rates<From>,
    handshakes: Rates<From>,
    sign_ins: Rates<From>,
    to_claws: Rates<(ClawId, Sort)>,
    connections: Places<From>,
    at_once: Places<ClawId>,
    /// Messages that are read, and those that wait for their claw's answer.
    arriving: Places<(ClawId, Sort)>,
    messages: Places<(ClawId, Sort)>,
    unread: Places<From>,
    websockets: Places<ClawId>,
}

impl Meter {
    pub(crate) fn new(limits: Limits) -> Self {
        let second = Duration::from_secs(1);
        Self {
            handshakes: Rates::new(limits.handshakes_per_address, BURST, second),
            requests: Rates::new(limits.requests_per_address, BURST, second),
            to_claws: Rates::new(limits.requests_per_claw, BURST, second),
            sign_ins: Rates::new(limits.sign_ins_per_address, 1, Duration::from_secs(60)),
            connections: Places::default(),
            at_once: Places::default(),
            arriving: Places::default(),
            messages: Places::default(),
            unread: Places::default(),
            websockets: Places::default(),
            limits,
        }
    }

    /// A connection's place; `None` when its address has as many as it may.
    pub(crate) fn connection(&self, from: IpAddr) -> Option<Place<From>> {
        self.connections.take(From::of(from), self.limits.connections_per_address)
    }

    /// Counts a TLS handshake; whether there may be one more.
    pub(crate) fn handshake(&self, from: IpAddr) -> bool {
        self.handshakes.count(&From::of(from)).is_ok()
    }

    /// Counts a request of an address.
    pub(crate) fn request(&self, from: IpAddr) -> Result<(), Box<Response<Body>>> {
        let rate = self.requests.count(&From::of(from));
        rate.map_err(|after| {
            too_many(Reason::AddressRate, "your address sends more requests than it may", after)
        })
    }

    /// Counts an attempt to sign in.
    pub(crate) fn sign_in(&self, from: IpAddr) -> Result<(), Box<Response<Body>>> {
        let rate = self.sign_ins.count(&From::of(from));
        rate.map_err(|after| {
            too_many(Reason::SignInRate, "your address has tried to sign in too often", after)
        })
    }

    /// Counts a message, and gives its body a place until it is there.
    pub(crate) fn unread(
        &self,
        id: &ClawId,
        from: IpAddr,
        sort: Sort,
    ) -> Result<Unread, Box<Response<Body>>> {
        self.rate(id, sort)?;
        let claw = self.arriving.take((id.clone(), sort), self.limits.messages_per_claw);
        let claw = claw.ok_or_else(|| no_place(Reason::ClawMessages, "messages at once"))?;
        let address = self.unread.take(From::of(from), UNREAD_PER_ADDRESS).ok_or_else(|| {
            let what = "your address has as many unfinished messages as it may";
            too_many(Reason::AddressMessages, what, Duration::from_secs(1))
        })?;
        Ok(Unread { _claw: claw, _address: address })
    }

    /// The place of a message at its claw until it has been answered; `None` when they are taken.
    pub(crate) fn message(&self, id: &ClawId, sort: Sort) -> Option<Place<(ClawId, Sort)>> {
        self.messages.take((id.clone(), sort), self.limits.messages_per_claw)
    }

    /// Counts a request to a claw, and gives it a place there until it has been answered.
    pub(crate) fn to_claw(&self, id: &ClawId, websocket: bool) -> Result<Place<ClawId>, Box<Response<Body>>> {
        self.rate(id, Sort::Known)?;
        let limits = &self.limits;
        let (places, most, reason, what) = if websocket {
            (&self.websockets, limits.websockets_per_claw, Reason::ClawWebsockets, "open WebSockets")
        } else {
            (&self.at_once, limits.at_once_per_claw, Reason::ClawBusy, "requests at once")
        };
        places.take(id.clone(), most).ok_or_else(|| no_place(reason, what))
    }

    fn rate(&self, id: &ClawId, sort: Sort) -> Result<(), Box<Response<Body>>> {
        self.to_claws
            .count(&(id.clone(), sort))
            .map_err(|after| too_many(Reason::ClawRate, "this address gets more requests than it may", after))
    }
}

/// A message's places until its body is there.
pub(crate) struct Unread {
    _claw: Place<(ClawId, Sort)>,
    _address: Place<From>,
}

/// Refuses what has no place at a claw.
pub(crate) fn no_place(reason: Reason, what: &str) -> Box<Response<Body>> {
    too_many(reason, &format!("this address has as many {what} as it may"), Duration::from_secs(1))
}

/// Refuses what is too much for now (RFC 6585, 4).
fn too_many(reason: Reason, what: &str, after: Duration) -> Box<Response<Body>> {
    told::refused(reason);
    let mut response = problem::problem(
        StatusCode::TOO_MANY_REQUESTS,
        "overloaded",
        what,
        Some("try again after `Retry-After`"),
    );
    // Whole seconds, and never at once.
    problem::retry_after(&mut response, u32::try_from(after.as_secs()).unwrap_or(u32::MAX - 1) + 1);
    Box::new(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_household_is_one_caller() {
        let from = |text: &str| From::of(text.parse().unwrap());
        assert_eq!(from("2001:db8:1:2::1"), from("2001:db8:1:2:ffff::9"));
        assert_ne!(from("2001:db8:1:2::1"), from("2001:db8:1:3::1"));
        assert_eq!(from("::ffff:192.0.2.7"), from("192.0.2.7"));
        assert_ne!(from("192.0.2.7"), from("192.0.2.8"));
    }

    #[test]
    fn limits_are_set_by_name() {
        let mut limits = Limits::default();
        for name in Limits::NAMES {
            limits.set(&format!("{name}=7")).unwrap();
        }
        assert_eq!((limits.connections, limits.sign_ins_per_address), (7, 7));
        for bad in [
            "",
            "x=1",
            "connections",
            "connections=",
            "connections=-1",
            "connections=1e3",
            "connections=9999999",
        ] {
            let error = limits.set(bad).unwrap_err();
            assert_eq!(error.field_name(), Some("edge_limit"), "{bad}");
            assert!(error.fix_text().is_some(), "{bad}");
        }
    }

    #[test]
    fn a_caller_has_its_share_and_others_theirs() {
        let meter =
            Meter::new(Limits { requests_per_address: 1, sign_ins_per_address: 2, ..Limits::default() });
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let passed = (0..100).filter(|_| meter.request(one).is_ok()).count();
        // Five at once, and on a machine that stalls those of the seconds that went by.
        assert!((5..100).contains(&passed), "{passed}");
        assert!(meter.request(other).is_ok());
        let refused = (0..10).find_map(|_| meter.sign_in(one).err()).unwrap();
        assert_eq!(refused.status(), 429);
        let after: u32 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=31).contains(&after), "{after}");
    }

    #[test]
    fn a_claw_has_its_places() {
        let limits =
            Limits { at_once_per_claw: 2, messages_per_claw: 3, websockets_per_claw: 1, ..Limits::default() };
        let meter = Meter::new(limits);
        let (a, b) = (ClawId::new("a-1").unwrap(), ClawId::new("b-1").unwrap());
        let held: Vec<_> = (0..2).map(|_| meter.to_claw(&a, false).unwrap()).collect();
        assert_eq!(meter.to_claw(&a, false).err().unwrap().status(), 429);
        let _socket = meter.to_claw(&a, true).unwrap();
        assert!(meter.to_claw(&a, true).is_err());
        assert!(meter.to_claw(&b, false).is_ok());
        drop(held);
        assert!(meter.to_claw(&a, false).is_ok());
        // Strangers have their own, and use up nobody's; nor do services each other's.
        let from = "192.0.2.1".parse().unwrap();
        let unread: Vec<_> = (0..9).map(|_| meter.unread(&a, from, Sort::Stranger)).collect();
        assert_eq!(unread.iter().filter(|it| it.is_ok()).count(), 3);
        let strangers: Vec<_> = (0..9).filter_map(|_| meter.message(&a, Sort::Stranger)).collect();
        assert_eq!(strangers.len(), 3);
        assert!(meter.unread(&a, from, Sort::Proven).is_ok() && meter.message(&a, Sort::Proven).is_some());
        assert!(meter.to_claw(&a, false).is_ok());
        drop((unread, strangers));
        assert_eq!((meter.arriving.len(), meter.messages.len(), meter.unread.len()), (0, 0, 0));
        assert_eq!(meter.at_once.len(), 0, "what is free is not remembered");
    }
}
