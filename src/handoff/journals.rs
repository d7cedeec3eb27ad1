//! The journals of a data folder as those see them who look for single clicks in them: to erase a person's.
//!
//! Never moves a cursor or a checkpoint, and touches no click that is not finished. Called by the operator side, where it
//! may block. Bound: one segment at a time; every segment of the folder is read.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::Shared;
use crate::segment::{Disk, Position, blank, find, parse_file_name};

/// Behind every record.
const WHOLE: u32 = u32::MAX;

/// All journals under one data folder.
#[derive(Clone, Debug)]
pub struct Journals {
    pub(super) disk: Arc<dyn Disk>,
    /// `<data_dir>/journal`
    pub(super) folder: PathBuf,
    /// Those of this process; empty where no node runs.
    pub(super) live: Vec<Arc<Shared>>,
}

impl Journals {
    /// Of a folder without a node.
    #[must_use]
    pub fn at_rest(disk: Arc<dyn Disk>, data_dir: &Path) -> Self {
        Self { disk, folder: data_dir.join("journal"), live: Vec::new() }
    }

    /// How far each of this process's journals is written: everything before it was accepted.
    #[must_use]
    pub fn written(&self) -> Vec<Position> {
        self.live.iter().map(|core| Position::from_u64(core.written.load(Ordering::Acquire))).collect()
    }

    /// Whether everything of this run before these positions is finished, and a restart will not send it again. Of earlier
    /// runs only the ledger knows.
    #[must_use]
    pub fn are_finished_up_to(&self, positions: &[Position]) -> bool {
        // In this order: who finishes something behind a cut has counted the cut before.
        let is_finished = |core: &Shared, to| finished(core) >= to && core.behind.load(Ordering::Acquire) == 0;
        self.live.iter().zip(positions).all(|(core, position)| is_finished(core, *position))
    }

    /// Blanks the clicks that are meant, in everything that is finished and still on the disk, also in what was put aside as
    /// damaged; how many it were. Earlier runs must be over.
    ///
    /// # Errors
    /// The system's.
    pub fn blank(&self, is_meant: &dyn Fn(&Bytes) -> bool) -> io::Result<u64> {
        let mut blanked = 0;
        let runs = match self.disk.list(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            runs => runs?,
        };
        for run in runs.into_iter().filter(|entry| entry.is_folder) {
            let run = self.folder.join(run.name);
            let entries = match self.disk.list(&run) {
                // An earlier run that is just being removed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                blanked += self.blank_file(&run, &entry.name, is_meant)?;
            }
        }
        Ok(blanked)
    }

    fn blank_file(&self, run: &Path, name: &OsStr, is_meant: &dyn Fn(&Bytes) -> bool) -> io::Result<u64> {
        let Some(text) = name.to_str() else { return Ok(0) };
        let Some((core, seq)) = parse_file_name(text.strip_suffix(".damaged").unwrap_or(text)) else { return Ok(0) };
        let path = run.join(name);
        let live = self.live.iter().find(|shared| shared.core == core && shared.folder == run);
        let to = match live.map(|shared| finished(shared)) {
            Some(finished) if finished.seq < seq => return Ok(0),
            Some(finished) if finished.seq == seq => finished.offset,
            _ => WHOLE,
        };
        let disk = &*self.disk;
        let found = match find(disk, &path, (core, seq), to, is_meant) {
            Ok(found) if found.is_empty() => return Ok(0),
            // Removed meanwhile, as its clicks are finished.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            found => found?,
        };
        // Neither removed nor replaced from here on.
        let _names = live.map(|shared| shared.names.lock().unwrap_or_else(PoisonError::into_inner));
        match find(disk, &path, (core, seq), to, is_meant) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found.len() as u64),
            found => blank(disk, &path, &found?)?,
        }
        Ok(found.len() as u64)
    }
}

fn finished(core: &Shared) -> Position {
    Position::from_u64(core.finished.load(Ordering::Acquire))
}
