//! Finding and erasing the rows of a person on the refused shelf.

use std::collections::HashSet;

use uuid::Uuid;

use super::{DeadLetterError, DeadLetters, Page, Refusal, RefusedRow, RowState};
use crate::click::{Click, ClickId};

const MINUTE_MS: u64 = 60_000;
/// What is left of a store's reason, which may quote the row.
const ERASED: &str = "erased";

/// Whether a click is one of the person's.
pub type IsMeant = std::sync::Arc<dyn Fn(&Click<'_>) -> bool + Send + Sync>;

fn is_meant(row: &RefusedRow, meant: &IsMeant) -> bool {
    row.state == RowState::Waiting && Click::decode(&row.frame).is_ok_and(|click| meant(&click))
}

/// Nothing of the click is left but its minute, which the books go by.
fn strip(row: &mut RefusedRow) {
    row.click_id = ClickId::new(row.click_id.unix_ms() / MINUTE_MS * MINUTE_MS, &[0; 10]);
    row.frame = bytes::Bytes::new();
    row.reason = ERASED.into();
}

impl DeadLetters {
    /// The rows that wait and are meant, with batch and node.
    ///
    /// # Errors
    /// The system's.
    pub async fn find(&self, meant: IsMeant) -> Result<Vec<Refusal>, DeadLetterError> {
        self.on_shelf(move |shelf| {
            let mut found = Vec::new();
            for batch in shelf.page(all(false)) {
                let Some(mut refusal) = shelf.read(batch)? else { continue };
                refusal.rows.retain(|row| is_meant(row, &meant));
                if !refusal.rows.is_empty() {
                    found.push(refusal);
                }
            }
            Ok(found)
        })
        .await
    }

    /// Erases the rows that wait and are meant, and what files say of clicks of these ids that were stored or dropped; how
    /// many waited.
    ///
    /// # Errors
    /// Somebody replays or drops one of their batches; the system's. What was erased before stays erased.
    pub async fn erase(&self, meant: IsMeant, ids: HashSet<ClickId>) -> Result<u64, DeadLetterError> {
        let batches: Vec<Uuid> = self.on_shelf(|shelf| Ok(shelf.page(all(true)))).await?;
        let ids = std::sync::Arc::new(ids);
        let mut erased = 0;
        for batch in batches {
            let (meant, ids) = (std::sync::Arc::clone(&meant), std::sync::Arc::clone(&ids));
            let _work = self.begin(batch)?;
            erased += self
                .on_shelf(move |shelf| {
                    let Some(refusal) = shelf.read(batch)? else { return Ok(0) };
                    let told = |row: &RefusedRow| row.reason != ERASED && ids.contains(&row.click_id);
                    if !refusal.rows.iter().any(|row| is_meant(row, &meant) || told(row)) {
                        return Ok(0);
                    }
                    shelf.change(batch, |kept| {
                        let mut erased = 0;
                        for row in &mut kept.refusal.rows {
                            let waits = is_meant(row, &meant);
                            if waits {
                                row.state = RowState::Erased;
                                erased += 1;
                            }
                            if waits || (row.state != RowState::Waiting && told(row)) {
                                kept.sending.retain(|id| *id != row.click_id);
                                strip(row);
                            }
                        }
                        erased
                    })
                })
                .await?;
        }
        Ok(erased)
    }
}

fn all(settled: bool) -> Page {
    Page { settled, limit: usize::MAX, ..Page::default() }
}
