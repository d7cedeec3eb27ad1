//! The keeper: one thread that does for the journals what a request thread must not: it makes the next segments and
//! forces the disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender};

use super::Shared;
use crate::clock::Clock;
use crate::config::{self, JournalSync, allocated_bytes};
use crate::segment::{Disk, DiskFile, Header, Writer, create};

/// How often the next segment is looked after when nothing is forced.
const TICK: Duration = Duration::from_millis(50);
/// Pause after a segment could not be made.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The running keeper; stops, after a last sync, when dropped.
#[derive(Debug)]
pub struct Keeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// One core's journal as the keeper sees it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) shared: Arc<Shared>,
    pub(super) prepared: Sender<Writer>,
    pub(super) next_seq: u32,
    /// The file and the watermark of the last sync.
    pub(super) synced: (Arc<Arc<dyn DiskFile>>, u64),
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
    pub(super) fn make(&self, core: u32, seq: u32) -> std::io::Result<Writer> {
        let header = Header { core, seq, created_ms: self.clock.wall_ms(), node: self.node.clone() };
        create(&*self.disk, &self.folder, &header, self.segment_bytes)
    }
}

impl Keeper {
    pub(super) fn start(mut upkeep: Upkeep) -> std::io::Result<Self> {
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let thread = std::thread::Builder::new().name("journal".into()).spawn(move || {
            loop {
                let stopping = stopped.recv_timeout(upkeep.pause()) != Err(RecvTimeoutError::Timeout);
                upkeep.turn(stopping);
                if stopping {
                    return;
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Dropping the sender ends the thread's wait.
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The keeper's work, one turn at a time and without a thread.
#[derive(Debug)]
pub struct Upkeep {
    maker: Maker,
    kept: Vec<Kept>,
    config: config::Journal,
    /// A segment could not be made in the last turn.
    failed: bool,
    /// The cap that was reached in the last turn.
    capped: Option<&'static str>,
}

impl Upkeep {
    pub(super) const fn new(maker: Maker, kept: Vec<Kept>, config: config::Journal) -> Self {
        Self { maker, kept, config, failed: false, capped: None }
    }

    /// How long to wait before the next turn.
    #[must_use]
    pub fn pause(&self) -> Duration {
        let interval = match self.config.sync {
            JournalSync::Interval(interval) => interval,
            JournalSync::Process => TICK,
        };
        if self.failed { PAUSE_AFTER_FAILURE.max(interval) } else { interval }
    }

    /// Forces what was written, and makes the segments that are wanted; in the last turn, `stopping`, only the first.
    /// Blocks for as long as the disk takes.
    pub fn turn(&mut self, stopping: bool) {
        if self.config.sync != JournalSync::Process {
            self.kept.iter_mut().for_each(force);
        }
        if stopping {
            return;
        }
        self.capped = look_at_caps(&self.maker, &self.kept, self.config, self.capped);
        if self.capped.is_none() {
            // After the sync: a core can change its segment once between two syncs at most, so no file is missed.
            let failed = self.failed;
            let failures = self.kept.iter_mut().map(|kept| prepare(&self.maker, kept, failed));
            self.failed = failures.fold(false, |a, b| a | b);
        }
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

/// Forces what was written since the last time. A file that was left in between is forced once more.
fn force(kept: &mut Kept) {
    let current = kept.shared.current.load_full();
    let written = kept.shared.written.load(Ordering::Acquire);
    let (last_file, last_written) = &kept.synced;
    if *last_written == written {
        return;
    }
    if !Arc::ptr_eq(last_file, &current) {
        report(last_file.sync());
    }
    report(current.sync());
    kept.synced = (current, written);
}

fn report(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::error!(%error, "the journal could not be forced to the disk; a power cut may lose clicks");
    }
}

/// Makes the next segment if the last one was taken; true when that failed.
fn prepare(maker: &Maker, kept: &mut Kept, failed_before: bool) -> bool {
    if kept.prepared.is_full() {
        return false;
    }
    match maker.make(kept.shared.core, kept.next_seq) {
        Ok(writer) => {
            kept.next_seq += 1;
            // The only sender, and there was room.
            let _ = kept.prepared.try_send(writer);
            false
        }
        Err(error) => {
            if !failed_before {
                tracing::error!(%error, core = kept.shared.core, "no next journal segment; the current one goes on");
            }
            true
        }
    }
}
