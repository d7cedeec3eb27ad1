//! What a seed stands for: the settings of a node, and what may go wrong in its world.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use trellis::catalog::agents::Agents;
use trellis::catalog::geo::Geo;
use trellis::click::class;
use trellis::config::{Config, JournalSync, Policy, Sources, shipped_classifier};
use trellis::pipeline::enrich::Enricher;
use trellis::pipeline::memory::Memory;
use trellis::testing::Fault;

use crate::disk::DiskBug;
use crate::store::{Mood, StoreBug};

/// Where the simulated node keeps everything.
pub(crate) const DATA: &str = "/data";

/// A mistake that is planted, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    Disk(DiskBug),
    Store(StoreBug),
    /// The deduper's labels go to the wrong clicks.
    LabelsSwapped,
    /// A start throws away what an earlier life froze: a pipeline without intents.
    ForgetsIntents,
    /// A start takes up nothing of what an earlier life left.
    AdoptsNothing,
    /// The keeper forces nothing.
    NeverForces,
    /// More batches are at the store than there may be.
    TakesTooMuch,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) config: Config,
    /// Lives before the last, healthy one.
    pub(crate) lives: u32,
    /// Chances of faults of the disk, each in so many of 1,000 calls; in some lives.
    pub(crate) faults: Vec<(Fault, u32)>,
    pub(crate) allocates: bool,
    /// The disk gets full now and then.
    pub(crate) fills: bool,
    /// A power cut keeps some names that were not forced.
    pub(crate) names_linger: bool,
    /// Lives end in a power cut, too.
    pub(crate) cuts_power: bool,
    /// Bits flip and sectors get lost.
    pub(crate) flips: bool,
    /// The wall clock jumps.
    pub(crate) jumps: bool,
    pub(crate) mood: Mood,
    /// Of 1,000 clicks, so many that the store refuses.
    pub(crate) poison: u32,
    /// The table fits no row for a while.
    pub(crate) drifts: bool,
    pub(crate) dedup_unknown: u32,
    pub(crate) dedup_latency_ms: u64,
    pub(crate) group_clicks_max: u64,
    pub(crate) query_bytes_max: usize,
    pub(crate) bug: Option<Bug>,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ 0x70_6c_61_6e);
        let mut config = base_config();
        settings(&mut config, &mut random);
        let mut often = |per_cent: u32| random.u32(..100) < per_cent;
        let (store_fails, disk_fails) = (often(75), often(40));
        let (allocates, fills, cuts_power) = (often(70), often(20), often(40));
        let (flips, jumps, drifts, poisons) = (often(15), often(30), often(10), often(30));
        let kinds = [Fault::ShortWrite, Fault::Full, Fault::WriteError, Fault::ReadError, Fault::SyncError];
        let faults = kinds.into_iter().filter(|_| disk_fails && random.bool()).collect::<Vec<_>>();
        // At most such that ten tries in a row do not fail: that is a lost sector.
        let chance_max = *random.choice(&[10, 60, 150]).expect("one");
        let faults = faults.into_iter().map(|fault| (fault, random.u32(1..chance_max))).collect();
        let mood = if store_fails { mood(&mut random) } else { Mood { latency_ms_max: 10, ..Mood::default() } };
        Self {
            config,
            lives: random.u32(1..5),
            faults,
            allocates,
            fills,
            names_linger: random.bool(),
            cuts_power,
            flips,
            jumps,
            mood,
            poison: if poisons { random.u32(1..30) } else { 0 },
            drifts,
            dedup_unknown: if random.bool() { random.u32(..500) } else { 0 },
            dedup_latency_ms: random.u64(..30),
            group_clicks_max: *random.choice(&[2, 10, 40]).expect("one"),
            query_bytes_max: *random.choice(&[1, 50, 1_000]).expect("one"),
            bug: None,
        }
    }

    /// A world in which nothing goes wrong but what is planted.
    pub(crate) fn calm(seed: u64, bug: Bug) -> Self {
        let mut plan = Self::of(seed);
        plan.config.edge.threads = 1;
        plan.faults.clear();
        (plan.fills, plan.cuts_power, plan.flips, plan.drifts, plan.jumps) = (false, false, false, false, false);
        (plan.poison, plan.lives) = (0, 3);
        plan.mood = Mood { latency_ms_max: 10, ambiguous_lost: 100, ambiguous_stored: 100, ..Mood::default() };
        plan.bug = Some(bug);
        plan
    }

    pub(crate) fn disk_bug(&self) -> Option<DiskBug> {
        if let Some(Bug::Disk(bug)) = self.bug { Some(bug) } else { None }
    }

    pub(crate) fn store_bug(&self) -> Option<StoreBug> {
        if let Some(Bug::Store(bug)) = self.bug { Some(bug) } else { None }
    }

    /// Whether the disk keeps every byte that it took, so that nothing may be missing but what was never accepted.
    pub(crate) fn keeps_everything(&self) -> bool {
        self.faults.is_empty() && !self.fills && !self.cuts_power && !self.flips && self.bug.is_none()
    }

    /// Whether a click that was refused may be on the disk all the same: a write that failed had written it, or all of it but
    /// zeros.
    pub(crate) fn writes_in_spite_of_errors(&self) -> bool {
        let partly = |fault: Fault| matches!(fault, Fault::WriteError | Fault::ShortWrite);
        self.fills || self.faults.iter().any(|(fault, _)| partly(*fault))
    }
}

fn settings(config: &mut Config, random: &mut fastrand::Rng) {
    let ms = Duration::from_millis;
    config.edge.threads = random.usize(1..=2);
    config.journal.sync = match random.u32(..10) {
        0..5 => JournalSync::Interval(ms(random.u64(1..60))),
        5..8 => JournalSync::Always,
        _ => JournalSync::Process,
    };
    // Smaller than what people may set, so that a simulated second has many of them.
    config.journal.segment_bytes = *random.choice(&[4 << 10, 16 << 10, 64 << 10]).expect("one");
    config.journal.min_free_bytes = 0;
    let segments = random.u64(3..12) * config.edge.threads as u64;
    if random.u32(..5) == 0 {
        config.journal.max_bytes = segments * ((1 << 20) + u64::from(config.journal.segment_bytes));
    }
    config.queue.groups_max = *random.choice(&[1, 4, 1_000]).expect("one");
    config.queue.bytes_max = *random.choice(&[2 << 10, 16 << 20]).expect("one");
    config.batch.rows_max = *random.choice(&[5, 20, 100, 1_000]).expect("one");
    config.batch.age_max = ms(random.u64(1..60));
    config.batch.in_flight_max = random.usize(1..5);
    config.dedup.checks_in_flight_max = random.usize(1..5);
    config.retry.insert = Policy { tries: random.u32(2..6), base: ms(2), max: ms(random.u64(5..100)), jitter: true };
}

fn mood(random: &mut fastrand::Rng) -> Mood {
    let worst = *random.choice(&[30, 100, 300]).expect("one");
    let mut some = || if random.bool() { random.u32(..worst) } else { 0 };
    Mood {
        transient: some(),
        operator: some() / 4,
        divide: some() / 2,
        ambiguous_stored: some(),
        ambiguous_lost: some(),
        ambiguous_part: some(),
        late: some(),
        look_fails: some(),
        latency_ms_max: random.u64(..40),
    }
}

/// Read once: a configuration file takes longer than a simulated life.
fn base_config() -> Config {
    static BASE: OnceLock<Config> = OnceLock::new();
    let load = || {
        let flags = vec![("data_dir".to_owned(), DATA.to_owned()), ("node".to_owned(), "n".to_owned())];
        Config::load(&Sources { flags, ..Sources::default() }).expect("a good config")
    };
    BASE.get_or_init(load).clone()
}

/// The shipped facts, read once.
pub(crate) fn enricher() -> Enricher {
    static FACTS: OnceLock<(Arc<Agents>, Arc<Geo>)> = OnceLock::new();
    let load = || (Arc::new(Agents::new().expect("agents")), Arc::new(Geo::new().expect("countries")));
    let (agents, geo) = FACTS.get_or_init(load);
    Enricher::new(Arc::clone(agents), Arc::clone(geo))
}

/// An empty one, as at each start, in which links are soon too fast: what was observed in one life is not in the next.
pub(crate) fn memory() -> Arc<Memory> {
    let limits = shipped_classifier().rules().memory;
    Arc::new(Memory::new(class::Memory { link_per_minute: 5, counters: 16, pairs: 4, ..limits }, Arc::default()))
}

/// The folder of the run folders.
pub(crate) fn journal() -> std::path::PathBuf {
    Path::new(DATA).join("journal")
}
