//! What the world knows of every click, and what must be true in the end.

use std::collections::{BTreeMap, BTreeSet};

use trellis::click::ClickId;
use trellis::pipeline::dead_letter::{Page, RefusedRow, RowState, Shelf};

use crate::deduper::SimDeduper;
use crate::store::{DRIFT, Raw, SimStore};

/// Rows of one batch that the pipeline may take for bad ones.
const BAD_ROWS_MAX: u32 = trellis::pipeline::delivery::BAD_ROWS_MAX as u32;

/// What the visitor was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing: the node ended before.
    None,
    /// A redirect with an `X-Click-Id`.
    Kept,
    /// One without.
    Refused,
}

/// One click that the edge was given.
#[derive(Clone, Debug)]
pub(crate) struct Pushed {
    pub(crate) id: ClickId,
    pub(crate) link: &'static str,
    pub(crate) query_bytes: usize,
    pub(crate) answer: Answer,
    /// The store refuses it, if nobody mends the table.
    pub(crate) poison: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Books {
    pub(crate) clicks: Vec<Pushed>,
    pub(crate) numbers: BTreeMap<ClickId, usize>,
    /// A power cut may have taken these, or a disk that does not give them back.
    pub(crate) may_be_missing: BTreeSet<ClickId>,
    /// A bit of their records was flipped.
    pub(crate) damaged: BTreeSet<ClickId>,
    /// A frozen batch may have been lost with the disk: its clicks may be in another one, with other labels.
    pub(crate) may_refreeze: bool,
    /// Clicks that were refused may be on the disk all the same.
    pub(crate) may_store_refused: bool,
    /// Files of refused rows may have been damaged.
    pub(crate) may_lose_refused: bool,
    /// Times that a table that fits no row met a node that had not seen it yet.
    pub(crate) drifts: u32,
    /// The table has fitted no row for a while: good ones may have been refused.
    pub(crate) has_drifted: bool,
    /// Parts of journals that nodes reported as damaged.
    pub(crate) reported: u64,
}

impl Books {
    pub(crate) fn push(&mut self, pushed: Pushed) -> usize {
        let number = self.clicks.len();
        self.numbers.insert(pushed.id, number);
        self.clicks.push(pushed);
        number
    }

    /// What the store holds: every row of it is a click of the edge's, as it was given, with a label that the deduper gave.
    pub(crate) fn check_store(&self, store: &SimStore, deduper: &SimDeduper) -> Result<(), String> {
        if let Some(wrong) = store.wrong().first() {
            return Err(wrong.clone());
        }
        for (id, copies) in store.raw() {
            let Some(click) = self.numbers.get(&id).map(|number| &self.clicks[*number]) else {
                return Err(format!("click {id} is in the store, and no edge was given it"));
            };
            if click.answer == Answer::Refused && !self.may_store_refused {
                return Err(format!("click {id} is in the store, and its visitor was told that it is not kept"));
            }
            for copy in &copies {
                if (copy.link.as_str(), copy.query_bytes) != (click.link, click.query_bytes) {
                    return Err(format!("click {id} is in the store with another's content: {copy:?}"));
                }
                if !deduper.has_said(id, copy.label) {
                    return Err(format!("click {id} has the label {:?}, which nobody gave it", copy.label));
                }
            }
            if !self.may_refreeze {
                self.check_copies(id, &copies)?;
            }
        }
        Ok(())
    }

    /// Without damage a click is in one batch, with one label, and sent once as far as anybody could tell.
    fn check_copies(&self, id: ClickId, copies: &[Raw]) -> Result<(), String> {
        let first = &copies[0];
        if let Some(other) = copies.iter().find(|copy| copy.batch != first.batch || copy.label != first.label) {
            return Err(format!("click {id} was frozen twice: {first:?}, {other:?}"));
        }
        let in_time = copies.iter().filter(|copy| !copy.late).count();
        if in_time > 1 {
            return Err(format!("click {id} has {in_time} rows of batch {}", first.batch));
        }
        Ok(())
    }

    /// What is on the shelf: rows that the store has refused, and no good ones.
    pub(crate) fn check_shelf(&self, shelf: &Shelf, store: &SimStore) -> Result<(), String> {
        let (raw, mut by_drift) = (store.raw(), 0);
        for row in rows(shelf)? {
            let Some(click) = self.numbers.get(&row.click_id).map(|number| &self.clicks[*number]) else {
                return Err(format!("click {} is refused, and no edge was given it", row.click_id));
            };
            if row.code == DRIFT {
                by_drift += 1;
            } else if !click.poison {
                return Err(format!("click {} is refused, and there is nothing wrong with it", row.click_id));
            }
            let copies = raw.get(&row.click_id).into_iter().flatten().filter(|copy| !copy.late).count();
            if row.state == RowState::Waiting && copies > 0 && !self.may_refreeze {
                return Err(format!("click {} is refused, and in the store", row.click_id));
            }
        }
        if by_drift > BAD_ROWS_MAX * self.drifts {
            return Err(format!("{by_drift} rows were refused for the table's sake, in {} drifts", self.drifts));
        }
        Ok(())
    }

    /// In the end, with all shelves empty: what was acknowledged is stored.
    pub(crate) fn check_complete(&self, store: &SimStore, shelf: &Shelf) -> Result<(), String> {
        let raw = store.raw();
        if let Some(row) = rows(shelf)?.iter().find(|row| row.state != RowState::Stored) {
            return Err(format!("click {} is still on the shelf: {:?}", row.click_id, row.state));
        }
        let kept = self.clicks.iter().filter(|click| click.answer == Answer::Kept);
        for click in kept.filter(|click| !raw.contains_key(&click.id)) {
            let excused =
                self.may_be_missing.contains(&click.id) || self.may_lose_refused && (click.poison || self.has_drifted);
            let damaged = self.damaged.contains(&click.id);
            if damaged && !excused && self.reported == 0 {
                return Err(format!("click {} was damaged, and nobody reported it", click.id));
            }
            if !damaged && !excused {
                return Err(format!("click {} was acknowledged and is nowhere", click.id));
            }
        }
        Ok(())
    }
}

fn rows(shelf: &Shelf) -> Result<Vec<RefusedRow>, String> {
    let page = Page { settled: true, limit: usize::MAX, ..Page::default() };
    let mut rows = Vec::new();
    for batch in shelf.page(page) {
        let refusal = shelf.read(batch).map_err(|error| format!("the shelf: {error}"))?;
        rows.extend(refusal.into_iter().flat_map(|refusal| refusal.rows));
    }
    Ok(rows)
}
