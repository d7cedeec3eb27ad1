//! Bits that flip on the disk, and sectors that it loses.

use std::path::{Path, PathBuf};

use trellis::click::{ClickId, frame};
use trellis::segment::{Disk, Next, Position, Reader, SEGMENT_HEADER_BYTES, parse_file_name};

use crate::plan::{DATA, journal};
use crate::trace::say;
use crate::world::World;

/// Flips a bit of some file, or while the node is down loses a sector of it, and notes which clicks it may cost.
pub(crate) fn strike(world: &mut World, is_down: bool) {
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in folders(world) {
        let entries = world.disk.list(&folder).unwrap_or_default();
        files.extend(entries.into_iter().filter(|entry| !entry.is_folder).map(|entry| folder.join(entry.name)));
    }
    files.retain(|path| !path.ends_with("lock"));
    let Some(path) = world.random.choice(&files).cloned() else { return };
    // Intents, checkpoints and the shelf: batches may be cut anew.
    world.books.may_refreeze = true;
    let is_shelf = path.starts_with(Path::new(DATA).join("dead-letters"));
    world.books.may_lose_refused |= is_shelf;
    // A replay of all stops at a dead letter that cannot be read: a person's work.
    if is_down && world.random.u32(..4) == 0 && !is_shelf {
        return lose_a_sector(world, &path);
    }
    let bit = match parse_segment(&path) {
        Some((core, seq)) => {
            let records = records(world, &path, core, seq);
            match world.random.choice(&records) {
                Some((id, bytes)) if world.random.u32(..8) > 0 => {
                    world.books.damaged.insert(*id);
                    if records.last().is_some_and(|(last, _)| last == id) {
                        // At the end of what was written it looks like a torn write, which is no damage.
                        world.books.may_be_missing.insert(*id);
                    }
                    world.random.u64(u64::from(bytes.start) * 8..u64::from(bytes.end) * 8)
                }
                _ => world.random.u64(..u64::from(SEGMENT_HEADER_BYTES) * 8),
            }
        }
        None => world.random.u64(..4_000),
    };
    say(|| format!("bit {bit} of {} flips", path.display()));
    // Beyond its end nothing happens.
    let _ = world.disk.flip(&path, bit);
}

/// From now on the disk does not give 4 KiB of this file.
fn lose_a_sector(world: &mut World, path: &Path) {
    let start = u64::from(world.random.u32(..8)) * 4_096;
    let lost = start..start + 4_096;
    if let Some((core, seq)) = parse_segment(path) {
        // A disk that fails now says less than it has.
        for (id, bytes) in records(world, path, core, seq) {
            if u64::from(bytes.start) < lost.end && u64::from(bytes.end) > lost.start {
                world.books.may_be_missing.insert(id);
            }
        }
    }
    say(|| format!("the bytes {lost:?} of {} cannot be read", path.display()));
    let _ = world.disk.set_unreadable(path, lost);
}

fn folders(world: &World) -> Vec<PathBuf> {
    let runs = world.disk.list(&journal()).unwrap_or_default();
    let mut folders: Vec<_> = runs.into_iter().map(|entry| journal().join(entry.name)).collect();
    folders.push(Path::new(DATA).join("dead-letters"));
    folders
}

fn parse_segment(path: &Path) -> Option<(u32, u32)> {
    parse_file_name(path.file_name()?.to_str()?)
}

/// The clicks of a segment and where their records stand.
fn records(world: &World, path: &Path, core: u32, seq: u32) -> Vec<(ClickId, std::ops::Range<u32>)> {
    let mut records = Vec::new();
    let Ok(mut reader) = Reader::open(&world.disk, path, core, Position::start_of(seq)) else { return records };
    let mut start = reader.position().offset;
    loop {
        match reader.read() {
            Ok(Next::Click(bytes, end)) => {
                // A record of ours is its header and its frame.
                let begin = start.max(end.offset - u32::try_from(bytes.len() + 9).unwrap_or(0));
                records.extend(frame::click_id(&bytes).map(|id| (id, begin..end.offset)));
                start = end.offset;
            }
            Ok(Next::Invalid { .. }) if matches!(reader.skip(), Ok(Some(_))) => start = reader.position().offset,
            // Behind a sector that was lost before, too.
            Err(_) if reader.skip_unreadable().is_some() => start = reader.position().offset,
            _ => return records,
        }
    }
}
