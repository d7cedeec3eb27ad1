//! Figures of the ledger.

use std::sync::Arc;

use prometheus::proto::MetricFamily;

use super::exposition::Shards;
use super::families::{gauge, single};
use super::metrics::Metrics;
use super::shard::Cell;

/// Written by the ledger's upkeep.
#[derive(Debug, Default)]
pub struct LedgerShard {
    /// Clicks by which minutes do not balance, either way.
    pub residual: Cell,
    /// Clicks by which the store differs from what the ledger says is stored, either way.
    pub difference: Cell,
    /// Checks that were done to the end.
    pub checks: Cell,
    /// Minutes whose rollups may not say what is stored.
    pub dirty: Cell,
}

impl Metrics {
    /// What the ledger writes.
    #[must_use]
    pub fn ledger(&self) -> Arc<LedgerShard> {
        Arc::clone(&self.shards.ledger)
    }
}

impl Shards {
    pub(super) fn ledger_families(&self) -> [MetricFamily; 4] {
        let ledger = &self.ledger;
        let each = |name, help, cell: &Cell| gauge(name, help, "", &[("", cell.get())]);
        [
            each("trellis_ledger_residual_clicks", "By which minutes do not balance", &ledger.residual),
            each("trellis_ledger_store_difference_clicks", "By which the store differs", &ledger.difference),
            single("trellis_ledger_checks_total", "Checks done to the end", ledger.checks.get()),
            each("trellis_ledger_dirty", "Minutes that wait for their rollups", &ledger.dirty),
        ]
    }
}
