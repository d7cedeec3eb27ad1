//! The macros, each once: their names, what they need of a visit, and their values.

use std::borrow::Cow;
use std::io::Write as _;

use super::Values;
use crate::click::condition::Needs;
use crate::click::frame::{REFERRER_BYTES_MAX, UA_BYTES_MAX};
use crate::click::{facts, query};

/// What a macro stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    ClickId,
    ExternalClickId,
    Campaign,
    Link,
    Rule,
    Variant,
    Country,
    Region,
    City,
    Asn,
    Device,
    Os,
    Browser,
    Language,
    Ts,
    TsMs,
    Date,
    Referrer,
    ReferrerDomain,
    Ip,
    UserAgent,
    /// The parameter of this name.
    Query(Box<str>),
}

/// Parameters that are macros under their own names.
const PARAMETERS: [&str; 11] =
    ["source", "sub1", "sub2", "sub3", "sub4", "sub5", "sub6", "sub7", "sub8", "sub9", "sub10"];

/// Room for what is spelled from numbers; the longest is an address of 45 characters.
pub(super) type Room = [u8; 48];

impl Name {
    /// All but `{q:name}`.
    pub(super) fn find(word: &str) -> Option<Self> {
        Some(match word {
            "click_id" => Self::ClickId,
            "external_click_id" => Self::ExternalClickId,
            "campaign" => Self::Campaign,
            "link" | "slug" => Self::Link,
            "rule" => Self::Rule,
            "variant" => Self::Variant,
            "country" => Self::Country,
            "region" => Self::Region,
            "city" => Self::City,
            "asn" => Self::Asn,
            "device" => Self::Device,
            "os" => Self::Os,
            "browser" => Self::Browser,
            "language" => Self::Language,
            "ts" => Self::Ts,
            "ts_ms" => Self::TsMs,
            "date" => Self::Date,
            "referrer" => Self::Referrer,
            "referrer_domain" => Self::ReferrerDomain,
            "ip" => Self::Ip,
            "user_agent" => Self::UserAgent,
            _ if PARAMETERS.contains(&word) => Self::Query(word.into()),
            _ => return None,
        })
    }

    pub(super) const fn needs(&self) -> Needs {
        match self {
            Self::Country => Needs::PLACE,
            Self::Region | Self::City => Needs::CITY,
            Self::Asn => Needs::ASN,
            Self::Device | Self::Os | Self::Browser => Needs::AGENT,
            Self::Date => Needs::TIME,
            _ => Needs::NOTHING,
        }
    }

    /// The value, not encoded; empty when there is none. `as_sent`: a parameter is not decoded either.
    pub(super) fn value<'v>(&self, values: &'v Values<'_>, as_sent: bool, room: &'v mut Room) -> Cow<'v, [u8]> {
        let visit = values.visit;
        let parameter = |name: &str| -> Cow<'v, [u8]> {
            if as_sent {
                Cow::Borrowed(query::find_as_sent(visit.query, name).unwrap_or_default().as_bytes())
            } else {
                query::find(visit.query, name).unwrap_or_default()
            }
        };
        match self {
            Self::ClickId => values.click_id.map_or_else(Cow::default, |id| spelled(room, format_args!("{id}"))),
            Self::ExternalClickId if as_sent => parameter("click_id"),
            Self::ExternalClickId => values.external_click_id.into(),
            Self::Campaign => values.campaign.as_bytes().into(),
            Self::Link => values.link.as_bytes().into(),
            Self::Rule => values.rule.as_bytes().into(),
            Self::Variant => values.variant.as_bytes().into(),
            Self::Country => values.country.as_ref().map_or(&b""[..], |code| code).into(),
            Self::Region => values.region.as_bytes().into(),
            Self::City => values.city.as_bytes().into(),
            Self::Asn if values.asn == 0 => Cow::default(),
            Self::Asn => spelled(room, format_args!("{}", values.asn)),
            Self::Device => values.device.as_bytes().into(),
            Self::Os => values.os.as_bytes().into(),
            Self::Browser => values.browser.as_bytes().into(),
            Self::Language => bytes(facts::first_language(visit.language)),
            Self::Ts => spelled(room, format_args!("{}", values.unix_ms / 1000)),
            Self::TsMs => spelled(room, format_args!("{}", values.unix_ms)),
            Self::Date => values.local.map_or_else(Cow::default, |local| spelled(room, format_args!("{local}"))),
            Self::Referrer => cut(visit.referrer, REFERRER_BYTES_MAX).into(),
            Self::ReferrerDomain => bytes(facts::domain(visit.referrer)),
            Self::Ip => values.address.map_or_else(Cow::default, |address| spelled(room, format_args!("{address}"))),
            Self::UserAgent => cut(visit.ua, UA_BYTES_MAX).into(),
            Self::Query(name) => parameter(name),
        }
    }
}

fn spelled<'v>(room: &'v mut Room, what: std::fmt::Arguments<'_>) -> Cow<'v, [u8]> {
    let mut rest = &mut room[..];
    // What does not fit is cut; everything fits.
    let _ = rest.write_fmt(what);
    let left = rest.len();
    Cow::Borrowed(&room[..room.len() - left])
}

fn bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

/// As much as the click keeps.
fn cut(text: &[u8], most: usize) -> &[u8] {
    &text[..text.len().min(most)]
}
