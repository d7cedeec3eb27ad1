//! What can come of a step, as closed sets: the values of labels. `metrics` counts by them.

/// How the edge answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A redirect with an `X-Click-Id`.
    Redirected,
    /// A redirect without one: the journal could not take the click.
    Untracked,
    /// No such link, a paused one, or one that has not started: 404.
    UnknownLink,
    /// The link has expired and sends its visitors nowhere: 410.
    Expired,
    /// A request that the edge does not answer: 401, 403, 405, 414.
    Refused,
    /// `/robots.txt` and the files by which apps claim links.
    Other,
    /// A visit to no link, sent on by its domain and not recorded.
    Orphan,
    /// A limit was reached: 429.
    Limited,
    /// The node is overloaded: 503.
    Shed,
    /// A visit to no link, to be recorded, that the journal could not take: 404.
    UntrackedOrphan,
    /// A visit of `/in` that goes nowhere: 404.
    NoRoute,
    /// A visit of `/in` whose key nobody can check now: 503.
    WardenAway,
    /// A connection too many, under overload, or without a descriptor: 503, and closed.
    TurnedAway,
    /// A connection of an address that has too many: 429, and closed.
    TooMany,
    /// A head that is no HTTP, or too large: 400, 414 or 431.
    Malformed,
}

impl Outcome {
    /// Of each, in their order: its name among the answers, where connections are none, and the class of its status.
    pub(super) const KINDS: [(Option<&str>, StatusClass); 15] = [
        (Some("redirected"), StatusClass::Redirection),
        (Some("untracked"), StatusClass::Redirection),
        (Some("unknown_link"), StatusClass::UnknownSlug),
        (Some("expired"), StatusClass::ClientError),
        (Some("refused"), StatusClass::ClientError),
        (Some("other"), StatusClass::Success),
        (Some("orphan"), StatusClass::Redirection),
        (Some("limited"), StatusClass::ClientError),
        (Some("shed"), StatusClass::ServerError),
        (Some("untracked"), StatusClass::UnknownSlug),
        (Some("unknown_link"), StatusClass::ClientError),
        (Some("refused"), StatusClass::ServerError),
        (None, StatusClass::ServerError),
        (None, StatusClass::ClientError),
        (None, StatusClass::ClientError),
    ];
}

/// The class of an answer's status, by which rates of errors are reckoned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusClass {
    /// 2xx
    Success,
    /// 3xx
    Redirection,
    /// 4xx, but for the next ones.
    ClientError,
    /// 5xx
    ServerError,
    /// 404 for a slug that is not there: whoever tries slugs makes as many as they like, so they say nothing of the service.
    UnknownSlug,
}

impl StatusClass {
    pub(super) const NAMES: [&str; 5] = ["2xx", "3xx", "4xx", "5xx", "unknown_slug"];
}

/// What decided where a visit of a campaign went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// A rule, by weight.
    Weighted,
    /// A rule, in turn.
    RoundRobin,
    /// A rule, the first of its list.
    Priority,
    /// A rule, by bid.
    HighestBid,
    /// The default destinations.
    Default,
    /// The campaign's fallback.
    Fallback,
    /// The campaign had nothing: the link's own destination; of `/in` its fallback, or nowhere.
    Link,
    /// A cap: the overflow of a rule, or of a destination.
    Overflow,
}

impl Decided {
    pub(super) const NAMES: [&str; 8] =
        ["weighted", "round_robin", "priority", "highest_bid", "default", "fallback", "link", "overflow"];
}

/// What kind of destination a visit was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destined {
    /// One that a rule or the default chose.
    Chosen,
    /// Counted beside another: a destination, a rule or a link that it would have taken was at its cap.
    Capped,
    /// An `overflow_url`.
    Overflow,
    /// The campaign's `fallback_url`.
    Fallback,
    /// The link's own.
    Link,
}

impl Destined {
    pub(super) const NAMES: [&str; 5] = ["chosen", "capped", "overflow", "fallback", "link"];
}

/// How much of a batch was in the store when it was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    None,
    /// Some rows.
    Some,
    /// All of it.
    All,
}

impl Found {
    pub(super) const NAMES: [&str; 3] = ["none", "some", "all"];
}

/// Which limit said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Of a client network.
    Network,
    /// Of a client network, for slugs that are not there.
    Misses,
    /// Of all together.
    Global,
    /// Of a link.
    Link,
    /// Of a key.
    Key,
    /// Of the connections of an address.
    Connections,
}

impl Limit {
    pub(super) const NAMES: [&str; 6] = ["network", "misses", "global", "link", "key", "connections"];

    /// Its name in metrics and in `RateLimit`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// A dependency with a breaker in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarded {
    /// What labels clicks.
    Dedup,
    /// Where clicks are kept.
    Store,
    /// Who checks keys elsewhere.
    Warden,
}

impl Guarded {
    pub(super) const NAMES: [&str; 3] = ["dedup", "store", "warden"];

    /// Its name in health and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}
