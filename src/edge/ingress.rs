//! `/in`: visits that come without a link, from servers and ad networks. A campaign says where they go.
//!
//! ```text
//! campaign=NAME    that campaign
//! without it       the first, in the order of names, of those that have a `when` and whose `when` holds
//!   neither, or it has nothing for this visit       ingress.fallback_url       else 404
//! ```
//! Only campaigns of the organisation of the visit's key are there ([`super::access`]). Off unless configured. Bounds:
//! `ingress.campaigns_max`.

use std::rc::Rc;
use std::sync::Arc;

use hyper::{HeaderMap, StatusCode};

use super::access::Access;
use super::admission;
use super::core::Core;
use super::resolve::{self, Entrance, Past, Resolved};
use super::route::{Found, Seen};
use crate::click::condition::Condition;
use crate::click::{Campaign, Visit, query};
use crate::telemetry::caches::Cache;
use crate::telemetry::metrics::Outcome;
use crate::telemetry::phases::Lap;

/// Why a visit of `/in` is not sent anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It has no key, or a bad one; the answer does not say which.
    Unauthorized,
    /// The key lacks the scope.
    Forbidden,
    /// Whoever checks keys does not answer.
    WardenAway,
    Disabled,
    UnknownCampaign,
    NoDestination,
}

impl Refusal {
    #[cfg(test)]
    pub(super) const ALL: [Self; 6] = [
        Self::Unauthorized,
        Self::Forbidden,
        Self::WardenAway,
        Self::Disabled,
        Self::UnknownCampaign,
        Self::NoDestination,
    ];

    /// What it is counted as, and the answer.
    pub(super) const fn problem(self) -> (Outcome, StatusCode, &'static str) {
        match self {
            Self::Unauthorized => (
                Outcome::Refused,
                StatusCode::UNAUTHORIZED,
                "{\"type\":\"about:blank\",\"title\":\"Send an API key of the campaign's organisation: Authorization: Bearer \
                 wdn_sk_...\",\"status\":401,\"code\":\"unauthorized\"}\n",
            ),
            Self::Forbidden => (
                Outcome::Refused,
                StatusCode::FORBIDDEN,
                "{\"type\":\"about:blank\",\"title\":\"The key lacks the scope ingress\",\"status\":403,\
                 \"code\":\"forbidden\"}\n",
            ),
            Self::WardenAway => (
                Outcome::WardenAway,
                StatusCode::SERVICE_UNAVAILABLE,
                "{\"type\":\"about:blank\",\"title\":\"The Warden, which checks keys, does not answer; try again\",\
                 \"status\":503,\"code\":\"warden_unavailable\"}\n",
            ),
            Self::Disabled => (
                Outcome::NoRoute,
                StatusCode::NOT_FOUND,
                "{\"type\":\"about:blank\",\"title\":\"The ingress endpoint /in is switched off; the setting \
                 ingress.enabled = true switches it on\",\"status\":404,\"code\":\"ingress_disabled\"}\n",
            ),
            Self::UnknownCampaign => (
                Outcome::NoRoute,
                StatusCode::NOT_FOUND,
                "{\"type\":\"about:blank\",\"title\":\"There is no campaign of this name\",\"status\":404,\
                 \"code\":\"unknown_campaign\"}\n",
            ),
            Self::NoDestination => (
                Outcome::NoRoute,
                StatusCode::NOT_FOUND,
                "{\"type\":\"about:blank\",\"title\":\"No campaign has a destination for this visit\",\"status\":404,\
                 \"code\":\"no_destination\"}\n",
            ),
        }
    }
}

/// Finds the campaign and goes where it says. `told`: what the Warden said, when it was asked.
pub(super) fn follow(core: &Rc<Core>, visit: &Visit<'_>, headers: &HeaderMap, told: Option<&Access>) -> Resolved {
    let ingress = &core.parts.ingress;
    if !ingress.enabled {
        return Resolved::Refused(Refusal::Disabled);
    }
    resolve::begin_turn_once(core);
    let peeked;
    let access = match told {
        Some(told) => told,
        None => {
            core.end(Lap::LookUp);
            let known = Access::peek(core, headers);
            core.end(Lap::Auth);
            let Some(known) = known else { return Resolved::AskWarden };
            peeked = known;
            &peeked
        }
    };
    let name = query::find(visit.query, "campaign").unwrap_or_default();
    // What is no text is the name of none. Looked for with a bad key too: that takes as long as with one of another
    // organisation.
    core.parts.campaigns.with(std::str::from_utf8(&name).unwrap_or_default(), |campaign| {
        let org = match access.judge(core, campaign) {
            Ok(org) => org,
            Err(refusal) => return Resolved::Refused(refusal),
        };
        if let Some(Err(limited)) = access.grant().map(|grant| admission::admit_key(core, grant)) {
            return Resolved::Limited(limited);
        }
        if name.is_empty() {
            return follow_first(core, org, visit, headers);
        }
        core.caches.count(Cache::Campaigns, campaign.is_some());
        let campaign = campaign.filter(|campaign| *campaign.org == *org);
        if campaign.is_none() && ingress.fallback.is_none() {
            return Resolved::Refused(Refusal::UnknownCampaign);
        }
        go(core, org, campaign, visit, headers)
    })
}

/// By the first campaign of the organisation that is for this visit.
fn follow_first(core: &Rc<Core>, org: &str, visit: &Visit<'_>, headers: &HeaderMap) -> Resolved {
    core.parts.campaigns.with_conditional(org, |campaigns| {
        let nowhere = Entrance::ingress(org, "", None);
        let mut found = Found::new(core, visit, None, core.turn_ms.get());
        let external_click_id = query::find(visit.query, "click_id").unwrap_or_default();
        let campaign = first(campaigns, core.parts.ingress.campaigns_max, |campaign, when| {
            found.turn_to(campaign);
            found.find(when.needs());
            let seen = Seen { found: &found, headers, link: &nowhere, external_click_id: &external_click_id };
            when.holds(&seen)
        });
        go(core, org, campaign, visit, headers)
    })
}

fn go(core: &Rc<Core>, org: &str, campaign: Option<&Campaign>, visit: &Visit<'_>, headers: &HeaderMap) -> Resolved {
    let name = campaign.map_or("", |campaign| &campaign.id);
    let entrance = Entrance::ingress(org, name, core.parts.ingress.fallback.as_ref());
    resolve::hand_over(core, &entrance, Past::NONE, campaign, visit, headers)
}

/// The first campaign whose condition holds, of the first `asked_max`.
fn first<'c>(
    campaigns: &'c [Arc<Campaign>],
    asked_max: usize,
    mut holds: impl FnMut(&'c Campaign, &Condition) -> bool,
) -> Option<&'c Campaign> {
    let mut asked = campaigns.iter().take(asked_max).map(Arc::as_ref);
    asked.find(|campaign| campaign.when.as_ref().is_some_and(|when| holds(campaign, when)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::click::OwnHosts;

    fn campaign(id: &str, when: Option<&str>) -> Arc<Campaign> {
        let mut document = serde_json::json!({"fallback_url": "https://a.example/"});
        if let Some(when) = when {
            document["when"] = when.into();
        }
        Arc::new(Campaign::check(id, document, &OwnHosts::default()).unwrap())
    }

    #[test]
    fn the_first_campaign_whose_condition_holds_is_taken_and_none_is_asked_behind_it() {
        let campaigns = [
            campaign("a", None),
            campaign("b", Some("source == 'b'")),
            campaign("c", Some("source == 'c'")),
            campaign("d", Some("source == 'd'")),
        ];
        let choose = |asked_max, takes: &[&str]| {
            let mut asked = Vec::new();
            let chosen = first(&campaigns, asked_max, |campaign, when| {
                assert_eq!(when.source(), format!("source == '{}'", campaign.id));
                asked.push(campaign.id.as_str());
                takes.contains(&campaign.id.as_str())
            });
            (chosen.map(|campaign| campaign.id.as_str()), asked.join(" "))
        };
        assert_eq!(choose(9, &["c", "d"]), (Some("c"), "b c".to_owned()));
        assert_eq!(choose(9, &["a"]), (None, "b c d".to_owned()), "without a `when` it is taken by name alone");
        assert_eq!(choose(3, &["d"]), (None, "b c".to_owned()), "the fourth is not asked any more");
        assert_eq!(choose(4, &["d"]), (Some("d"), "b c d".to_owned()));
    }
}
