//! Writing segments: making the file (not on a request thread) and appending groups to it (on one).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut as _, BytesMut};

use super::disk::{Disk, DiskFile, Open};
use super::format::{Header, Kind, Position, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, append_record};
use crate::config::allocated_bytes;

/// `<core>-<seq>.seg`
#[must_use]
pub fn file_name(core: u32, seq: u32) -> String {
    format!("{core}-{seq:010}.seg")
}

/// Core and sequence number of a segment's file name; `None` for any other name.
#[must_use]
pub fn parse_file_name(name: &str) -> Option<(u32, u32)> {
    let (core, seq) = name.strip_suffix(".seg")?.split_once('-')?;
    Some((core.parse().ok()?, seq.parse().ok()?))
}

/// Makes a segment: allocates its space, writes its header, and forces both and the folder to the disk. Blocks.
///
/// # Errors
/// The system's, no space above all; the file is removed then.
pub fn create(disk: &dyn Disk, folder: &Path, header: &Header, segment_bytes: u32) -> io::Result<Writer> {
    let path = folder.join(file_name(header.core, header.seq));
    let file = disk.open(&path, Open::New)?;
    let made = file
        .allocate(allocated_bytes(segment_bytes))
        .and_then(|()| file.write_all_at(&header.encode(), 0).map_err(|(_, error)| error))
        .and_then(|()| file.sync())
        .and_then(|()| disk.sync_dir(folder));
    match made {
        Ok(()) => Ok(Writer { file, path, end: Position::start_of(header.seq) }),
        Err(error) => {
            let _ = disk.unlink(&path);
            Err(error)
        }
    }
}

/// A segment that is being written.
#[derive(Debug)]
pub struct Writer {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    end: Position,
}

/// What became of a group.
#[derive(Debug)]
pub struct Appended {
    /// Bytes of the group that were written; of its whole records, where the end moved over them.
    pub bytes: usize,
    /// Why it was not all of them.
    pub error: Option<io::Error>,
}

impl Writer {
    /// Where the next group stands.
    #[must_use]
    pub const fn end(&self) -> Position {
        self.end
    }

    /// The file, to be forced to the disk by another thread.
    #[must_use]
    pub const fn file(&self) -> &Arc<dyn DiskFile> {
        &self.file
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a group at the end and moves the end over the records that were written whole. The next group overwrites
    /// the rest.
    pub fn append(&mut self, group: &[u8]) -> Appended {
        let mut appended = self.write(group);
        if appended.error.is_some() {
            appended.bytes = whole_records(&group[..appended.bytes]);
        }
        self.end.offset += u32::try_from(appended.bytes).unwrap_or(u32::MAX);
        appended
    }

    /// Writes a group at the end, which stays where it is.
    pub fn write(&self, group: &[u8]) -> Appended {
        match self.file.write_all_at(group, u64::from(self.end.offset)) {
            Ok(()) => Appended { bytes: group.len(), error: None },
            Err((bytes, error)) => Appended { bytes, error: Some(error) },
        }
    }

    /// Moves the end over a group whether it was written or not: the canary of the tests.
    #[cfg(test)]
    pub(super) fn append_blindly(&mut self, group: &[u8]) -> usize {
        self.write(group);
        self.end.offset += u32::try_from(group.len()).unwrap_or(u32::MAX);
        group.len()
    }

    /// Writes the seal: readers go on with the next segment.
    pub fn seal(&mut self) -> Appended {
        let mut group = BytesMut::with_capacity(16);
        append_record(&mut group, self.end, Kind::Seal, |_| {});
        self.write(&group)
    }

    /// Notes, at the start of a segment, where the one before ended, which could not be sealed.
    pub fn note_end_before(&mut self, offset: u32) -> Appended {
        let mut group = BytesMut::with_capacity(16);
        append_record(&mut group, self.end, Kind::EndBefore, |out| out.put_u32_le(offset));
        self.append(&group)
    }

    /// Bytes of records in it.
    #[must_use]
    pub const fn bytes(&self) -> u32 {
        self.end.offset - SEGMENT_HEADER_BYTES
    }
}

/// Bytes of the records that lie whole in a group that was written in part.
fn whole_records(written: &[u8]) -> usize {
    let mut at = 0;
    while let Some(length) = written.get(at..at + 4).and_then(|l| l.try_into().ok()).map(u32::from_le_bytes) {
        let end = at + RECORD_HEADER_BYTES + length as usize;
        if end > written.len() {
            break;
        }
        at = end;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_written_in_part_keeps_its_whole_records() {
        let start = Position { seq: 0, offset: 256 };
        let mut group = BytesMut::new();
        let ends: Vec<_> = (0..3_u8)
            .map(|n| {
                append_record(&mut group, start, Kind::Click, |out| out.put_bytes(n, 10));
                group.len()
            })
            .collect();
        for cut in 0..=group.len() {
            let whole = ends.iter().filter(|end| **end <= cut).count();
            let bytes = if whole == 0 { 0 } else { ends[whole - 1] };
            assert_eq!(whole_records(&group[..cut]), bytes, "cut at {cut}");
        }
    }
}
