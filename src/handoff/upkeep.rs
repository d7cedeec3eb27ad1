//! The keeper's work, one turn at a time and without a thread: it forces the journals, makes the next segments, and writes
//! a segment anew whose sync failed.
//!
//! Called by the keeper's thread, and by tests that take its turns by hand. It never writes a click. Bounds: one segment
//! ahead for each core; a failed attempt waits a second, a rewrite up to a minute, and ends when the segment is not
//! needed any more.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;

use super::{Prepared, Progress, Shared};
use crate::clock::Clock;
use crate::config::{self, JournalSync, allocated_bytes};
use crate::segment::{Disk, Header, Position, Writer, create, replace, rewrite};
use crate::telemetry::metrics::KeeperShard;

/// How often the next segment is looked after when nothing is forced, or when clicks ask for it.
const TICK: Duration = Duration::from_millis(50);
/// Pause after a segment could not be made; the first one after it could not be written anew.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The longest pause between two attempts to write a segment anew.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// One core's journal as the keeper sees it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) shared: Arc<Shared>,
    prepared: Sender<Prepared>,
    next_seq: u32,
    /// When the next segment may be made; later than now after a failure.
    prepare_at: Duration,
    /// A segment could not be made last time.
    failed: bool,
    /// Segments with something that was not forced, and those that come: oldest first.
    tracked: VecDeque<Tracked>,
}

#[derive(Debug)]
struct Tracked {
    progress: Arc<Progress>,
    /// Its sync failed: it is never forced again, but written anew.
    failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    try_at: Duration,
    pause: Duration,
}

/// What the keeper needs to make segments.
#[derive(Debug)]
pub(super) struct Maker {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) folder: PathBuf,
    pub(super) node: String,
    pub(super) segment_bytes: u32,
    pub(super) clock: Arc<dyn Clock>,
}

impl Maker {
    pub(super) fn make(&self, core: u32, seq: u32) -> io::Result<Writer> {
        create(&*self.disk, &self.folder, &self.header(core, seq), self.segment_bytes)
    }

    fn header(&self, core: u32, seq: u32) -> Header {
        Header { core, seq, created_ms: self.clock.wall_ms(), node: self.node.clone() }
    }
}

impl Kept {
    pub(super) fn new(shared: Arc<Shared>, prepared: Sender<Prepared>, first: &Arc<Progress>) -> Self {
        let tracked = VecDeque::from([Tracked { progress: Arc::clone(first), failure: None }]);
        Self { shared, prepared, next_seq: first.seq + 1, prepare_at: Duration::ZERO, failed: false, tracked }
    }
}

/// The keeper's work.
#[derive(Debug)]
pub struct Upkeep {
    maker: Maker,
    kept: Vec<Kept>,
    config: config::Journal,
    metrics: Arc<KeeperShard>,
    /// The cap that was reached in the last turn.
    capped: Option<&'static str>,
}

impl Upkeep {
    pub(super) const fn new(maker: Maker, kept: Vec<Kept>, config: config::Journal, metrics: Arc<KeeperShard>) -> Self {
        Self { maker, kept, config, metrics, capped: None }
    }

    /// How long to wait before the next turn, unless an edge thread asks for one.
    #[must_use]
    pub const fn pause(&self) -> Duration {
        match self.config.sync {
            JournalSync::Interval(interval) => interval,
            JournalSync::Process | JournalSync::Always => TICK,
        }
    }

    pub(super) fn shared(&self) -> impl Iterator<Item = &Arc<Shared>> {
        self.kept.iter().map(|kept| &kept.shared)
    }

    /// Forces what was written, makes the segments that are wanted, and writes anew what could not be forced; in the last
    /// turn, `stopping`, no segment is made. Blocks for as long as the disk takes.
    pub fn turn(&mut self, stopping: bool) {
        let forces = self.config.sync != JournalSync::Process;
        for kept in &mut self.kept {
            if forces {
                force(&self.maker, kept, &self.metrics);
            } else {
                forget(kept);
            }
        }
        if !stopping {
            self.capped = look_at_caps(&self.maker, &self.kept, self.config, self.capped);
            if self.capped.is_none() {
                self.kept.iter_mut().for_each(|kept| prepare(&self.maker, kept));
            }
        }
        self.kept.iter_mut().for_each(|kept| mend(&self.maker, kept, stopping, &self.metrics));
    }
}

/// Which cap is reached, if any; tells the cores, and the log when it changes.
fn look_at_caps(
    maker: &Maker,
    kept: &[Kept],
    config: config::Journal,
    before: Option<&'static str>,
) -> Option<&'static str> {
    let segments: u64 =
        kept.iter().map(|k| u64::from(k.next_seq.saturating_sub(k.shared.removed.load(Ordering::Relaxed)))).sum();
    let capped = if kept.iter().all(|k| k.prepared.is_full()) {
        // Nobody asks for more.
        None
    } else if (segments + 1) * allocated_bytes(config.segment_bytes) > config.max_bytes {
        Some("journal.max_bytes")
    } else if maker.disk.free_bytes(&maker.folder).is_ok_and(|free| free < config.min_free_bytes) {
        Some("journal.min_free_bytes")
    } else {
        None
    };
    match (before, capped) {
        (None, Some(cap)) => {
            tracing::error!(
                cap,
                segments,
                "the journal may not grow; links will go on without X-Click-Id when it is full"
            );
        }
        (Some(cap), None) => tracing::info!(cap, segments, "the journal may grow again"),
        _ => {}
    }
    kept.iter().for_each(|k| k.shared.capped.store(capped.is_some(), Ordering::Relaxed));
    capped
}

/// Forces what was written since the last time, and once more each segment that was left.
fn force(maker: &Maker, kept: &mut Kept, metrics: &KeeperShard) {
    let shared = &kept.shared;
    // Before the ends are looked at: whoever writes behind a segment has noted its end.
    let written = Position::from_u64(shared.written.load(Ordering::Acquire));
    let mut moved = false;
    kept.tracked.retain_mut(|tracked| {
        let progress = &tracked.progress;
        if tracked.failure.is_some() || progress.seq > written.seq {
            return true;
        }
        let left = progress.end.load(Ordering::Acquire);
        let end = if left > 0 { left } else { written.offset };
        if left == 0 && end == progress.forced.load(Ordering::Relaxed) {
            return true;
        }
        let before = maker.clock.now();
        let synced = progress.file.sync();
        metrics.sync_duration.observe_duration(maker.clock.now().saturating_sub(before));
        match synced {
            Ok(()) => {
                progress.forced.store(end, Ordering::Release);
                moved = true;
                left == 0
            }
            Err(error) => {
                let (core, seq) = (shared.core, progress.seq);
                tracing::error!(%error, core, seq, "the journal could not be forced to the disk; a power cut may lose clicks");
                metrics.sync_failures.add(1);
                tracked.failure = Some(Failure { try_at: Duration::ZERO, pause: PAUSE_AFTER_FAILURE });
                shared.leave_below.fetch_max(seq + 1, Ordering::Relaxed);
                moved = true;
                true
            }
        }
    });
    if moved {
        shared.attention.notify_one();
    }
}

/// Lets go of files that nothing is written to any more, where nothing is forced.
fn forget(kept: &mut Kept) {
    let written = Position::from_u64(kept.shared.written.load(Ordering::Relaxed));
    kept.tracked.retain(|tracked| tracked.progress.seq >= written.seq);
}

/// Makes the next segment if the last one was taken.
fn prepare(maker: &Maker, kept: &mut Kept) {
    let now = maker.clock.now();
    if kept.prepared.is_full() || now < kept.prepare_at {
        return;
    }
    match maker.make(kept.shared.core, kept.next_seq) {
        Ok(writer) => {
            kept.next_seq += 1;
            kept.failed = false;
            let progress = Progress::of(&writer);
            kept.tracked.push_back(Tracked { progress: Arc::clone(&progress), failure: None });
            // The only sender, and there was room.
            let _ = kept.prepared.try_send(Prepared { writer, progress });
        }
        Err(error) => {
            kept.prepare_at = now + PAUSE_AFTER_FAILURE;
            if !std::mem::replace(&mut kept.failed, true) {
                tracing::error!(%error, core = kept.shared.core, "no next journal segment; the current one goes on");
            }
        }
    }
}

/// Writes segments anew whose sync failed, as soon as the edge thread has left them.
fn mend(maker: &Maker, kept: &mut Kept, stopping: bool, metrics: &KeeperShard) {
    let (shared, now) = (&kept.shared, maker.clock.now());
    let closed = shared.closed.load(Ordering::Acquire);
    let written = Position::from_u64(shared.written.load(Ordering::Acquire));
    let has_next = kept.prepared.is_full();
    kept.tracked.retain_mut(|tracked| {
        let progress = &tracked.progress;
        let Some(failure) = &mut tracked.failure else { return true };
        let left = progress.end.load(Ordering::Acquire);
        if left == 0 && !(closed && progress.seq == written.seq) {
            // Without a next segment the edge thread cannot leave it.
            progress.given_up.store(!has_next, Ordering::Release);
            shared.attention.notify_one();
            return true;
        }
        if now < failure.try_at && !stopping {
            return true;
        }
        let end = if left > 0 { left } else { written.offset };
        match write_anew(maker, shared, progress.seq, end, left > 0, metrics) {
            Ok(()) => {
                progress.forced.store(end, Ordering::Release);
                shared.attention.notify_one();
                false
            }
            Err(error) => {
                if !progress.given_up.swap(true, Ordering::AcqRel) {
                    let (core, seq) = (shared.core, progress.seq);
                    tracing::error!(%error, core, seq, "a journal segment that was not forced could not be written anew");
                }
                *failure = Failure { try_at: now + failure.pause, pause: (failure.pause * 2).min(PAUSE_MAX) };
                shared.attention.notify_one();
                true
            }
        }
    });
}

/// One attempt; a segment that is not needed any more is done too.
fn write_anew(
    maker: &Maker,
    shared: &Shared,
    seq: u32,
    end: u32,
    sealed: bool,
    metrics: &KeeperShard,
) -> io::Result<()> {
    let (disk, folder, core) = (&*maker.disk, &maker.folder, shared.core);
    let lost = match rewrite(disk, folder, &maker.header(core, seq), end, sealed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        copied => copied?,
    };
    let names = shared.names.lock().unwrap_or_else(PoisonError::into_inner);
    let is_needed = replace(disk, folder, core, seq)?;
    drop(names);
    if is_needed {
        tracing::info!(core, seq, "a journal segment that could not be forced was written anew");
        for place in lost {
            let bytes = place.end - place.start;
            metrics.possibly_lost_bytes.add(u64::from(bytes));
            tracing::error!(
                core,
                seq,
                offset = place.start,
                bytes,
                "clicks are possibly lost: the journal cannot be read here"
            );
        }
    }
    Ok(())
}
