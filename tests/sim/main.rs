//! The seeded simulation: a node on a disk that fails, against a store and a deduper that fail, killed and started again at
//! any step, in virtual time. Whatever a seed brings, the promises hold; when one does not, the seed brings it again.
//!
//! ```text
//! world (seed) --> life --> life --> ... --> healthy life --> books: what must be true in the end
//!                   |  a real intake, keeper and worker (handoff, pipeline), adoption of earlier runs as in `app`
//!                   +- edge: groups of clicks and what their visitors were told
//!                   +- disk: a FaultDisk, with the end of the process or of the power in any call
//!                   +- store: rows before FINAL, tokens, answers that are lost or late, rows that it refuses
//!                   +- deduper: late, in another order, at a loss
//! ```
//! `SEED=n cargo test --all-features --test sim` runs one world and prints what happened; `TRELLIS_SIM_SEEDS=n` sets how
//! many there are, `TRELLIS_SIM_FIRST=n` where they begin. One thread a world, nothing shared, no real time: a seed is the same run everywhere.

mod books;
mod clock;
mod damage;
mod deduper;
mod disk;
mod edge;
mod healthy;
mod ledger;
mod life;
mod node;
mod plan;
mod store;
mod trace;
mod world;

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use trellis::config::JournalSync;

use disk::DiskBug;
use plan::{Bug, Plan};
use store::{SimStore, StoreBug};
use trace::traced;
use world::{Figures, World};

/// Worlds of the run of every day.
const SEEDS: u64 = 2_000;
/// Last lines of a trace that are printed when nobody asked for it.
const TRACE_LINES: usize = 100;

thread_local! {
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// A panic in a task is caught by the event loop, and by the pipeline: here it is a failure all the same.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with(|panics| panics.set(panics.get() + 1));
            before(info);
        }));
    });
}

/// What came of a world.
struct Outcome {
    wrong: Option<String>,
    figures: Figures,
    store: Arc<SimStore>,
}

fn run(seed: u64, plan: Plan) -> Outcome {
    count_panics();
    PANICS.with(|panics| panics.set(0));
    let mut world = World::new(seed, plan);
    let result = world.run();
    let panics = PANICS.with(Cell::get);
    let wrong = result.err().or_else(|| (panics > 0).then(|| format!("{panics} panics")));
    Outcome { wrong, figures: world.figures, store: world.outside.store }
}

#[allow(clippy::disallowed_methods, reason = "tests are not configured")]
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Says something that is shown when the test fails, or with `--nocapture`.
#[allow(clippy::print_stdout, reason = "the test runner catches what a test prints, and shows it when it fails")]
fn note(text: &str) {
    println!("{text}");
}

/// Runs a world once more, or for the first time, and prints its last lines.
fn tell(seed: u64, lines: usize) -> Outcome {
    let (outcome, trace) = traced(|| run(seed, Plan::of(seed)));
    for line in &trace[trace.len().saturating_sub(lines)..] {
        note(line);
    }
    note(&format!("{:?}", outcome.figures));
    note(&format!("SEED={seed} cargo test --all-features --test sim -- --nocapture"));
    outcome
}

/// Runs these seeds on all cores; the lowest one that fails, and the sum of what they went through.
fn run_all(seeds: std::ops::Range<u64>, plan: impl Fn(u64) -> Plan + Sync) -> (Option<(u64, String)>, Figures) {
    let (next, failed, sum) = (AtomicU64::new(seeds.start), Mutex::new(None::<(u64, String)>), Mutex::default());
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let is_over = failed.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            if seed >= seeds.end || is_over {
                return;
            }
            let outcome = run(seed, plan(seed));
            if let Some(wrong) = outcome.wrong {
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                if failed.as_ref().is_none_or(|(lowest, _)| seed < *lowest) {
                    *failed = Some((seed, wrong));
                }
            }
            add(&mut sum.lock().unwrap_or_else(PoisonError::into_inner), outcome.figures);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
    (
        failed.into_inner().unwrap_or_else(PoisonError::into_inner),
        sum.into_inner().unwrap_or_else(PoisonError::into_inner),
    )
}

fn add(sum: &mut Figures, one: Figures) {
    sum.lives += one.lives;
    sum.kills += one.kills;
    sum.power_cuts += one.power_cuts;
    sum.clicks += one.clicks;
    sum.inserts += one.inserts;
    sum.stored += one.stored;
    sum.excused += one.excused;
    sum.adopted += one.adopted;
    sum.cuts += one.cuts;
    sum.refused_rows += one.refused_rows;
    sum.sync_failures += one.sync_failures;
    sum.untracked += one.untracked;
}

#[test]
fn whatever_a_seed_brings_the_promises_hold() {
    if let Some(seed) = number("SEED") {
        let outcome = tell(seed, usize::MAX);
        assert!(outcome.wrong.is_none(), "seed {seed}: {}", outcome.wrong.unwrap_or_default());
        return;
    }
    let first = number("TRELLIS_SIM_FIRST").unwrap_or(0);
    let seeds = first..first + number("TRELLIS_SIM_SEEDS").unwrap_or(SEEDS);
    let (failed, sum) = run_all(seeds, Plan::of);
    note(&format!("{sum:?}"));
    if let Some((seed, wrong)) = failed {
        tell(seed, TRACE_LINES);
        panic!("seed {seed}: {wrong}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..60 {
        let [(one, trace), (two, again)] = [0, 1].map(|_| traced(|| run(seed, Plan::of(seed))));
        assert_eq!(trace, again, "seed {seed}");
        let rows = [one, two].map(|outcome| format!("{:?}", outcome.store.raw()));
        assert!(rows[0] == rows[1], "seed {seed}: the stores differ");
    }
}

/// The planted mistake is found within 60 seeds, and for what it is.
fn is_caught(bug: Bug, saying: &str, change: impl Fn(&mut Plan) + Sync) {
    let plan = |seed| {
        let mut plan = Plan::calm(seed, bug);
        change(&mut plan);
        plan
    };
    let (failed, _) = run_all(0..60, plan);
    let (seed, wrong) = failed.unwrap_or_else(|| panic!("{bug:?} is not found"));
    note(&format!("{bug:?}: seed {seed}: {wrong}"));
    assert!(wrong.contains(saying), "{bug:?}: seed {seed}: {wrong}");
}

#[test]
fn a_store_that_drops_what_it_acknowledged_is_caught() {
    is_caught(Bug::Store(StoreBug::DropsABatch), "is nowhere", |_| {});
}

#[test]
fn a_store_that_says_stored_of_what_it_does_not_know_is_caught() {
    is_caught(Bug::Store(StoreBug::SaysStored), "is nowhere", |_| {});
}

#[test]
fn a_store_that_stores_a_batch_twice_is_caught() {
    is_caught(Bug::Store(StoreBug::StoresTwice), "rows of batch", |_| {});
}

#[test]
fn a_click_that_nobody_made_is_caught() {
    is_caught(Bug::Store(StoreBug::MakesOneUp), "no edge was given it", |_| {});
}

#[test]
fn a_disk_that_forces_nothing_is_caught() {
    for sync in [JournalSync::Always, JournalSync::Interval(Duration::from_millis(20))] {
        is_caught(Bug::Disk(DiskBug::SyncsNothing), "is nowhere", |plan| {
            (plan.cuts_power, plan.config.journal.sync) = (true, sync);
        });
    }
}

#[test]
fn a_disk_that_writes_nothing_is_caught() {
    is_caught(Bug::Disk(DiskBug::WritesNothing), "is nowhere", |_| {});
}

#[test]
fn a_checkpoint_that_moves_before_the_store_has_answered_is_caught() {
    is_caught(Bug::Disk(DiskBug::CheckpointRunsAhead), "is nowhere", |_| {});
}

#[test]
fn a_pipeline_that_does_not_freeze_its_batches_is_caught() {
    is_caught(Bug::Disk(DiskBug::IntentsVanish), "was frozen twice", |_| {});
}

#[test]
fn a_start_that_forgets_what_was_frozen_is_caught() {
    is_caught(Bug::ForgetsIntents, "was frozen twice", |_| {});
}

#[test]
fn a_start_that_adopts_nothing_is_caught() {
    is_caught(Bug::AdoptsNothing, "is nowhere", |_| {});
}

#[test]
fn labels_that_go_to_the_wrong_clicks_are_caught() {
    is_caught(Bug::LabelsSwapped, "which nobody gave it", |_| {});
}

#[test]
fn a_keeper_that_forces_nothing_is_caught() {
    is_caught(Bug::NeverForces, "is not forced after it", |plan| {
        plan.config.journal.sync = JournalSync::Interval(Duration::from_millis(20));
    });
}

#[test]
fn more_in_memory_than_there_may_be_is_caught() {
    is_caught(Bug::TakesTooMuch, "at one time", |plan| {
        (plan.config.batch.rows_max, plan.config.batch.in_flight_max, plan.mood.latency_ms_max) = (5, 1, 500);
    });
}

#[test]
fn a_good_row_that_is_refused_is_caught() {
    is_caught(Bug::Store(StoreBug::RefusesAGoodOne), "there is nothing wrong with it", |_| {});
}
