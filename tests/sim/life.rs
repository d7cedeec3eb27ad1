//! A life with troubles: what a node meets between its start and its end.

use std::sync::Arc;
use std::time::Duration;

use trellis::clock::Clock;
use trellis::config::JournalSync;
use trellis::pipeline::worker::{Drain, Ended};
use trellis::segment::Disk;

use crate::clock::SimClock;
use crate::disk::{End, SimDisk, look};
use crate::node::Node;
use crate::store::Mood;
use crate::trace::say;
use crate::world::World;
use crate::{damage, edge};

impl World {
    pub(crate) async fn life(&mut self, last: bool) -> Result<(), String> {
        let clock = Arc::new(SimClock::new(self.wall_ms));
        let sim_disk = SimDisk { inner: self.disk.clone(), watch: Arc::clone(&self.watch) };
        let end = if last { None } else { self.begin_troubles() };
        say(|| format!("life {} ends {end:?} ----", self.figures.lives));
        let (disk, shared_clock): (Arc<dyn Disk>, Arc<dyn Clock>) = (Arc::new(sim_disk.clone()), clock.clone());
        let done = match Node::start(&self.plan, &self.outside, &disk, &shared_clock) {
            Err(error) => {
                say(|| format!("the node does not start: {error}"));
                if last { Err(format!("a healthy node does not start: {error}")) } else { Ok(()) }
            }
            Ok(node) if last => self.last_life(node, &clock).await,
            Ok(node) => self.troubled_life(node, &clock, &sim_disk, end).await,
        };
        // Whatever is left of the process does nothing from here on.
        if !look(&self.watch).is_dead() {
            sim_disk.end(End::Killed);
        }
        self.wall_ms = clock.wall_ms() + 1 + self.random.u64(..2_000);
        done
    }

    /// Draws how a life is to end, and which faults it has.
    fn begin_troubles(&mut self) -> Option<End> {
        let on = self.random.bool();
        self.set_faults(on);
        self.books.drifts += u32::from(self.drifts_now);
        let power = self.plan.cuts_power && self.random.bool();
        let end = if power { End::PowerCut } else { End::Killed };
        match self.random.u32(..10) {
            0..3 => Some(end),
            3..7 => {
                let calls = self.random.u32(..600);
                look(&self.watch).end_after(calls, end);
                Some(end)
            }
            _ => None,
        }
    }

    pub(crate) fn set_faults(&mut self, on: bool) {
        for (fault, per_mille) in &self.plan.faults {
            self.disk.set_chance(*fault, if on { *per_mille } else { 0 });
        }
    }

    async fn troubled_life(
        &mut self,
        mut node: Node,
        clock: &SimClock,
        disk: &SimDisk,
        end: Option<End>,
    ) -> Result<(), String> {
        for _ in 0..self.random.u32(5..90) {
            self.step(&mut node, clock).await?;
            if look(&self.watch).is_dead() || node.has_lost_a_worker() {
                break;
            }
        }
        if !look(&self.watch).is_dead() {
            self.check_bounds(&node)?;
            match end {
                // Without a word, in the middle of it all; also where fewer calls were made than it should have taken.
                Some(end) => disk.end(end),
                None => {
                    let patience = Duration::from_millis(self.random.u64(1..3_000));
                    let (finished, _) = self.stop(node, patience).await;
                    say(|| format!("stopped, finished {finished}"));
                    return Ok(());
                }
            }
        }
        self.collect(&node);
        Ok(())
    }

    async fn step(&mut self, node: &mut Node, clock: &SimClock) -> Result<(), String> {
        match self.random.u32(..100) {
            0..48 => edge::push(self, node, clock),
            48..66 => self.keep(node)?,
            66..70 => node.cores.iter_mut().for_each(|core| core.intake.attend()),
            70..80 => tokio::time::sleep(Duration::from_millis(self.random.u64(..60))).await,
            80..84 => {
                let on = self.random.bool();
                self.set_faults(on);
            }
            84..88 => self.change_mood(),
            88..90 if self.plan.drifts => self.drift(),
            90..92 if self.plan.fills => {
                let bytes = *self.random.choice(&[0, 3_000, 100_000, 3 << 20, u64::MAX]).expect("one");
                say(|| format!("space left: {bytes}"));
                self.disk.set_space_left(bytes);
            }
            92..94 if self.plan.jumps => {
                let hours = *self.random.choice(&[-800, -1, 1, 30, 800]).expect("one");
                say(|| format!("the wall clock jumps by {hours} h"));
                clock.jump(hours * 3_600_000);
            }
            92..94 if self.plan.flips => {
                self.set_faults(false);
                damage::strike(self, false);
            }
            94..97 => {
                if let Some((fault, _)) = self.random.choice(&self.plan.faults) {
                    self.disk.fail_next(*fault);
                }
            }
            _ => {}
        }
        edge::take_answers(self, node);
        if self.random.u32(..8) == 0 {
            node.ledger.collect();
        }
        if self.random.bool() {
            tokio::time::sleep(Duration::from_millis(self.random.u64(..4))).await;
        } else {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// A turn of the keeper's. What was kept before it is forced after it, where the disk obeys.
    pub(crate) fn keep(&mut self, node: &mut Node) -> Result<(), String> {
        let keeper = node.metrics.keeper();
        let lost_before = keeper.possibly_lost_bytes.get();
        node.upkeep.turn(false);
        self.after_turn(node, lost_before);
        if self.random.u32(..5) > 0 {
            node.cores.iter_mut().for_each(|core| core.intake.attend());
        }
        edge::take_answers(self, node);
        let forces = matches!(self.plan.config.journal.sync, JournalSync::Interval(_));
        let watch = look(&self.watch);
        if forces && !watch.is_dead() && keeper.sync_failures.get() == 0 {
            let unforced = watch.unforced_in(&node.run_folder);
            if let Some(id) = unforced.first() {
                return Err(format!("click {id} was kept before the keeper's turn, and is not forced after it"));
            }
        }
        Ok(())
    }

    /// Segments that were written anew are forced now, or what was lost of them is known.
    fn after_turn(&mut self, node: &Node, lost_before: u64) {
        let mut watch = look(&self.watch);
        if !watch.is_dead() {
            let lost = node.metrics.keeper().possibly_lost_bytes.get() > lost_before;
            self.books.may_be_missing.extend(watch.settle_renamed(lost));
            if lost && !self.plan.flips {
                self.wrong = Some("clicks are given up as possibly lost, and the disk has lost none".into());
            }
        }
    }

    fn change_mood(&mut self) {
        let mood = match self.random.u32(..6) {
            0 => Mood::AWAY,
            1 => Mood::default(),
            _ => self.plan.mood,
        };
        self.outside.store.set_mood(mood);
    }

    fn drift(&mut self) {
        self.drifts_now = !self.drifts_now;
        self.books.drifts += u32::from(self.drifts_now);
        self.books.has_drifted = true;
        self.outside.store.set_drift(self.drifts_now);
        say(|| format!("the table fits no row: {}", self.drifts_now));
    }

    /// Ends a node in good order; whether everything was stored, and whether it was in time.
    async fn stop(&mut self, mut node: Node, patience: Duration) -> (bool, bool) {
        edge::take_answers(self, &mut node);
        for core in &mut node.cores {
            core.intake.close();
        }
        node.set_drain(Drain::Yes);
        let drained = ended(&node, patience).await;
        node.set_drain(Drain::Stop);
        let stopped = ended(&node, Duration::from_secs(1)).await;
        let lost_before = node.metrics.keeper().possibly_lost_bytes.get();
        node.upkeep.turn(true);
        self.after_turn(&node, lost_before);
        edge::attend(&mut node);
        edge::take_answers(self, &mut node);
        node.ledger.collect();
        self.collect(&node);
        let Node { workers, run, .. } = node;
        let mut finished = drained && stopped;
        for worker in workers.into_iter().filter(|worker| worker.is_finished()) {
            finished &= matches!(worker.await, Ok(Ok(Ended { finished: true, damaged: false })));
        }
        if let Err(error) = run.end(finished) {
            say(|| format!("the run folder cannot be closed: {error}"));
        }
        (finished, drained)
    }

    /// Memory is bounded, whatever happens.
    pub(crate) fn check_bounds(&mut self, node: &Node) -> Result<(), String> {
        let batch = self.plan.config.batch;
        let cores = node.cores_max();
        let (inserts, rows) = self.outside.store.take_most();
        // Each worker, what is behind it, and the journals of earlier runs.
        let inserts_max = (2 * cores + 2) * batch.in_flight_max;
        if inserts > inserts_max || rows > inserts_max * batch.rows_max {
            return Err(format!("{inserts} inserts with {rows} rows at one time, {inserts_max} at most"));
        }
        let cut = look(&self.watch).checkpoints.iter().filter(|path| path.starts_with(&node.run_folder)).count();
        for core in (0..cores).filter(|_| cut == cores) {
            let shard = node.metrics.worker(core);
            let held = shard.claimed.get() - shard.stored.get() - shard.refused.get();
            let chunks = batch.rows_max.max(512) + 512 + 40;
            let held_max = (batch.in_flight_max + 1) * batch.rows_max + chunks;
            if held > held_max as u64 {
                return Err(format!("worker {core} holds {held} clicks, {held_max} at most"));
            }
        }
        Ok(())
    }

    /// What a node's metrics say at its end.
    pub(crate) fn collect(&mut self, node: &Node) {
        let shards = (0..=node.cores_max()).map(|index| node.metrics.worker(index));
        for shard in shards {
            self.books.reported += shard.unreadable.get();
            self.figures.adopted += shard.adopted.get();
        }
        let keeper = node.metrics.keeper();
        self.books.reported += keeper.possibly_lost_bytes.get();
        self.figures.sync_failures += keeper.sync_failures.get();
        let checkpoints = look(&self.watch).checkpoints.clone();
        let own = checkpoints.iter().filter(|path| path.starts_with(&node.run_folder)).count();
        self.figures.cuts += own.saturating_sub(node.cores_max()) as u64;
    }
}

/// Waits until a node's threads have ended, at most so long.
pub(crate) async fn ended(node: &Node, patience: Duration) -> bool {
    let wait = async {
        while !node.has_ended() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(patience, wait).await.is_ok()
}
