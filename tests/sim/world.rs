//! A world of one seed: lives of a node, one after the other, and what happens to them.

use std::path::Path;
use std::sync::Arc;

use tokio::runtime::{Builder, LocalOptions};
use trellis::config::JournalSync;
use trellis::segment::{Disk, Entry};
use trellis::testing::{FaultDisk, MemoryBooks};

use crate::books::Books;
use crate::damage;
use crate::deduper::{Manner, SimDeduper};
use crate::disk::{Watched, look};
use crate::node::Outside;
use crate::plan::{Bug, DATA, Plan, journal};
use crate::store::{Mood, SimStore};
use crate::trace::say;

/// 2026-01-31T23:59:50Z: a month ends soon.
const BEGIN_MS: u64 = 1_769_903_990_000;
/// Healthy lives until everything must be clean: damage found by a live node is put aside by the next one.
const LAST_LIVES: u32 = 3;

/// See the module.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) random: fastrand::Rng,
    pub(crate) disk: FaultDisk,
    pub(crate) watch: Watched,
    pub(crate) outside: Outside,
    pub(crate) books: Books,
    pub(crate) wall_ms: u64,
    pub(crate) drifts_now: bool,
    /// What was found to be wrong where nobody could say so at once.
    pub(crate) wrong: Option<String>,
    pub(crate) figures: Figures,
}

/// What a world went through, to see that the worlds are not idle.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) lives: u64,
    pub(crate) kills: u64,
    pub(crate) power_cuts: u64,
    pub(crate) clicks: u64,
    pub(crate) inserts: u64,
    pub(crate) stored: u64,
    pub(crate) excused: u64,
    pub(crate) adopted: u64,
    pub(crate) cuts: u64,
    pub(crate) refused_rows: u64,
    pub(crate) sync_failures: u64,
    pub(crate) untracked: u64,
}

impl World {
    pub(crate) fn new(seed: u64, plan: Plan) -> Self {
        // Batch ids and jitter come from the thread's own generator.
        fastrand::seed(seed);
        let watch: Watched = Arc::default();
        look(&watch).bug = plan.disk_bug();
        let disk = FaultDisk::quiet(seed);
        disk.set_allocates(plan.allocates);
        disk.set_names_linger(plan.names_linger);
        let outside = Outside {
            store: Arc::new(SimStore::new(seed, Arc::clone(&watch), plan.store_bug())),
            deduper: Arc::new(SimDeduper::new(seed)),
            ledger: MemoryBooks::default(),
        };
        outside.deduper.set_manner(Manner {
            unknown: plan.dedup_unknown,
            latency_ms_max: plan.dedup_latency_ms,
            swaps: plan.bug == Some(Bug::LabelsSwapped),
        });
        let books = Books {
            may_store_refused: plan.writes_in_spite_of_errors() || plan.config.journal.sync == JournalSync::Always,
            ..Books::default()
        };
        let random = fastrand::Rng::with_seed(seed);
        let world = Self {
            plan,
            random,
            disk,
            watch,
            outside,
            books,
            wall_ms: BEGIN_MS,
            drifts_now: false,
            wrong: None,
            figures: Figures::default(),
        };
        say(|| format!("{:?}", world.plan.config.journal));
        say(|| format!("{:?} {:?} {:?}", world.plan.config.batch, world.plan.config.queue, world.plan.mood));
        world
    }

    /// All its lives; what was wrong.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        // What is above the data folder was there before.
        self.disk.make_folder(&journal()).map_err(|error| error.to_string())?;
        for folder in ["/", DATA] {
            self.disk.sync_dir(Path::new(folder)).map_err(|error| error.to_string())?;
        }
        for _ in 0..self.plan.lives {
            self.live(false)?;
            self.between_lives();
        }
        self.disk.heal();
        self.outside.store.set_drift(false);
        self.outside.store.set_mood(Mood { latency_ms_max: 5, ..Mood::default() });
        for _ in 0..LAST_LIVES {
            self.live(true)?;
            if self.left_behind()?.is_empty() {
                break;
            }
        }
        let left = self.left_behind()?;
        if !left.is_empty() {
            return Err(format!("the journal folder is not empty: {left:?}"));
        }
        self.books.check_store(&self.outside.store, &self.outside.deduper)?;
        let raw = self.outside.store.raw();
        self.figures.stored = raw.len() as u64;
        self.figures.inserts = u64::from(self.outside.store.inserts());
        self.figures.clicks = self.books.clicks.len() as u64;
        let gone = self.books.may_be_missing.iter().filter(|id| !raw.contains_key(id));
        self.figures.excused = gone.count() as u64;
        Ok(())
    }

    fn live(&mut self, last: bool) -> Result<(), String> {
        self.figures.lives += 1;
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build_local(LocalOptions::default())
            .expect("a runtime");
        let lived = runtime.block_on(self.life(last));
        // With it end all tasks: nothing of a dead process goes on.
        drop(runtime);
        lived.and_then(|()| self.wrong.take().map_or(Ok(()), Err))
    }

    /// The process is gone; the disk, and what happens to it while nobody looks.
    fn between_lives(&mut self) {
        let mut watch = look(&self.watch);
        let after = watch.revive();
        match after {
            Some(disk) => {
                self.figures.power_cuts += 1;
                if self.plan.config.journal.sync != JournalSync::Always {
                    self.books.may_be_missing.extend(watch.unforced());
                }
                watch.force_all();
                drop(watch);
                self.disk = disk;
                // What was frozen may be torn, or what it was frozen from.
                self.books.may_refreeze = true;
                say(|| format!("after the power cut {} may be missing", self.books.may_be_missing.len()));
            }
            None => {
                self.figures.kills += 1;
                self.books.may_refreeze |= watch.intent_failures > 0;
                drop(watch);
            }
        }
        self.disk.heal();
        if self.plan.flips && self.random.bool() {
            damage::strike(self, true);
        }
        if self.plan.jumps && self.random.u32(..4) == 0 {
            self.wall_ms = self.wall_ms.saturating_add_signed(self.random.i64(-100_000_000..100_000_000));
        }
    }

    /// What is in the journal folder that should not be. Damaged copies may stay.
    fn left_behind(&mut self) -> Result<Vec<String>, String> {
        look(&self.watch).revive();
        let entries = |path: &Path| self.disk.list(path).map_err(|error| error.to_string());
        let mut left = Vec::new();
        for Entry { name, .. } in entries(&journal())? {
            let name = name.to_string_lossy().into_owned();
            if !name.ends_with(".damaged") {
                left.push(name);
                continue;
            }
            let may_be_damaged = !self.books.damaged.is_empty()
                || !self.books.may_be_missing.is_empty()
                || self.books.may_refreeze
                || self.plan.writes_in_spite_of_errors();
            let inside = entries(&journal().join(&name))?;
            let stays = |entry: &&Entry| {
                let name = entry.name.to_string_lossy();
                name.ends_with(".seg") || name.ends_with(".intent")
            };
            // A power cut may bring back what was removed from it, and what a failing disk kept from being removed is kept.
            let removed = inside.iter().filter(|_| self.figures.power_cuts == 0 && self.plan.faults.is_empty());
            left.extend(removed.filter(stays).map(|entry| format!("{name}/{}", entry.name.to_string_lossy())));
            if !may_be_damaged {
                left.push(format!("{name}, although nothing was damaged"));
            }
        }
        Ok(left)
    }
}
