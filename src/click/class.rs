//! Who clicked. Everything is recorded and labelled; nothing is dropped.

/// What kind of client made the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing speaks against a person.
    Human,
    /// The user agent names a crawler or a tool, or there is none.
    Bot,
    /// A HEAD request: somebody looked at where the link goes.
    Head,
    /// A browser fetched ahead of a click that may never come.
    Prefetch,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Human, Self::Bot, Self::Head, Self::Prefetch];

    /// The word in the store and in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Bot => "bot",
            Self::Head => "head",
            Self::Prefetch => "prefetch",
        }
    }
}

/// Why a click has its class: a set of reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasons(u8);

impl Reasons {
    /// The method was HEAD.
    pub const METHOD_HEAD: Self = Self(1);
    /// `Sec-Purpose` or `Purpose` named a prefetch or prerender.
    pub const PURPOSE_PREFETCH: Self = Self(2);
    /// The user agent matches the crawler list.
    pub const AGENT_CRAWLER: Self = Self(4);
    /// No `User-Agent` at all.
    pub const AGENT_MISSING: Self = Self(8);

    const NAMES: [(Self, &'static str); 4] = [
        (Self::METHOD_HEAD, "method_head"),
        (Self::PURPOSE_PREFETCH, "purpose_prefetch"),
        (Self::AGENT_CRAWLER, "agent_crawler"),
        (Self::AGENT_MISSING, "agent_missing"),
    ];

    /// Their words in the store, in a fixed order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(reason, _)| self.0 & reason.0 != 0).map(|(_, name)| name)
    }

    fn with(self, reason: Self, holds: bool) -> Self {
        if holds { Self(self.0 | reason.0) } else { self }
    }
}

/// The class and its reasons from what is known of a request. The method decides before the browser's word, and both
/// before the agent: a crawler's HEAD is a `head`.
#[must_use]
pub fn classify(head: bool, prefetch: bool, crawler: bool, agent_missing: bool) -> (Class, Reasons) {
    let reasons = Reasons::default()
        .with(Reasons::METHOD_HEAD, head)
        .with(Reasons::PURPOSE_PREFETCH, prefetch)
        .with(Reasons::AGENT_CRAWLER, crawler)
        .with(Reasons::AGENT_MISSING, agent_missing);
    let class = match (head, prefetch, crawler || agent_missing) {
        (true, _, _) => Class::Head,
        (_, true, _) => Class::Prefetch,
        (_, _, true) => Class::Bot,
        _ => Class::Human,
    };
    (class, reasons)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn method_goes_before_purpose_and_purpose_before_agent() {
        assert_eq!(classify(false, false, false, false).0, Class::Human);
        assert_eq!(classify(false, false, true, false).0, Class::Bot);
        assert_eq!(classify(false, false, false, true).0, Class::Bot);
        assert_eq!(classify(false, true, true, false).0, Class::Prefetch);
        let (class, reasons) = classify(true, true, true, false);
        assert_eq!(class, Class::Head);
        assert_eq!(reasons.names().collect::<Vec<_>>(), ["method_head", "purpose_prefetch", "agent_crawler"]);
    }
}
