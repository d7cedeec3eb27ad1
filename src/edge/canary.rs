//! The canary, as the edge knows it: followed by the node's own prober, which shows a secret, and by monitors as the rules
//! know them. To everybody else there is no such link.
//!
//! The secret is made at the start and known to this process alone. It is looked for on this one path, and compared in
//! constant time. Its holder's clicks have [`Marks::PROBE`], and it is bound by no limit, so that it takes nobody's place.

use std::rc::Rc;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Request};
use subtle::ConstantTimeEq as _;

use super::core::Core;
use super::resolve::{self, Entrance, Past, Resolved};
use super::{domain, route};
use crate::click::{Class, Marks, Visit, canary};

static SECRET: HeaderName = HeaderName::from_static(canary::SECRET_HEADER);
static DESTINATION: HeaderValue = HeaderValue::from_static(canary::DESTINATION);

/// Whether this is the node's own prober on its way.
pub(super) fn is_own_probe<B>(core: &Core, request: &Request<B>) -> bool {
    request.uri().path().strip_prefix('/') == Some(canary::SLUG) && shows_secret(core, request.headers())
}

fn shows_secret(core: &Core, headers: &HeaderMap) -> bool {
    headers.get(&SECRET).is_some_and(|shown| shown.as_bytes().ct_eq(&core.parts.probe_secret).into())
}

/// Follows it, or not.
pub(super) fn follow(core: &Rc<Core>, path: &str, visit: &Visit<'_>, headers: &HeaderMap) -> Resolved {
    let visit = Visit { marks: visit.marks.with(Marks::PROBE, shows_secret(core, headers)), ..*visit };
    // A monitor's HEAD is one of a monitor.
    let asked = Visit { head: false, prefetch: false, ..visit };
    if route::class(core, &asked) != Class::Monitor {
        return domain::follow(core, path, canary::SLUG, &visit, headers);
    }
    resolve::begin_turn_once(core);
    let (slug, org, location) = (canary::SLUG, canary::ORG, Some(&DESTINATION));
    let entrance = Entrance { slug, org, status: 302, location, ..Entrance::default() };
    resolve::hand_over(core, &entrance, Past::NONE, None, &visit, headers)
}
