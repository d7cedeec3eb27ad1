//! The limits, at the door of the request thread: who is asked for what, and the 429.

use std::io::Write as _;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Request, StatusCode};

use super::access::Access;
use super::core::Core;
use super::ingress::Refusal;
use super::limits::Limited;
use super::limits::addresses::{Counted, TooMany};
use super::resolve::{self, Resolved};
use super::respond::{self, Answer};
use super::{canary, client};
use crate::click::Grant;
use crate::click::key::Rate;
use crate::telemetry::metrics::Outcome;
use crate::telemetry::overload::Level;
use crate::telemetry::phases::Lap;

static RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

const LIMITED: &str = "{\"type\":\"about:blank\",\"title\":\"Too many requests; Retry-After says when there is room\",\
    \"status\":429,\"code\":\"rate_limited\"}\n";

const SHED: &str = "{\"type\":\"about:blank\",\"title\":\"Overloaded; come back in a moment\",\"status\":503,\
    \"code\":\"overloaded\"}\n";

/// Who stands at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    address: IpAddr,
    /// A proxy whose word is believed.
    trusted: bool,
    /// It has no limits of its own.
    exempt: bool,
}

impl Peer {
    pub(super) fn new(core: &Core, address: IpAddr) -> Self {
        let trusted = core.parts.config.trusted_proxies.iter().any(|network| network.contains(address));
        Self { address, trusted, exempt: core.parts.limits.is_exempt(address) }
    }

    /// Counts a connection of this peer; many stand behind a proxy.
    ///
    /// # Errors
    /// When it has as many as it may.
    pub(super) fn connect(&self, core: &Core) -> Result<Option<Counted>, TooMany> {
        if self.trusted || self.exempt { Ok(None) } else { core.parts.limits.connect(self.address) }
    }
}

/// Lets a request in and finds out what is to be answered. `told`: what the Warden said, of one that was let in before it
/// was asked.
pub(super) fn resolve<B>(
    core: &Rc<Core>,
    peer: &Peer,
    request: &Request<B>,
    now: Duration,
    told: Option<&Access>,
) -> Resolved {
    if told.is_none() && core.metrics.lever.sheds(Level::Redirects) {
        core.end(Lap::Limit);
        return Resolved::Shed;
    }
    let limits = &core.parts.limits;
    let (address, exempt) = if peer.trusted {
        let address = client::address(peer.address, request.headers(), &core.parts.config.trusted_proxies);
        // A proxy that names nobody stands for many.
        (address, address == peer.address || limits.is_exempt(address))
    } else {
        (peer.address, peer.exempt)
    };
    let visitor = (!exempt).then_some(address);
    // The node's own prober takes nobody's place.
    let is_judged = told.is_none() && !canary::is_own_probe(core, request);
    let admitted = if is_judged { limits.admit(visitor, now) } else { Ok(()) };
    core.end(Lap::Limit);
    if let Err(limited) = admitted {
        return Resolved::Limited(limited);
    }
    core.missed.set(false);
    let resolved = resolve::resolve(core, address, peer.trusted, request, told);
    // Also where the domain sends such visits on: the answer tells what is there and what is not.
    let missed = core.missed.get() || matches!(resolved, Resolved::Refused(Refusal::UnknownCampaign));
    if let Some(visitor) = visitor.filter(|_| missed) {
        limits.miss(visitor, now);
    }
    // Of the others the journal has begun.
    if !matches!(resolved, Resolved::Redirect { .. } | Resolved::Nowhere { .. }) {
        core.end(Lap::LookUp);
    }
    resolved
}

/// Lets a request for this link in, which is there.
pub(super) fn admit_to(core: &Core, domain: &str, slug: &str) -> Result<(), Limited> {
    core.end(Lap::LookUp);
    let admitted = core.parts.limits.link(domain, slug, core.connections.now());
    core.end(Lap::Limit);
    admitted
}

/// Lets a visit in that came with this key.
pub(super) fn admit_key(core: &Core, grant: &Grant) -> Result<(), Limited> {
    let Some(Rate { per_second, burst }) = grant.rate else { return Ok(()) };
    core.end(Lap::LookUp);
    let admitted = core.parts.limits.key(&grant.key_id, per_second, burst, core.connections.now());
    core.end(Lap::Limit);
    admitted
}

/// The 429, with the policy and what is left of it (draft-ietf-httpapi-ratelimit-headers-10). A redirect carries neither:
/// they would be 60 bytes more for everybody.
pub(super) fn refuse(core: &Core, limited: &Limited) -> Answer {
    core.metrics.limit(limited.limit);
    let mut answer = respond::problem(core, Outcome::Limited, StatusCode::TOO_MANY_REQUESTS, LIMITED);
    let headers = answer.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from(limited.retry_after_s));
    for (name, value) in [(&RATELIMIT_POLICY, policy(limited)), (&RATELIMIT, left(limited))] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    answer
}

/// The 503 of the last level of overload.
pub(super) fn shed(core: &Core) -> Answer {
    let mut answer = respond::problem(core, Outcome::Shed, StatusCode::SERVICE_UNAVAILABLE, SHED);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

fn policy(limited: &Limited) -> Vec<u8> {
    written(|out| write!(out, "\"{}\";q={};w={}", limited.limit.name(), limited.burst, limited.window_s))
}

/// Nothing is left; the first one will be in this time.
fn left(limited: &Limited) -> Vec<u8> {
    written(|out| write!(out, "\"{}\";r=0;t={}", limited.limit.name(), limited.retry_after_s))
}

fn written(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> Vec<u8> {
    let mut out = Vec::with_capacity(48);
    // Writing to memory cannot fail.
    let _ = write(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Limit;

    #[test]
    fn the_headers_are_structured_fields_and_the_body_is_a_problem() {
        let limited = Limited { limit: Limit::Network, retry_after_s: 3, burst: 5000, window_s: 5 };
        assert_eq!(policy(&limited), b"\"network\";q=5000;w=5");
        assert_eq!(left(&limited), b"\"network\";r=0;t=3");
        let problem: serde_json::Value = serde_json::from_str(LIMITED).unwrap();
        assert_eq!((&problem["code"], &problem["status"]), (&"rate_limited".into(), &429.into()));
        let problem: serde_json::Value = serde_json::from_str(SHED).unwrap();
        assert_eq!((&problem["code"], &problem["status"]), (&"overloaded".into(), &503.into()));
    }
}
