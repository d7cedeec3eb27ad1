//! Where a visitor is sent, spelled out: as much as the click keeps of the visit, and no more.

use hyper::header::HeaderValue;

use super::core::Core;
use super::resolve::Entrance;
use super::route::Found;
use crate::click::condition::Needs;
use crate::click::privacy::Keeps;
use crate::click::template::Values;
use crate::click::{QueryMode, Template};

/// Where a visitor is sent.
pub(super) struct Place {
    pub(super) location: HeaderValue,
    /// Where to when the journal does not take the click; without it, `location` with the id cut out.
    pub(super) without_id: Option<HeaderValue>,
}

/// Spells the destination: `target`, or the link's own; `None` when it may not stand in a header.
pub(super) fn spell(
    core: &Core,
    link: &Entrance<'_>,
    target: Option<&Template>,
    keeps: Keeps,
    found: &mut Found<'_>,
    values: &Values<'_>,
) -> Option<Place> {
    let forward = link.query == QueryMode::Forward && !values.visit.query.is_empty();
    if let (Some(location), None, false) = (link.location, target, forward) {
        return Some(Place { location: location.clone(), without_id: None });
    }
    let template = target.or(link.own)?;
    // A destination learns no more of an address than its click keeps, and its row will say.
    let near = Needs::CITY.and(Needs::ASN);
    let geo = &core.parts.geo;
    let kept = |need| values.address.filter(|_| template.needs().has(need));
    let (region, city) = kept(Needs::CITY).map(|address| geo.city(address)).unwrap_or_default();
    let asn = kept(Needs::ASN).map(|address| geo.asn(address)).unwrap_or_default();
    found.find(template.needs().without(near));
    let agent = found.agent.filter(|_| keeps.facts);
    let values = Values {
        country: found.country.filter(|_| keeps.facts),
        region,
        city,
        asn,
        device: agent.map_or("", |agent| agent.device),
        os: agent.map_or("", |agent| agent.os),
        browser: agent.map_or("", |agent| agent.browser),
        local: found.local,
        ..*values
    };
    let mut scratch = core.scratch.borrow_mut();
    let mut splice = |values: &Values<'_>| {
        scratch.clear();
        template.splice(values, forward, &mut scratch);
        HeaderValue::from_bytes(&scratch).ok()
    };
    let location = splice(&values)?;
    let without_id = match template.id_can_be_cut() {
        true => None,
        false => Some(splice(&Values { click_id: None, ..values })?),
    };
    Some(Place { location, without_id })
}
