//! What the click of a request may keep, by what its visitor says and where it comes from.
//!
//! Only reads: the rules are in `click::privacy`. Asked once for each click, before its campaign and before its frame. Bound:
//! the headers and the query of one request.

use hyper::HeaderMap;
use hyper::header::HeaderName;

use super::core::Core;
use super::route::Found;
use crate::click::condition::Needs;
use crate::click::kept::Keeping;
use crate::click::privacy::{Agent, Keeps, Level, Privacy, Signals};
use crate::click::{Kept, Visit};
use crate::telemetry::caches::Cache;

static SEC_GPC: HeaderName = HeaderName::from_static("sec-gpc");
static DNT: HeaderName = HeaderName::from_static("dnt");

/// The level of this visit. Finds its country when the policy goes by countries.
pub(super) fn level(core: &Core, headers: &HeaderMap, visit: &Visit<'_>, found: &mut Found<'_>) -> Level {
    let policy = &core.parts.privacy.policy;
    // Of a repeated header one word is enough.
    let says = |name: &HeaderName| headers.get_all(name).iter().any(|value| value == "1");
    if policy.asks_for_country() {
        found.find(Needs::PLACE);
    }
    let signals =
        Signals { gpc: says(&SEC_GPC), dnt: says(&DNT), consent: policy.consent(visit.query), country: found.country };
    let (level, remembered) = core.decisions.borrow_mut().decide(policy, &signals);
    core.caches.count(Cache::Compliance, remembered);
    level
}

/// What is kept of the address. Where no network is, its country is found, if the level keeps that.
pub(super) fn address(keeping: &Keeping, keeps: Keeps, visit: &Visit<'_>, found: &mut Found<'_>) -> Option<Kept> {
    let kept = if keeps.address { keeping.keep(visit.address) } else { None };
    if keeps.facts && kept.and_then(|kept| kept.network()).is_none() {
        found.find(Needs::PLACE);
    }
    kept
}

/// What the frame says of it. Reads the user agent for those who will not have it.
pub(super) fn told(level: Level, found: &mut Found<'_>) -> Privacy<'static> {
    let keeps = level.keeps();
    if keeps.ua {
        return Privacy { level, agent: None };
    }
    found.find(Needs::AGENT);
    let agent = found.agent.map(|agent| {
        let named = |name| if keeps.facts { name } else { "" };
        Agent {
            device: named(agent.device),
            os: named(agent.os),
            browser: named(agent.browser),
            reasons: agent.reasons,
        }
    });
    Privacy { level, agent }
}
