//! What a store says of the months that it keeps, and how it is told to merge one that is over.
//!
//! The operator side calls in here. Bounds: an entry for each table, month and column.

use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::BoxFuture;

/// A month of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Month {
    /// `clicks`, `rollup_1m`, `rollup_1h` or `rollup_1d`; on a cluster with `_local` behind it.
    pub table: String,
    /// `2026-11`, UTC.
    pub month: String,
    /// Pieces on the disk. A month that is merged is one.
    pub parts: u64,
    /// Rows, those that were sent twice and not merged yet counted twice.
    pub rows: u64,
    /// Bytes on the disk, without marks and indices.
    pub compressed: u64,
    /// Bytes before compression.
    pub uncompressed: u64,
    /// Whether the month is over, by the store's clock.
    pub over: bool,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// As [`Month::table`].
    pub table: String,
    /// Its name.
    pub column: String,
    /// Bytes on the disk.
    pub compressed: u64,
    /// Bytes before compression.
    pub uncompressed: u64,
}

/// How much a store keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By table, oldest month first.
    pub months: Vec<Month>,
    /// By table, the largest first. Of small pieces the store does not know the sizes of columns.
    pub columns: Vec<Column>,
}

/// What became of a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merge {
    /// The table has no rows of this month.
    Unknown,
    /// The month is not over: rows still come, and the store merges them by itself.
    NotOver,
    /// It was one piece already; nothing was done.
    Nothing(Month),
    /// It goes on in the store; ask again.
    Running {
        /// Whether this call began it.
        begun: bool,
    },
    /// As it was, and as it is.
    Done {
        /// Before.
        before: Month,
        /// After.
        after: Month,
    },
}

/// The port to a store that keeps clicks by month.
pub trait Months: Send + Sync {
    /// How much there is. Of a cluster: on the server that answers.
    fn report(&self) -> BoxFuture<'_, Result<Report, StoreError>>;

    /// Merges a month (`2026-10`) that is over into one piece, which removes rows that were sent twice and those that have
    /// expired. Answers within half a minute, whether it is done or not; safe to repeat.
    fn merge<'a>(&'a self, table: &'a str, month: &'a str) -> BoxFuture<'a, Result<Merge, StoreError>>;
}
