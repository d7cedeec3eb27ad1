//! `[catalog]`: how much is served, and how much of its past is kept.

use std::time::Duration;

use super::check::{Keys, minutes, ms};
use super::units::{number, time};

/// `[catalog]`
#[derive(Clone, Copy, Debug)]
pub struct Catalog {
    /// Links of this node.
    pub links_max: usize,
    /// Campaigns served.
    pub campaigns_max: usize,
    /// Domains in use.
    pub domains_max: usize,
    /// Releases kept.
    pub releases_max: u64,
    /// Changes of all releases that are kept.
    pub changes_max: u64,
    /// At the latest after this time an entry in memory is compared with its source.
    pub revalidate_after: Duration,
}

impl Keys {
    pub(super) fn catalog(&mut self) -> Catalog {
        // All of them are in memory.
        Catalog {
            links_max: self.get("catalog.links_max", number(1..=10_000_000)),
            campaigns_max: self.get("catalog.campaigns_max", number(1..=100_000)),
            domains_max: self.get("catalog.domains_max", number(1..=100_000)),
            releases_max: self.get("catalog.releases_max", number(1..=1_000_000)),
            changes_max: self.get("catalog.changes_max", number(1..=100_000_000)),
            revalidate_after: self.get("catalog.revalidate_after", time(ms(100)..=minutes(15))),
        }
    }
}
