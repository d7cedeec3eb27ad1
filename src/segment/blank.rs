//! Blanking clicks in a segment, in place: their frames become zeros, and nothing moves.
//!
//! Only for clicks that nobody will want again: below the checkpoint, or in a file that is kept for inspection. A record
//! stays a valid record of its length, so whoever reads the segment passes over it, and one who takes it for a click sees
//! that it is none. Called by the operator side, never on a request thread. Bound: one segment, in chunks of 256 KiB.

use std::io;
use std::path::Path;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::disk::{Disk, Open, read_again};
use super::format::{Kind, Position, RECORD_HEADER_BYTES, append_record};
use super::reader::{Next, Reader};

/// A click to be blanked: where its record stands, and how long its frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    start: Position,
    length: usize,
}

/// Finds clicks of a segment whose records end at this offset or before. What cannot be read is passed over.
///
/// # Errors
/// The system's.
pub fn find(
    disk: &dyn Disk,
    path: &Path,
    (core, seq): (u32, u32),
    to: u32,
    is_meant: &dyn Fn(&Bytes) -> bool,
) -> io::Result<Vec<Found>> {
    let mut reader = Reader::open(disk, path, core, Position::start_of(seq))?;
    reader.bound(to);
    let mut found = Vec::new();
    loop {
        match read_again(|| reader.read())? {
            Next::Click(frame, end) if end.offset > to => drop(frame),
            Next::Click(frame, end) => {
                if is_meant(&frame) {
                    let before = u32::try_from(RECORD_HEADER_BYTES + frame.len()).unwrap_or(end.offset);
                    let start = Position { seq, offset: end.offset.saturating_sub(before) };
                    found.push(Found { start, length: frame.len() });
                }
            }
            Next::Sealed => return Ok(found),
            Next::Invalid { .. } => {
                if read_again(|| reader.skip())?.is_none() {
                    return Ok(found);
                }
            }
        }
    }
}

/// Blanks what was found, and forces it to the disk.
///
/// # Errors
/// The system's; some of them may be blank.
pub fn blank(disk: &dyn Disk, path: &Path, found: &[Found]) -> io::Result<()> {
    let file = disk.open(path, Open::Any)?;
    for click in found {
        let mut record = BytesMut::with_capacity(RECORD_HEADER_BYTES + click.length);
        append_record(&mut record, click.start, Kind::Click, |out| out.put_bytes(0, click.length));
        file.write_all_at(&record, u64::from(click.start.offset)).map_err(|(_, error)| error)?;
    }
    file.sync()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::{Header, RealDisk, create};

    #[test]
    fn what_is_meant_becomes_zeros_and_all_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let header = Header { core: 2, seq: 7, created_ms: 0, node: "n".into() };
        let mut writer = create(&RealDisk, folder.path(), &header, 1 << 20).unwrap();
        let (start, mut group) = (writer.end(), BytesMut::new());
        let frames = ["keep one", "secret 1", "keep two", "secret 2", "secret 3"];
        let ends =
            frames.map(|frame| append_record(&mut group, start, Kind::Click, |out| out.put_slice(frame.as_bytes())));
        assert!(writer.append(&group).error.is_none());
        let path = writer.path().to_owned();
        let read = || {
            let mut reader = Reader::open(&RealDisk, &path, 2, start).unwrap();
            std::iter::from_fn(|| match reader.read().unwrap() {
                Next::Click(frame, _) => Some(String::from_utf8(frame.to_vec()).unwrap()),
                _ => None,
            })
            .collect::<Vec<_>>()
        };
        assert_eq!(read(), frames);
        let is_meant = |frame: &Bytes| frame.starts_with(b"secret");
        // The last one is not finished yet.
        let look = || find(&RealDisk, &path, (2, 7), ends[3].offset, &is_meant).unwrap();
        let found = look();
        assert_eq!(found.len(), 2);
        blank(&RealDisk, &path, &found).unwrap();
        let zeros = "\0".repeat(8);
        assert_eq!(read(), ["keep one", &zeros, "keep two", &zeros, "secret 3"]);
        assert_eq!(look(), []);
        let raw = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        assert!(!raw.contains("secret 1") && raw.contains("secret 3"));
    }
}
