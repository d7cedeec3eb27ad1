//! Copying files with their checksums, each forced to the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use super::manifest::Entry;

const CHUNK_BYTES: usize = 1 << 20;

/// Copies into one folder, and keeps the books of what it holds.
#[derive(Debug)]
pub(super) struct Copier {
    to: PathBuf,
    files: BTreeMap<String, Entry>,
    chunk: Vec<u8>,
}

impl Copier {
    /// For a folder, which is made for its owner alone and must not be there.
    pub(super) fn new(to: PathBuf) -> anyhow::Result<Self> {
        let made = std::fs::DirBuilder::new().mode(0o700).create(&to);
        match made {
            Ok(()) => Ok(Self { to, files: BTreeMap::new(), chunk: vec![0; CHUNK_BYTES] }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => anyhow::bail!(
                "`{}` is there: another command is at work, or was broken off; then remove it",
                to.display()
            ),
            Err(error) => Err(error).context(format!("`{}` cannot be made", to.display())),
        }
    }

    /// Where the file of this path lies, with the folders above it.
    pub(super) fn place(&self, path: &str) -> anyhow::Result<PathBuf> {
        let place = self.to.join(path);
        let above = place.parent().unwrap_or(&self.to);
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(above);
        made.with_context(|| format!("`{}` cannot be made", above.display()))?;
        Ok(place)
    }

    /// Copies the first bytes of a file, over an earlier copy if there is one; false when it is gone.
    pub(super) fn copy(&mut self, from: &Path, path: &str, most: u64) -> anyhow::Result<bool> {
        let source = match File::open(from) {
            Ok(source) => source,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error).context(format!("`{}` cannot be opened", from.display())),
        };
        self.forget(path)?;
        let place = self.place(path)?;
        let mut target = create(&place)?;
        let copied = pass(&source, most, &mut self.chunk, Some(&mut target)).and_then(|found| {
            target.sync_all()?;
            Ok(found)
        });
        let (bytes, sha256) =
            copied.with_context(|| format!("`{}` cannot be copied to `{}`", from.display(), place.display()))?;
        self.files.insert(path.to_owned(), Entry { path: path.to_owned(), bytes, sha256 });
        Ok(true)
    }

    /// Takes up a file that was made at its place in another way.
    pub(super) fn adopt(&mut self, path: &str) -> anyhow::Result<()> {
        let place = self.place(path)?;
        let found = File::open(&place).and_then(|file| {
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
            file.sync_all()?;
            pass(&file, u64::MAX, &mut self.chunk, None)
        });
        let (bytes, sha256) = found.with_context(|| format!("`{}` cannot be read again", place.display()))?;
        self.files.insert(path.to_owned(), Entry { path: path.to_owned(), bytes, sha256 });
        Ok(())
    }

    /// Removes a copy, if there is one.
    pub(super) fn forget(&mut self, path: &str) -> anyhow::Result<()> {
        if self.files.remove(path).is_some() {
            let place = self.to.join(path);
            std::fs::remove_file(&place).with_context(|| format!("`{}` cannot be removed", place.display()))?;
        }
        Ok(())
    }

    /// Forces the names of all copies to the disk; the copies, in the order of their paths.
    pub(super) fn finish(self) -> anyhow::Result<Vec<Entry>> {
        let mut folders = BTreeSet::from([Path::new("")]);
        folders.extend(self.files.keys().flat_map(|path| Path::new(path).ancestors().skip(1)));
        for folder in folders {
            sync_folder(&self.to.join(folder))?;
        }
        Ok(self.files.into_values().collect())
    }
}

/// Length and checksum of a file.
pub(super) fn measure(path: &Path) -> io::Result<(u64, String)> {
    pass(&File::open(path)?, u64::MAX, &mut vec![0; CHUNK_BYTES], None)
}

/// Reads up to `most` bytes, and writes them where there is a target.
fn pass(mut from: &File, most: u64, chunk: &mut [u8], mut to: Option<&mut File>) -> io::Result<(u64, String)> {
    let (mut done, mut hasher) = (0, Sha256::new());
    loop {
        let room = usize::try_from(most - done).unwrap_or(usize::MAX).min(chunk.len());
        let read = match from.read(&mut chunk[..room]) {
            Ok(0) => return Ok((done, hex(&hasher.finalize()))),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&chunk[..read]);
        if let Some(to) = &mut to {
            to.write_all(&chunk[..read])?;
        }
        done += read as u64;
    }
}

/// Makes a file for its owner alone; it must not be there.
pub(super) fn create(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.with_context(|| format!("`{}` cannot be made", path.display()))
}

/// Forces the names in a folder to the disk.
pub(super) fn sync_folder(folder: &Path) -> anyhow::Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.with_context(|| format!("`{}` cannot be forced to the disk", folder.display()))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
