//! What is done by the ledger, again and again: rollups of minutes in which something was stored, and a look whether the
//! books balance and the store has what they say.
//!
//! Both remember what is left to do by what the books say, so that no crash makes them forget: a minute is *dirty* while
//! the clicks stored of it are not those that its rollups were computed of. `app` calls in here, every few seconds and
//! every minute. Bounds: `rollup.minutes_max` minutes and [`HOURS_MAX`] hours a call. When the store is away, nothing is
//! lost and nobody is told: its monitor has said so.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::minutes::MINUTE_MS;
use super::{BooksError, Changes, Ledger, Line};
use crate::pipeline::{Store, StoreError};

const HOUR: u64 = 60;
/// Hours that one check looks at; the next goes on behind them.
const HOURS_MAX: usize = 24;
/// Minutes that the first look after a start compares with the store: what was stored shortly before the end.
const LOOK_BACK_MINUTES: u64 = 2 * HOUR;

/// Why nothing was done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpkeepError {
    /// The books cannot be read or written.
    #[error("the ledger: {0}")]
    Books(#[from] BooksError),
    /// The store did not answer.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// The process is ending.
    #[error("it was broken off")]
    Ended,
}

/// What one check has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Minutes that were looked at.
    pub minutes: usize,
    /// Minutes, residual and clicks that the store has beyond what the ledger says, of those that are wrong.
    pub wrong: Vec<(u64, i64, i64)>,
}

/// A minute that is wrong, as it was seen last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suspect {
    residual: i64,
    difference: i64,
    /// Seen twice the same, and told.
    told: bool,
}

/// Computes the rollups of the oldest dirty minutes, so many at most; how many it were.
///
/// # Errors
/// [`UpkeepError`]; the minutes stay dirty.
pub async fn roll_up(ledger: &Arc<Ledger>, store: &dyn Store, most: usize) -> Result<usize, UpkeepError> {
    let due = blocking(ledger, move |ledger| ledger.take_dirty(most)).await?;
    let minutes: Vec<_> = due.iter().map(|(minute, _)| *minute).collect();
    if due.is_empty() {
        return Ok(0);
    }
    let computed = if store.keeps_rollups() { Ok(()) } else { store.roll_up(&minutes).await };
    let rolled = match computed {
        Ok(()) => blocking(ledger, move |ledger| ledger.note_rolled(due)).await,
        Err(error) => Err(error.into()),
    };
    if rolled.is_err() {
        ledger.put_back(&minutes);
    }
    ledger.publish();
    rolled.map(|()| minutes.len())
}

/// Checks minutes in which something has happened: whether they balance, and whether the store has of this node what the
/// ledger says. `from_ms`: clicks before this time may have expired, and are not looked for.
///
/// # Errors
/// [`UpkeepError`]; the minutes are checked the next time.
pub async fn check(ledger: &Arc<Ledger>, store: &dyn Store, from_ms: u64) -> Result<Checked, UpkeepError> {
    let hours = ledger.take_touched();
    let mut all = Checked::default();
    let mut stopped = None;
    for minutes in hours.into_values() {
        if stopped.is_none() {
            match check_minutes(ledger, store, &minutes, from_ms).await {
                Ok(found) => {
                    all.minutes += minutes.len();
                    all.wrong.extend(found);
                    continue;
                }
                Err(error) => stopped = Some(error),
            }
        }
        ledger.state().touched.extend(minutes);
    }
    ledger.publish();
    if let Some(error) = stopped {
        return Err(error);
    }
    ledger.figures.checks.add(1);
    Ok(all)
}

/// Minutes of one hour.
async fn check_minutes(
    ledger: &Arc<Ledger>,
    store: &dyn Store,
    minutes: &BTreeSet<u64>,
    from_ms: u64,
) -> Result<Vec<(u64, i64, i64)>, UpkeepError> {
    let lines = |span: Range<u64>| blocking(ledger, move |ledger| Ok(ledger.lines(span)?));
    let (Some(first), Some(last)) = (minutes.first(), minutes.last()) else { return Ok(Vec::new()) };
    // No more than these: the store counts every click of them.
    let span = *first..last + 1;
    let before = lines(span.clone()).await?;
    let named_since = ledger.state().named_since;
    let unexpired = from_ms.div_ceil(MINUTE_MS).max(named_since).clamp(span.start, span.end)..span.end;
    let in_store =
        if unexpired.is_empty() { Vec::new() } else { store.counts_by_minute(&ledger.node, unexpired.clone()).await? };
    let in_store: BTreeMap<u64, u64> = in_store.into_iter().collect();
    let before: BTreeMap<u64, Line> = before.into_iter().map(|line| (line.minute, line)).collect();
    let mut wrong = Vec::new();
    let after = lines(span).await?;
    let mut state = ledger.state();
    for line in after.iter().filter(|line| minutes.contains(&line.minute)) {
        let minute = line.minute;
        let was = before.get(&minute).copied().unwrap_or_default();
        let difference = if unexpired.contains(&minute) && was.stored == line.stored {
            // What is on its way may be there already.
            let on_its_way = was.in_flight.max(line.in_flight);
            let most = if state.may_be_short(minute) { u64::MAX } else { line.stored + on_its_way };
            let found = in_store.get(&minute).copied().unwrap_or(0);
            found.cast_signed() - found.clamp(line.stored, most).cast_signed()
        } else {
            0
        };
        let is_settled = line.in_flight == 0 && was.stored == line.stored;
        if !is_settled || line.residual() != 0 || difference != 0 {
            state.touched.insert(minute);
        }
        if line.residual() != 0 || difference != 0 {
            wrong.push((minute, line.residual(), difference));
        }
        state.note_suspect(minute, line.residual(), difference);
    }
    Ok(wrong)
}

impl super::State {
    /// A difference may pass while something happens; one that is seen twice is told.
    fn note_suspect(&mut self, minute: u64, residual: i64, difference: i64) {
        let time = crate::clock::rfc_3339(minute.saturating_mul(MINUTE_MS));
        let before = self.suspects.get(&minute).copied();
        if residual == 0 && difference == 0 {
            if self.suspects.remove(&minute).is_some_and(|suspect| suspect.told) {
                tracing::info!(minute = time, "the ledger is right again");
            }
            return;
        }
        let same = before.is_some_and(|b| b.residual == residual && b.difference == difference);
        let told = same && before.is_some_and(|b| b.told);
        if same && !told {
            tracing::error!(minute = time, residual, difference, "the ledger does not balance: see trellis ledger");
        }
        self.suspects.insert(minute, Suspect { residual, difference, told: same });
    }
}

impl Ledger {
    /// Marks what an earlier process may have left wrong, to be checked. Blocks.
    ///
    /// # Errors
    /// [`BooksError`]
    pub fn look_back(&self) -> Result<(), BooksError> {
        let lines = self.lines(0..u64::MAX)?;
        let recent = (self.clock.wall_ms() / MINUTE_MS).saturating_sub(LOOK_BACK_MINUTES);
        let open = |line: &&Line| line.minute >= recent || line.residual() != 0 || line.in_flight > 0;
        let minutes: Vec<_> = lines.iter().filter(open).map(|line| line.minute).collect();
        self.state().touched.extend(minutes);
        Ok(())
    }

    /// Marks minutes in which the shelf has changed since the last time: rows were refused, replayed or dropped.
    fn look_at_shelf(&self) {
        let now = self.shelf.tally();
        let mut state = self.state();
        let before = std::mem::take(&mut state.on_shelf);
        let changed = now.keys().chain(before.keys()).filter(|minute| now.get(minute) != before.get(minute));
        let changed: Vec<_> = changed.copied().collect();
        state.dirty.extend(&changed);
        state.touched.extend(changed);
        state.on_shelf = now;
    }

    /// The oldest dirty minutes, each with the clicks that are stored of it. They are no longer dirty.
    fn take_dirty(&self, most: usize) -> Result<Vec<(u64, u64)>, UpkeepError> {
        self.look_at_shelf();
        // Before anything is read: what is stored from here on makes its minute dirty again.
        let mut state = self.state();
        let minutes: Vec<_> = state.dirty.iter().copied().take(most).collect();
        state.dirty.retain(|minute| minutes.binary_search(minute).is_err());
        drop(state);
        let due = self.stored_of(&minutes);
        if due.is_err() {
            self.put_back(&minutes);
        }
        Ok(due?)
    }

    /// Of these minutes, in the order of time, those whose rollups were computed of other clicks than are stored.
    fn stored_of(&self, minutes: &[u64]) -> Result<Vec<(u64, u64)>, BooksError> {
        let mut due = Vec::new();
        for near in minutes.chunk_by(|a, b| b - a < HOUR) {
            let range = near[0]..near[near.len() - 1] + 1;
            let rolled: BTreeMap<u64, u64> = self.books().rolled(range.clone())?.into_iter().collect();
            let lines = self.lines(range)?.into_iter().map(|line| (line.minute, line.stored));
            let differs = |(minute, stored): &(u64, u64)| {
                near.binary_search(minute).is_ok() && rolled.get(minute).copied().unwrap_or(0) != *stored
            };
            due.extend(lines.filter(differs));
        }
        Ok(due)
    }

    fn note_rolled(&self, rolled: Vec<(u64, u64)>) -> Result<(), UpkeepError> {
        Ok(self.books().change(&Changes { rolled, ..Changes::default() })?)
    }

    fn put_back(&self, minutes: &[u64]) {
        self.state().dirty.extend(minutes);
    }

    /// Hours with minutes that are to be checked, from where the last check ended.
    fn take_touched(&self) -> BTreeMap<u64, BTreeSet<u64>> {
        let mut state = self.state();
        let mut hours = BTreeMap::<u64, BTreeSet<u64>>::new();
        let from = state.check_from;
        let minutes: Vec<_> = state.touched.range(from..).chain(state.touched.range(..from)).copied().collect();
        for minute in minutes {
            let hour = minute - minute % HOUR;
            if hours.len() == HOURS_MAX && !hours.contains_key(&hour) {
                state.check_from = hour;
                break;
            }
            hours.entry(hour).or_default().insert(minute);
            state.touched.remove(&minute);
        }
        hours
    }

    fn publish(&self) {
        let state = self.state();
        let told = || state.suspects.values().filter(|suspect| suspect.told);
        self.figures.residual.set(told().map(|suspect| suspect.residual.unsigned_abs()).sum());
        self.figures.difference.set(told().map(|suspect| suspect.difference.unsigned_abs()).sum());
        self.figures.dirty.set(state.dirty.len() as u64);
    }
}

/// Asks the ledger where waiting for a disk holds nobody up.
async fn blocking<T: Send + 'static>(
    ledger: &Arc<Ledger>,
    ask: impl FnOnce(&Ledger) -> Result<T, UpkeepError> + Send + 'static,
) -> Result<T, UpkeepError> {
    let ledger = Arc::clone(ledger);
    tokio::task::spawn_blocking(move || ask(&ledger)).await.unwrap_or(Err(UpkeepError::Ended))
}
