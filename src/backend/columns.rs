//! What every click store derives alike: a query string as JSON, when a row expires, and the shape of counts. Pure; called by the stores for each row they encode and for each answer they read.

use std::time::Duration;

use crate::click::query::Parameters;
use crate::pipeline::{Counts, Label};

const MINUTE_MS: u64 = 60_000;

/// Appends parameters as a JSON object of texts; bytes that are no UTF-8 become U+FFFD.
pub(super) fn write_json(parameters: &Parameters<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (i, (key, value)) in parameters.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_json_text(key, out);
        out.push(b':');
        write_json_text(value, out);
    }
    out.push(b'}');
}

fn write_json_text(text: &[u8], out: &mut Vec<u8>) {
    serde_json::to_writer(out, String::from_utf8_lossy(text).as_ref()).expect("a text into memory cannot fail");
}

/// The second (since 1970-01-01) from which a click of this time may be removed. Counted from the end of its minute, so
/// that the clicks of a minute go together, and the counts of a minute with them. ClickHouse's `DateTime` ends in 2106;
/// later times stay there.
pub(super) fn expires_s(unix_ms: u64, retention: Duration) -> u32 {
    let minute_end_s = (unix_ms / MINUTE_MS + 1) * 60;
    u32::try_from(minute_end_s.saturating_add(retention.as_secs())).unwrap_or(u32::MAX)
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

    #[test]
    fn parameters_become_a_json_object_of_texts() {
        let json = |query: &str| {
            let (mut parameters, mut out) = (Parameters::default(), Vec::new());
            parameters.read(query);
            write_json(&parameters, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(json("b=2&a=1&&a=3&c%5F=x+y&b=%zz"), r#"{"a":"1","b":"2","c_":"x y"}"#);
        assert_eq!(json("%22=%ff%0A"), "{\"\\\"\":\"\u{fffd}\\n\"}");
        assert_eq!(json(""), "{}");
    }

    #[test]
    fn a_row_expires_after_its_retention_and_never_beyond_the_calendar() {
        let day = Duration::from_secs(86_400);
        assert_eq!([0, 59_999, 60_000].map(|ms| expires_s(ms, day)), [86_460, 86_460, 86_520]);
        assert_eq!(expires_s(u64::MAX, Duration::MAX), u32::MAX);
    }

    #[test]
    fn counts_add_up() {
        let group = |class: &str, label: &str, n| (class.to_owned(), label.to_owned(), n);
        let all = [group("human", "unique", 3), group("human", "duplicate", 2), group("bot", "unknown", 1)];
        let counts = counts(all);
        assert_eq!((counts.total, counts.unique, counts.duplicate, counts.unknown), (6, 3, 2, 1));
        assert_eq!(counts.by_class.into_iter().collect::<Vec<_>>(), [("bot".to_owned(), 1), ("human".to_owned(), 5)]);
    }
}
