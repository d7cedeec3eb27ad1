//! How far the clicks of a stretch (see [`super::Stretch`]) are finished.
//!
//! ```text
//! <core>-<first seq>.ckpt: two slots of 4,096 bytes, written in turn
//! magic "TRLCKPT2" | generation u64 | position u64 | length of the note u32 | note | crc32 over all before it
//! ```
//! The newer valid slot counts; a torn write leaves the other one. The note is the pipeline's: sums that belong to this
//! position and to no other, so they are written with it or not at all.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::segment::{Disk, DiskFile, Open, Position, read_again};

const MAGIC: &[u8; 8] = b"TRLCKPT2";
const SLOT_BYTES: usize = 4096;
const NOTE_AT: usize = 28;

/// The longest note.
pub const NOTE_BYTES_MAX: usize = SLOT_BYTES - NOTE_AT - 4;

/// The low-water mark of one stretch: everything before it is finished.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    generation: u64,
    position: Position,
    note: Vec<u8>,
    /// The disk has what is here.
    is_written: bool,
}

impl Checkpoint {
    /// The file of the checkpoint of the stretch that begins with this segment.
    #[must_use]
    pub fn path(folder: &Path, core: u32, first_seq: u32) -> PathBuf {
        folder.join(format!("{core}-{first_seq:010}.ckpt"))
    }

    /// Core and first segment of a checkpoint's file name; `None` for any other name.
    #[must_use]
    pub fn parse_file_name(name: &str) -> Option<(u32, u32)> {
        let (core, seq) = name.strip_suffix(".ckpt")?.split_once('-')?;
        Some((core.parse().ok()?, seq.parse().ok()?))
    }

    /// Opens or makes it; without a valid slot nothing is finished, and it stands at the start of the stretch.
    ///
    /// # Errors
    /// The system's.
    pub fn open(disk: &dyn Disk, folder: &Path, core: u32, first_seq: u32) -> io::Result<Self> {
        let path = Self::path(folder, core, first_seq);
        let file = disk.open(&path, Open::Any)?;
        if file.length()? == 0 {
            // Now, and not when the disk is full: without a checkpoint no segment is removed, and it stays full.
            file.allocate(2 * SLOT_BYTES as u64)?;
            // Just made: without its name on the disk, its syncs would be worth nothing.
            disk.sync_dir(folder)?;
        }
        let newest = [0, 1].into_iter().filter_map(|slot| read_slot(&*file, slot)).max_by_key(|slot| slot.0);
        let (generation, position, note) = newest.unwrap_or((0, Position::start_of(first_seq), Vec::new()));
        Ok(Self { path, file, generation, position, note, is_written: true })
    }

    /// Everything before it is finished.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// What was written with the position.
    #[must_use]
    pub fn note(&self) -> &[u8] {
        &self.note
    }

    /// Whether the disk has it: not, when the last write failed.
    #[must_use]
    pub const fn is_written(&self) -> bool {
        self.is_written
    }

    /// Moves it forwards and forces it to the disk, as it must be before a segment below it is removed. A note beyond
    /// [`NOTE_BYTES_MAX`] is a mistake of the caller's and refused.
    ///
    /// # Errors
    /// The system's; the mark in memory has moved all the same, and the next write carries it.
    pub fn advance(&mut self, position: Position, note: &[u8]) -> io::Result<()> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the note of a checkpoint is too long"));
        }
        (self.position, self.is_written) = (position, false);
        self.note.clear();
        self.note.extend_from_slice(note);
        self.generation += 1;
        let mut slot = Vec::with_capacity(SLOT_BYTES);
        slot.extend_from_slice(MAGIC);
        slot.extend_from_slice(&self.generation.to_le_bytes());
        slot.extend_from_slice(&position.to_u64().to_le_bytes());
        slot.extend_from_slice(&u32::try_from(note.len()).unwrap_or(u32::MAX).to_le_bytes());
        slot.extend_from_slice(note);
        let crc = crc32fast::hash(&slot);
        slot.extend_from_slice(&crc.to_le_bytes());
        let at = (self.generation % 2) * SLOT_BYTES as u64;
        self.file.write_all_at(&slot, at).map_err(|(_, error)| error)?;
        self.file.sync()?;
        self.is_written = true;
        Ok(())
    }

    /// Removes the file: when every segment of its stretch is gone, not before.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(&self, disk: &dyn Disk) -> io::Result<()> {
        disk.unlink(&self.path)
    }
}

fn read_slot(file: &dyn DiskFile, slot: u64) -> Option<(u64, Position, Vec<u8>)> {
    let start = slot * SLOT_BYTES as u64;
    let mut fixed = [0; NOTE_AT];
    read_again(|| file.read_exact_at(&mut fixed, start)).ok()?;
    let number = |at: usize| Some(u64::from_le_bytes(fixed.get(at..at + 8)?.try_into().ok()?));
    let length = u32::from_le_bytes(fixed[24..].try_into().ok()?) as usize;
    if !fixed.starts_with(MAGIC) || length > NOTE_BYTES_MAX {
        return None;
    }
    let mut rest = vec![0; length + 4];
    read_again(|| file.read_exact_at(&mut rest, start + NOTE_AT as u64)).ok()?;
    let (note, crc) = rest.split_last_chunk::<4>()?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&fixed);
    hasher.update(note);
    (hasher.finalize() == u32::from_le_bytes(*crc))
        .then(|| Some((number(8)?, Position::from_u64(number(16)?), note.to_vec())))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::RealDisk;

    #[test]
    fn the_newer_valid_slot_counts_with_its_note() {
        let folder = tempfile::tempdir().unwrap();
        let at = |offset| Position { seq: 1, offset };
        let open = || Checkpoint::open(&RealDisk, folder.path(), 0, 1).unwrap();
        let mut checkpoint = open();
        assert_eq!((checkpoint.position(), checkpoint.note()), (at(256), &b""[..]));
        for offset in [300, 400, 500] {
            let note = vec![7; offset as usize];
            checkpoint.advance(at(offset), &note).unwrap();
            assert_eq!((open().position(), open().note()), (at(offset), &note[..]));
        }
        // The third write went to slot 1; damage there, at any byte, leaves the second.
        let path = Checkpoint::path(folder.path(), 0, 1);
        let whole = std::fs::read(&path).unwrap();
        for byte in SLOT_BYTES..SLOT_BYTES + NOTE_AT + 500 + 4 {
            let mut bytes = whole.clone();
            bytes[byte] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!((open().position(), open().note().len()), (at(400), 400), "byte {byte}");
        }
        std::fs::write(&path, b"nonsense").unwrap();
        assert_eq!(open().position(), at(256));
    }

    #[test]
    fn a_note_has_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoint = Checkpoint::open(&RealDisk, folder.path(), 0, 0).unwrap();
        checkpoint.advance(Position::start_of(1), &[1; NOTE_BYTES_MAX]).unwrap();
        assert!(checkpoint.advance(Position::start_of(2), &[1; NOTE_BYTES_MAX + 1]).is_err());
        let read = Checkpoint::open(&RealDisk, folder.path(), 0, 0).unwrap();
        assert_eq!((read.position(), read.note().len()), (Position::start_of(1), NOTE_BYTES_MAX));
    }

    #[test]
    fn a_file_name_tells_its_stretch() {
        let path = Checkpoint::path(Path::new("/run"), 3, 17);
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(Checkpoint::parse_file_name(name), Some((3, 17)));
        assert_eq!(Checkpoint::parse_file_name("3-17.seg"), None);
    }
}
