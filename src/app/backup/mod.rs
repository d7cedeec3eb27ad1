//! Backups of a data folder, made while its node works, and their way back.
//!
//! A process of its own copies; the node knows nothing of it and is never held up. That is enough, because everything
//! that a node writes is either appended (segments), replaced as a whole (dead letters), made of two slots of which one
//! is always whole (checkpoints), or a SQLite file, of which SQLite itself gives a copy of one moment.
//!
//! # What is copied, in which order, and why
//!
//! ```text
//! 0 ledger.db    for its visits: what comes later is not in the copy of the journal
//! 1 intents      a half-written one is none; their ranges lie in what is copied next
//! 2 segments     of each core the newest first, up to the last record that is there: so no gap can open between two
//! 3 checkpoints  and what was removed meanwhile is removed from the copy: it was finished. Of each core the newest
//!                stays: with it the checkpoint is found, and the sums that only the note there has
//! 4 dead letters, ledger.db for all the rest
//! 5 clicks.db, catalog.db, secrets, the history of the objectives (replaced as a whole)
//! ```
//! A click that was acknowledged before 1 is in a segment of 2, or it was finished before. What is finished was stored,
//! refused or dropped *before* its checkpoint moved and its segment went: so whatever 3 calls finished lies in 4, in 5, or
//! in ClickHouse. What is stored, and not finished in 3, is brought to the store again by the restored node: under the
//! same click ids, and, where its intent was copied, after a look by its batch id. So every such click is there once.
//! The ledger may be ahead of the checkpoints; it knows by how much. Of the minutes in which all this was done the store
//! may have more clicks than the copied ledger, which says so.
//!
//! # The form
//!
//! A folder like the data folder, with a [`Manifest`]; made as `<name>.partial`, each file forced to the disk, and renamed
//! at the end. A restored folder is as good as one that a `kill -9` left. Never copied: locks, and what says where a node
//! listens. Called by the command line. Bounds: one buffer of 1 MiB; [`ROUNDS`] readings of each run folder.

mod copy;
mod manifest;
mod restore;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

pub use manifest::{Entry, Manifest};
pub use restore::restore;

use self::copy::Copier;
use crate::backend::{sqlite_ledger, sqlite_snapshot};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::segment::{
    Next, Position, RECORD_HEADER_BYTES, Reader, RealDisk, SEGMENT_HEADER_BYTES, file_name, parse_file_name,
};

const LEDGER: &str = "ledger.db";
/// A click carries the time at which its turn of the event loop began; so much later, it is in the journal.
const TURN_MS_MAX: u64 = 5_000;
/// Everything in a data folder that is kept.
const PARTS: [&str; 9] = [
    "journal",
    "dead-letters",
    "ledger.db",
    "clicks.db",
    "catalog.db",
    "control.token",
    "dedup.secret",
    "warden.token",
    "slo.history",
];
/// What belongs to a running node, or to a database that is copied through SQLite.
const NOT_KEPT: [&str; 8] = [
    "node.lock",
    "node.json",
    "ledger.db-wal",
    "ledger.db-shm",
    "clicks.db-wal",
    "clicks.db-shm",
    "catalog.db-wal",
    "catalog.db-shm",
];
/// How often a run folder is read, for its segments and again for its checkpoints, until nothing is removed meanwhile.
/// Nothing is lost by giving up: what is copied in vain is known to the store.
const ROUNDS: usize = 10;

/// Copies the data folder into a new folder `to`; what it then holds, and what it left out because it knows no such part.
/// Blocks for as long as the disks take.
///
/// # Errors
/// `to` is there, or lies in the data folder; there is nothing to copy; the system's. Nothing is left at `to` then.
pub fn backup(config: &Config, to: &Path) -> anyhow::Result<(Manifest, Vec<OsString>)> {
    let clock = SystemClock::new();
    let began_ms = clock.wall_ms();
    let data_dir = &config.data_dir;
    let looked = data_dir.canonicalize().and_then(|data_dir| Ok((list(&data_dir)?, data_dir)));
    let (names, data_dir) = looked.with_context(|| format!("data_dir `{}` cannot be read", data_dir.display()))?;
    let is_part = |name: &OsString| PARTS.iter().any(|part| name == part);
    anyhow::ensure!(
        names.iter().any(is_part),
        "`{}` holds nothing of a node: is data_dir the one that the node uses?",
        data_dir.display()
    );
    let to = free_place(to, &data_dir)?;
    let mut partial = to.clone().into_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let copier = Copier::new(partial.clone())?;
    let made = copy_all(copier, &data_dir).and_then(|files| {
        let manifest = Manifest::new(&config.node, began_ms, clock.wall_ms(), files);
        manifest.write(&partial)?;
        copy::sync_folder(&partial)?;
        std::fs::rename(&partial, &to).with_context(|| format!("`{}` cannot be made", to.display()))?;
        copy::sync_folder(to.parent().unwrap_or(&to))?;
        Ok(manifest)
    });
    if made.is_err() {
        let _ = std::fs::remove_dir_all(&partial);
    }
    let left_out = names.into_iter().filter(|name| !is_part(name) && !NOT_KEPT.iter().any(|known| name == known));
    Ok((made?, left_out.collect()))
}

/// The absolute path of a place where nothing is, outside of the data folder.
fn free_place(to: &Path, data_dir: &Path) -> anyhow::Result<PathBuf> {
    let name = to.file_name().with_context(|| format!("`{}` names no new folder", to.display()))?;
    let above = to.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let above = above.canonicalize().with_context(|| format!("`{}` cannot be reached", above.display()))?;
    anyhow::ensure!(
        !above.starts_with(data_dir),
        "`{}` lies in the data folder: a backup belongs on another disk, or at least elsewhere",
        to.display()
    );
    let place = above.join(name);
    match place.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(place),
        Err(error) => Err(error).context(format!("`{}` cannot be looked at", to.display())),
        Ok(_) => anyhow::bail!("`{}` is there already; a backup is a new folder", to.display()),
    }
}

fn copy_all(mut copier: Copier, data_dir: &Path) -> anyhow::Result<Vec<Entry>> {
    let began = minute_now(TURN_MS_MAX);
    let visits = copier.place("ledger.visits")?;
    let earlier = snapshot(data_dir, LEDGER, &visits)?;
    for run in list_if_there(&data_dir.join("journal"))? {
        if let Some(run) = run.to_str().filter(|run| data_dir.join("journal").join(run).is_dir()) {
            copy_run(&mut copier, &data_dir.join("journal").join(run), &format!("journal/{run}"))?;
        }
    }
    copy_folder(&mut copier, &data_dir.join("dead-letters"), "dead-letters")?;
    let has_ledger = snapshot(data_dir, LEDGER, &copier.place(LEDGER)?)?;
    for part in ["clicks.db", "catalog.db"] {
        if snapshot(data_dir, part, &copier.place(part)?)? {
            copier.adopt(part)?;
        }
    }
    if has_ledger {
        let copied = sqlite_ledger::back_up(&copier.place(LEDGER)?, earlier.then_some(&*visits), began..=minute_now(0));
        copied.context("the copy of the ledger cannot be finished")?;
        copier.adopt(LEDGER)?;
    }
    if earlier {
        std::fs::remove_file(&visits).with_context(|| format!("`{}` cannot be removed", visits.display()))?;
    }
    for part in ["control.token", "dedup.secret", "warden.token", "slo.history"] {
        copier.copy(&data_dir.join(part), part, u64::MAX)?;
    }
    copier.finish()
}

/// The minute of the click of so many milliseconds ago.
fn minute_now(ago_ms: u64) -> u64 {
    SystemClock::new().wall_ms().saturating_sub(ago_ms) / 60_000
}

/// Copies a SQLite file; false when there is none.
fn snapshot(data_dir: &Path, part: &str, place: &Path) -> anyhow::Result<bool> {
    let from = data_dir.join(part);
    let is_there = from.try_exists().with_context(|| format!("`{}` cannot be looked at", from.display()))?;
    if is_there {
        let copied = sqlite_snapshot::copy(&from, place);
        copied.with_context(|| format!("`{}` cannot be copied", from.display()))?;
    }
    Ok(is_there)
}

/// Copies one run of the journal; nothing, when it is finished meanwhile.
fn copy_run(copier: &mut Copier, folder: &Path, path: &str) -> anyhow::Result<()> {
    let names = list_if_there(folder)?;
    for name in with_suffix(&names, ".intent") {
        copier.copy(&folder.join(name), &format!("{path}/{name}"), u64::MAX)?;
    }
    let mut copied = BTreeSet::new();
    for _ in 0..ROUNDS {
        // All at first; then those of a core whose segments were all finished before their turn came.
        let cores: BTreeSet<_> = copied.iter().map(|(core, _)| *core).collect();
        let mut missing = segments(folder)?;
        missing.retain(|(core, _)| !cores.contains(core));
        if missing.is_empty() {
            break;
        }
        copied.extend(copy_segments(copier, folder, path, missing)?);
    }
    copy_state(copier, folder, path, copied)
}

/// A segment's core and number in it.
type Segment = (u32, u32);

/// The segments in a folder.
fn segments(folder: &Path) -> anyhow::Result<BTreeSet<Segment>> {
    Ok(list_if_there(folder)?.iter().filter_map(|name| parse_file_name(name.to_str()?)).collect())
}

/// Copies segments up to their last record; those that were still there.
fn copy_segments(
    copier: &mut Copier,
    folder: &Path,
    path: &str,
    segments: BTreeSet<Segment>,
) -> anyhow::Result<Vec<Segment>> {
    let mut copied = Vec::new();
    // The newest of a core first: an older one is then copied when its last record was long written.
    for (core, seq) in segments.into_iter().rev() {
        let name = file_name(core, seq);
        let from = folder.join(&name);
        let end = match end_of_records(&from, core, seq) {
            Ok(end) => u64::from(end),
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            // As it is: whoever restores it finds it as damaged as it was.
            Err(error) if error.kind() == ErrorKind::InvalidData => u64::MAX,
            Err(error) => return Err(error).context(format!("`{}` cannot be read", from.display())),
        };
        if copier.copy(&from, &format!("{path}/{name}"), end)? {
            copied.push((core, seq));
        }
    }
    Ok(copied)
}

/// Copies how far the clicks of the copied segments are finished, and leaves out those that have gone meanwhile: a node
/// removes what is finished, and nothing else.
fn copy_state(copier: &mut Copier, folder: &Path, path: &str, mut copied: BTreeSet<Segment>) -> anyhow::Result<()> {
    let newest: BTreeMap<_, _> = copied.iter().copied().collect();
    copied.retain(|(core, seq)| newest[core] != *seq);
    for _ in 0..ROUNDS {
        let there = segments(folder)?;
        for (core, seq) in copied.extract_if(.., |segment| !there.contains(segment)) {
            copier.forget(&format!("{path}/{}", file_name(core, seq)))?;
        }
        // Behind that: a checkpoint must stand behind all that is left out. What is finished after it stays in the copy.
        for name in list_if_there(folder)? {
            let Some(name) = name.to_str().filter(|name| is_state(name)) else { continue };
            copier.copy(&folder.join(name), &format!("{path}/{name}"), u64::MAX)?;
        }
        if copied.is_subset(&segments(folder)?) {
            break;
        }
    }
    Ok(())
}

/// Checkpoints, and what is kept beside them: everything but segments, intents and the lock.
fn is_state(name: &str) -> bool {
    name != "lock" && !name.ends_with(".intent") && parse_file_name(name).is_none()
}

fn with_suffix<'n>(names: &'n [OsString], suffix: &'static str) -> impl Iterator<Item = &'n str> {
    names.iter().filter_map(move |name| name.to_str().filter(|name| name.ends_with(suffix)))
}

/// Behind the last record of a segment that may still be written to. All before it is written for good.
fn end_of_records(path: &Path, core: u32, seq: u32) -> io::Result<u32> {
    let open = |at| Reader::open(&RealDisk, path, core, at);
    let mut reader = open(Position::start_of(seq))?;
    let mut end = SEGMENT_HEADER_BYTES;
    loop {
        let at = reader.position();
        match reader.read()? {
            Next::Click(_, position) => end = position.offset,
            Next::Sealed => return Ok(end + RECORD_HEADER_BYTES as u32),
            Next::Invalid { .. } => {
                if reader.skip()?.is_none() {
                    return Ok(end);
                }
                // A record stands behind it: so what stood here when it was read may have been written since.
                let mut again = open(at)?;
                if let Next::Click(_, position) = again.read()? {
                    (reader, end) = (again, position.offset);
                }
            }
        }
    }
}

/// Copies the files of a folder that lie right in it. A name that ends with `.next` is being written.
fn copy_folder(copier: &mut Copier, folder: &Path, path: &str) -> anyhow::Result<()> {
    for name in list_if_there(folder)? {
        let Some(name) = name.to_str().filter(|name| !name.ends_with(".next")) else { continue };
        let from = folder.join(name);
        if from.is_dir() {
            copy_folder(copier, &from, &format!("{path}/{name}"))?;
        } else {
            copier.copy(&from, &format!("{path}/{name}"), u64::MAX)?;
        }
    }
    Ok(())
}

fn list(folder: &Path) -> io::Result<Vec<OsString>> {
    let mut names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn list_if_there(folder: &Path) -> anyhow::Result<Vec<OsString>> {
    match list(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.with_context(|| format!("`{}` cannot be read", folder.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_segments_that_are_finished_while_they_are_copied_the_newest_of_each_core_stays() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |name: &str| std::fs::write(from.path().join(name), "of a node").unwrap();
        let segments = [(0, 7), (0, 8), (0, 9), (1, 3), (1, 4)];
        segments.iter().for_each(|&(core, seq)| write(&file_name(core, seq)));
        write("0-0000000000.ckpt");
        let mut copier = Copier::new(to.path().join("copy")).unwrap();
        let copied = copy_segments(&mut copier, from.path(), "run", BTreeSet::from(segments)).unwrap();
        assert_eq!(copied, [(1, 4), (1, 3), (0, 9), (0, 8), (0, 7)], "the newest of a core first");
        for (core, seq) in [(0, 7), (0, 8), (0, 9), (1, 3)] {
            std::fs::remove_file(from.path().join(file_name(core, seq))).unwrap();
        }
        copy_state(&mut copier, from.path(), "run", copied.into_iter().collect()).unwrap();
        let names: Vec<_> = copier.finish().unwrap().into_iter().map(|entry| entry.path).collect();
        assert_eq!(names, ["run/0-0000000000.ckpt", "run/0-0000000009.seg", "run/1-0000000004.seg"]);
    }
}
