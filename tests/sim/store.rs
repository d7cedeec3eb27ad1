//! The store of the simulation: rows as they were sent, before `FINAL`, insert tokens, and every way to fail.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use trellis::BoxFuture;
use trellis::click::{Click, ClickId, Reasons};
use trellis::pipeline::store::{ClickCursor, Difference, Expired, LinkCount};
use trellis::pipeline::{Batch, ClickFilter, Counts, Label, Payload, Row, Sealed, Store, StoreError, StoredClick};
use uuid::Uuid;

use crate::disk::{Watched, look};
use crate::trace::say;

/// The code of a table that fits no row.
pub(crate) const DRIFT: u32 = 16_000;

/// How often, of 1,000 calls, each failure strikes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mood {
    pub(crate) transient: u32,
    pub(crate) operator: u32,
    pub(crate) divide: u32,
    /// Stored, and the answer is lost.
    pub(crate) ambiguous_stored: u32,
    /// Not stored, and the answer is lost.
    pub(crate) ambiguous_lost: u32,
    /// Some rows are stored, and the answer is lost.
    pub(crate) ambiguous_part: u32,
    /// The answer is lost, and it is stored some calls later.
    pub(crate) late: u32,
    pub(crate) look_fails: u32,
    pub(crate) latency_ms_max: u64,
}

impl Mood {
    /// Nothing passes.
    pub(crate) const AWAY: Self = Self {
        transient: 700,
        operator: 0,
        divide: 0,
        ambiguous_stored: 0,
        ambiguous_lost: 300,
        ambiguous_part: 0,
        late: 0,
        look_fails: 1_000,
        latency_ms_max: 5,
    };
}

/// A mistake of the store, planted to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreBug {
    /// It acknowledges one batch and drops it.
    DropsABatch,
    /// It says of a batch whose fate is not known that it is stored.
    SaysStored,
    /// It stores batches twice, whatever their token.
    StoresTwice,
    /// It makes up a click.
    MakesOneUp,
    /// It refuses a good row.
    RefusesAGoodOne,
}

/// One row as it was sent.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) batch: Uuid,
    pub(crate) label: Label,
    /// It came when nobody counted on it any more: a second copy of it is the store's doing.
    pub(crate) late: bool,
    pub(crate) link: String,
    pub(crate) query_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    random: fastrand::Rng,
    mood: Mood,
    raw: BTreeMap<ClickId, Vec<Raw>>,
    /// What was stored under a token, from its first row on.
    tokens: HashMap<String, Vec<ClickId>>,
    /// Label and reasons of each row of a batch, as they were sent first.
    sent: HashMap<(Uuid, ClickId), (Label, Reasons)>,
    /// Batches that are stored after so many more calls.
    late: Vec<(u32, Arc<Batch>)>,
    poison: BTreeMap<ClickId, u32>,
    drifts: bool,
    bug: Option<StoreBug>,
    inserts: u32,
    open_inserts: usize,
    open_rows: usize,
    open_inserts_max: usize,
    open_rows_max: usize,
    /// What no store should see.
    wrong: Vec<String>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct SimStore {
    state: Mutex<State>,
    watch: Watched,
}

struct OpenInsert<'a>(&'a SimStore, usize);

impl Drop for OpenInsert<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.open_inserts -= 1;
        state.open_rows -= self.1;
    }
}

impl SimStore {
    pub(crate) fn new(seed: u64, watch: Watched, bug: Option<StoreBug>) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { state: Mutex::new(State { random, bug, ..State::default() }), watch }
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        self.state().mood = mood;
    }

    /// No row fits the table.
    pub(crate) fn set_drift(&self, drifts: bool) {
        self.state().drifts = drifts;
    }

    pub(crate) fn refuse(&self, click: ClickId, code: u32) {
        self.state().poison.insert(click, code);
    }

    /// A person has changed the table: it takes every row.
    pub(crate) fn mend(&self) {
        let mut state = self.state();
        (state.drifts, state.mood) = (false, Mood::default());
        state.poison.clear();
    }

    /// What was late comes now.
    pub(crate) fn settle(&self) {
        let mut state = self.state();
        for (_, batch) in std::mem::take(&mut state.late) {
            state.put(&batch, batch.rows.len(), true);
        }
    }

    /// The most inserts, and rows in them, that were open at one time since the last call.
    pub(crate) fn take_most(&self) -> (usize, usize) {
        let mut state = self.state();
        let most = (state.open_inserts_max, state.open_rows_max);
        (state.open_inserts_max, state.open_rows_max) = (state.open_inserts, state.open_rows);
        most
    }

    pub(crate) fn raw(&self) -> BTreeMap<ClickId, Vec<Raw>> {
        self.state().raw.clone()
    }

    pub(crate) fn inserts(&self) -> u32 {
        self.state().inserts
    }

    pub(crate) fn wrong(&self) -> Vec<String> {
        self.state().wrong.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A dead process gets no answer.
    async fn answer(&self, wait: Duration) {
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        if look(&self.watch).is_dead() {
            std::future::pending().await
        }
    }
}

/// The numbers of a batch's clicks.
fn clicks(batch: &Batch) -> String {
    let ids = batch.rows.iter().filter_map(|row| trellis::click::frame::click_id(&row.frame));
    format!("{:?}", ids.map(|id| id.as_u64_pair().1 & 0xff_ffff).collect::<Vec<_>>())
}

impl State {
    fn strikes(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.random.u32(..1000) < per_mille
    }

    fn latency(&mut self) -> Duration {
        Duration::from_millis(self.random.u64(..=self.mood.latency_ms_max))
    }

    /// What became of an insert, and what is said of it.
    fn insert(&mut self, batch: &Arc<Batch>) -> Result<(), StoreError> {
        let mood = self.mood;
        let text = || "simulated".to_owned();
        self.inserts += 1;
        self.compare_with_before(batch);
        self.land();
        if self.strikes(mood.transient) {
            return Err(StoreError::Transient(text()));
        }
        if self.strikes(mood.operator) {
            return Err(StoreError::operator(text()));
        }
        if batch.rows.len() > 1 && self.strikes(mood.divide) {
            return Err(StoreError::Divide(text()));
        }
        if self.strikes(mood.ambiguous_lost) {
            return if self.bug == Some(StoreBug::SaysStored) { Ok(()) } else { Err(StoreError::Ambiguous(text())) };
        }
        if self.bug == Some(StoreBug::RefusesAGoodOne) && self.inserts == 3 {
            self.poison.extend(trellis::click::frame::click_id(&batch.rows[0].frame).map(|id| (id, 6)));
        }
        if let Some(code) = batch.rows.iter().find_map(|row| self.refuses(row)) {
            return Err(StoreError::Poison { code, text: text() });
        }
        if self.strikes(mood.late) {
            let calls = self.random.u32(1..20);
            self.late.push((calls, Arc::clone(batch)));
            return Err(StoreError::Ambiguous(text()));
        }
        if self.strikes(mood.ambiguous_part) {
            let rows = self.random.usize(..=batch.rows.len());
            self.put(batch, rows, false);
            return Err(StoreError::Ambiguous(text()));
        }
        match self.bug {
            Some(StoreBug::DropsABatch) if self.inserts == 3 => return Ok(()),
            Some(StoreBug::StoresTwice) => {
                self.put(batch, batch.rows.len(), false);
                self.tokens.clear();
            }
            Some(StoreBug::MakesOneUp) if self.inserts == 3 => {
                let first = self.raw_of(batch, &batch.rows[0], false);
                self.raw.insert(ClickId::new(1, &[9; 10]), vec![first]);
            }
            _ => {}
        }
        self.put(batch, batch.rows.len(), false);
        if self.strikes(mood.ambiguous_stored) { Err(StoreError::Ambiguous(text())) } else { Ok(()) }
    }

    /// Batches whose time has come.
    fn land(&mut self) {
        self.late.iter_mut().for_each(|(calls, _)| *calls -= 1);
        let due: Vec<_> = self.late.extract_if(.., |(calls, _)| *calls == 0).collect();
        for (_, batch) in due {
            self.put(&batch, batch.rows.len(), true);
        }
    }

    fn refuses(&self, row: &Row) -> Option<u32> {
        if self.drifts {
            return Some(DRIFT);
        }
        self.poison.get(&trellis::click::frame::click_id(&row.frame)?).copied()
    }

    /// The first rows of a batch. A token stands for places, not for rows: what was stored at a place is not stored there
    /// again, whatever it is.
    fn put(&mut self, batch: &Batch, rows: usize, late: bool) {
        let ids: Vec<_> = batch.rows.iter().filter_map(|row| trellis::click::frame::click_id(&row.frame)).collect();
        let known = self.tokens.get(&batch.token()).cloned().unwrap_or_default();
        if batch.part == 0 && !ids.starts_with(&known) {
            self.wrong.push(format!("batch {} was sent with other rows than before", batch.id));
        }
        for (id, row) in ids.iter().zip(&batch.rows).take(rows).skip(known.len()) {
            let raw = self.raw_of(batch, row, late);
            self.raw.entry(*id).or_default().push(raw);
        }
        self.tokens.insert(batch.token(), ids[..rows.max(known.len()).min(ids.len())].to_vec());
    }

    /// A row that is sent again with its batch says what it said before, also after a restart, which remembers nothing.
    fn compare_with_before(&mut self, batch: &Batch) {
        for row in &batch.rows {
            let Some(id) = trellis::click::frame::click_id(&row.frame) else { continue };
            let says = (row.dedup, row.reasons);
            let sent = *self.sent.entry((batch.id, id)).or_insert(says);
            if sent != says {
                self.wrong.push(format!("{id} of batch {} was {sent:?}, and is sent as {says:?}", batch.id));
            }
        }
    }

    fn raw_of(&mut self, batch: &Batch, row: &Row, late: bool) -> Raw {
        let (link, query_bytes) = match Click::decode(&row.frame) {
            Ok(click) => (click.link.to_owned(), click.query.len()),
            Err(error) => {
                self.wrong.push(format!("a row of batch {}: {error}", batch.id));
                (String::new(), 0)
            }
        };
        Raw { batch: batch.id, label: row.dedup, late, link, query_bytes }
    }
}

impl Store for SimStore {
    fn name(&self) -> &'static str {
        "simulated"
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

    fn insert<'a>(&'a self, sealed: &'a Sealed) -> BoxFuture<'a, Result<(), StoreError>> {
        let Payload::Rows(batch) = &sealed.payload else { panic!("the batch was sealed by another store") };
        let (wait, begins_at_once) = {
            let mut state = self.state();
            state.open_inserts += 1;
            state.open_rows += sealed.rows;
            state.open_inserts_max = state.open_inserts_max.max(state.open_inserts);
            state.open_rows_max = state.open_rows_max.max(state.open_rows);
            (state.latency(), state.random.bool())
        };
        let open = OpenInsert(self, sealed.rows);
        Box::pin(async move {
            let _open = open;
            self.answer(if begins_at_once { Duration::ZERO } else { wait }).await;
            let answer = self.state().insert(batch);
            say(|| format!("    insert {} of {}: {answer:?}", batch.token(), clicks(batch)));
            self.answer(if begins_at_once { wait } else { Duration::ZERO }).await;
            answer
        })
    }

    fn stored_of(&self, batch: Uuid, span: RangeInclusive<u64>) -> BoxFuture<'_, Result<Vec<ClickId>, StoreError>> {
        let wait = self.state().latency();
        Box::pin(async move {
            self.answer(wait).await;
            let mut state = self.state();
            let mood = state.mood;
            if state.strikes(mood.look_fails) {
                return Err(StoreError::Transient("simulated".into()));
            }
            state.land();
            let of_batch = |(id, raw): (&ClickId, &Vec<Raw>)| {
                (span.contains(&id.unix_ms()) && raw.iter().any(|raw| raw.batch == batch)).then_some(*id)
            };
            let found: Vec<_> = state.raw.iter().filter_map(of_batch).collect();
            say(|| format!("    look for {batch}: {} rows", found.len()));
            Ok(found)
        })
    }

    fn migrate(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn count<'a>(&'a self, _: &'a ClickFilter) -> BoxFuture<'a, Result<Counts, StoreError>> {
        let total = self.state().raw.len() as u64;
        Box::pin(std::future::ready(Ok(Counts { total, ..Counts::default() })))
    }

    fn recent<'a>(
        &'a self,
        _: &'a ClickFilter,
        _: Option<ClickCursor>,
        _: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredClick>, StoreError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn roll_up<'a>(&'a self, _: &'a [u64]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn compare(&self, _: Range<u64>) -> BoxFuture<'_, Result<Vec<Difference>, StoreError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn top_links(&self, _: Range<u64>, _: usize) -> BoxFuture<'_, Result<Vec<LinkCount>, StoreError>> {
        unreachable!("nobody looks at it")
    }

    fn counts_by_minute<'a>(&'a self, _: &'a str, _: Range<u64>) -> BoxFuture<'a, Result<Vec<(u64, u64)>, StoreError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn expire(&self, _: u64) -> BoxFuture<'_, Result<Expired, StoreError>> {
        Box::pin(std::future::ready(Ok(Expired::default())))
    }
}
