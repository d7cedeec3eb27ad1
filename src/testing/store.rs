//! A store that follows a script and keeps what it is given in memory.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use crate::BoxFuture;
use crate::click::query::Parameters;
use crate::click::{Click, ClickId};
use crate::pipeline::store::ClickCursor;
use crate::pipeline::{Batch, ClickFilter, Counts, Label, Payload, Row, Sealed, Store, StoreError, StoredClick};

/// What becomes of one call of `insert`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored, and said so.
    Stored,
    /// Not stored: [`StoreError::Transient`].
    Transient,
    /// Not stored: [`StoreError::Operator`].
    Operator,
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
}

#[derive(Debug)]
struct State {
    script: VecDeque<Outcome>,
    then: Outcome,
    calls: Vec<Call>,
    clicks: BTreeMap<ClickId, (Arc<Batch>, usize)>,
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
        Self { state: Mutex::new(State { script, then, calls: Vec::new(), clicks: BTreeMap::new() }) }
    }

    /// From now on every call ends like this.
    pub fn always(&self, then: Outcome) {
        let mut state = self.state();
        state.script.clear();
        state.then = then;
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
        let outcome = state.script.pop_front().unwrap_or(state.then);
        state.calls.push(Call { batch: Arc::clone(batch), outcome });
        let stored = match outcome {
            Outcome::Stored | Outcome::AmbiguousStored => batch.rows.len(),
            Outcome::AmbiguousFirst(rows) => rows,
            Outcome::Transient | Outcome::Operator | Outcome::AmbiguousLost | Outcome::Hang => 0,
        };
        for (i, row) in batch.rows.iter().enumerate().take(stored) {
            let id = Click::decode(&row.frame).expect("a worker sends what it has decoded").id;
            state.clicks.entry(id).or_insert_with(|| (Arc::clone(batch), i));
        }
        outcome
    }

    fn matching(&self, filter: &ClickFilter) -> Vec<StoredClick> {
        let state = self.state();
        let all = state.clicks.values().map(|(batch, i)| stored(batch, &batch.rows[*i]));
        all.filter(|(unix_ms, click)| matches(filter, *unix_ms, click)).map(|(_, click)| click).collect()
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
        let outcome = self.take(batch);
        let text = || "as the script says".to_owned();
        Box::pin(async move {
            match outcome {
                Outcome::Stored => Ok(()),
                Outcome::Transient => Err(StoreError::Transient(text())),
                Outcome::Operator => Err(StoreError::Operator(text())),
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
        let up = matches!(self.state().then, Outcome::Stored);
        Box::pin(std::future::ready(if up { Ok(()) } else { Err(StoreError::Transient("as the script says".into())) }))
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
}

fn matches(filter: &ClickFilter, unix_ms: u64, click: &StoredClick) -> bool {
    filter.link.as_ref().is_none_or(|link| *link == click.link)
        && filter.campaign.as_ref().is_none_or(|campaign| *campaign == click.campaign)
        && filter.from_ms.is_none_or(|from| unix_ms >= from)
        && filter.to_ms.is_none_or(|to| unix_ms < to)
}

/// The row as a real store gives it back, and its time.
fn stored(batch: &Batch, row: &Row) -> (u64, StoredClick) {
    let click = Click::decode(&row.frame).expect("decoded when it was stored");
    let mut parameters = Parameters::default();
    parameters.read(click.query);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let unix_ms = click.id.unix_ms();
    let time = jiff::Timestamp::from_millisecond(i64::try_from(unix_ms).unwrap_or_default());
    let stored = StoredClick {
        click_id: click.id.to_string(),
        ts: time.map_or_else(|_| String::new(), |time| format!("{time:.3}")),
        org: click.org.into(),
        campaign: click.campaign.into(),
        link: click.link.into(),
        destination: text(click.destination),
        status: click.status,
        external_click_id: text(parameters.get("click_id")),
        source: text(parameters.get("source")),
        class: row.class.name().into(),
        reasons: row.reasons.names().map(str::to_owned).collect(),
        dedup: row.dedup.name().into(),
        country: row.country.map_or_else(String::new, |country| text(&country)),
        device: row.agent.device.into(),
        os: row.agent.os.into(),
        browser: row.agent.browser.into(),
        language: text(click.language),
        referrer: text(click.referrer),
        ua: text(click.ua),
        ip: click.address.map_or_else(String::new, |address| address.to_string()),
        query: parameters.iter().map(|(key, value)| (text(key), text(value))).collect(),
        route_version: click.route_version,
        node: batch.node.to_string(),
        batch_id: batch.id.to_string(),
    };
    (unix_ms, stored)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::agents::Agent;
    use crate::click::{Class, Reasons};

    fn batch(ids: std::ops::Range<u64>) -> Batch {
        let row = |unix_ms| {
            let mut frame = Vec::new();
            let click = Click {
                id: ClickId::new(unix_ms, &[1; 10]),
                fingerprint: None,
                head: false,
                prefetch: false,
                status: 302,
                route_version: 1,
                address: None,
                country: None,
                org: "default",
                campaign: "",
                link: "a",
                destination: b"https://a.example/",
                referrer: b"",
                ua: b"",
                language: b"",
                query: "",
            };
            click.encode(&mut frame);
            Row {
                frame: frame.into(),
                country: None,
                class: Class::Human,
                reasons: Reasons::default(),
                dedup: Label::Unique,
                agent: Agent { browser: "Other", os: "Other", device: "other", crawler: false },
            }
        };
        Batch { id: Uuid::from_u128(1), part: 0, node: "n".into(), rows: ids.map(row).collect() }
    }

    #[tokio::test]
    async fn the_script_decides_what_is_stored_and_what_is_said() {
        use Outcome::{AmbiguousLost, AmbiguousStored, Operator, Stored, Transient};
        let store = ScriptedStore::new([Transient, Operator, AmbiguousLost, AmbiguousStored], Stored);
        let sealed = store.seal(batch(0..3));
        assert!(matches!(store.insert(&sealed).await, Err(StoreError::Transient(_))));
        assert!(matches!(store.insert(&sealed).await, Err(StoreError::Operator(_))));
        assert!(matches!(store.insert(&sealed).await, Err(StoreError::Ambiguous(_))));
        assert!(store.click_ids().is_empty());
        assert!(matches!(store.insert(&sealed).await, Err(StoreError::Ambiguous(_))));
        assert_eq!(store.click_ids().len(), 3);
        store.insert(&sealed).await.unwrap();
        assert_eq!(store.count(&ClickFilter::default()).await.unwrap().total, 3);
        assert_eq!(store.calls().len(), 5);
        store.always(Transient);
        assert!(store.insert(&sealed).await.is_err() && store.ping().await.is_err());
    }

    #[tokio::test]
    async fn pages_are_newest_first() {
        let store = ScriptedStore::new([], Outcome::Stored);
        store.insert(&store.seal(batch(0..5))).await.unwrap();
        let page = store.recent(&ClickFilter::default(), None, 2).await.unwrap();
        let last: ClickId = page[1].click_id.parse().unwrap();
        assert_eq!(last.unix_ms(), 3);
        let behind = Some(ClickCursor { unix_ms: 3, id: last });
        assert_eq!(store.recent(&ClickFilter::default(), behind, 9).await.unwrap().len(), 3);
    }
}
