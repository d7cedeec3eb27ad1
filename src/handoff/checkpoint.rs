//! How far a core's clicks are finished.
//!
//! ```text
//! <core>.ckpt: two slots of 32 bytes, written in turn
//! magic "TRLCKPT1" | generation u64 | position u64 | zeros u32 | crc32 u32
//! ```
//! The newer valid slot counts; a torn write leaves the other one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::segment::{Disk, DiskFile, Open, Position};

const MAGIC: &[u8; 8] = b"TRLCKPT1";
const SLOT_BYTES: usize = 32;

/// The low-water mark of one core's journal: everything before it is in the store.
#[derive(Debug)]
pub struct Checkpoint {
    file: Arc<dyn DiskFile>,
    generation: u64,
    position: Position,
}

impl Checkpoint {
    /// The file of a core's checkpoint.
    #[must_use]
    pub fn path(folder: &Path, core: u32) -> PathBuf {
        folder.join(format!("{core}.ckpt"))
    }

    /// Opens or makes it; without a valid slot nothing is finished, and it stands at `first`.
    ///
    /// # Errors
    /// The system's.
    pub fn open(disk: &dyn Disk, folder: &Path, core: u32, first: Position) -> io::Result<Self> {
        let file = disk.open(&Self::path(folder, core), Open::Any)?;
        if file.length()? == 0 {
            // Just made: without its name on the disk, its syncs would be worth nothing.
            disk.sync_dir(folder)?;
        }
        let newest =
            [0, 1].into_iter().filter_map(|slot| read_slot(&*file, slot)).max_by_key(|(generation, _)| *generation);
        let (generation, position) = newest.unwrap_or((0, first));
        Ok(Self { file, generation, position })
    }

    /// Everything before it is finished.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// Moves it forwards. `durable` forces it to the disk, as it must be before a segment below it is removed.
    ///
    /// # Errors
    /// The system's; the mark in memory has moved all the same, and the next write carries it.
    pub fn advance(&mut self, position: Position, durable: bool) -> io::Result<()> {
        self.position = position;
        self.generation += 1;
        let mut slot = [0; SLOT_BYTES];
        slot[..8].copy_from_slice(MAGIC);
        slot[8..16].copy_from_slice(&self.generation.to_le_bytes());
        slot[16..24].copy_from_slice(&position.to_u64().to_le_bytes());
        let crc = crc32fast::hash(&slot[..28]);
        slot[28..].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(&slot, (self.generation % 2) * SLOT_BYTES as u64).map_err(|(_, error)| error)?;
        if durable { self.file.sync() } else { Ok(()) }
    }
}

fn read_slot(file: &dyn DiskFile, slot: u64) -> Option<(u64, Position)> {
    let mut bytes = [0; SLOT_BYTES];
    file.read_exact_at(&mut bytes, slot * SLOT_BYTES as u64).ok()?;
    let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let crc = u32::from_le_bytes(bytes[28..].try_into().ok()?);
    (bytes.starts_with(MAGIC) && crc32fast::hash(&bytes[..28]) == crc)
        .then(|| Some((number(8)?, Position::from_u64(number(16)?))))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::RealDisk;

    #[test]
    fn the_newer_valid_slot_counts() {
        let folder = tempfile::tempdir().unwrap();
        let at = |offset| Position { seq: 1, offset };
        let open = || Checkpoint::open(&RealDisk, folder.path(), 0, at(256)).unwrap();
        let mut checkpoint = open();
        assert_eq!(checkpoint.position(), at(256));
        for offset in [300, 400, 500] {
            checkpoint.advance(at(offset), true).unwrap();
            assert_eq!(open().position(), at(offset));
        }
        // The third write went to slot 1; damage there leaves the second.
        let path = Checkpoint::path(folder.path(), 0);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[SLOT_BYTES + 20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(open().position(), at(400));
        std::fs::write(&path, b"nonsense").unwrap();
        assert_eq!(open().position(), at(256));
    }
}
