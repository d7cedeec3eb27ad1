//! The last life: with a healthy disk and store, everything comes to its end.

use std::sync::Arc;
use std::time::Duration;

use trellis::clock::Clock;
use trellis::pipeline::dead_letter::{Actor, DeadLetters};

use crate::clock::SimClock;
use crate::edge;
use crate::ledger;
use crate::life::ended;
use crate::node::Node;
use crate::plan::enricher;
use crate::trace::say;
use crate::world::World;

/// Simulated time in which a healthy node must have stored everything.
const PATIENCE: Duration = Duration::from_secs(120);
/// After so many seconds with work left, batches are parked, and a person mends the table.
const PERSON_AFTER: u64 = 20;

impl World {
    /// With a healthy disk and store everything is stored, and nothing is left.
    pub(crate) async fn last_life(&mut self, mut node: Node, clock: &Arc<SimClock>) -> Result<(), String> {
        self.books.drifts += 1;
        for _ in 0..self.random.u32(..10) {
            edge::push(self, &mut node, clock);
            self.keep(&mut node)?;
            edge::attend(&mut node);
        }
        self.keep(&mut node)?;
        edge::attend(&mut node);
        edge::take_answers(self, &mut node);
        node.cores.iter_mut().for_each(|core| core.intake.close());
        let mut seconds = 0;
        while !node.has_ended() {
            let _ = ended(&node, Duration::from_secs(1)).await;
            seconds += 1;
            if seconds == PERSON_AFTER {
                self.outside.store.mend();
                say(|| "a person mends the table".into());
            }
            if seconds > PATIENCE.as_secs() {
                return Err(format!("a healthy node does not end its work: {}", node.state()));
            }
        }
        self.check_bounds(&node)?;
        self.collect(&node);
        self.outside.store.settle();
        self.books.check_shelf(&node.shelf, &self.outside.store)?;
        self.replay(&node, clock).await?;
        self.books.check_complete(&self.outside.store, &node.shelf)?;
        if self.plan.keeps_everything() {
            ledger::check(&node, &self.outside.store)?;
        }
        self.check_conservation(&node)?;
        let Node { workers, adoption, run, mut upkeep, .. } = node;
        let mut damaged = false;
        for worker in workers {
            let ended = worker.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
            if !ended.finished {
                return Err("a worker of a healthy node has left something".into());
            }
            damaged |= ended.damaged;
        }
        let failed = adoption.await.map_err(|error| error.to_string())?;
        if !failed.is_empty() && self.plan.bug.is_none() {
            return Err(format!("a healthy node could not adopt: {failed:?}"));
        }
        upkeep.turn(true);
        run.end(!damaged).map_err(|error| error.to_string())
    }

    /// What was accepted was taken up, and what was taken up is stored or refused.
    fn check_conservation(&self, node: &Node) -> Result<(), String> {
        for index in 0..=node.cores_max() {
            let shard = node.metrics.worker(index);
            let taken = shard.claimed.get() + shard.adopted.get();
            let ended = shard.stored.get() + shard.refused.get();
            let is_live = index < node.cores_max();
            if is_live && node.metrics.edge(index).accepted.get() != taken {
                return Err(format!(
                    "core {index} has accepted {} clicks, and {taken} were taken up",
                    node.metrics.edge(index).accepted.get()
                ));
            }
            // A batch that was read before it turned out that it cannot be sent as it was is taken up twice.
            if taken != ended && (is_live || !self.books.may_refreeze) {
                return Err(format!("worker {index} has taken {taken} clicks up, and ended {ended}"));
            }
            let now = [&shard.checking, &shard.batches_in_flight, &shard.batches_parked].map(|cell| cell.get());
            if now != [0; 3] {
                return Err(format!("worker {index} has ended, and its gauges say {now:?}"));
            }
        }
        Ok(())
    }

    /// A person mends the table, and replays what was refused.
    async fn replay(&mut self, node: &Node, clock: &Arc<SimClock>) -> Result<(), String> {
        let rows = node.metrics.refused().rows.get();
        self.figures.refused_rows += rows;
        self.outside.store.mend();
        if rows == 0 {
            return Ok(());
        }
        let (store, clock) = (self.outside.store.clone(), Arc::clone(clock) as Arc<dyn Clock>);
        let letters =
            DeadLetters::new(Arc::clone(&node.shelf), store, Box::new(|| Ok(enricher())), clock, Actor::Token);
        let mut next = None;
        loop {
            let done = letters.replay_all(next).await.map_err(|error| error.to_string())?;
            if let Some(error) = done.stopped {
                return Err(format!("the dead letters cannot be replayed: {error}"));
            }
            next = done.next;
            if next.is_none() {
                return Ok(());
            }
        }
    }
}
