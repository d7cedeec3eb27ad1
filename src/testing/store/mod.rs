//! A store that follows a script and keeps what it is given in memory.

mod answers;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

use self::answers::{matches, stored};
use crate::BoxFuture;
use crate::click::{Click, ClickId};
use crate::pipeline::store::{ClickCursor, Difference, Expired, Level, LinkCount};
use crate::pipeline::{Batch, ClickFilter, Counts, Label, Payload, Row, Sealed, Store, StoreError, StoredClick};

const MINUTE_MS: u64 = 60_000;

/// What becomes of one call of `insert`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// Stored, and said so.
    #[default]
    Stored,
    /// Not stored: [`StoreError::Transient`].
    Transient,
    /// Not stored: [`StoreError::Operator`], without a code.
    Operator,
    /// Not stored: [`StoreError::Poison`] with this code.
    Poison(u32),
    /// Not stored: [`StoreError::Divide`].
    Divide,
    /// Stored, but the answer was lost: [`StoreError::Ambiguous`].
    AmbiguousStored,
    /// Not stored, and the answer was lost: [`StoreError::Ambiguous`].
    AmbiguousLost,
    /// So many of the rows stored, the first ones, and the answer was lost: [`StoreError::Ambiguous`].
    AmbiguousFirst(usize),
    /// Not stored, and never answered: the future stays pending for good.
    Hang,
}

/// A store of the tests. Shared by `Arc`; the script may be changed while it runs.
#[derive(Debug)]
pub struct ScriptedStore {
    state: Mutex<State>,
    /// Whether answers are held back.
    held: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    script: VecDeque<Outcome>,
    then: Outcome,
    calls: Vec<Call>,
    clicks: BTreeMap<ClickId, (Arc<Batch>, usize)>,
    /// Links and clicks whose rows are refused, and the code.
    bad_links: HashMap<String, u32>,
    bad_clicks: HashMap<ClickId, u32>,
    /// Clicks by the minute, as rolled up.
    rollup: BTreeMap<u64, u64>,
    rolled_up: Vec<Vec<u64>>,
    latency: Duration,
    in_flight: usize,
    in_flight_max: usize,
}

/// An insert that has not been answered; its end, or its being dropped, ends it.
struct InFlight<'a>(&'a ScriptedStore);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.state().in_flight -= 1;
    }
}

/// One call of `insert`.
#[derive(Clone, Debug)]
struct Call {
    batch: Arc<Batch>,
    outcome: Outcome,
}

impl ScriptedStore {
    /// These outcomes, one a call of `insert`, and `then` for every call behind them.
    #[must_use]
    pub fn new(script: impl IntoIterator<Item = Outcome>, then: Outcome) -> Self {
        let script = script.into_iter().collect();
        Self { state: Mutex::new(State { script, then, ..State::default() }), held: watch::Sender::new(false) }
    }

    /// From now on every call ends like this.
    pub fn always(&self, then: Outcome) {
        let mut state = self.state();
        state.script.clear();
        state.then = then;
    }

    /// From now on an insert that holds a row of this link stores nothing: [`StoreError::Poison`] with this code. Goes
    /// before what the script says, where that would store something.
    pub fn refuse_link(&self, link: &str, code: u32) {
        self.state().bad_links.insert(link.to_owned(), code);
    }

    /// The same for these clicks.
    pub fn refuse_clicks(&self, ids: impl IntoIterator<Item = ClickId>, code: u32) {
        self.state().bad_clicks.extend(ids.into_iter().map(|id| (id, code)));
    }

    /// Nothing is refused any more.
    pub fn refuse_nothing(&self) {
        let mut state = self.state();
        state.bad_links.clear();
        state.bad_clicks.clear();
    }

    /// From now on every answer comes so much later. What is stored is stored when the call comes.
    pub fn answer_after(&self, latency: Duration) {
        self.state().latency = latency;
    }

    /// Holds every answer back until [`ScriptedStore::let_go`].
    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    /// See [`ScriptedStore::hold`].
    pub fn let_go(&self) {
        self.held.send_replace(false);
    }

    /// Every call of `roll_up` that was answered well, in their order.
    #[must_use]
    pub fn rolled_up(&self) -> Vec<Vec<u64>> {
        self.state().rolled_up.clone()
    }

    /// Makes the rollup of a minute say this.
    pub fn plant_rollup(&self, minute: u64, clicks: u64) {
        self.state().rollup.insert(minute, clicks);
    }

    /// Inserts without an answer now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.state().in_flight
    }

    /// The most inserts that were without an answer at one time.
    #[must_use]
    pub fn in_flight_max(&self) -> usize {
        self.state().in_flight_max
    }

    /// Every call of `insert` so far, in their order: the token, the rows, and what became of it.
    #[must_use]
    pub fn calls(&self) -> Vec<(String, Vec<Row>, Outcome)> {
        self.state().calls.iter().map(|call| (call.batch.token(), call.batch.rows.clone(), call.outcome)).collect()
    }

    /// The ids of the clicks that it holds, in the order of their times.
    #[must_use]
    pub fn click_ids(&self) -> Vec<ClickId> {
        self.state().clicks.keys().copied().collect()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next outcome of the script and does what it says, but for the answer.
    fn take(&self, sealed: &Sealed) -> Outcome {
        let Payload::Rows(batch) = &sealed.payload else { panic!("the batch was sealed by another store") };
        let mut state = self.state();
        state.in_flight += 1;
        state.in_flight_max = state.in_flight_max.max(state.in_flight);
        let mut outcome = state.script.pop_front().unwrap_or(state.then);
        let mut stored = match outcome {
            Outcome::Stored | Outcome::AmbiguousStored => batch.rows.len(),
            Outcome::AmbiguousFirst(rows) => rows,
            Outcome::Transient
            | Outcome::Operator
            | Outcome::Poison(_)
            | Outcome::Divide
            | Outcome::AmbiguousLost
            | Outcome::Hang => 0,
        };
        let clicks = || batch.rows.iter().map(|row| Click::decode(&row.frame).expect("a worker has decoded it"));
        if stored > 0
            && let Some(code) = clicks().find_map(|click| state.refuses(&click))
        {
            (outcome, stored) = (Outcome::Poison(code), 0);
        }
        state.calls.push(Call { batch: Arc::clone(batch), outcome });
        for (i, click) in clicks().enumerate().take(stored) {
            state.clicks.entry(click.id).or_insert_with(|| (Arc::clone(batch), i));
        }
        outcome
    }

    /// Until the answer may be given.
    async fn wait(&self) {
        let latency = self.state().latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        // The sender lives as long as this store.
        let _ = self.held.subscribe().wait_for(|held| !held).await;
    }

    fn matching(&self, filter: &ClickFilter) -> Vec<StoredClick> {
        let state = self.state();
        let all = state.clicks.values().map(|(batch, i)| stored(batch, &batch.rows[*i]));
        all.filter(|(unix_ms, click)| matches(filter, *unix_ms, click)).map(|(_, click)| click).collect()
    }
}

impl State {
    /// Everything but `insert` is answered while an insert would be.
    fn answers(&self) -> Result<(), StoreError> {
        match self.then {
            Outcome::Stored => Ok(()),
            _ => Err(StoreError::Transient("as the script says".into())),
        }
    }

    fn count_minute(&self, minute: u64) -> u64 {
        self.clicks.keys().filter(|id| id.unix_ms() / MINUTE_MS == minute).count() as u64
    }

    /// The code with which the row of this click is refused.
    fn refuses(&self, click: &Click<'_>) -> Option<u32> {
        self.bad_links.get(click.link).or_else(|| self.bad_clicks.get(&click.id)).copied()
    }
}

impl Store for ScriptedStore {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn seal(&self, batch: Batch) -> Sealed {
        Sealed {
            id: batch.id,
            part: batch.part,
            token: batch.token(),
            rows: batch.rows.len(),
            payload: Payload::Rows(Arc::new(batch)),
        }
    }

    fn insert<'a>(&'a self, batch: &'a Sealed) -> BoxFuture<'a, Result<(), StoreError>> {
        let (outcome, in_flight) = (self.take(batch), InFlight(self));
        let text = || "as the script says".to_owned();
        Box::pin(async move {
            let _in_flight = in_flight;
            self.wait().await;
            match outcome {
                Outcome::Stored => Ok(()),
                Outcome::Transient => Err(StoreError::Transient(text())),
                Outcome::Operator => Err(StoreError::operator(text())),
                Outcome::Poison(code) => Err(StoreError::Poison { code, text: text() }),
                Outcome::Divide => Err(StoreError::Divide(text())),
                Outcome::AmbiguousStored | Outcome::AmbiguousLost | Outcome::AmbiguousFirst(_) => {
                    Err(StoreError::Ambiguous(text()))
                }
                Outcome::Hang => std::future::pending().await,
            }
        })
    }

    fn stored_of(&self, batch: Uuid, _: RangeInclusive<u64>) -> BoxFuture<'_, Result<Vec<ClickId>, StoreError>> {
        let clicks = &self.state().clicks;
        let ids = clicks.iter().filter(|(_, (of, _))| of.id == batch).map(|(id, _)| *id).collect();
        Box::pin(std::future::ready(Ok(ids)))
    }

    fn migrate(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(std::future::ready(self.state().answers()))
    }

    fn count<'a>(&'a self, filter: &'a ClickFilter) -> BoxFuture<'a, Result<Counts, StoreError>> {
        let mut counts = Counts::default();
        for click in self.matching(filter) {
            counts.total += 1;
            counts.unique += u64::from(click.dedup == Label::Unique.name());
            counts.duplicate += u64::from(click.dedup == Label::Duplicate.name());
            counts.unknown += u64::from(click.dedup == Label::Unknown.name());
            *counts.by_class.entry(click.class).or_default() += 1;
        }
        Box::pin(std::future::ready(Ok(counts)))
    }

    fn recent<'a>(
        &'a self,
        filter: &'a ClickFilter,
        behind: Option<ClickCursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredClick>, StoreError>> {
        let behind = behind.map(|cursor| cursor.id.to_string());
        let older = |click: &StoredClick| behind.as_ref().is_none_or(|id| click.click_id < *id);
        let page = self.matching(filter).into_iter().rev().filter(older).take(limit).collect();
        Box::pin(std::future::ready(Ok(page)))
    }

    fn top_links(&self, minutes: Range<u64>, limit: usize) -> BoxFuture<'_, Result<Vec<LinkCount>, StoreError>> {
        let span = minutes.start * MINUTE_MS..minutes.end * MINUTE_MS;
        let filter = ClickFilter { from_ms: Some(span.start), to_ms: Some(span.end), ..ClickFilter::default() };
        let mut counts = BTreeMap::<String, (u64, u64)>::new();
        for click in self.matching(&filter) {
            let (people, clicks) = counts.entry(click.link).or_default();
            (*people, *clicks) = (*people + u64::from(click.class == "human"), *clicks + 1);
        }
        let mut top: Vec<_> =
            counts.into_iter().map(|(link, (people, clicks))| LinkCount { link, people, clicks }).collect();
        top.sort_by_key(|one| std::cmp::Reverse((one.people, one.clicks)));
        top.truncate(limit);
        Box::pin(std::future::ready(self.state().answers().map(|()| top)))
    }

    fn roll_up<'a>(&'a self, minutes: &'a [u64]) -> BoxFuture<'a, Result<(), StoreError>> {
        let mut state = self.state();
        let answer = state.answers();
        if answer.is_ok() {
            for minute in minutes {
                let clicks = state.count_minute(*minute);
                state.rollup.insert(*minute, clicks);
            }
            state.rolled_up.push(minutes.to_vec());
        }
        Box::pin(std::future::ready(answer))
    }

    fn compare(&self, minutes: Range<u64>) -> BoxFuture<'_, Result<Vec<Difference>, StoreError>> {
        let state = self.state();
        let difference = |minute: u64| {
            let (clicks, counted) = (state.count_minute(minute), state.rollup.get(&minute).copied().unwrap_or(0));
            (clicks != counted).then_some(Difference { level: Level::Minute, minute, groups: 1, clicks, counted })
        };
        Box::pin(std::future::ready(state.answers().map(|()| minutes.filter_map(difference).collect())))
    }

    fn counts_by_minute<'a>(
        &'a self,
        node: &'a str,
        minutes: Range<u64>,
    ) -> BoxFuture<'a, Result<Vec<(u64, u64)>, StoreError>> {
        let state = self.state();
        let mut counts = BTreeMap::<u64, u64>::new();
        for (id, _) in state.clicks.iter().filter(|(_, (batch, _))| *batch.node == *node) {
            *counts.entry(id.unix_ms() / MINUTE_MS).or_default() += 1;
        }
        counts.retain(|minute, _| minutes.contains(minute));
        Box::pin(std::future::ready(state.answers().map(|()| counts.into_iter().collect())))
    }

    /// Keeps everything.
    fn expire(&self, _: u64) -> BoxFuture<'_, Result<Expired, StoreError>> {
        Box::pin(std::future::ready(self.state().answers().map(|()| Expired::default())))
    }
}
