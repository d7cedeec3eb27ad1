//! Run folders: each process writes into its own and holds its lock; a folder whose lock is free belongs to nobody and
//! is adopted. Crash, stop and a changed number of threads are one path.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::Notify;

use super::intake::Limits;
use super::upkeep::{Kept, Maker, Upkeep};
use super::{Checkpoint, Follower, Intake, Journals, Keeper, Prepared, Progress, Shared};
use crate::clock::Clock;
use crate::config::{self, JournalSync};
use crate::segment::{Disk, Lock, Position};
use crate::telemetry::metrics::Metrics;

const LOCK: &str = "lock";

/// This process's journals.
#[derive(Debug)]
pub struct Run {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    cores: Vec<Arc<Shared>>,
    /// Without one, the steps of its [`Upkeep`] are taken by hand.
    keeper: Option<Keeper>,
    /// Held as long as the process uses the folder.
    _lock: Lock,
}

/// Both sides of each core's journal; an intake goes to its edge thread, a follower to its worker.
pub type Doors = Vec<(IntakeMaker, Follower)>;

/// Makes an intake on the thread that will use it: an intake cannot move between threads.
pub type IntakeMaker = Box<dyn FnOnce() -> Intake + Send>;

impl Run {
    /// Makes the run folder under `<data_dir>/journal`, with a first segment for each core.
    ///
    /// # Errors
    /// The system's.
    pub fn begin(
        disk: &Arc<dyn Disk>,
        config: &config::Config,
        metrics: &Metrics,
        clock: &Arc<dyn Clock>,
    ) -> io::Result<(Self, Doors)> {
        let (mut run, doors, upkeep) = Self::open(disk, config, metrics, clock)?;
        run.keeper = Some(Keeper::start(upkeep)?);
        Ok((run, doors))
    }

    /// The same without the keeper's thread: whoever calls takes its turns, and has the intakes
    /// [attend](Intake::attend) after them.
    ///
    /// # Errors
    /// The system's.
    #[cfg(any(test, feature = "testing"))]
    pub fn begin_by_hand(
        disk: &Arc<dyn Disk>,
        config: &config::Config,
        metrics: &Metrics,
        clock: &Arc<dyn Clock>,
    ) -> io::Result<(Self, Doors, Upkeep)> {
        Self::open(disk, config, metrics, clock)
    }

    fn open(
        disk: &Arc<dyn Disk>,
        config: &config::Config,
        metrics: &Metrics,
        clock: &Arc<dyn Clock>,
    ) -> io::Result<(Self, Doors, Upkeep)> {
        let name = format!("{:013}-{}", clock.wall_ms(), std::process::id());
        let journal = config.data_dir.join("journal");
        let folder = journal.join(name);
        disk.make_folder(&folder)?;
        // Nobody else knows the folder, unless another process is just looking for orphans.
        let lock = disk.lock(&folder.join(LOCK))?.ok_or(io::ErrorKind::WouldBlock)?;
        // A power cut must not take the folder with all that was forced in it.
        disk.sync_dir(&journal)?;
        disk.sync_dir(&config.data_dir)?;
        let maker = Maker {
            disk: Arc::clone(disk),
            folder: folder.clone(),
            node: config.node.clone(),
            segment_bytes: config.journal.segment_bytes,
            clock: Arc::clone(clock),
        };
        let (mut doors, mut kept) = (Doors::new(), Vec::new());
        for core in 0..config.edge.threads {
            let (door, keep) = open_core(config, &maker, core, metrics)?;
            doors.push(door);
            kept.push(keep);
        }
        let cores = kept.iter().map(|kept| Arc::clone(&kept.shared)).collect();
        let run = Self { disk: Arc::clone(disk), folder, cores, keeper: None, _lock: lock };
        Ok((run, doors, Upkeep::new(maker, kept, config.journal, metrics.keeper())))
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All journals of its data folder, for who looks for single clicks.
    #[must_use]
    pub fn journals(&self) -> Journals {
        let folder = self.folder.parent().unwrap_or(&self.folder).to_owned();
        Journals { disk: Arc::clone(&self.disk), folder, live: self.cores.clone() }
    }

    /// Ends the run; when `finished`, nothing in it is needed any more and the folder is removed.
    ///
    /// # Errors
    /// The system's.
    pub fn end(self, finished: bool) -> io::Result<()> {
        drop(self.keeper);
        if finished { self.disk.remove_folder(&self.folder) } else { Ok(()) }
    }
}

fn open_core(
    config: &config::Config,
    maker: &Maker,
    index: usize,
    metrics: &Metrics,
) -> io::Result<((IntakeMaker, Follower), Kept)> {
    let core = u32::try_from(index).unwrap_or(u32::MAX);
    let first = Position::start_of(0);
    let writer = maker.make(core, 0)?;
    let shared = Arc::new(Shared {
        core,
        disk: Arc::clone(&maker.disk),
        folder: maker.folder.clone(),
        written: AtomicU64::new(first.to_u64()),
        finished: AtomicU64::new(first.to_u64()),
        behind: AtomicU32::new(0),
        queued_bytes: AtomicU64::new(0),
        closed: AtomicBool::new(false),
        capped: AtomicBool::new(false),
        removed: AtomicU32::new(0),
        names: Mutex::new(()),
        leave_below: AtomicU32::new(0),
        attention: Notify::new(),
        keeper: OnceLock::new(),
    });
    let (sender, receiver) = crossbeam_channel::bounded(config.queue.groups_max);
    let (prepared_sender, prepared) = crossbeam_channel::bounded(1);
    let progress = Progress::of(&writer);
    let kept = Kept::new(Arc::clone(&shared), prepared_sender, &progress);
    let begun = Prepared { writer, progress };
    let checkpoint = Checkpoint::open(&*maker.disk, &maker.folder, core, first.seq)?;
    let follower = Follower::live(Arc::clone(&shared), receiver, checkpoint, metrics.worker(index));
    let limits = Limits {
        queue_bytes_max: config.queue.bytes_max as u64,
        segment_bytes: config.journal.segment_bytes,
        waits_for_sync: config.journal.sync == JournalSync::Always,
    };
    let (edge_metrics, clock) = (metrics.edge(index), Arc::clone(&maker.clock));
    let intake: IntakeMaker =
        Box::new(move || Intake::new(shared, begun, prepared, sender, limits, edge_metrics, clock));
    Ok(((intake, follower), kept))
}

/// A run folder that nobody holds: what an earlier process left.
#[derive(Debug)]
pub struct Orphan {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    lock: Lock,
}

impl Orphan {
    /// Every run folder under `<data_dir>/journal` whose lock is free, oldest first. The locks are held from here on.
    ///
    /// # Errors
    /// The system's. Folders that somebody else holds are left out, and those that cannot be locked, which are reported.
    pub fn find(disk: &Arc<dyn Disk>, data_dir: &Path) -> io::Result<Vec<Self>> {
        let journal = data_dir.join("journal");
        let mut folders: Vec<PathBuf> = match disk.list(&journal) {
            Ok(entries) => entries.into_iter().filter(|e| e.is_folder).map(|e| journal.join(e.name)).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        folders.retain(|path| path.extension().is_none());
        folders.sort();
        let mut orphans = Vec::new();
        for folder in folders {
            match disk.lock(&folder.join(LOCK)) {
                Ok(Some(lock)) => orphans.push(Self { disk: Arc::clone(disk), folder, lock }),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, path = %folder.display(), "the journal of an earlier run stays where it is");
                }
            }
        }
        Ok(orphans)
    }

    /// The disk that it is on.
    #[must_use]
    pub const fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes the folder, when everything in it is finished; keeps it under the name `<run>.damaged` when part of it
    /// could not be read.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(self, damaged: bool) -> io::Result<()> {
        if damaged {
            let kept = self.folder.with_extension("damaged");
            self.disk.rename(&self.folder, &kept)?;
            tracing::error!(path = %kept.display(), "part of a journal could not be read; it is kept for inspection");
        } else {
            self.disk.remove_folder(&self.folder)?;
        }
        drop(self.lock);
        Ok(())
    }
}
