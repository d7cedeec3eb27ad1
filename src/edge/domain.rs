//! Which link a visit is to by the host that was asked, and where it goes when it is to none.
//!
//! ```text
//! link of (host, slug)  ->  link of (any, slug)  ->  root_url or unknown_url of the host, else of any  ->  404
//! ```
//! Where an organisation has the host for itself, only its links are there. Where no domain is in use it is one look-up, by the
//! slug alone. Visits to no link are recorded where the domain says so. Bounds: `catalog.domains_max`; the path that is kept,
//! by the frame.

use std::borrow::Cow;
use std::rc::Rc;

use hyper::HeaderMap;

use super::core::Core;
use super::privacy;
use super::resolve::{self, Entrance, Past, Resolved};
use super::route::Found;
use super::spell::spell;
use crate::click::Visit;
use crate::click::domain::{self, ANY, ROOT, UNKNOWN};
use crate::click::privacy::Level;
use crate::click::query;
use crate::click::template::Values;
use crate::telemetry::caches::Cache;

/// Of which domain an entrance is.
#[derive(Clone, Copy)]
pub(super) struct Of<'e> {
    /// The one that was asked, if it is in use; recorded with the click.
    pub(super) asked: &'e str,
    /// The one that the link belongs to.
    pub(super) domain: Option<&'e str>,
    /// It is no link.
    pub(super) orphan: Option<Orphan<'e>>,
}

/// A path that is no link's.
#[derive(Clone, Copy)]
pub(super) struct Orphan<'e> {
    variant: &'static str,
    /// With the `/` before it.
    pub(super) path: &'e str,
}

impl Default for Of<'_> {
    fn default() -> Self {
        Self { asked: ANY, domain: None, orphan: None }
    }
}

impl Of<'_> {
    /// Of a visit to no link.
    pub(super) fn variant(&self) -> Option<&'static str> {
        self.orphan.map(|orphan| orphan.variant)
    }
}

/// Follows the link of this slug, or goes where visits to no link go.
pub(super) fn follow(core: &Rc<Core>, path: &str, slug: &str, visit: &Visit<'_>, headers: &HeaderMap) -> Resolved {
    let domains = &core.parts.domains;
    let host = if domains.is_empty() { Cow::default() } else { domain::host(visit.host) };
    let asked = if domains.find(&host).is_known { &*host } else { ANY };
    core.parts.links.with_asked(&host, slug, |entry| {
        // `/` is no slug.
        if !slug.is_empty() {
            core.caches.count(Cache::Links, entry.is_some());
        }
        match entry {
            Some(entry) if !entry.link.paused => match resolve::follow(core, entry, asked, visit, headers) {
                // It has not started: nobody is to see that there is one.
                Resolved::UnknownLink => stray(core, (&host, asked), path, slug, visit, headers),
                resolved => resolved,
            },
            _ => stray(core, (&host, asked), path, slug, visit, headers),
        }
    })
}

/// A visit to no link.
fn stray(
    core: &Rc<Core>,
    (host, asked): (&str, &str),
    path: &str,
    slug: &str,
    visit: &Visit<'_>,
    headers: &HeaderMap,
) -> Resolved {
    core.missed.set(!slug.is_empty());
    if core.parts.domains.is_empty() || domain::is_reserved(slug) {
        return Resolved::UnknownLink;
    }
    core.parts.domains.with(host, |domain| {
        let Some(domain) = domain else { return Resolved::UnknownLink };
        let (variant, to) = if slug.is_empty() { (ROOT, &domain.root) } else { (UNKNOWN, &domain.unknown) };
        let to = to.as_ref().map(|to| &to.target);
        let of = Of { asked, domain: None, orphan: Some(Orphan { variant, path }) };
        let entrance = Entrance::orphan(slug, of, to, domain);
        if domain.record_orphans {
            resolve::begin_turn_once(core);
            resolve::hand_over(core, &entrance, Past::NONE, None, visit, headers)
        } else if to.is_some() {
            resolve::begin_turn_once(core);
            send_on(core, &entrance, visit, headers)
        } else {
            Resolved::UnknownLink
        }
    })
}

/// Spells the destination of a visit that is not recorded, with what a click of it would keep.
fn send_on(core: &Core, entrance: &Entrance<'_>, visit: &Visit<'_>, headers: &HeaderMap) -> Resolved {
    let unix_ms = core.turn_ms.get();
    let mut found = Found::new(core, visit, None, unix_ms);
    let policy = &core.parts.privacy.policy;
    let level = privacy::level(core, headers, visit, &mut found);
    let keeps = level.keeps();
    let address = privacy::address(&core.parts.addresses, keeps, visit, &mut found);
    let query = policy.query(level, visit.query);
    let kept = &level.cut(visit, &query);
    let external_click_id = query::find(kept.query, "click_id").unwrap_or_default();
    let values = Values {
        external_click_id: &external_click_id,
        link: if level == Level::Full { entrance.slug } else { "" },
        variant: entrance.of.variant().unwrap_or_default(),
        unix_ms,
        address: address.and_then(|address| address.network()),
        ..Values::of(kept)
    };
    let place = spell(core, entrance, None, keeps, &mut found, &values);
    place.map_or(Resolved::UnknownLink, |place| Resolved::Unrecorded(place.location))
}
