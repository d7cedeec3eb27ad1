//! Run folders: each process writes into its own and holds its lock; a folder whose lock is free belongs to nobody and
//! is adopted. Crash, stop and a changed number of threads are one path.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use arc_swap::ArcSwap;

use super::intake::Limits;
use super::keeper::{Kept, Maker};
use super::{Checkpoint, Follower, Intake, Keeper, Shared};
use crate::clock::Clock;
use crate::config;
use crate::segment::{Position, parse_file_name};
use crate::telemetry::metrics::Metrics;

const LOCK: &str = "lock";

/// This process's journals.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    keeper: Keeper,
    /// Held as long as the process uses the folder.
    _lock: File,
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
    pub fn begin(config: &config::Config, metrics: &Metrics, clock: &Arc<dyn Clock>) -> io::Result<(Self, Doors)> {
        let name = format!("{:013}-{}", clock.wall_ms(), std::process::id());
        let folder = config.data_dir.join("journal").join(name);
        std::fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join(LOCK))?;
        lock.lock()?;
        let maker = Maker {
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
        let keeper = Keeper::start(maker, kept, config.journal.sync)?;
        Ok((Self { folder, keeper, _lock: lock }, doors))
    }

    /// Ends the run; when `finished`, nothing in it is needed any more and the folder is removed.
    ///
    /// # Errors
    /// The system's.
    pub fn end(self, finished: bool) -> io::Result<()> {
        drop(self.keeper);
        if finished { std::fs::remove_dir_all(&self.folder) } else { Ok(()) }
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
        folder: maker.folder.clone(),
        written: AtomicU64::new(first.to_u64()),
        queued_bytes: AtomicU64::new(0),
        closed: AtomicBool::new(false),
        current: ArcSwap::from(Arc::clone(writer.file())),
    });
    let (sender, receiver) = crossbeam_channel::bounded(config.queue.groups_max);
    let (prepared_sender, prepared) = crossbeam_channel::bounded(1);
    let kept = Kept {
        shared: Arc::clone(&shared),
        prepared: prepared_sender,
        next_seq: 1,
        synced: (Arc::clone(writer.file()), first.to_u64()),
    };
    let checkpoint = Checkpoint::open(&maker.folder, core, first)?;
    let follower = Follower::live(Arc::clone(&shared), receiver, checkpoint, metrics.worker(index));
    let limits = Limits { queue_bytes_max: config.queue.bytes_max as u64, segment_bytes: config.journal.segment_bytes };
    let (edge_metrics, clock) = (metrics.edge(index), Arc::clone(&maker.clock));
    let intake: IntakeMaker =
        Box::new(move || Intake::new(shared, writer, prepared, sender, limits, edge_metrics, clock));
    Ok(((intake, follower), kept))
}

/// A run folder that nobody holds: what an earlier process left.
#[derive(Debug)]
pub struct Orphan {
    folder: PathBuf,
    lock: File,
}

/// One core's journal in an orphan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrphanCore {
    /// Edge thread that wrote it.
    pub core: u32,
    /// First segment left.
    pub first_seq: u32,
    /// Last segment left.
    pub last_seq: u32,
}

impl Orphan {
    /// Every run folder under `<data_dir>/journal` whose lock is free, oldest first. The locks are held from here on.
    ///
    /// # Errors
    /// The system's. Folders that somebody else holds are left out.
    pub fn find(data_dir: &Path) -> io::Result<Vec<Self>> {
        let journal = data_dir.join("journal");
        let mut folders: Vec<PathBuf> = match std::fs::read_dir(&journal) {
            Ok(entries) => entries.map(|entry| entry.map(|e| e.path())).collect::<io::Result<_>>()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        folders.retain(|path| path.is_dir() && path.extension().is_none());
        folders.sort();
        let mut orphans = Vec::new();
        for folder in folders {
            let lock = OpenOptions::new().write(true).create(true).truncate(false).open(folder.join(LOCK))?;
            match lock.try_lock() {
                Ok(()) => orphans.push(Self { folder, lock }),
                Err(std::fs::TryLockError::WouldBlock) => {}
                Err(std::fs::TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(orphans)
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The journals in it.
    ///
    /// # Errors
    /// The system's.
    pub fn cores(&self) -> io::Result<Vec<OrphanCore>> {
        let mut cores = BTreeMap::<u32, OrphanCore>::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let Some((core, seq)) = entry?.file_name().to_str().and_then(parse_file_name) else { continue };
            let found = cores.entry(core).or_insert(OrphanCore { core, first_seq: seq, last_seq: seq });
            found.first_seq = found.first_seq.min(seq);
            found.last_seq = found.last_seq.max(seq);
        }
        Ok(cores.into_values().collect())
    }

    /// Removes the folder, when everything in it is finished; keeps it under the name `<run>.damaged` when part of it
    /// could not be read.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(self, damaged: bool) -> io::Result<()> {
        if damaged {
            let kept = self.folder.with_extension("damaged");
            std::fs::rename(&self.folder, &kept)?;
            tracing::error!(path = %kept.display(), "part of a journal could not be read; it is kept for inspection");
        } else {
            std::fs::remove_dir_all(&self.folder)?;
        }
        drop(self.lock);
        Ok(())
    }
}
