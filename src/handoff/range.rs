//! Reading a known range of a journal again: a frozen batch after a restart, or its missing rows.

use std::io;
use std::ops::Range;
use std::path::Path;

use super::Item;
use crate::segment::{Disk, Next, Position, Reader, file_name, noted_end, read_again};

/// The clicks of a range that begins and ends between records, in order; damage in it is passed over, as the live cursor
/// did that found it, so that a batch that was frozen across it is the same again. Whoever knows how many there should be
/// counts them. Blocks for as long as the disk takes.
///
/// # Errors
/// The system's.
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
            match read_again(|| reader.read()).unwrap_or(Next::Invalid { dirty: true }) {
                Next::Click(frame, end) => {
                    next = end;
                    items.push(Item { frame, end });
                }
                Next::Invalid { .. } => {
                    let found = read_again(|| reader.skip()).unwrap_or_else(|_| reader.skip_unreadable());
                    if found.is_none() || reader.position() > range.end {
                        break;
                    }
                    next = reader.position();
                }
                Next::Sealed => break,
            }
        }
        if next.seq == range.end.seq {
            break;
        }
        next = Position::start_of(next.seq + 1);
    }
    Ok(items)
}
