//! Writing a segment anew, after a sync of its file failed: nobody knows what of it is on the disk, and syncing the same
//! file again would only hide that.
//!
//! What can be read goes to a new file, at the same offsets; that file is forced, and takes the name over. Until then the
//! old one stays, so that a power cut at any moment loses nothing that was forced before. Called by a thread that may
//! block, for a segment that nobody writes any more.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut as _, BytesMut};

use super::disk::{Disk, DiskFile, Open, read_again};
use super::format::{Header, Kind, Position, append_record};
use super::reader::{Next, Reader};
use super::writer::file_name;

/// Records are written in pieces of about this size.
const PIECE_BYTES: usize = 256 << 10;

/// No segment's name: a copy that was not finished is read by nobody.
fn copy_name(core: u32, seq: u32) -> String {
    format!("{}.copy", file_name(core, seq))
}

fn paths(folder: &Path, core: u32, seq: u32) -> (PathBuf, PathBuf) {
    (folder.join(file_name(core, seq)), folder.join(copy_name(core, seq)))
}

/// Copies what can be read of a segment up to `end`, seals the copy where the segment was left for the next one, and forces
/// it. Returns the places whose records could not be read.
///
/// # Errors
/// The system's; the copy is removed then.
pub fn rewrite(disk: &dyn Disk, folder: &Path, header: &Header, end: u32, sealed: bool) -> io::Result<Vec<Range<u32>>> {
    let (path, copy) = paths(folder, header.core, header.seq);
    let reader = Reader::open(disk, &path, header.core, Position::start_of(header.seq))?;
    // Of an earlier try.
    let _ = disk.unlink(&copy);
    let made = write_copy(disk, &copy, reader, header, end, sealed);
    if made.is_err() {
        let _ = disk.unlink(&copy);
    }
    made
}

/// Gives the copy the segment's name, for good; false when the segment is not needed any more and was removed meanwhile.
/// Nobody may remove the segment during the call.
///
/// # Errors
/// The system's.
pub fn replace(disk: &dyn Disk, folder: &Path, core: u32, seq: u32) -> io::Result<bool> {
    let (path, copy) = paths(folder, core, seq);
    match disk.open(&path, Open::Read) {
        Ok(_) => {
            disk.rename(&copy, &path)?;
            disk.sync_dir(folder)?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk.unlink(&copy).map(|()| false),
        Err(error) => Err(error),
    }
}

fn write_copy(
    disk: &dyn Disk,
    copy: &Path,
    mut reader: Reader,
    header: &Header,
    end: u32,
    sealed: bool,
) -> io::Result<Vec<Range<u32>>> {
    let mut copy = Copy { file: disk.open(copy, Open::New)?, seq: header.seq, start: 0, piece: BytesMut::new() };
    copy.piece.put_slice(&header.encode());
    let mut lost = Vec::new();
    // A failing disk is asked again here by `skip_unreadable`.
    if let Ok(Some(before)) = reader.end_before() {
        copy.append(Kind::EndBefore, &before.to_le_bytes())?;
    }
    while copy.end() < end {
        match read_again(|| reader.read()) {
            Ok(Next::Click(frame, at)) if at.offset <= end => copy.append(Kind::Click, &frame)?,
            Ok(Next::Invalid { .. }) | Err(_) => {
                let from = copy.end();
                let found = reader.skip_unreadable().map(|_| reader.position().offset);
                let to = found.unwrap_or(end).min(end);
                lost.push(from..to);
                copy.pass_to(to)?;
            }
            // What ends here, or goes on beyond the end, is not what was written.
            Ok(Next::Click(..) | Next::Sealed) => {
                lost.push(copy.end()..end);
                copy.pass_to(end)?;
            }
        }
    }
    if sealed {
        copy.append(Kind::Seal, &[])?;
    }
    copy.write()?;
    copy.file.sync()?;
    Ok(lost)
}

/// A file that is filled from its start, piece by piece.
struct Copy {
    file: Arc<dyn DiskFile>,
    seq: u32,
    /// Where the piece will stand.
    start: u32,
    piece: BytesMut,
}

impl Copy {
    fn end(&self) -> u32 {
        self.start + u32::try_from(self.piece.len()).unwrap_or(u32::MAX)
    }

    fn append(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let start = Position { seq: self.seq, offset: self.start };
        append_record(&mut self.piece, start, kind, |out| out.put_slice(payload));
        if self.piece.len() < PIECE_BYTES { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.piece, u64::from(self.start)).map_err(|(_, error)| error)?;
        self.start = self.end();
        self.piece.clear();
        Ok(())
    }

    /// Leaves zeros up to here.
    fn pass_to(&mut self, offset: u32) -> io::Result<()> {
        self.write()?;
        self.start = offset;
        Ok(())
    }
}
