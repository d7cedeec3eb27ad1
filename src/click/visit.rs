//! A visit: the request as links may see it, borrowed from the request's own buffer.

use std::borrow::Cow;
use std::net::IpAddr;

/// One request for a link. Nothing in it is copied; it lives as long as the request.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// Query part of the request target, without the `?`, as received.
    pub query: &'a str,
    /// The method was HEAD.
    pub head: bool,
    /// The browser said that it fetches ahead of a click (`Sec-Purpose` or `Purpose`).
    pub prefetch: bool,
    /// The full client address; privacy takes its part away only when the click is encoded.
    pub address: IpAddr,
    /// `User-Agent`, as received; may be empty and need not be UTF-8.
    pub ua: &'a [u8],
    /// `Referer`, as received.
    pub referrer: &'a [u8],
    /// `Accept-Language`, as received.
    pub language: &'a [u8],
}

/// The first language of an `Accept-Language`, in lower case: `de` of `de-AT, en;q=0.8`; empty when it names none.
#[must_use]
pub fn first_language(accepted: &[u8]) -> Cow<'_, str> {
    lower(accepted.split(|byte| !byte.is_ascii_alphabetic()).next().unwrap_or_default())
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
}
