//! A file system in memory that fails on purpose, and loses at a crash what a real one loses.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::disk_file::FaultFile;
use super::disk_image::Content;
use super::disk_names::Names;
use crate::segment::{Disk, DiskFile, Entry, Lock, Open};

/// What can go wrong at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A write takes only the first part; half the time the next one then finds no space.
    ShortWrite,
    /// A write finds no space.
    Full,
    /// A write fails; half the time a part of it was written all the same.
    WriteError,
    /// A read fails.
    ReadError,
    /// A sync fails. What was not forced before is lost to the disk, although it can still be read and later syncs
    /// succeed: as Linux does it.
    SyncError,
}

/// A file system in memory. Clones are the same disk. Everything random in it follows from its seed.
#[derive(Clone, Debug)]
pub struct FaultDisk {
    seed: u64,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) random: fastrand::Rng,
    /// By number; never freed. 0 is the root.
    nodes: Vec<Node>,
    /// Faults of the next calls that they fit.
    pub(super) planned: Vec<Fault>,
    /// Faults by chance, each in so many of 1,000 calls.
    chances: Vec<(Fault, u32)>,
    /// Bytes that files may still take.
    space_left: u64,
    pub(super) allocates: bool,
    /// A power cut keeps some of the names that were not forced.
    names_linger: bool,
    locks: Vec<PathBuf>,
    /// So many more calls that change something; then the power is cut.
    calls_left: Option<u32>,
    /// The disk after that.
    crashed: Option<FaultDisk>,
}

#[derive(Clone, Debug)]
enum Node {
    File(Content),
    Folder(Names),
}

impl FaultDisk {
    /// An empty disk without faults and with all the space of the world. Prints its seed.
    #[must_use]
    #[allow(clippy::print_stderr, reason = "a failing test shows it, and the seed makes it fail again")]
    pub fn new(seed: u64) -> Self {
        eprintln!("fault disk: seed {seed}");
        Self::quiet(seed)
    }

    /// The same without a word: for a test that makes thousands of them and prints a seed of its own.
    #[must_use]
    pub fn quiet(seed: u64) -> Self {
        Self::with(seed, vec![Node::Folder(Names::default())], u64::MAX, true)
    }

    fn with(seed: u64, nodes: Vec<Node>, space_left: u64, allocates: bool) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let (planned, chances, locks) = (Vec::new(), Vec::new(), Vec::new());
        let (calls_left, crashed, names_linger) = (None, None, false);
        let state =
            State { random, nodes, planned, chances, space_left, allocates, names_linger, locks, calls_left, crashed };
        Self { seed, state: Arc::new(Mutex::new(state)) }
    }

    /// What all its chances follow from.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Lets the next call that it fits fail.
    pub fn fail_next(&self, fault: Fault) {
        self.state().planned.push(fault);
    }

    /// Lets calls fail by chance, in so many of 1,000; 0 ends it.
    pub fn set_chance(&self, fault: Fault, per_mille: u32) {
        let mut state = self.state();
        state.chances.retain(|(other, _)| *other != fault);
        state.chances.push((fault, per_mille));
    }

    /// Ends all faults, those by chance and those that were planned. What was lost or damaged stays so.
    pub fn heal(&self) {
        let mut state = self.state();
        state.planned.clear();
        state.chances.clear();
        state.space_left = u64::MAX;
    }

    /// From here on files may take so many bytes more; unlinking gives bytes back.
    pub fn set_space_left(&self, bytes: u64) {
        self.state().space_left = bytes;
    }

    /// Whether `allocate` takes space. Without, as on some file systems, a full disk shows at a write.
    pub fn set_allocates(&self, allocates: bool) {
        self.state().allocates = allocates;
    }

    /// Lets a power cut keep a random first part of what was done to the names of a folder since they were forced. Without,
    /// nothing of it is there: the harder case, but not the only one.
    pub fn set_names_linger(&self, names_linger: bool) {
        self.state().names_linger = names_linger;
    }

    /// Flips one bit of a file, for processes and on the disk.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn flip(&self, path: &Path, bit: u64) -> io::Result<()> {
        let mut state = self.state();
        let node = state.find(path)?;
        state.content(node)?.flip(bit);
        Ok(())
    }

    /// Cuts the power: the disk as the next process finds it. Names survive that `sync_dir` forced, bytes that `sync`
    /// forced, and of the others a random first part of what was written since, torn at a sector of 512 or 4,096 bytes.
    /// Handles of the old disk go on, unseen by the new one. The new one has no faults planned.
    #[must_use]
    pub fn crash(&self) -> Self {
        let mut state = self.state();
        state.calls_left = None;
        state.crashed.take().unwrap_or_else(|| state.cut_power())
    }

    /// Cuts the power already behind so many calls that write, force or rename something; [`crash`](Self::crash) then
    /// gives the disk of that moment.
    pub fn crash_after(&self, calls: u32) {
        self.state().calls_left = Some(calls);
    }

    /// Whether that moment has come.
    #[must_use]
    pub fn is_crashed(&self) -> bool {
        self.state().crashed.is_some()
    }

    /// From here on a part of a file cannot be read; the disk of the next process has the same.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn set_unreadable(&self, path: &Path, bytes: std::ops::Range<u64>) -> io::Result<()> {
        let mut state = self.state();
        let node = state.find(path)?;
        state.content(node)?.unreadable = bytes;
        Ok(())
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked has said all there is to say.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Before a call that changes something.
    pub(super) fn count_call(&mut self) {
        match self.calls_left {
            Some(0) => {
                self.calls_left = None;
                self.crashed = Some(self.cut_power());
            }
            Some(left) => self.calls_left = Some(left - 1),
            None => {}
        }
    }

    /// The disk after a power cut.
    fn cut_power(&mut self) -> FaultDisk {
        let Self { nodes, random, names_linger, .. } = self;
        let survived = nodes
            .iter()
            .map(|node| match node {
                Node::File(content) => Node::File(content.after_crash(random)),
                Node::Folder(names) => Node::Folder(names.after_crash(names_linger.then_some(&mut *random))),
            })
            .collect();
        let seed = random.u64(..);
        let disk = FaultDisk::with(seed, survived, self.space_left, self.allocates);
        disk.set_names_linger(self.names_linger);
        disk
    }

    /// Whether this fault strikes now.
    pub(super) fn strikes(&mut self, fault: Fault) -> bool {
        if let Some(at) = self.planned.iter().position(|planned| *planned == fault) {
            self.planned.remove(at);
            return true;
        }
        let chance = self.chances.iter().find(|(other, _)| *other == fault).map_or(0, |(_, chance)| *chance);
        chance > 0 && self.random.u32(..1000) < chance
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        let mut node = 0;
        for part in path.components() {
            if let Component::Normal(name) = part {
                node = *self.names(node)?.seen().get(name).ok_or(io::ErrorKind::NotFound)?;
            }
        }
        Ok(node)
    }

    fn names(&self, node: usize) -> io::Result<&Names> {
        match &self.nodes[node] {
            Node::Folder(names) => Ok(names),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn change_names(&mut self, node: usize, change: Vec<(OsString, Option<usize>)>) -> io::Result<()> {
        match &mut self.nodes[node] {
            Node::Folder(names) => names.change(change),
            Node::File(_) => return Err(io::ErrorKind::NotADirectory.into()),
        }
        Ok(())
    }

    pub(super) fn content(&mut self, node: usize) -> io::Result<&mut Content> {
        match &mut self.nodes[node] {
            Node::File(content) => Ok(content),
            Node::Folder(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// The folder of a path, and its last name.
    fn split(&self, path: &Path) -> io::Result<(usize, OsString)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        Ok((self.find(path.parent().unwrap_or(Path::new("")))?, name))
    }

    fn add(&mut self, folder: usize, name: OsString, node: Node) -> io::Result<usize> {
        let number = self.nodes.len();
        self.change_names(folder, vec![(name, Some(number))])?;
        self.nodes.push(node);
        Ok(number)
    }

    /// Takes space so that the file has `end` bytes; how many it may have.
    pub(super) fn take_space(&mut self, node: usize, end: u64) -> io::Result<u64> {
        let left = self.space_left;
        let content = self.content(node)?;
        let more = end.saturating_sub(content.taken).min(left);
        content.taken += more;
        let may = content.taken;
        self.space_left -= more;
        Ok(may.min(end))
    }

    fn unlink(&mut self, path: &Path) -> io::Result<()> {
        let (folder, name) = self.split(path)?;
        let node = *self.names(folder)?.seen().get(&name).ok_or(io::ErrorKind::NotFound)?;
        let freed = std::mem::take(&mut self.content(node)?.taken);
        self.space_left = self.space_left.saturating_add(freed);
        self.change_names(folder, vec![(name, None)])
    }
}

impl Disk for FaultDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let node = match (state.find(path), how) {
            (Ok(_), Open::New) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(node), _) => node,
            (Err(error), Open::Read) => return Err(error),
            (Err(_), _) => {
                let (folder, name) = state.split(path)?;
                state.add(folder, name, Node::File(Content::default()))?
            }
        };
        state.content(node)?;
        drop(state);
        Ok(Arc::new(FaultFile { disk: self.clone(), node }))
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.state().space_left)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.count_call();
        let ((old_folder, old), (folder, name)) = (state.split(from)?, state.split(to)?);
        let node = *state.names(old_folder)?.seen().get(&old).ok_or(io::ErrorKind::NotFound)?;
        if old_folder == folder {
            return state.change_names(folder, vec![(old, None), (name, Some(node))]);
        }
        state.change_names(old_folder, vec![(old, None)])?;
        state.change_names(folder, vec![(name, Some(node))])
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.state().unlink(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        let state = self.state();
        let names = state.names(state.find(folder)?)?.seen();
        let entry = |(name, node): (&OsString, &usize)| Entry {
            name: name.clone(),
            is_folder: matches!(state.nodes[*node], Node::Folder(_)),
        };
        Ok(names.iter().map(entry).collect())
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.count_call();
        if state.strikes(Fault::SyncError) {
            return Err(Errno::IO.into());
        }
        let node = state.find(folder)?;
        match &mut state.nodes[node] {
            Node::Folder(names) => names.force(),
            Node::File(_) => return Err(io::ErrorKind::NotADirectory.into()),
        }
        Ok(())
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.state();
        let mut node = 0;
        for part in folder.components() {
            if let Component::Normal(name) = part {
                node = match state.names(node)?.seen().get(name) {
                    Some(found) => *found,
                    None => state.add(node, name.to_owned(), Node::Folder(Names::default()))?,
                };
            }
        }
        Ok(())
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        for entry in self.list(folder)? {
            let path = folder.join(entry.name);
            if entry.is_folder { self.remove_folder(&path) } else { self.unlink(&path) }?;
        }
        let mut state = self.state();
        let (parent, name) = state.split(folder)?;
        state.change_names(parent, vec![(name, None)])
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        self.open(path, Open::Any)?;
        let mut state = self.state();
        if state.locks.iter().any(|held| held == path) {
            return Ok(None);
        }
        state.locks.push(path.to_owned());
        Ok(Some(Box::new(HeldLock { disk: self.clone(), path: path.to_owned() })))
    }
}

#[derive(Debug)]
struct HeldLock {
    disk: FaultDisk,
    path: PathBuf,
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        self.disk.state().locks.retain(|held| *held != self.path);
    }
}
