//! What the journal costs and how fast it is read again, on the real disk under `target/`, through the real intake, keeper,
//! follower and worker. Encoding and decoding of one frame: `path.rs`.
//!
//! ```text
//! cargo bench --features testing --bench journal                  # everything, some minutes, 3 GiB of disk
//! cargo bench --features testing --bench journal -- percentiles   # one part: percentiles, cost, recovery, replay, pending
//! ```
//!
//! - **percentiles**: clicks come at a fixed rate whatever happens (open loop), for ten seconds, three times. A click's time
//!   runs from its due time to the moment at which it is kept, and may be answered: with `interval:50ms` behind the write,
//!   while the keeper forces the file twenty times a second. "Waited for a CPU" is how long the thread was ready to run and
//!   did not (schedstat): what it is charged for and the journal is not.
//! - **cost**: CPU time of the edge thread for taking clicks into groups of a given size, writing and offering them, at full
//!   speed, with a follower at work on another thread; and of the keeper. Without a journal the frame would be made all the
//!   same, so the journal's part is the rest: checksum, write, offering, and the keeper. CPU time, so that other work on the
//!   machine counts little. The groups of a node under load are in the report of `loadtest/end-to-end`.
//! - **recovery**: a journal of 1 GiB. What a start does before the node is ready, and reading all of it.
//! - **replay**: a journal through a worker into a store in memory, which takes everything at once.
//! - **pending**: 50,000 clicks a second, a turn of the event loop each millisecond, through a worker into a store in memory:
//!   how many wait for the worker at the end of each turn. The target is fewer than 1,000.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(clippy::print_stdout, reason = "figures for people")]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use criterion::{Criterion, Throughput};
use trellis::click::{Click, ClickId, Fingerprint, IdSource, Privacy};
use trellis::clock::{Clock as _, SystemClock};
use trellis::handoff::{Follower, Intake, Orphan, Step};
use trellis::testing::{Outcome, ScriptedStore};

#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/bench.rs"]
mod bench;

use bench::Bench;

const RATE: u64 = 100_000;
const SECONDS: u64 = 10;
/// Of the part "pending".
const STEADY_RATE: u64 = 50_000;
const ROUNDS: usize = 3;
const GIB: u64 = 1 << 30;
/// Of the replay through a worker: a store in memory keeps every click.
const REPLAYED_BYTES: u64 = 320 << 20;
/// A worker looks so often when nothing came.
const LOOK: Duration = Duration::from_millis(1);

const UA: &[u8] =
    b"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";

fn click(id: ClickId) -> Click<'static> {
    Click {
        id,
        fingerprint: Some(Fingerprint(*id.as_bytes())),
        window: None,
        head: false,
        prefetch: false,
        bound: false,
        marks: Default::default(),
        status: 302,
        route_version: 1,
        address: Some([203, 0, 114, 77].into()),
        country: None,
        privacy: Privacy::default(),
        org: "default",
        campaign: "sale",
        domain: "*",
        link: "spring",
        path: b"",
        rule: "",
        variant: "",
        destination: b"https://shop.example/p?id=0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b",
        referrer: b"https://news.example/page",
        ua: UA,
        language: b"de-DE,de;q=0.9",
        query: "click_id=run-123456&source=load",
    }
}

fn rig(settings: &[(&str, &str)]) -> Bench {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let like_a_node = [("journal.segment_bytes", "64MiB"), ("batch.age_max", "1s")];
    Bench::new_in(folder, ScriptedStore::new([], Outcome::Stored), &[&like_a_node, settings].concat())
}

/// Nanoseconds on a CPU, and ready to run without one, of a thread of this process. The system counts running time at
/// its ticks: a few milliseconds of error.
fn schedstat(task: &str) -> [u64; 2] {
    let text = std::fs::read_to_string(format!("/proc/{task}/schedstat")).expect("Linux with schedstat");
    let mut numbers = text.split(' ').map(|number| number.trim().parse().expect("a number"));
    [(); 2].map(|()| numbers.next().expect("two numbers"))
}

const THIS_THREAD: &str = "thread-self";

/// The keeper's thread, by its name, which it gives itself when it begins to run.
fn keeper() -> String {
    let is_keeper = |path: &String| {
        std::fs::read_to_string(format!("/proc/{path}/comm")).is_ok_and(|name| name.trim() == "journal")
    };
    loop {
        let tasks = std::fs::read_dir("/proc/self/task").expect("the threads");
        let mut paths = tasks.map(|task| format!("self/task/{}", task.expect("a thread").file_name().display()));
        if let Some(path) = paths.find(is_keeper) {
            return path;
        }
        std::thread::yield_now();
    }
}

/// Takes what comes, as a worker does, and drops it.
fn take_all(mut follower: Follower, stop: &AtomicBool) {
    let mut items = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        items.clear();
        match follower.poll(512, &mut items).expect("the journal can be read") {
            Step::Clicks => {}
            Step::Idle => std::thread::park_timeout(LOOK),
            Step::Finished => return,
        }
    }
}

/// Runs `edge` as an edge thread, with a follower beside it; clicks that came by the queue, and all.
fn with_follower(bench: &Bench, edge: impl FnOnce(&mut Intake)) -> (u64, u64) {
    let (run, intake, follower) = bench.begin();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let follower = scope.spawn(|| take_all(follower, &stop));
        let mut intake = intake();
        edge(&mut intake);
        intake.close();
        follower.join().expect("no panic");
    });
    run.end(true).expect("removed");
    let worker = bench.metrics.worker(0);
    (worker.via_queue.get(), worker.via_queue.get() + worker.via_journal.get())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Open loop: clicks at [`RATE`], `turn` of them due together.
fn paced(bench: &Bench, turn: u64) -> Vec<u64> {
    let clock = SystemClock::new();
    let mut ids = IdSource::new(1);
    let due = |n: u64| (n / turn * turn) * 1_000_000_000 / RATE;
    let mut times = Vec::with_capacity((RATE * SECONDS) as usize);
    let mut groups = 0_u64;
    let mut waited = 0;
    let (by_queue, all) = with_follower(bench, |intake| {
        let (begin, before) = (clock.now(), schedstat(THIS_THREAD)[1]);
        let since = || (clock.now() - begin).as_nanos() as u64;
        let (mut next, mut answered) = (0, 0);
        while answered < RATE * SECONDS {
            let now = since();
            while next < RATE * SECONDS && due(next) <= now {
                let _ticket = intake.push(&click(ids.next(1_700_000_000_000 + now / 1_000_000)));
                next += 1;
            }
            if next > answered {
                intake.flush();
                groups += 1;
                let now = since();
                times.extend((answered..next).map(|n| now - due(n)));
                answered = next;
            }
        }
        waited = schedstat(THIS_THREAD)[1] - before;
    });
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize] as f64 / 1e3;
    println!(
        "  p50 {:7.1} us  p99 {:7.1} us  p99.9 {:7.1} us  p99.99 {:8.1} us  max {:8.1} us   groups of {:.1}  by queue {:.1} %  \
         waited for a CPU {} ms",
        at(0.5),
        at(0.99),
        at(0.999),
        at(0.9999),
        at(1.0),
        times.len() as f64 / groups as f64,
        100.0 * by_queue as f64 / all as f64,
        waited / 1_000_000,
    );
    times
}

fn percentiles() {
    for (turn, name) in [(1, "one by one, due every 10 us"), (10, "ten at a time, due every 100 us")] {
        println!("\npercentiles: {RATE} clicks/s for {SECONDS} s, sync interval:50ms, {name}");
        let rounds: Vec<_> = (0..ROUNDS).map(|_| paced(&rig(&[]), turn)).collect();
        let at = |share: f64| {
            median(rounds.iter().map(|t| t[((t.len() - 1) as f64 * share) as usize] as f64 / 1e3).collect())
        };
        println!("  medians: p50 {:.1} us, p99 {:.1} us, p99.99 {:.1} us", at(0.5), at(0.99), at(0.9999));
    }
}

/// So many clicks that it takes seconds, beside which the ticks of the system's clock are short: up to 700 MiB of journal.
const fn clicks_for(group: u64) -> u64 {
    2_000_000 / group * group
}

/// CPU of the edge thread, and of the keeper, in microseconds a click, for groups of this size.
fn cost_of(group: u64) -> [f64; 2] {
    let bench = rig(&[]);
    let (mut ids, clicks) = (IdSource::new(1), clicks_for(group));
    let mut cpu = [0; 2];
    with_follower(&bench, |intake| {
        let keeper = keeper();
        let before = [schedstat(THIS_THREAD)[0], schedstat(&keeper)[0]];
        for _ in 0..clicks / group {
            for _ in 0..group {
                let _ticket = intake.push(black_box(&click(ids.next(1_700_000_000_000))));
            }
            intake.flush();
        }
        cpu = [schedstat(THIS_THREAD)[0] - before[0], schedstat(&keeper)[0] - before[1]];
    });
    cpu.map(|ns| ns as f64 / 1e3 / clicks as f64)
}

/// The same for the frames alone, into a buffer that is used again.
fn frames_of(group: u64) -> f64 {
    let (mut ids, clicks, mut frames) = (IdSource::new(1), clicks_for(group), BytesMut::with_capacity(64 << 10));
    let before = schedstat(THIS_THREAD)[0];
    for _ in 0..clicks / group {
        frames.clear();
        for _ in 0..group {
            black_box(&click(ids.next(1_700_000_000_000))).encode(&mut frames);
        }
        black_box(&frames);
    }
    (schedstat(THIS_THREAD)[0] - before) as f64 / 1e3 / clicks as f64
}

fn cost() {
    println!("\ncost: CPU for a click in microseconds, medians of {ROUNDS}");
    for group in [1, 2, 4, 8, 16, 32, 64] {
        let rounds: Vec<_> = (0..ROUNDS).map(|_| cost_of(group)).collect();
        let [edge, keeper] = [0, 1].map(|part| median(rounds.iter().map(|costs| costs[part]).collect()));
        let frames = median((0..ROUNDS).map(|_| frames_of(group)).collect());
        let journal = edge - frames + keeper;
        println!(
            "  groups of {group:2}: edge {edge:.3}, of it frames {frames:.3}; keeper {keeper:.3}; journal {journal:.3}"
        );
    }
}

/// Writes a journal, which nobody reads, of so many bytes; how many clicks that is.
fn fill(bench: &Bench, bytes: u64) -> u64 {
    let (run, intake, _follower) = bench.begin();
    let (mut intake, mut ids, edge) = (intake(), IdSource::new(1), bench.metrics.edge(0));
    while edge.journal_bytes.get() < bytes {
        for _ in 0..16 {
            let _ticket = intake.push(&click(ids.next(bench.now_ms())));
        }
        intake.flush();
    }
    drop(intake);
    run.end(false).expect("it stays");
    edge.accepted.get()
}

/// What a start does with it before the node is ready, and what the adopting thread does first.
fn adopt(bench: &Bench) -> (Orphan, Vec<Follower>) {
    let mut orphans = Orphan::find(&bench.disk, bench.folder.path()).expect("the journal");
    let orphan = orphans.pop().expect("one run");
    let stretches = orphan.stretches().expect("its names");
    let follow = |stretch| Follower::orphan(&orphan, stretch, bench.metrics.worker(1)).expect("a journal");
    let followers = stretches.into_iter().map(follow).collect();
    (orphan, followers)
}

/// Reads what is left of a run: its clicks, and what `each` made of them.
fn read_all(bench: &Bench, mut each: impl FnMut(&[u8]) -> u64) -> (u64, u64) {
    let (_orphan, followers) = adopt(bench);
    let (mut clicks, mut sum, mut items) = (0, 0, Vec::new());
    for mut follower in followers {
        while follower.poll(512, &mut items).expect("it can be read") == Step::Clicks {
            clicks += items.len() as u64;
            sum += items.drain(..).map(|item| each(&item.frame)).sum::<u64>();
        }
    }
    (clicks, sum)
}

fn recovery(criterion: &mut Criterion) {
    let bench = rig(&[]);
    let clicks = fill(&bench, GIB);
    println!("\nrecovery: 1 GiB of journal, {clicks} clicks, page cache warm");
    assert_eq!(read_all(&bench, |_| 0).0, clicks, "what was written is read");
    let mut group = criterion.benchmark_group("recovery");
    group.sample_size(10);
    group.bench_function("1 GiB: find and lock it, open its journals (all that happens before the first read)", |b| {
        b.iter(|| adopt(&bench).1.len());
    });
    group.throughput(Throughput::Bytes(GIB));
    group.bench_function("1 GiB: read and check it", |b| b.iter(|| read_all(&bench, |_| 0)));
    group.throughput(Throughput::Elements(clicks));
    group.bench_function("1 GiB: read, check and decode its clicks", |b| {
        b.iter(|| read_all(&bench, |frame| Click::decode(frame).map_or(0, |click| u64::from(click.status))));
    });
    group.finish();
}

fn replay() {
    println!("\nreplay: {} MiB of an earlier run through a worker into a store in memory", REPLAYED_BYTES >> 20);
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let bench = rig(&[]);
        let clicks = fill(&bench, REPLAYED_BYTES);
        let begin = bench.clock.now();
        let (_orphan, followers) = adopt(&bench);
        for follower in followers {
            let (worker, _drain) = bench.start(follower, 1);
            assert!(worker.join().expect("no panic").expect("no error").finished);
        }
        let seconds = (bench.clock.now() - begin).as_secs_f64();
        assert_eq!(bench.metrics.worker(1).stored.get(), clicks, "all are stored");
        println!("  {clicks} clicks in {seconds:.2} s: {:.0} clicks/s", clicks as f64 / seconds);
        rates.push(clicks as f64 / seconds);
    }
    println!("  median: {:.0} clicks/s", median(rates));
}

fn pending() {
    println!("\npending: {STEADY_RATE} clicks/s for {SECONDS} s through a worker into a store in memory");
    for _ in 0..ROUNDS {
        let bench = rig(&[]);
        let (run, intake, follower) = bench.begin();
        let (worker, _drain) = bench.start(follower, 0);
        let (mut intake, mut ids) = (intake(), IdSource::new(1));
        let (begin, mut waiting) = (bench.clock.now(), Vec::new());
        for turn in 0..SECONDS * 1000 {
            let ahead = Duration::from_millis(turn).saturating_sub(bench.clock.now() - begin);
            std::thread::park_timeout(ahead);
            for _ in 0..STEADY_RATE / 1000 {
                let _ticket = intake.push(&click(ids.next(bench.now_ms())));
            }
            intake.flush();
            waiting.push(bench.metrics.pending());
        }
        let seconds = (bench.clock.now() - begin).as_secs_f64();
        intake.close();
        assert!(worker.join().expect("no panic").expect("no error").finished);
        run.end(true).expect("removed");
        let by_queue = bench.metrics.worker(0).via_queue.get() as f64;
        waiting.sort_unstable();
        let at = |share: f64| waiting[((waiting.len() - 1) as f64 * share) as usize];
        println!(
            "  p50 {}  p99 {}  max {} clicks wait   by queue {:.1} %   {:.0} clicks/s",
            at(0.5),
            at(0.99),
            at(1.0),
            100.0 * by_queue / (STEADY_RATE * SECONDS) as f64,
            (STEADY_RATE * SECONDS) as f64 / seconds,
        );
    }
}

fn main() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    if "percentiles".contains(&filter) {
        percentiles();
    }
    if "cost".contains(&filter) {
        cost();
    }
    if "recovery".contains(&filter) {
        recovery(&mut Criterion::default().configure_from_args());
    }
    if "replay".contains(&filter) {
        replay();
    }
    if "pending".contains(&filter) {
        pending();
    }
    Criterion::default().configure_from_args().final_summary();
}
