//! The names that a condition may use, each once.

/// Texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// ISO 3166-1 alpha-2, `DE`.
    Country,
    /// `AF`, `AN`, `AS`, `EU`, `NA`, `OC` or `SA`, of the country.
    Continent,
    /// `desktop`, `mobile`, `tablet`, `tv`, `bot` or `other`.
    Device,
    /// System, `Android`.
    Os,
    /// Family, `Chrome`.
    Browser,
    /// First language of `Accept-Language`, `de`.
    Language,
    /// `Referer` as received.
    Referrer,
    /// Its host, in lower case.
    ReferrerDomain,
    /// The parameter `source`.
    Source,
    /// The parameter `click_id`.
    ExternalClickId,
    /// `2026-11-21`, in the campaign's time zone.
    Date,
    /// `human`, `bot`, `head` or `prefetch`, as far as it is known before the answer.
    Class,
    /// Of the link.
    Slug,
    /// The host that was asked, in lower case and without port.
    Domain,
    /// ISO 3166-2 without the country: `BE`, of the address.
    Region,
    /// English name, of the address: `Berlin`.
    City,
}

/// Whole numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// 0 to 23, in the campaign's time zone.
    Hour,
    /// 1 (Monday) to 7 (Sunday), likewise.
    Weekday,
    /// Of the autonomous system that the address is in: 3320.
    Asn,
}

/// Texts by key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// The parameters, decoded; of a repeated one the first.
    Query,
    /// The headers of the request, by their names in lower case; of a repeated one the first.
    Header,
    /// The cookies.
    Cookie,
}

/// What must be found out about a visit before a condition can be asked, or a destination be spelled: a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs(u8);

impl Needs {
    /// Nothing but the request itself.
    pub const NOTHING: Self = Self(0);
    /// The user agent, looked up.
    pub const AGENT: Self = Self(1);
    /// The country of the address.
    pub const PLACE: Self = Self(2);
    /// Date and time in the campaign's zone.
    pub const TIME: Self = Self(4);
    /// Region and city of the address.
    pub const CITY: Self = Self(8);
    /// The autonomous system of the address.
    pub const ASN: Self = Self(16);

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in it and not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` is in it.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Text(Text),
    Number(Number),
    Map(Map),
    IsBot,
    Address,
    Tags,
}

/// All names, with what they stand for and what they need.
pub(super) const NAMES: [(&str, Meaning, Needs); 25] = {
    use Meaning as M;
    const NOTHING: Needs = Needs::NOTHING;
    [
        ("country", M::Text(Text::Country), Needs::PLACE),
        ("continent", M::Text(Text::Continent), Needs::PLACE),
        ("region", M::Text(Text::Region), Needs::CITY),
        ("city", M::Text(Text::City), Needs::CITY),
        ("asn", M::Number(Number::Asn), Needs::ASN),
        ("device", M::Text(Text::Device), Needs::AGENT),
        ("os", M::Text(Text::Os), Needs::AGENT),
        ("browser", M::Text(Text::Browser), Needs::AGENT),
        ("language", M::Text(Text::Language), NOTHING),
        ("referrer", M::Text(Text::Referrer), NOTHING),
        ("referrer_domain", M::Text(Text::ReferrerDomain), NOTHING),
        ("source", M::Text(Text::Source), NOTHING),
        ("external_click_id", M::Text(Text::ExternalClickId), NOTHING),
        ("date", M::Text(Text::Date), Needs::TIME),
        ("class", M::Text(Text::Class), Needs::AGENT),
        ("slug", M::Text(Text::Slug), NOTHING),
        ("domain", M::Text(Text::Domain), NOTHING),
        ("hour", M::Number(Number::Hour), Needs::TIME),
        ("weekday", M::Number(Number::Weekday), Needs::TIME),
        ("query", M::Map(Map::Query), NOTHING),
        ("header", M::Map(Map::Header), NOTHING),
        ("cookie", M::Map(Map::Cookie), NOTHING),
        ("is_bot", M::IsBot, Needs::AGENT),
        ("ip", M::Address, NOTHING),
        ("tags", M::Tags, NOTHING),
    ]
};
