//! What every click store derives alike: the parameters of a query string, the day a row expires, and the shape of
//! counts. Pure; called by the stores for each row they encode and for each answer they read.

use std::borrow::Cow;

use crate::click::query;
use crate::pipeline::{Counts, Label};

const DAY_MS: u64 = 86_400_000;

type Text<'q> = Cow<'q, [u8]>;

/// The parameters of one query string, decoded, sorted by name, the first of each name. Kept and filled again from row
/// to row, so that a row without escapes allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Parameters<'q> {
    pairs: Vec<(Text<'q>, Text<'q>)>,
}

impl<'q> Parameters<'q> {
    /// Takes the parameters of this query string. n log n in their number: it is the visitor's.
    pub(super) fn read(&mut self, text: &'q str) {
        self.pairs.clear();
        self.pairs.extend(query::pairs(text).map(|(key, value)| (query::decode(key), query::decode(value))));
        if self.pairs.len() > 1 {
            // Stable, so the first of a repeated name stays, as in the macros.
            self.pairs.sort_by(|a, b| a.0.cmp(&b.0));
            self.pairs.dedup_by(|later, first| later.0 == first.0);
        }
    }

    /// The value of this name; empty when there is none.
    pub(super) fn get(&self, name: &str) -> &[u8] {
        let found = self.pairs.binary_search_by(|(key, _)| key.as_ref().cmp(name.as_bytes()));
        found.map_or(&[], |at| self.pairs[at].1.as_ref())
    }

    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Names and values in the order of the names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pairs.iter().map(|(key, value)| (key.as_ref(), value.as_ref()))
    }

    /// Appends a JSON object of texts; bytes that are no UTF-8 become U+FFFD.
    pub(super) fn write_json(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (i, (key, value)) in self.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write_json_text(key, out);
            out.push(b':');
            write_json_text(value, out);
        }
        out.push(b'}');
    }
}

fn write_json_text(text: &[u8], out: &mut Vec<u8>) {
    serde_json::to_writer(out, String::from_utf8_lossy(text).as_ref()).expect("a text into memory cannot fail");
}

/// The day (since 1970-01-01) behind which a click of this time may be removed. A `Date` ends in 2149; later ones stay
/// there.
pub(super) fn expires_day(unix_ms: u64, retention_days: u32) -> u16 {
    u16::try_from(unix_ms / DAY_MS + u64::from(retention_days)).unwrap_or(u16::MAX)
}

/// Adds up groups of (class, label, clicks). A label that this program does not know counts as unknown.
pub(super) fn counts(groups: impl IntoIterator<Item = (String, String, u64)>) -> Counts {
    let mut counts = Counts::default();
    for (class, label, clicks) in groups {
        counts.total += clicks;
        if label == Label::Unique.name() {
            counts.unique += clicks;
        } else if label == Label::Duplicate.name() {
            counts.duplicate += clicks;
        } else {
            counts.unknown += clicks;
        }
        *counts.by_class.entry(class).or_default() += clicks;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::samples;

    #[test]
    fn the_first_of_a_repeated_parameter_stays() {
        let mut parameters = Parameters::default();
        parameters.read("b=2&a=1&&a=3&c%5F=x+y&b=%zz");
        let pairs: Vec<_> = parameters.iter().collect();
        assert_eq!(pairs, [(&b"a"[..], &b"1"[..]), (b"b", b"2"), (b"c_", b"x y")]);
        assert_eq!((parameters.get("a"), parameters.get("z"), parameters.len()), (&b"1"[..], &b""[..], 3));
        let json = |parameters: &Parameters<'_>| {
            let mut out = Vec::new();
            parameters.write_json(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(json(&parameters), r#"{"a":"1","b":"2","c_":"x y"}"#);
        parameters.read("%22=%ff%0A");
        assert_eq!(json(&parameters), "{\"\\\"\":\"\u{fffd}\\n\"}");
        parameters.read("");
        assert_eq!(json(&parameters), "{}");
    }

    #[test]
    fn a_row_expires_after_its_retention_and_never_beyond_the_calendar() {
        assert_eq!(expires_day(DAY_MS - 1, 2557), 2557);
        assert_eq!(expires_day(DAY_MS, 2557), 2558);
        assert_eq!(expires_day(u64::MAX, u32::MAX), u16::MAX);
    }

    #[test]
    fn counts_add_up() {
        let group = |class: &str, label: &str, n| (class.to_owned(), label.to_owned(), n);
        let all = [group("human", "unique", 3), group("human", "duplicate", 2), group("bot", "unknown", 1)];
        let counts = counts(all);
        assert_eq!((counts.total, counts.unique, counts.duplicate, counts.unknown), (6, 3, 2, 1));
        assert_eq!(counts.by_class.into_iter().collect::<Vec<_>>(), [("bot".to_owned(), 1), ("human".to_owned(), 5)]);
    }

    proptest::proptest! {
        #[test]
        fn parameters_agree_with_the_rule_of_the_pipeline(query in "([a-c]{0,2}(=[a-z%0-9+]{0,4})?&){0,6}((click_id|source)=[a-z]{1,3}&){0,3}") {
            let columns = crate::pipeline::store::query_columns(&samples::row(&samples::click(&query))).unwrap();
            let mut parameters = Parameters::default();
            parameters.read(&query);
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let pairs: std::collections::BTreeMap<_, _> = parameters.iter().map(|(k, v)| (text(k), text(v))).collect();
            proptest::prop_assert_eq!(pairs, columns.query);
            proptest::prop_assert_eq!(text(parameters.get("click_id")), columns.external_click_id);
            proptest::prop_assert_eq!(text(parameters.get("source")), columns.source);
        }
    }
}
