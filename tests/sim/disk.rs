//! The disk of a simulated machine: a [`FaultDisk`], and a switch at which the process, or the power, ends in the middle
//! of a call. It also keeps the book of what a power cut may take.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trellis::click::ClickId;
use trellis::segment::{Disk, DiskFile, Entry, Lock, Open, parse_file_name};
use trellis::testing::FaultDisk;

/// How a node's life ends against its will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// What the system has in memory stays.
    Killed,
    /// Only what was forced stays for certain.
    PowerCut,
}

/// A mistake of the disk, or of the code that calls it: planted, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskBug {
    /// A sync of the journal says yes and does nothing.
    SyncsNothing,
    /// A checkpoint says that all is finished that was written.
    CheckpointRunsAhead,
    /// Frozen batches are never on the disk.
    IntentsVanish,
    /// An append to the journal says yes and does nothing, now and then.
    WritesNothing,
}

/// What is in one segment, as far as the edge was told.
#[derive(Debug, Default)]
struct FileBook {
    kept: Vec<ClickId>,
    /// The first so many of them were forced.
    forced: usize,
    /// A sync failed: nothing of it counts as forced until it was written anew.
    failed: bool,
}

/// What the disk knows of the node that uses it.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// The process has ended; whatever is still called does nothing.
    dead: bool,
    ends_after: Option<(u32, End)>,
    /// The disk after a power cut.
    after: Option<FaultDisk>,
    pub(crate) bug: Option<DiskBug>,
    files: BTreeMap<PathBuf, FileBook>,
    last_written: Option<(PathBuf, u64)>,
    /// Segments that were written anew, and whose names are not forced yet.
    renamed: Vec<PathBuf>,
    /// Those whose names were forced in this turn of the keeper.
    replaced: Vec<PathBuf>,
    /// Batches may be cut anew after this: an intent did not come to the disk.
    pub(crate) intent_failures: u32,
    /// Checkpoints that were opened in this life: one for each stretch.
    pub(crate) checkpoints: Vec<PathBuf>,
    writes: u32,
}

/// Where a segment may say that the one before could not be sealed.
const NOTE_AT: u64 = trellis::segment::SEGMENT_HEADER_BYTES as u64;
const NOTE_BYTES: u64 = 13;

/// Shared by the disk, the store and the driver.
pub(crate) type Watched = Arc<Mutex<Watch>>;

pub(crate) fn look(watch: &Watched) -> MutexGuard<'_, Watch> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    pub(crate) fn is_dead(&self) -> bool {
        self.dead
    }

    /// The process, or the power, ends behind so many calls that change something.
    pub(crate) fn end_after(&mut self, calls: u32, end: End) {
        self.ends_after = Some((calls, end));
    }

    /// A new life begins. The disk of a power cut, if there was one.
    pub(crate) fn revive(&mut self) -> Option<FaultDisk> {
        (self.dead, self.ends_after) = (false, None);
        self.replaced.clear();
        self.checkpoints.clear();
        self.after.take()
    }

    /// What is written from here on is the next group's.
    pub(crate) fn begin_group(&mut self) {
        self.last_written = None;
    }

    /// The edge was told that these clicks of the last group are kept.
    pub(crate) fn keep(&mut self, clicks: &[ClickId]) {
        if let Some((path, _)) = self.last_written.clone() {
            self.files.entry(path).or_default().kept.extend_from_slice(clicks);
        }
    }

    /// Kept clicks that a power cut may take now.
    pub(crate) fn unforced(&self) -> Vec<ClickId> {
        self.unforced_in(Path::new(""))
    }

    /// The same of one run.
    pub(crate) fn unforced_in(&self, folder: &Path) -> Vec<ClickId> {
        let files = self.files.iter().filter(|(path, _)| path.starts_with(folder));
        files.flat_map(|(_, file)| &file.kept[file.forced..]).copied().collect()
    }

    /// What could not be read when segments were written anew, if something could not; the others are forced now.
    pub(crate) fn settle_renamed(&mut self, lost: bool) -> Vec<ClickId> {
        let mut doubtful = Vec::new();
        for path in std::mem::take(&mut self.replaced) {
            let Some(file) = self.files.get_mut(&path) else { continue };
            (file.failed, file.forced) = (false, file.kept.len());
            if lost {
                doubtful.extend(&file.kept);
            }
        }
        doubtful
    }

    /// After a power cut: what is on the disk now stays there.
    pub(crate) fn force_all(&mut self) {
        for file in self.files.values_mut() {
            (file.failed, file.forced) = (false, file.kept.len());
        }
    }

    fn forced(&mut self, path: &Path) {
        if let Some(file) = self.files.get_mut(path).filter(|file| !file.failed) {
            file.forced = file.kept.len();
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct SimDisk {
    pub(crate) inner: FaultDisk,
    pub(crate) watch: Watched,
}

fn dead() -> io::Error {
    io::Error::other("the process has ended")
}

fn is_segment(path: &Path) -> bool {
    path.file_name().and_then(|name| parse_file_name(name.to_str()?)).is_some()
}

fn has_end(path: &Path, end: &str) -> bool {
    path.extension().is_some_and(|extension| extension == end)
}

impl SimDisk {
    /// Ends the process now.
    pub(crate) fn end(&self, end: End) {
        let mut watch = look(&self.watch);
        watch.dead = true;
        if end == End::PowerCut {
            watch.after = Some(self.inner.crash());
        }
    }

    /// Before a call that only looks.
    fn alive(&self) -> io::Result<()> {
        if look(&self.watch).dead { Err(dead()) } else { Ok(()) }
    }

    /// Before a call that changes something. The one at which the process ends is not made.
    fn count_call(&self) -> io::Result<()> {
        self.alive()?;
        let mut watch = look(&self.watch);
        match watch.ends_after {
            Some((0, end)) => {
                drop(watch);
                self.end(end);
                return Err(dead());
            }
            Some((calls, end)) => watch.ends_after = Some((calls - 1, end)),
            None => {}
        }
        Ok(())
    }

    /// Notes what failed of an intent.
    fn note_intent<T>(&self, path: &Path, done: io::Result<T>) -> io::Result<T> {
        if done.is_err() && has_end(path, "intent") {
            look(&self.watch).intent_failures += 1;
        }
        done
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        if how == Open::Read {
            self.alive()?;
        } else {
            self.note_intent(path, self.count_call())?;
            if has_end(path, "ckpt") {
                look(&self.watch).checkpoints.push(path.to_owned());
            }
        }
        let inner = self.inner.open(path, how)?;
        Ok(Arc::new(SimFile { inner, path: path.to_owned(), disk: self.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.count_call()?;
        self.inner.rename(from, to)?;
        if has_end(from, "copy") {
            look(&self.watch).renamed.push(to.to_owned());
        }
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.count_call()?;
        self.inner.unlink(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        self.alive()?;
        self.inner.list(folder)
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        self.count_call()?;
        let done = self.inner.sync_dir(folder);
        let mut watch = look(&self.watch);
        if done.is_ok() {
            let forced: Vec<_> = watch.renamed.extract_if(.., |path| path.parent() == Some(folder)).collect();
            watch.replaced.extend(forced);
        } else {
            // It may have been an intent's.
            watch.intent_failures += 1;
        }
        done
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        self.alive()?;
        self.inner.free_bytes(folder)
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        self.count_call()?;
        self.inner.make_folder(folder)
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        self.count_call()?;
        self.inner.remove_folder(folder)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        self.count_call()?;
        self.inner.lock(path)
    }
}

#[derive(Debug)]
struct SimFile {
    inner: Arc<dyn DiskFile>,
    path: PathBuf,
    disk: SimDisk,
}

impl SimFile {
    fn watch(&self) -> MutexGuard<'_, Watch> {
        look(&self.disk.watch)
    }

    /// A slot of a checkpoint that says more than its writer meant.
    fn ahead(&self, slot: &[u8]) -> Vec<u8> {
        let mut slot = slot.to_vec();
        if let Some((path, end)) = &self.watch().last_written
            && let Some((_, seq)) = path.file_name().and_then(|name| parse_file_name(name.to_str()?))
        {
            let body = slot.len() - 4;
            slot[16..24].copy_from_slice(&(u64::from(seq) << 32 | *end).to_le_bytes());
            let crc = crc32fast::hash(&slot[..body]);
            slot[body..].copy_from_slice(&crc.to_le_bytes());
        }
        slot
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.alive()?;
        self.inner.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let was_alive = self.disk.alive().is_ok();
        if let Err(error) = self.disk.count_call() {
            if was_alive {
                // A kill may come in the middle of a write, too.
                let _ = self.inner.write_at(&bytes[..bytes.len() / 2], offset);
            }
            return self.disk.note_intent(&self.path, Err(error));
        }
        let bug = self.watch().bug;
        if bug == Some(DiskBug::IntentsVanish) && has_end(&self.path, "intent") {
            return Ok(bytes.len());
        }
        if bug == Some(DiskBug::CheckpointRunsAhead) && has_end(&self.path, "ckpt") {
            return self.inner.write_at(&self.ahead(bytes), offset);
        }
        if is_segment(&self.path) {
            self.watch().writes += 1;
            if bug == Some(DiskBug::WritesNothing) && self.watch().writes.is_multiple_of(7) {
                return Ok(bytes.len());
            }
        }
        let written = self.inner.write_at(bytes, offset);
        if written.is_err() && is_segment(&self.path) && (NOTE_AT..NOTE_AT + NOTE_BYTES).contains(&offset) {
            // Perhaps the note of where the segment before ended: without it a torn seal is taken for damage.
            self.watch().intent_failures += 1;
        }
        let taken = self.disk.note_intent(&self.path, written)?;
        if is_segment(&self.path) {
            self.watch().last_written = Some((self.path.clone(), offset + taken as u64));
        }
        Ok(taken)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.disk.count_call()?;
        self.inner.allocate(bytes)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.disk.note_intent(&self.path, self.disk.count_call())?;
        self.inner.truncate(bytes)
    }

    fn length(&self) -> io::Result<u64> {
        self.disk.alive()?;
        self.inner.length()
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.note_intent(&self.path, self.disk.count_call())?;
        if self.watch().bug == Some(DiskBug::SyncsNothing) && is_segment(&self.path) {
            self.watch().forced(&self.path);
            return Ok(());
        }
        let done = self.disk.note_intent(&self.path, self.inner.sync());
        let mut watch = self.watch();
        match &done {
            Ok(()) => watch.forced(&self.path),
            Err(_) => {
                if let Some(file) = watch.files.get_mut(&self.path) {
                    file.failed = true;
                }
            }
        }
        done
    }
}
