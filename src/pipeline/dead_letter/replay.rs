//! What a person does with refused rows: look, send again, give up.
//!
//! ```text
//! replay:  look for the rows in the store --all there--> stored
//!             |--missing--> number the attempt (on disk) --> send them under `<batch>/r<number>` --ok--> look again
//!             |                                                  |--one of them is bad--> each on its own
//!             |                                                  |--bad alone--> it waits, with the new reason
//!             ^---------- next replay ----------------------- no answer
//! ```
//! What is done is on the disk before the next step, and what may be in the store is looked for before it is sent: a
//! crash anywhere, or a second call, ends in the same state. Rows keep their batch, their label and what was observed;
//! country, agent and class are read anew. Each action writes one line with `audit=true` to the log. Called by the control API. Bounds: one action a
//! batch at a time; [`BATCHES_MAX`] batches, or [`TIME_MAX`] before the last one begins, in one replay of all.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use super::{Page, Refusal, RefusedRow, RowState, Shelf, Summary};
use crate::click::{Click, ClickId};
use crate::clock::Clock;
use crate::pipeline::enrich::Enricher;
use crate::pipeline::{Batch, Row, Store, StoreError};

/// Batches in one replay of all.
pub(super) const BATCHES_MAX: usize = 100;
/// A replay of all begins no further batch after this time.
pub(super) const TIME_MAX: Duration = Duration::from_secs(5);

/// Who acts, for the audit line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Whoever holds the control token.
    Token,
    /// A command on a folder without a node.
    CommandLine,
}

impl Actor {
    /// Its name in audit lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Token => "control token",
            Self::CommandLine => "command line",
        }
    }
}

/// Why an action was not done, or not to its end. What was done before stays done.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// Nothing of this batch was refused, or it is long settled.
    #[error("no row of batch {0} is among the dead letters")]
    Unknown(Uuid),
    /// Somebody is at it.
    #[error("batch {0} is being replayed or dropped just now")]
    Busy(Uuid),
    /// The shelf.
    #[error("the dead letters cannot be used: {0}")]
    Shelf(#[from] io::Error),
    /// The store did not take the rows, for a reason that is not theirs.
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// A batch of a page.
#[derive(Debug)]
pub struct Listed {
    /// Its id.
    pub batch: Uuid,
    /// What its file says.
    pub refusal: io::Result<Refusal>,
}

/// What a replay of one batch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Rows that the store has now and that waited before.
    pub stored: usize,
    /// Of these, rows that were found there without being sent.
    pub found: usize,
    /// Rows that still wait.
    pub waiting: usize,
}

/// What a replay of all did.
#[derive(Debug, Default)]
pub struct ReplayedAll {
    /// Batches that it went through.
    pub batches: usize,
    /// All of them together.
    pub rows: Replayed,
    /// Where it goes on; `None` at the end.
    pub next: Option<Uuid>,
    /// Why it stopped before.
    pub stopped: Option<DeadLetterError>,
}

/// What a drop did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Rows that waited and are given up now.
    pub dropped: usize,
}

/// Makes what reads countries and agents; called for each replay, so that a command that does none need not load it.
pub type EnricherMaker = Box<dyn Fn() -> Result<Enricher, String> + Send + Sync>;

/// The operator's side of the shelf "refused".
pub struct DeadLetters {
    shelf: Arc<Shelf>,
    store: Arc<dyn Store>,
    enricher: EnricherMaker,
    clock: Arc<dyn Clock>,
    actor: Actor,
    /// Batches with an action at work.
    busy: Mutex<HashSet<Uuid>>,
}

/// One action at work.
pub(super) struct Work<'a> {
    busy: &'a Mutex<HashSet<Uuid>>,
    batch: Uuid,
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.batch);
    }
}

impl DeadLetters {
    /// Of this shelf, for this store.
    #[must_use]
    pub fn new(
        shelf: Arc<Shelf>,
        store: Arc<dyn Store>,
        enricher: EnricherMaker,
        clock: Arc<dyn Clock>,
        actor: Actor,
    ) -> Self {
        Self { shelf, store, enricher, clock, actor, busy: Mutex::default() }
    }

    /// The shelf as a whole, and the batches of a page: all their rows, or why they cannot be read.
    ///
    /// # Errors
    /// Nobody could look.
    pub async fn list(&self, page: Page) -> Result<(Summary, Vec<Listed>), DeadLetterError> {
        self.on_shelf(move |shelf| {
            let read = |batch| match shelf.read(batch) {
                Ok(refusal) => refusal.map(|refusal| Listed { batch, refusal: Ok(refusal) }),
                Err(error) => Some(Listed { batch, refusal: Err(error) }),
            };
            let summary = shelf.summary();
            Ok((summary, shelf.page(page).into_iter().filter_map(read).collect()))
        })
        .await
    }

    /// Does something with the shelf where it may block.
    pub(super) async fn on_shelf<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shelf) -> io::Result<T> + Send + 'static,
    ) -> Result<T, DeadLetterError> {
        let shelf = Arc::clone(&self.shelf);
        Ok(tokio::task::spawn_blocking(move || work(&shelf)).await.map_err(io::Error::other)??)
    }

    /// All rows of a batch.
    ///
    /// # Errors
    /// There are none; the system's.
    pub async fn read(&self, batch: Uuid) -> Result<Refusal, DeadLetterError> {
        self.on_shelf(move |shelf| shelf.read(batch)).await?.ok_or(DeadLetterError::Unknown(batch))
    }

    /// Sends the rows of a batch that wait.
    ///
    /// # Errors
    /// Why some may still wait that the store did not refuse.
    pub async fn replay(&self, batch: Uuid) -> Result<Replayed, DeadLetterError> {
        let _work = self.begin(batch)?;
        let mut done = Replayed::default();
        let outcome = self.replay_into(batch, &mut done).await;
        self.audit("replay", batch, done.stored, done.waiting, &outcome);
        outcome.map(|()| done)
    }

    /// Sends what waits, oldest batch first, behind this one.
    ///
    /// # Errors
    /// Why nothing was done. What stops it later is in the answer.
    pub async fn replay_all(&self, behind: Option<Uuid>) -> Result<ReplayedAll, DeadLetterError> {
        let page = Page { behind, limit: BATCHES_MAX + 1, ..Page::default() };
        let batches = self.on_shelf(move |shelf| Ok(shelf.page(page))).await?;
        let (began, mut all, mut last) = (self.clock.now(), ReplayedAll::default(), behind);
        for batch in batches {
            if all.batches == BATCHES_MAX || self.clock.now().saturating_sub(began) >= TIME_MAX {
                all.next = last;
                break;
            }
            match self.replay(batch).await {
                Ok(done) => {
                    all.rows.stored += done.stored;
                    all.rows.found += done.found;
                    all.rows.waiting += done.waiting;
                }
                // Somebody else is at it, or was.
                Err(DeadLetterError::Busy(_) | DeadLetterError::Unknown(_)) => {}
                Err(error) if all.batches == 0 => return Err(error),
                Err(error) => {
                    (all.next, all.stopped) = (last, Some(error));
                    break;
                }
            }
            all.batches += 1;
            last = Some(batch);
        }
        Ok(all)
    }

    /// Gives up the rows of a batch that wait: their clicks are in no store, and cannot be got back.
    ///
    /// # Errors
    /// See [`DeadLetterError`].
    pub async fn give_up(&self, batch: Uuid) -> Result<Dropped, DeadLetterError> {
        let _work = self.begin(batch)?;
        let ids: Vec<_> = waiting(self.read(batch).await?).into_iter().map(|row| row.click_id).collect();
        let outcome = match ids.is_empty() {
            true => Ok(0),
            false => self.on_shelf(move |shelf| shelf.settle(batch, &ids, RowState::Dropped)).await,
        };
        self.audit("drop", batch, *outcome.as_ref().unwrap_or(&0), 0, &outcome);
        outcome.map(|dropped| Dropped { dropped })
    }

    pub(super) fn begin(&self, batch: Uuid) -> Result<Work<'_>, DeadLetterError> {
        let is_free = self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(batch);
        if is_free { Ok(Work { busy: &self.busy, batch }) } else { Err(DeadLetterError::Busy(batch)) }
    }

    async fn replay_into(&self, batch: Uuid, done: &mut Replayed) -> Result<(), DeadLetterError> {
        let refusal = self.read(batch).await?;
        let node: Arc<str> = refusal.node.as_str().into();
        let rows = waiting(refusal);
        done.waiting = rows.len();
        let missing = self.look(batch, rows, done).await?;
        done.found = done.stored;
        let (mut together, mut alone) = (vec![missing], Vec::new());
        while let Some(rows) = together.pop().or_else(|| alone.pop()).filter(|rows| !rows.is_empty()) {
            match self.send(batch, &node, &rows).await {
                Ok(()) => {
                    let not_there = self.look(batch, rows, done).await?;
                    if !not_there.is_empty() {
                        self.on_shelf(move |shelf| shelf.end_replay(batch)).await?;
                        let text = format!("it took {} rows and does not show them", not_there.len());
                        return Err(StoreError::Transient(text).into());
                    }
                }
                Err(DeadLetterError::Store(StoreError::Poison { .. } | StoreError::Divide(_))) if rows.len() > 1 => {
                    alone.extend(rows.into_iter().rev().map(|row| vec![row]));
                }
                Err(DeadLetterError::Store(StoreError::Poison { code, text })) => {
                    let id = rows[0].click_id;
                    self.on_shelf(move |shelf| shelf.refuse_again(batch, id, code, &text)).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Marks the rows that the store has; gives the others back.
    async fn look(
        &self,
        batch: Uuid,
        rows: Vec<RefusedRow>,
        done: &mut Replayed,
    ) -> Result<Vec<RefusedRow>, DeadLetterError> {
        let times = || rows.iter().map(|row| row.click_id.unix_ms());
        let (Some(first), Some(last)) = (times().min(), times().max()) else { return Ok(rows) };
        let there: HashSet<ClickId> = self.store.stored_of(batch, first..=last).await?.into_iter().collect();
        let (found, missing): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| there.contains(&row.click_id));
        if !found.is_empty() {
            let ids: Vec<_> = found.iter().map(|row| row.click_id).collect();
            let settled = self.on_shelf(move |shelf| shelf.settle(batch, &ids, RowState::Stored)).await?;
            done.stored += settled;
            done.waiting -= settled;
        }
        Ok(missing)
    }

    async fn send(&self, batch: Uuid, node: &Arc<str>, rows: &[RefusedRow]) -> Result<(), DeadLetterError> {
        let rows_again = self.enrich(rows)?;
        let ids: Vec<_> = rows.iter().map(|row| row.click_id).collect();
        let number = self.on_shelf(move |shelf| shelf.begin_replay(batch, &ids)).await?;
        let part = Batch::REPLAY + number;
        let sealed = self.store.seal(Batch { id: batch, part, node: Arc::clone(node), rows: rows_again });
        Ok(self.store.insert(&sealed).await?)
    }

    fn enrich(&self, rows: &[RefusedRow]) -> Result<Vec<Row>, DeadLetterError> {
        let mut enricher = (self.enricher)().map_err(io::Error::other)?;
        let mut enriched = Vec::with_capacity(rows.len());
        for row in rows {
            // The file's checksum held: this program or another version of it wrote what it cannot read.
            let click = Click::decode(&row.frame).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("the click {}: {error}", row.click_id))
            })?;
            enriched.push(enricher.enrich(&click, row.observed).row(row.frame.clone(), row.label));
        }
        Ok(enriched)
    }

    fn audit<T>(&self, action: &str, batch: Uuid, rows: usize, waiting: usize, outcome: &Result<T, DeadLetterError>) {
        let who = self.actor.name();
        let outcome = outcome.as_ref().err().map_or_else(|| "done".to_owned(), ToString::to_string);
        tracing::info!(audit = true, who, action, %batch, rows, waiting, outcome, "dead letters");
    }
}

/// The rows that wait.
fn waiting(refusal: Refusal) -> Vec<RefusedRow> {
    refusal.rows.into_iter().filter(|row| row.state == RowState::Waiting).collect()
}

impl fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters").field("shelf", &self.shelf).finish_non_exhaustive()
    }
}
