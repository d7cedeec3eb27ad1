//! `POST /api/v1/explain`: where a visit would go, and why.
//!
//! Decides as the edge does, by the same functions, from a visit that somebody supposes; records nothing and counts nothing.
//! An unsaved campaign is checked as when it is saved, and not kept. Behind the token. Bounds: `control.body_bytes_max`
//! of a question; [`TURNS_SHOWN`] turns; a value that was found is cut at
//! [`FOUND_CHARS_MAX`](crate::click::condition::explain::FOUND_CHARS_MAX) characters.

mod caps;
mod question;
mod visit;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use self::caps::{LinkStage, Looking, is_capped, rule_is_closed};
use self::question::Subject;
use self::visit::{Seen, Supposed};
use super::Parts;
use super::access::Caller;
use super::extract::{Fields, NoParameters, Query};
use super::problem::{Code, Problem};
use crate::catalog::agents::Agents;
use crate::catalog::geo::Geo;
use crate::click::campaign::{Campaign, Choice, Chosen, Decision, Sticky, Strategy, Zone};
use crate::click::cap::{CAPPED, OVERFLOW};
use crate::click::condition::explain::Part;
use crate::click::condition::{Condition, Facts, Needs};
use crate::click::dedup::{By, Dedup};
use crate::click::kept::Keeping;
use crate::click::life::{EXPIRED, Stage};
use crate::click::template::Values;
use crate::click::visitor::VisitorId;
use crate::click::{ClickId, DayKey, Link, QueryMode, Template, query};
use crate::clock::{Clock, rfc_3339};

/// Turns of a round robin that are listed.
const TURNS_SHOWN: usize = 20;

/// What a decision goes by beside links and campaigns: the same as on the edge.
#[derive(Clone, Debug)]
pub struct Explainer {
    /// User agents.
    pub agents: Arc<Agents>,
    /// Where addresses are.
    pub geo: Arc<Geo>,
    /// What is kept of an address, and told to destinations.
    pub addresses: Keeping,
    /// The secret of fingerprints, by which sticky visitors are shared out.
    pub secret: Arc<[u8]>,
    /// Time, for visits that name none.
    pub clock: Arc<dyn Clock>,
}

pub(super) async fn explain(
    State(parts): State<Parts>,
    caller: Caller,
    Query(NoParameters {}): Query<NoParameters>,
    body: Fields<Map<String, Value>>,
) -> Result<Json<Value>, Problem> {
    let body = Value::Object(body.value);
    let (subject, supposed) = question::read(&parts, caller.org(), &body)?;
    // Only the shipped files can be at fault, which no answer mends.
    let explainer = (parts.explainer)().map_err(|error| Problem::new(Code::CatalogUnavailable, error))?;
    Ok(Json(answer(&explainer, &subject, &supposed)))
}

fn answer(explainer: &Explainer, subject: &Subject, supposed: &Supposed) -> Value {
    let (link, campaign) = (subject.link.as_ref().map(|entry| &entry.link), subject.campaign.as_deref());
    let unix_ms = supposed.at.unwrap_or_else(|| explainer.clock.wall_ms());
    let visit = supposed.visit();
    let external_click_id = query::find(visit.query, "click_id").unwrap_or_default();
    let of_link = link.map(|link| (link.slug.as_str(), link.tags.as_slice()));
    let utc = Zone::default();
    let place = (campaign.map_or(&utc, |campaign| &campaign.zone), unix_ms);
    let seen = Seen::new(explainer, supposed, &visit, of_link, &external_click_id, place);
    // All the same but for its time, so that a question that is asked again is answered alike.
    let id = supposed.click_id.unwrap_or_else(|| ClickId::new(unix_ms, &[0; 10]));
    let decision = campaign.map_or(Decision::Link, |campaign| {
        let key = campaign.key(id, || match campaign.sticky {
            Sticky::Cookie => seen.visitor().map(VisitorId::key),
            _ => Some(DayKey::new(&explainer.secret, unix_ms).visitor(&visit)),
        });
        campaign.decide(&seen, key, &mut Looking::new(place.0, unix_ms))
    });
    let stands = link.map_or(LinkStage::ALIVE, |link| LinkStage::of(link, unix_ms));
    let is_drawn = match campaign.map(|campaign| campaign.sticky) {
        Some(Sticky::Cookie) => seen.visitor().is_none(),
        _ => supposed.click_id.is_none(),
    };
    let shown = Shown { subject, link, campaign, stage: stands.stage, stands, decision, is_drawn, at: place };
    let address = explainer.addresses.keep(visit.address).and_then(|kept| kept.network());
    // As on the edge: of what the click keeps.
    let (region, city, asn) = supposed.place(&explainer.geo, address);
    let values = Values {
        click_id: Some(id),
        external_click_id: &external_click_id,
        campaign: &subject.campaign_id,
        rule: decision.rule(),
        variant: shown.variant(),
        unix_ms,
        address,
        region,
        city,
        asn,
        ..seen.values()
    };
    let applies = campaign.is_some_and(|campaign| holds(campaign.when.as_ref(), &seen) == Some(true));
    json!({
        "decision": shown.decision(&values, applies),
        "campaign": shown.campaign(&seen, applies),
        "rules": shown.rules(&seen, applies),
        "default": shown.default(applies),
        "facts": seen.shown(),
        "warnings": shown.warnings(&explainer.geo, applies && external_click_id.is_empty()),
        "at": rfc_3339(unix_ms),
    })
}

/// Without a condition for everybody.
fn holds(when: Option<&Condition>, facts: &impl Facts) -> Option<bool> {
    when.map_or(Some(true), |when| when.explain(facts).truth)
}

/// A condition as written, and its comparisons.
fn why(when: Option<&Condition>, facts: &impl Facts) -> (Value, Value) {
    let truth = |truth: Option<bool>| truth.map_or("missing", |truth| if truth { "true" } else { "false" });
    let part = |part: Part| {
        let found: Map<String, Value> = part.found.into_iter().collect();
        json!({ "part": part.text, "found": found, "truth": truth(part.truth), "decides": part.decides })
    };
    let parts = when.map(|when| when.explain(facts).parts).unwrap_or_default();
    (when.map(Condition::source).into(), parts.into_iter().map(part).collect())
}

/// A decision, and what it was made of.
struct Shown<'s> {
    subject: &'s Subject,
    link: Option<&'s Link>,
    campaign: Option<&'s Campaign>,
    /// Where the link stands in its life.
    stage: Stage<'s>,
    /// And what its caps say.
    stands: LinkStage<'s>,
    decision: Decision<'s>,
    /// What chooses is a sample: the click id, or, where a cookie chooses, that.
    is_drawn: bool,
    /// When, and where the days of the campaign are.
    at: (&'s Zone, u64),
}

impl Shown<'_> {
    fn is_paused(&self) -> bool {
        self.link.is_some_and(|link| link.paused)
    }

    /// Why the campaign of the link is not asked; `None` when it is.
    fn not_asked(&self) -> Option<&'static str> {
        match self.stage {
            _ if self.is_paused() => Some("the link is paused: it is answered like an unknown one"),
            _ if self.stands.at_cap.is_some() => self.stands.at_cap,
            Stage::Early => Some("the link has not started: it is answered like an unknown one"),
            Stage::Expired(None) => Some("the link has expired: it is answered 410"),
            Stage::Expired(Some(_)) => Some("the link has expired: its campaign is not asked"),
            Stage::Alive => None,
        }
    }

    /// Where an expired link sends its visitors.
    fn expired(&self) -> Option<&Template> {
        match self.stage {
            Stage::Expired(target) if !self.is_paused() => target,
            _ => None,
        }
    }

    fn variant(&self) -> &str {
        match self.expired() {
            Some(_) if self.stands.overflows => CAPPED,
            Some(_) => EXPIRED,
            None => self.decision.variant(),
        }
    }

    /// Where it sends them, with the version of what says so.
    fn target(&self) -> Option<(&Template, u64)> {
        let own = self.link.map(|link| (&link.target, link.version));
        match (self.expired(), self.decision.target(), self.campaign) {
            (Some(target), ..) => own.map(|(_, version)| (target, version)),
            (None, Some(target), Some(campaign)) => Some((target, campaign.version)),
            _ => own,
        }
    }

    /// What conditions and destination ask for and no file can say, and whether nobody could tell a duplicate. `has_no_id`:
    /// the campaign is for the visit, which has no external click id.
    fn warnings(&self, geo: &Geo, has_no_id: bool) -> Vec<&'static str> {
        let asked = self.campaign.map_or(Needs::NOTHING, |campaign| campaign.needs);
        let asked = self.target().map_or(asked, |(target, _)| asked.and(target.needs()));
        let (has_city, has_asn) = geo.has();
        let missing = [
            (
                Needs::CITY,
                has_city,
                "no file says where addresses are (geo.city): `region` and `city` are always empty",
            ),
            (Needs::ASN, has_asn, "no file says whose network addresses are in (geo.asn): `asn` is always 0"),
        ];
        let mut told: Vec<_> =
            missing.into_iter().filter(|(need, has, _)| asked.has(*need) && !has).map(|(.., told)| told).collect();
        let by = self.campaign.filter(|_| self.not_asked().is_none()).map(|campaign| campaign.dedup.by);
        if has_no_id && by == Some(By::ExternalClickId) {
            told.push(
                "the campaign tells duplicates by `click_id` alone, and the visit has none: its click is `unknown`",
            );
        }
        told
    }

    /// What chose among several.
    fn choice(&self) -> Option<&Choice> {
        if self.not_asked().is_some() {
            return None;
        }
        match self.decision {
            Decision::Rule(rule, _) => Some(&rule.choice),
            Decision::Default(_) => self.campaign?.default.as_ref(),
            Decision::Overflow(..) | Decision::Fallback(_) | Decision::Link => None,
        }
    }

    fn decision(&self, values: &Values<'_>, applies: bool) -> Value {
        let by = match self.decision {
            _ if self.expired().is_some() && self.stands.overflows => OVERFLOW,
            _ if self.expired().is_some() => "expired",
            _ if self.not_asked().is_some() => "none",
            Decision::Rule(..) => "rule",
            Decision::Default(_) => "default",
            Decision::Overflow(..) => OVERFLOW,
            Decision::Fallback(_) => "fallback",
            Decision::Link => "link",
        };
        let (certain, note) = self.note(applies);
        let mut shown = json!({
            "by": by, "rule": "", "variant": "", "destination": null, "status": null, "strategy": null, "route_version": null,
            "certain": certain, "note": note, "click_id": null,
        });
        if by == "none" {
            return shown;
        }
        if let Some((target, version)) = self.target() {
            let forward = self.link.is_some_and(|link| link.query == QueryMode::Forward);
            let mut spelled = Vec::new();
            target.splice(values, forward, &mut spelled);
            shown["destination"] = String::from_utf8_lossy(&spelled).into();
            shown["click_id"] = values.click_id.map(|id| id.to_string()).into();
            // A campaign that is not saved has none.
            shown["route_version"] = (version > 0).then_some(version).into();
        }
        shown["rule"] = if self.not_asked().is_some() { "" } else { self.decision.rule() }.into();
        shown["variant"] = self.variant().into();
        shown["status"] = self.link.map(|link| link.status).into();
        shown["strategy"] = self.choice().map(|choice| word(choice.strategy())).into();
        shown
    }

    /// Whether this visit goes there and nowhere else, and what else there is to say.
    fn note(&self, applies: bool) -> (bool, Option<String>) {
        if let Some(why) = self.not_asked() {
            return (true, Some(why.into()));
        }
        if let Some(choice) = self.choice().filter(|choice| choice.destinations().len() > 1) {
            let sticky = self.campaign.map(|campaign| campaign.sticky);
            let (certain, note) = match (choice.strategy(), sticky) {
                (Strategy::Priority, _) => return (true, None),
                (Strategy::RoundRobin, _) => {
                    (false, "each edge thread takes its own turns: this is the first one, and `turns` has the next")
                }
                (_, Some(Sticky::Visitor)) => {
                    (true, "a visitor of this address and user agent goes there all day (UTC)")
                }
                (_, Some(Sticky::Cookie)) if self.is_drawn => (
                    false,
                    "a visitor without a valid cookie `trellis-v` gets one, whose random value decides by the shares: \
                     this is one of the ways",
                ),
                (_, Some(Sticky::Cookie)) => (true, "a visitor with this cookie `trellis-v` goes there"),
                _ if self.is_drawn => {
                    (false, "each click is decided for itself, by the shares: this is where one with this id goes")
                }
                _ => (true, "each click is decided for itself, by the shares, and this one goes there"),
            };
            return (certain, Some(note.into()));
        }
        let note = match (self.decision, self.campaign) {
            (Decision::Link, None) if self.subject.campaign_id.is_empty() => return (true, None),
            (Decision::Link, None) => {
                format!("the link names the campaign `{}`, and there is none of this name", self.subject.campaign_id)
            }
            (Decision::Link, Some(_)) if !applies => "the campaign is not for this visit: see its `why`".into(),
            (Decision::Link, Some(_)) => "no rule takes it, and there is neither `default` nor `fallback_url`".into(),
            _ => return (true, None),
        };
        let whose = if self.link.is_none() { "; the link's own `url` is taken" } else { "" };
        (true, Some(format!("{note}{whose}")))
    }

    fn campaign(&self, seen: &Seen<'_>, applies: bool) -> Value {
        let id = Some(self.subject.campaign_id.as_str()).filter(|id| !id.is_empty());
        let Some(campaign) = self.campaign else {
            return id.map_or(
                Value::Null,
                |id| json!({ "id": id, "version": null, "applies": false, "when": null, "why": [], "dedup": null }),
            );
        };
        let (when, why) = why(campaign.when.as_ref(), seen);
        let version = (campaign.version > 0).then_some(campaign.version);
        let dedup = campaign.dedup;
        let dedup = (dedup != Dedup::default()).then(|| {
            let by = (dedup.by != By::Either).then(|| dedup.by.names());
            json!({ "by": by, "window": dedup.window.map(|window| window.to_string()) })
        });
        json!({ "id": id, "version": version, "applies": applies, "when": when, "why": why, "dedup": dedup })
    }

    fn rules(&self, seen: &Seen<'_>, applies: bool) -> Value {
        let Some(campaign) = self.campaign else { return json!([]) };
        let looking = Looking::new(self.at.0, self.at.1);
        let taken = match self.decision {
            Decision::Rule(rule, _) | Decision::Overflow(Some(rule), _) => {
                campaign.rules.iter().position(|one| std::ptr::eq(one, rule))
            }
            _ => None,
        };
        let rule = |(number, rule): (usize, &crate::click::campaign::Rule)| {
            let verdict = match holds(rule.when.as_ref(), seen) {
                _ if !applies || self.not_asked().is_some() => "not reached",
                _ if taken == Some(number) => "taken",
                Some(true) => rule_is_closed(rule, &looking).unwrap_or("would take"),
                Some(false) => "does not hold",
                None => "undecided",
            };
            let (when, why) = why(rule.when.as_ref(), seen);
            let mut shown = json!({
                "name": rule.name, "verdict": verdict, "when": when, "why": why,
                "capped": is_capped(rule.cap.as_ref(), &looking),
            });
            if verdict == "taken" {
                self.destinations(&rule.choice, &campaign.document["rules"][number]["to"], &mut shown);
            }
            shown
        };
        campaign.rules.iter().enumerate().map(rule).collect()
    }

    /// The default destinations; null where there are none.
    fn default(&self, applies: bool) -> Value {
        let Some((campaign, choice)) = self.campaign.and_then(|one| Some((one, one.default.as_ref()?))) else {
            return Value::Null;
        };
        let taken = applies
            && self.not_asked().is_none()
            && matches!(self.decision, Decision::Default(_) | Decision::Overflow(None, _));
        let mut shown = json!({ "verdict": if taken { "taken" } else { "not reached" } });
        if taken {
            self.destinations(choice, &campaign.document["default"], &mut shown);
        }
        shown
    }

    /// Adds what was chosen from: also those of the document that no visit reaches, with a share of 0.
    fn destinations(&self, choice: &Choice, document: &Value, shown: &mut Value) {
        let total: u64 = choice.destinations().iter().map(|one| u64::from(one.weight)).sum();
        let share = |name: &str| {
            let at = choice.destinations().iter().position(|one| *one.name == *name);
            match (at, choice.strategy()) {
                (None, _) => 0.0,
                (Some(at), Strategy::Priority) => f64::from(u8::from(at == 0)),
                (Some(at), _) => f64::from(choice.destinations()[at].weight) / total as f64,
            }
        };
        let entries = document.as_array().map(Vec::as_slice).unwrap_or_default().iter().enumerate();
        let looking = Looking::new(self.at.0, self.at.1);
        let cap = |name: &str| choice.destinations().iter().find(|one| *one.name == *name)?.cap.as_ref();
        let to = entries.map(|(number, entry)| {
            let name = entry["name"].as_str().map_or_else(|| (number + 1).to_string(), str::to_owned);
            let weight = entry["weight"].as_u64().unwrap_or(1);
            json!({
                "name": name, "url": entry["url"], "weight": weight, "bid": entry["bid"], "share": share(&name),
                "chosen": name == self.decision.variant(), "capped": is_capped(cap(&name), &looking),
            })
        });
        shown["strategy"] = word(choice.strategy()).into();
        shown["to"] = to.collect();
        if let (Strategy::RoundRobin, Some(campaign)) = (choice.strategy(), self.campaign) {
            let mut looking = looking;
            let next = |_| match choice.choose(0, &mut looking, campaign, 0)? {
                Chosen::To(destination) => Some(&*destination.name),
                Chosen::Overflow(_) => Some(OVERFLOW),
            };
            shown["turns"] = (0..TURNS_SHOWN).filter_map(next).map(Value::from).collect();
        }
    }
}

fn word(strategy: Strategy) -> &'static str {
    Strategy::ALL.iter().find(|(_, known)| *known == strategy).map_or("", |(word, _)| word)
}
