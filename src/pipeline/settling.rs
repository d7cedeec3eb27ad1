//! The two ends of a stretch's batches: those that an earlier life froze are sent again, and what is stored is settled: in
//! the ledger, by the checkpoint, and then its intents go. See [`super::worker`].

use std::path::Path;
use std::sync::Arc;

use tokio::task::{Id, JoinError};

use super::Batch;
use super::intent::Intent;
use super::ledger::Minutes;
use super::running::{Running, Sent};
use super::sending::{Finished, Sending, Source};
use crate::failpoint::{self, Point};
use crate::segment::{Disk, Position};

type Insert = Result<(Id, Finished), JoinError>;

impl Running {
    /// Sends the next batch that an earlier life froze, as it was.
    pub(super) fn send_frozen(&mut self) -> bool {
        let Some(intent) = self.frozen.pop_front() else { return false };
        let loaded = self.source(Arc::new(intent.clone())).load();
        if intent.facts != self.enricher.facts() {
            tracing::info!(batch = %intent.batch, "a batch was frozen with older data; its countries, agents and classes are found anew");
        }
        // One that could not be written leaves a gap, whose clicks must not be skipped.
        let follows = intent.start == self.frozen_to;
        let loaded = loaded.and_then(|loaded| if follows { Ok(loaded) } else { Err(behind_a_gap()) });
        match loaded {
            Ok((batch, taken)) => {
                self.follower.skip_to(intent.end, batch.rows.len());
                self.account.claim_range(intent.end, &taken);
                self.frozen_to = intent.end;
                self.start(batch, intent, taken, true);
            }
            Err(error) => {
                // Its clicks, as far as they can be read, are taken up like those that were never frozen, and so are
                // all behind it: the store knows them by their ids.
                tracing::error!(%error, batch = %intent.batch, "a frozen batch cannot be sent as it was");
                for intent in std::iter::once(intent).chain(std::mem::take(&mut self.frozen)) {
                    if let Err(error) = self.remove(&intent) {
                        tracing::warn!(%error, batch = %intent.batch, "an intent could not be removed");
                    }
                }
            }
        }
        true
    }

    fn source(&self, intent: Arc<Intent>) -> Source {
        Source {
            disk: Arc::clone(self.follower.disk()),
            folder: self.follower.folder().to_owned(),
            core: self.follower.core(),
            intent,
            enricher: self.enricher.clone(),
            node: Arc::clone(&self.parts.node),
        }
    }

    pub(super) fn start(&mut self, batch: Batch, intent: Intent, taken: Minutes, look_first: bool) {
        self.caps.count(intent.end, &batch.rows, self.enricher.classifier());
        let intent = Arc::new(intent);
        let source = self.source(Arc::clone(&intent));
        let sending = Sending::new(&self.parts, batch, source, !self.follower.is_live());
        self.parts.metrics.batches_in_flight.add(1);
        let sending = self.inserts.spawn_local(sending.run(look_first)).id();
        self.ranges.push_back(Sent { intent, taken, sending, finished: None });
    }

    /// Notes how the sending of a batch ended.
    pub(super) fn note_insert(&mut self, done: Insert) {
        self.parts.metrics.batches_in_flight.sub(1);
        let (id, finished) = match done {
            Ok(done) => done,
            Err(error) => {
                // A panic while sending: the range stays unfinished, and the next start takes it up.
                tracing::error!(%error, "a batch could not be sent; it stays in the journal");
                return;
            }
        };
        if let Some(range) = self.ranges.iter_mut().find(|range| range.sending == id) {
            range.finished = Some(finished);
        }
        self.stored = true;
        failpoint::hit(Point::Stored);
    }

    /// Finishes the ranges at the front that are stored: in the ledger, and then by the checkpoint.
    pub(super) fn settle(&mut self) {
        let mut below = Vec::new();
        let hurry = self.inserts.is_empty();
        while let Some(range) = self.ranges.front()
            && let Some(finished) = &range.finished
            && self.caps.may_finish(range.intent.end, hurry)
            && self.account.finish(range.intent.end, &finished.figures(&range.taken))
        {
            below.extend(self.ranges.pop_front().map(|range| range.intent));
        }
        if let Some(last) = below.last()
            && let Err(error) = self.forget(last.end, &below)
        {
            tracing::warn!(%error, "the checkpoint could not be written; it will be with the next batch");
        }
    }

    /// Whether the first range is stored, and its clicks are counted and not saved yet.
    pub(super) fn waits_for_caps(&mut self) -> bool {
        let stored = |running: &Self| {
            running.ranges.front().filter(|range| range.finished.is_some()).map(|range| range.intent.end)
        };
        // What has been saved meanwhile is settled, or it would be left unfinished.
        if stored(self).is_some_and(|end| self.caps.may_finish(end, true)) {
            self.settle();
        }
        stored(self).is_some_and(|end| !self.caps.may_finish(end, true))
    }

    /// Moves the checkpoint, and then, not before, removes the intents below it.
    fn forget(&mut self, end: Position, below: &[Arc<Intent>]) -> std::io::Result<()> {
        self.follower.finish_up_to(end, &self.account.note())?;
        below.iter().try_for_each(|intent| self.remove(intent))
    }

    /// At the end of the stretch: what is left are clicks that became no row.
    pub(super) fn close_account(&mut self) -> bool {
        let rest = self.open.end.is_none_or(|end| self.account.finish(end, &self.open.taken));
        rest && self.account.close()
    }

    pub(super) fn place(&self) -> (&dyn Disk, &Path, u32) {
        (&**self.follower.disk(), self.follower.folder(), self.follower.core())
    }

    fn remove(&self, intent: &Intent) -> std::io::Result<()> {
        let (disk, folder, core) = self.place();
        intent.remove(disk, folder, core)
    }
}

fn behind_a_gap() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, "the batch before it was not frozen")
}
