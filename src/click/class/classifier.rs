//! From what is known of one request to its class, its reasons and its score.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

use super::{Class, Marks, Reasons};

/// What a classifier goes by; `config` reads it from `classify.toml` and checks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Of each reason, in the order of [`Reasons::ALL`]; 0 to 100.
    pub weights: [u8; Reasons::ALL.len()],
    /// Reasons that may change the class; those of words have their tier at each word.
    pub enforced: Reasons,
    /// Weights of enforced reasons that together make a human a bot; 0: never.
    pub bot_from: u8,
    /// A shorter user agent is odd.
    pub agent_bytes_min: usize,
    /// A Chrome of this version or a later one always sends fetch metadata over TLS.
    pub chrome_fetch_metadata_from: u32,
    /// Words of monitors, scanners and previews.
    pub words: Vec<AgentWord>,
    /// Numbers of the autonomous systems of data centres, in order.
    pub data_centres: Vec<u32>,
    /// What the worker remembers.
    pub memory: Memory,
}

/// How much the worker remembers of clicks, and from where on it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Clicks a minute from one network; 0: never.
    pub address_per_minute: u32,
    /// Clicks a minute on one link; 0: never.
    pub link_per_minute: u32,
    /// Counters in each row of a sketch; at least 1.
    pub counters: u32,
    /// HEADs that make a pattern together with a GET; 0: never.
    pub heads_min: u8,
    /// Milliseconds in which they must come; at least 2.
    pub heads_within_ms: u64,
    /// Pairs of network and link that are remembered for it; at least 1.
    pub pairs: u32,
}

/// A word that stands in the user agents of a kind of program; case counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentWord {
    /// As it stands there.
    pub word: String,
    /// One of [`Reasons::OF_WORDS`].
    pub reason: Reasons,
    /// It may change the class.
    pub enforced: bool,
}

/// What follows from a user agent alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentReasons {
    /// Every reason that holds.
    pub found: Reasons,
    /// Those of them that may change the class.
    pub enforced: Reasons,
    /// It says that it is a browser that always sends fetch metadata over TLS.
    pub sends_fetch_metadata: bool,
}

/// Who made a request, why we think so, and how much speaks against a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Who clicked.
    pub class: Class,
    /// Why; reasons that changed nothing too.
    pub reasons: Reasons,
    /// The weights of all reasons together, at most 100.
    pub fraud_score: u8,
}

/// Finds out who clicked: bit sets and one pass over the weights, no allocation (`benches/path.rs`, "classify").
#[derive(Debug)]
pub struct Classifier {
    rules: Rules,
    version: u64,
}

impl Classifier {
    /// By these rules.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        // Every field and every word is in it.
        let mut hasher = SipHasher24::new();
        hasher.write(format!("{rules:?}").as_bytes());
        Self { rules, version: hasher.finish() }
    }

    /// The rules.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Names the rules: other rules have another number.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// What follows from a user agent, given whether it matches the crawler list, and the places in [`Rules::words`] of
    /// the words that stand in it.
    #[must_use]
    pub fn agent(&self, ua: &[u8], crawler: bool, words: impl Iterator<Item = usize>) -> AgentReasons {
        let short = !ua.is_empty() && ua.len() < self.rules.agent_bytes_min;
        let found = Reasons::default()
            .with(Reasons::AGENT_CRAWLER, crawler)
            .with(Reasons::AGENT_MISSING, ua.is_empty())
            .with(Reasons::AGENT_ODD, short || is_miswritten(ua));
        let mut agent = AgentReasons {
            found,
            enforced: found.within(self.rules.enforced),
            sends_fetch_metadata: chrome(ua).is_some_and(|version| version >= self.rules.chrome_fetch_metadata_from),
        };
        for AgentWord { reason, enforced, .. } in words.filter_map(|place| self.rules.words.get(place)) {
            agent.found = agent.found.and(*reason);
            agent.enforced = agent.enforced.with(*reason, *enforced);
        }
        agent
    }

    /// Who made this request. The method decides before the browser's word, and both before the agent: a crawler's HEAD
    /// is a `head`. Among agents: monitor, scanner, preview, bot. At last what only adds up.
    #[must_use]
    pub fn classify(&self, head: bool, prefetch: bool, marks: Marks, agent: AgentReasons) -> Verdict {
        self.classify_with(Reasons::default(), head, prefetch, marks, agent)
    }

    /// The same for the record, with what the worker found ([`Reasons::OF_WORKER`]).
    #[must_use]
    pub fn classify_with(
        &self,
        found: Reasons,
        head: bool,
        prefetch: bool,
        marks: Marks,
        agent: AgentReasons,
    ) -> Verdict {
        // A prefetch is no navigation, and a HEAD is made by scripts: there is nothing odd in how they say so.
        let missing = agent.sends_fetch_metadata && marks.has(Marks::TLS) && !marks.has(Marks::FETCH_METADATA);
        let odd = !head && !prefetch && (marks.has(Marks::NO_NAVIGATION) || missing);
        let request = Reasons::default()
            .with(Reasons::METHOD_HEAD, head)
            .with(Reasons::PURPOSE_PREFETCH, prefetch)
            .with(Reasons::ACCEPT_MISSING, marks.has(Marks::NO_ACCEPT))
            .with(Reasons::ACCEPT_LANGUAGE_MISSING, marks.has(Marks::NO_LANGUAGE))
            .with(Reasons::ACCEPT_ENCODING_MISSING, marks.has(Marks::NO_ENCODING))
            .with(Reasons::HTTP_1_0, marks.has(Marks::HTTP_1_0))
            .with(Reasons::FETCH_METADATA_ODD, odd)
            .and(found.within(Reasons::OF_WORKER));
        // Whatever the rules say of its agent: the node never takes itself for a person.
        let probe = Reasons::default().with(Reasons::AGENT_MONITOR, marks.has(Marks::PROBE));
        let enforced = agent.enforced.and(request.within(self.rules.enforced)).and(probe);
        let reasons = agent.found.and(request).and(probe);
        Verdict { class: self.class(enforced), reasons, fraud_score: self.score(reasons) }
    }

    /// Of a verdict on this agent what may change the class, and its weights.
    #[must_use]
    pub fn without_shadow(&self, verdict: Verdict, agent: AgentReasons) -> Verdict {
        let of_agent = agent.found.within(agent.enforced);
        let others = verdict.reasons.within(self.rules.enforced);
        // Of an agent's reasons each has its own tier.
        // Of the node's own prober that does not follow from its agent.
        let of_agent = of_agent.with(Reasons::AGENT_MONITOR, verdict.class == Class::Monitor);
        let reasons = Reasons::ALL
            .into_iter()
            .map(|(reason, _)| reason)
            .fold(of_agent, |sum, reason| sum.with(reason, others.has(reason) && !agent.found.has(reason)));
        Verdict { reasons, fraud_score: self.score(reasons), ..verdict }
    }

    fn class(&self, enforced: Reasons) -> Class {
        const ORDER: [(Reasons, Class); 6] = [
            (Reasons::METHOD_HEAD, Class::Head),
            (Reasons::PURPOSE_PREFETCH, Class::Prefetch),
            (Reasons::AGENT_MONITOR, Class::Monitor),
            (Reasons::AGENT_SCANNER, Class::Scanner),
            (Reasons::AGENT_PREVIEW.and(Reasons::PREVIEW_PATTERN), Class::Preview),
            (Reasons::AGENT_CRAWLER.and(Reasons::AGENT_MISSING), Class::Bot),
        ];
        let decided = ORDER.into_iter().find(|(reasons, _)| enforced.has(*reasons)).map(|(_, class)| class);
        let adds_up = self.rules.bot_from > 0 && self.score(enforced) >= self.rules.bot_from;
        decided.unwrap_or(if adds_up { Class::Bot } else { Class::Human })
    }

    fn score(&self, reasons: Reasons) -> u8 {
        let weighed = Reasons::ALL.into_iter().zip(self.rules.weights).filter(|((reason, _), _)| reasons.has(*reason));
        weighed.fold(0_u8, |sum, (_, weight)| sum.saturating_add(weight)).min(100)
    }
}

/// Scripts send these; a browser cannot.
fn is_miswritten(ua: &[u8]) -> bool {
    let name = b"User-Agent";
    matches!(ua.first(), Some(b'"' | b'\'')) || ua.get(..name.len()).is_some_and(|head| head.eq_ignore_ascii_case(name))
}

/// The version of the Chrome that this agent says it is. Not of one inside an app: those are built in their own ways.
fn chrome(ua: &[u8]) -> Option<u32> {
    let behind = |word: &[u8]| ua.windows(word.len()).position(|part| part == word).map(|at| at + word.len());
    if behind(b"; wv)").is_some() {
        return None;
    }
    let digits = &ua[behind(b"Chrome/")?..];
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&digits[..length]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHROME: &[u8] =
        b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/80.0.0.0 Safari/537.36";

    /// Every reason weighs 10; those that decide by themselves are enforced.
    fn rules() -> Rules {
        let word = |word: &str, reason, enforced| AgentWord { word: word.into(), reason, enforced };
        Rules {
            weights: [10; Reasons::ALL.len()],
            enforced: Reasons::METHOD_HEAD
                .and(Reasons::PURPOSE_PREFETCH)
                .and(Reasons::AGENT_CRAWLER)
                .and(Reasons::AGENT_MISSING),
            bot_from: 0,
            agent_bytes_min: 8,
            chrome_fetch_metadata_from: 80,
            words: vec![
                word("m", Reasons::AGENT_MONITOR, true),
                word("s", Reasons::AGENT_SCANNER, true),
                word("p", Reasons::AGENT_PREVIEW, true),
                word("x", Reasons::AGENT_PREVIEW, false),
            ],
            data_centres: Vec::new(),
            memory: Memory {
                address_per_minute: 1,
                link_per_minute: 1,
                counters: 1,
                heads_min: 1,
                heads_within_ms: 2,
                pairs: 1,
            },
        }
    }

    fn names(verdict: Verdict) -> Vec<&'static str> {
        verdict.reasons.names().collect()
    }

    #[test]
    fn method_goes_before_purpose_purpose_before_agent_and_agents_have_their_order() {
        let classifier = Classifier::new(rules());
        let class = |head, prefetch, crawler, words: &[usize]| {
            let agent = classifier.agent(CHROME, crawler, words.iter().copied());
            classifier.classify(head, prefetch, Marks::default(), agent)
        };
        let all = class(true, true, true, &[2, 1, 0]);
        let told =
            ["method_head", "purpose_prefetch", "agent_monitor", "agent_scanner", "agent_preview", "agent_crawler"];
        assert_eq!((all.class, &names(all)[..], all.fraud_score), (Class::Head, &told[..], 60));
        assert_eq!(class(false, true, true, &[2, 1, 0]).class, Class::Prefetch);
        assert_eq!(class(false, false, true, &[2, 1, 0]).class, Class::Monitor);
        assert_eq!(class(false, false, true, &[2, 1]).class, Class::Scanner);
        assert_eq!(class(false, false, true, &[2]).class, Class::Preview);
        assert_eq!(class(false, false, true, &[]).class, Class::Bot);
        let human = class(false, false, false, &[]);
        assert_eq!((human.class, human.reasons, human.fraud_score), (Class::Human, Reasons::default(), 0));
    }

    #[test]
    fn what_is_in_the_shadow_is_a_reason_and_scored_and_changes_no_class() {
        let mut rules = rules();
        let request = |rules: &Rules, head, words: &[usize], marks| {
            let classifier = Classifier::new(rules.clone());
            let agent = classifier.agent(CHROME, false, words.iter().copied());
            classifier.classify(head, false, marks, agent)
        };
        let word = request(&rules, false, &[3], Marks::NO_ACCEPT);
        assert_eq!(
            (word.class, names(word), word.fraud_score),
            (Class::Human, vec!["agent_preview", "accept_missing"], 20)
        );
        assert_eq!(request(&rules, false, &[3, 2], Marks::default()).class, Class::Preview, "one word is enforced");
        rules.enforced = Reasons::ODDITIES;
        let head = request(&rules, true, &[], Marks::NO_ACCEPT);
        assert_eq!((head.class, names(head)), (Class::Human, vec!["method_head", "accept_missing"]));
    }

    #[test]
    fn enforced_weights_make_a_bot_where_they_add_up_and_shadows_add_nothing() {
        let marks = Marks::NO_ACCEPT.with(Marks::NO_LANGUAGE, true).with(Marks::NO_ENCODING, true);
        let mut rules = rules();
        rules.enforced = Reasons::ACCEPT_MISSING.and(Reasons::ACCEPT_LANGUAGE_MISSING);
        for (bot_from, class) in [(0, Class::Human), (20, Class::Bot), (21, Class::Human)] {
            rules.bot_from = bot_from;
            let classifier = Classifier::new(rules.clone());
            let verdict = classifier.classify(false, false, marks, AgentReasons::default());
            assert_eq!((verdict.class, verdict.fraud_score), (class, 30), "from {bot_from}");
        }
        rules.weights = [70; Reasons::ALL.len()];
        let capped = Classifier::new(rules).classify(false, false, marks, AgentReasons::default());
        assert_eq!((capped.class, capped.fraud_score), (Class::Bot, 100));
    }

    #[test]
    fn what_the_worker_found_is_scored_and_changes_the_class_only_where_it_is_enforced() {
        let mut rules = rules();
        let told = |rules: &Rules, found, head| {
            let (marks, agent) = (Marks::default(), AgentReasons::default());
            let verdict = Classifier::new(rules.clone()).classify_with(found, head, false, marks, agent);
            (verdict.class, names(verdict), verdict.fraud_score)
        };
        let shadow = ["data_centre", "velocity_address", "velocity_link", "preview_pattern"];
        assert_eq!(told(&rules, Reasons::OF_WORKER, false), (Class::Human, shadow.to_vec(), 40));
        rules.enforced = rules.enforced.and(Reasons::OF_WORKER);
        assert_eq!(told(&rules, Reasons::PREVIEW_PATTERN, false).0, Class::Preview);
        assert_eq!(told(&rules, Reasons::PREVIEW_PATTERN, true).0, Class::Head, "the method goes first");
        let fast = Reasons::VELOCITY_ADDRESS.and(Reasons::DATA_CENTRE);
        assert_eq!(told(&rules, fast, false).0, Class::Human, "it only adds up, and bot_from is 0");
        rules.bot_from = 20;
        assert_eq!(told(&rules, fast, false).0, Class::Bot);
        assert_eq!(told(&rules, Reasons::VELOCITY_LINK, false).0, Class::Human);
        assert_eq!(told(&rules, Reasons::AGENT_CRAWLER, false).1, [""; 0], "only those of the worker are taken");
    }

    #[test]
    fn each_mark_is_its_reason() {
        let classifier = Classifier::new(rules());
        for (mark, reason) in [
            (Marks::NO_ACCEPT, "accept_missing"),
            (Marks::NO_LANGUAGE, "accept_language_missing"),
            (Marks::NO_ENCODING, "accept_encoding_missing"),
            (Marks::HTTP_1_0, "http_1_0"),
            (Marks::NO_NAVIGATION, "fetch_metadata_odd"),
        ] {
            assert_eq!(names(classifier.classify(false, false, mark, AgentReasons::default())), [reason]);
        }
        for quiet in [Marks::FETCH_METADATA, Marks::TLS] {
            assert_eq!(names(classifier.classify(false, false, quiet, AgentReasons::default())), [""; 0]);
        }
    }

    #[test]
    fn a_chrome_without_fetch_metadata_is_odd_only_over_tls() {
        let classifier = Classifier::new(rules());
        let odd = |ua: &[u8], marks, head, prefetch| {
            let agent = classifier.agent(ua, false, std::iter::empty());
            classifier.classify(head, prefetch, marks, agent).reasons.has(Reasons::FETCH_METADATA_ODD)
        };
        let sent = Marks::TLS.with(Marks::FETCH_METADATA, true);
        assert!(odd(CHROME, Marks::TLS, false, false));
        assert!(!odd(CHROME, sent, false, false) && !odd(CHROME, Marks::default(), false, false));
        assert!(!odd(CHROME, Marks::TLS, true, false), "a HEAD");
        assert!(!odd(CHROME, sent.with(Marks::NO_NAVIGATION, true), false, true), "a prefetch");
        for other in [
            &b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/79.0.0.0 Safari/537.36"[..],
            b"Mozilla/5.0 (Linux; Android 16; K; wv) AppleWebKit/537.36 Version/4.0 Chrome/140.0.0.0 Mobile Safari/537.36",
            b"Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0",
            b"Mozilla/5.0 Chrome/",
            b"Mozilla/5.0 Chrome/99999999999",
        ] {
            assert!(!odd(other, Marks::TLS, false, false), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn an_agent_that_no_browser_sends_is_odd_and_none_is_missing() {
        let classifier = Classifier::new(rules());
        for (ua, expected) in [
            (&b""[..], Some("agent_missing")),
            (b"1234567", Some("agent_odd")),
            (b"12345678", None),
            (b"user-agent: Mozilla/5.0", Some("agent_odd")),
            (b"\"Mozilla/5.0 (X11)\"", Some("agent_odd")),
            (b"'Mozilla/5.0 (X11)'", Some("agent_odd")),
            (CHROME, None),
        ] {
            let found = classifier.agent(ua, false, std::iter::empty()).found;
            assert_eq!(found.names().next(), expected, "{}", ua.escape_ascii());
        }
    }

    #[test]
    fn the_own_prober_is_a_monitor_whatever_the_rules_say_of_agents_also_without_the_shadow() {
        let classifier = Classifier::new(Rules { words: Vec::new(), enforced: Reasons::default(), ..rules() });
        let agent = classifier.agent(CHROME, false, std::iter::empty());
        let verdict = classifier.classify(false, false, Marks::PROBE.with(Marks::NO_ACCEPT, true), agent);
        assert_eq!((verdict.class, names(verdict)), (Class::Monitor, vec!["agent_monitor", "accept_missing"]));
        let bare = classifier.without_shadow(verdict, agent);
        assert_eq!((bare.class, names(bare)), (Class::Monitor, vec!["agent_monitor"]));
        assert_eq!(classifier.classify(false, false, Marks::NO_ACCEPT, agent).class, Class::Human);
    }

    #[test]
    fn other_rules_have_another_number() {
        let (mut weight, mut tier, mut word, mut memory) = (rules(), rules(), rules(), rules());
        memory.memory.link_per_minute = 2;
        weight.weights[12] = 11;
        tier.words[0].enforced = false;
        word.words[3].word = "y".into();
        let version = |rules| Classifier::new(rules).version();
        assert_eq!(version(rules()), version(rules()));
        for other in [weight, tier, word, memory] {
            assert_ne!(version(other), version(rules()));
        }
    }
}
