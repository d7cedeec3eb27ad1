//! The way back: a checked backup becomes a data folder.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::copy::{self, Copier};
use super::{Entry, Manifest, list};
use crate::app::folder;
use crate::config::Config;

/// Copies the backup `from` into the data folder, which must be empty; what it held. First everything is checked, then
/// everything is copied beside its place and checked again, and then moved there. Blocks for as long as the disks take.
///
/// # Errors
/// `from` is no backup, or not whole, or damaged: the file is named; the data folder is not empty, or in use; the
/// system's. The data folder stays empty then, and if it is the last step that fails, no node starts on it.
pub fn restore(config: &Config, from: &Path) -> anyhow::Result<Manifest> {
    let manifest = Manifest::read(from)?;
    for entry in &manifest.files {
        let path = from.join(&entry.path);
        let found = copy::measure(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => anyhow::anyhow!("`{}` is missing in the backup", path.display()),
            _ => anyhow::Error::new(error).context(format!("`{}` cannot be read", path.display())),
        })?;
        check(entry, &path, &found)?;
    }
    let data_dir = &config.data_dir;
    folder::create(data_dir)?;
    let names = list(data_dir).with_context(|| format!("data_dir `{}` cannot be read", data_dir.display()))?;
    anyhow::ensure!(
        names.iter().all(|name| name == "node.lock"),
        "data_dir `{}` is not empty; a backup is restored into an empty folder, with --data-dir for another one",
        data_dir.display()
    );
    let _lock = folder::lock(data_dir)?;
    let beside = folder::unfinished_restore(data_dir);
    let copied = copy_all(&manifest, from, beside.clone());
    if copied.is_err() {
        let _ = std::fs::remove_dir_all(&beside);
    }
    copied?;
    move_all(&beside, data_dir)?;
    Ok(manifest)
}

fn copy_all(manifest: &Manifest, from: &Path, to: PathBuf) -> anyhow::Result<()> {
    let mut copier = Copier::new(to)?;
    for entry in &manifest.files {
        let path = from.join(&entry.path);
        anyhow::ensure!(copier.copy(&path, &entry.path, u64::MAX)?, "`{}` has gone meanwhile", path.display());
    }
    // It is the copy that counts, and not what was read some minutes before.
    for copied in copier.finish()? {
        let entry = manifest.files.iter().find(|entry| entry.path == copied.path);
        let entry = entry.with_context(|| format!("`{}` came from nowhere", copied.path))?;
        check(entry, &from.join(&entry.path), &(copied.bytes, copied.sha256))?;
    }
    Ok(())
}

fn check(entry: &Entry, path: &Path, found: &(u64, String)) -> anyhow::Result<()> {
    let (bytes, sha256) = found;
    anyhow::ensure!(
        *bytes == entry.bytes,
        "`{}` is damaged: it has {bytes} bytes, and {} were written",
        path.display(),
        entry.bytes
    );
    anyhow::ensure!(*sha256 == entry.sha256, "`{}` is damaged: its checksum is not that of the backup", path.display());
    Ok(())
}

/// Until the last step, no node starts on the folder.
fn move_all(beside: &Path, data_dir: &Path) -> anyhow::Result<()> {
    let moved = list(beside)
        .and_then(|names| names.iter().try_for_each(|name| std::fs::rename(beside.join(name), data_dir.join(name))));
    moved.with_context(|| format!("what is in `{}` cannot be moved to its place", beside.display()))?;
    copy::sync_folder(data_dir)?;
    std::fs::remove_dir(beside).with_context(|| format!("`{}` cannot be removed", beside.display()))?;
    copy::sync_folder(data_dir)
}
