//! What all batches of a process share on their way to the store: how failures are met, who goes first, and where refused
//! rows are kept.

use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use super::breaker::Breaker;
use super::dead_letter::Shelf;
use super::pace::Pace;
use super::retry::Policy;

/// Rows that may be bad in one batch. With more it is not the rows: the table and this program do not fit together.
pub const BAD_ROWS_MAX: usize = 8;

/// Made once by `app`, shared by all workers.
#[derive(Debug)]
pub struct Delivery {
    /// Open while the store is away.
    pub breaker: Arc<Breaker>,
    /// Pauses between tries.
    pub retry: Policy,
    /// Live clicks before the backlog.
    pub pace: Pace,
    /// Rows that the store has refused.
    pub shelf: Arc<Shelf>,
    /// What the store has refused last.
    pub refusals: Refusals,
}

/// Remembers the code of the last refusal, across batches: the same code in the next batch is taken for a matter of the
/// table, not of the rows.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Option<(u32, Uuid)>>);

impl Refusals {
    /// Whether the rows of a batch that was refused with this code may be refused, too: false when the batch before it
    /// was refused with the same one.
    pub fn may_be_rows(&self, code: u32, batch: Uuid) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *last {
            Some((before, of)) if before == code && of != batch => false,
            _ => {
                *last = Some((code, batch));
                true
            }
        }
    }

    /// A batch was stored whole.
    pub fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_batches_in_a_row_with_the_same_code_are_not_a_matter_of_rows() {
        let (refusals, batch) = (Refusals::default(), Uuid::from_u128);
        assert!(refusals.may_be_rows(469, batch(1)));
        assert!(refusals.may_be_rows(469, batch(1)), "the same batch again");
        assert!(!refusals.may_be_rows(469, batch(2)));
        assert!(refusals.may_be_rows(6, batch(2)), "another code");
        refusals.clear();
        assert!(refusals.may_be_rows(6, batch(3)), "one was stored whole in between");
    }
}
