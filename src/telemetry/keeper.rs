//! What the keeper of the journals counts: how long it takes to force them, and what that has cost.

use super::shard::{Cell, Histogram, Scale};

/// Written by the keeper of the journals.
#[derive(Debug)]
pub struct KeeperShard {
    /// One sync of one journal.
    pub sync_duration: Histogram,
    /// Syncs that failed.
    pub sync_failures: Cell,
    /// Bytes of the journal that could not be read back after a failed sync.
    pub possibly_lost_bytes: Cell,
}

impl KeeperShard {
    pub(super) fn new() -> Self {
        Self {
            sync_duration: Histogram::new(Scale::Durations),
            sync_failures: Cell::default(),
            possibly_lost_bytes: Cell::default(),
        }
    }
}
