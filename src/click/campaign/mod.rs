//! Campaigns: rules that say where the visitors of a link go.
//!
//! ```text
//! rules, in their order: the first whose condition holds and that has an open destination decides, by its strategy
//!   else the default destinations (weighted)      else fallback_url      else the link's own url
//! ```
//! A destination or a rule at its [`Cap`] is closed; where the cap has an overflow, those who would have gone there go to the
//! overflow instead, and take no place of any cap of the campaign.
//!
//! [`Campaign::decide`] is total and synchronous; it is asked on the request thread, with what the edge knows of the visit
//! ([`Facts`], filled as far as [`Campaign::needs`] says), a key, and what the thread keeps ([`Tally`]: turns of round
//! robin, and caps). A campaign is checked and compiled when it is saved ([`Campaign::check`]), and everything that is wrong is told at once.
//!
//! Bounds: [`RULES_MAX`], [`DESTINATIONS_MAX`] of a rule, the length of a document by `control.body_bytes_max`.

#[cfg(test)]
mod cap_tests;
mod check;
mod choice;
#[cfg(test)]
mod tests;

use std::fmt;

pub use choice::{Choice, Chosen, Destination, Strategy, Tally, Turn};

use super::cap::{OVERFLOW, Place};
use super::condition::{Condition, Facts, Needs};
use super::document::Misfit;
use super::link::OwnHosts;
use super::{Cap, ClickId, Dedup, Org, Template};

/// Rules of a campaign.
pub const RULES_MAX: usize = 100;
/// Destinations of a rule.
pub const DESTINATIONS_MAX: usize = 1000;

/// Whether a visitor who comes again goes where they went before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sticky {
    /// Each click is decided for itself.
    #[default]
    None,
    /// By a keyed hash of address and user agent, whose key is new each day (UTC). No cookie.
    Visitor,
    /// By a random number in a [cookie](super::visitor) of this host.
    Cookie,
}

/// A checked campaign.
#[derive(Clone, Debug, PartialEq)]
pub struct Campaign {
    /// Its name; links name it.
    pub id: String,
    /// The organisation that it belongs to: it decides for links of this one alone.
    pub org: Org,
    /// Whom it is for: for others it is as if the link named no campaign.
    pub when: Option<Condition>,
    /// Where hours, weekdays and dates are.
    pub zone: Zone,
    /// In the order in which they are tried.
    pub rules: Vec<Rule>,
    /// Where a visitor goes whom no rule takes.
    pub default: Option<Choice>,
    /// Whether visitors keep their destination.
    pub sticky: Sticky,
    /// Its own rule for duplicates.
    pub dedup: Dedup,
    /// Where a visitor goes whom nothing else takes; without it, to the link's own `url`.
    pub fallback: Option<Template>,
    /// The document, as it was checked.
    pub document: serde_json::Value,
    /// What must be known of a visit.
    pub needs: Needs,
    /// Something in it has a cap.
    pub is_capped: bool,
    /// A hash of its name, the same in every process.
    pub mark: u64,
    /// Grows by one with every change.
    pub version: u64,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Unix milliseconds.
    pub updated_ms: u64,
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Recorded with each click that it decided.
    pub name: Box<str>,
    /// Without one it takes everybody.
    pub when: Option<Condition>,
    /// Where they go.
    pub choice: Choice,
    /// How many clicks it decides.
    pub cap: Option<Cap>,
}

/// A time zone by its IANA name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(jiff::tz::TimeZone);

/// What a campaign says of one visit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision<'c> {
    /// A rule took it.
    Rule(&'c Rule, &'c Destination),
    /// One of the default destinations.
    Default(&'c Destination),
    /// The overflow of a rule at its cap; or of a destination, which a rule or, without one, the default chose.
    Overflow(Option<&'c Rule>, &'c Template),
    /// The campaign's `fallback_url`.
    Fallback(&'c Template),
    /// The link's own `url`.
    Link,
}

impl Campaign {
    /// Checks a document. `version` and the times are the caller's to set.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn check(id: &str, document: serde_json::Value, own: &OwnHosts) -> Result<Self, Vec<Misfit>> {
        check::check(id, document, own)
    }

    /// What it goes by: the `visitor`, who is asked for only where it is sticky, or, where that is nobody, the click.
    pub fn key(&self, id: ClickId, visitor: impl FnOnce() -> Option<u64>) -> u64 {
        let visitor = if self.sticky == Sticky::None { None } else { visitor() };
        visitor.unwrap_or(id.as_u64_pair().1)
    }

    /// Whether another key could have led to another destination than this decision of it.
    #[must_use]
    pub fn goes_by_key(&self, decision: &Decision<'_>) -> bool {
        match decision {
            Decision::Rule(rule, _) | Decision::Overflow(Some(rule), _) => rule.choice.goes_by_key(),
            Decision::Default(_) | Decision::Overflow(None, _) => {
                self.default.as_ref().is_some_and(Choice::goes_by_key)
            }
            Decision::Fallback(_) | Decision::Link => false,
        }
    }

    /// Whether it is for this visit.
    pub fn is_for(&self, facts: &impl Facts) -> bool {
        self.when.as_ref().is_none_or(|when| when.holds(facts))
    }

    /// Where this visit goes. `key` is of the visitor, or of the visit: the same key goes the same way while weights stay,
    /// and when one is changed no more of them go another way than must.
    pub fn decide(&self, facts: &impl Facts, key: u64, tally: &mut impl Tally) -> Decision<'_> {
        if !self.is_for(facts) {
            return Decision::Link;
        }
        for (number, rule) in self.rules.iter().enumerate() {
            if rule.when.as_ref().is_none_or(|when| when.holds(facts))
                && let Some(decision) = self.take(rule, number, key, tally)
            {
                return decision;
            }
        }
        match self.default.as_ref().and_then(|choice| choice.choose(key, tally, self, RULES_MAX)) {
            Some(Chosen::To(destination)) => Decision::Default(destination),
            Some(Chosen::Overflow(overflow)) => Decision::Overflow(None, overflow),
            None => self.fallback.as_ref().map_or(Decision::Link, Decision::Fallback),
        }
    }

    /// What a rule decides whose condition holds; nothing when it is closed.
    fn take<'c>(&'c self, rule: &'c Rule, number: usize, key: u64, tally: &mut impl Tally) -> Option<Decision<'c>> {
        let Some(cap) = &rule.cap else {
            return Some(match rule.choice.choose(key, tally, self, number)? {
                Chosen::To(destination) => Decision::Rule(rule, destination),
                Chosen::Overflow(overflow) => Decision::Overflow(Some(rule), overflow),
            });
        };
        if tally.is_open(cap) {
            match rule.choice.choose(key, tally, self, number)? {
                Chosen::Overflow(overflow) => return Some(Decision::Overflow(Some(rule), overflow)),
                Chosen::To(destination) if tally.take(cap) => return Some(Decision::Rule(rule, destination)),
                // The rule's last place has just gone.
                Chosen::To(destination) => destination.cap.iter().for_each(|cap| tally.give_back(cap)),
            }
        }
        tally.pass_over();
        cap.overflow.as_ref().map(|overflow| Decision::Overflow(Some(rule), overflow))
    }

    /// Its caps, each with its place.
    pub fn for_each_cap(&mut self, mut f: impl FnMut(Place<'_>, &mut Cap)) {
        let Self { id, rules, default, .. } = self;
        for rule in rules {
            let Rule { name, choice, cap, .. } = rule;
            cap.iter_mut().for_each(|cap| f(Place::Rule(id, name), cap));
            choice.caps_mut().for_each(|(to, cap)| f(Place::Destination(id, name, to), cap));
        }
        let default = default.iter_mut().flat_map(Choice::caps_mut);
        default.for_each(|(to, cap)| f(Place::Destination(id, "", to), cap));
    }
}

impl Decision<'_> {
    /// Name of the rule; empty when none decided.
    #[must_use]
    pub fn rule(&self) -> &str {
        match self {
            Self::Rule(rule, _) | Self::Overflow(Some(rule), _) => &rule.name,
            _ => "",
        }
    }

    /// Name of the destination, `overflow` or `fallback`; empty for the link's own.
    #[must_use]
    pub fn variant(&self) -> &str {
        match self {
            Self::Rule(_, destination) | Self::Default(destination) => &destination.name,
            Self::Overflow(..) => OVERFLOW,
            Self::Fallback(_) => "fallback",
            Self::Link => "",
        }
    }

    /// The destination to spell; `None` for the link's own.
    #[must_use]
    pub fn target(&self) -> Option<&Template> {
        match self {
            Self::Rule(_, destination) | Self::Default(destination) => Some(&destination.target),
            Self::Overflow(_, template) | Self::Fallback(template) => Some(template),
            Self::Link => None,
        }
    }
}

impl Zone {
    /// UTC.
    pub const UTC: Self = Self(jiff::tz::TimeZone::UTC);

    /// A zone by name, from the database that is built in.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn named(name: &str) -> Result<Self, String> {
        let found = jiff::tz::TimeZone::get(name);
        found.map(Self).map_err(|_| format!("`{name}` is no time zone; use an IANA name such as `Europe/Berlin`"))
    }

    /// Hour, weekday (1 is Monday) and date of a moment there.
    #[must_use]
    pub fn local(&self, unix_ms: u64) -> Local {
        let moment = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        let local = self.0.to_datetime(moment.unwrap_or(jiff::Timestamp::UNIX_EPOCH));
        let weekday = local.date().weekday().to_monday_one_offset();
        Local { hour: local.hour(), weekday, year: local.year(), month: local.month(), day: local.day() }
    }

    /// The number of the day around a moment there: it grows from one day to the next, and is above 0.
    #[must_use]
    pub fn day(&self, unix_ms: u64) -> u32 {
        let Local { year, month, day, .. } = self.local(unix_ms);
        let number = i32::from(year) * 372 + i32::from(month) * 31 + i32::from(day);
        u32::try_from(number).unwrap_or(0).max(1)
    }

    /// When the day around a moment ends there, Unix milliseconds.
    #[must_use]
    pub fn day_ends_ms(&self, unix_ms: u64) -> Option<u64> {
        let ends = self.zoned(unix_ms)?.tomorrow().ok()?.start_of_day().ok()?;
        u64::try_from(ends.timestamp().as_millisecond()).ok()
    }

    /// When it began.
    #[must_use]
    pub fn day_begins_ms(&self, unix_ms: u64) -> Option<u64> {
        u64::try_from(self.zoned(unix_ms)?.start_of_day().ok()?.timestamp().as_millisecond()).ok()
    }

    fn zoned(&self, unix_ms: u64) -> Option<jiff::Zoned> {
        let moment = jiff::Timestamp::from_millisecond(i64::try_from(unix_ms).ok()?).ok()?;
        Some(moment.to_zoned(self.0.clone()))
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self::UTC
    }
}

/// A moment as a wall shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// 0 to 23.
    pub hour: i8,
    /// 1 (Monday) to 7 (Sunday).
    pub weekday: i8,
    year: i16,
    month: i8,
    day: i8,
}

impl fmt::Display for Local {
    /// The date, `2026-11-21`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}
