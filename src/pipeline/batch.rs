//! A batch: a contiguous range of one core's journal, one month, at most `batch.rows_max` clicks.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::Label;
use crate::catalog::agents::Agent;
use crate::click::{Class, Reasons};

/// One click on its way to the store: its frame as the edge wrote it, and what the worker found out.
#[derive(Clone, Debug)]
pub struct Row {
    /// The frame, shared with the group it came in; decodes to a [`crate::click::Click`].
    pub frame: Bytes,
    /// ISO 3166-1 alpha-2; `None` when the address is in no country.
    pub country: Option<[u8; 2]>,
    /// Who clicked.
    pub class: Class,
    /// Why.
    pub reasons: Reasons,
    /// What the deduper said.
    pub dedup: Label,
    /// What the user agent says.
    pub agent: Agent,
}

/// Rows that go to the store together, or not at all.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The insert token; stored with each row.
    pub id: Uuid,
    /// Name of this node; stored with each row.
    pub node: Arc<str>,
    /// In the order of the journal.
    pub rows: Vec<Row>,
}
