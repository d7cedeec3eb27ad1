//! From a request to what is to be answered: a look-up in memory, and the click handed over.

use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use hyper::header::{ACCEPT_LANGUAGE, HeaderName, HeaderValue, REFERER, USER_AGENT};
use hyper::{HeaderMap, Method, Request};

use super::access::Access;
use super::core::Core;
use super::domain::Of;
use super::ingress::{self, Refusal};
use super::limits::Limited;
use super::privacy;
use super::route::{self, Found, Seen};
use super::spell::{Place, spell};
use super::sticky::By;
use super::tally::{self, Entered, Taken, VisitTally};
use super::{admission, canary, client, domain, marks};
use crate::catalog::Entry;
use crate::click::campaign::{Campaign, Decision};
use crate::click::canary::SLUG;
use crate::click::cap::{CAPPED, Moment, UTC};
use crate::click::domain::NO_LINK;
use crate::click::fingerprint::To;
use crate::click::life::{EXPIRED, Stage};
use crate::click::privacy::Level;
use crate::click::template::Values;
use crate::click::{Class, Click, ClickId, DayKey, Dedup, Domain, QueryMode, Template, Visit, facts, query};
use crate::handoff::Ticket;
use crate::telemetry::caches::Cache;
use crate::telemetry::phases::Lap;

static SEC_PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");
static PURPOSE: HeaderName = HeaderName::from_static("purpose");

/// What is to be answered.
pub(super) enum Resolved {
    /// A visit to no link that goes nowhere, when its click is in the journal or could not be.
    Nowhere {
        ticket: Ticket,
        id: ClickId,
    },
    /// A visit to no link that is sent on and not recorded.
    Unrecorded(HeaderValue),
    /// A redirect, when the click is in the journal or could not be.
    Redirect {
        ticket: Ticket,
        id: ClickId,
        status: u16,
        place: Place,
        /// For a visitor who is to be known again.
        cookie: Option<HeaderValue>,
        taken: Taken,
    },
    UnknownLink,
    /// It has expired and sends its visitors nowhere.
    ExpiredLink,
    MethodNotAllowed,
    UriTooLong,
    Robots,
    /// A file by which an app claims links of this host.
    Association(Bytes),
    /// A visit of `/in` that goes nowhere.
    Refused(Refusal),
    /// Too many came.
    Limited(Limited),
    /// The node is overloaded.
    Shed,
    /// A visit of `/in` with a key that nobody here knows yet: to be resolved again with what the Warden says.
    AskWarden,
}

/// How a visit stands to its link before its campaign is asked.
#[derive(Clone, Copy)]
pub(super) struct Past<'l> {
    /// The link is past it: where its visitors go, whatever its campaign would say, and the variant that says so.
    to: Option<(&'static str, &'l Template)>,
    /// Places of the link that it took.
    taken: Taken,
}

/// What a visit came in by: a link, `/in`, which has no name of its own, or a path that is no link's.
#[derive(Default)]
pub(super) struct Entrance<'e> {
    pub(super) slug: &'e str,
    pub(super) of: Of<'e>,
    pub(super) tags: &'e [String],
    pub(super) org: &'e str,
    pub(super) campaign: &'e str,
    pub(super) status: u16,
    pub(super) query: QueryMode,
    /// Stored with the clicks that go to its own destination.
    pub(super) version: u64,
    /// Where visits go for which no campaign has a destination.
    pub(super) own: Option<&'e Template>,
    /// That one, when it is the same for every visit.
    pub(super) location: Option<&'e HeaderValue>,
}

impl<'e> Entrance<'e> {
    fn link(Entry { link, location, .. }: &'e Entry, asked: &'e str) -> Self {
        Self {
            slug: &link.slug,
            of: Of { asked, domain: link.domain.as_deref(), orphan: None },
            tags: &link.tags,
            org: &link.org,
            campaign: &link.campaign,
            status: link.status,
            query: link.query,
            version: link.version,
            own: Some(&link.target),
            location: location.as_ref(),
        }
    }

    /// `fallback` is `ingress.fallback_url`.
    pub(super) fn ingress(org: &'e str, campaign: &'e str, fallback: Option<&'e Template>) -> Self {
        Self { org, campaign, status: 302, own: fallback, ..Self::default() }
    }

    /// A path that is no link's. `to`: where the domain sends such visits.
    pub(super) fn orphan(slug: &'e str, of: Of<'e>, to: Option<&'e Template>, domain: &'e Domain) -> Self {
        let status = if to.is_some() { 302 } else { 404 };
        Self { slug, of, org: &domain.org, status, version: domain.version, own: to, ..Self::default() }
    }

    /// What its clicks are duplicates of each other in.
    fn to(&self) -> To<'_> {
        match (self.of.orphan, self.of.domain) {
            (Some(orphan), _) => To::Of(self.of.asked, orphan.path),
            (None, Some(domain)) => To::Of(domain, self.slug),
            (None, None) if self.slug.is_empty() => To::Campaign(self.campaign),
            (None, None) => To::Link(self.slug),
        }
    }

    const fn goes_nowhere(&self) -> bool {
        self.of.orphan.is_some() && self.own.is_none()
    }
}

/// `address` is the client's; the peer is `trusted`, or is the client. `told`: what the Warden said of the key, after
/// [`Resolved::AskWarden`].
pub(super) fn resolve<B>(
    core: &Rc<Core>,
    address: IpAddr,
    trusted: bool,
    request: &Request<B>,
    told: Option<&Access>,
) -> Resolved {
    let head = match *request.method() {
        Method::GET => false,
        Method::HEAD => true,
        _ => return Resolved::MethodNotAllowed,
    };
    let uri = request.uri();
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    if path.len() + query.len() >= core.parts.config.uri_bytes_max {
        return Resolved::UriTooLong;
    }
    let slug = path.strip_prefix('/').unwrap_or(path);
    match slug {
        "robots.txt" => return Resolved::Robots,
        ".well-known/apple-app-site-association" | "apple-app-site-association" => {
            return association(&core.parts.config.apple_app_site_association);
        }
        ".well-known/assetlinks.json" => return association(&core.parts.config.assetlinks),
        _ => {}
    }
    let headers = request.headers();
    let text = |name: &HeaderName| headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
    let visit = Visit {
        host: client::host(request, trusted),
        query,
        head,
        prefetch: facts::looks_ahead(text(&SEC_PURPOSE)) || facts::looks_ahead(text(&PURPOSE)),
        marks: marks::of(request, trusted),
        address,
        ua: text(&USER_AGENT),
        referrer: text(&REFERER),
        language: text(&ACCEPT_LANGUAGE),
    };
    match slug {
        "in" => return ingress::follow(core, &visit, headers, told),
        SLUG => return canary::follow(core, path, &visit, headers),
        _ => {}
    }
    domain::follow(core, path, slug, &visit, headers)
}

fn association(file: &Option<Bytes>) -> Resolved {
    file.clone().map_or(Resolved::UnknownLink, Resolved::Association)
}

/// By where the link stands in its life in this turn of the event loop. `asked`: the domain, if it is in use.
pub(super) fn follow(core: &Rc<Core>, entry: &Entry, asked: &str, visit: &Visit<'_>, headers: &HeaderMap) -> Resolved {
    begin_turn_once(core);
    let link = &Entrance::link(entry, asked);
    let stage = entry.link.stage(core.turn_ms.get());
    // One that has not begun is unknown, and answers as such.
    if !matches!(stage, Stage::Early)
        && let Err(limited) = admission::admit_to(core, link.of.domain.unwrap_or_default(), link.slug)
    {
        return Resolved::Limited(limited);
    }
    let entered = match stage {
        Stage::Alive => tally::enter(core, &entry.link, visit),
        Stage::Early => return Resolved::UnknownLink,
        Stage::Expired(expired) => Entered::Expired(expired),
    };
    let past = match entered {
        Entered::In(taken) => {
            let past = Past { to: None, taken };
            let campaigns = &core.parts.campaigns;
            let go = |campaign: Option<&Campaign>| {
                if !entry.link.campaign.is_empty() {
                    core.caches.count(Cache::Campaigns, campaign.is_some());
                }
                // One of another organisation is as if there were none.
                let campaign = campaign.filter(|campaign| campaign.org == entry.link.org);
                hand_over(core, link, past, campaign, visit, headers)
            };
            return campaigns.with(&entry.link.campaign, go);
        }
        Entered::Expired(None) => return Resolved::ExpiredLink,
        Entered::Expired(Some(expired)) => (EXPIRED, expired),
        Entered::Overflow(overflow) => (CAPPED, overflow),
    };
    hand_over(core, link, Past { to: Some(past), ..Past::NONE }, None, visit, headers)
}

impl Past<'_> {
    /// It is not, and took nothing.
    pub(super) const NONE: Self = Self { to: None, taken: Taken::NONE };
}

/// Decides where the visit goes, spells the destination, names the click and gives it to the journal. The turn has begun.
pub(super) fn hand_over(
    core: &Rc<Core>,
    link: &Entrance<'_>,
    past: Past<'_>,
    campaign: Option<&Campaign>,
    visit: &Visit<'_>,
    headers: &HeaderMap,
) -> Resolved {
    core.end(Lap::LookUp);
    let mut intake = core.intake.borrow_mut();
    let unix_ms = core.turn_ms.get();
    let id = core.ids.borrow_mut().next(unix_ms);
    let external_click_id = query::find(visit.query, "click_id").unwrap_or_default();
    let mut found = Found::new(core, visit, campaign, unix_ms);
    let policy = &core.parts.privacy.policy;
    let level = privacy::level(core, headers, visit, &mut found);
    let keeps = level.keeps();
    core.end(Lap::Comply);
    let mut tally = VisitTally {
        turns: &mut core.turns.borrow_mut(),
        core: core.number,
        moment: Moment::new(campaign.map_or(&UTC, |campaign| &campaign.zone), unix_ms),
        counts: false,
        taken: past.taken,
        passed: false,
    };
    let (mut cookie, mut dedup) = (None, Dedup::default());
    let decision = campaign.map_or(Decision::Link, |campaign| {
        found.find(campaign.needs);
        let seen = Seen { found: &found, headers, link, external_click_id: &external_click_id };
        tally.counts = campaign.is_capped && seen.class() == Class::Human;
        let by = By::of(core, campaign, visit, headers, id, keeps.address);
        let decision = campaign.decide(&seen, by.key, &mut tally);
        cookie = by.cookie(core, campaign, &decision, visit.marks);
        if decision.target().is_some() || campaign.is_for(&seen) {
            dedup = campaign.dedup;
        }
        route::count(core, &decision);
        core.end(Lap::Choose);
        decision
    });
    let (variant, expired) = match past.to {
        Some((variant, to)) => (variant, Some(to)),
        None => (link.of.variant().unwrap_or(decision.variant()), None),
    };
    let leads_nowhere = decision.target().or(expired).or(link.own).is_none() && link.location.is_none();
    if leads_nowhere && !link.goes_nowhere() {
        return Resolved::Refused(Refusal::NoDestination);
    }
    if variant != EXPIRED && link.of.orphan.is_none() {
        tally::count(core, &decision, expired.is_some(), tally.passed);
    }
    let taken = tally.taken;
    core.metrics.keep(level);
    let (target, route_version) = match (decision.target(), campaign) {
        (Some(target), Some(campaign)) => (Some(target), campaign.version),
        _ => (expired, link.version),
    };
    let address = privacy::address(&core.parts.addresses, keeps, visit, &mut found);
    let network = address.and_then(|address| address.network());
    let fingerprint = || core.day_key.borrow().fingerprint(link.to(), dedup.by, &external_click_id, visit);
    let fingerprint = if keeps.address { fingerprint() } else { None };
    // From here on there is only what the click keeps.
    let told = privacy::told(level, &mut found);
    let query = policy.query(level, visit.query);
    let visit = &level.cut(visit, &query);
    let external_click_id =
        if level == Level::Full { external_click_id } else { query::find(visit.query, "click_id").unwrap_or_default() };
    core.end(Lap::Comply);
    let values = Values {
        click_id: Some(id),
        external_click_id: &external_click_id,
        campaign: link.campaign,
        link: if link.of.orphan.is_none() || level == Level::Full { link.slug } else { "" },
        rule: decision.rule(),
        variant,
        unix_ms,
        address: network,
        ..Values::of(visit)
    };
    let place = spell(core, link, target, keeps, &mut found, &values);
    core.end(Lap::Spell);
    if place.is_none() && !link.goes_nowhere() {
        // Templates yield ASCII without controls; a property test holds them to it.
        taken.give_back(core);
        return Resolved::UnknownLink;
    }
    let ticket = intake.push(&Click {
        id,
        fingerprint,
        window: fingerprint.and(dedup.window),
        head: visit.head,
        prefetch: visit.prefetch,
        bound: link.of.domain.is_some(),
        marks: visit.marks,
        status: link.status,
        route_version,
        address,
        country: if keeps.facts && network.is_none() { found.country } else { None },
        privacy: told,
        org: link.org,
        campaign: link.campaign,
        domain: link.of.asked,
        link: link.of.orphan.map_or(link.slug, |_| NO_LINK),
        path: link.of.orphan.filter(|_| level == Level::Full).map_or(b"", |orphan| orphan.path.as_bytes()),
        rule: decision.rule(),
        variant,
        destination: place.as_ref().map_or(b"", |place| place.location.as_bytes()),
        referrer: visit.referrer,
        ua: visit.ua,
        language: visit.language,
        query: visit.query,
    });
    match place {
        Some(place) => Resolved::Redirect { ticket, id, status: link.status, place, cookie, taken },
        None => Resolved::Nowhere { ticket, id },
    }
}

/// Begins this turn of the event loop, unless a click of it did: with one in the intake it has begun.
pub(super) fn begin_turn_once(core: &Core) {
    if core.intake.borrow().is_empty() {
        begin_turn(core);
    }
}

/// Reads the wall clock, once for all clicks of this turn of the event loop.
fn begin_turn(core: &Core) {
    let now_ms = core.parts.clock.wall_ms();
    core.turn_ms.set(now_ms);
    let mut key = core.day_key.borrow_mut();
    if !key.covers(now_ms) {
        *key = DayKey::new(&core.parts.secret, now_ms);
    }
}
