//! The shelf on a disk that fails on purpose.

use super::*;
use crate::click::Click;
use crate::testing::{Fault, FaultDisk, ManualClock};

const NOW_MS: u64 = 1_700_000_100_000;

pub(super) fn limits(max_bytes: u64) -> config::DeadLetter {
    config::DeadLetter { max_bytes, keep: std::time::Duration::from_secs(3600) }
}

pub(super) struct Bench {
    pub(super) disk: FaultDisk,
    pub(super) clock: Arc<ManualClock>,
    pub(super) figures: Arc<DeadLetterShard>,
}

impl Bench {
    pub(super) fn new(seed: u64) -> Self {
        let disk = FaultDisk::new(seed);
        disk.make_folder(Path::new("/data")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        Self { disk, clock: Arc::new(ManualClock::new(NOW_MS)), figures: Arc::default() }
    }

    pub(super) fn shelf(&self) -> Shelf {
        self.try_shelf().unwrap()
    }

    pub(super) fn try_shelf(&self) -> io::Result<Shelf> {
        self.shelf_within(limits(1 << 20))
    }

    fn shelf_within(&self, limits: config::DeadLetter) -> io::Result<Shelf> {
        let (disk, clock) = (Arc::new(self.disk.clone()), Arc::clone(&self.clock));
        Shelf::open(disk, "/data/dead-letters".into(), limits, clock, Arc::clone(&self.figures))
    }

    fn names(&self) -> Vec<String> {
        let entries = self.disk.list(Path::new("/data/dead-letters")).unwrap();
        entries.into_iter().map(|entry| entry.name.into_string().unwrap()).collect()
    }

    /// After a power cut.
    pub(super) fn crashed(&self) -> Self {
        Self { disk: self.disk.crash(), clock: Arc::clone(&self.clock), figures: Arc::default() }
    }
}

pub(super) fn batch(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

/// The row of a click on `link`, so many milliseconds after a minute began.
pub(super) fn row(ms: u64, link: &str) -> RefusedRow {
    let click = Click { link, ..crate::testing::click(ClickId::new(1_699_999_980_000 + ms, &[5; 10])) };
    let mut frame = Vec::new();
    click.encode(&mut frame);
    RefusedRow::new(click.id, Label::Duplicate, 469, "violates constraint c", frame.into(), NOW_MS)
}

pub(super) fn refusal(n: u128, rows: impl IntoIterator<Item = RefusedRow>) -> Refusal {
    Refusal { batch: batch(n), node: "edge-1".into(), rows: rows.into_iter().collect() }
}

fn ids(rows: &[RefusedRow]) -> Vec<ClickId> {
    rows.iter().map(|row| row.click_id).collect()
}

#[test]
fn a_refused_row_survives_a_power_cut_once_and_repeating_it_adds_nothing() {
    let bench = Bench::new(1);
    let shelf = bench.shelf();
    let rows = [row(0, "a"), row(1, "b"), row(60_000, "c")];
    shelf.refuse(&refusal(1, rows[..2].to_vec())).unwrap();
    shelf.refuse(&refusal(1, rows.to_vec())).unwrap();
    shelf.refuse(&refusal(2, [row(9, "d")])).unwrap();
    let files = bench.names();
    assert_eq!(files, [1, 2].map(|n| format!("{}.refused", batch(n))));
    for bench in [bench.crashed(), bench] {
        let shelf = bench.shelf();
        assert_eq!(shelf.of_batch(batch(1)).unwrap(), ids(&rows));
        assert_eq!(shelf.of_batch(batch(3)).unwrap(), []);
        let minute = 1_699_999_980_000 / 60_000;
        let waiting = |waiting| Tally { waiting, ..Tally::default() };
        assert_eq!(shelf.tally(), BTreeMap::from([(minute, waiting(3)), (minute + 1, waiting(1))]));
        assert_eq!((bench.figures.rows.get(), bench.figures.oldest_ms.get()), (4, 1_699_999_980_000));
        assert_eq!(bench.names(), files, "nothing beside the files");
    }
}

#[test]
fn a_reason_is_cut() {
    let row = RefusedRow::new(ClickId::new(1, &[0; 10]), Label::Unique, 1, &"\u{fc}".repeat(9_999), Bytes::new(), 1);
    assert_eq!(row.reason.chars().count(), REASON_CHARS_MAX);
}

#[test]
fn a_full_shelf_refuses_to_take_more_and_says_which_setting_it_is() {
    let bench = Bench::new(2);
    let shelf = bench.shelf_within(limits(1_500)).unwrap();
    shelf.refuse(&refusal(1, [row(0, "a")])).unwrap();
    let error = shelf.refuse(&refusal(2, (0..4).map(|ms| row(ms, "b")))).unwrap_err();
    assert!(error.to_string().starts_with("dead_letter.max_bytes (1500 bytes) does not hold "), "{error}");
    assert_eq!(shelf.of_batch(batch(2)).unwrap(), []);
    assert_eq!(bench.names().len(), 1);
    shelf.refuse(&refusal(1, [row(0, "a")])).unwrap();
    bench.shelf_within(limits(1 << 20)).unwrap().refuse(&refusal(2, [row(1, "b")])).unwrap();
}

#[test]
fn whatever_fails_on_the_disk_a_refusal_is_there_whole_or_it_is_an_error() {
    let faults = [Fault::ShortWrite, Fault::Full, Fault::WriteError, Fault::ReadError, Fault::SyncError];
    let mut failed = 0;
    for seed in 0..300 {
        let bench = Bench::new(seed);
        let shelf = bench.shelf();
        shelf.refuse(&refusal(1, [row(0, "a")])).unwrap();
        bench.disk.set_chance(faults[seed as usize % faults.len()], 300);
        let refused = (1..8).filter(|ms| shelf.refuse(&refusal(1, [row(*ms, "a")])).is_ok()).collect::<Vec<_>>();
        failed += 7 - refused.len();
        bench.disk.heal();
        let said = shelf.of_batch(batch(1)).unwrap();
        let after = bench.crashed().shelf();
        let there = after.of_batch(batch(1)).unwrap();
        assert!(said.iter().all(|id| there.contains(id)), "seed {seed}: the shelf said {said:?}, and has {there:?}");
        let missing: Vec<_> = refused.iter().filter(|ms| !there.contains(&row(**ms, "a").click_id)).collect();
        assert!(missing.is_empty() && there.contains(&row(0, "a").click_id), "seed {seed}: {missing:?} of {refused:?}");
        assert!(bench.crashed().names().iter().all(|name| !name.ends_with(".damaged")), "seed {seed}");
    }
    assert!(failed > 100, "the faults struck {failed} times");
}

#[test]
fn a_damaged_file_is_set_aside_and_stops_nothing() {
    let bench = Bench::new(3);
    let shelf = bench.shelf();
    for n in [1, 2] {
        shelf.refuse(&refusal(n, [row(0, "a")])).unwrap();
    }
    let path = Path::new("/data/dead-letters").join(format!("{}.refused", batch(1)));
    let flip = || bench.disk.flip(&path, 3_000).unwrap();
    flip();
    let shelf = bench.shelf();
    assert_eq!(shelf.of_batch(batch(1)).unwrap(), []);
    assert_eq!(bench.figures.rows.get(), 1);
    // The batch is refused anew, and damaged once more while the shelf is open.
    shelf.refuse(&refusal(1, [row(0, "a")])).unwrap();
    flip();
    shelf.refuse(&refusal(1, [row(1, "a")])).unwrap();
    assert_eq!(shelf.of_batch(batch(1)).unwrap(), [row(1, "a").click_id]);
    let damaged = [1, 2].map(|n| format!("{}.{n}.damaged", batch(1)));
    assert!(damaged.iter().all(|name| bench.names().contains(name)), "{:?}", bench.names());
    let shelf = bench.shelf();
    assert_eq!(shelf.index().damaged, damaged, "still known at the next start");
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_for_its_batch_alone_and_comes_back() {
    let bench = Bench::new(4);
    bench.shelf().refuse(&refusal(1, [row(0, "a")])).unwrap();
    let path = Path::new("/data/dead-letters").join(format!("{}.refused", batch(1)));
    bench.disk.set_unreadable(&path, 0..100).unwrap();
    let shelf = bench.shelf();
    assert!(shelf.of_batch(batch(1)).is_err(), "whoever believed that nothing is there would send it again");
    shelf.refuse(&refusal(2, [row(1, "a")])).unwrap();
    bench.disk.set_unreadable(&path, 0..0).unwrap();
    assert_eq!(shelf.of_batch(batch(1)).unwrap(), [row(0, "a").click_id]);
}

#[test]
fn what_an_end_left_half_written_is_removed_and_strange_names_are_left_alone() {
    let bench = Bench::new(5);
    drop(bench.shelf());
    for name in ["notes.txt", "x.refused", &format!("{}.next", batch(1))] {
        bench.disk.open(&Path::new("/data/dead-letters").join(name), Open::New).unwrap();
    }
    drop(bench.shelf());
    assert_eq!(bench.names(), ["notes.txt", "x.refused"]);
}
