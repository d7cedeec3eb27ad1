//! Intents: a batch is frozen on disk before it is sent, so that a restart sends the same batch, under the same token and
//! with the same labels and observations, and no second one with other borders.
//!
//! ```text
//! <run>/<core>-<start>.intent
//! magic "TRLINTN1" | batch id 16 | start u64 | end u64 | facts u64 | rows u32 | a byte for each row | crc32
//! byte: what was observed of the click, `Reasons::worker_bits`, 4 bits | what was left out of it, `Reasons::omission_bits`, 2 bits |
//! its label 2 bits
//! ```
//! Where nothing was observed, as before there was anything that could be, the byte is the label. `start` and `end` are positions of the journal; `facts` names the data that country, agent and class were derived
//! from. An intent stays until the checkpoint has passed its end, also when its batch was stored long before: so what
//! lies between the checkpoint and the last intent is frozen without a gap. Bound: `batch.rows_max` bytes each, and as
//! many as batches lie above the checkpoint.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::Label;
use crate::click::Reasons;
use crate::segment::{Disk, Open, Position, read_again};

const MAGIC: &[u8; 8] = b"TRLINTN1";
const FIXED_BYTES: usize = 8 + 16 + 8 + 8 + 8 + 4;

/// A frozen batch, without its rows: those are in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The batch's id: its token.
    pub batch: Uuid,
    /// Where its range begins: the end of the batch before it.
    pub start: Position,
    /// Where its range ends.
    pub end: Position,
    /// Data that its facts were derived from.
    pub facts: u64,
    /// Of each row the label, and the reasons that do not follow from its frame; in the order of the journal.
    pub labels: Vec<(Label, Reasons)>,
}

impl Intent {
    fn path(&self, folder: &Path, core: u32) -> PathBuf {
        folder.join(format!("{core}-{:016x}.intent", self.start.to_u64()))
    }

    /// Writes it and forces it to the disk. Blocks.
    ///
    /// # Errors
    /// The system's; nothing counts then, a part of the file is no intent.
    pub fn write(&self, disk: &dyn Disk, folder: &Path, core: u32) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + self.labels.len() + 4);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(self.batch.as_bytes());
        for number in [self.start.to_u64(), self.end.to_u64(), self.facts] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&u32::try_from(self.labels.len()).unwrap_or(u32::MAX).to_le_bytes());
        let row = |(label, frozen): &(Label, Reasons)| {
            (frozen.worker_bits() << 4) | (frozen.omission_bits() << 2) | label.index() as u8
        };
        bytes.extend(self.labels.iter().map(row));
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        let path = self.path(folder, core);
        let file = disk.open(&path, Open::Any)?;
        // A longer one may have been there: the same range, frozen by a try that was not sent.
        file.truncate(0)?;
        file.write_all_at(&bytes, 0).map_err(|(_, error)| error)?;
        file.sync()?;
        disk.sync_dir(folder)
    }

    /// Removes it; that it is gone already is no error.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(&self, disk: &dyn Disk, folder: &Path, core: u32) -> io::Result<()> {
        match disk.unlink(&self.path(folder, core)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Every intent of a core within a stretch and above its checkpoint, in order; those below it are removed. What is no
    /// valid intent was being written when the process ended: its batch was not sent, and it is removed too; so is one that
    /// the disk does not give, as nothing may keep clicks from being taken up.
    ///
    /// # Errors
    /// The system's.
    pub fn load(
        disk: &dyn Disk,
        folder: &Path,
        core: u32,
        stretch: Range<Position>,
        checkpoint: Position,
    ) -> io::Result<Vec<Self>> {
        let mut intents = Vec::new();
        for entry in disk.list(folder)? {
            let name = entry.name.to_str().unwrap_or_default();
            let is_ours = name.ends_with(".intent") && name.split_once('-').is_some_and(|(c, _)| c == core.to_string());
            if !is_ours {
                continue;
            }
            let path = folder.join(&entry.name);
            let bytes = read_whole(disk, &path).unwrap_or_else(|error| {
                tracing::error!(%error, path = %path.display(), "an intent cannot be read; its clicks go in another batch");
                Vec::new()
            });
            match Self::decode(&bytes) {
                Some(intent) if !stretch.contains(&intent.start) => {}
                Some(intent) if intent.end > checkpoint => intents.push(intent),
                _ => disk.unlink(&path)?,
            }
        }
        intents.sort_by_key(|intent| intent.start);
        Ok(intents)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) || !body.starts_with(MAGIC) {
            return None;
        }
        let number = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
        let rows = u32::from_le_bytes(body.get(FIXED_BYTES - 4..FIXED_BYTES)?.try_into().ok()?) as usize;
        let labels = body.get(FIXED_BYTES..)?;
        let row = |byte: &u8| {
            let frozen = Reasons::from_worker_bits(byte >> 4).and(Reasons::from_omission_bits((byte >> 2) & 3));
            Some((*Label::ALL.get(usize::from(byte & 3))?, frozen))
        };
        let labels: Option<Vec<_>> = labels.iter().map(row).collect();
        Some(Self {
            batch: Uuid::from_bytes(body.get(8..24)?.try_into().ok()?),
            start: Position::from_u64(number(24)?),
            end: Position::from_u64(number(32)?),
            facts: number(40)?,
            labels: labels.filter(|labels| labels.len() == rows)?,
        })
    }
}

/// A whole file.
pub(super) fn read_whole(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Open::Read)?;
    let mut bytes = vec![0; usize::try_from(file.length()?).unwrap_or(usize::MAX)];
    read_again(|| file.read_exact_at(&mut bytes, 0))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::RealDisk;

    fn intent(start: u32, end: u32) -> Intent {
        Intent {
            batch: Uuid::from_u128(u128::from(start)),
            start: Position { seq: 0, offset: start },
            end: Position { seq: 0, offset: end },
            facts: 7,
            labels: vec![
                (Label::Unique, Reasons::default()),
                (Label::Duplicate, Reasons::FROZEN),
                (Label::Unknown, Reasons::VELOCITY_LINK.and(Reasons::SHADOW_OMITTED)),
            ],
        }
    }

    #[test]
    fn intents_above_the_checkpoint_are_read_in_order_and_the_rest_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second, third) = (intent(256, 300), intent(300, 400), intent(400, 500));
        for intent in [&third, &first, &second] {
            intent.write(&RealDisk, folder.path(), 1).unwrap();
        }
        intent(256, 999).write(&RealDisk, folder.path(), 11).unwrap();
        std::fs::write(folder.path().join("1-0000000000000500.intent"), b"half of o").unwrap();
        let found =
            Intent::load(&RealDisk, folder.path(), 1, Position::start_of(0)..Position::start_of(1), first.end).unwrap();
        assert_eq!(found, [second.clone(), third]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "two of core 1, one of core 11");
        second.remove(&RealDisk, folder.path(), 1).unwrap();
        second.remove(&RealDisk, folder.path(), 1).unwrap();
    }

    #[test]
    fn an_intent_of_before_anything_was_observed_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut plain = intent(256, 300);
        plain.labels = Label::ALL.map(|label| (label, Reasons::default())).to_vec();
        plain.write(&RealDisk, folder.path(), 0).unwrap();
        let bytes = std::fs::read(plain.path(folder.path(), 0)).unwrap();
        assert_eq!(bytes[FIXED_BYTES..FIXED_BYTES + 3], [0, 1, 2], "as it always was");
        assert_eq!(Intent::decode(&bytes), Some(plain));
    }

    #[test]
    fn an_intent_that_is_cut_or_flipped_anywhere_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let whole = intent(256, 300);
        whole.write(&RealDisk, folder.path(), 0).unwrap();
        let bytes = std::fs::read(whole.path(folder.path(), 0)).unwrap();
        assert_eq!(Intent::decode(&bytes), Some(whole));
        assert!((0..bytes.len()).all(|end| Intent::decode(&bytes[..end]).is_none()));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Intent::decode(&bad), None, "bit {bit}");
        }
    }
}
