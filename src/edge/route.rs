//! Where a visit goes: to the link's own destination, or where its campaign sends it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::IpAddr;

use hashbrown::HashMap;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, COOKIE};

use super::core::Core;
use super::resolve::Entrance;
use crate::catalog::agents::Agent;
use crate::catalog::geo::{self, Place};
use crate::click::campaign::{Campaign, Decision, Local, Strategy, Turn, Zone};
use crate::click::condition::{Facts, Map, Needs, Number, Text};
use crate::click::{Class, Visit, domain, facts, frame};
use crate::telemetry::metrics::Decided;

/// Rules in whose turns a thread keeps its place; one more, and all begin anew.
const TURNS_MAX: usize = 10_000;

/// Where the dates of links without a campaign are.
static UTC: Zone = Zone::UTC;

/// The turns of round robin on one edge thread.
#[derive(Debug, Default)]
pub(super) struct ThreadTurns(HashMap<(u64, usize), (u64, Turn)>);

impl ThreadTurns {
    pub(super) fn turn(&mut self, of: &Campaign, rule: usize) -> &mut Turn {
        let place = (of.mark, rule);
        if self.0.len() >= TURNS_MAX && !self.0.contains_key(&place) {
            self.0.clear();
        }
        let (version, turn) = self.0.entry(place).or_default();
        if *version != of.version {
            (*version, *turn) = (of.version, Turn::default());
        }
        turn
    }
}

/// What was found out about one visit, each thing once, and only when somebody asked.
pub(super) struct Found<'v> {
    core: &'v Core,
    visit: &'v Visit<'v>,
    campaign: Option<&'v Campaign>,
    unix_ms: u64,
    known: Needs,
    pub(super) agent: Option<Agent>,
    pub(super) country: Option<[u8; 2]>,
    place: Place,
    pub(super) local: Option<Local>,
}

impl<'v> Found<'v> {
    /// Nothing yet.
    pub(super) const fn new(
        core: &'v Core,
        visit: &'v Visit<'v>,
        campaign: Option<&'v Campaign>,
        unix_ms: u64,
    ) -> Self {
        let (known, place) = (Needs::NOTHING, Place::UNKNOWN);
        Self { core, visit, campaign, unix_ms, known, agent: None, country: None, place, local: None }
    }

    /// Finds out what is asked for and not known yet, and no more.
    pub(super) fn find(&mut self, asked: Needs) {
        let missing = |what| asked.has(what) && !self.known.has(what);
        if missing(Needs::AGENT) {
            self.agent = Some(self.core.agents.borrow_mut().read(frame::kept_ua(self.visit.ua)));
        }
        if missing(Needs::PLACE) {
            self.country = self.core.parts.geo.country(self.visit.address);
        }
        if missing(Needs::CITY) {
            (self.place.region, self.place.city) = self.core.parts.geo.city(self.visit.address);
        }
        if missing(Needs::ASN) {
            self.place.asn = self.core.parts.geo.asn(self.visit.address);
        }
        if missing(Needs::TIME) {
            let zone = self.campaign.map_or(&UTC, |campaign| &campaign.zone);
            self.local = Some(zone.local(self.unix_ms));
        }
        self.known = self.known.and(asked);
    }

    /// From here on for this campaign, whose zone may be another one.
    pub(super) fn turn_to(&mut self, campaign: &'v Campaign) {
        self.campaign = Some(campaign);
        self.known = self.known.without(Needs::TIME);
    }
}

/// What is known of one request when its campaign decides.
pub(super) struct Seen<'v> {
    pub(super) found: &'v Found<'v>,
    pub(super) headers: &'v HeaderMap,
    pub(super) link: &'v Entrance<'v>,
    pub(super) external_click_id: &'v [u8],
}

impl Seen<'_> {
    const fn visit(&self) -> &Visit<'_> {
        self.found.visit
    }

    /// As the worker will find it: by the same function, from the same facts.
    pub(super) fn class(&self) -> Class {
        let (visit, agent) = (self.visit(), self.found.agent.map(|agent| agent.reasons).unwrap_or_default());
        let classifier = self.found.core.parts.agents.classifier();
        classifier.classify(visit.head, visit.prefetch, visit.marks, agent).class
    }
}

/// Whose click a visit is, as far as one request tells. Reads the user agent.
pub(super) fn class(core: &Core, visit: &Visit<'_>) -> Class {
    let agent = core.agents.borrow_mut().read(frame::kept_ua(visit.ua));
    let classifier = core.parts.agents.classifier();
    classifier.classify(visit.head, visit.prefetch, visit.marks, agent.reasons).class
}

/// Counts what decided.
pub(super) fn count(core: &Core, decision: &Decision<'_>) {
    let decided = match decision {
        Decision::Rule(rule, _) => match rule.choice.strategy() {
            Strategy::Weighted => Decided::Weighted,
            Strategy::RoundRobin => Decided::RoundRobin,
            Strategy::Priority => Decided::Priority,
            Strategy::HighestBid => Decided::HighestBid,
        },
        Decision::Default(_) => Decided::Default,
        Decision::Overflow(..) => Decided::Overflow,
        Decision::Fallback(_) => Decided::Fallback,
        Decision::Link => Decided::Link,
    };
    core.metrics.decide(decided);
    core.stopwatch.decide(decided);
}

impl Facts for Seen<'_> {
    fn text(&self, name: Text) -> Cow<'_, str> {
        let agent = |text: fn(&Agent) -> &'static str| Cow::Borrowed(self.found.agent.as_ref().map_or("", text));
        match name {
            Text::Country => {
                self.found.country.as_ref().map_or_else(Cow::default, |code| String::from_utf8_lossy(code))
            }
            Text::Continent => self.found.country.and_then(geo::continent).unwrap_or_default().into(),
            Text::Region => self.found.place.region.into(),
            Text::City => self.found.place.city.into(),
            Text::Device => agent(|agent| agent.device),
            Text::Os => agent(|agent| agent.os),
            Text::Browser => agent(|agent| agent.browser),
            Text::Language => facts::first_language(self.visit().language),
            Text::Referrer => String::from_utf8_lossy(self.visit().referrer),
            Text::ReferrerDomain => facts::domain(self.visit().referrer),
            Text::Source => self.entry(Map::Query, "source").unwrap_or_default(),
            Text::ExternalClickId => String::from_utf8_lossy(self.external_click_id),
            Text::Date => self.found.local.map_or_else(Cow::default, |local| local.to_string().into()),
            Text::Class => self.class().name().into(),
            Text::Slug => self.link.slug.into(),
            Text::Domain => domain::host(self.visit().host),
        }
    }

    fn number(&self, name: Number) -> i64 {
        match name {
            Number::Hour => self.found.local.map_or(0, |local| local.hour.into()),
            Number::Weekday => self.found.local.map_or(0, |local| local.weekday.into()),
            Number::Asn => self.found.place.asn.into(),
        }
    }

    fn entry(&self, of: Map, key: &str) -> Option<Cow<'_, str>> {
        match of {
            Map::Query => facts::parameter(self.visit().query, key),
            // A key is nothing to decide by: conditions could spell it out.
            Map::Header if key == AUTHORIZATION.as_str() => None,
            Map::Header => Some(self.headers.get(key)?.to_str().ok()?.into()),
            Map::Cookie => facts::cookie(cookie_lines(self.headers), key).map(Cow::Borrowed),
        }
    }

    fn is_bot(&self) -> bool {
        self.class().is_bot()
    }

    fn address(&self) -> IpAddr {
        self.visit().address
    }

    fn has_tag(&self, tag: &str) -> bool {
        self.link.tags.iter().any(|known| known == tag)
    }
}

pub(super) fn cookie_lines(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok())
}

/// Kept by each thread, for all campaigns.
pub(super) type SharedTurns = RefCell<ThreadTurns>;
