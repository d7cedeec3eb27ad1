//! What is watched beside the work itself.

use std::sync::{Arc, OnceLock};

use prometheus::proto::MetricFamily;

use super::calls::Calls;

/// Everything of it that a scrape shows.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// Set when there are dependencies to call.
    pub(super) calls: OnceLock<Arc<Calls>>,
}

impl Watched {
    pub(super) fn families(&self) -> Vec<MetricFamily> {
        self.calls.get().map(|calls| calls.families()).into_iter().flatten().collect()
    }
}
