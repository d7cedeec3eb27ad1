//! Destinations with macros: parsed when a link or a campaign is saved, spliced when a link is followed.
//!
//! ```text
//! {name}   {name:raw}   {name:hash}   {name:default=text}   {name:raw:hash:default=text}
//! ```
//! A macro may stand behind the host only. Its value is percent-encoded down to RFC 3986's unreserved characters
//! ([`query::encode_value`]), so no value can change scheme, host or port, end its parameter or segment, nor end the
//! header line. Modifiers stand in this order, each once at most:
//!
//! - `:raw` takes a parameter as it stands in the visitor's query, not decoded, and any value as one that may be encoded
//!   already ([`query::encode_as_sent`]): `+`, `%2B` and the like stay as they were sent. What could end a segment, a
//!   parameter or a header is encoded as ever.
//! - `:hash` writes the SHA-256 of the value (with `:raw`: of the value as it was sent) in 64 hex digits, lower case. It
//!   has no key: who knows what a value may be can find out which one it was. An empty value has no hash: it stays empty.
//! - `:default=text` is written instead of an empty value: as it is, not hashed, percent-encoded as a value is. A percent
//!   escape in it stands for its byte, so `%7D` is a brace and `%20` a space.
//!
//! **The path.** A value cannot hold a slash. But browsers take a segment `.` or `..` (also `%2E`) for a step up, and an
//! empty value at the root would make the path begin with `//`. So a segment that macros make one of those is left empty,
//! and of the slashes at the beginning only those stay that the operator wrote there. Checked after the splice, and only
//! where a macro stands in the path.
//!
//! Bounds: [`MACROS_MAX`] of a destination; a referrer and a user agent as long as the click keeps them.

#[cfg(test)]
mod chance_tests;
mod names;
mod parse;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use sha2::{Digest as _, Sha256};

use super::campaign::Local;
use super::condition::Needs;
use super::query;
use super::{ClickId, Visit};
use names::Name;

/// Macros of one destination.
pub const MACROS_MAX: usize = 50;
/// Length of the name in `{q:name}`, its percent-escapes decoded.
pub const PARAMETER_BYTES_MAX: usize = 64;

/// The macros that a `url` may hold, for messages and docs.
pub const MACROS: &str = "{click_id}, {external_click_id}, {campaign}, {link} (or {slug}), {rule}, {variant}, {source}, \
    {sub1} to {sub10}, {country}, {region}, {city}, {asn}, {device}, {os}, {browser}, {language}, {ts}, {ts_ms}, {date}, {referrer}, \
    {referrer_domain}, {ip}, {user_agent}, {q:name}";

/// The modifiers that a macro may have, likewise.
pub const MODIFIERS: &str = "there are `:raw`, `:hash` and `:default=text`";

/// A checked destination URL, cut at its macros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Up to the fragment: where a forwarded query is appended.
    main: Box<[Part]>,
    /// From the `#` on; usually empty.
    fragment: Box<[Part]>,
    has_query: bool,
    /// Where the path begins, when a macro stands in it: its last slash that no value can take.
    root: Option<usize>,
    needs: Needs,
    id_can_be_cut: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    /// A macro without modifiers.
    Plain(Name),
    /// Boxed: few have any, and each link in memory pays for the largest part.
    Modified(Box<Modified>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Modified {
    name: Name,
    raw: bool,
    hash: bool,
    /// Encoded; empty for none.
    default: Box<[u8]>,
}

/// What the macros may draw on. What [`Template::needs`] does not name may be missing.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// Ours; none in the destination where the journal could not take the click.
    pub click_id: Option<ClickId>,
    /// The advertiser's, decoded.
    pub external_click_id: &'a [u8],
    /// Of the link; may be empty.
    pub campaign: &'a str,
    /// The link's slug.
    pub link: &'a str,
    /// The rule that decided; empty when none did.
    pub rule: &'a str,
    /// The destination that it chose; empty for the link's own.
    pub variant: &'a str,
    /// Time of the click, Unix milliseconds.
    pub unix_ms: u64,
    /// The request.
    pub visit: &'a Visit<'a>,
    /// What privacy leaves of the address.
    pub address: Option<IpAddr>,
    /// Of the address: [`Needs::PLACE`].
    pub country: Option<[u8; 2]>,
    /// Of the address, as the next one: [`Needs::CITY`].
    pub region: &'a str,
    /// English name.
    pub city: &'a str,
    /// Of the address: [`Needs::ASN`]; 0 when not known.
    pub asn: u32,
    /// Of the user agent, as the next two: [`Needs::AGENT`].
    pub device: &'a str,
    /// System.
    pub os: &'a str,
    /// Family.
    pub browser: &'a str,
    /// In the campaign's zone: [`Needs::TIME`].
    pub local: Option<Local>,
}

impl<'a> Values<'a> {
    /// Those of a visit of which nothing else is known.
    #[must_use]
    pub const fn of(visit: &'a Visit<'a>) -> Self {
        Self {
            click_id: None,
            external_click_id: b"",
            campaign: "",
            link: "",
            rule: "",
            variant: "",
            unix_ms: 0,
            visit,
            address: None,
            country: None,
            region: "",
            city: "",
            asn: 0,
            device: "",
            os: "",
            browser: "",
            local: None,
        }
    }
}

impl Template {
    /// Parses and checks a destination.
    ///
    /// # Errors
    /// A sentence that says what is wrong: an unknown macro or modifier, a brace that is no macro, a macro before the
    /// path, no http(s) URL, no host, user information, a control character or a backslash.
    pub fn parse(text: &str) -> Result<(Self, url::Url), String> {
        parse::parse(text)
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
                Part::Plain(_) | Part::Modified(_) => None,
            })
            .collect();
        texts.map(|t| t.concat())
    }

    /// What must be known of a visit before it can be spliced.
    #[must_use]
    pub const fn needs(&self) -> Needs {
        self.needs
    }

    /// Whether the id of a click may simply be taken out of the spliced destination: it stands there as it is, without
    /// modifiers, and not in the path. Else a destination without it must be spliced for itself.
    #[must_use]
    pub const fn id_can_be_cut(&self) -> bool {
        self.id_can_be_cut
    }

    /// Appends the destination of this visit. `forward` adds the visitor's whole query behind the destination's own.
    /// The result is ASCII without controls: fit for a header.
    pub fn splice(&self, values: &Values<'_>, forward: bool, out: &mut Vec<u8>) {
        let start = out.len();
        splice_parts(&self.main, values, out);
        if let Some(root) = self.root {
            settle_path(out, start + root);
        }
        if forward && !values.visit.query.is_empty() {
            out.push(if self.has_query { b'&' } else { b'?' });
            query::append_query(values.visit.query, out);
        }
        splice_parts(&self.fragment, values, out);
    }
}

impl Part {
    const fn name(&self) -> Option<&Name> {
        match self {
            Self::Text(_) => None,
            Self::Plain(name) => Some(name),
            Self::Modified(modified) => Some(&modified.name),
        }
    }

    fn needs(&self) -> Needs {
        self.name().map_or(Needs::NOTHING, Name::needs)
    }

    const fn is_click_id(&self) -> bool {
        matches!(self.name(), Some(Name::ClickId))
    }
}

impl Modified {
    fn splice(&self, values: &Values<'_>, out: &mut Vec<u8>) {
        let room = &mut [0; _];
        let value = self.name.value(values, self.raw, room);
        if value.is_empty() {
            out.extend_from_slice(&self.default);
        } else if self.hash {
            push_hash(&value, out);
        } else if self.raw {
            query::encode_as_sent(&value, out);
        } else {
            query::encode_value(&value, out);
        }
    }
}

fn splice_parts(parts: &[Part], values: &Values<'_>, out: &mut Vec<u8>) {
    for part in parts {
        match part {
            Part::Text(text) => out.extend_from_slice(text.as_bytes()),
            // The usual ones need no encoding.
            Part::Plain(Name::ClickId) => {
                if let Some(id) = values.click_id {
                    out.extend_from_slice(id.hyphenated(&mut [0; 36]).as_bytes());
                }
            }
            Part::Plain(Name::ExternalClickId) => query::encode_value(values.external_click_id, out),
            Part::Plain(Name::Ts) => push_number(values.unix_ms / 1000, out),
            Part::Plain(name) => query::encode_value(&name.value(values, false, &mut [0; _]), out),
            Part::Modified(modified) => modified.splice(values, out),
        }
    }
}

/// Makes of the path behind the slash at `root` what it is to a browser: nothing that steps up, and no slash at once.
fn settle_path(out: &mut Vec<u8>, root: usize) {
    let first = root + 1;
    let end = out[first..].iter().position(|byte| *byte == b'?').map_or(out.len(), |at| first + at);
    let path = &out[first..end];
    if !path.starts_with(b"/") && !path.split(|byte| *byte == b'/').any(steps) {
        return;
    }
    let mut settled = Vec::with_capacity(path.len());
    for segment in path.split(|byte| *byte == b'/') {
        if !settled.is_empty() {
            settled.push(b'/');
        }
        if !steps(segment) {
            settled.extend_from_slice(segment);
        }
    }
    out.splice(first..end, settled);
}

/// Whether this segment is `.` or `..`, also with escapes.
fn steps(segment: &[u8]) -> bool {
    let behind_a_dot = |text: &'_ [u8]| -> Option<usize> {
        let dots = [&b"."[..], b"%2E", b"%2e"];
        dots.iter().find(|dot| text.starts_with(dot)).map(|dot| dot.len())
    };
    let Some(one) = behind_a_dot(segment) else { return false };
    let rest = &segment[one..];
    rest.is_empty() || behind_a_dot(rest) == Some(rest.len())
}

fn push_hash(value: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for byte in Sha256::digest(value) {
        out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
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
