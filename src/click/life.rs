//! The life of a link: from `starts_at` on, up to `expires_at`, and where its visitors go after that.

use serde::{Deserialize as _, Deserializer};
use serde_json::Value;

use super::Template;
use super::document::kind;
use super::link::{FieldError, OwnHosts, check_url};

/// The variant of a click on a link that had expired.
pub const EXPIRED: &str = "expired";
/// Fields that a JSON null takes away again.
pub const REMOVABLE: [&str; 3] = ["starts_at", "expires_at", "expired_url"];

/// The last millisecond that is shown as a text again (jiff's last), 9999-12-30T22:00:00Z.
const TIME_MS_MAX: u64 = 253_402_207_200_000;
const WANTED: &str = "must be a time from 1970 to 9999 as RFC 3339, such as 2026-11-21T08:00:00Z";

/// What was sent of it: unchecked. Absent is `None`, and a JSON null is `Some(Null)`.
#[derive(Clone, Debug, Default)]
pub(super) struct RawLife {
    pub(super) starts_at: Option<Value>,
    pub(super) expires_at: Option<Value>,
    pub(super) expired_url: Option<Value>,
}

/// When a link is followed; at least one of them is there. `expired` alone, where a link expires by its clicks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// The first moment, Unix milliseconds. Before it the link answers like an unknown one.
    pub starts_ms: Option<u64>,
    /// The moment behind the last one, Unix milliseconds.
    pub expires_ms: Option<u64>,
    /// Where visitors go from then on; without it they are told that the link has expired.
    pub expired: Option<Afterlife>,
}

/// Where the visitors of an expired link go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Afterlife {
    /// The destination as the operator wrote it.
    pub url: String,
    /// The destination, parsed.
    pub target: Template,
}

/// Where a link stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage<'l> {
    /// It has not started.
    Early,
    /// It is followed.
    Alive,
    /// It has expired; its visitors go here, if anywhere.
    Expired(Option<&'l Template>),
}

impl Life {
    /// Where it stands at this moment.
    #[must_use]
    pub fn stage(&self, unix_ms: u64) -> Stage<'_> {
        if self.starts_ms.is_some_and(|starts_ms| unix_ms < starts_ms) {
            Stage::Early
        } else if self.expires_ms.is_some_and(|expires_ms| unix_ms >= expires_ms) {
            Stage::Expired(self.expired.as_ref().map(|expired| &expired.target))
        } else {
            Stage::Alive
        }
    }

    /// Checks what was sent, over what was there before; what is wrong goes to `errors`. `None` when nothing is left.
    /// `has_max_clicks`: it may also expire by its clicks.
    pub(super) fn check(
        raw: &RawLife,
        before: Option<&Self>,
        has_max_clicks: bool,
        own: &OwnHosts,
        errors: &mut Vec<FieldError>,
    ) -> Option<Box<Self>> {
        let known = errors.len();
        let mut moment = |field, value: &Option<Value>, before| {
            merged(value, before, parse_moment).unwrap_or_else(|error| {
                errors.push(FieldError::new(field, error));
                None
            })
        };
        let starts_ms = moment("starts_at", &raw.starts_at, before.and_then(|life| life.starts_ms));
        let expires_ms = moment("expires_at", &raw.expires_at, before.and_then(|life| life.expires_ms));
        let old_url = before.and_then(|life| life.expired.as_ref()).map(|expired| expired.url.clone());
        let expired = merged(&raw.expired_url, old_url, |text| Ok(text.to_owned()))
            .and_then(|url| url.map(|url| check_url(&url, own).map(|target| Afterlife { url, target })).transpose());
        let expired = expired.unwrap_or_else(|error| {
            errors.push(FieldError::new("expired_url", error));
            None
        });
        // What they say of each other, where each is good alone: told of what was sent.
        if errors.len() == known {
            if let (Some(starts_ms), Some(expires_ms)) = (starts_ms, expires_ms)
                && expires_ms <= starts_ms
            {
                errors.push(match raw.expires_at {
                    Some(_) => FieldError::new("expires_at", "must lie behind starts_at"),
                    None => FieldError::new("starts_at", "must lie before expires_at"),
                });
            }
            if expired.is_some() && expires_ms.is_none() && !has_max_clicks {
                errors.push(match raw.expired_url {
                    Some(_) => FieldError::new(
                        "expired_url",
                        "is of no use without expires_at or max_clicks; give one of them too",
                    ),
                    None => FieldError::new("expires_at", "is wanted by expired_url; remove both"),
                });
            }
        }
        let life = Self { starts_ms, expires_ms, expired };
        let says_something = life.starts_ms.is_some() || life.expires_ms.is_some() || life.expired.is_some();
        says_something.then(|| Box::new(life))
    }
}

/// The new value, where one was sent; else the one from before.
fn merged<T>(
    value: &Option<Value>,
    before: Option<T>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    match value {
        None => Ok(before),
        Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => parse(text).map(Some),
        Some(other) => Err(format!("is {}; a text is wanted", kind(other))),
    }
}

/// A moment in Unix milliseconds; what is finer is cut off.
pub(in crate::click) fn parse_moment(text: &str) -> Result<u64, String> {
    // jiff would pass over the name of a time zone in brackets, which may say something else than the offset.
    let moment = text.parse::<jiff::Timestamp>().ok().filter(|_| !text.contains('['));
    let unix_ms = moment.and_then(|moment| u64::try_from(moment.as_millisecond()).ok());
    unix_ms.filter(|unix_ms| *unix_ms <= TIME_MS_MAX).ok_or_else(|| WANTED.into())
}

/// Keeps a JSON null apart from a field that is not there.
pub(in crate::click) fn null_too<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOON: &str = "2026-11-21T12:00:00Z";
    const NOON_MS: u64 = 1_795_262_400_000;

    fn raw(fields: &Value) -> RawLife {
        let field = |name: &str| fields.get(name).cloned();
        RawLife { starts_at: field("starts_at"), expires_at: field("expires_at"), expired_url: field("expired_url") }
    }

    /// The life, and the fields that are wrong with why.
    fn check(before: Option<&Life>, fields: &Value) -> (Option<Box<Life>>, Vec<(&'static str, String)>) {
        let own = OwnHosts { hosts: vec!["go.example".into()], sockets: vec![] };
        let mut errors = Vec::new();
        let life = Life::check(&raw(fields), before, fields.get("max_clicks").is_some(), &own, &mut errors);
        (life, errors.into_iter().map(|error| (error.field, error.detail)).collect())
    }

    fn good(before: Option<&Life>, fields: &Value) -> Option<Box<Life>> {
        let (life, errors) = check(before, fields);
        assert_eq!(errors, [], "{fields}");
        life
    }

    #[test]
    fn a_link_starts_at_its_first_millisecond_and_has_expired_at_its_last() {
        let both = good(None, &json!({"starts_at": NOON, "expires_at": "2026-11-21T12:00:00.002Z"})).unwrap();
        let stages = [NOON_MS - 1, NOON_MS, NOON_MS + 1, NOON_MS + 2, u64::MAX].map(|ms| both.stage(ms));
        let expected = [Stage::Early, Stage::Alive, Stage::Alive, Stage::Expired(None), Stage::Expired(None)];
        assert_eq!(stages, expected);
        let late = good(None, &json!({"expires_at": NOON, "expired_url": "https://a.example/{slug}"})).unwrap();
        let target = Template::parse("https://a.example/{slug}").unwrap().0;
        assert_eq!([late.stage(0), late.stage(NOON_MS)], [Stage::Alive, Stage::Expired(Some(&target))]);
        let by_clicks = good(None, &json!({"expired_url": "https://a.example/", "max_clicks": 1})).unwrap();
        assert_eq!((by_clicks.stage(u64::MAX), by_clicks.expired.is_some()), (Stage::Alive, true));
        let early = good(None, &json!({"starts_at": NOON})).unwrap();
        assert_eq!([early.stage(0), early.stage(u64::MAX)], [Stage::Early, Stage::Alive]);
    }

    #[test]
    fn times_are_rfc_3339_from_1970_on_cut_to_the_millisecond() {
        for (text, ms) in [
            (NOON, NOON_MS),
            ("2026-11-21T13:30:00.0019+01:30", NOON_MS + 1),
            ("1970-01-01T00:00:00Z", 0),
            ("9999-12-30T22:00:00Z", TIME_MS_MAX),
        ] {
            assert_eq!(parse_moment(text), Ok(ms), "{text}");
        }
        for bad in [
            "",
            "tomorrow",
            "2026-11-21",
            "2026-11-21T12:00:00",
            "1795262400000",
            "1969-12-31T23:59:59Z",
            "2026-02-30T00:00:00Z",
            "2026-11-21T12:00:00Z[Europe/Berlin]",
            "9999-12-30T22:00:00.001Z",
            "99999-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_moment(bad), Err(WANTED.into()), "{bad}");
        }
    }

    #[test]
    fn each_field_that_is_wrong_is_told_and_what_they_say_of_each_other_of_what_was_sent() {
        let (_, errors) =
            check(None, &json!({"starts_at": 5, "expires_at": "soon", "expired_url": "https://go.example/"}));
        let told: Vec<_> = errors.iter().map(|(field, _)| *field).collect();
        assert_eq!(told, REMOVABLE);
        assert!(errors[0].1.contains("number") && errors[2].1.contains("loop"), "{errors:?}");
        let before = good(None, &json!({"starts_at": NOON, "expires_at": "2026-11-22T12:00:00Z"}));
        let after = good(None, &json!({"expires_at": NOON, "expired_url": "https://a.example/"}));
        for (before, fields, wrong) in [
            (None, json!({"starts_at": NOON, "expires_at": NOON}), "expires_at"),
            (before.as_deref(), json!({"expires_at": NOON}), "expires_at"),
            (before.as_deref(), json!({"starts_at": "2027-01-01T00:00:00Z"}), "starts_at"),
            (None, json!({"expired_url": "https://a.example/"}), "expired_url"),
            (None, json!({"starts_at": NOON, "expired_url": "https://a.example/"}), "expired_url"),
            (after.as_deref(), json!({"expires_at": null}), "expires_at"),
        ] {
            let (_, errors) = check(before, &fields);
            let told: Vec<_> = errors.iter().map(|(field, _)| *field).collect();
            assert_eq!(told, [wrong], "{fields}");
        }
    }

    #[test]
    fn a_change_keeps_what_it_does_not_name_and_null_removes() {
        let all = json!({"starts_at": "2026-11-20T12:00:00Z", "expires_at": NOON, "expired_url": "https://a.example/"});
        let all = good(None, &all);
        assert_eq!(good(all.as_deref(), &json!({})), all);
        let changed = good(all.as_deref(), &json!({"starts_at": null, "expired_url": "https://b.example/"})).unwrap();
        assert_eq!((changed.starts_ms, changed.expires_ms), (None, Some(NOON_MS)));
        assert_eq!(changed.expired.map(|expired| expired.url).as_deref(), Some("https://b.example/"));
        let nothing = json!({"starts_at": null, "expires_at": null, "expired_url": null});
        assert_eq!((good(all.as_deref(), &nothing), good(None, &nothing)), (None, None));
    }
}
