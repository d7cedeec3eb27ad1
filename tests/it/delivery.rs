//! What becomes of a batch: bad rows, stores that will not, and an outage behind the clicks of now.

#![cfg(feature = "testing")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use trellis::click::ClickId;
use trellis::handoff::{Follower, Intake};
use trellis::pipeline::worker::Drain;
use trellis::pipeline::{Claim, Deduper, Label};
use trellis::testing::{Outcome, ScriptedStore};

use crate::bench::{Bench, push, sorted};
use crate::harness::eventually;

/// 469: a constraint of the table is violated.
const CODE: u32 = 469;

/// All clicks in one batch, which ends when the journal is closed.
const ONE_BATCH: [(&str, &str); 2] = [("batch.age_max", "10m"), ("batch.in_flight_max", "1")];

fn waiting_on_the_shelf(bench: &Bench) -> u64 {
    bench.delivery.shelf.tally().values().map(|tally| tally.waiting).sum()
}

fn stored(bench: &Bench) -> BTreeSet<ClickId> {
    bench.store.click_ids().into_iter().collect()
}

#[test]
fn a_bad_row_among_ten_thousand_is_refused_and_its_siblings_are_stored() {
    let bench = Bench::new(ScriptedStore::new([], Outcome::Stored), &ONE_BATCH);
    let (run, intake, follower) = bench.begin();
    let mut intake = intake();
    let ids = push(&mut intake, bench.now_ms(), 0..10_000);
    bench.store.refuse_clicks([ids[6_789]], CODE);
    intake.close();
    let (worker, _drain) = bench.start(follower, 0);
    assert!(worker.join().expect("no panic").expect("no error").finished);
    let expected: BTreeSet<_> = ids.iter().copied().filter(|id| *id != ids[6_789]).collect();
    assert_eq!(stored(&bench), expected);
    let calls = bench.store.calls();
    assert!(calls.len() < 40, "{} inserts for one bad row", calls.len());
    let tokens: BTreeSet<_> = calls.iter().map(|(token, _, _)| token.clone()).collect();
    assert_eq!(tokens.len(), calls.len(), "different rows never have the same token");
    let metrics = bench.metrics.worker(0);
    assert_eq!((metrics.stored.get(), metrics.refused.get(), metrics.batches_parked.get()), (9_999, 1, 0));
    let batch = calls[0].0.parse().expect("the first token is the batch's id");
    assert_eq!(bench.delivery.shelf.of_batch(batch).expect("readable"), [ids[6_789]]);
    assert_eq!(waiting_on_the_shelf(&bench), 1);
    run.end(true).expect("removed");
}

#[test]
fn of_eight_bad_rows_each_is_refused_and_with_a_ninth_nothing_is() {
    for (bad, refused) in [(8, 8), (9, 0)] {
        let bench = Bench::new(ScriptedStore::new([], Outcome::Stored), &ONE_BATCH);
        let (_run, intake, follower) = bench.begin();
        let mut intake = intake();
        let ids = push(&mut intake, bench.now_ms(), 0..500);
        bench.store.refuse_clicks(ids.iter().copied().step_by(50).take(bad), CODE);
        intake.close();
        let (worker, _drain) = bench.start(follower, 0);
        if refused == 0 {
            eventually("the batch is parked", || bench.metrics.worker(0).batches_parked.get() == 1);
            assert_eq!(waiting_on_the_shelf(&bench), 0);
            // A person mends the table.
            bench.store.refuse_nothing();
        }
        assert!(worker.join().expect("no panic").expect("no error").finished);
        assert_eq!(stored(&bench).len(), 500 - refused);
        assert_eq!(waiting_on_the_shelf(&bench), refused as u64);
        assert_eq!(bench.metrics.worker(0).batches_parked.get(), 0);
    }
}

#[test]
fn a_row_that_was_refused_before_the_table_was_mended_is_asked_again() {
    // The batch, one half of it, one row of that; then somebody mends the table.
    let bench = Bench::new(ScriptedStore::new([Outcome::Poison(CODE); 3], Outcome::Stored), &ONE_BATCH);
    let (_run, intake, follower) = bench.begin();
    let mut intake = intake();
    let ids = push(&mut intake, bench.now_ms(), 0..4);
    intake.close();
    let (worker, _drain) = bench.start(follower, 0);
    assert!(worker.join().expect("no panic").expect("no error").finished);
    let rows: Vec<_> = bench.store.calls().iter().map(|(_, rows, _)| rows.len()).collect();
    assert_eq!(rows, [4, 2, 1, 1, 2, 1]);
    assert_eq!(sorted(bench.store.click_ids()), sorted(ids));
    assert_eq!(waiting_on_the_shelf(&bench), 0);
}

#[test]
fn the_same_code_in_two_batches_in_a_row_parks_the_second() {
    let settings = [("batch.rows_max", "100"), ("batch.in_flight_max", "1")];
    let bench = Bench::new(ScriptedStore::new([], Outcome::Stored), &settings);
    let (_run, intake, follower) = bench.begin();
    let mut intake = intake();
    let ids = push(&mut intake, bench.now_ms(), 0..200);
    bench.store.refuse_clicks([ids[10], ids[110]], CODE);
    let (worker, _drain) = bench.start(follower, 0);
    eventually("the second is parked", || bench.metrics.worker(0).batches_parked.get() == 1);
    assert_eq!((stored(&bench).len(), waiting_on_the_shelf(&bench)), (99, 1));
    bench.store.refuse_nothing();
    intake.close();
    assert!(worker.join().expect("no panic").expect("no error").finished);
    assert_eq!((stored(&bench).len(), waiting_on_the_shelf(&bench)), (199, 1));
}

#[test]
fn a_batch_with_too_many_partitions_goes_in_halves() {
    let bench = Bench::new(ScriptedStore::new([Outcome::Divide, Outcome::Divide], Outcome::Stored), &ONE_BATCH);
    let (_run, intake, follower) = bench.begin();
    let mut intake = intake();
    let ids = push(&mut intake, bench.now_ms(), 0..100);
    intake.close();
    let (worker, _drain) = bench.start(follower, 0);
    assert!(worker.join().expect("no panic").expect("no error").finished);
    let rows: Vec<_> = bench.store.calls().iter().map(|(_, rows, _)| rows.len()).collect();
    assert_eq!(rows, [100, 50, 25, 25, 50]);
    assert_eq!(sorted(bench.store.click_ids()), sorted(ids));
    assert_eq!(waiting_on_the_shelf(&bench), 0);
}

#[test]
fn while_the_store_is_away_one_batch_asks_for_all() {
    let settings = [("batch.rows_max", "10"), ("batch.in_flight_max", "8"), ("retry.insert.max", "10m")];
    let bench = Bench::new(ScriptedStore::new([], Outcome::Transient), &settings);
    let (_run, intake, follower) = bench.begin();
    let mut intake = intake();
    push(&mut intake, bench.now_ms(), 0..200);
    let (worker, drain) = bench.start(follower, 0);
    eventually("the breaker is open", || bench.delivery.breaker.is_open());
    eventually("all slots are taken", || bench.metrics.worker(0).batches_in_flight.get() == 8);
    // Five failures opened it; what was under way by then may have ended after.
    assert!(bench.store.calls().len() < 5 + 8, "{}", bench.store.calls().len());
    drain.send_replace(Drain::Stop);
    assert!(!worker.join().expect("no panic").expect("no error").finished);
}

/// Answers when it is let, and remembers how many questions were open at one time.
#[derive(Default)]
struct HeldDeduper {
    open: AtomicUsize,
    most: AtomicUsize,
    held: Mutex<Vec<tokio::sync::oneshot::Sender<()>>>,
    free: AtomicUsize,
}

impl HeldDeduper {
    /// The newest question first, so that answers come in another order than questions.
    fn let_go(&self) {
        self.free.store(1, Ordering::SeqCst);
        for asking in self.held.lock().expect("no panic").drain(..).rev() {
            let _ = asking.send(());
        }
    }
}

impl Deduper for HeldDeduper {
    fn check<'a>(&'a self, claims: &'a [Claim]) -> trellis::BoxFuture<'a, Vec<Label>> {
        Box::pin(async move {
            let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(open, Ordering::SeqCst);
            if self.free.load(Ordering::SeqCst) == 0 {
                let (go, gone) = tokio::sync::oneshot::channel();
                self.held.lock().expect("no panic").push(go);
                let _ = gone.await;
            }
            self.open.fetch_sub(1, Ordering::SeqCst);
            // A label that tells the click.
            claims.iter().map(|claim| Label::ALL[claim.id.as_bytes()[15] as usize % 3]).collect()
        })
    }

    fn name(&self) -> &'static str {
        "held"
    }

    fn ping(&self) -> trellis::BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[test]
fn checks_overlap_up_to_their_bound_and_every_click_gets_its_own_label() {
    let settings = [("dedup.checks_in_flight_max", "6"), ("batch.rows_max", "50000")];
    let bench = Bench::new(ScriptedStore::new([], Outcome::Stored), &settings);
    let (_run, intake, follower) = bench.begin();
    let mut intake = intake();
    let ids = push(&mut intake, bench.now_ms(), 0..10_000);
    let deduper = Arc::new(HeldDeduper::default());
    let (worker, _drain) = bench.start_with(follower, 0, deduper.clone());
    eventually("six questions are open", || deduper.open.load(Ordering::SeqCst) == 6);
    let in_flight = bench.metrics.worker(0).checking.get();
    assert!((6 * 512..=6 * 521).contains(&in_flight), "{in_flight} clicks are asked about");
    deduper.let_go();
    intake.close();
    assert!(worker.join().expect("no panic").expect("no error").finished);
    assert_eq!(deduper.most.load(Ordering::SeqCst), 6);
    assert_eq!(bench.metrics.worker(0).checking.get(), 0);
    let calls = bench.store.calls();
    let rows: Vec<_> = calls.iter().flat_map(|(_, rows, _)| rows).collect();
    let found: Vec<_> = rows.iter().filter_map(|row| trellis::click::frame::click_id(&row.frame)).collect();
    assert_eq!(found, ids, "in the order of the journal");
    assert!(rows.iter().zip(&ids).all(|(row, id)| row.dedup == Label::ALL[id.as_bytes()[15] as usize % 3]));
}

/// Rows of all batches that the store took.
fn rows_stored(bench: &Bench) -> usize {
    let calls = bench.store.calls();
    calls.iter().filter(|(_, _, outcome)| *outcome == Outcome::Stored).map(|(_, rows, _)| rows.len()).sum()
}

/// How many files of this kind are in a run folder.
fn files(folder: &Path, end: &str) -> usize {
    let names = std::fs::read_dir(folder).expect("the run folder").map(|entry| entry.expect("an entry").file_name());
    names.filter(|name| name.to_string_lossy().ends_with(end)).count()
}

/// Pushes clicks, which take four segments, to a store that is away; then it comes back, slow, and the journal is
/// cut.
fn outage(bench: &Bench, intake: &mut Intake, folder: &Path) -> Vec<ClickId> {
    let mut ids = Vec::new();
    // A keeper that is late lets a segment grow, so how many clicks fill four is not known.
    while files(folder, ".seg") < 5 {
        let n = ids.len() as u64;
        ids.extend(push(intake, bench.now_ms(), n..n + 2_000));
    }
    // Each batch takes a while, so that the outage takes seconds.
    bench.store.answer_after(Duration::from_millis(5));
    bench.store.always(Outcome::Stored);
    eventually("the journal is cut", || files(folder, ".ckpt") == 2);
    ids
}

#[test]
fn after_an_outage_clicks_of_now_do_not_wait_behind_it() {
    let settings = [("batch.rows_max", "100"), ("batch.in_flight_max", "1")];
    let bench = Bench::new(ScriptedStore::new([], Outcome::Transient), &settings);
    let (run, intake, follower) = bench.begin();
    let folder = follower.folder().to_owned();
    let (worker, _drain) = bench.start(follower, 0);
    let mut intake = intake();
    let mut ids = outage(&bench, &mut intake, &folder);
    eventually("what was cut off is the backlog", || bench.metrics.backlog().bytes.get() > 2 << 20);
    let now = push(&mut intake, bench.now_ms(), 1 << 30..(1 << 30) + 10);
    ids.extend(&now);
    eventually("a click of now is stored", || stored(&bench).contains(&now[0]));
    let by_then = stored(&bench).len();
    assert!(by_then < ids.len() - 5_000, "{by_then} of {} were stored before it", ids.len());
    bench.store.answer_after(Duration::ZERO);
    intake.close();
    assert!(worker.join().expect("no panic").expect("no error").finished);
    assert_eq!(rows_stored(&bench), ids.len(), "what was stored is looked for, and no click is in two stretches");
    assert_eq!(sorted(bench.store.click_ids()), sorted(ids));
    assert_eq!((files(&folder, ".ckpt"), files(&folder, ".intent")), (1, 0), "the past is removed");
    assert_eq!((bench.metrics.pending(), bench.metrics.backlog().bytes.get()), (0, 0));
    assert_eq!(
        bench.metrics.worker(0).claimed.get(),
        bench.metrics.edge(0).accepted.get(),
        "no click is counted twice"
    );
    run.end(true).expect("removed");
}

#[test]
fn the_backlog_says_how_much_waits_until_nothing_does() {
    let bench = Bench::new(ScriptedStore::new([], Outcome::Stored), &[("batch.rows_max", "100")]);
    let told = || {
        let backlog = bench.metrics.backlog();
        (backlog.rows.get(), backlog.bytes.get(), backlog.oldest_ms.get())
    };
    let (run, intake, follower) = bench.begin();
    let (mut intake, mut ids) = (intake(), Vec::new());
    let (then_ms, edge) = (bench.now_ms() - 60_000, bench.metrics.edge(0));
    // Three segments or so, the last of them without a seal.
    while edge.journal_bytes.get() < 5 << 19 {
        let n = ids.len() as u64;
        ids.extend(push(&mut intake, then_ms + n, n..n + 1_000));
    }
    assert_eq!(told(), (0, 0, 0), "it is the live stretch");
    drop((intake, follower));
    run.end(false).expect("left behind");

    let orphan = bench.orphan();
    let [stretch] = orphan.stretches().expect("its stretches")[..] else { panic!("it was not cut") };
    let follower = Follower::orphan(&orphan, stretch, bench.metrics.worker(1)).expect("a follower");
    let (rows, bytes, oldest_ms) = told();
    let (clicks, written) = (ids.len() as u64, edge.journal_bytes.get());
    // Seals, and records that end in zeros.
    assert!(rows.abs_diff(clicks) <= 3 && bytes.abs_diff(written) <= 100, "{rows}, {bytes}: {clicks}, {written}");
    assert_eq!(oldest_ms, then_ms);
    bench.store.answer_after(Duration::from_millis(1));
    let (worker, _drain) = bench.start(follower, 1);
    eventually("it becomes less", || {
        let (rows, bytes, oldest_ms) = told();
        rows < clicks / 2 && bytes < written / 2 && (oldest_ms > then_ms || rows == 0)
    });
    assert!(worker.join().expect("no panic").expect("no error").finished);
    assert_eq!(told(), (0, 0, 0));
    orphan.finish(false).expect("removed");
}

#[test]
fn a_restart_takes_up_every_stretch() {
    let settings = [("batch.rows_max", "100"), ("batch.in_flight_max", "2")];
    let bench = Bench::new(ScriptedStore::new([], Outcome::Transient), &settings);
    let (run, intake, follower) = bench.begin();
    let folder = follower.folder().to_owned();
    let (worker, drain) = bench.start(follower, 0);
    let mut intake = intake();
    let ids = outage(&bench, &mut intake, &folder);
    drain.send_replace(Drain::Stop);
    intake.close();
    drop(intake);
    assert!(!worker.join().expect("no panic").expect("no error").finished);
    run.end(false).expect("left behind");
    bench.store.answer_after(Duration::ZERO);
    let orphan = bench.orphan();
    let stretches = orphan.stretches().expect("its stretches");
    assert_eq!(stretches.len(), 2);
    assert_eq!(stretches[0].last_seq + 1, stretches[1].first_seq);
    for stretch in stretches {
        let follower = Follower::orphan(&orphan, stretch, bench.metrics.worker(1)).expect("a follower");
        let (worker, _drain) = bench.start(follower, 1);
        assert!(worker.join().expect("no panic").expect("no error").finished);
    }
    assert_eq!(rows_stored(&bench), ids.len(), "what was stored is looked for, and no click is in two stretches");
    assert_eq!(sorted(bench.store.click_ids()), sorted(ids));
    assert_eq!((files(&folder, ".seg"), files(&folder, ".ckpt"), files(&folder, ".intent")), (0, 0, 0));
    orphan.finish(false).expect("removed");
}
