//! How long clicks are kept: for everybody, and for organisations that have a time of their own.
//!
//! Read by `check` from `store.retention` and `store.retention_of`; the stores ask it for every row.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::units::{Value, list, parse_time, show_time};

/// A second to 100 years.
pub(super) const RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(36_500 * 86_400);

const ORG_BYTES_MAX: usize = 64;

/// Times for which clicks are kept. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    default: Duration,
    of: Arc<BTreeMap<String, Duration>>,
}

impl Retention {
    /// This long for the organisations named, `default` for all others.
    #[must_use]
    pub fn new(default: Duration, of: BTreeMap<String, Duration>) -> Self {
        Self { default, of: Arc::new(of) }
    }

    /// For this organisation.
    #[must_use]
    pub fn of(&self, org: &str) -> Duration {
        self.of.get(org).copied().unwrap_or(self.default)
    }

    /// The shortest of all: clicks that are younger have not expired, whosever they are.
    #[must_use]
    pub fn shortest(&self) -> Duration {
        self.of.values().copied().min().map_or(self.default, |least| least.min(self.default))
    }
}

/// Entries such as `acme=90d`, each organisation once.
pub(super) fn retention_of(value: &Value) -> Result<BTreeMap<String, Duration>, String> {
    let mut of = BTreeMap::new();
    for (org, time) in list(entry)(value)? {
        if of.contains_key(&org) {
            return Err(format!("`{org}` stands there twice; keep one"));
        }
        of.insert(org, time);
    }
    Ok(of)
}

fn entry(text: &str) -> Result<(String, Duration), String> {
    let Some((org, time)) = text.split_once('=') else {
        return Err(format!("{text:?} is not an organisation and a time, such as \"acme=90d\""));
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if org.is_empty() || org.len() > ORG_BYTES_MAX || !org.bytes().all(allowed) {
        return Err(format!("{text:?}: an organisation is 1 to {ORG_BYTES_MAX} letters, digits, - _ or ."));
    }
    let time = parse_time(time).map_err(|error| format!("{text:?}: the time {error}"))?;
    if !RANGE.contains(&time) {
        return Err(format!("{text:?}: the time must be {} to {}", show_time(*RANGE.start()), show_time(*RANGE.end())));
    }
    Ok((org.to_owned(), time))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn an_organisation_without_a_time_of_its_own_has_that_of_all() {
        let retention =
            Retention::new(30 * DAY, BTreeMap::from([("acme".to_owned(), DAY), ("b".to_owned(), 60 * DAY)]));
        assert_eq!((retention.of("acme"), retention.of("b"), retention.of("")), (DAY, 60 * DAY, 30 * DAY));
        assert_eq!((retention.shortest(), Retention::new(DAY, BTreeMap::new()).shortest()), (DAY, DAY));
    }

    #[test]
    fn every_entry_is_checked() {
        let read = |items: &[&str]| {
            retention_of(&Value::List(items.iter().map(|item| Value::Text((*item).to_owned())).collect()))
        };
        assert_eq!(read(&["acme=90d", "b.c=5s"]).unwrap()["b.c"], Duration::from_secs(5));
        for (items, error) in [
            (&["acme"][..], "is not an organisation and a time"),
            (&["=1d"], "an organisation is 1 to 64"),
            (&["a b=1d"], "an organisation is 1 to 64"),
            (&["acme=90"], "\"acme=90\": the time "),
            (&["acme=0s"], "must be 1s to 36500d"),
            (&["acme=1d", "b=1d", "acme=2d"], "`acme` stands there twice"),
        ] {
            let told = read(items).unwrap_err();
            assert!(told.contains(error), "{items:?}: {told}");
        }
    }
}
