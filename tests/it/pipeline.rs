//! The handoff and the worker in this process, against a store that follows a script.

#![cfg(feature = "testing")]

use std::sync::Arc;
use std::time::Duration;

use trellis::click::Click;
use trellis::handoff::{Follower, Run};
use trellis::pipeline::Label;
use trellis::pipeline::worker::{Drain, Ended};
use trellis::segment::Disk;
use trellis::testing::{Fault, FaultDisk, Outcome, ScriptedDeduper, ScriptedStore};

use crate::bench::{Bench, click, id, push, sorted};
use crate::harness::eventually;

/// 2026-01-31T23:59:59.500Z
const END_OF_JANUARY_MS: u64 = 1_769_903_999_500;

#[test]
fn a_failing_store_gets_the_same_batch_again_until_it_takes_it() {
    let script = [Outcome::Transient, Outcome::AmbiguousLost, Outcome::Operator, Outcome::AmbiguousStored];
    let bench = Bench::new(ScriptedStore::new(script, Outcome::Stored), &[("batch.in_flight_max", "1")]);
    let (run, intake, follower) = bench.begin();
    let mut intake = intake();
    let ids = push(&mut intake, bench.now_ms(), 0..100);
    let (worker, _drain) = bench.start(follower, 0);
    intake.close();
    let ended = worker.join().expect("no panic").expect("no error");
    assert_eq!(ended, Ended { finished: true, damaged: false });
    let calls = bench.store.calls();
    let first = &calls[0];
    assert_eq!(calls.len(), 4, "what was stored without an answer is looked for, and not sent again");
    for call in &calls {
        assert_eq!(call.0, first.0, "the same token");
        let frames = |rows: &[trellis::pipeline::Row]| rows.iter().map(|r| r.frame.clone()).collect::<Vec<_>>();
        assert_eq!(frames(&call.1), frames(&first.1), "the same rows");
    }
    let looks = bench.metrics.worker(0).looks.each_ref().map(trellis::telemetry::shard::Cell::get);
    assert_eq!(looks, [1, 0, 1], "none was there after the lost one, all after the stored one");
    assert_eq!(sorted(bench.store.click_ids()), sorted(ids));
    run.end(true).expect("removed");
}

#[test]
fn of_a_batch_that_is_stored_in_part_the_rest_is_sent_under_a_token_of_its_own() {
    let script = [Outcome::AmbiguousFirst(30), Outcome::AmbiguousFirst(50)];
    let settings = [("batch.age_max", "10m"), ("batch.in_flight_max", "1")];
    let bench = Bench::new(ScriptedStore::new(script, Outcome::Stored), &settings);
    let (run, intake, follower) = bench.begin();
    let mut intake = intake();
    let ids = push(&mut intake, bench.now_ms(), 0..100);
    intake.close();
    let (worker, _drain) = bench.start(follower, 0);
    assert!(worker.join().expect("no panic").expect("no error").finished);
    let calls = bench.store.calls();
    let rows: Vec<_> = calls.iter().map(|(_, rows, _)| rows.len()).collect();
    assert_eq!(rows, [100, 70, 20]);
    let id = &calls[0].0;
    assert_eq!((&calls[1].0, &calls[2].0), (&format!("{id}/1"), &format!("{id}/2")));
    assert_eq!(sorted(bench.store.click_ids()), sorted(ids));
    run.end(true).expect("removed");
}

#[test]
fn a_store_that_is_away_holds_nobody_up_and_loses_nothing() {
    // One batch of ten at the store, room for one group in the queue: the rest waits in the journal.
    let settings = [("batch.rows_max", "10"), ("batch.in_flight_max", "1"), ("queue.groups_max", "1")];
    let bench = Bench::new(ScriptedStore::new([], Outcome::Transient), &settings);
    let (_run, intake, follower) = bench.begin();
    let (worker, _drain) = bench.start(follower, 0);
    let mut intake = intake();
    let ids = push(&mut intake, bench.now_ms(), 0..5_000);
    assert_eq!(bench.metrics.edge(0).accepted.get(), 5_000, "the journal took all");
    eventually("the store was asked", || bench.store.calls().len() > 3);
    assert!(bench.metrics.pending() > 3_000, "{} are pending", bench.metrics.pending());
    bench.store.always(Outcome::Stored);
    intake.close();
    assert!(worker.join().expect("no panic").expect("no error").finished);
    assert_eq!(sorted(bench.store.click_ids()), sorted(ids));
    assert!(bench.metrics.worker(0).via_journal.get() > 0 && bench.metrics.pending() == 0);
}

#[test]
fn several_batches_are_at_the_store_at_once_and_the_checkpoint_waits_for_the_first() {
    // The first batch is never answered; those behind it are stored.
    let settings = [("batch.rows_max", "10"), ("batch.in_flight_max", "4")];
    let bench = Bench::new(ScriptedStore::new([Outcome::Hang], Outcome::Stored), &settings);
    let (run, intake, follower) = bench.begin();
    let (worker, drain) = bench.start(follower, 0);
    let mut intake = intake();
    let ids = push(&mut intake, bench.now_ms(), 0..100);
    eventually("all others are stored", || bench.store.click_ids().len() == 90);
    let before = bench.store.calls();
    intake.close();
    drop(intake);
    drain.send_replace(Drain::Stop);
    assert!(!worker.join().expect("no panic").expect("no error").finished);
    run.end(false).expect("left behind");

    // The next start finds the same batches, frozen. It sends the one that is missing, under the same token with the
    // same labels, and none of the others.
    let orphan = bench.orphan();
    let core = orphan.stretches().expect("its stretches")[0];
    let follower = Follower::orphan(&orphan, core, bench.metrics.worker(1)).expect("a follower");
    let (worker, _drain) = bench.start(follower, 1);
    assert!(worker.join().expect("no panic").expect("no error").finished);
    assert_eq!(bench.metrics.worker(1).adopted.get(), 100);
    assert_eq!(sorted(bench.store.click_ids()), sorted(ids));
    let after = bench.store.calls();
    assert_eq!(after.len(), before.len() + 1);
    let frames = |rows: &[trellis::pipeline::Row]| rows.iter().map(|r| (r.frame.clone(), r.dedup)).collect::<Vec<_>>();
    let (hung, again) = (&before[0], &after[before.len()]);
    assert_eq!((&hung.0, frames(&hung.1)), (&again.0, frames(&again.1)));
    assert_eq!(bench.deduper.claims().len(), 100, "no label is asked for twice");
    orphan.finish(false).expect("removed");
}

#[test]
fn a_batch_that_could_not_be_frozen_is_not_forgotten_for_the_sake_of_one_behind_it() {
    // Neither batch is answered; there is no space for the intent of the first one.
    let settings = [("batch.rows_max", "10"), ("batch.in_flight_max", "2"), ("batch.age_max", "10m")];
    let mut bench = Bench::new(ScriptedStore::new([Outcome::Hang, Outcome::Hang], Outcome::Stored), &settings);
    let disk = FaultDisk::new(13);
    bench.disk = Arc::new(disk.clone());
    let (run, mut doors, mut upkeep) =
        Run::begin_by_hand(&bench.disk, &bench.config, &bench.metrics, &bench.clock).expect("a run");
    upkeep.turn(false);
    let (intake, follower) = doors.pop().expect("one core");
    let mut intake = intake();
    let ids = push(&mut intake, bench.now_ms(), 0..20);
    disk.fail_next(Fault::Full);
    let (worker, drain) = bench.start(follower, 0);
    eventually("both are at the store", || bench.store.in_flight() == 2);
    drain.send_replace(Drain::Stop);
    assert!(!worker.join().expect("no panic").expect("no error").finished);
    drop(intake);
    run.end(false).expect("left behind");
    let orphan = bench.orphan();
    let core = orphan.stretches().expect("its stretches")[0];
    let follower = Follower::orphan(&orphan, core, bench.metrics.worker(1)).expect("a follower");
    let (worker, _drain) = bench.start(follower, 1);
    assert!(worker.join().expect("no panic").expect("no error").finished);
    assert_eq!(sorted(bench.store.click_ids()), sorted(ids));
}

#[test]
fn a_batch_never_crosses_a_month() {
    let bench = Bench::new(ScriptedStore::new([], Outcome::Stored), &[("batch.age_max", "10m")]);
    let (_run, intake, follower) = bench.begin();
    let mut intake = intake();
    push(&mut intake, END_OF_JANUARY_MS, 0..7);
    push(&mut intake, END_OF_JANUARY_MS + 500, 7..20);
    intake.close();
    let (worker, _drain) = bench.start(follower, 0);
    assert!(worker.join().expect("no panic").expect("no error").finished);
    let sizes: Vec<_> = bench.store.calls().iter().map(|(_, rows, _)| rows.len()).collect();
    assert_eq!(sizes, [7, 13]);
}

#[test]
fn a_click_that_waited_too_long_is_labelled_unknown_and_not_checked() {
    let bench = Bench::new(ScriptedStore::new([], Outcome::Stored), &[("dedup.lag_max", "1m")]);
    let (_run, intake, follower) = bench.begin();
    let mut intake = intake();
    push(&mut intake, bench.now_ms() - Duration::from_secs(120).as_millis() as u64, 0..3);
    push(&mut intake, bench.now_ms(), 3..5);
    intake.close();
    let (worker, _drain) = bench.start(follower, 0);
    assert!(worker.join().expect("no panic").expect("no error").finished);
    let calls = bench.store.calls();
    let labels: Vec<_> = calls.iter().flat_map(|(_, rows, _)| rows).map(|row| row.dedup).collect();
    let expected = [Label::Unknown, Label::Unknown, Label::Unknown, Label::Unique, Label::Unique];
    assert_eq!(labels, expected);
    assert_eq!(bench.deduper.claims().len(), 2);
    assert_eq!(bench.metrics.worker(0).dedup_failures.get(), 0, "it was not asked");
}

#[test]
fn a_check_that_could_not_label_a_click_is_counted_as_an_error() {
    let bench = Bench::new(ScriptedStore::new([], Outcome::Stored), &[]);
    let (_run, intake, follower) = bench.begin();
    let mut intake = intake();
    push(&mut intake, bench.now_ms(), 0..5);
    intake.close();
    let deduper = ScriptedDeduper::new([Label::Unique, Label::Unknown, Label::Unknown], Label::Unique);
    let (worker, _drain) = bench.start_with(follower, 0, Arc::new(deduper));
    assert!(worker.join().expect("no panic").expect("no error").finished);
    assert_eq!(bench.metrics.worker(0).dedup_failures.get(), 1);
    assert_eq!(bench.metrics.worker(0).labels.each_ref().map(trellis::telemetry::shard::Cell::get), [3, 0, 2]);
}

#[test]
fn a_segment_with_a_damaged_record_in_the_middle_is_reported_and_the_rest_is_read() {
    let bench = Bench::new(ScriptedStore::new([], Outcome::Stored), &[]);
    let (run, intake, _follower) = bench.begin();
    let mut intake = intake();
    let big = big_query();
    // Into the second segment: the first one is no longer the last.
    let mut pushed = 0;
    eventually("the segment has changed", || {
        let _ticket = intake.push(&Click { query: big, ..click(id(bench.now_ms(), pushed)) });
        intake.flush();
        pushed += 1;
        pushed > 400 && segments(bench.folder.path()).len() > 2
    });
    drop(intake);
    run.end(false).expect("left behind");
    let first = segments(bench.folder.path()).remove(0);
    let mut bytes = std::fs::read(&first).expect("a segment");
    bytes[600_000] ^= 1;
    std::fs::write(&first, bytes).expect("written");
    let orphan = bench.orphan();
    let core = orphan.stretches().expect("its stretches")[0];
    let follower = Follower::orphan(&orphan, core, bench.metrics.worker(1)).expect("a follower");
    let (worker, _drain) = bench.start(follower, 1);
    assert_eq!(worker.join().expect("no panic").expect("no error"), Ended { finished: true, damaged: true });
    let stored = bench.store.click_ids().len() as u64;
    assert_eq!(stored, pushed - 1, "all but the click that was hit");
    assert_eq!(bench.metrics.worker(1).unreadable.get(), 1, "reported once");
    orphan.finish(true).expect("kept");
    let kept = std::fs::read_dir(bench.folder.path().join("journal")).expect("the folder");
    let names: Vec<_> = kept.map(|e| e.expect("an entry").path()).collect();
    assert!(names.len() == 1 && names[0].extension().is_some_and(|e| e == "damaged"), "{names:?}");
    let name = first.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(names[0].join(name + ".damaged").exists(), "the segment itself is kept");
}

/// What a ticket says once its group was written.
fn is_kept(mut ticket: trellis::handoff::Ticket) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    std::pin::Pin::new(&mut ticket).poll(&mut context) == std::task::Poll::Ready(true)
}

/// 4 KB of query string, so that a segment of 1 MiB is full after some 240 clicks.
fn big_query() -> &'static str {
    Box::leak("q=".repeat(2_000).into_boxed_str())
}

/// Whether each click of one group was kept.
fn push_one_group(intake: &mut trellis::handoff::Intake, ms: u64, numbers: std::ops::Range<u64>) -> Vec<bool> {
    let tickets: Vec<_> = numbers.map(|n| intake.push(&click(id(ms, n)))).collect();
    intake.flush();
    tickets.into_iter().map(is_kept).collect()
}

#[test]
fn a_full_disk_refuses_the_clicks_that_do_not_fit_and_takes_others_when_there_is_space_again() {
    let mut bench = Bench::new(ScriptedStore::new([], Outcome::Stored), &[]);
    let disk = FaultDisk::new(7);
    disk.set_allocates(false);
    bench.disk = Arc::new(disk.clone());
    let (run, intake, follower) = bench.begin();
    let mut intake = intake();
    let ms = bench.now_ms();
    assert_eq!(push_one_group(&mut intake, ms, 0..3), [true; 3]);
    // Two and a half of three clicks that are equally long.
    disk.set_space_left(bench.metrics.edge(0).journal_bytes.get() * 5 / 6);
    assert_eq!(push_one_group(&mut intake, ms, 3..6), [true, true, false]);
    assert_eq!(push_one_group(&mut intake, ms, 6..9), [false; 3]);
    disk.set_space_left(u64::MAX);
    assert_eq!(push_one_group(&mut intake, ms, 9..12), [true; 3]);
    assert_eq!(bench.metrics.edge(0).accepted.get(), 8);
    intake.close();
    let (worker, _drain) = bench.start(follower, 0);
    assert_eq!(worker.join().expect("no panic").expect("no error"), Ended { finished: true, damaged: false });
    let kept: Vec<_> = [0, 1, 2, 3, 4, 9, 10, 11].map(|n| id(ms, n)).into();
    assert_eq!(sorted(bench.store.click_ids()), sorted(kept));
    run.end(true).expect("removed");
}

#[test]
fn at_its_cap_the_journal_refuses_clicks_until_the_store_has_caught_up() {
    // Room for three segments of 1 MiB.
    let settings = [("journal.max_bytes", "6MiB"), ("journal.sync", "interval:1ms"), ("batch.rows_max", "50")];
    let bench = Bench::new(ScriptedStore::new([], Outcome::Transient), &settings);
    let (run, intake, follower) = bench.begin();
    let mut intake = intake();
    let (big, mut pushed) = (big_query(), Vec::new());
    let mut kept = |intake: &mut trellis::handoff::Intake| {
        let id = id(bench.now_ms(), pushed.len() as u64);
        let ticket = intake.push(&Click { query: big, ..click(id) });
        intake.flush();
        pushed.push((id, is_kept(ticket)));
        pushed.last().is_some_and(|(_, kept)| *kept)
    };
    eventually("the journal is full", || !kept(&mut intake));
    // Three segments' worth got in before, and more does not.
    assert!((0..100).all(|_| !kept(&mut intake)));
    let accepted = bench.metrics.edge(0).accepted.get();
    assert!(accepted > 600, "{accepted}");
    assert_eq!(segments(bench.folder.path()).len(), 3);
    // The store is there again: finished segments are removed, and there is room without a restart.
    bench.store.always(Outcome::Stored);
    let (worker, _drain) = bench.start(follower, 0);
    eventually("the journal takes clicks again", || kept(&mut intake));
    intake.close();
    assert!(worker.join().expect("no panic").expect("no error").finished);
    let kept: Vec<_> = pushed.iter().filter(|(_, kept)| *kept).map(|(id, _)| *id).collect();
    assert_eq!(sorted(bench.store.click_ids()), sorted(kept));
    run.end(true).expect("removed");
}

#[test]
fn a_disk_with_little_space_left_gets_no_further_segment() {
    let settings = [("journal.min_free_bytes", "10MiB"), ("journal.sync", "interval:1ms")];
    let mut bench = Bench::new(ScriptedStore::new([], Outcome::Stored), &settings);
    let disk = FaultDisk::new(11);
    disk.set_allocates(false);
    bench.disk = Arc::new(disk.clone());
    let (run, intake, _follower) = bench.begin();
    let mut intake = intake();
    disk.set_space_left(9 << 20);
    let (big, mut n) = (big_query(), 0);
    let mut kept = |intake: &mut trellis::handoff::Intake| {
        n += 1;
        let ticket = intake.push(&Click { query: big, ..click(id(bench.now_ms(), n)) });
        intake.flush();
        is_kept(ticket)
    };
    eventually("clicks are refused while there is space yet", || !kept(&mut intake));
    disk.set_space_left(u64::MAX);
    eventually("clicks are kept again", || kept(&mut intake));
    intake.close();
    run.end(false).expect("left behind");
}

#[test]
fn a_power_cut_loses_no_click_that_was_forced_to_the_disk() {
    for seed in 0..20 {
        let mut bench = Bench::new(ScriptedStore::new([], Outcome::Stored), &[("journal.sync", "interval:1ms")]);
        let disk = FaultDisk::new(seed);
        bench.disk = Arc::new(disk.clone());
        let (run, intake, _follower) = bench.begin();
        // What is above the data folder was there before.
        bench.folder.path().ancestors().skip(1).for_each(|folder| disk.sync_dir(folder).expect("forced"));
        let mut intake = intake();
        let ids = push(&mut intake, bench.now_ms(), 0..200);
        // Its end waits for the last sync.
        run.end(false).expect("left behind");
        let later = push(&mut intake, bench.now_ms(), 200..300);
        bench.disk = Arc::new(disk.crash());
        let orphan = bench.orphan();
        let core = orphan.stretches().expect("its stretches")[0];
        let follower = Follower::orphan(&orphan, core, bench.metrics.worker(1)).expect("a follower");
        let (worker, _drain) = bench.start(follower, 1);
        assert_eq!(worker.join().expect("no panic").expect("no error"), Ended { finished: true, damaged: false });
        let stored = sorted(bench.store.click_ids());
        assert_eq!(stored, [&ids[..], &later[..stored.len() - ids.len()]].concat(), "seed {seed}");
        orphan.finish(false).expect("removed");
    }
}

fn segments(data_dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let runs = std::fs::read_dir(data_dir.join("journal")).expect("the journal folder");
    let files = runs.flat_map(|run| std::fs::read_dir(run.expect("a run").path()).expect("its files"));
    let mut files: Vec<_> =
        files.map(|f| f.expect("a file").path()).filter(|f| f.extension().is_some_and(|e| e == "seg")).collect();
    files.sort();
    files
}
