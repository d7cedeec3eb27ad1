//! Who clicked: a class, the reasons for it, and a score. Everything is recorded and labelled; nothing is dropped.
//!
//! A [`Classifier`] holds the rules, which are data (`config/classify.toml`). It goes by one request alone: its method and
//! purpose, the [`Marks`] that the edge found in its headers, and the [`AgentReasons`] that follow from its user agent.
//! The edge asks it before the answer, for campaigns, and the worker after it, for the record: the same question gets the
//! same answer. The worker adds what it alone knows ([`Reasons::OF_WORKER`]): how fast clicks follow each other, and which
//! networks are data centres'. Pure; bounds: 32 reasons, and as many words as the configuration admits.

mod classifier;
mod marks;

pub use classifier::{AgentReasons, AgentWord, Classifier, Memory, Rules, Verdict};
pub use marks::Marks;

/// What kind of client made the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing speaks against a person.
    Human,
    /// The user agent names a crawler or a tool, or there is none.
    Bot,
    /// Fetched so that a message or a post can show what the link leads to.
    Preview,
    /// A browser fetched ahead of a click that may never come.
    Prefetch,
    /// A security scanner or a link checker.
    Scanner,
    /// A HEAD request: somebody looked at where the link goes.
    Head,
    /// Something that asks again and again whether the link still answers.
    Monitor,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Human, Self::Bot, Self::Preview, Self::Prefetch, Self::Scanner, Self::Head, Self::Monitor];

    /// The word in the store and in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Bot => "bot",
            Self::Preview => "preview",
            Self::Prefetch => "prefetch",
            Self::Scanner => "scanner",
            Self::Head => "head",
            Self::Monitor => "monitor",
        }
    }

    /// A program that follows links by itself. HEAD and prefetch say nothing of who asked.
    #[must_use]
    pub const fn is_bot(self) -> bool {
        matches!(self, Self::Bot | Self::Preview | Self::Scanner | Self::Monitor)
    }
}

/// Why a click has its class and its score: a set of reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasons(u32);

impl Reasons {
    /// The method was HEAD.
    pub const METHOD_HEAD: Self = Self(1);
    /// `Sec-Purpose` or `Purpose` named a prefetch or prerender.
    pub const PURPOSE_PREFETCH: Self = Self(1 << 1);
    /// The user agent holds a word of a monitor.
    pub const AGENT_MONITOR: Self = Self(1 << 2);
    /// The user agent holds a word of a scanner or link checker.
    pub const AGENT_SCANNER: Self = Self(1 << 3);
    /// The user agent holds a word of what fetches previews.
    pub const AGENT_PREVIEW: Self = Self(1 << 4);
    /// The user agent matches the crawler list.
    pub const AGENT_CRAWLER: Self = Self(1 << 5);
    /// No `User-Agent` at all.
    pub const AGENT_MISSING: Self = Self(1 << 6);
    /// A user agent that no browser sends: too short, or with the header's own name or a quote in front.
    pub const AGENT_ODD: Self = Self(1 << 7);
    /// No `Accept`.
    pub const ACCEPT_MISSING: Self = Self(1 << 8);
    /// No `Accept-Language`.
    pub const ACCEPT_LANGUAGE_MISSING: Self = Self(1 << 9);
    /// No `Accept-Encoding`.
    pub const ACCEPT_ENCODING_MISSING: Self = Self(1 << 10);
    /// HTTP/1.0, and no trusted proxy in between.
    pub const HTTP_1_0: Self = Self(1 << 11);
    /// `Sec-Fetch-*` headers of something else than a followed link, or none where the browser always sends them.
    pub const FETCH_METADATA_ODD: Self = Self(1 << 12);
    /// The network of the address is a data centre's.
    pub const DATA_CENTRE: Self = Self(1 << 13);
    /// So many clicks a minute from the network of the address.
    pub const VELOCITY_ADDRESS: Self = Self(1 << 14);
    /// So many clicks a minute on the link.
    pub const VELOCITY_LINK: Self = Self(1 << 15);
    /// A GET and several HEADs of the link from one network within seconds.
    pub const PREVIEW_PATTERN: Self = Self(1 << 16);

    /// Each with its word in the store and in `classify.toml`; the one at place n is bit n.
    pub const ALL: [(Self, &'static str); 17] = [
        (Self::METHOD_HEAD, "method_head"),
        (Self::PURPOSE_PREFETCH, "purpose_prefetch"),
        (Self::AGENT_MONITOR, "agent_monitor"),
        (Self::AGENT_SCANNER, "agent_scanner"),
        (Self::AGENT_PREVIEW, "agent_preview"),
        (Self::AGENT_CRAWLER, "agent_crawler"),
        (Self::AGENT_MISSING, "agent_missing"),
        (Self::AGENT_ODD, "agent_odd"),
        (Self::ACCEPT_MISSING, "accept_missing"),
        (Self::ACCEPT_LANGUAGE_MISSING, "accept_language_missing"),
        (Self::ACCEPT_ENCODING_MISSING, "accept_encoding_missing"),
        (Self::HTTP_1_0, "http_1_0"),
        (Self::FETCH_METADATA_ODD, "fetch_metadata_odd"),
        (Self::DATA_CENTRE, "data_centre"),
        (Self::VELOCITY_ADDRESS, "velocity_address"),
        (Self::VELOCITY_LINK, "velocity_link"),
        (Self::PREVIEW_PATTERN, "preview_pattern"),
    ];

    /// No reasons, but what was left out under overload: reasons that change no class, and their weights.
    pub const SHADOW_OMITTED: Self = Self(1 << 30);
    /// Likewise: country, browser, system and device.
    pub const FACTS_OMITTED: Self = Self(1 << 31);
    const OMISSIONS: [(Self, &'static str); 2] =
        [(Self::SHADOW_OMITTED, "shadow_omitted"), (Self::FACTS_OMITTED, "facts_omitted")];

    /// Those that say who an agent is by its words; each word has its own tier.
    pub const OF_WORDS: Self = Self::AGENT_MONITOR.and(Self::AGENT_SCANNER).and(Self::AGENT_PREVIEW);

    /// Those that decide nothing by themselves; enforced, they make a bot when they add up to `bot_from`.
    pub const ODDITIES: Self = Self::AGENT_ODD
        .and(Self::ACCEPT_MISSING)
        .and(Self::ACCEPT_LANGUAGE_MISSING)
        .and(Self::ACCEPT_ENCODING_MISSING)
        .and(Self::HTTP_1_0)
        .and(Self::FETCH_METADATA_ODD)
        .and(Self::DATA_CENTRE)
        .and(Self::VELOCITY_ADDRESS)
        .and(Self::VELOCITY_LINK);

    /// Those that nobody knows before the answer: only the worker finds them, for the record.
    pub const OF_WORKER: Self =
        Self::DATA_CENTRE.and(Self::VELOCITY_ADDRESS).and(Self::VELOCITY_LINK).and(Self::PREVIEW_PATTERN);

    /// What does not follow from a click's frame.
    pub const FROZEN: Self = Self::OF_WORKER.and(Self::SHADOW_OMITTED).and(Self::FACTS_OMITTED);

    /// Their words in the store, in a fixed order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let known: &'static [_] = if self == Self::default() { &[] } else { &Self::ALL };
        known.iter().chain(&Self::OMISSIONS).filter(move |(reason, _)| self.has(*reason)).map(|(_, name)| *name)
    }

    /// Whether any of `other` is in it.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Bit n is the reason at place n of [`Reasons::ALL`], for the first 16: frames carry those of agents, so a bit never
    /// changes its meaning.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0 as u16
    }

    /// Likewise. Bits that this program does not know have no name and no weight.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits as u32)
    }

    /// Those of the worker, from bit 0 on; below 16. Intents carry them.
    #[must_use]
    pub const fn worker_bits(self) -> u8 {
        (self.within(Self::OF_WORKER).0 >> Self::OF_WORKER.0.trailing_zeros()) as u8
    }

    /// Likewise.
    #[must_use]
    pub const fn from_worker_bits(bits: u8) -> Self {
        Self((bits as u32) << Self::OF_WORKER.0.trailing_zeros()).within(Self::OF_WORKER)
    }

    /// What was left out, from bit 0 on; below 4. Intents carry it.
    #[must_use]
    pub const fn omission_bits(self) -> u8 {
        (self.0 >> 30) as u8
    }

    /// Likewise.
    #[must_use]
    pub const fn from_omission_bits(bits: u8) -> Self {
        Self((bits as u32) << 30)
    }

    /// Those of these words; `None` where one is unknown.
    #[must_use]
    pub fn from_names(names: &[impl AsRef<str>]) -> Option<Self> {
        let one = |name: &str| Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(reason, _)| reason);
        names.iter().try_fold(Self::default(), |all, name| Some(all.and(one(name.as_ref())?)))
    }

    /// With `reason`, if it holds.
    #[must_use]
    pub const fn with(self, reason: Self, holds: bool) -> Self {
        if holds { self.and(reason) } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_the_place_of_its_bit() {
        for (place, (reason, name)) in Reasons::ALL.into_iter().enumerate() {
            assert_eq!(reason, Reasons(1 << place), "{name}");
            assert_eq!(reason.names().collect::<Vec<_>>(), [name]);
        }
    }

    #[test]
    fn reasons_go_through_names_and_those_of_the_worker_through_four_bits() {
        for bits in 0..16 {
            let reasons = Reasons::from_worker_bits(bits);
            assert_eq!((reasons.worker_bits(), reasons.names().count()), (bits, bits.count_ones() as usize));
            assert_eq!(Reasons::from_names(&reasons.names().collect::<Vec<_>>()), Some(reasons));
        }
        assert_eq!(Reasons::from_worker_bits(0xff), Reasons::OF_WORKER);
        assert_eq!(Reasons::METHOD_HEAD.and(Reasons::FETCH_METADATA_ODD).worker_bits(), 0);
        assert_eq!(Reasons::from_names(&["method_head", "method_haed"]), None);
        let agents = Reasons::OF_WORDS.and(Reasons::AGENT_CRAWLER).and(Reasons::AGENT_MISSING).and(Reasons::AGENT_ODD);
        assert_eq!(Reasons::from_bits(agents.bits()), agents, "all that frames carry");
    }

    #[test]
    fn programs_that_follow_links_are_bots_and_a_head_or_a_prefetch_is_none() {
        let bots: Vec<_> = Class::ALL.into_iter().filter(|class| class.is_bot()).map(Class::name).collect();
        assert_eq!(bots, ["bot", "preview", "scanner", "monitor"]);
    }
}
