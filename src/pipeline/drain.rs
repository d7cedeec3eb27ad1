//! How a worker is told to end, and how it ended.

/// How far a worker is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drain {
    /// Working.
    No,
    /// Bring what is there to the store, without waiting for batches to fill, and end.
    Yes,
    /// End now; the rest stays in the journal.
    Stop,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Everything in the journal is in the store.
    pub finished: bool,
    /// Part of the journal could not be read.
    pub damaged: bool,
}
