//! What a campaign may say of duplicates instead of the settings: by what two clicks are of one visitor, and how far apart
//! they may be.
//!
//! ```text
//! "dedup": {"window": "1h", "by": ["external_click_id"]}     or "by": ["ip", "ua"], or one of the two alone
//! ```
//! The edge makes the [fingerprint](super::fingerprint) by [`By`]; the [`Window`] goes with the click to its worker, which
//! asks no campaign: it may have changed meanwhile.

use std::fmt;
use std::num::NonZeroU32;

use super::document::Object;

/// A campaign's own rule; the default says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dedup {
    /// What makes two clicks of one visitor.
    pub by: By,
    /// How far apart they may be; without it `dedup.window`.
    pub window: Option<Window>,
}

/// By what two clicks on one link are of one visitor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// By the advertiser's id where there is one, else by address and user agent.
    #[default]
    Either,
    /// By the advertiser's id alone: of a click without one nobody can tell.
    ExternalClickId,
    /// By address and user agent alone, also where there is an id.
    Visitor,
}

/// Clicks of one visitor that are less than this apart are duplicates: 1 to 86,400 s. Fingerprints have a key for each UTC
/// day, so a longer one would find nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window(NonZeroU32);

const SECONDS_MAX: u32 = 86_400;
const UNITS: [(&str, u32); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

impl Dedup {
    /// Reads it from a campaign; what is wrong is noted in the object.
    pub(crate) fn read(object: Object<'_>) -> Self {
        if object.value("by").is_none() && object.value("window").is_none() {
            object.wrong_itself("says nothing: give `window`, `by` or both");
        }
        let window = object.text("window").and_then(|text| {
            let window = Window::parse(text);
            if window.is_none() {
                object.wrong(
                    "window",
                    format!("is `{text}`; a time of 1s to 24h is wanted, such as `90s`, `15m` or `1h`"),
                );
            }
            window
        });
        let by = object.list("by", 2).and_then(|names| {
            let mut names: Vec<_> = names.iter().map(|name| name.as_str().unwrap_or_default()).collect();
            names.sort_unstable();
            let by = By::ALL.into_iter().find(|by| by.names() == names && !names.is_empty());
            if by.is_none() {
                object
                    .wrong("by", "is neither [\"external_click_id\"] nor [\"ip\", \"ua\"], and there is nothing else");
            }
            by
        });
        object.end();
        Self { by: by.unwrap_or_default(), window }
    }
}

impl By {
    const ALL: [Self; 3] = [Self::Either, Self::ExternalClickId, Self::Visitor];

    /// As a campaign writes it; nothing where it does not say.
    #[must_use]
    pub const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Either => &[],
            Self::ExternalClickId => &["external_click_id"],
            Self::Visitor => &["ip", "ua"],
        }
    }
}

impl Window {
    /// Of so many seconds; `None` when they are too few or too many.
    #[must_use]
    pub fn of_seconds(seconds: u32) -> Option<Self> {
        NonZeroU32::new(seconds).filter(|seconds| seconds.get() <= SECONDS_MAX).map(Self)
    }

    /// Its length in seconds.
    #[must_use]
    pub const fn seconds(self) -> u32 {
        self.0.get()
    }

    /// Its length in milliseconds.
    #[must_use]
    pub fn ms(self) -> u64 {
        u64::from(self.seconds()) * 1_000
    }

    /// A whole number and its unit.
    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
        let (_, factor) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        Self::of_seconds(number.parse::<u32>().ok()?.checked_mul(factor)?)
    }
}

impl fmt::Display for Window {
    /// In the largest unit that leaves no rest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.seconds();
        let (unit, factor) = UNITS.into_iter().find(|(_, factor)| seconds.is_multiple_of(*factor)).unwrap_or(("s", 1));
        write!(f, "{}{unit}", seconds / factor)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::click::document::Misfits;

    fn read(document: &Value) -> (Dedup, Vec<String>) {
        let misfits = Misfits::default();
        let dedup = Dedup::read(Object::of(document, "/dedup".into(), &misfits).unwrap());
        (dedup, misfits.into_all().into_iter().map(|misfit| format!("{}: {}", misfit.pointer, misfit.detail)).collect())
    }

    #[test]
    fn a_rule_says_by_what_or_how_long_or_both() {
        let window = Window::of_seconds;
        for (document, by, window) in [
            (json!({"window": "1h"}), By::Either, window(3_600)),
            (json!({"by": ["external_click_id"]}), By::ExternalClickId, None),
            (json!({"by": ["ip", "ua"], "window": "90s"}), By::Visitor, window(90)),
            (json!({"by": ["ua", "ip"], "window": "1d"}), By::Visitor, window(86_400)),
            (json!({"window": "1s"}), By::Either, window(1)),
            (json!({"window": "1440m"}), By::Either, window(86_400)),
        ] {
            assert_eq!(read(&document), (Dedup { by, window }, vec![]), "{document}");
        }
    }

    #[test]
    fn everything_that_is_wrong_with_it_is_told_with_its_pointer() {
        let wrong_window = |text: &str| format!("/dedup/window: is `{text}`; a time of 1s to 24h is wanted, such as");
        for text in ["0s", "25h", "86401s", "2d", "1", "h", "1.5h", "1 h", "-1s", "1H", "", "500ms", "99999999999s"] {
            let (dedup, told) = read(&json!({"window": text}));
            assert_eq!((dedup.window, told.len()), (None, 1), "{text}");
            assert!(told[0].starts_with(&wrong_window(text)), "{told:?}");
        }
        for by in [
            json!([]),
            json!(["ip"]),
            json!(["ua"]),
            json!(["ip", "ip"]),
            json!(["external_click_id", "ip"]),
            json!([5]),
        ] {
            let (dedup, told) = read(&json!({"by": by}));
            assert_eq!((dedup.by, told.len()), (By::Either, 1), "{by}");
            assert!(told[0].starts_with("/dedup/by: is neither"), "{told:?}");
        }
        assert_eq!(read(&json!({})).1, ["/dedup: says nothing: give `window`, `by` or both"]);
        let (_, told) = read(&json!({"window": 5, "by": "ip", "for": 1}));
        let starts = ["/dedup/window: is a number;", "/dedup/by: is a text;", "/dedup/for: is unknown;"];
        assert!(told.len() == 3 && told.iter().zip(starts).all(|(told, start)| told.starts_with(start)), "{told:?}");
        assert!(read(&json!({"by": ["ip", "ua", "x"]})).1[0].starts_with("/dedup/by: has 3 entries"));
    }

    #[test]
    fn a_window_is_told_as_it_may_be_written() {
        for text in ["1s", "90s", "15m", "1h", "23h", "1d"] {
            assert_eq!(Window::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Window::parse("24h").unwrap().to_string(), "1d");
        assert_eq!((Window::parse("2m").unwrap().seconds(), Window::parse("2m").unwrap().ms()), (120, 120_000));
    }
}
