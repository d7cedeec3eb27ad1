//! What a worker finds out about a click: who clicked, with what, and where.

use std::sync::Arc;

use bytes::Bytes;

use super::memory::Memory;
use super::{Label, Row};
use crate::catalog::AgentMemo;
use crate::catalog::agents::{Agent, Agents};
use crate::catalog::geo::{Geo, Place};
use crate::click::class::Verdict;
use crate::click::{Class, Classifier, Click, Reasons};
use crate::telemetry::caches::CacheShard;
use crate::telemetry::overload::Level;

/// Enriches clicks; one for each worker, so that its memo needs no lock.
pub struct Enricher {
    agents: AgentMemo,
    geo: Arc<Geo>,
    memory: Option<Arc<Memory>>,
}

impl Clone for Enricher {
    /// With the same data and memory, and an empty memo.
    fn clone(&self) -> Self {
        let (memory, agents) = (self.memory.clone(), self.agents.forgetful());
        Self { agents, geo: Arc::clone(&self.geo), memory }
    }
}

/// See [`Enricher::enrich`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enriched {
    /// Where the address is.
    pub country: Option<[u8; 2]>,
    /// Where in it, and in whose network; not known of a click that keeps no address.
    pub place: Place,
    /// Who clicked.
    pub class: Class,
    /// Why.
    pub reasons: Reasons,
    /// How much speaks against a person; at most 100.
    pub fraud_score: u8,
    /// With what.
    pub agent: Agent,
}

impl Enricher {
    /// With shared data and a memo of its own.
    #[must_use]
    pub fn new(agents: Arc<Agents>, geo: Arc<Geo>) -> Self {
        Self { agents: AgentMemo::new(agents), geo, memory: None }
    }

    /// With what the workers of this process remember together.
    #[must_use]
    pub fn remembering(self, memory: Arc<Memory>) -> Self {
        Self { memory: Some(memory), ..self }
    }

    /// Counts there how often a user agent was read before; the shard is that of its thread.
    #[must_use]
    pub fn counting(self, caches: Arc<CacheShard>) -> Self {
        Self { agents: self.agents.counting(caches), ..self }
    }

    /// Names the data: the same number, the same facts.
    #[must_use]
    pub fn facts(&self) -> u64 {
        let networks = self.memory.as_ref().map_or(0, |memory| memory.version());
        self.geo.version() ^ self.agents.agents().version().rotate_left(32) ^ networks.rotate_left(16)
    }

    /// What follows from the clicks before this one, which is remembered from now on, once for each click, and from its
    /// address. Without a memory the autonomous system alone.
    #[must_use]
    pub fn observe(&self, click: &Click<'_>) -> Reasons {
        let found = self.memory.as_ref().map_or(Reasons::default(), |memory| memory.observe(click));
        found.with(Reasons::DATA_CENTRE, self.is_of_data_centre(click))
    }

    /// By the number of its autonomous system, of what the click keeps of its address.
    fn is_of_data_centre(&self, click: &Click<'_>) -> bool {
        let systems = &self.classifier().rules().data_centres;
        let network = click.address.and_then(|address| address.network()).filter(|_| !systems.is_empty());
        network.is_some_and(|network| systems.binary_search(&self.geo.asn(network)).is_ok())
    }

    /// Who says what is a person.
    pub(super) fn classifier(&self) -> &Classifier {
        self.agents.agents().classifier()
    }

    /// The same under overload, with what is to be left out of the click: in the shadow, what it observes too, unless that
    /// may change the class.
    #[must_use]
    pub fn observe_under(&self, level: Level, click: &Click<'_>) -> Reasons {
        let rules = self.agents.agents().classifier().rules();
        let observed = if level == Level::Calm || rules.enforced.has(Reasons::OF_WORKER) {
            self.observe(click)
        } else {
            Reasons::default()
        };
        observed
            .with(Reasons::SHADOW_OMITTED, level >= Level::Shadow)
            .with(Reasons::FACTS_OMITTED, level >= Level::Enrichment)
    }

    /// What is known of this click. Derived from its frame, what was [observed](Self::observe) of it or is to be left out
    /// ([`Reasons::FROZEN`]), and named data alone; so a batch that is frozen with that is made again as it was. The class is
    /// never left out, nor what the edge found out.
    pub fn enrich(&mut self, click: &Click<'_>, observed: Reasons) -> Enriched {
        let omits = observed.has(Reasons::FACTS_OMITTED);
        let agent = match &click.privacy.agent {
            Some(told) => Agent::told(told),
            None if omits => Agent { browser: "", os: "", device: "", reasons: self.agents.reasons(click.ua) },
            None => self.agents.read(click.ua),
        };
        let classifier = self.agents.agents().classifier();
        let mut verdict = classifier.classify_with(observed, click.head, click.prefetch, click.marks, agent.reasons);
        if observed.has(Reasons::SHADOW_OMITTED) {
            verdict = classifier.without_shadow(verdict, agent.reasons);
        }
        let Verdict { class, reasons, fraud_score } = verdict;
        let reasons = reasons.and(observed.within(Reasons::SHADOW_OMITTED.and(Reasons::FACTS_OMITTED)));
        let network = click.address.and_then(|address| address.network()).filter(|_| !omits);
        let country = click.country.or_else(|| network.and_then(|network| self.geo.country(network)));
        let place = network.map(|network| self.geo.place(network)).unwrap_or_default();
        Enriched { country, place, class, reasons, fraud_score, agent }
    }
}

impl Enriched {
    /// The row of the click in this frame, with this label.
    pub(super) fn row(self, frame: Bytes, dedup: Label) -> Row {
        let Self { country, place, class, reasons, fraud_score, agent } = self;
        Row { frame, country, place, class, reasons, fraud_score, dedup, agent }
    }
}

impl std::fmt::Debug for Enricher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enricher").field("agents", &self.agents).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::click::{Classifier, ClickId, Marks};
    use crate::config::shipped_classifier;

    #[test]
    fn other_rules_are_other_facts() {
        let geo = Arc::new(Geo::new().unwrap());
        let facts = |classifier| Enricher::new(Arc::new(Agents::with(classifier).unwrap()), Arc::clone(&geo)).facts();
        let mut rules = shipped_classifier().rules().clone();
        assert_eq!(facts(shipped_classifier()), facts(Arc::new(Classifier::new(rules.clone()))));
        rules.weights[0] += 1;
        assert_ne!(facts(shipped_classifier()), facts(Arc::new(Classifier::new(rules))));
    }

    #[test]
    fn other_networks_of_data_centres_are_other_facts_and_copies_share_the_memory() {
        let (agents, geo) = (Arc::new(Agents::new().unwrap()), Arc::new(Geo::new().unwrap()));
        let limits = shipped_classifier().rules().memory;
        let with = |networks: &[&str]| {
            let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
            let memory = Arc::new(Memory::new(limits, Arc::new(networks)));
            Enricher::new(Arc::clone(&agents), Arc::clone(&geo)).remembering(memory)
        };
        let (none, some) = (with(&[]), with(&["192.0.2.0/24"]));
        assert_ne!(none.facts(), some.facts());
        assert_eq!(none.facts(), Enricher::new(Arc::clone(&agents), Arc::clone(&geo)).facts());
        let copy = some.clone();
        assert_eq!(copy.facts(), some.facts());
        assert!(Arc::ptr_eq(copy.memory.as_ref().unwrap(), some.memory.as_ref().unwrap()));
    }

    #[test]
    fn what_is_left_out_changes_no_class_is_marked_and_follows_from_the_frame_alone() {
        const CHROME: &[u8] = b"Mozilla/5.0 (Windows NT 10.0) Chrome/140.0.0.0 Safari/537.36";
        let mut enricher = Enricher::new(Arc::new(Agents::new().unwrap()), Arc::new(Geo::new().unwrap()));
        for (ua, class) in [(CHROME, Class::Human), (b"Googlebot/2.1", Class::Bot), (b"", Class::Bot)] {
            let marks = Marks::default().with(Marks::NO_ACCEPT, true);
            let click = Click { ua, marks, address: Some([8, 8, 8, 0].into()), country: None, ..some_click() };
            let mut find = |level| {
                let observed = enricher.observe_under(level, &click);
                enricher.enrich(&click, observed)
            };
            let facts = find(Level::Enrichment);
            let whole = find(Level::Calm);
            assert_eq!(facts, find(Level::Redirects), "also when the agent is remembered");
            let shadow = find(Level::Shadow);
            assert_eq!([whole.class, shadow.class, facts.class], [class; 3]);
            assert_eq!((shadow.country, shadow.agent), (whole.country, whole.agent));
            assert_eq!((whole.country, facts.country, facts.agent.browser), (Some(*b"US"), None, ""));
            assert!(whole.reasons.has(Reasons::ACCEPT_MISSING) && !shadow.reasons.has(Reasons::ACCEPT_MISSING));
            assert!(shadow.fraud_score < whole.fraud_score && shadow.fraud_score == facts.fraud_score);
            assert_eq!(whole.reasons.omission_bits(), 0);
            assert_eq!((shadow.reasons.omission_bits(), facts.reasons.omission_bits()), (1, 3));
        }
    }

    fn some_click() -> Click<'static> {
        Click { ua: b"Mozilla/5.0", ..crate::testing::click(ClickId::new(1, &[1; 10])) }
    }
}
