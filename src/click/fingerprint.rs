//! Fingerprints: the same visitor on the same link gives the same 16 bytes all over the fleet, for one UTC day.

use std::hash::Hasher as _;
use std::net::IpAddr;

use sha2::{Digest as _, Sha256};
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use super::Visit;
use super::dedup::By;

/// What two clicks of one visitor on one link have in common. Without the secret it says nothing about the visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 16]);

/// The key of one UTC day, derived from `dedup.secret`. A new day has a new key: fingerprints of two days cannot be
/// told to belong together, and a duplicate is not recognised across midnight UTC.
#[derive(Clone, Debug)]
pub struct DayKey {
    day: u64,
    hasher: SipHasher24,
}

const DAY_MS: u64 = 86_400_000;

/// What a visit is to: clicks are duplicates of each other only within one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To<'a> {
    /// A link of any domain, by its slug.
    Link(&'a str),
    /// A link of one domain, by that and its slug; or a path that is no link's, with the `/` before it.
    Of(&'a str, &'a str),
    /// A campaign, without a link; its name is empty where none was found.
    Campaign(&'a str),
}

impl DayKey {
    /// The key for the day of this moment.
    #[must_use]
    pub fn new(secret: &[u8], unix_ms: u64) -> Self {
        let day = unix_ms / DAY_MS;
        let digest = Sha256::new()
            .chain_update(b"trellis fingerprint 1\0")
            .chain_update(day.to_le_bytes())
            .chain_update(secret)
            .finalize();
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        Self { day, hasher: SipHasher24::new_with_key(&key) }
    }

    /// Whether this is the key for the day of this moment.
    #[must_use]
    pub const fn covers(&self, unix_ms: u64) -> bool {
        unix_ms / DAY_MS == self.day
    }

    /// The fingerprint of a visit to a link, or of one without a link in a campaign: by its external click id, or by the
    /// full client address and the user agent, as `by` says; `None` where it goes by an id that the visit has not. HEAD
    /// and prefetch have fingerprints of their own, so that who only looks ahead does not make a duplicate of the click
    /// that follows.
    #[must_use]
    pub fn fingerprint(&self, to: To<'_>, by: By, external_click_id: &[u8], visit: &Visit<'_>) -> Option<Fingerprint> {
        let (name, kind) = match to {
            To::Link(slug) => (slug, 0),
            To::Campaign(id) => (id, 16),
            To::Of(domain, _) => (domain, 32),
        };
        let kind = kind + if visit.head || visit.prefetch { 4 } else { 0 };
        let finish = |kind, parts: &[&[u8]]| match to {
            To::Of(_, slug) => self.finish_of(name, Some(slug), kind, parts),
            To::Link(_) | To::Campaign(_) => self.finish(name, kind, parts),
        };
        if by != By::Visitor && !external_click_id.is_empty() {
            return Some(finish(kind + 1, &[external_click_id]));
        }
        if by == By::ExternalClickId {
            return None;
        }
        Some(match visit.address.to_canonical() {
            IpAddr::V4(v4) => finish(kind + 2, &[&v4.octets(), visit.ua]),
            IpAddr::V6(v6) => finish(kind + 3, &[&v6.octets(), visit.ua]),
        })
    }

    /// The visitor, by address and user agent, whatever the link and the method: the same all day, another one tomorrow.
    #[must_use]
    pub fn visitor(&self, visit: &Visit<'_>) -> u64 {
        let Fingerprint(hash) = match visit.address.to_canonical() {
            IpAddr::V4(v4) => self.finish("", 8, &[&v4.octets(), visit.ua]),
            IpAddr::V6(v6) => self.finish("", 9, &[&v6.octets(), visit.ua]),
        };
        u64::from_le_bytes(hash.first_chunk().copied().unwrap_or_default())
    }

    fn finish(&self, name: &str, kind: u8, parts: &[&[u8]]) -> Fingerprint {
        self.finish_of(name, None, kind, parts)
    }

    /// Lengths go in with the parts, so that no two lists of parts give one input. `slug`: beside the name of its domain.
    fn finish_of(&self, name: &str, slug: Option<&str>, kind: u8, parts: &[&[u8]]) -> Fingerprint {
        let mut hasher = self.hasher;
        hasher.write_u8(kind);
        hasher.write_usize(name.len());
        hasher.write(name.as_bytes());
        for part in slug.iter().map(|slug| slug.as_bytes()).chain(parts.iter().copied()) {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        Fingerprint(hasher.finish128().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit<'a>(address: &str, ua: &'a [u8]) -> Visit<'a> {
        let address = address.parse().unwrap();
        let marks = Default::default();
        Visit { host: b"", query: "", head: false, prefetch: false, marks, address, ua, referrer: b"", language: b"" }
    }

    fn fingerprint(key: &DayKey, to: To<'_>, external_click_id: &[u8], visit: &Visit<'_>) -> Fingerprint {
        key.fingerprint(to, By::Either, external_click_id, visit).unwrap()
    }

    #[test]
    fn a_fingerprint_depends_on_link_visitor_day_and_secret_alone() {
        let key = DayKey::new(b"s", 1_000);
        let of = |key: &DayKey, link, visit: &Visit<'_>| fingerprint(key, To::Link(link), b"", visit);
        let same = of(&key, "a", &visit("192.0.2.1", b"ua"));
        assert_eq!(same, of(&DayKey::new(b"s", DAY_MS - 1), "a", &visit("192.0.2.1", b"ua")));
        assert_eq!(same, of(&key, "a", &visit("::ffff:192.0.2.1", b"ua")));
        assert_ne!(same, of(&key, "b", &visit("192.0.2.1", b"ua")));
        assert_ne!(same, of(&key, "a", &visit("192.0.2.1", b"ub")));
        assert_ne!(same, of(&key, "a", &visit("192.0.2.2", b"ua")));
        assert_ne!(same, of(&key, "a", &Visit { head: true, ..visit("192.0.2.1", b"ua") }));
        assert_ne!(same, of(&DayKey::new(b"s", DAY_MS), "a", &visit("192.0.2.1", b"ua")));
        assert_ne!(same, of(&DayKey::new(b"t", 1_000), "a", &visit("192.0.2.1", b"ua")));
        assert!(key.covers(0) && !key.covers(DAY_MS));
    }

    #[test]
    fn an_external_id_goes_before_the_visitor() {
        let key = DayKey::new(b"s", 1_000);
        let (one, other) = (visit("192.0.2.1", b"ua"), visit("192.0.2.2", b"ub"));
        let (a, ab) = (To::Link("a"), To::Link("ab"));
        assert_eq!(fingerprint(&key, a, b"x", &one), fingerprint(&key, a, b"x", &other));
        assert_ne!(fingerprint(&key, a, b"bc", &one), fingerprint(&key, ab, b"c", &one));
    }

    #[test]
    fn a_campaign_may_say_by_what_a_visitor_is_known() {
        let key = DayKey::new(b"s", 1_000);
        let (one, other) = (visit("192.0.2.1", b"ua"), visit("192.0.2.2", b"ub"));
        for to in [To::Link("a"), To::Of("x.example", "a"), To::Campaign("a")] {
            let by = |by, id: &[u8], visit: &Visit<'_>| key.fingerprint(to, by, id, visit);
            assert_eq!(by(By::ExternalClickId, b"", &one), None);
            assert_eq!(by(By::ExternalClickId, b"x", &one), by(By::ExternalClickId, b"x", &other));
            assert_ne!(by(By::ExternalClickId, b"x", &one), by(By::ExternalClickId, b"y", &one));
            assert_eq!(by(By::Visitor, b"x", &one), by(By::Visitor, b"y", &one));
            assert_ne!(by(By::Visitor, b"x", &one), by(By::Visitor, b"x", &other));
            // Who was known so before a campaign said it is known after.
            assert_eq!(by(By::ExternalClickId, b"x", &one), by(By::Either, b"x", &one));
            assert_eq!(by(By::Visitor, b"x", &one), by(By::Either, b"", &one));
        }
    }

    #[test]
    fn a_campaign_is_no_link_of_its_name_nor_a_visitor() {
        let key = DayKey::new(b"s", 1_000);
        let (one, other) = (visit("192.0.2.1", b"ua"), visit("192.0.2.2", b"ub"));
        for id in ["", "a"] {
            let (campaign, link) = (To::Campaign(id), To::Link(id));
            assert_eq!(fingerprint(&key, campaign, b"x", &one), fingerprint(&key, campaign, b"x", &other));
            assert_ne!(fingerprint(&key, campaign, b"", &one), fingerprint(&key, campaign, b"", &other));
            assert_ne!(fingerprint(&key, campaign, b"x", &one), fingerprint(&key, link, b"x", &one));
            assert_ne!(fingerprint(&key, campaign, b"", &one), fingerprint(&key, link, b"", &one));
            assert_ne!(fingerprint(&key, campaign, b"x", &one), fingerprint(&key, To::Campaign("b"), b"x", &one));
            // By which campaigns keep the destinations of visitors.
            let Fingerprint(hash) = fingerprint(&key, campaign, b"", &one);
            assert_ne!(key.visitor(&one).to_le_bytes()[..], hash[..8]);
        }
    }

    #[test]
    fn one_slug_of_two_domains_is_two_links_and_that_of_any_domain_is_what_it_always_was() {
        let key = DayKey::new(b"s", 1_000);
        let one = visit("192.0.2.1", b"ua");
        let links = [To::Link("a"), To::Of("x.example", "a"), To::Of("y.example", "a"), To::Of("x.example", "/a")];
        for id in [&b""[..], b"x"] {
            let prints = links.map(|to| fingerprint(&key, to, id, &one));
            for (at, print) in prints.iter().enumerate() {
                assert!(!prints[..at].contains(print), "{:?}", links[at]);
            }
        }
        // As it was before links had domains: whoever came then and comes again now is a duplicate.
        let Fingerprint(print) = fingerprint(&key, To::Link("a"), b"", &one);
        assert_eq!(u128::from_be_bytes(print), 0xc764_9984_4321_2973_958b_97ca_88a7_0386);
    }
}
