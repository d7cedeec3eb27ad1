//! The worker's side of the door: one cursor over one core's journal, fed by the queue where it continues the cursor and
//! by the disk where it does not.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use crossbeam_channel::Receiver;

use super::stretch::mark;
use super::waiting::Measured;
use super::{Checkpoint, Group, Shared};
use crate::segment::{
    self, Disk, Next, Open, Position, RECORD_HEADER_BYTES, Reader, SEGMENT_HEADER_BYTES, file_name, noted_end,
    read_again,
};
use crate::telemetry::metrics::WorkerShard;

/// Reads that may fail at one place before it counts as damage.
const FAILED_READS_MAX: u32 = 10;

/// One click and where its record ends in the journal.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its frame.
    pub frame: Bytes,
    /// When everything up to here is finished, so is this click.
    pub end: Position,
}

/// What a look at the door brings.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Clicks were appended.
    Clicks,
    /// Nothing now.
    Idle,
    /// Nothing ever again.
    Finished,
}

/// Reads one stretch of a core's journal, each click once, in order.
#[derive(Debug)]
pub struct Follower {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) folder: PathBuf,
    pub(super) core: u32,
    /// First segment of its stretch, removed or not: the stretch's name.
    pub(super) origin: u32,
    pub(super) source: Source,
    /// The next click's place: everything below was handed on.
    pub(super) next: Position,
    pub(super) reader: Option<Reader>,
    pub(super) checkpoint: Checkpoint,
    /// Segments below this one were removed.
    pub(super) first_seq: u32,
    pub(super) metrics: Arc<WorkerShard>,
    /// Segments with parts that could not be read.
    pub(super) damaged: BTreeSet<u32>,
    /// Reads that failed at the cursor, one after the other.
    pub(super) failed_reads: u32,
    /// Of the past: what it still holds.
    pub(super) measured: Option<Measured>,
}

#[derive(Debug)]
pub(super) enum Source {
    Live {
        shared: Arc<Shared>,
        queue: Receiver<Group>,
        /// Taken from the queue, ahead of the cursor.
        held: Option<Group>,
    },
    /// Nothing is written any more: it ends with its last segment.
    Past {
        last_seq: u32,
        /// Of this run: cut off behind the live cursor. Without it, of an earlier one.
        shared: Option<Arc<Shared>>,
        /// Clicks up to here were taken up, and counted, before the cut.
        counted_to: Position,
    },
}

impl Follower {
    pub(super) fn live(
        shared: Arc<Shared>,
        queue: Receiver<Group>,
        checkpoint: Checkpoint,
        metrics: Arc<WorkerShard>,
    ) -> Self {
        Self {
            disk: Arc::clone(&shared.disk),
            folder: shared.folder.clone(),
            core: shared.core,
            origin: checkpoint.position().seq,
            source: Source::Live { shared, queue, held: None },
            next: checkpoint.position(),
            reader: None,
            first_seq: checkpoint.position().seq,
            checkpoint,
            metrics,
            damaged: BTreeSet::new(),
            failed_reads: 0,
            measured: None,
        }
    }

    /// Where the cursor stands.
    #[must_use]
    pub const fn next_position(&self) -> Position {
        self.next
    }

    /// The disk that the journal is on.
    #[must_use]
    pub const fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The run folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Edge thread whose journal it is.
    #[must_use]
    pub const fn core(&self) -> u32 {
        self.core
    }

    /// Everything before it is finished.
    #[must_use]
    pub const fn checkpoint(&self) -> Position {
        self.checkpoint.position()
    }

    /// First segment of its stretch: with run folder and core its name.
    #[must_use]
    pub const fn origin(&self) -> u32 {
        self.origin
    }

    /// What was written with the checkpoint.
    #[must_use]
    pub fn note(&self) -> &[u8] {
        self.checkpoint.note()
    }

    /// Whether clicks still come.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.source, Source::Live { .. })
    }

    /// Goes on behind a frozen batch, whose clicks were read by another way.
    pub fn skip_to(&mut self, end: Position, clicks: usize) {
        self.next = end;
        self.reader = None;
        if matches!(self.source, Source::Past { shared: None, .. }) {
            self.metrics.adopted.add(clicks as u64);
        }
    }

    /// Whether part of the journal could not be read.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        !self.damaged.is_empty()
    }

    /// Appends the next clicks to `out`: a group of the queue, or at most `most` clicks of the journal. Never waits for a
    /// click; reading the journal blocks for as long as the disk takes.
    ///
    /// # Errors
    /// The system's, from reading the journal; the cursor stays, and the next call tries again.
    pub fn poll(&mut self, most: usize, out: &mut Vec<Item>) -> io::Result<Step> {
        let before = out.len();
        let step = self.advance(most, out);
        let mut clicks = &out[before..];
        if let Source::Past { shared, counted_to, .. } = &self.source {
            if shared.is_none() {
                self.metrics.adopted.add(clicks.len() as u64);
                return step;
            }
            clicks = &clicks[clicks.partition_point(|item| item.end <= *counted_to)..];
        }
        self.metrics.claimed.add(clicks.len() as u64);
        let bytes: usize = clicks.iter().map(|item| item.frame.len() + RECORD_HEADER_BYTES).sum();
        self.metrics.claimed_bytes.add(bytes as u64);
        step
    }

    fn advance(&mut self, most: usize, out: &mut Vec<Item>) -> io::Result<Step> {
        let (limit, closed) = match &mut self.source {
            Source::Past { .. } => return self.read_journal(None, most, out),
            Source::Live { shared, queue, held } => {
                if let Some(step) = take_group(shared, queue, held, &mut self.next, &self.metrics, out) {
                    // The reader, if any, stands behind the cursor now.
                    self.reader = None;
                    return Ok(step);
                }
                // In this order: what was written before `closed` is seen after it.
                let closed = shared.closed.load(Ordering::Acquire);
                let written = Position::from_u64(shared.written.load(Ordering::Acquire));
                // A group is offered before `written` moves over it: a second look tells whether it came.
                if let Some(step) = take_group(shared, queue, held, &mut self.next, &self.metrics, out) {
                    self.reader = None;
                    return Ok(step);
                }
                (held.as_ref().map_or(written, |group| group.after), closed)
            }
        };
        if self.next >= limit {
            return Ok(if closed { Step::Finished } else { Step::Idle });
        }
        self.read_journal(Some(limit), most, out)
    }

    /// Reads up to `limit`, or, without one, to the end of the last segment.
    fn read_journal(&mut self, limit: Option<Position>, most: usize, out: &mut Vec<Item>) -> io::Result<Step> {
        let before = out.len();
        let last_seq = match self.source {
            Source::Live { .. } => None,
            Source::Past { last_seq, .. } => Some(last_seq),
        };
        while out.len() - before < most && limit.is_none_or(|limit| self.next < limit) {
            let reader = match &mut self.reader {
                Some(reader) => reader,
                None => {
                    let path = self.folder.join(file_name(self.core, self.next.seq));
                    match Reader::open(&*self.disk, &path, self.core, self.next) {
                        Ok(reader) => self.reader.insert(reader),
                        Err(error) if self.is_gone(&error) => {
                            if !self.leave_segment(limit, &error.to_string()) {
                                return Ok(Step::Finished);
                            }
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                }
            };
            match limit.filter(|limit| limit.seq == self.next.seq) {
                Some(limit) => reader.bound(limit.offset),
                None if reader.is_ended() => {}
                None => match noted_end(&*self.disk, &self.folder, self.core, self.next.seq) {
                    Err(error) if may_try_again(&mut self.failed_reads) => return Err(error),
                    end => reader.end_at(end.unwrap_or_default()),
                },
            }
            let found = match reader.read() {
                Err(error) if may_try_again(&mut self.failed_reads) => return Err(error),
                Err(_) => Next::Invalid { dirty: true },
                Ok(found) => found,
            };
            match found {
                Next::Click(frame, end) => {
                    self.failed_reads = 0;
                    let headless = !reader.header_is_valid() && !self.damaged.contains(&end.seq);
                    if headless {
                        self.report(Position { offset: 0, ..end }, Some(SEGMENT_HEADER_BYTES), "the header is damaged");
                    }
                    self.next = end;
                    out.push(Item { frame, end });
                }
                Next::Sealed if last_seq.is_some_and(|last_seq| self.next.seq >= last_seq) => {
                    return Ok(if out.len() > before { self.read(out.len() - before) } else { Step::Finished });
                }
                Next::Sealed => self.go_to_segment(self.next.seq + 1),
                Next::Invalid { .. } => {
                    let bytes = match reader.skip() {
                        Err(error) if may_try_again(&mut self.failed_reads) => return Err(error),
                        Err(_) => reader.skip_unreadable(),
                        Ok(bytes) => bytes,
                    };
                    let at = reader.position();
                    let failed = std::mem::take(&mut self.failed_reads) > 0;
                    let why = if failed { "the disk does not give it" } else { "a record is not valid" };
                    if bytes.is_some() && limit.is_none_or(|limit| at < limit) {
                        self.report(self.next, bytes, why);
                        self.next = at;
                    } else if !self.leave_segment(limit, why) {
                        return Ok(if out.len() > before { self.read(out.len() - before) } else { Step::Finished });
                    }
                }
            }
        }
        let count = out.len() - before;
        Ok(if count > 0 { self.read(count) } else { Step::Idle })
    }

    fn read(&self, clicks: usize) -> Step {
        self.metrics.via_journal.add(clicks as u64);
        Step::Clicks
    }

    fn is_gone(&self, error: &io::Error) -> bool {
        matches!(self.source, Source::Past { .. })
            && matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
            )
    }

    /// Goes on behind a place where no valid record stands, and none follows in its segment; false when there is nothing
    /// behind it. The torn end of what a process wrote last is how a power cut leaves it, and nothing in it was forced.
    /// Anywhere else it is damage.
    fn leave_segment(&mut self, limit: Option<Position>, why: &str) -> bool {
        let here = self.next;
        let (last_seq, is_damage) = match self.source {
            Source::Live { .. } => {
                let limit = limit.unwrap_or(here);
                (limit.seq, limit.seq == here.seq || !self.ends(here))
            }
            Source::Past { last_seq, .. } => {
                let goes_on = (here.seq + 1..=last_seq).any(|seq| self.holds_records(seq));
                (last_seq, goes_on && !self.ends(here))
            }
        };
        let written_here = limit.filter(|limit| limit.seq == here.seq);
        if is_damage {
            self.report(here, written_here.map(|limit| limit.offset - here.offset), why);
        }
        if let Some(limit) = written_here {
            // What was written cannot be read back: nothing but damage in memory or on the disk leads here.
            self.next = limit;
            self.reader = None;
            return true;
        }
        if here.seq >= last_seq {
            return false;
        }
        self.go_to_segment(here.seq + 1);
        true
    }

    /// Whether the next segment says that the one before ended here: the disk would not take a seal.
    fn ends(&self, here: Position) -> bool {
        let noted = read_again(|| noted_end(&*self.disk, &self.folder, self.core, here.seq));
        noted.is_ok_and(|end| end == Some(here.offset))
    }

    /// Whether a segment was ever used; a file that cannot be read counts as used.
    fn holds_records(&self, seq: u32) -> bool {
        let path = self.folder.join(file_name(self.core, seq));
        let look = || {
            let mut reader = Reader::open(&*self.disk, &path, self.core, Position::start_of(seq))?;
            Ok(!matches!(reader.read()?, Next::Invalid { .. }) || reader.skip()?.is_some())
        };
        read_again(look).unwrap_or_else(|error: io::Error| error.kind() != io::ErrorKind::NotFound)
    }

    /// Reports, once, a part that could not be read; `bytes` where its length is known, else it goes to the end of the
    /// segment. The segment is kept, which a mark beside it tells the next start.
    fn report(&mut self, from: Position, bytes: Option<u32>, why: &str) {
        let (core, seq, offset) = (self.core, from.seq, from.offset);
        tracing::error!(core, seq, offset, bytes, why, "part of the journal cannot be read and is skipped");
        self.metrics.unreadable.add(1);
        if self.damaged.insert(seq) {
            // Without the mark it is still kept by this process.
            let _ = self.disk.open(&self.folder.join(mark(core, seq)), Open::Any);
        }
    }

    pub(super) fn go_to_segment(&mut self, seq: u32) {
        self.next = Position::start_of(seq);
        self.reader = None;
    }
}

/// Counts a failed read; false when there were enough of them.
const fn may_try_again(failed_reads: &mut u32) -> bool {
    *failed_reads += 1;
    *failed_reads <= FAILED_READS_MAX
}

/// Takes the group that continues the cursor from the queue, skipping those below it; `None` when there is none: the
/// queue is empty, or what it has lies ahead (then it is held).
fn take_group(
    shared: &Shared,
    queue: &Receiver<Group>,
    held: &mut Option<Group>,
    next: &mut Position,
    metrics: &WorkerShard,
    out: &mut Vec<Item>,
) -> Option<Step> {
    loop {
        let group = match held.take() {
            Some(group) => group,
            None => {
                let group = queue.try_recv().ok()?;
                metrics.groups_received.add(1);
                shared.queued_bytes.fetch_sub(group.records.len() as u64, Ordering::Relaxed);
                group
            }
        };
        if group.end <= *next {
            continue;
        }
        if !(group.after..=group.start).contains(next) {
            *held = Some(group);
            return None;
        }
        let before = out.len();
        out.extend(segment::records(&group.records, group.start).map(|(frame, end)| Item { frame, end }));
        metrics.via_queue.add((out.len() - before) as u64);
        *next = group.end;
        return Some(Step::Clicks);
    }
}
