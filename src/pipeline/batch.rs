//! A batch: a contiguous range of one core's journal, one month, at most `batch.rows_max` clicks and
//! [`BATCH_MINUTES_MAX`](super::ledger::BATCH_MINUTES_MAX) minutes.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::Label;
use super::ledger::Minutes;
use crate::catalog::agents::Agent;
use crate::catalog::geo::Place;
use crate::click::{Class, Reasons};
use crate::segment::Position;

/// One click on its way to the store: its frame as the edge wrote it, and what the worker found out.
#[derive(Clone, Debug)]
pub struct Row {
    /// The frame, shared with the group it came in; decodes to a [`crate::click::Click`].
    pub frame: Bytes,
    /// ISO 3166-1 alpha-2; `None` when the address is in no country.
    pub country: Option<[u8; 2]>,
    /// Where in it, and in whose network.
    pub place: Place,
    /// Who clicked.
    pub class: Class,
    /// Why.
    pub reasons: Reasons,
    /// How much speaks against a person; at most 100.
    pub fraud_score: u8,
    /// What the deduper said.
    pub dedup: Label,
    /// What the user agent says.
    pub agent: Agent,
}

/// Rows that go to the store together, or not at all.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its name, stored with each row, and the insert token.
    pub id: Uuid,
    /// 0 for the whole batch; n for the rows that were missing when it was looked for the n-th time; [`Batch::REPLAY`] + n
    /// for rows of the shelf "refused" that are sent for the n-th time.
    pub part: u32,
    /// Name of this node; stored with each row.
    pub node: Arc<str>,
    /// In the order of the journal.
    pub rows: Vec<Row>,
}

impl Batch {
    /// Parts from here on are replays: far above what a batch can be divided into.
    pub const REPLAY: u32 = 1 << 31;

    /// The insert token: different rows never have the same one.
    #[must_use]
    pub fn token(&self) -> String {
        match (self.part, self.part.checked_sub(Self::REPLAY)) {
            (0, _) => self.id.to_string(),
            (_, Some(replay)) => format!("{}/r{replay}", self.id),
            (part, None) => format!("{}/{part}", self.id),
        }
    }
}

/// The batch that is being filled.
#[derive(Default)]
pub(super) struct Open {
    pub(super) rows: Vec<Row>,
    /// Where its range ends, once it has one.
    pub(super) end: Option<Position>,
    /// All clicks of its range, by the minute.
    pub(super) taken: Minutes,
    /// Unix milliseconds of its month: a batch goes into one partition.
    pub(super) month_ms: Range<u64>,
    /// Monotonic time of its first row.
    pub(super) since: Duration,
}

/// A batch id of this moment: a UUID version 7, so that ids sort by time.
pub(super) fn new_id(unix_ms: u64) -> Uuid {
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid()
}

/// The Unix milliseconds of the UTC month around a moment: the store's partition.
pub(super) fn month_around(unix_ms: u64) -> Range<u64> {
    let found = || -> Option<Range<u64>> {
        let time = jiff::Timestamp::from_millisecond(i64::try_from(unix_ms).ok()?).ok()?;
        let first = time.to_zoned(jiff::tz::TimeZone::UTC).first_of_month().ok()?.start_of_day().ok()?;
        let next = first.checked_add(jiff::Span::new().months(1)).ok()?;
        let ms = |zoned: &jiff::Zoned| u64::try_from(zoned.timestamp().as_millisecond()).ok();
        Some(ms(&first)?..ms(&next)?)
    };
    // A time that no calendar has is a month of its own.
    found().unwrap_or(unix_ms..unix_ms.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_begins_and_ends_at_midnight_utc() {
        // 2024-02-01T00:00:00Z to 2024-03-01T00:00:00Z
        let february = 1_706_745_600_000..1_709_251_200_000;
        assert_eq!(month_around(february.start), february);
        assert_eq!(month_around(february.end - 1), february);
        assert_eq!(month_around(february.start - 1).end, february.start);
        assert_eq!(month_around(u64::MAX), u64::MAX..u64::MAX);
    }

    #[test]
    fn parts_of_a_batch_have_tokens_of_their_own() {
        let batch = |part| Batch { id: Uuid::nil(), part, node: "n".into(), rows: Vec::new() };
        assert_eq!(batch(0).token(), "00000000-0000-0000-0000-000000000000");
        assert_eq!(batch(2).token(), "00000000-0000-0000-0000-000000000000/2");
        assert_eq!(batch(Batch::REPLAY + 2).token(), "00000000-0000-0000-0000-000000000000/r2");
    }
}
