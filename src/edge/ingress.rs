//! `/in`: visits that come without a link, from servers and ad networks. A campaign says where they go.
//!
//! ```text
//! campaign=NAME    that campaign
//! without it       the first, in the order of names, of those that have a `when` and whose `when` holds
//!   neither, or it has nothing for this visit       ingress.fallback_url       else 404
//! ```
//! Off unless configured: keys are not checked yet, and who sends one is told so. Bounds: `ingress.campaigns_max`.

use std::rc::Rc;
use std::sync::Arc;

use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{HeaderMap, StatusCode};

use super::core::Core;
use super::resolve::{self, Entrance, Past, Resolved};
use super::route::{Found, Seen};
use crate::click::condition::Condition;
use crate::click::{Campaign, Visit, query};
use crate::telemetry::metrics::Outcome;

/// How a key of Warden begins.
const KEY: &[u8] = b"wdn_sk_";

/// Why a visit of `/in` is not sent anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It came with a key.
    KeysNotBuilt,
    Disabled,
    UnknownCampaign,
    NoDestination,
}

impl Refusal {
    #[cfg(test)]
    pub(super) const ALL: [Self; 4] = [Self::KeysNotBuilt, Self::Disabled, Self::UnknownCampaign, Self::NoDestination];

    /// What it is counted as, and the answer.
    pub(super) const fn problem(self) -> (Outcome, StatusCode, &'static str) {
        match self {
            Self::KeysNotBuilt => (
                Outcome::Refused,
                StatusCode::NOT_IMPLEMENTED,
                "{\"type\":\"about:blank\",\"title\":\"API keys are not built yet, and this one was not checked; send \
                 none\",\"status\":501,\"code\":\"not_built\"}\n",
            ),
            Self::Disabled => (
                Outcome::UnknownLink,
                StatusCode::NOT_FOUND,
                "{\"type\":\"about:blank\",\"title\":\"The ingress endpoint /in is switched off; the setting \
                 ingress.enabled = true switches it on\",\"status\":404,\"code\":\"ingress_disabled\"}\n",
            ),
            Self::UnknownCampaign => (
                Outcome::UnknownLink,
                StatusCode::NOT_FOUND,
                "{\"type\":\"about:blank\",\"title\":\"There is no campaign of this name\",\"status\":404,\
                 \"code\":\"unknown_campaign\"}\n",
            ),
            Self::NoDestination => (
                Outcome::UnknownLink,
                StatusCode::NOT_FOUND,
                "{\"type\":\"about:blank\",\"title\":\"No campaign has a destination for this visit\",\"status\":404,\
                 \"code\":\"no_destination\"}\n",
            ),
        }
    }
}

/// Finds the campaign and goes where it says.
pub(super) fn follow(core: &Rc<Core>, visit: &Visit<'_>, headers: &HeaderMap) -> Resolved {
    if headers.get_all(AUTHORIZATION).iter().any(holds_key) {
        return Resolved::Refused(Refusal::KeysNotBuilt);
    }
    let ingress = &core.parts.ingress;
    if !ingress.enabled {
        return Resolved::Refused(Refusal::Disabled);
    }
    resolve::begin_turn_once(core);
    let go = |campaign: Option<&Campaign>| {
        let name = campaign.map_or("", |campaign| &campaign.id);
        resolve::hand_over(
            core,
            &Entrance::ingress(name, ingress.fallback.as_ref()),
            Past::NONE,
            campaign,
            visit,
            headers,
        )
    };
    let name = query::find(visit.query, "campaign").unwrap_or_default();
    if name.is_empty() {
        return core.parts.campaigns.with_conditional(|campaigns| {
            let nowhere = Entrance::ingress("", None);
            let mut found = Found::new(core, visit, None, core.turn_ms.get());
            let external_click_id = query::find(visit.query, "click_id").unwrap_or_default();
            go(first(campaigns, ingress.campaigns_max, |campaign, when| {
                found.turn_to(campaign);
                found.find(when.needs());
                let seen = Seen { found: &found, headers, link: &nowhere, external_click_id: &external_click_id };
                when.holds(&seen)
            }))
        });
    }
    // What is no text is the name of none.
    core.parts.campaigns.with(std::str::from_utf8(&name).unwrap_or_default(), |campaign| {
        if campaign.is_none() && ingress.fallback.is_none() {
            return Resolved::Refused(Refusal::UnknownCampaign);
        }
        go(campaign)
    })
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

/// Whether an `Authorization` carries a key, whatever its scheme.
fn holds_key(value: &HeaderValue) -> bool {
    value.as_bytes().windows(KEY.len()).any(|part| part == KEY)
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

    #[test]
    fn a_key_is_seen_whatever_stands_around_it() {
        for (value, expected) in [
            ("Bearer wdn_sk_live_1", true),
            ("bearer  wdn_sk_", true),
            ("wdn_sk_x", true),
            ("Basic dXNlcjpwdw==", false),
            ("Bearer wdn_pk_1", false),
            ("", false),
        ] {
            assert_eq!(holds_key(&HeaderValue::from_static(value)), expected, "{value}");
        }
    }
}
