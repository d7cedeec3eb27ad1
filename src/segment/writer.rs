//! Writing segments: making the file (not on a request thread) and appending groups to it (on one).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;

use super::format::{Header, Kind, Position, SEGMENT_HEADER_BYTES, append_record};

/// Space allocated beyond `segment_bytes`: the group that crosses the mark still fits.
const SLACK_BYTES: u64 = 1 << 20;

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
pub fn create(folder: &Path, header: &Header, segment_bytes: u32) -> io::Result<Writer> {
    let path = folder.join(file_name(header.core, header.seq));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    let made = allocate(&file, u64::from(segment_bytes) + SLACK_BYTES)
        .and_then(|()| file.write_all_at(&header.encode(), 0))
        .and_then(|()| file.sync_all())
        .and_then(|()| File::open(folder)?.sync_all());
    match made {
        Ok(()) => Ok(Writer { file: Arc::new(file), path, end: Position::start_of(header.seq) }),
        Err(error) => {
            let _ = std::fs::remove_file(&path);
            Err(error)
        }
    }
}

fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        // A file system without it works too; then the disk may turn out full at an append.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        other => other.map_err(io::Error::from),
    }
}

/// A segment that is being written.
#[derive(Debug)]
pub struct Writer {
    file: Arc<File>,
    path: PathBuf,
    end: Position,
}

/// What became of a group.
#[derive(Debug)]
pub struct Appended {
    /// Bytes of the group that were written.
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
    pub const fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a group at the end. The end does not move: [`Writer::advance`] does that, over whole records.
    pub fn write(&self, group: &[u8]) -> Appended {
        let mut bytes = 0;
        while bytes < group.len() {
            match self.file.write_at(&group[bytes..], u64::from(self.end.offset) + bytes as u64) {
                Ok(0) => return Appended { bytes, error: Some(io::ErrorKind::WriteZero.into()) },
                Ok(n) => bytes += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Appended { bytes, error: Some(error) },
            }
        }
        Appended { bytes, error: None }
    }

    /// Moves the end over what was written whole.
    pub fn advance(&mut self, end: Position) {
        debug_assert!(end >= self.end && end.seq == self.end.seq, "the end of a segment moves forwards");
        self.end = end;
    }

    /// Writes the seal: readers go on with the next segment.
    pub fn seal(&mut self) -> Appended {
        let mut group = BytesMut::with_capacity(16);
        append_record(&mut group, self.end, Kind::Seal, |_| {});
        self.write(&group)
    }

    /// Bytes of records in it.
    #[must_use]
    pub const fn bytes(&self) -> u32 {
        self.end.offset - SEGMENT_HEADER_BYTES
    }
}
