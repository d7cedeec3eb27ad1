//! The journal on a disk that fails, its keeper's turns taken by hand: no threads, no time that passes by itself.

#![cfg(feature = "testing")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use trellis::click::{Click, ClickId};
use trellis::clock::Clock;
use trellis::config::{Config, Sources};
use trellis::handoff::{Follower, Intake, Orphan, Run, Step, Ticket, Upkeep, read_range};
use trellis::segment::{Disk, Position, file_name};
use trellis::telemetry::metrics::Metrics;
use trellis::testing::{Fault, FaultDisk, ManualClock};

const DATA: &str = "/data";

/// One core's journal and everything around it.
struct Journal {
    disk: FaultDisk,
    clock: Arc<ManualClock>,
    metrics: Metrics,
    run: Run,
    intake: Intake,
    follower: Follower,
    upkeep: Upkeep,
    pushed: u64,
}

impl Journal {
    fn new(seed: u64, sync: &str) -> Self {
        let disk = FaultDisk::new(seed);
        let settings = [
            ("data_dir", DATA),
            ("edge.threads", "1"),
            ("journal.sync", sync),
            ("journal.segment_bytes", "1MiB"),
            // What is behind comes from the journal.
            ("queue.groups_max", "1"),
            ("queue.bytes_max", "64KiB"),
        ];
        let flags = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let config = Config::load(&Sources { flags, ..Sources::default() }).expect("a good config");
        let metrics = Metrics::new(1, config.queue.groups_max, &[], || 0).expect("metrics");
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let (shared_disk, shared_clock) =
            (Arc::new(disk.clone()) as Arc<dyn Disk>, Arc::clone(&clock) as Arc<dyn Clock>);
        let (run, mut doors, mut upkeep) =
            Run::begin_by_hand(&shared_disk, &config, &metrics, &shared_clock).expect("a run");
        disk.sync_dir(Path::new("/")).expect("forced");
        upkeep.turn(false);
        let (intake, follower) = doors.pop().expect("one core");
        Self { disk, clock, metrics, run, intake: intake(), follower, upkeep, pushed: 0 }
    }

    /// One group of clicks with so many bytes of query string.
    fn push(&mut self, clicks: u64, query_bytes: usize) -> Vec<(u64, Ticket)> {
        let query = "q".repeat(query_bytes);
        let numbers = self.pushed..self.pushed + clicks;
        self.pushed += clicks;
        let tickets = numbers.map(|n| (n, self.intake.push(&click(n, &query)))).collect();
        self.intake.flush();
        tickets
    }

    /// What the keeper's thread and the edge thread do when they have time.
    fn settle(&mut self) {
        for _ in 0..3 {
            self.upkeep.turn(false);
            self.intake.attend();
        }
    }

    fn fill_segment(&mut self) {
        while self.metrics.edge(0).journal_bytes.get() < 1 << 20 {
            self.push(10, 4_000);
        }
    }

    fn segment(&self, seq: u32) -> PathBuf {
        let runs = self.disk.list(&Path::new(DATA).join("journal")).expect("the journal");
        Path::new(DATA).join("journal").join(&runs[0].name).join(file_name(0, seq))
    }

    /// The process ends; what the system has in memory stays.
    fn kill(self) -> Arc<dyn Disk> {
        self.run.end(false).expect("left behind");
        Arc::new(self.disk)
    }
}

fn click(n: u64, query: &str) -> Click<'_> {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&n.to_be_bytes());
    Click { query, ..trellis::testing::click(ClickId::new(1_700_000_000_000 + n, &random)) }
}

/// What a ticket says by now.
fn answer(ticket: &mut Ticket) -> Option<bool> {
    match std::pin::Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(kept) => Some(kept),
        Poll::Pending => None,
    }
}

/// Reads to the end, past reads that fail: the numbers of the clicks.
fn read(follower: &mut Follower) -> Vec<u64> {
    let (mut items, mut failures) = (Vec::new(), 0);
    loop {
        match follower.poll(100, &mut items) {
            Ok(Step::Clicks) => {}
            Ok(Step::Idle | Step::Finished) => break,
            Err(error) => {
                failures += 1;
                assert!(failures < 100, "it never ends: {error}");
            }
        }
    }
    let number = |id: ClickId| id.unix_ms() - 1_700_000_000_000;
    items.iter().map(|item| number(Click::decode(&item.frame).expect("a frame").id)).collect()
}

/// What the next process finds on this disk: the clicks, and whether something was reported as damaged.
fn read_orphan(disk: &Arc<dyn Disk>) -> (Vec<u64>, bool) {
    let metrics = Metrics::new(1, 1, &[], || 0).expect("metrics");
    let orphan = Orphan::find(disk, Path::new(DATA)).expect("the folder").pop().expect("the run");
    let (mut numbers, mut damaged) = (Vec::new(), false);
    for stretch in orphan.stretches().expect("its stretches") {
        let mut follower = Follower::orphan(&orphan, stretch, metrics.worker(0)).expect("a follower");
        numbers.extend(read(&mut follower));
        damaged |= follower.is_damaged();
    }
    (numbers, damaged)
}

fn all(of: &Journal) -> Vec<u64> {
    (0..of.pushed).collect()
}

#[test]
fn a_journal_whose_sync_failed_is_written_anew_and_a_power_cut_then_loses_nothing() {
    let mut journal = Journal::new(1, "interval:50ms");
    journal.push(10, 0);
    journal.settle();
    journal.push(10, 0);
    journal.disk.fail_next(Fault::SyncError);
    journal.upkeep.turn(false);
    assert_eq!(journal.metrics.keeper().sync_failures.get(), 1);
    let (crashed, _) = read_orphan(&(Arc::new(journal.disk.crash()) as Arc<dyn Disk>));
    assert_eq!(crashed, (0..10).collect::<Vec<_>>(), "a failed sync leaves it to chance, and the disk says no");
    journal.settle();
    journal.push(10, 0);
    journal.settle();
    let disk: Arc<dyn Disk> = Arc::new(journal.disk.crash());
    assert_eq!(read_orphan(&disk), (all(&journal), false));
    assert_eq!(read(&mut journal.follower), all(&journal), "and the worker reads on where it was");
    assert_eq!(journal.metrics.keeper().possibly_lost_bytes.get(), 0);
}

#[test]
fn a_power_cut_at_any_call_while_it_is_written_anew_loses_nothing_that_was_forced_before() {
    let mut kept_all = 0;
    for calls in 0.. {
        let mut journal = Journal::new(u64::from(calls), "interval:50ms");
        journal.push(10, 1_000);
        journal.settle();
        journal.push(10, 1_000);
        journal.disk.fail_next(Fault::SyncError);
        journal.upkeep.turn(false);
        journal.disk.crash_after(calls);
        journal.settle();
        let is_over = !journal.disk.is_crashed();
        let (found, _) = read_orphan(&(Arc::new(journal.disk.crash()) as Arc<dyn Disk>));
        assert!(found.starts_with(&(0..10).collect::<Vec<_>>()), "call {calls}: {found:?}");
        kept_all += u32::from(found == all(&journal));
        if is_over {
            assert_eq!(found, all(&journal));
            assert!(calls > 3 && kept_all < calls, "the power was cut before the end of it too");
            return;
        }
    }
}

#[test]
fn what_cannot_be_read_back_after_a_failed_sync_is_counted_and_the_rest_is_kept() {
    let mut journal = Journal::new(3, "interval:50ms");
    journal.push(30, 1_000);
    journal.disk.fail_next(Fault::SyncError);
    journal.upkeep.turn(false);
    journal.disk.set_unreadable(&journal.segment(0), 8_192..12_288).expect("a file");
    journal.settle();
    let lost_bytes = journal.metrics.keeper().possibly_lost_bytes.get();
    assert!((4_096..4_096 + 2 * 1_200).contains(&lost_bytes), "{lost_bytes}");
    let (found, damaged) = read_orphan(&(Arc::new(journal.disk.crash()) as Arc<dyn Disk>));
    assert!(damaged && (24..=26).contains(&found.len()), "{found:?}");
}

#[test]
fn with_sync_always_no_click_that_was_answered_with_an_id_is_lost() {
    let (mut answered_in_all, mut refused_in_all, mut mended) = (0, 0, 0);
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut journal = Journal::new(seed, "always");
        let (mut waiting, mut answered) = (Vec::new(), Vec::new());
        for _ in 0..random.u32(10..60) {
            match random.u32(..12) {
                0..5 => {
                    let clicks = random.u64(1..20);
                    waiting.extend(journal.push(clicks, random.usize(..8_000)));
                }
                5 | 6 => journal.upkeep.turn(false),
                7 | 8 => journal.intake.attend(),
                9 => journal.disk.fail_next(*random.choice(&[Fault::SyncError, Fault::ShortWrite]).expect("one")),
                10 => journal.clock.advance(Duration::from_secs(1)),
                _ => journal.disk.crash_after(random.u32(..20)),
            }
            if journal.disk.is_crashed() {
                break;
            }
            waiting.retain_mut(|(number, ticket)| {
                let answer = answer(ticket);
                answered.extend((answer == Some(true)).then_some(*number));
                refused_in_all += u32::from(answer == Some(false));
                answer.is_none()
            });
        }
        mended += journal.metrics.keeper().sync_failures.get();
        let (found, _) = read_orphan(&(Arc::new(journal.disk.crash()) as Arc<dyn Disk>));
        let lost: Vec<_> = answered.iter().filter(|number| !found.contains(number)).collect();
        assert!(lost.is_empty(), "seed {seed}: lost {lost:?}");
        assert!(found.is_sorted_by(|a, b| a < b), "seed {seed}: each once, in order");
        answered_in_all += answered.len();
    }
    assert!(
        answered_in_all > 5_000 && refused_in_all > 0 && mended > 50,
        "{answered_in_all} {refused_in_all} {mended}"
    );
}

#[test]
fn with_sync_always_a_click_is_answered_after_its_sync_and_not_before() {
    let mut journal = Journal::new(5, "always");
    let mut tickets = journal.push(3, 0);
    assert!(tickets.iter_mut().all(|(_, ticket)| answer(ticket).is_none()), "written is not enough");
    journal.upkeep.turn(false);
    journal.intake.attend();
    assert!(tickets.iter_mut().all(|(_, ticket)| answer(ticket) == Some(true)));
}

#[test]
fn with_sync_always_clicks_that_cannot_be_forced_get_no_id_and_are_counted_until_the_disk_is_well() {
    let mut journal = Journal::new(6, "always");
    journal.disk.set_chance(Fault::SyncError, 1_000);
    let mut tickets = journal.push(3, 0);
    journal.settle();
    assert!(tickets.iter_mut().all(|(_, ticket)| answer(ticket) == Some(false)));
    assert_eq!(journal.metrics.edge(0).unforced.get(), 3, "they are in the journal all the same");
    assert_eq!(journal.metrics.edge(0).accepted.get(), 3);
    // The segment made ahead takes more, which cannot be forced either; then there is no other.
    let mut tickets = journal.push(2, 0);
    journal.settle();
    assert!(tickets.iter_mut().all(|(_, ticket)| answer(ticket) == Some(false)));
    let mut tickets = journal.push(4, 0);
    assert!(tickets.iter_mut().all(|(_, ticket)| answer(ticket) == Some(false)), "refused at once");
    assert_eq!((journal.metrics.edge(0).unforced.get(), journal.metrics.edge(0).accepted.get()), (5, 5));
    journal.disk.set_chance(Fault::SyncError, 0);
    journal.clock.advance(Duration::from_secs(2));
    journal.settle();
    let mut tickets = journal.push(3, 0);
    journal.settle();
    assert!(tickets.iter_mut().all(|(_, ticket)| answer(ticket) == Some(true)));
    let (found, damaged) = read_orphan(&(Arc::new(journal.disk.crash()) as Arc<dyn Disk>));
    assert_eq!((found, damaged), ((0..5).chain(9..12).collect(), false), "what was written is there after all");
}

#[test]
fn a_segment_that_could_not_be_sealed_is_no_damage() {
    for seed in 0..10 {
        let mut journal = Journal::new(seed, "interval:50ms");
        journal.fill_segment();
        journal.disk.fail_next(Fault::WriteError);
        journal.push(10, 0);
        journal.settle();
        assert_eq!(journal.metrics.edge(0).journal_failures.get(), 0, "it was the seal that failed");
        let expected = all(&journal);
        assert_eq!(read(&mut journal.follower), expected, "seed {seed}");
        assert!(!journal.follower.is_damaged());
        // As a batch does that was frozen across the border.
        let (range, folder) =
            (Position::start_of(0)..journal.follower.next_position(), journal.follower.folder().to_owned());
        let again = read_range(&journal.disk, &folder, 0, range).expect("a range that can be read");
        assert_eq!(again.len(), expected.len(), "seed {seed}");
        assert_eq!(read_orphan(&journal.kill()), (expected, false), "seed {seed}");
    }
}

#[test]
fn a_damaged_record_of_a_live_journal_is_skipped_and_reported() {
    let mut journal = Journal::new(8, "interval:50ms");
    for _ in 0..3 {
        journal.push(10, 100);
    }
    // The first group is in the queue; the record hit is in the third.
    let bytes = journal.metrics.edge(0).journal_bytes.get();
    journal.disk.flip(&journal.segment(0), (256 + bytes * 5 / 6) * 8).expect("a file");
    let found = read(&mut journal.follower);
    assert_eq!(found.len(), 29, "{found:?}");
    assert_eq!(journal.metrics.worker(0).unreadable.get(), 1);
    assert!(journal.follower.is_damaged());
    // A batch that was frozen across it can be read again.
    let (range, folder) =
        (Position::start_of(0)..journal.follower.next_position(), journal.follower.folder().to_owned());
    assert_eq!(read_range(&journal.disk, &folder, 0, range).expect("a range that can be read").len(), 29);
    journal.push(10, 100);
    assert_eq!(read(&mut journal.follower), (30..40).collect::<Vec<_>>(), "and it goes on");
}

#[test]
fn what_a_failed_write_left_behind_the_end_is_never_taken_for_what_was_written_there_later() {
    let mut kept_in_all = 0;
    for seed in 0..100 {
        let mut journal = Journal::new(seed, "interval:50ms");
        let mut kept = Vec::new();
        for _ in 0..5 {
            // More than the queue takes: it comes from the journal.
            kept.extend(journal.push(20, 4_000));
            journal.disk.fail_next(Fault::WriteError);
            kept.extend(journal.push(9, 3_000));
            let found = read(&mut journal.follower);
            let told = |(number, ticket): &mut (u64, Ticket)| (answer(ticket) == Some(true)).then_some(*number);
            let expected: Vec<_> = std::mem::take(&mut kept).iter_mut().filter_map(told).collect();
            assert_eq!(found, expected, "seed {seed}");
            kept_in_all += found.len();
        }
        assert_eq!(journal.metrics.worker(0).unreadable.get(), 0, "seed {seed}");
    }
    assert_eq!(kept_in_all, 100 * 5 * 20);
}

#[test]
fn a_segment_that_the_disk_does_not_give_at_all_is_skipped() {
    let mut journal = Journal::new(10, "interval:50ms");
    journal.fill_segment();
    let first = journal.pushed;
    journal.push(10, 100);
    journal.settle();
    journal.disk.set_unreadable(&journal.segment(0), 0..u64::MAX).expect("a file");
    assert_eq!(read_orphan(&journal.kill()), ((first..first + 10).collect(), true));
}

#[test]
fn a_place_that_the_disk_never_gives_is_skipped_after_some_tries() {
    let mut journal = Journal::new(9, "interval:50ms");
    for _ in 0..30 {
        journal.push(10, 100);
    }
    let segment = journal.segment(0);
    journal.disk.set_unreadable(&segment, 20_480..24_576).expect("a file");
    let found = read(&mut journal.follower);
    assert!(found.starts_with(&(0..100).collect::<Vec<_>>()) && found.ends_with(&(150..300).collect::<Vec<_>>()));
    let missing = 300 - found.len();
    assert!((4_096 / 300..=4_096 / 150 + 2).contains(&missing), "{missing}");
    assert_eq!(journal.metrics.worker(0).unreadable.get(), 1);
    assert_eq!(read_orphan(&journal.kill()), (found, true), "the next process finds the same");
}
