//! What a worker finds out about a click: who clicked, with what, and where.

use std::sync::Arc;

use crate::catalog::agents::{Agent, AgentMemo, Agents};
use crate::catalog::geo::Geo;
use crate::click::{Class, Click, Reasons, class};

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
    /// Who clicked.
    pub class: Class,
    /// Why.
    pub reasons: Reasons,
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

    /// What is known of this click. Derived from its frame and the shipped data alone.
    pub fn enrich(&mut self, click: &Click<'_>) -> Enriched {
        let agent = self.agents.read(click.ua);
        let (class, reasons) = class::classify(click.head, click.prefetch, agent.crawler, click.ua.is_empty());
        let country = click.country.or_else(|| click.address.and_then(|address| self.geo.country(address)));
        Enriched { country, class, reasons, agent }
    }
}

impl std::fmt::Debug for Enricher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enricher").field("agents", &self.agents).finish_non_exhaustive()
    }
}
