//! The port to the store, and the questions that the operator side asks it.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use super::Batch;
use super::months::Months;
use super::persons::Persons;
use crate::BoxFuture;
use crate::click::ClickId;
use crate::telemetry::figures::Figure;

/// A batch in the form in which a store takes it, made once and kept for every retry.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// The batch's id.
    pub id: Uuid,
    /// See [`Batch::part`].
    pub part: u32,
    /// The insert token: [`Batch::token`].
    pub token: String,
    /// Clicks in it.
    pub rows: usize,
    /// What is sent.
    pub payload: Payload,
}

/// What is sent to a store.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Encoded and compressed.
    Bytes(Bytes),
    /// As rows, for an embedded store.
    Rows(Arc<Batch>),
}

/// Why a store did not take a batch, cut by what the caller does.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// It will pass: network, overload, restart. Send again.
    #[error("{0}")]
    Transient(String),
    /// It is not known whether the batch was stored. Look for it before it is sent again.
    #[error("no answer in time: {0}")]
    Ambiguous(String),
    /// Nothing passes until a person changes something: a missing table, a wrong password. Send again, rarely.
    #[error("{text}")]
    Operator {
        /// The store's own number for it; 0 where there is none.
        code: u32,
        /// In its words.
        text: String,
    },
    /// It refuses the data of at least one row, and has stored none. Find the row.
    #[error("{text}")]
    Poison {
        /// The store's own number for it.
        code: u32,
        /// In its words.
        text: String,
    },
    /// Too many partitions in one batch. Send it in smaller parts.
    #[error("{0}")]
    Divide(String),
}

impl StoreError {
    /// What a person must change, where the store has no number for it.
    pub fn operator(text: impl Into<String>) -> Self {
        Self::Operator { code: 0, text: text.into() }
    }
}

/// Which clicks a question is about; an empty filter means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClickFilter {
    /// The host that was asked, where it is a domain in use; `*`: one that is not.
    pub domain: Option<String>,
    /// Slug; `/`: visits to no link.
    /// Organisation.
    pub org: Option<String>,
    /// Slug.
    pub link: Option<String>,
    /// Campaign.
    pub campaign: Option<String>,
    /// Unix milliseconds, inclusive.
    pub from_ms: Option<u64>,
    /// Unix milliseconds, exclusive.
    pub to_ms: Option<u64>,
}

/// The answer of `clicks/count`. Each click counts once, however often its row was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All clicks.
    pub total: u64,
    /// Labelled unique.
    pub unique: u64,
    /// Labelled duplicate.
    pub duplicate: u64,
    /// Labelled unknown.
    pub unknown: u64,
    /// By class; classes without a click are left out.
    pub by_class: BTreeMap<String, u64>,
}

/// A click as the store gives it back. Same names as the columns.
#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
#[allow(missing_docs, reason = "the columns of schema/clickhouse, described there")]
pub struct StoredClick {
    pub click_id: String,
    /// RFC 3339, milliseconds, UTC.
    pub ts: String,
    pub org: String,
    pub campaign: String,
    pub domain: String,
    pub link: String,
    pub path: String,
    pub rule: String,
    pub variant: String,
    pub destination: String,
    pub status: u16,
    pub external_click_id: String,
    pub source: String,
    pub class: String,
    pub reasons: Vec<String>,
    pub dedup: String,
    /// 0 to 100.
    pub fraud_score: u8,
    pub country: String,
    pub region: String,
    pub city: String,
    /// 0 when not known.
    pub asn: u32,
    pub device: String,
    pub os: String,
    pub browser: String,
    pub language: String,
    pub referrer: String,
    pub ua: String,
    pub ip: String,
    pub privacy: String,
    pub query: BTreeMap<String, String>,
    pub route_version: u64,
    pub node: String,
    pub batch_id: String,
}

/// A level of the rollups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Made of clicks.
    Minute,
    /// Made of minutes.
    Hour,
    /// Made of minutes.
    Day,
}

impl Level {
    /// Minutes of a line.
    #[must_use]
    pub const fn minutes(self) -> u64 {
        match self {
            Self::Minute => 1,
            Self::Hour => 60,
            Self::Day => 1440,
        }
    }
}

/// A minute, an hour or a day whose lines do not say what they are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Which rollup.
    pub level: Level,
    /// Whole minutes since 1970 at which it begins. Rolling this minute up mends it.
    pub minute: u64,
    /// Groups (link, campaign, class, label …) that differ.
    pub groups: u64,
    /// Clicks of these groups, as they should be.
    pub clicks: u64,
    /// What the lines say.
    pub counted: u64,
}

/// Differences that one comparison tells of: a whole day has 1440 minutes, 24 hours and itself.
pub const DIFFERENCES_MAX: usize = 1500;

/// What a step of [`Store::expire`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Clicks that were removed.
    pub clicks: u64,
    /// Whether there is more to remove.
    pub more: bool,
}

/// How often a link was followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkCount {
    /// Its slug; those of one slug under several domains are taken together.
    pub link: String,
    /// Clicks of people.
    pub people: u64,
    /// All of them.
    pub clicks: u64,
}

/// Where a page of clicks goes on: behind this click, towards older ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClickCursor {
    /// Time of the last click of the page before.
    pub unix_ms: u64,
    /// Its id.
    pub id: ClickId,
}

/// The port: where clicks are kept.
pub trait Store: Send + Sync {
    /// Its name in health and metrics: `sqlite` or `clickhouse`.
    fn name(&self) -> &'static str;

    /// Encodes a batch. Costs CPU, does no I/O.
    fn seal(&self, batch: Batch) -> Sealed;

    /// Stores a sealed batch, whole or not at all. Sending one batch twice stores it once.
    fn insert<'a>(&'a self, batch: &'a Sealed) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Which clicks of this batch are stored; their times lie in the span (Unix milliseconds). Asked before a batch is
    /// sent that may be there already.
    fn stored_of(&self, batch: Uuid, span_ms: RangeInclusive<u64>) -> BoxFuture<'_, Result<Vec<ClickId>, StoreError>>;

    /// Creates and upgrades the tables; the names of what was applied now. Safe to repeat.
    fn migrate(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>>;

    /// Whether it answers.
    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Counts clicks.
    fn count<'a>(&'a self, filter: &'a ClickFilter) -> BoxFuture<'a, Result<Counts, StoreError>>;

    /// Clicks, newest first, at most `limit`, behind the cursor.
    fn recent<'a>(
        &'a self,
        filter: &'a ClickFilter,
        behind: Option<ClickCursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredClick>, StoreError>>;

    /// The links with the most clicks of people in these minutes (whole minutes since 1970), the most first, at most `limit`.
    /// Asked of the rollups, which may lie behind. Visits without a link and those to none are left out, and so is the canary.
    fn top_links(&self, minutes: Range<u64>, limit: usize) -> BoxFuture<'_, Result<Vec<LinkCount>, StoreError>>;

    /// Computes the rollups of these minutes (whole minutes since 1970, in any order) anew, and the hours and days that
    /// they lie in. Repeating it changes nothing; it mends whatever a line said. To be called after clicks of these
    /// minutes were stored, and again when it failed. A call takes a statement for each hour and two for each day: hand
    /// over what was touched, not a year.
    fn roll_up<'a>(&'a self, minutes: &'a [u64]) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Whether it keeps the rollups by itself, with the clicks: then nothing is to be done after them.
    fn keeps_rollups(&self) -> bool {
        false
    }

    /// Where the rollups do not say what is stored (each hour of the range is a question), in the order of time, at most [`DIFFERENCES_MAX`]; the hours and days
    /// that these minutes lie in are compared whole. What has expired is left out.
    fn compare(&self, minutes: Range<u64>) -> BoxFuture<'_, Result<Vec<Difference>, StoreError>>;

    /// Clicks that are stored of one node (each hour of the range is a question), by the minute of the click (whole minutes since 1970), in the order of time.
    /// Each click counts once, however often its row was sent; minutes without a click are left out, and so is what has
    /// expired and was removed.
    fn counts_by_minute<'a>(
        &'a self,
        node: &'a str,
        minutes: Range<u64>,
    ) -> BoxFuture<'a, Result<Vec<(u64, u64)>, StoreError>>;

    /// Removes some of what has expired by this time (Unix milliseconds), in a bounded step; the rollups of what it takes
    /// go with it. A store that removes by itself has nothing to do.
    fn expire(&self, now_ms: u64) -> BoxFuture<'_, Result<Expired, StoreError>>;

    /// What it can say of itself.
    fn figures(&self) -> &'static [Figure] {
        &[]
    }

    /// One of its [figures](Store::figures).
    fn figure(&self, figure: Figure) -> BoxFuture<'_, Result<f64, StoreError>> {
        let unknown = StoreError::operator(format!("the store {} does not know {}", self.name(), figure.name()));
        Box::pin(std::future::ready(Err(unknown)))
    }

    /// What it knows of persons; `None` for a store that cannot look for them.
    fn persons(&self) -> Option<&dyn Persons> {
        None
    }

    /// What it says of its months; `None` for a store that keeps none.
    fn months(&self) -> Option<&dyn Months> {
        None
    }
}
