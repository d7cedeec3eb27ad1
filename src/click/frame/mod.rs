//! The one encoding of a click, from the edge through journal and queue to the worker.
//!
//! ```text
//! offset  size  field
//!      0     1  version (3; 4 with a window)
//!      1     1  flags: 1 HEAD, 2 prefetch, 4 fingerprint, 8 IPv4, 16 IPv6, 32 country, 64 bound
//!      2     2  status of the answer
//!      4     8  route_version
//!     12    16  click_id
//!     28     1  marks (128: the node's own prober; unknown to programs of before, which see a click of its agent)
//!             16  fingerprint, if flag 4
//!              4  window for duplicates in seconds, in version 4 alone
//!         4 or 16  address after privacy, if flag 8 or 16; with both its hash, 16
//!              2  country, if flag 32 (found on the edge because privacy leaves no network)
//!              1  privacy: 0 full, 1 limited, 2 none; 4 agent (likewise, because it leaves no ua), 8 sends fetch metadata
//!              4  if privacy has 4: two sets of reasons, u16 each: found, enforced
//!                 3 times, if privacy has 4: length u8, bytes: device, os, browser
//!    then 12 times: length u16, bytes: org, campaign, domain, link, path, rule, variant, destination, referrer, ua,
//!                   language, query
//! ```
//! A click without a window of its own is of version 3, so that the version before reads all others.
//! Version 2 has neither domain nor path, and version 1 no marks, privacy, rule and variant either; both are still read.
//! All numbers are little-endian. What a reader can derive again (external click id, parameters, agent) is not in it.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::class::AgentReasons;
use super::dedup::Window;
use super::privacy::{Agent, Level, Privacy};
use super::{ClickId, Fingerprint, Kept, Marks, Reasons, domain};

/// Bytes kept of a user agent, and of an Accept-Language.
pub const UA_BYTES_MAX: usize = 512;
/// Bytes kept of a Referer.
pub const REFERRER_BYTES_MAX: usize = 1024;
/// Bytes kept of the path of a visit to no link.
pub const PATH_BYTES_MAX: usize = 256;
/// The longest frame: the fixed part, three names of 255 bytes and twelve texts of 65,535.
pub const FRAME_BYTES_MAX: usize = 72 + 3 * (1 + u8::MAX as usize) + 12 * (2 + u16::MAX as usize);

/// With a window.
const VERSION_4: u8 = 4;
const VERSION: u8 = 3;
/// Without domain and path.
const VERSION_2: u8 = 2;
/// Without marks, privacy, rule and variant either.
const VERSION_1: u8 = 1;
const CLICK_ID_AT: usize = 12;
const HEAD: u8 = 1;
const PREFETCH: u8 = 2;
const FINGERPRINT: u8 = 4;
const IPV4: u8 = 8;
const IPV6: u8 = 16;
/// Of the address; in frames of before no two of them are set.
const HASH: u8 = IPV4 | IPV6;
const COUNTRY: u8 = 32;
const BOUND: u8 = 64;
/// Of the byte for privacy, above the level.
const AGENT: u8 = 4;
const SENDS_FETCH_METADATA: u8 = 8;

/// One recorded visit to a link, borrowed: on the edge from the request, in the worker from the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Click<'a> {
    /// Ours; carries the time.
    pub id: ClickId,
    /// What the deduper compares; absent where privacy forbids it.
    pub fingerprint: Option<Fingerprint>,
    /// What its campaign says instead of `dedup.window`.
    pub window: Option<Window>,
    /// The method was HEAD.
    pub head: bool,
    /// Fetched ahead of a click.
    pub prefetch: bool,
    /// The link belongs to the domain that was asked.
    pub bound: bool,
    /// What the edge saw in headers that are not kept.
    pub marks: Marks,
    /// Status of the answer.
    pub status: u16,
    /// Version of the link or the campaign that decided; 0 for the fallback of `/in`.
    pub route_version: u64,
    /// What privacy leaves of the address.
    pub address: Option<Kept>,
    /// ISO 3166-1 alpha-2, only where privacy leaves no network to look it up by.
    pub country: Option<[u8; 2]>,
    /// What privacy took away.
    pub privacy: Privacy<'a>,
    /// Organisation.
    pub org: &'a str,
    /// Campaign of the link, or the one that `/in` went by; may be empty.
    pub campaign: &'a str,
    /// The host that was asked, where it is a domain in use; [`ANY`](domain::ANY) for all others.
    pub domain: &'a str,
    /// Slug; empty for `/in`, [`NO_LINK`](domain::NO_LINK) for a visit to no link.
    pub link: &'a str,
    /// The path of a visit to no link, cut to [`PATH_BYTES_MAX`]; else empty.
    pub path: &'a [u8],
    /// Rule of the campaign that decided; empty when none did.
    pub rule: &'a str,
    /// The destination that it chose, by name; empty for the link's own.
    pub variant: &'a str,
    /// Where the visitor was sent.
    pub destination: &'a [u8],
    /// `Referer`, cut to [`REFERRER_BYTES_MAX`].
    pub referrer: &'a [u8],
    /// `User-Agent`, cut to [`UA_BYTES_MAX`].
    pub ua: &'a [u8],
    /// `Accept-Language`, cut to [`UA_BYTES_MAX`].
    pub language: &'a [u8],
    /// Query string as received.
    pub query: &'a str,
}

impl<'a> Click<'a> {
    /// Appends the frame. A text over 65,535 bytes is cut there; the edge's limits lie far below.
    pub fn encode(&self, out: &mut impl bytes::BufMut) {
        let flag = |holds: bool, bit: u8| if holds { bit } else { 0 };
        let flags = flag(self.head, HEAD)
            | flag(self.prefetch, PREFETCH)
            | flag(self.fingerprint.is_some(), FINGERPRINT)
            | match self.address {
                Some(Kept::Network(IpAddr::V4(_))) => IPV4,
                Some(Kept::Network(IpAddr::V6(_))) => IPV6,
                Some(Kept::Hash(_)) => HASH,
                None => 0,
            }
            | flag(self.country.is_some(), COUNTRY)
            | flag(self.bound, BOUND);
        out.put_u8(if self.window.is_some() { VERSION_4 } else { VERSION });
        out.put_u8(flags);
        out.put_u16_le(self.status);
        out.put_u64_le(self.route_version);
        out.put_slice(self.id.as_bytes());
        out.put_u8(self.marks.bits());
        if let Some(fingerprint) = &self.fingerprint {
            out.put_slice(&fingerprint.0);
        }
        if let Some(window) = self.window {
            out.put_u32_le(window.seconds());
        }
        match self.address {
            Some(Kept::Network(IpAddr::V4(v4))) => out.put_slice(&v4.octets()),
            Some(Kept::Network(IpAddr::V6(v6))) => out.put_slice(&v6.octets()),
            Some(Kept::Hash(hash)) => out.put_slice(&hash),
            None => {}
        }
        if let Some(country) = &self.country {
            out.put_slice(country);
        }
        put_privacy(&self.privacy, out);
        for (text, most) in [
            (self.org.as_bytes(), usize::MAX),
            (self.campaign.as_bytes(), usize::MAX),
            (self.domain.as_bytes(), usize::MAX),
            (self.link.as_bytes(), usize::MAX),
            (self.path, PATH_BYTES_MAX),
            (self.rule.as_bytes(), usize::MAX),
            (self.variant.as_bytes(), usize::MAX),
            (self.destination, usize::MAX),
            (self.referrer, REFERRER_BYTES_MAX),
            (self.ua, UA_BYTES_MAX),
            (self.language, UA_BYTES_MAX),
            (self.query.as_bytes(), usize::MAX),
        ] {
            let length = text.len().min(most).min(usize::from(u16::MAX));
            out.put_u16_le(u16::try_from(length).unwrap_or(u16::MAX));
            out.put_slice(&text[..length]);
        }
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// What does not fit: an unknown version, a frame that ends early or late, a name that is not UTF-8.
    pub fn decode(frame: &'a [u8]) -> Result<Self, BadFrame> {
        let mut rest = frame;
        let [version, flags] = take(&mut rest)?;
        if !matches!(version, VERSION_4 | VERSION | VERSION_2 | VERSION_1) {
            return Err(BadFrame::Version(version));
        }
        let status = u16::from_le_bytes(take(&mut rest)?);
        let route_version = u64::from_le_bytes(take(&mut rest)?);
        let id = ClickId::from_bytes(take(&mut rest)?);
        let [marks] = if version == VERSION_1 { [0] } else { take(&mut rest)? };
        let has = |bit: u8| flags & bit != 0;
        let fingerprint = if has(FINGERPRINT) { Some(Fingerprint(take(&mut rest)?)) } else { None };
        let window = if version == VERSION_4 { Some(take_window(&mut rest)?) } else { None };
        let address = match flags & HASH {
            IPV4 => Some(Ipv4Addr::from(take::<4>(&mut rest)?).into()),
            IPV6 => Some(Ipv6Addr::from(take::<16>(&mut rest)?).into()),
            HASH => Some(Kept::Hash(take(&mut rest)?)),
            _ => None,
        };
        let country = if has(COUNTRY) { Some(take(&mut rest)?) } else { None };
        let privacy = if version == VERSION_1 { Privacy::default() } else { take_privacy(&mut rest)? };
        let click = Self {
            id,
            fingerprint,
            window,
            head: has(HEAD),
            prefetch: has(PREFETCH),
            bound: version >= VERSION && has(BOUND),
            marks: Marks::from_bits(marks),
            status,
            route_version,
            address,
            country,
            privacy,
            org: name(&mut rest)?,
            campaign: name(&mut rest)?,
            domain: if version < VERSION { domain::ANY } else { name(&mut rest)? },
            link: name(&mut rest)?,
            path: if version < VERSION { b"" } else { text(&mut rest)? },
            rule: if version == VERSION_1 { "" } else { name(&mut rest)? },
            variant: if version == VERSION_1 { "" } else { name(&mut rest)? },
            destination: text(&mut rest)?,
            referrer: text(&mut rest)?,
            ua: text(&mut rest)?,
            language: text(&mut rest)?,
            query: name(&mut rest)?,
        };
        if rest.is_empty() { Ok(click) } else { Err(BadFrame::Length) }
    }

    /// The advertiser's id: the decoded `click_id` parameter; empty when there is none.
    #[must_use]
    pub fn external_click_id(&self) -> std::borrow::Cow<'a, [u8]> {
        super::query::find(self.query, "click_id").unwrap_or_default()
    }
}

/// What a click keeps of a user agent: the edge goes by no more than the worker will see.
#[must_use]
pub fn kept_ua(ua: &[u8]) -> &[u8] {
    ua.get(..UA_BYTES_MAX).unwrap_or(ua)
}

/// The id of a frame's click, without decoding the rest; `None` when it is too short to have one.
#[must_use]
pub fn click_id(frame: &[u8]) -> Option<ClickId> {
    let id = frame.get(CLICK_ID_AT..CLICK_ID_AT + 16)?;
    Some(ClickId::from_bytes(id.try_into().ok()?))
}

/// The time of a frame's click, likewise.
#[must_use]
pub fn unix_ms(frame: &[u8]) -> Option<u64> {
    click_id(frame).map(|id| id.unix_ms())
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// A version that this program does not know.
    #[error("frame version {0} is unknown")]
    Version(u8),
    /// A level that this program does not know.
    #[error("frame has the privacy {0}, which is unknown")]
    Privacy(u8),
    /// A window for duplicates, in seconds, that no campaign can say.
    #[error("frame has a window of {0} s, which is none")]
    Window(u32),
    /// It ends before or behind its last field.
    #[error("frame has the wrong length")]
    Length,
    /// A name is not UTF-8.
    #[error("frame holds a name that is not UTF-8")]
    Text,
}

/// Names over 255 bytes are cut there; ours have twenty at most.
fn put_privacy(privacy: &Privacy<'_>, out: &mut impl bytes::BufMut) {
    let level = privacy.level as u8;
    let Some(agent) = &privacy.agent else { return out.put_u8(level) };
    let AgentReasons { found, enforced, sends_fetch_metadata } = agent.reasons;
    out.put_u8(level | AGENT | if sends_fetch_metadata { SENDS_FETCH_METADATA } else { 0 });
    out.put_u16_le(found.bits());
    out.put_u16_le(enforced.bits());
    for name in [agent.device, agent.os, agent.browser] {
        let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
        out.put_u8(length);
        out.put_slice(&name.as_bytes()[..usize::from(length)]);
    }
}

fn take_privacy<'a>(rest: &mut &'a [u8]) -> Result<Privacy<'a>, BadFrame> {
    let [bits] = take(rest)?;
    let level = Level::ALL.get(usize::from(bits & (AGENT - 1))).ok_or(BadFrame::Privacy(bits))?;
    let agent = match bits & !(AGENT - 1) {
        0 => None,
        flags if flags & !SENDS_FETCH_METADATA == AGENT => Some(Agent {
            reasons: AgentReasons {
                found: Reasons::from_bits(u16::from_le_bytes(take(rest)?)),
                enforced: Reasons::from_bits(u16::from_le_bytes(take(rest)?)),
                sends_fetch_metadata: flags & SENDS_FETCH_METADATA != 0,
            },
            device: short_name(rest)?,
            os: short_name(rest)?,
            browser: short_name(rest)?,
        }),
        _ => return Err(BadFrame::Privacy(bits)),
    };
    Ok(Privacy { level: *level, agent })
}

fn take_window(rest: &mut &[u8]) -> Result<Window, BadFrame> {
    let seconds = u32::from_le_bytes(take(rest)?);
    Window::of_seconds(seconds).ok_or(BadFrame::Window(seconds))
}

fn short_name<'a>(rest: &mut &'a [u8]) -> Result<&'a str, BadFrame> {
    let [length] = take(rest)?;
    let (head, tail) = rest.split_at_checked(usize::from(length)).ok_or(BadFrame::Length)?;
    *rest = tail;
    std::str::from_utf8(head).map_err(|_| BadFrame::Text)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], BadFrame> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(BadFrame::Length)?;
    *rest = tail;
    Ok(*head)
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], BadFrame> {
    let length = usize::from(u16::from_le_bytes(take(rest)?));
    let (head, tail) = rest.split_at_checked(length).ok_or(BadFrame::Length)?;
    *rest = tail;
    Ok(head)
}

fn name<'a>(rest: &mut &'a [u8]) -> Result<&'a str, BadFrame> {
    std::str::from_utf8(text(rest)?).map_err(|_| BadFrame::Text)
}
