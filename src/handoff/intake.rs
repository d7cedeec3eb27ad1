//! The edge's side of the door. It lives on one edge thread and is never shared: no lock, no atomic but the watermark.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use crossbeam_channel::{Receiver, Sender};

use super::{Group, Shared};
use crate::click::Click;
use crate::clock::Clock;
use crate::segment::{self, Appended, Kind, Position, Writer, append_record};
use crate::telemetry::metrics::EdgeShard;

/// The largest group: a turn of the event loop that gathers more writes early.
const GROUP_BYTES_MAX: usize = 512 << 10;
/// A segment that cannot be changed, because the keeper can make no other, grows up to here; then clicks are refused.
const OFFSET_MAX: u32 = 3 << 30;
/// Groups share buffers of this size. Small enough for the allocator to hand out again what the worker gave back; with
/// larger ones every buffer came fresh from the system, and its pages had to be cleared.
const BUFFER_BYTES: usize = 16 << 10;

/// Takes clicks, gathers those of one turn of the event loop into a group, and writes it.
#[derive(Debug)]
pub struct Intake {
    shared: Arc<Shared>,
    writer: Writer,
    /// Segments made ahead by the keeper.
    prepared: Receiver<Writer>,
    queue: Sender<Group>,
    queue_bytes_max: u64,
    segment_bytes: u32,
    /// End of the last group that went on; in the segment before, right after a change of segment.
    after: Position,
    /// Records of this turn; they stand at the writer's end.
    group: BytesMut,
    /// Clicks of this turn.
    clicks: u64,
    turn: Rc<Turn>,
    /// Turns whose tickets may still be looked at; reused when they are not.
    spare: [Rc<Turn>; 3],
    spare_next: usize,
    flusher: Option<Waker>,
    metrics: Arc<EdgeShard>,
    clock: Arc<dyn Clock>,
    /// A failed write was reported and no write has succeeded since.
    failing: bool,
    /// Monotonic time of the end of the last write.
    last_written: Duration,
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

/// A click on its way into the journal. Resolves after the write: true when it is kept.
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
}

impl Intake {
    pub(super) fn new(
        shared: Arc<Shared>,
        writer: Writer,
        prepared: Receiver<Writer>,
        queue: Sender<Group>,
        limits: Limits,
        metrics: Arc<EdgeShard>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            shared,
            after: writer.end(),
            writer,
            prepared,
            queue,
            queue_bytes_max: limits.queue_bytes_max,
            segment_bytes: limits.segment_bytes,
            group: BytesMut::with_capacity(BUFFER_BYTES),
            clicks: 0,
            turn: Rc::default(),
            spare: Default::default(),
            spare_next: 0,
            flusher: None,
            metrics,
            clock,
            failing: false,
            last_written: Duration::ZERO,
            refusing: false,
        }
    }

    /// Whether no click was pushed in this turn yet: the moment to read the clock.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clicks == 0
    }

    /// When the last write ended, by the monotonic clock.
    #[must_use]
    pub const fn last_written(&self) -> Duration {
        self.last_written
    }

    /// Takes a click into this turn's group.
    pub fn push(&mut self, click: &Click<'_>) -> Ticket {
        if self.clicks == 0 {
            self.begin();
        } else if self.group.len() >= GROUP_BYTES_MAX {
            self.flush();
            self.begin();
        }
        let end = append_record(&mut self.group, self.writer.end(), Kind::Click, |out| click.encode(out));
        self.clicks += 1;
        Ticket { turn: Rc::clone(&self.turn), end: end.offset, waits: false }
    }

    fn begin(&mut self) {
        if self.writer.end().offset >= self.segment_bytes {
            self.change_segment();
            // A keeper that is merely late lets the segment grow; a cap does not.
            let is_full = self.writer.end().offset >= self.segment_bytes;
            self.refusing = is_full && self.shared.capped.load(Ordering::Relaxed);
        }
        if let Some(flusher) = &self.flusher {
            flusher.wake_by_ref();
        }
    }

    /// Goes on in the next segment, if the keeper has one; if not, in this one: it may grow over its mark.
    fn change_segment(&mut self) {
        let Ok(next) = self.prepared.try_recv() else { return };
        // Without a seal the reader finds zeros at the end, and goes on because the next segment is there.
        let sealed = self.writer.seal();
        if let Some(error) = sealed.error {
            tracing::warn!(%error, path = %self.writer.path().display(), "a segment could not be sealed");
        }
        self.shared.current.store(Arc::new(Arc::clone(next.file())));
        self.writer = next;
    }

    /// Writes this turn's group and wakes its tickets. Does nothing when there is none.
    pub fn flush(&mut self) {
        if self.clicks == 0 {
            return;
        }
        let before = self.clock.now();
        let start = self.writer.end();
        let appended = if self.refusing || start.offset > OFFSET_MAX {
            Appended { bytes: 0, error: Some(std::io::ErrorKind::StorageFull.into()) }
        } else {
            self.writer.append(&self.group)
        };
        self.last_written = self.clock.now();
        self.metrics.append_duration.observe_duration(self.last_written.saturating_sub(before));
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
        if bytes > 0 {
            self.offer(Group { after: self.after, start, end, records });
            self.after = end;
            self.metrics.accepted.add(clicks);
            self.metrics.journal_bytes.add(bytes as u64);
            self.shared.written.store(end.to_u64(), Ordering::Release);
        }
        self.clicks = 0;
        self.finish_turn(end.offset);
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

    fn finish_turn(&mut self, kept_end: u32) {
        self.turn.kept_end.set(Some(kept_end));
        for waker in self.turn.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
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
