//! Reading a known range of a journal again: a frozen batch after a restart, or its missing rows.

use std::io;
use std::ops::Range;
use std::path::Path;

use super::Item;
use crate::segment::{Disk, Next, Position, Reader, file_name, noted_end, read_again};

/// The clicks of a range that begins and ends between records, in order. Blocks for as long as the disk takes.
///
/// # Errors
/// The system's; `InvalidData` when the range cannot be read whole.
pub fn read_range(disk: &dyn Disk, folder: &Path, core: u32, range: Range<Position>) -> io::Result<Vec<Item>> {
    let mut items = Vec::new();
    let mut next = range.start;
    while next < range.end {
        let mut reader = Reader::open(disk, &folder.join(file_name(core, next.seq)), core, next)?;
        if next.seq < range.end.seq {
            reader.end_at(read_again(|| noted_end(disk, folder, core, next.seq))?);
        } else {
            reader.bound(range.end.offset);
        }
        while next < range.end {
            match read_again(|| reader.read())? {
                Next::Click(frame, end) => {
                    next = end;
                    items.push(Item { frame, end });
                }
                // A segment that could not be sealed ends with zeros; the next one goes on all the same.
                Next::Invalid { dirty: false } | Next::Sealed if next.seq < range.end.seq => {
                    next = Position::start_of(next.seq + 1);
                    break;
                }
                Next::Invalid { .. } | Next::Sealed => {
                    let why = format!("no valid record at segment {}, offset {}", next.seq, next.offset);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
            }
        }
    }
    Ok(items)
}
