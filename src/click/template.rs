//! Destinations with macros: parsed when a link is saved, spliced when it is followed.
//!
//! A macro may stand behind the host only, and its value is percent-encoded down to RFC 3986's unreserved characters;
//! so no value can change scheme, host or port, nor end the header line.

use super::query;
use super::{ClickId, Visit};

/// A checked destination URL, cut at its macros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Up to the fragment: where a forwarded query is appended.
    main: Vec<Part>,
    /// From the `#` on; usually empty.
    fragment: Vec<Part>,
    has_query: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Macro(Macro),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Macro {
    ClickId,
    ExternalClickId,
    Slug,
    Ts,
    Query(Box<str>),
}

/// What the macros may draw on.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// Ours; empty in the destination where the journal could not take the click.
    pub click_id: Option<ClickId>,
    /// The advertiser's, decoded.
    pub external_click_id: &'a [u8],
    /// The link's slug.
    pub slug: &'a str,
    /// Time of the click, Unix milliseconds.
    pub unix_ms: u64,
    /// The request.
    pub visit: &'a Visit<'a>,
}

/// The macros that a `url` may hold, for messages and docs.
pub const MACROS: &str = "{click_id}, {external_click_id}, {slug}, {ts}, {q:name}";

impl Template {
    /// Parses and checks a destination.
    ///
    /// # Errors
    /// A sentence that says what is wrong: an unknown macro, a brace that is no macro, a macro before the path, no
    /// http(s) URL, no host, user information, a control character or a backslash.
    pub fn parse(text: &str) -> Result<(Self, url::Url), String> {
        if let Some(bad) = text.chars().find(|c| c.is_control() || matches!(c, ' ' | '\\')) {
            return Err(format!("holds the character {bad:?}; percent-encode it"));
        }
        let (plain, macros, mark) = cut(text)?;
        let url = url::Url::parse(&plain).map_err(|e| format!("is not an absolute URL: {e}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("has the scheme `{}`; only http and https are redirected to", url.scheme()));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err("has no host".into());
        }
        if !url.username().is_empty() || url.password().is_some() || text_authority(text).contains('@') {
            return Err("holds user information (`user:password@`); leave it out".into());
        }
        if url.authority().contains(&mark) {
            return Err("has a macro in its host; a macro may stand behind the host only, after the first `/`".into());
        }
        let (main, fragment) = url.as_str().split_once('#').map_or((url.as_str(), None), |(m, f)| (m, Some(f)));
        let mut macros = macros.into_iter();
        let mut parts = |text: &str| {
            let mut parts = Vec::new();
            for (i, piece) in text.split(mark.as_str()).enumerate() {
                if i > 0 {
                    parts.extend(macros.next().map(Part::Macro));
                }
                if !piece.is_empty() {
                    parts.push(Part::Text(piece.into()));
                }
            }
            parts
        };
        let has_query = url.query().is_some();
        let main = parts(main);
        let fragment = fragment.map_or_else(Vec::new, |f| parts(&format!("#{f}")));
        Ok((Self { main, fragment, has_query }, url))
    }

    /// The whole destination when it has no macro: the same for every visit, unless the query is forwarded.
    #[must_use]
    pub fn constant(&self) -> Option<String> {
        let texts: Option<Vec<&str>> = self
            .main
            .iter()
            .chain(&self.fragment)
            .map(|part| match part {
                Part::Text(text) => Some(text.as_ref()),
                Part::Macro(_) => None,
            })
            .collect();
        texts.map(|t| t.concat())
    }

    /// Appends the destination of this visit. `forward` adds the visitor's whole query behind the destination's own.
    /// The result is ASCII without controls: fit for a header.
    pub fn splice(&self, values: &Values<'_>, forward: bool, out: &mut Vec<u8>) {
        splice_parts(&self.main, values, out);
        if forward && !values.visit.query.is_empty() {
            out.push(if self.has_query { b'&' } else { b'?' });
            query::append_query(values.visit.query, out);
        }
        splice_parts(&self.fragment, values, out);
    }
}

fn splice_parts(parts: &[Part], values: &Values<'_>, out: &mut Vec<u8>) {
    for part in parts {
        match part {
            Part::Text(text) => out.extend_from_slice(text.as_bytes()),
            Part::Macro(Macro::ClickId) => {
                if let Some(id) = values.click_id {
                    out.extend_from_slice(id.hyphenated(&mut [0; 36]).as_bytes());
                }
            }
            Part::Macro(Macro::ExternalClickId) => query::encode_value(values.external_click_id, out),
            Part::Macro(Macro::Slug) => query::encode_value(values.slug.as_bytes(), out),
            Part::Macro(Macro::Ts) => push_number(values.unix_ms / 1000, out),
            Part::Macro(Macro::Query(name)) => {
                if let Some(value) = query::find(values.visit.query, name) {
                    query::encode_value(&value, out);
                }
            }
        }
    }
}

fn push_number(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Cuts the macros out: the text with a mark in the place of each, the macros in order, and the mark, which is a
/// word of letters and digits that the text does not hold, so that URL normalisation leaves it alone.
fn cut(text: &str) -> Result<(String, Vec<Macro>, String), String> {
    let mark = (0_u64..).map(|n| format!("trellismacro{n}x")).find(|m| !text.to_ascii_lowercase().contains(m.as_str()));
    let mark = mark.ok_or("cannot be parsed")?;
    let (mut plain, mut macros, mut rest) = (String::with_capacity(text.len()), Vec::new(), text);
    while let Some(open) = rest.find(['{', '}']) {
        let inside = rest[open..].strip_prefix('{').and_then(|r| r.split_once('}'));
        let Some((name, after)) = inside else {
            return Err("holds a `{` or `}` that belongs to no macro; write %7B or %7D".into());
        };
        macros.push(parse_macro(name)?);
        plain.push_str(&rest[..open]);
        plain.push_str(&mark);
        rest = after;
    }
    plain.push_str(rest);
    let before_path = text.find('{').is_some_and(|at| at < text.len() - after_authority(text).len());
    if before_path {
        return Err(
            "has a macro in its scheme or host; a macro may stand behind the host only, after the first `/`".into()
        );
    }
    Ok((plain, macros, mark))
}

/// What follows scheme and authority; empty when there is nothing.
fn after_authority(text: &str) -> &str {
    let start = text.find("://").map_or(0, |at| at + 3);
    text[start..].find(['/', '?', '#']).map_or("", |at| &text[start + at..])
}

fn text_authority(text: &str) -> &str {
    let start = text.find("://").map_or(0, |at| at + 3);
    &text[start..text.len() - after_authority(text).len()]
}

fn parse_macro(name: &str) -> Result<Macro, String> {
    match name {
        "click_id" => Ok(Macro::ClickId),
        "external_click_id" => Ok(Macro::ExternalClickId),
        "slug" => Ok(Macro::Slug),
        "ts" => Ok(Macro::Ts),
        _ => match name.strip_prefix("q:") {
            Some(key) if !key.is_empty() && key.len() <= 64 => Ok(Macro::Query(key.into())),
            _ => Err(format!("holds the unknown macro {{{name}}}; there are {MACROS}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spliced(template: &str, query: &str, forward: bool) -> String {
        let (template, _) = Template::parse(template).unwrap();
        let address = "192.0.2.1".parse().unwrap();
        let visit = Visit { query, head: false, prefetch: false, address, ua: b"", referrer: b"", language: b"" };
        let external = query::find(query, "click_id").unwrap_or_default();
        let values = Values {
            click_id: Some(ClickId::new(1_700_000_000_000, &[0; 10])),
            external_click_id: &external,
            slug: "spring",
            unix_ms: 1_700_000_000_999,
            visit: &visit,
        };
        let mut out = Vec::new();
        template.splice(&values, forward, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn macros_are_spliced_and_percent_encoded() {
        assert_eq!(
            spliced("https://a.example/p?id={click_id}&e={external_click_id}#{slug}", "click_id=A%2FB+%26", false),
            "https://a.example/p?id=018bcfe5-6800-7000-8000-000000000000&e=A%2FB%20%26#spring"
        );
        assert_eq!(
            spliced("https://a.example/{q:x}/{ts}", "x=../%0d%0aSet-Cookie:1", false),
            "https://a.example/..%2F%0D%0ASet-Cookie%3A1/1700000000"
        );
        assert_eq!(spliced("https://a.example/?m={q:none}", "", false), "https://a.example/?m=");
    }

    #[test]
    fn a_forwarded_query_goes_behind_the_own_one_and_before_the_fragment() {
        assert_eq!(spliced("https://a.example/#f", "b=2&c=%20", true), "https://a.example/?b=2&c=%20#f");
        assert_eq!(spliced("https://a.example/?a=1", "b=2", true), "https://a.example/?a=1&b=2");
        assert_eq!(spliced("https://a.example/?a=1", "", true), "https://a.example/?a=1");
        assert_eq!(spliced("https://a.example/", "b=\"<{é", true), "https://a.example/?b=%22%3C%7B%C3%A9");
    }

    #[test]
    fn text_is_normalised_once_and_stays_ascii() {
        assert_eq!(spliced("https://bücher.example/ü?q=ü", "", false), "https://xn--bcher-kva.example/%C3%BC?q=%C3%BC");
    }

    #[test]
    fn bad_destinations_are_refused_with_the_reason() {
        for (url, reason) in [
            ("ftp://a.example/", "scheme"),
            ("javascript:alert(1)", "scheme"),
            ("/relative", "absolute"),
            ("https://", "absolute"),
            ("https://user:pw@a.example/", "user information"),
            ("https://@a.example/", "user information"),
            ("https://a.example/\u{7}", "character"),
            ("https://a.example\\@b.example/", "character"),
            ("https://a.example/{nope}", "unknown macro {nope}"),
            ("https://a.example/{q:}", "unknown macro"),
            ("https://a.example/{", "no macro"),
            ("https://a.example/}", "no macro"),
            ("https://{slug}.example/", "host"),
            ("https://a.example:{ts}/", "host"),
            ("{q:x}", "host"),
            ("https://{slug}", "host"),
        ] {
            let error = Template::parse(url).expect_err(url);
            assert!(error.contains(reason), "{url}: {error}");
        }
    }

    #[test]
    fn only_a_template_without_macros_is_constant() {
        let constant = |t: &str| Template::parse(t).unwrap().0.constant();
        assert_eq!(constant("https://a.example/x#y").as_deref(), Some("https://a.example/x#y"));
        assert_eq!(constant("https://a.example/{ts}"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_query_changes_scheme_host_or_port_nor_leaves_the_header(query in "[^#]*", forward: bool) {
            let url = spliced("https://a.example:8443/p/{q:a}/{external_click_id}?x={q:b}#{q:c}", &query, forward);
            proptest::prop_assert!(url.bytes().all(|b| (0x21..0x7f).contains(&b)), "{}", url);
            let parsed = url::Url::parse(&url).unwrap();
            proptest::prop_assert_eq!(parsed.origin().ascii_serialization(), "https://a.example:8443");
        }
    }
}
