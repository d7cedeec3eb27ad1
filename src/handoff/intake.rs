//! The edge's side of the door. It lives on one edge thread and is never shared: no lock, no atomic but the watermark.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use crossbeam_channel::{Receiver, Sender};

use super::{Group, Prepared, Progress, Shared};
use crate::click::Click;
use crate::clock::Clock;
use crate::failpoint::{self, Point};
use crate::segment::{self, Appended, Kind, Position, Writer, append_record};
use crate::telemetry::metrics::EdgeShard;

/// The largest group: a turn of the event loop that gathers more writes early; so does one in which a minute ends.
const GROUP_BYTES_MAX: usize = 512 << 10;
/// A segment that cannot be changed, because the keeper can make no other, grows up to here; then clicks are refused.
const OFFSET_MAX: u32 = 3 << 30;
/// Groups share buffers of this size. Small enough for the allocator to hand out again what the worker gave back; with
/// larger ones every buffer came fresh from the system, and its pages had to be cleared.
const BUFFER_BYTES: usize = 16 << 10;
const MINUTE_MS: u64 = 60_000;

/// Takes clicks, gathers those of one turn of the event loop into a group, and writes it.
#[derive(Debug)]
pub struct Intake {
    shared: Arc<Shared>,
    writer: Writer,
    /// Of the segment that is written.
    progress: Arc<Progress>,
    /// Segments made ahead by the keeper.
    prepared: Receiver<Prepared>,
    queue: Sender<Group>,
    queue_bytes_max: u64,
    segment_bytes: u32,
    /// Clicks are answered when a power cut takes them no more.
    waits_for_sync: bool,
    /// Turns that were written and wait for that. Each has a visitor who waits, so there are no more than connections.
    unforced: VecDeque<Unforced>,
    /// End of the last group that went on; in the segment before, right after a change of segment.
    after: Position,
    /// Records of this turn; they stand at the writer's end.
    group: BytesMut,
    /// Clicks of this turn.
    clicks: u64,
    /// Unix milliseconds of their minute: a group is of one, so that it is counted as a whole.
    minute_ms: Range<u64>,
    turn: Rc<Turn>,
    /// Turns whose tickets may still be looked at; reused when they are not.
    spare: [Rc<Turn>; 3],
    spare_next: usize,
    flusher: Option<Waker>,
    metrics: Arc<EdgeShard>,
    clock: Arc<dyn Clock>,
    /// A failed write was reported and no write has succeeded since.
    failing: bool,
    /// Monotonic time of the end of the last write, or where clicks wait for it, of the last look at what was forced.
    last_answered: Duration,
    /// The journal is full up to a cap.
    refusing: bool,
}

/// One turn of the event loop, as its tickets see it.
#[derive(Debug, Default)]
struct Turn {
    /// Offset up to which its records are kept; `None` until it was written.
    kept_end: Cell<Option<u32>>,
    waiting: RefCell<Vec<Waker>>,
}

impl Turn {
    /// Tells its tickets which of them are kept: those up to here.
    fn answer(&self, kept_end: u32) {
        self.kept_end.set(Some(kept_end));
        for waker in self.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
    }
}

/// A turn that was written and is not forced yet.
#[derive(Debug)]
struct Unforced {
    turn: Rc<Turn>,
    kept_end: u32,
    clicks: u64,
    progress: Arc<Progress>,
}

/// A click on its way into the journal. Resolves after the write, with `journal.sync = "always"` after the sync: true when
/// it is kept.
#[derive(Debug)]
pub struct Ticket {
    turn: Rc<Turn>,
    end: u32,
    waits: bool,
}

impl Future for Ticket {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        if let Some(kept_end) = self.turn.kept_end.get() {
            return Poll::Ready(self.end <= kept_end);
        }
        // A ticket is polled once before the write; polled again for another reason it registers its waker again, which
        // may have changed. The list is emptied each turn.
        let mut waiting = self.turn.waiting.borrow_mut();
        if !self.waits || !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
        drop(waiting);
        self.waits = true;
        Poll::Pending
    }
}

/// The settings of an intake.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) queue_bytes_max: u64,
    pub(super) segment_bytes: u32,
    pub(super) waits_for_sync: bool,
}

impl Intake {
    pub(super) fn new(
        shared: Arc<Shared>,
        begun: Prepared,
        prepared: Receiver<Prepared>,
        queue: Sender<Group>,
        limits: Limits,
        metrics: Arc<EdgeShard>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            shared,
            after: begun.writer.end(),
            writer: begun.writer,
            progress: begun.progress,
            prepared,
            queue,
            queue_bytes_max: limits.queue_bytes_max,
            segment_bytes: limits.segment_bytes,
            waits_for_sync: limits.waits_for_sync,
            unforced: VecDeque::new(),
            group: BytesMut::with_capacity(BUFFER_BYTES),
            clicks: 0,
            minute_ms: 0..0,
            turn: Rc::default(),
            spare: Default::default(),
            spare_next: 0,
            flusher: None,
            metrics,
            clock,
            failing: false,
            last_answered: Duration::ZERO,
            refusing: false,
        }
    }

    /// Whether no click was pushed in this turn yet: the moment to read the clock.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clicks == 0
    }

    /// When the journal last let clicks be answered, by the monotonic clock.
    #[must_use]
    pub const fn last_answered(&self) -> Duration {
        self.last_answered
    }

    /// Takes a click into this turn's group.
    pub fn push(&mut self, click: &Click<'_>) -> Ticket {
        let unix_ms = click.id.unix_ms();
        if self.group.len() >= GROUP_BYTES_MAX || !self.minute_ms.contains(&unix_ms) {
            self.flush();
        }
        if self.clicks == 0 {
            self.begin();
            let first_ms = unix_ms - unix_ms % MINUTE_MS;
            self.minute_ms = first_ms..first_ms + MINUTE_MS;
        }
        let end = append_record(&mut self.group, self.writer.end(), Kind::Click, |out| click.encode(out));
        self.clicks += 1;
        Ticket { turn: Rc::clone(&self.turn), end: end.offset, waits: false }
    }

    fn begin(&mut self) {
        if self.writer.end().offset >= self.segment_bytes || self.is_to_leave() {
            self.change_segment();
            // A keeper that is merely late lets the segment grow; a cap does not.
            let is_full = self.writer.end().offset >= self.segment_bytes;
            let is_capped = is_full && self.shared.capped.load(Ordering::Relaxed);
            // Where each click is forced, nothing more goes where that has failed.
            self.refusing = is_capped || self.waits_for_sync && self.is_to_leave();
        }
        if let Some(flusher) = &self.flusher {
            flusher.wake_by_ref();
        }
    }

    /// Goes on in the next segment, if the keeper has one; if not, in this one: it may grow over its mark.
    fn change_segment(&mut self) {
        let Ok(mut next) = self.prepared.try_recv() else { return };
        let end = self.writer.end().offset;
        if let Some(error) = self.writer.seal().error {
            tracing::warn!(%error, path = %self.writer.path().display(), "a segment could not be sealed");
            // Without this either, a reader takes the end for damage.
            next.writer.note_end_before(end);
        }
        self.progress.end.store(end, Ordering::Release);
        self.writer = next.writer;
        self.progress = next.progress;
        self.refusing = false;
    }

    /// Whether the keeper could not force this segment.
    fn is_to_leave(&self) -> bool {
        self.writer.end().seq < self.shared.leave_below.load(Ordering::Relaxed)
    }

    /// Does what the keeper asks for: leaves a segment whose sync failed, and answers the clicks that are forced, or that
    /// cannot be. The latter are in the journal and may come to be stored, but nobody promises it.
    pub fn attend(&mut self) {
        if self.is_to_leave() {
            self.flush();
            self.change_segment();
            self.shared.wake_keeper();
        }
        self.answer_forced();
    }

    fn answer_forced(&mut self) {
        if self.unforced.is_empty() {
            return;
        }
        self.last_answered = self.clock.now();
        while let Some(first) = self.unforced.front() {
            if first.kept_end <= first.progress.forced.load(Ordering::Acquire) {
                first.turn.answer(first.kept_end);
            } else if first.progress.given_up.load(Ordering::Acquire) {
                self.metrics.unforced.add(first.clicks);
                first.turn.answer(0);
            } else {
                break;
            }
            self.unforced.pop_front();
        }
    }

    /// Whether clicks are answered only when the disk has them.
    #[must_use]
    pub const fn waits_for_sync(&self) -> bool {
        self.waits_for_sync
    }

    /// Writes this turn's group and wakes its tickets. Does nothing when there is none.
    pub fn flush(&mut self) {
        if self.clicks == 0 {
            return;
        }
        let before = self.clock.now();
        let start = self.writer.end();
        let appended = if self.refusing || start.offset > OFFSET_MAX || failpoint::fails(Point::Journal) {
            Appended { bytes: 0, error: Some(std::io::ErrorKind::StorageFull.into()) }
        } else {
            self.writer.append(&self.group)
        };
        failpoint::hit(Point::Journal);
        self.last_answered = self.clock.now();
        self.metrics.append_duration.observe_duration(self.last_answered.saturating_sub(before));
        let bytes = appended.bytes;
        let records = self.group.split().freeze().slice(..bytes);
        let clicks = match appended.error {
            None => {
                self.failing = false;
                self.clicks
            }
            Some(error) => {
                self.report(&error);
                segment::records(&records, start).count() as u64
            }
        };
        let end = self.writer.end();
        // Before it can be taken up: nobody is to see a click claimed that was not accepted.
        self.metrics.minutes.count(self.minute_ms.start / MINUTE_MS, clicks, self.clicks - clicks);
        if bytes > 0 {
            self.offer(Group { after: self.after, start, end, records });
            failpoint::hit(Point::Queue);
            self.after = end;
            self.metrics.accepted.add(clicks);
            self.metrics.journal_bytes.add(bytes as u64);
            self.shared.written.store(end.to_u64(), Ordering::Release);
        }
        self.clicks = 0;
        if self.waits_for_sync && bytes > 0 {
            let (turn, progress) = (Rc::clone(&self.turn), Arc::clone(&self.progress));
            self.unforced.push_back(Unforced { turn, kept_end: end.offset, clicks, progress });
            self.shared.wake_keeper();
        } else {
            self.turn.answer(end.offset);
        }
        self.next_turn();
    }

    fn offer(&self, group: Group) {
        let bytes = group.records.len() as u64;
        if self.shared.queued_bytes.load(Ordering::Relaxed) + bytes <= self.queue_bytes_max {
            self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
            if self.queue.try_send(group).is_ok() {
                self.metrics.groups_sent.add(1);
                return;
            }
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        // The worker will read it from the journal.
        self.metrics.groups_left_to_journal.add(1);
    }

    fn next_turn(&mut self) {
        let next = &mut self.spare[self.spare_next];
        self.spare_next = (self.spare_next + 1) % 3;
        std::mem::swap(next, &mut self.turn);
        if Rc::strong_count(&self.turn) > 1 {
            self.turn = Rc::default();
        } else {
            self.turn.kept_end.set(None);
        }
    }

    fn report(&mut self, error: &std::io::Error) {
        self.metrics.journal_failures.add(1);
        if !self.failing {
            self.failing = true;
            let path = self.writer.path().display();
            tracing::error!(%error, %path, "the journal takes no clicks; redirects go on without X-Click-Id");
        }
    }

    /// Writes every group as soon as the turn that gathered it is over. To be spawned on the edge thread: a task that is
    /// woken runs behind those that are ready already, so their clicks are in the group.
    pub async fn flush_every_turn(intake: Rc<RefCell<Self>>) {
        std::future::poll_fn(|context| {
            let mut intake = intake.borrow_mut();
            intake.flush();
            if !intake.flusher.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                intake.flusher = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Attends to the keeper whenever it asks. To be spawned on the edge thread.
    pub async fn attend_when_asked(intake: Rc<RefCell<Self>>) {
        let shared = Arc::clone(&intake.borrow().shared);
        loop {
            shared.attention.notified().await;
            intake.borrow_mut().attend();
        }
    }

    /// Writes what is left and tells the follower that nothing more comes.
    pub fn close(&mut self) {
        self.flush();
        self.shared.closed.store(true, Ordering::Release);
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.close();
    }
}
