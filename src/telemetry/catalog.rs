//! Figures of the catalog: its releases, and how it was compared with its source.

use std::sync::Arc;

use prometheus::proto::MetricFamily;

use super::exposition::Shards;
use super::families::{counter, gauge, histogram};
use super::metrics::Metrics;
use super::shard::{Cell, Histogram, Scale, Snapshot};

/// What made a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseKind {
    /// A link was made, changed or removed.
    Link,
    /// A campaign was saved or removed.
    Campaign,
    /// Something was said of a domain, or no longer.
    Domain,
    /// The catalog went back to an earlier release.
    Rollback,
    /// Something other than this program wrote to the source, and revalidation found it.
    Outside,
}

impl ReleaseKind {
    pub(super) const NAMES: [&str; 5] = ["link", "campaign", "domain", "rollback", "outside"];

    /// Its word in answers and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// What came of comparing an entry with its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revalidated {
    /// The source says the same.
    Same,
    /// It was changed, added or taken away in memory.
    Refreshed,
    /// The source, or this entry of it, could not be read: what was served is served on.
    Failed,
}

impl Revalidated {
    pub(super) const NAMES: [&str; 3] = ["same", "refreshed", "failed"];
}

/// Written under the lock of edits, but for what fails.
#[derive(Debug)]
pub struct CatalogShard {
    pub(super) releases: [Cell; ReleaseKind::NAMES.len()],
    pub(super) revalidations: [Cell; Revalidated::NAMES.len()],
    /// The release that is served.
    pub version: Cell,
    /// Campaigns served.
    pub campaigns: Cell,
    /// Domains of which something was said.
    pub domains: Cell,
    /// From a write having its turn to its release being served.
    pub apply_duration: Histogram,
}

impl Default for CatalogShard {
    fn default() -> Self {
        Self {
            releases: Default::default(),
            revalidations: Default::default(),
            version: Cell::default(),
            campaigns: Cell::default(),
            domains: Cell::default(),
            apply_duration: Histogram::new(Scale::Durations),
        }
    }
}

impl CatalogShard {
    /// Counts a release.
    pub fn release(&self, kind: ReleaseKind) {
        self.releases[kind as usize].add(1);
    }

    /// Counts entries that were compared with the source.
    pub fn revalidate(&self, result: Revalidated, entries: usize) {
        self.revalidations[result as usize].add_shared(entries as u64);
    }
}

impl CatalogShard {
    /// Comparisons so far that could not be made.
    pub(super) fn failed(&self) -> u64 {
        self.revalidations[Revalidated::Failed as usize].get()
    }
}

impl Metrics {
    /// Shows what the catalog writes; the first one that is given.
    pub fn show_catalog(&self, catalog: Arc<CatalogShard>) {
        let _ = self.shards.catalog.set(catalog);
    }
}

impl Shards {
    pub(super) fn catalog_families(&self) -> [MetricFamily; 5] {
        let none = CatalogShard::default();
        let shard = self.catalog.get().map_or(&none, |shard| shard);
        let releases: Vec<_> =
            ReleaseKind::NAMES.into_iter().zip(&shard.releases).map(|(name, cell)| (name, cell.get())).collect();
        let revalidations: Vec<_> =
            Revalidated::NAMES.into_iter().zip(&shard.revalidations).map(|(name, cell)| (name, cell.get())).collect();
        let entries =
            [("link", (self.links)() as u64), ("campaign", shard.campaigns.get()), ("domain", shard.domains.get())];
        let mut applied = Snapshot::default();
        shard.apply_duration.merge_into(&mut applied);
        let help = "From a write having its turn to its release being served";
        [
            histogram("trellis_release_apply_duration_seconds", help, &applied),
            counter("trellis_releases_total", "Writes of the catalog", "kind", &releases),
            gauge("trellis_catalog_version", "The release that is served", "", &[("", shard.version.get())]),
            gauge("trellis_catalog_entries", "Entries in memory", "kind", &entries),
            counter("trellis_catalog_revalidations_total", "Compared with the source", "result", &revalidations),
        ]
    }
}
