//! What is read from a visit in one way, wherever it is asked: on the edge of a real one, on control of one that somebody
//! supposes. What `explain` says is true because both ask here.

use std::borrow::Cow;

use super::query;

/// The longest language tag that BCP 47 asks programs to have room for.
const TAG_BYTES_MAX: usize = 35;

/// Whether `Sec-Purpose` or `Purpose` says that the browser fetches ahead of a click.
#[must_use]
pub fn looks_ahead(purpose: &[u8]) -> bool {
    let holds = |word: &[u8]| purpose.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
    !purpose.is_empty() && (holds(b"prefetch") || holds(b"prerender"))
}

/// The decoded value of the first parameter of this name; `None` also when it is no UTF-8.
#[must_use]
pub fn parameter<'q>(query: &'q str, name: &str) -> Option<Cow<'q, str>> {
    match query::find(query, name)? {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    }
}

/// Names and values of the cookies in these `Cookie` lines, in their order.
pub fn cookies<'h>(lines: impl Iterator<Item = &'h str>) -> impl Iterator<Item = (&'h str, &'h str)> {
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs
        .map(|(name, value)| (name, value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)))
}

/// The value of the first cookie of this name.
pub fn cookie<'h>(lines: impl Iterator<Item = &'h str>, name: &str) -> Option<&'h str> {
    cookies(lines).find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// The first language of an `Accept-Language`, in lower case: `de` of `de-AT, en;q=0.8`; empty when it names none.
#[must_use]
pub fn first_language(accepted: &[u8]) -> Cow<'_, str> {
    lower(accepted.split(|byte| !byte.is_ascii_alphabetic()).next().unwrap_or_default())
}

/// The first tag of an `Accept-Language`, as it was sent: `de-AT` of `de-AT, en;q=0.8`. Empty when it is longer than any
/// tag in use (35 bytes): it would tell a visitor from others.
#[must_use]
pub fn first_tag(accepted: &[u8]) -> &[u8] {
    let end = accepted.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'-').unwrap_or(accepted.len());
    if end <= TAG_BYTES_MAX { &accepted[..end] } else { b"" }
}

/// The origin of a URL, scheme, host and port as they were sent: `https://news.example:8443` of
/// `https://news.example:8443/a?b`. Empty when there is none, or a name or password in it.
#[must_use]
pub fn origin(url: &[u8]) -> &[u8] {
    let of_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    let scheme = url.iter().position(|byte| !of_scheme(byte)).unwrap_or(url.len());
    if scheme == 0 || !url[scheme..].starts_with(b"://") {
        return b"";
    }
    let host = scheme + 3;
    let end = url[host..].iter().position(|byte| b"/?#\\".contains(byte)).map_or(url.len(), |at| host + at);
    if end == host || url[host..end].contains(&b'@') { b"" } else { &url[..end] }
}

/// The host of a URL, in lower case and without port; empty when there is none.
#[must_use]
pub fn domain(url: &[u8]) -> Cow<'_, str> {
    let after = url.windows(3).position(|three| three == b"://").map_or(&b""[..], |at| &url[at + 3..]);
    let authority = after.split(|byte| b"/?#".contains(byte)).next().unwrap_or_default();
    let host = authority.rsplit(|byte| *byte == b'@').next().unwrap_or_default();
    lower(match host.strip_prefix(b"[") {
        Some(six) => six.split(|byte| *byte == b']').next().unwrap_or_default(),
        None => host.split(|byte| *byte == b':').next().unwrap_or_default(),
    })
}

/// Copies only what is not so already.
fn lower(text: &[u8]) -> Cow<'_, str> {
    match String::from_utf8_lossy(text) {
        Cow::Borrowed(text) if !text.bytes().any(|byte| byte.is_ascii_uppercase()) => Cow::Borrowed(text),
        text => Cow::Owned(text.to_ascii_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_no_path_and_a_first_tag_no_followers() {
        for (url, expected) in [
            ("https://News.Example:8443/a?b#c", "https://News.Example:8443"),
            ("https://a.example?user=7", "https://a.example"),
            ("https://a.example\\user", "https://a.example"),
            ("android-app://com.example/x", "android-app://com.example"),
            ("https://a.example", "https://a.example"),
            ("https://user:pw@a.example/", ""),
            ("/go?to=https://a.example/", ""),
            ("https:///x", ""),
            ("://a", ""),
            ("user 7", ""),
            ("", ""),
        ] {
            assert_eq!(String::from_utf8_lossy(origin(url.as_bytes())), expected, "{url}");
        }
        let long = "x".repeat(36);
        for (accepted, expected) in
            [("de-AT, en;q=0.8", "de-AT"), ("EN", "EN"), ("fr;q=0.1,de", "fr"), ("*", ""), ("", ""), (&long, "")]
        {
            assert_eq!(String::from_utf8_lossy(first_tag(accepted.as_bytes())), expected, "{accepted}");
        }
    }

    #[test]
    fn the_first_language_and_the_domain_of_a_referrer_are_found() {
        for (accepted, expected) in
            [("de-AT, en;q=0.8", "de"), ("EN", "en"), ("*", ""), ("", ""), ("fr;q=0.1,de", "fr")]
        {
            assert_eq!(first_language(accepted.as_bytes()), expected, "{accepted}");
        }
        for (url, expected) in [
            ("https://News.Example:8443/a?b#c", "news.example"),
            ("https://user:pw@a.example?x", "a.example"),
            ("http://[2001:db8::1]:80/", "2001:db8::1"),
            ("android-app://com.example/", "com.example"),
            ("a.example/x", ""),
            ("", ""),
        ] {
            assert_eq!(domain(url.as_bytes()), expected, "{url}");
        }
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let lines = ["ab=1; b=\"two\"", "c=x=y;b=3"];
        let found = ["a", "ab", "b", "c", "d"].map(|name| cookie(lines.into_iter(), name));
        assert_eq!(found, [None, Some("1"), Some("two"), Some("x=y"), None]);
    }

    #[test]
    fn a_parameter_is_decoded_and_one_that_is_no_text_is_not_there() {
        let query = "a=x+y&a=2&b=%FF&c";
        let found = ["a", "b", "c", "d"].map(|name| parameter(query, name));
        assert_eq!(found, [Some("x y".into()), None, Some("".into()), None]);
    }

    #[test]
    fn a_purpose_says_whether_a_browser_looks_ahead() {
        for (purpose, expected) in
            [("prefetch;prerender", true), ("Prefetch", true), ("PreRender", true), ("navigate", false), ("", false)]
        {
            assert_eq!(looks_ahead(purpose.as_bytes()), expected, "{purpose}");
        }
    }
}
