//! What is watched beside the work itself.

use std::sync::{Arc, OnceLock};

use prometheus::proto::MetricFamily;

use super::caches::Caches;
use super::calls::Calls;
use super::figures::Board;
use super::runtimes::Runtimes;

/// Everything of it that a scrape shows.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// Set when there are dependencies to call.
    pub(super) calls: OnceLock<Arc<Calls>>,
    pub(super) board: Arc<Board>,
    pub(super) caches: Caches,
    pub(super) runtimes: Runtimes,
}

impl Watched {
    pub(super) fn families(&self) -> Vec<MetricFamily> {
        let calls = self.calls.get().map(|calls| calls.families()).into_iter().flatten();
        let caches = [self.caches.family()].into_iter();
        calls.chain(caches).chain(self.runtimes.families()).chain(self.board.families()).collect()
    }
}
