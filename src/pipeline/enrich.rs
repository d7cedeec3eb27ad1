//! What a worker finds out about a click: who clicked, with what, and where.

use std::sync::Arc;

use bytes::Bytes;

use super::{Label, Row};
use crate::catalog::AgentMemo;
use crate::catalog::agents::{Agent, Agents};
use crate::catalog::geo::{Geo, Place};
use crate::click::class::Verdict;
use crate::click::{Class, Click, Reasons};

/// Enriches clicks; one for each worker, so that its memo needs no lock.
pub struct Enricher {
    agents: AgentMemo,
    geo: Arc<Geo>,
}

impl Clone for Enricher {
    /// With the same data and an empty memo.
    fn clone(&self) -> Self {
        Self::new(Arc::clone(self.agents.agents()), Arc::clone(&self.geo))
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
        Self { agents: AgentMemo::new(agents), geo }
    }

    /// Names the data: the same number, the same facts.
    #[must_use]
    pub fn facts(&self) -> u64 {
        self.geo.version() ^ self.agents.agents().version().rotate_left(32)
    }

    /// What is known of this click. Derived from its frame and named data alone.
    pub fn enrich(&mut self, click: &Click<'_>) -> Enriched {
        let agent = match &click.privacy.agent {
            Some(told) => Agent::told(told),
            None => self.agents.read(click.ua),
        };
        let Verdict { class, reasons, fraud_score } =
            self.agents.agents().classifier().classify(click.head, click.prefetch, click.marks, agent.reasons);
        let country = click.country.or_else(|| click.address.and_then(|address| self.geo.country(address)));
        let place = click.address.map(|address| self.geo.place(address)).unwrap_or_default();
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
    use crate::click::Classifier;
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
}
