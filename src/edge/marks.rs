//! What the headers of a request show of who sent it: a handful of look-ups, nothing is copied.

use hyper::header::{ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, HeaderName};
use hyper::{Request, Version};

use crate::click::Marks;

static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
static SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
static SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// A followed link is one of these; `nested-navigate` is what the first Chromes with this header said in frames.
const NAVIGATIONS: [&[u8]; 2] = [b"navigate", b"nested-navigate"];
/// Where a followed link may open.
const PLACES: [&[u8]; 6] = [b"document", b"iframe", b"frame", b"fencedframe", b"embed", b"object"];

/// The marks of a request. `trusted`: its peer is a proxy that is believed.
pub(super) fn of<B>(request: &Request<B>, trusted: bool) -> Marks {
    let headers = request.headers();
    let (mode, dest) = (headers.get(&SEC_FETCH_MODE), headers.get(&SEC_FETCH_DEST));
    let other_mode = mode.is_some_and(|mode| !NAVIGATIONS.contains(&mode.as_bytes()));
    let other_place = dest.is_some_and(|dest| !PLACES.contains(&dest.as_bytes()));
    let metadata = mode.is_some() || dest.is_some() || headers.contains_key(&SEC_FETCH_SITE);
    let tls = || headers.get(&FORWARDED_PROTO).is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"));
    Marks::default()
        .with(Marks::NO_ACCEPT, !headers.contains_key(ACCEPT))
        .with(Marks::NO_LANGUAGE, !headers.contains_key(ACCEPT_LANGUAGE))
        .with(Marks::NO_ENCODING, !headers.contains_key(ACCEPT_ENCODING))
        .with(Marks::HTTP_1_0, !trusted && request.version() == Version::HTTP_10)
        .with(Marks::FETCH_METADATA, metadata)
        .with(Marks::NO_NAVIGATION, other_mode || other_place)
        .with(Marks::TLS, trusted && tls())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Marks = Marks::NO_ACCEPT.with(Marks::NO_LANGUAGE, true).with(Marks::NO_ENCODING, true);

    fn marks(version: Version, trusted: bool, headers: &[(&str, &str)]) -> Marks {
        let mut request = Request::builder().version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        of(&request.body(()).unwrap(), trusted)
    }

    #[test]
    fn a_browser_has_no_mark_against_it() {
        let browser = [
            ("Accept", "text/html"),
            ("Accept-Language", "de"),
            ("Accept-Encoding", "gzip"),
            ("Sec-Fetch-Site", "cross-site"),
            ("Sec-Fetch-Mode", "navigate"),
            ("Sec-Fetch-Dest", "document"),
        ];
        assert_eq!(marks(Version::HTTP_11, false, &browser), Marks::FETCH_METADATA);
        assert_eq!(marks(Version::HTTP_11, false, &[]), NOTHING);
    }

    #[test]
    fn fetches_that_are_no_followed_link_are_marked() {
        for (header, value, other) in [
            ("sec-fetch-mode", "navigate", false),
            ("sec-fetch-mode", "nested-navigate", false),
            ("sec-fetch-mode", "no-cors", true),
            ("sec-fetch-mode", "cors", true),
            ("sec-fetch-dest", "iframe", false),
            ("sec-fetch-dest", "image", true),
            ("sec-fetch-dest", "empty", true),
            ("sec-fetch-site", "none", false),
        ] {
            let expected = NOTHING.with(Marks::FETCH_METADATA, true).with(Marks::NO_NAVIGATION, other);
            assert_eq!(marks(Version::HTTP_11, false, &[(header, value)]), expected, "{header}: {value}");
        }
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_that_it_was_tls_and_forgiven_its_own_version() {
        let forwarded = [("X-Forwarded-Proto", "HTTPS")];
        assert_eq!(marks(Version::HTTP_10, true, &forwarded), NOTHING.with(Marks::TLS, true));
        assert_eq!(marks(Version::HTTP_10, false, &forwarded), NOTHING.with(Marks::HTTP_1_0, true));
        assert_eq!(marks(Version::HTTP_11, true, &[("X-Forwarded-Proto", "http")]), NOTHING);
    }
}
