//! Caps: how many clicks of people a destination, a rule or a link takes in an hour, a day or ever, and where the visitors
//! beyond go.
//!
//! ```text
//! "cap": {"limit": 1000, "per": "hour" | "day" | "total", "of": "clicks" | "uniques", "overflow_url": "https://…"}
//! ```
//! Hours are UTC's; days are those of the campaign's zone, and of a link UTC's. A cap is counted by its [`CapId`]: of what
//! it is, by which period and of which clicks. So a changed limit goes on with the count, and so does a cap that was taken
//! away and comes again. Pure; the count is in the [`Gate`] that the catalog puts there.

use std::cell::Cell;
use std::hash::Hasher as _;
use std::sync::Arc;

use siphasher::sip128::{Hasher128 as _, SipHasher13};

use super::campaign::Zone;
use super::document::{Misfit, Misfits, Object};
use super::gate::Gate;
use super::link::{OwnHosts, check_url};
use super::template::Template;

/// The greatest limit.
pub const LIMIT_MAX: u64 = 1_000_000_000;
/// The variant of a click that went to the overflow of a destination or a rule.
pub const OVERFLOW: &str = "overflow";
/// The variant of a click that went to the overflow of its link.
pub const CAPPED: &str = "capped";
/// Variants that say what became of a click: where something is capped, no destination may have such a name.
pub const RESERVED: [&str; 4] = [OVERFLOW, CAPPED, super::life::EXPIRED, "fallback"];

const HOUR_MS: u64 = 3_600_000;

/// After how long a count begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Per {
    /// An hour, UTC.
    Hour,
    /// A day of the zone.
    Day,
    /// Never.
    Total,
}

/// Which clicks are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Of {
    /// All of people.
    #[default]
    Clicks,
    /// Those with the label `unique`. Until a click has its label, it counts as one.
    Uniques,
}

/// A checked cap.
#[derive(Clone, Debug)]
pub struct Cap {
    /// From 1 to [`LIMIT_MAX`].
    pub limit: u64,
    /// The period.
    pub per: Per,
    /// What is counted.
    pub of: Of,
    /// Where visitors beyond the limit go.
    pub overflow: Option<Template>,
    /// Who may pass. One that keeps nobody out, until the catalog puts another in its place.
    pub gate: Arc<Gate>,
}

impl PartialEq for Cap {
    /// Whether they say the same.
    fn eq(&self, other: &Self) -> bool {
        let said = |cap: &Self| (cap.limit, cap.per, cap.of);
        said(self) == said(other) && self.overflow == other.overflow
    }
}

impl Eq for Cap {}

/// What is capped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place<'n> {
    /// A link, by its domain (`*` for any) and slug.
    Link(&'n str, &'n str),
    /// The `max_clicks` of a link, likewise.
    LinkEver(&'n str, &'n str),
    /// A rule of a campaign.
    Rule(&'n str, &'n str),
    /// A destination: campaign, rule (empty for the default destinations) and name.
    Destination(&'n str, &'n str, &'n str),
}

/// The name of a place or of a cap in 128 bits: the same in every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CapId(pub u128);

impl Place<'_> {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> CapId {
        let (kind, names) = match *self {
            Self::Link(domain, slug) => (1, [domain, slug, ""]),
            Self::Rule(campaign, rule) => (2, [campaign, rule, ""]),
            Self::Destination(campaign, rule, name) => (3, [campaign, rule, name]),
            Self::LinkEver(domain, slug) => (4, [domain, slug, ""]),
        };
        let mut hasher = SipHasher13::new();
        hasher.write_u8(kind);
        for name in names {
            // No name has a control character, so none can run into the next.
            hasher.write(name.as_bytes());
            hasher.write_u8(0);
        }
        CapId(hasher.finish128().as_u128())
    }

    /// Its fields, for people.
    #[must_use]
    pub fn names(&self) -> Vec<(&'static str, Box<str>)> {
        let field = |field, name: &str| (field, Box::from(name));
        match *self {
            Self::Link(domain, slug) | Self::LinkEver(domain, slug) => {
                vec![field("domain", domain), field("link", slug)]
            }
            Self::Rule(campaign, rule) => vec![field("campaign", campaign), field("rule", rule)],
            Self::Destination(campaign, rule, name) => {
                vec![field("campaign", campaign), field("rule", rule), field("destination", name)]
            }
        }
    }
}

impl CapId {
    /// The name of the cap of this place that counts so.
    #[must_use]
    pub const fn of(place: Self, per: Per, of: Of) -> Self {
        Self(place.0 ^ (per as u128 * 2 + of as u128 + 1))
    }
}

impl Per {
    /// All of them, with their words.
    pub const ALL: [(&'static str, Self); 3] = [("hour", Self::Hour), ("day", Self::Day), ("total", Self::Total)];

    /// The word in documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }

    /// The number of the period around a moment: it grows from one to the next, and is above 0.
    #[must_use]
    pub fn period(self, zone: &Zone, unix_ms: u64) -> u32 {
        match self {
            Self::Hour => u32::try_from(unix_ms / HOUR_MS + 1).unwrap_or(u32::MAX),
            Self::Day => zone.day(unix_ms),
            Self::Total => 1,
        }
    }

    /// When the period around a moment began, Unix milliseconds.
    #[must_use]
    pub fn begins_ms(self, zone: &Zone, unix_ms: u64) -> u64 {
        match self {
            Self::Hour => unix_ms / HOUR_MS * HOUR_MS,
            Self::Day => zone.day_begins_ms(unix_ms).unwrap_or(0),
            Self::Total => 0,
        }
    }

    /// When the period around a moment ends, Unix milliseconds; `None` for never.
    #[must_use]
    pub fn ends_ms(self, zone: &Zone, unix_ms: u64) -> Option<u64> {
        match self {
            Self::Hour => Some((unix_ms / HOUR_MS + 1) * HOUR_MS),
            Self::Day => zone.day_ends_ms(unix_ms),
            Self::Total => None,
        }
    }
}

impl Of {
    /// All of them, with their words.
    pub const ALL: [(&'static str, Self); 2] = [("clicks", Self::Clicks), ("uniques", Self::Uniques)];

    /// The word in documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }
}

/// Where the days of links are.
pub static UTC: Zone = Zone::UTC;

/// A moment, and the day that it is in, found out once and only when somebody asks.
#[derive(Debug)]
pub struct Moment<'z> {
    zone: &'z Zone,
    unix_ms: u64,
    day: Cell<u32>,
}

impl<'z> Moment<'z> {
    /// A moment in a zone.
    #[must_use]
    pub const fn new(zone: &'z Zone, unix_ms: u64) -> Self {
        Self { zone, unix_ms, day: Cell::new(0) }
    }

    /// The number of the period around it.
    #[must_use]
    pub fn period(&self, per: Per) -> u32 {
        if per != Per::Day {
            return per.period(self.zone, self.unix_ms);
        }
        if self.day.get() == 0 {
            self.day.set(per.period(self.zone, self.unix_ms));
        }
        self.day.get()
    }
}

impl Cap {
    /// So many clicks ever, and nowhere to go for the others.
    #[must_use]
    pub fn total(limit: u64) -> Self {
        Self { limit, per: Per::Total, of: Of::Clicks, overflow: None, gate: Arc::default() }
    }

    /// Reads the object of a document; `None` when something is wrong, which is noted.
    pub(super) fn read(object: Object<'_>, own: &OwnHosts) -> Option<Self> {
        if object.value("limit").is_none() {
            object.wrong("limit", "is missing; give the most clicks of a period");
        }
        let limit = object.whole("limit", 1..=LIMIT_MAX);
        if object.value("per").is_none() {
            object.wrong("per", "is missing: a cap has a period; use `hour`, `day` or `total`");
        }
        let per = word(&object, "per", &Per::ALL);
        let of = if object.value("of").is_some() { word(&object, "of", &Of::ALL) } else { Some(Of::Clicks) };
        let overflow = object
            .text("overflow_url")
            .map(|url| check_url(url, own).map_err(|detail| object.wrong("overflow_url", detail)).ok());
        object.end();
        let overflow = match overflow {
            Some(None) => return None,
            given => given.flatten(),
        };
        Some(Self { limit: limit?, per: per?, of: of?, overflow, gate: Arc::default() })
    }

    /// Checks a document of its own: that of a link.
    pub(super) fn check(document: &serde_json::Value, own: &OwnHosts) -> Result<Self, Vec<Misfit>> {
        let misfits = Misfits::default();
        let cap = Object::of(document, String::new(), &misfits).and_then(|object| Self::read(object, own));
        match (cap, misfits.take()) {
            (Some(cap), misfits) if misfits.is_empty() => Ok(cap),
            (_, misfits) => Err(misfits),
        }
    }
}

fn word<T: Copy>(object: &Object<'_>, field: &'static str, all: &[(&'static str, T)]) -> Option<T> {
    let text = object.text(field)?;
    let found = all.iter().find(|(known, _)| *known == text).map(|(_, value)| *value);
    if found.is_none() {
        let known: Vec<_> = all.iter().map(|(known, _)| format!("`{known}`")).collect();
        object.wrong(field, format!("is `{text}`; there are {}", known.join(", ")));
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wrong(document: &Value) -> Vec<(String, String)> {
        let own = OwnHosts { hosts: vec!["go.example".into()], sockets: vec![] };
        let misfits = Cap::check(document, &own).unwrap_err();
        misfits.into_iter().map(|misfit| (misfit.pointer, misfit.detail)).collect()
    }

    #[test]
    fn a_cap_has_a_limit_and_a_period_and_everything_wrong_is_told_at_once() {
        let good = json!({"limit": 5, "per": "hour", "of": "uniques", "overflow_url": "https://a.example/{slug}"});
        let cap = Cap::check(&good, &OwnHosts::default()).unwrap();
        assert_eq!((cap.limit, cap.per, cap.of, cap.overflow.is_some()), (5, Per::Hour, Of::Uniques, true));
        let cap = Cap::check(&json!({"limit": 1, "per": "total"}), &OwnHosts::default()).unwrap();
        assert_eq!(cap, Cap::total(1));
        let told = wrong(&json!({"limit": 5}));
        assert_eq!(told.len(), 1);
        assert!(told[0].0 == "/per" && told[0].1.contains("a cap has a period"), "{told:?}");
        let bad = json!({"limit": 0, "per": "week", "of": "bots", "overflow_url": "https://go.example/", "till": 5});
        let told: Vec<_> = wrong(&bad).into_iter().map(|(pointer, _)| pointer).collect();
        assert_eq!(told, ["/limit", "/per", "/of", "/overflow_url", "/till"]);
        let told: Vec<_> = wrong(&json!({"per": 5, "of": null})).into_iter().map(|(pointer, _)| pointer).collect();
        assert_eq!(told, ["/limit", "/per", "/of"]);
        assert_eq!(wrong(&json!({"limit": LIMIT_MAX + 1, "per": "day"}))[0].0, "/limit");
        assert_eq!(wrong(&json!(5))[0].0, "");
    }

    #[test]
    fn periods_are_hours_of_utc_and_days_of_the_zone() {
        // 2026-03-29T00:30:00Z: in Berlin 01:30, half an hour before the clocks go forward.
        let ms = 1_774_744_200_000;
        let berlin = Zone::named("Europe/Berlin").unwrap();
        let (hour, day) = (Per::Hour.period(&berlin, ms), Per::Day.period(&berlin, ms));
        assert_eq!(Per::Hour.period(&berlin, ms + HOUR_MS / 2 - 1), hour);
        assert_eq!(Per::Hour.period(&berlin, ms + HOUR_MS / 2), hour + 1);
        assert_eq!(Per::Hour.ends_ms(&berlin, ms), Some(ms + HOUR_MS / 2));
        // That day has 23 hours.
        let end = Per::Day.ends_ms(&berlin, ms).unwrap();
        assert_eq!(end, ms - HOUR_MS * 3 / 2 + 23 * HOUR_MS);
        assert_eq!([ms - HOUR_MS * 3 / 2, end - 1].map(|ms| Per::Day.period(&berlin, ms)), [day; 2]);
        assert_eq!(Per::Day.begins_ms(&berlin, end - 1), ms - HOUR_MS * 3 / 2);
        assert_eq!(Per::Hour.begins_ms(&berlin, ms), ms - HOUR_MS / 2);
        assert!(Per::Day.period(&berlin, end) > day && Per::Day.period(&berlin, ms - 2 * HOUR_MS) < day);
        assert_eq!(Per::Day.ends_ms(&Zone::UTC, ms), Some(ms + 47 * HOUR_MS / 2));
        assert_eq!((Per::Total.period(&berlin, ms), Per::Total.ends_ms(&berlin, ms)), (1, None));
        let moment = Moment::new(&berlin, ms);
        assert_eq!([Per::Day, Per::Hour, Per::Day].map(|per| moment.period(per)), [day, hour, day]);
        assert!(Per::Day.period(&Zone::UTC, u64::MAX) > 0 && Per::Hour.period(&Zone::UTC, 0) > 0);
    }

    #[test]
    fn a_cap_is_named_by_its_place_its_period_and_what_it_counts() {
        let places = [
            Place::Link("*", "a"),
            Place::Link("a", "*"),
            Place::LinkEver("*", "a"),
            Place::Rule("a", ""),
            Place::Rule("", "a"),
            Place::Rule("a", "b"),
            Place::Destination("a", "b", ""),
            Place::Destination("a", "", "b"),
            Place::Destination("a", "b", "c"),
        ];
        let kinds =
            [(Per::Hour, Of::Clicks), (Per::Day, Of::Clicks), (Per::Day, Of::Uniques), (Per::Total, Of::Uniques)];
        let ids: std::collections::BTreeSet<_> =
            places.iter().flat_map(|place| kinds.map(|(per, of)| CapId::of(place.id(), per, of))).collect();
        assert_eq!(ids.len(), places.len() * kinds.len());
        // Kept on disks and shared by nodes: it must never change.
        assert_eq!(Place::Link("*", "a").id().0, Place::Link("*", "a").id().0);
    }
}
