//! The ledger against a model: crashes between any two steps, books that cannot be written, and what its upkeep sees.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::catalog::agents::Agent;
use crate::catalog::geo::Place;
use crate::config;
use crate::pipeline::dead_letter::{Refusal, RefusedRow};
use crate::pipeline::{Batch, Label, Row, Store};
use crate::telemetry::metrics::Metrics;
use crate::testing::{FaultDisk, ManualClock, MemoryBooks, Outcome, ScriptedStore};

/// 2023-11-14T22:13:00Z
const M0: u64 = 28_333_333;
const RUN: &str = "/data/journal/0001700000000-1";

struct Bench {
    books: MemoryBooks,
    clock: Arc<ManualClock>,
    metrics: Metrics,
    shelf: Arc<Shelf>,
    ledger: Arc<Ledger>,
}

impl Bench {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(M0 * 60_000 + 30_000));
        let metrics = Metrics::new(1, 1, &[], || 0).unwrap();
        let limits = config::DeadLetter { max_bytes: 1 << 20, keep: Duration::from_secs(3600) };
        let disk = Arc::new(FaultDisk::new(0));
        let shelf = Shelf::open(disk, "/data/dead-letters".into(), limits, clock.clone(), Arc::default()).unwrap();
        let (books, shelf) = (MemoryBooks::default(), Arc::new(shelf));
        let ledger = open(&books, &shelf, &clock, &metrics);
        Self { books, clock, metrics, shelf, ledger }
    }

    /// What the next process finds.
    fn restart(&mut self) {
        self.ledger = open(&self.books, &self.shelf, &self.clock, &self.metrics);
    }

    fn begin(&self) -> Account {
        self.ledger.begin_run(Path::new(RUN), [self.metrics.edge(0)]).unwrap();
        Account::open_at(&self.ledger, stretch(), at(0), &[], true)
    }

    fn total(&self) -> Line {
        self.ledger.lines(0..u64::MAX).unwrap().iter().fold(Line::default(), |mut sum, line| {
            assert_eq!(line.residual(), 0, "{line:?}");
            sum.add(line);
            sum
        })
    }

    fn line(&self) -> Line {
        self.ledger.lines(M0..M0 + 1).unwrap()[0]
    }

    fn gauges(&self) -> [u64; 3] {
        let shard = self.metrics.ledger();
        [shard.residual.get(), shard.difference.get(), shard.dirty.get()]
    }
}

fn open(books: &MemoryBooks, shelf: &Arc<Shelf>, clock: &Arc<ManualClock>, metrics: &Metrics) -> Arc<Ledger> {
    let books = Box::new(books.clone());
    Arc::new(Ledger::open(books, "n", Arc::clone(shelf), clock.clone(), metrics.ledger()).unwrap())
}

fn stretch() -> StretchName {
    StretchName { run: run_name(Path::new(RUN)), core: 0, origin: 0 }
}

fn at(offset: u32) -> Position {
    Position { seq: 0, offset }
}

/// These many clicks of the first minute, all of them stored.
fn stored(clicks: u64) -> Minutes {
    let mut minutes = Minutes::default();
    minutes.at(M0).add(Figures { taken: clicks, stored: clicks, ..Figures::default() });
    minutes
}

/// One range for each of some batches, each of some minutes.
fn random_ranges(random: &mut fastrand::Rng) -> Vec<(Position, Minutes)> {
    let mut offset = 256;
    let mut range = || {
        offset += random.u32(40..4_000);
        let mut minutes = Minutes::default();
        let first = M0 + random.u64(0..500);
        let most = if random.bool() { 2 } else { BATCH_MINUTES_MAX as u64 };
        for n in 0..random.u64(1..=most) {
            let (stored, refused, damaged) = (random.u64(1..1_000), random.u64(0..2), random.u64(0..2));
            let taken = stored + refused + damaged;
            minutes.at(first + n).add(Figures { taken, stored, refused: 0, damaged: damaged + refused });
        }
        (at(offset), minutes)
    };
    (0..40).map(|_| range()).collect()
}

fn sum(ranges: &[(Position, Minutes)]) -> (u64, u64) {
    let all = ranges.iter().flat_map(|(_, minutes)| minutes.iter());
    all.fold((0, 0), |(taken, stored), (_, f)| (taken + f.taken, stored + f.stored))
}

/// A worker finishes ranges; it is killed before and after its checkpoint, the slot that was written last is damaged, the
/// books cannot be written for a while. Whatever happens, each range is counted once.
#[test]
fn a_range_is_counted_once_whatever_moment_a_crash_comes() {
    for seed in 0..50 {
        let mut random = fastrand::Rng::with_seed(seed);
        let ranges = random_ranges(&mut random);
        let mut bench = Bench::new();
        // The two slots of the checkpoint, the newer one last.
        let mut slots = [(at(256), Vec::new()), (at(256), Vec::new())];
        let mut lives = 0;
        loop {
            lives += 1;
            bench.books.fail(false);
            bench.restart();
            let (checkpoint, note) = slots[1].clone();
            let mut account = Account::open_at(&bench.ledger, stretch(), checkpoint, &note, false);
            let counted = ranges.partition_point(|(end, _)| *end <= account.counted_to());
            assert_eq!((bench.total().accepted, bench.total().stored), sum(&ranges[..counted]), "SEED={seed}");
            let mut next = ranges.partition_point(|(end, _)| *end <= checkpoint);
            let killed = loop {
                let Some((end, minutes)) = ranges.get(next) else { break false };
                account.claim_range(*end, minutes);
                bench.books.fail(random.u8(..4) == 0);
                bench.clock.advance(Duration::from_secs(1));
                while !account.finish(*end, minutes) {
                    // Only where the books cannot be written does a range wait.
                    bench.books.fail(false);
                    bench.clock.advance(Duration::from_secs(1));
                }
                next += 1;
                let known = sum(&ranges[..next.max(counted)]);
                assert_eq!((bench.total().taken_for_test(), bench.total().stored), known, "SEED={seed}");
                if random.u8(..12) == 0 {
                    break true;
                }
                slots = [slots[1].clone(), (*end, account.note())];
                if random.u8(..12) == 0 {
                    if random.bool() {
                        slots[1] = slots[0].clone();
                    }
                    break true;
                }
            };
            bench.books.fail(random.u8(..4) == 0);
            // Killed between the last spill and the removal of the stretch: it is looked at once more.
            if !killed && account.close() && random.bool() {
                break;
            }
        }
        let (visits, figures) = bench.books.sum();
        assert_eq!((figures.taken, figures.stored), sum(&ranges), "SEED={seed}, {lives} lives");
        assert_eq!(visits, Visits::default());
        let total = bench.total();
        assert_eq!((total.in_flight, total.accepted), (0, figures.taken), "SEED={seed}");
    }
}

impl Line {
    /// What has been taken and finished.
    const fn taken_for_test(&self) -> u64 {
        self.stored + self.damaged + self.refused + self.dropped
    }
}

#[test]
fn books_that_were_copied_after_the_checkpoint_count_nothing_twice() {
    let mut bench = Bench::new();
    let mut account = Account::open_at(&bench.ledger, stretch(), at(256), &[], false);
    let mut ends = (1..=4).map(|n| at(256 + n * 100));
    let mut finish = |account: &mut Account| assert!(account.finish(ends.next().unwrap(), &stored(10)));
    finish(&mut account);
    // Here the checkpoint was copied; the books later.
    let (position, note) = (at(356), account.note());
    finish(&mut account);
    finish(&mut account);
    assert!(account.close());
    bench.restart();
    let mut account = Account::open_at(&bench.ledger, stretch(), position, &note, false);
    assert_eq!((bench.total().stored, account.counted_to()), (30, at(556)));
    for end in [456, 556, 656] {
        assert!(account.finish(at(end), &stored(10)));
    }
    assert_eq!(bench.total().stored, 40);
}

#[test]
fn a_click_that_was_accepted_and_is_nowhere_shows_once_everything_was_read() {
    let bench = Bench::new();
    let mut account = bench.begin();
    bench.metrics.edge(0).minutes.count(M0, 10, 3);
    let (visits, in_flight) = (bench.line().visits(), bench.line().in_flight);
    assert_eq!((visits, bench.line().untracked, in_flight), (13, 3, 10), "in the journal");
    account.claim_range(at(300), &stored(9));
    assert_eq!((bench.line().in_flight, bench.line().residual()), (10, 0), "one in the journal, nine at the worker");
    assert!(account.finish(at(300), &stored(9)));
    account.idle(M0 * 60_000 + 59_999);
    assert_eq!((bench.line().stored, bench.line().in_flight, bench.line().residual()), (9, 1, 0));
    account.idle((M0 + 1) * 60_000 + TURN_MS_MAX);
    assert_eq!((bench.line().in_flight, bench.line().residual()), (0, 1), "it was lost on the way");
    // And a range of which the worker knows not what became of all.
    let mut eight = stored(8);
    eight.at(M0).taken = 9;
    bench.metrics.edge(0).minutes.count(M0, 9, 0);
    account.claim_range(at(400), &eight);
    assert!(account.finish(at(400), &eight));
    assert_eq!(bench.line().residual(), 2);
}

#[test]
fn after_a_crash_what_was_taken_was_accepted_and_what_is_missing_is_lost() {
    let mut bench = Bench::new();
    drop(bench.begin());
    bench.metrics.edge(0).minutes.count(M0, 10, 3);
    bench.ledger.collect();
    // Killed within a second: nobody wrote that down.
    bench.metrics.edge(0).minutes.count(M0, 5, 1);
    for (taken, lost) in [(15, 0), (9, 1)] {
        bench.restart();
        bench.ledger.state().runs.insert(stretch().run);
        let mut account = Account::open_at(&bench.ledger, stretch(), at(256), &[], false);
        assert_eq!((bench.line().accepted, bench.line().in_flight), (10, 10));
        account.claim_range(at(300), &stored(taken));
        assert!(account.finish(at(300), &stored(taken)));
        bench.ledger.end_run(Path::new(RUN)).unwrap();
        assert_eq!((bench.line().accepted, bench.line().residual()), (taken.max(10), lost));
        assert_eq!((bench.line().untracked, bench.line().in_flight), (3, 0));
    }
}

#[test]
fn what_the_edge_counts_is_kept_while_the_books_cannot_be_written_and_is_written_later() {
    let mut bench = Bench::new();
    drop(bench.begin());
    bench.books.fail(true);
    for minute in M0..M0 + 20 {
        bench.metrics.edge(0).minutes.count(minute, 2, 1);
        bench.ledger.collect();
    }
    assert_eq!(bench.books.sum().0, Visits::default());
    bench.books.fail(false);
    bench.ledger.collect();
    assert_eq!(bench.books.sum().0, Visits { accepted: 40, untracked: 20 });
    bench.restart();
    // Its journal is not read yet.
    bench.ledger.state().runs.insert(stretch().run);
    assert_eq!((bench.total().accepted, bench.total().untracked), (40, 20));
}

fn refused(state: crate::pipeline::dead_letter::RowState, n: u8) -> RefusedRow {
    let id = crate::click::ClickId::new(M0 * 60_000, &[n; 10]);
    RefusedRow { state, ..RefusedRow::new(id, Label::Unique, 1, "no", b"frame".as_slice().into(), M0 * 60_000) }
}

#[test]
fn refused_rows_are_where_the_shelf_says_and_those_of_an_unfinished_batch_are_in_flight() {
    use crate::pipeline::dead_letter::RowState::{Dropped, Stored, Waiting};
    let bench = Bench::new();
    let mut account = bench.begin();
    let mut figures = stored(10);
    figures.at(M0).stored = 6;
    figures.at(M0).refused = 4;
    account.claim_range(at(300), &figures);
    let rows = [Waiting, Stored, Stored, Dropped].into_iter().zip(0..).map(|(state, n)| refused(state, n)).collect();
    let batch = uuid::Uuid::from_u128(1);
    bench.shelf.refuse(&Refusal { batch, node: "n".into(), rows }).unwrap();
    let line = bench.line();
    assert_eq!(
        (line.in_flight, line.refused, line.stored, line.residual()),
        (10, 0, 0, 0),
        "its batch is not finished"
    );
    assert!(account.finish(at(300), &figures));
    let line = bench.line();
    assert_eq!((line.stored, line.refused, line.dropped, line.in_flight), (8, 1, 1, 0));
    assert_eq!(line.residual(), 0);
}

/// A batch of clicks of the first minute in the store.
async fn insert(store: &ScriptedStore, clicks: std::ops::Range<u8>) {
    let row = |n: u8| {
        let mut frame = Vec::new();
        let id = crate::click::ClickId::new(M0 * 60_000, &[n; 10]);
        crate::testing::click(id).encode(&mut frame);
        Row {
            frame: frame.into(),
            country: None,
            place: Place::default(),
            class: crate::click::Class::Human,
            reasons: Default::default(),
            fraud_score: 0,
            dedup: Label::Unique,
            agent: Agent { browser: "Other", os: "Other", device: "other", reasons: Default::default() },
        }
    };
    let rows = clicks.map(row).collect();
    let batch = Batch { id: uuid::Uuid::from_u128(1), part: 0, node: "n".into(), rows };
    store.insert(&store.seal(batch)).await.unwrap();
}

#[tokio::test]
async fn minutes_stay_dirty_across_crashes_until_their_rollups_were_computed_of_what_is_stored() {
    let mut bench = Bench::new();
    let store = ScriptedStore::new([], Outcome::Stored);
    let mut account = bench.begin();
    assert!(account.finish(at(300), &stored(4)));
    store.always(Outcome::Transient);
    assert!(roll_up(&bench.ledger, &store, 10).await.is_err());
    assert_eq!(bench.gauges()[2], 1, "the store is away");
    store.always(Outcome::Stored);
    // The clicks are in the note; a crash.
    let note = account.note();
    bench.restart();
    let mut account = Account::open_at(&bench.ledger, stretch(), at(300), &note, false);
    assert_eq!(roll_up(&bench.ledger, &store, 10).await.unwrap(), 1);
    assert_eq!((store.rolled_up(), bench.gauges()[2]), (vec![vec![M0]], 0));
    assert!(account.finish(at(400), &stored(1)) && account.close());
    // The clicks are in the books; a crash.
    for rolled in [1, 0] {
        bench.restart();
        assert_eq!(roll_up(&bench.ledger, &store, 10).await.unwrap(), rolled);
    }
    assert_eq!(store.rolled_up().len(), 2);
}

#[tokio::test]
async fn a_store_that_has_other_clicks_than_the_ledger_says_is_told_when_it_is_seen_twice() {
    let bench = Bench::new();
    let store = ScriptedStore::new([], Outcome::Stored);
    let mut account = bench.begin();
    bench.metrics.edge(0).minutes.count(M0, 6, 0);
    account.claim_range(at(300), &stored(4));
    assert!(account.finish(at(300), &stored(4)));
    insert(&store, 0..5).await;
    let look = || check(&bench.ledger, &store, 0);
    let good = Checked { minutes: 1, wrong: Vec::new() };
    assert_eq!(look().await.unwrap(), good, "two are in flight, and may be there already");
    assert_eq!(look().await.unwrap(), good, "what is in flight is looked at again");
    account.idle((M0 + 2) * 60_000);
    let wrong = vec![(M0, 2, 1)];
    for told in [0, 1] {
        assert_eq!(look().await.unwrap().wrong, wrong);
        assert_eq!(bench.gauges(), [2 * told, told, 1], "told when seen twice: {told}");
    }
    assert_eq!(check(&bench.ledger, &store, (M0 + 1) * 60_000).await.unwrap().wrong, [(M0, 2, 0)], "expired");
    bench.ledger.state().named_since = M0 + 1;
    assert_eq!(look().await.unwrap().wrong, [(M0, 2, 0)], "stored under another name");
    bench.ledger.state().named_since = 0;
    bench.ledger.state().copied.insert(M0);
    assert_eq!(look().await.unwrap().wrong, [(M0, 2, 0)], "of a minute in which a backup was made there may be more");
    bench.ledger.state().copied.clear();
    account.claim_range(at(400), &stored(2));
    assert!(account.finish(at(400), &stored(2)));
    insert(&store, 5..6).await;
    assert_eq!(look().await.unwrap(), Checked { minutes: 1, wrong: Vec::new() });
    assert_eq!(look().await.unwrap().minutes, 0, "nothing has happened since");
    assert_eq!(bench.gauges()[..2], [0, 0]);
}

#[tokio::test]
async fn what_a_killed_process_had_stored_alarms_nobody_before_its_journal_was_read() {
    let mut bench = Bench::new();
    let store = ScriptedStore::new([], Outcome::Stored);
    let mut account = bench.begin();
    assert!(account.finish(at(300), &stored(4)));
    // Nobody noted the last second.
    let note = account.note();
    insert(&store, 0..8).await;
    bench.restart();
    bench.ledger.state().runs.insert(stretch().run);
    bench.ledger.begin_run(Path::new("/data/journal/0001700000001-2"), []).unwrap();
    let mut account = Account::open_at(&bench.ledger, stretch(), at(300), &note, false);
    bench.ledger.look_back().unwrap();
    assert_eq!(check(&bench.ledger, &store, 0).await.unwrap(), Checked { minutes: 1, wrong: Vec::new() });
    account.claim_range(at(400), &stored(4));
    assert!(account.finish(at(400), &stored(4)) && account.close());
    // One that nobody sent, which shows when the journal is finished.
    insert(&store, 8..9).await;
    assert_eq!(check(&bench.ledger, &store, 0).await.unwrap().wrong, []);
    bench.ledger.end_run(Path::new(RUN)).unwrap();
    assert_eq!(check(&bench.ledger, &store, 0).await.unwrap().wrong, [(M0, 0, 1)]);
}

#[test]
fn old_minutes_are_forgotten_where_they_are_over() {
    let mut bench = Bench::new();
    let mut account = bench.begin();
    let mut finish = |offset, minute| {
        let mut minutes = Minutes::default();
        minutes.at(minute).add(Figures { taken: 1, stored: 1, ..Figures::default() });
        assert!(account.finish(at(offset), &minutes));
    };
    finish(300, M0 - 100);
    finish(400, M0);
    assert!(account.close());
    bench.restart();
    let minutes = |bench: &Bench| bench.ledger.lines(0..u64::MAX).unwrap().len();
    bench.ledger.forget_before(M0 - 1).unwrap();
    assert_eq!(minutes(&bench), 2, "its rollups are to be computed first");
    bench.ledger.state().dirty.clear();
    bench.ledger.state().runs.insert(stretch().run);
    bench.ledger.forget_before(M0 - 1).unwrap();
    assert_eq!(minutes(&bench), 2, "its run is not over");
    bench.ledger.state().runs.clear();
    bench.ledger.forget_before(M0 - 1).unwrap();
    assert_eq!(minutes(&bench), 1);
}
