//! Which series: `trellis_redirects_total{outcome="redirected"}`, as Prometheus writes it.
//!
//! ```text
//! label="a"     this value        label=~"a|b"    one of these, each as it stands: no patterns
//! label!="a"    any other         label!~"a|b"    none of these
//! ```
//! A histogram's number of observations is `..._count`.

use std::fmt;

use super::metrics::{METRICS, MetricKind, metric};
use crate::config::problem::nearest;

/// Characters of one.
const CHARS_MAX: usize = 500;

/// Which number of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Itself.
    Whole,
    /// The number of observations of a histogram.
    Count,
}

/// What a label must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Matcher {
    label: String,
    values: Vec<String>,
    wanted: bool,
    /// Written with `~`.
    many: bool,
}

/// Which series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// Name of the family.
    pub metric: String,
    /// Which number of it.
    pub part: Part,
    matchers: Vec<Matcher>,
}

impl Selector {
    /// Whether a series with this label is among them; the value of an absent label is empty.
    pub fn takes<'l>(&self, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        self.matchers.iter().all(|matcher| {
            let value = label(&matcher.label).unwrap_or_default();
            matcher.values.iter().any(|wanted| wanted == value) == matcher.wanted
        })
    }

    /// Whether it says something of this label: then it does not tell its series apart from those of another selector.
    #[must_use]
    pub fn names(&self, label: &str) -> bool {
        self.matchers.iter().any(|matcher| matcher.label == label)
    }

    /// What its metric is, as far as this selector looks at it.
    pub(super) fn kind(&self) -> MetricKind {
        match (metric(&self.metric).map(|metric| metric.kind), self.part) {
            (_, Part::Count) | (None, Part::Whole) => MetricKind::Counter,
            (Some(kind), Part::Whole) => kind,
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.chars().count() > CHARS_MAX {
            return Err(format!("has more than {CHARS_MAX} characters"));
        }
        let (name, matchers) = match text.find('{') {
            Some(brace) => (&text[..brace], matchers(&text[brace + 1..])?),
            None => (text, Vec::new()),
        };
        let (family, part) = match (metric(name), name.strip_suffix("_count").and_then(metric)) {
            (Some(family), _) => (family, Part::Whole),
            (None, Some(family)) if matches!(family.kind, MetricKind::Histogram(_)) => (family, Part::Count),
            _ => {
                let names: Vec<String> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
                let near = nearest(name, names.iter(), Clone::clone);
                return Err(format!("{name:?} is not a metric of this node{near}"));
            }
        };
        for matcher in &matchers {
            if !family.labels.contains(&matcher.label.as_str()) {
                let (label, known) = (&matcher.label, family.labels.join(", "));
                let known = if known.is_empty() { "no label".to_owned() } else { format!("only {known}") };
                return Err(format!("{} has no label {label:?}: it has {known}", family.name));
            }
        }
        Ok(Self { metric: family.name.to_owned(), part, matchers })
    }
}

/// `label="value", ...}`.
fn matchers(text: &str) -> Result<Vec<Matcher>, String> {
    let bad = || "is not a selector such as trellis_redirects_total{outcome=\"redirected\"}".to_owned();
    let (mut matchers, mut rest) = (Vec::new(), text.trim_start());
    while !rest.starts_with('}') {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|end| *end > 0).ok_or_else(bad)?;
        let (label, behind) = rest.split_at(end);
        let operators = [("=~", true, true), ("!~", false, true), ("!=", false, false), ("=", true, false)];
        let operator = operators.iter().find(|(operator, ..)| behind.trim_start().starts_with(operator));
        let (operator, wanted, many) = operator.ok_or_else(bad)?;
        let value = behind.trim_start()[operator.len()..].trim_start().strip_prefix('"').ok_or_else(bad)?;
        let (value, behind) = value.split_once('"').ok_or_else(bad)?;
        let values: Vec<_> = if *many { value.split('|').map(str::to_owned).collect() } else { vec![value.to_owned()] };
        if values.iter().any(String::is_empty) {
            return Err(format!("of the label {label:?} an empty value is asked for"));
        }
        matchers.push(Matcher { label: label.to_owned(), values, wanted: *wanted, many: *many });
        let behind = behind.trim_start();
        rest = match behind.strip_prefix(',') {
            Some(more) => more.trim_start(),
            None if behind.starts_with('}') => behind,
            None => return Err(bad()),
        };
    }
    if rest == "}" { Ok(matchers) } else { Err(bad()) }
}

/// As it may be written.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.metric)?;
        if self.part == Part::Count {
            f.write_str("_count")?;
        }
        for (at, matcher) in self.matchers.iter().enumerate() {
            let operator = match (matcher.wanted, matcher.many) {
                (true, false) => "=",
                (true, true) => "=~",
                (false, false) => "!=",
                (false, true) => "!~",
            };
            let before = if at == 0 { "{" } else { "," };
            write!(f, "{before}{}{operator}\"{}\"", matcher.label, matcher.values.join("|"))?;
        }
        if self.matchers.is_empty() { Ok(()) } else { f.write_str("}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_takes_the_series_that_it_names() {
        let selector =
            Selector::parse("trellis_api_requests_total{ op =~ \"GET /links|POST /links\", status_class!=\"5xx\" }");
        let selector = selector.unwrap();
        assert_eq!(
            selector.to_string(),
            "trellis_api_requests_total{op=~\"GET /links|POST /links\",status_class!=\"5xx\"}"
        );
        let takes = |op: &'static str, class: &'static str| {
            selector.takes(|label| match label {
                "op" => Some(op),
                "status_class" => Some(class),
                _ => None,
            })
        };
        assert!(takes("GET /links", "2xx") && takes("POST /links", "4xx"));
        assert!(!takes("GET /links", "5xx") && !takes("GET /links/{slug}", "2xx"));
        let count = Selector::parse("trellis_auth_duration_seconds_count{outcome!~\"granted|denied\"}").unwrap();
        assert_eq!((count.part, count.kind()), (Part::Count, MetricKind::Counter));
        assert!(count.takes(|_| Some("error")) && !count.takes(|_| Some("denied")));
        assert_eq!(Selector::parse("trellis_links").unwrap().to_string(), "trellis_links");
        let braces = Selector::parse("trellis_api_duration_seconds{op=\"GET /links/{slug}\"}").unwrap();
        assert!(braces.takes(|_| Some("GET /links/{slug}")) && braces.names("op") && !braces.names("slug"));
    }

    #[test]
    fn what_is_no_selector_is_told() {
        for (text, told) in [
            (
                "trellis_redirect_total",
                "\"trellis_redirect_total\" is not a metric of this node; did you mean trellis_redirects_total?",
            ),
            ("trellis_links_count", "\"trellis_links_count\" is not a metric of this node"),
            ("trellis_links{slug=\"a\"}", "trellis_links has no label \"slug\": it has no label"),
            (
                "trellis_redirects_total{status=\"a\"}",
                "trellis_redirects_total has no label \"status\": it has only outcome",
            ),
            ("trellis_redirects_total{outcome=\"\"}", "of the label \"outcome\" an empty value is asked for"),
            ("trellis_redirects_total{outcome=~\"a|\"}", "of the label \"outcome\" an empty value is asked for"),
        ] {
            assert_eq!(Selector::parse(text), Err(told.into()));
        }
        for text in [
            "trellis_redirects_total{",
            "trellis_redirects_total{outcome}",
            "trellis_redirects_total{outcome=a}",
            "trellis_redirects_total{outcome=\"a\"} x",
            "trellis_redirects_total{outcome=\"a\" outcome=\"b\"}",
            "trellis_redirects_total{=\"a\"}",
        ] {
            assert!(Selector::parse(text).unwrap_err().starts_with("is not a selector such as"), "{text}");
        }
    }
}
