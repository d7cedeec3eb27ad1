//! One stretch of a journal on its way to the store. See [`super::worker`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{Id, JoinSet};

use super::batch::{Open, month_around, new_id};
use super::caps::CapCounter;
use super::checks::{CHUNK_CLICKS, Checks, Labelled};
use super::enrich::Enricher;
use super::intent::Intent;
use super::ledger::{Account, BATCH_MINUTES_MAX, Minutes};
use super::sending::Finished;
use super::worker::{Drain, Ended, Parts};
use super::{Batch, Row};
use crate::click::{Reasons, frame};
use crate::failpoint::{self, Point};
use crate::handoff::{Follower, Item, Step};
use crate::segment::Position;
use crate::telemetry::phases::Behind;

/// How often an idle worker looks at its queue.
const TICK: Duration = Duration::from_millis(10);
/// While checks are under way, a chunk that is not full waits so long for more clicks.
const CHUNK_AGE: Duration = Duration::from_millis(2);
/// A live cursor that lies so many segments behind, while the store takes batches, is cut.
const SEGMENTS_BEHIND: u32 = 2;
/// From a cut that failed to the next try.
const CUT_AGAIN: Duration = Duration::from_secs(10);

/// How a stretch was left.
pub(super) enum Left {
    /// For good.
    Ended(Ended),
    /// It goes on without its past, which is here.
    Cut(Box<Follower>),
}

/// A frozen range of the journal, at the store.
pub(super) struct Sent {
    pub(super) intent: Arc<Intent>,
    /// All clicks of it.
    pub(super) taken: Minutes,
    pub(super) sending: Id,
    pub(super) finished: Option<Finished>,
}

pub(super) struct Running {
    pub(super) follower: Follower,
    pub(super) parts: Parts,
    pub(super) account: Account,
    pub(super) caps: CapCounter,
    pub(super) enricher: Enricher,
    drain: watch::Receiver<Drain>,
    /// Where the follower puts what it claims: at most one chunk, or a group.
    claimed: Vec<Item>,
    checks: Checks,
    last_check: Duration,
    /// Labelled, and not yet in a batch.
    ready: VecDeque<Labelled>,
    pub(super) open: Open,
    /// Ranges in the order of the journal, the first one not finished.
    pub(super) ranges: VecDeque<Sent>,
    pub(super) inserts: JoinSet<Finished>,
    /// Batches that an earlier life froze, in the order of the journal, the next one to send first.
    pub(super) frozen: VecDeque<Intent>,
    /// End of the last frozen range.
    pub(super) frozen_to: Position,
    /// There will never be more clicks.
    exhausted: bool,
    read_failing: bool,
    /// A batch was stored since that was asked last.
    pub(super) stored: bool,
    cut_again: Duration,
}

impl Running {
    /// Takes a stretch up at its checkpoint.
    ///
    /// # Errors
    /// The system's, from reading the intents.
    pub(super) fn begin(follower: Follower, parts: Parts, drain: watch::Receiver<Drain>) -> std::io::Result<Self> {
        let checkpoint = follower.checkpoint();
        let frozen =
            Intent::load(&**follower.disk(), follower.folder(), follower.core(), follower.extent(), checkpoint)?;
        let Parts { deduper, clock, metrics, lag_max, .. } = parts.clone();
        Ok(Self {
            frozen: frozen.into(),
            frozen_to: follower.next_position(),
            account: Account::open(&parts.ledger, &follower),
            caps: CapCounter::open(&parts.caps, &follower),
            enricher: parts.enricher.clone(),
            checks: Checks::new(deduper, clock, metrics, lag_max),
            follower,
            parts,
            drain,
            claimed: Vec::with_capacity(CHUNK_CLICKS),
            last_check: Duration::ZERO,
            ready: VecDeque::new(),
            open: Open::default(),
            ranges: VecDeque::new(),
            inserts: JoinSet::new(),
            exhausted: false,
            read_failing: false,
            stored: false,
            cut_again: Duration::ZERO,
        })
    }

    /// Until the end, or until it is to be cut.
    pub(super) async fn run(&mut self) -> Left {
        loop {
            let drain = *self.drain.borrow_and_update();
            // What is past stays on the disk: an end does not wait for a backlog.
            if drain == Drain::Stop || (drain == Drain::Yes && !self.follower.is_live()) {
                return Left::Ended(self.ended(false));
            }
            if self.take_answers()
                && let Some(past) = self.cut()
            {
                return Left::Cut(Box::new(past));
            }
            let busy = if self.frozen.is_empty() {
                let claimed = self.claim();
                let filled = self.fill();
                self.send_if_due(drain) || claimed || filled
            } else {
                self.has_slot() && self.send_frozen()
            };
            if self.is_finished() {
                // A batch whose sending broke off is still in `ranges`: the journal keeps it for the next start.
                let finished = self.ranges.is_empty() && self.close_account();
                return Left::Ended(self.ended(finished));
            }
            if busy {
                // Checks and inserts run on this thread too.
                tokio::task::yield_now().await;
            } else {
                self.wait().await;
            }
        }
    }

    fn ended(&self, finished: bool) -> Ended {
        Ended { finished, damaged: self.follower.is_damaged() }
    }

    fn is_finished(&mut self) -> bool {
        self.exhausted
            && self.frozen.is_empty()
            && self.is_drained()
            && self.open.rows.is_empty()
            && self.inserts.is_empty()
            && !self.waits_for_caps()
    }

    /// Nothing lies between the door and the open batch.
    fn is_drained(&self) -> bool {
        self.claimed.is_empty() && self.checks.len() == 0 && self.ready.is_empty()
    }

    fn has_slot(&self) -> bool {
        self.inserts.len() < self.parts.batch.in_flight_max
    }

    fn is_full(&self) -> bool {
        self.open.rows.len() >= self.parts.batch.rows_max
    }

    /// Waits for a tick, an answer, a stored batch or a word from outside.
    async fn wait(&mut self) {
        let pause = if self.claimed.is_empty() || !self.may_check() { TICK } else { CHUNK_AGE };
        tokio::select! {
            biased; // So that a run can be repeated. What else has come is taken in the next turn.
            Some(done) = self.inserts.join_next_with_id() => {
                self.note_insert(done);
                self.settle();
            }
            answer = self.checks.answered() => self.checks.note(answer),
            _ = self.drain.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// Notes what has come; whether a batch was stored since the last time.
    fn take_answers(&mut self) -> bool {
        while let Some(answer) = self.checks.try_answered() {
            self.checks.note(answer);
        }
        while let Some(done) = self.inserts.try_join_next_with_id() {
            self.note_insert(done);
        }
        if self.ranges.front().is_some_and(|range| range.finished.is_some()) {
            self.settle();
        }
        std::mem::take(&mut self.stored)
    }

    /// Gives the past away, when it holds up the present and the store takes batches.
    fn cut(&mut self) -> Option<Follower> {
        let now = self.parts.clock.now();
        if now < self.cut_again {
            return None;
        }
        match self.follower.cut(SEGMENTS_BEHIND) {
            Ok(past) => past,
            Err(error) => {
                self.cut_again = now + CUT_AGAIN;
                tracing::warn!(%error, "the backlog cannot be put aside for now; clicks of now wait behind it");
                None
            }
        }
    }

    fn may_check(&self) -> bool {
        self.checks.len() < self.parts.checks_in_flight_max
    }

    /// Takes clicks up from the door, and begins a check when there is a chunk of them, or nothing else to wait for.
    /// Groups are small at leisure, and one question to the deduper for each would cost more than all the rest.
    fn claim(&mut self) -> bool {
        let under_way = self.claimed.len() + self.checks.clicks() + self.ready.len();
        if !self.exhausted
            && under_way < self.parts.batch.rows_max.max(CHUNK_CLICKS)
            && (self.has_slot() || !self.is_full())
        {
            self.poll();
        }
        let now = self.parts.clock.now();
        let due = self.claimed.len() >= CHUNK_CLICKS
            || self.exhausted
            || self.checks.len() == 0
            || now.saturating_sub(self.last_check) >= CHUNK_AGE;
        if self.claimed.is_empty() || !due || !self.may_check() {
            return false;
        }
        self.last_check = now;
        self.checks.begin(self.claimed.drain(..), &mut self.enricher);
        true
    }

    fn poll(&mut self) {
        let (now_ms, before) = (self.parts.clock.wall_ms(), self.claimed.len());
        let is_idle = self.poll_door();
        self.account.claim(&self.claimed[before..]);
        if is_idle {
            self.account.idle(now_ms);
        }
    }

    /// Until there is a chunk; true when there is nothing more for now.
    fn poll_door(&mut self) -> bool {
        while self.claimed.len() < CHUNK_CLICKS {
            let missing = CHUNK_CLICKS - self.claimed.len();
            match self.follower.poll(missing, &mut self.claimed) {
                Ok(Step::Clicks) => {
                    self.read_failing = false;
                    failpoint::hit(Point::Claim);
                }
                Ok(step) => {
                    self.exhausted = step == Step::Finished;
                    return true;
                }
                Err(error) => {
                    if !self.read_failing {
                        self.read_failing = true;
                        tracing::error!(%error, "the journal cannot be read for now; trying again");
                    }
                    return false;
                }
            }
        }
        false
    }

    /// Moves labelled clicks into the open batch, as far as they fit.
    fn fill(&mut self) -> bool {
        while let Some(labelled) = self.checks.pop() {
            self.ready.extend(labelled);
        }
        let mut moved = false;
        while !self.is_full() && self.next_fits() {
            let Some(Labelled { row, unix_ms, end }) = self.ready.pop_front() else { break };
            if end > self.account.counted_to() {
                let figures = self.open.taken.at_ms(unix_ms);
                figures.taken += 1;
                figures.damaged += u64::from(row.is_none());
            }
            if let Some(row) = row {
                self.push(row);
            }
            self.open.end = Some(end);
            moved = true;
        }
        moved
    }

    /// Whether the next labelled click may be in the open batch: it is of its month (what became no row is of every
    /// month), of one of its minutes or one more, and on its side of what the ledger has counted.
    fn next_fits(&self) -> bool {
        let Some(next) = self.ready.front() else { return false };
        if self.open.rows.is_empty() {
            return true;
        }
        let counted = |end: Position| (end <= self.account.counted_to(), end <= self.caps.counted_to());
        self.open.end.is_none_or(|end| counted(end) == counted(next.end))
            && self.open.taken.has_room(next.unix_ms, BATCH_MINUTES_MAX)
            && (next.row.is_none() || self.open.month_ms.contains(&next.unix_ms))
    }

    fn push(&mut self, row: Row) {
        if self.open.rows.is_empty() {
            self.open.since = self.parts.clock.now();
            self.open.month_ms = frame::unix_ms(&row.frame).map_or(0..0, month_around);
        }
        self.open.rows.push(row);
    }

    /// Sends the open batch when it is full or old, or when the next click belongs to another month or will never come.
    fn send_if_due(&mut self, drain: Drain) -> bool {
        if self.open.rows.is_empty() || !self.has_slot() {
            return false;
        }
        let aged = self.parts.clock.now().saturating_sub(self.open.since) >= self.parts.batch.age_max;
        let last = self.is_drained() && (self.exhausted || drain == Drain::Yes);
        let due = aged || last || self.is_full() || (!self.ready.is_empty() && !self.next_fits());
        due && self.send()
    }

    /// Freezes the open batch and sends it.
    fn send(&mut self) -> bool {
        let Some(end) = self.open.end.take() else { return false };
        let taken = std::mem::take(&mut self.open.taken);
        let rows = std::mem::take(&mut self.open.rows);
        let intent = Intent {
            batch: new_id(self.parts.clock.wall_ms()),
            start: self.frozen_to,
            end,
            facts: self.enricher.facts(),
            labels: rows.iter().map(|row| (row.dedup, row.reasons.within(Reasons::FROZEN))).collect(),
        };
        let (disk, folder, core) = self.place();
        if let Err(error) = intent.write(disk, folder, core) {
            // Waiting would fill the disk further, and only stored batches free it.
            tracing::warn!(%error, "a batch is sent without being frozen; a crash now may send its clicks in another one");
        }
        failpoint::hit(Point::Intent);
        let filled = self.parts.clock.now().saturating_sub(self.open.since);
        self.parts.metrics.times.observe(Behind::Batch, filled);
        self.frozen_to = end;
        // Here and not where they are enriched: what a cut leaves unfrozen is enriched again, and counted once.
        for row in &rows {
            self.parts.metrics.note_class(row.reasons, row.fraud_score);
        }
        let batch = Batch { id: intent.batch, part: 0, node: Arc::clone(&self.parts.node), rows };
        self.start(batch, intent, taken, false);
        true
    }

    /// The follower alone; what is in memory is dropped, and gauges fall with it.
    pub(super) fn into_follower(self) -> Follower {
        self.parts.metrics.batches_in_flight.sub(self.inserts.len() as u64);
        self.parts.metrics.checking.sub(self.checks.clicks() as u64);
        self.follower
    }
}
