//! Domains: the host names that visitors ask. A link belongs to one of them or to any, and a domain may say where visits
//! go that are to no link.

use std::borrow::Cow;

use serde_json::Value;

use super::Org;
use super::document::{Misfit, Misfits, Object};
use super::life::Afterlife;
use super::link::{OwnHosts, RESERVED_SLUGS, check_url};

/// In the place of a domain: any, and in a click one that is not in use here.
pub const ANY: &str = "*";
/// In the place of a slug, in a click: the visit was to no link. No slug has this character.
pub const NO_LINK: &str = "/";
/// Variant of a visit to `/`.
pub const ROOT: &str = "root";
/// Variant of a visit to a path that is no link's.
pub const UNKNOWN: &str = "unknown";

/// Bytes of a host name (RFC 1035).
const NAME_BYTES_MAX: usize = 253;
/// Bytes between two dots of it.
const LABEL_BYTES_MAX: usize = 63;

/// Where visits go that are to no link, of the visitors of one domain or of any.
#[derive(Clone, Debug, PartialEq)]
pub struct Domain {
    /// A host name in the form of [`check_name`], or [`ANY`].
    pub name: String,
    /// The organisation that it belongs to: links under it are of this one alone.
    pub org: Org,
    /// For visits to `/`.
    pub root: Option<Afterlife>,
    /// For visits to a path that is no link's, or that of one which is paused or has not started.
    pub unknown: Option<Afterlife>,
    /// Whether such visits are recorded.
    pub record_orphans: bool,
    /// The document, as it was checked.
    pub document: Value,
    /// Grows by one with every change; stored with each click.
    pub version: u64,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Unix milliseconds.
    pub updated_ms: u64,
}

impl Domain {
    /// Checks a document. `version` and the times are the caller's to set.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn check(name: &str, document: Value, own: &OwnHosts) -> Result<Self, Vec<Misfit>> {
        let misfits = Misfits::default();
        let domain = read(name, &document, own, &misfits);
        let misfits = misfits.into_all();
        match domain {
            Some(domain) if misfits.is_empty() => Ok(Self { document, ..domain }),
            _ => Err(misfits),
        }
    }
}

fn read(name: &str, document: &Value, own: &OwnHosts, misfits: &Misfits) -> Option<Domain> {
    let object = Object::of(document, String::new(), misfits)?;
    let checked = check_name(name).map_err(|detail| object.wrong("domain", detail)).ok();
    if let (Some(named), Some(checked)) = (object.text("domain"), &checked)
        && check_name(named).as_ref() != Ok(checked)
    {
        object.wrong("domain", format!("is not `{checked}`, as the path says; leave it out, or write the same"));
    }
    let own = &own.and(checked.as_deref());
    let url = |field| {
        let url = object.text(field)?;
        let target = check_url(url, own).map_err(|detail| object.wrong(field, detail)).ok()?;
        Some(Afterlife { url: url.to_owned(), target })
    };
    let (root, unknown) = (url("root_url"), url("unknown_url"));
    let org = object.text("org").map(|name| Org::check(name).map_err(|detail| object.wrong("org", detail)));
    let org = org.and_then(Result::ok).unwrap_or_default();
    if checked.as_deref() == Some(ANY) && org != Org::default() {
        object.wrong("org", "cannot be given `*`, which is of the whole node; leave it out, or name a host");
    }
    let record_orphans = object.truth("record_orphans").unwrap_or_default();
    object.end();
    let name = checked?;
    Some(Domain {
        name,
        org,
        root,
        unknown,
        record_orphans,
        document: Value::Null,
        version: 0,
        created_ms: 0,
        updated_ms: 0,
    })
}

/// A domain as it is compared: a host name in lower case, in ASCII (`xn--`), without a final dot; or [`ANY`].
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_name(text: &str) -> Result<String, String> {
    if text == ANY {
        return Ok(ANY.into());
    }
    let name = match url::Host::parse(text.strip_suffix('.').unwrap_or(text)) {
        Ok(url::Host::Domain(name)) if is_name(&name) => return Ok(name),
        Ok(url::Host::Ipv4(_) | url::Host::Ipv6(_)) => "is an address; give a host name",
        _ if text.contains("://") || text.contains(['/', '?', '#', '@']) => "is a URL; give its host name alone",
        _ if text.contains(':') => "has a port; give the host name alone, it stands for all ports",
        _ if text.contains('*') => "has a `*`; it stands alone for any domain, and subdomains are named one by one",
        _ => "is no host name",
    };
    Err(format!("{:?} {name}, such as go.example, or `*` for any", text.chars().take(80).collect::<String>()))
}

/// What DNS can have, and `_`, which some do.
fn is_name(name: &str) -> bool {
    let fits = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
    };
    name.len() <= NAME_BYTES_MAX && name.split('.').all(fits)
}

/// The host of an authority (`Host`), in lower case, without port, without brackets and final dot. Empty when it is none,
/// or longer than any. Copies only what has capitals.
#[must_use]
pub fn host(authority: &[u8]) -> Cow<'_, str> {
    let Ok(text) = std::str::from_utf8(authority) else { return Cow::default() };
    let text = text.trim_matches([' ', '\t']);
    let host = match text.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => text.split(':').next().unwrap_or_default(),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.len() > NAME_BYTES_MAX {
        Cow::default()
    } else if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// Whether a path that is no link's (without the `/` before it) is one that programs ask of every host: never sent on, and
/// not recorded.
#[must_use]
pub fn is_reserved(path: &str) -> bool {
    RESERVED_SLUGS.contains(&path.split('/').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_domain_is_kept_as_it_is_compared() {
        for (text, expected) in [
            ("*", "*"),
            ("go.example", "go.example"),
            ("GO.Example.", "go.example"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("localhost", "localhost"),
            ("a_b.example", "a_b.example"),
        ] {
            assert_eq!(check_name(text).as_deref(), Ok(expected), "{text}");
        }
        let (long, label) = ("a.".repeat(127) + "b", "x".repeat(64) + ".example");
        for (bad, told) in [
            ("", "no host name"),
            ("go.example:80", "has a port"),
            ("https://go.example", "is a URL"),
            ("go.example/a", "is a URL"),
            ("*.go.example", "has a `*`"),
            ("127.0.0.1", "is an address"),
            ("[2001:db8::1]", "is an address"),
            ("a..b", "no host name"),
            ("..", "no host name"),
            ("a b", "no host name"),
            ("a!b", "no host name"),
            ("xn--a", "no host name"),
            (&long, "no host name"),
            (&label, "no host name"),
        ] {
            let error = check_name(bad).unwrap_err();
            assert!(error.contains(told), "{bad}: {error}");
        }
    }

    #[test]
    fn a_host_is_read_without_what_does_not_name_it() {
        for (authority, expected) in [
            ("go.example", "go.example"),
            ("go.example:8080", "go.example"),
            ("Go.EXAMPLE.:443", "go.example"),
            ("[2001:DB8::1]:8080", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("192.0.2.1:80", "192.0.2.1"),
            (" go.example ", "go.example"),
            (":80", ""),
            (".", ""),
            ("", ""),
        ] {
            assert_eq!(host(authority.as_bytes()), expected, "{authority}");
        }
        assert_eq!((host(b"\xff.example").as_ref(), host(&[b'a'; 254]).as_ref()), ("", ""));
        assert!(matches!(host(b"go.example:80"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_document_says_where_visits_go_and_all_its_faults_are_told() {
        let own = OwnHosts { hosts: vec!["own.example".into()], ..OwnHosts::default() };
        let document = json!({"domain": "Go.Example", "root_url": "https://a.example/", "record_orphans": true});
        let domain = Domain::check("go.example", document.clone(), &own).unwrap();
        assert_eq!((domain.name.as_str(), domain.record_orphans, &domain.document), ("go.example", true, &document));
        assert_eq!(domain.root.unwrap().url, "https://a.example/");
        assert!(domain.unknown.is_none() && Domain::check("*", json!({}), &own).is_ok());
        let wrong = json!({
            "domain": "b.example", "root_url": "https://own.example/", "unknown_url": "http://GO.example:99/{slug}",
            "record_orphans": 1, "more": null,
        });
        let faults = Domain::check("go.example", wrong, &own).unwrap_err();
        let told: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(told, ["/domain", "/root_url", "/unknown_url", "/record_orphans", "/more"]);
        assert!(faults[1].detail.contains("loop") && faults[2].detail.contains("loop"), "{faults:?}");
        let faults = Domain::check("go.example:80", json!({"root_url": 5}), &own).unwrap_err();
        assert!(faults.len() == 2 && faults[0].detail.contains("has a port"), "{faults:?}");
    }

    #[test]
    fn what_every_host_is_asked_for_is_no_orphan() {
        let paths = ["favicon.ico", ".well-known/x", "robots.txt", "", "a", "a/in"];
        assert_eq!(paths.map(is_reserved), [true, true, true, false, false, false]);
    }
}
