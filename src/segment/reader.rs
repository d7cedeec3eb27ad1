//! Reading a segment, record by record, in chunks of 256 KiB.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};

use super::disk::{Disk, DiskFile, Open, read_again};
use super::format::{Header, Kind, Parsed, Position, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, parse};
use super::writer::file_name;

const CHUNK_BYTES: usize = 256 << 10;
/// A record's type, behind its length and checksum.
const KIND_AT: usize = RECORD_HEADER_BYTES - 1;
/// A place that cannot be read is passed over in steps of this size, after so many tries.
const BLOCK_BYTES: u32 = 4096;
const TRIES_MAX: u32 = 3;

/// A cursor in one segment.
#[derive(Debug)]
pub struct Reader {
    file: Arc<dyn DiskFile>,
    seq: u32,
    /// The next record.
    offset: u32,
    /// Bytes read ahead; they stand at `offset`.
    ahead: Bytes,
    header_valid: bool,
    /// Nothing is read from here on.
    bound: u32,
    /// The segment has come to its end, and `bound` knows it.
    is_ended: bool,
}

/// What stands at the cursor.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A click's frame and where its record ends.
    Click(Bytes, Position),
    /// The segment ends here in good order; the next one goes on.
    Sealed,
    /// No valid record: the end of what was written, or damage. `true` when anything but zeros follows.
    Invalid {
        /// Something other than zeros stands there.
        dirty: bool,
    },
}

impl Reader {
    /// Opens the segment with this header at this position. A header that is damaged, cannot be read or was never written
    /// hinders nobody: each record says itself where it belongs.
    ///
    /// # Errors
    /// The system's; `InvalidData` when the file is another segment than its name says.
    pub fn open(disk: &dyn Disk, path: &Path, core: u32, at: Position) -> io::Result<Self> {
        let file = disk.open(path, Open::Read)?;
        let mut header = [0; SEGMENT_HEADER_BYTES as usize];
        let is_read = read_again(|| file.read_exact_at(&mut header, 0)).is_ok();
        let found = is_read.then(|| Header::decode(&header)).flatten();
        if found.as_ref().is_some_and(|header| header.core != core || header.seq != at.seq) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "this is another segment"));
        }
        let offset = at.offset.max(SEGMENT_HEADER_BYTES);
        Ok(Self {
            file,
            seq: at.seq,
            offset,
            ahead: Bytes::new(),
            header_valid: found.is_some(),
            bound: u32::MAX,
            is_ended: false,
        })
    }

    /// Whether the segment's header could be read.
    #[must_use]
    pub const fn header_is_valid(&self) -> bool {
        self.header_valid
    }

    /// Where the cursor stands.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position { seq: self.seq, offset: self.offset }
    }

    /// Says how far the segment counts by now. What stands behind may be what a failed write left, valid records among it,
    /// and the writer is yet to overwrite it: without this it could be read ahead, and given out later.
    pub const fn bound(&mut self, offset: u32) {
        self.bound = offset;
    }

    /// Says that nothing more comes, and where the segment ended, if the next one says so: see [`noted_end`].
    pub fn end_at(&mut self, end: Option<u32>) {
        (self.bound, self.is_ended) = (end.unwrap_or(u32::MAX), true);
    }

    /// Whether it was told.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Reads on. A reader that found [`Next::Invalid`] may look again: the writer may have gone on since.
    ///
    /// # Errors
    /// The system's; the cursor stays.
    pub fn read(&mut self) -> io::Result<Next> {
        // What was read ahead may have been zeros then and a record now: it is no record only when read just now.
        let mut fresh = false;
        loop {
            match parse(&self.ahead, self.seq, self.offset) {
                Parsed::Record(Kind::Click, length) => {
                    let record = self.ahead.split_to(RECORD_HEADER_BYTES + length);
                    self.offset += u32::try_from(record.len()).unwrap_or(u32::MAX);
                    return Ok(Next::Click(record.slice(RECORD_HEADER_BYTES..), self.position()));
                }
                Parsed::Record(Kind::Seal, _) => return Ok(Next::Sealed),
                Parsed::Record(Kind::EndBefore, length) => self.pass(RECORD_HEADER_BYTES + length),
                Parsed::Short(need) => {
                    if !self.read_ahead(need)? {
                        return Ok(self.invalid());
                    }
                    fresh = true;
                }
                Parsed::Invalid if fresh => return Ok(self.invalid()),
                Parsed::Invalid => self.ahead = Bytes::new(),
            }
        }
    }

    /// Where the segment before ended, if this one says so: it does when that one could not be sealed. To be asked at the
    /// start.
    ///
    /// # Errors
    /// The system's.
    pub fn end_before(&mut self) -> io::Result<Option<u32>> {
        if self.ahead.is_empty() {
            self.read_ahead(RECORD_HEADER_BYTES)?;
        }
        let noted = match parse(&self.ahead, self.seq, self.offset) {
            Parsed::Record(Kind::EndBefore, length) => {
                self.ahead[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length].try_into().ok()
            }
            _ => None,
        };
        Ok(noted.map(u32::from_le_bytes))
    }

    /// Moves the cursor over damage to the next valid record of this segment, and says how many bytes lie between;
    /// `None`, and the cursor stays, when no record follows. Reads to the end of the segment for that, chunk by chunk.
    ///
    /// # Errors
    /// The system's; the cursor stays.
    pub fn skip(&mut self) -> io::Result<Option<u32>> {
        let from = self.offset;
        let found = self.search(false);
        if !matches!(found, Ok(true)) {
            self.offset = from;
            self.ahead = Bytes::new();
        }
        Ok(found?.then(|| self.offset - from))
    }

    /// The same where the disk fails again and again: what cannot be read counts as damage, after a few tries.
    pub fn skip_unreadable(&mut self) -> Option<u32> {
        let from = self.offset;
        let found = self.search(true).is_ok_and(|found| found);
        if !found {
            self.offset = from;
            self.ahead = Bytes::new();
        }
        found.then(|| self.offset - from)
    }

    /// Goes forwards until a record begins at the cursor; false at the end of the segment.
    fn search(&mut self, passes_errors: bool) -> io::Result<bool> {
        self.ahead = Bytes::new();
        self.pass(1);
        loop {
            match parse(&self.ahead, self.seq, self.offset) {
                Parsed::Record(..) => return Ok(true),
                Parsed::Short(need) => match self.read_ahead(need) {
                    Ok(true) => {}
                    Ok(false) if self.ahead.len() < RECORD_HEADER_BYTES => return Ok(false),
                    Err(error) if !passes_errors => return Err(error),
                    Err(_) if (1..TRIES_MAX).any(|_| self.read_ahead(need).is_ok()) => {}
                    Err(_) if self.ahead.len() < RECORD_HEADER_BYTES => {
                        self.ahead = Bytes::new();
                        self.pass((BLOCK_BYTES - self.offset % BLOCK_BYTES) as usize);
                        // Where nothing can be read, nothing says either that the file is at its end.
                        if u64::from(self.offset) >= self.file.length()? {
                            return Ok(false);
                        }
                    }
                    // A length that leads out of the file, or to where it cannot be read.
                    Ok(false) | Err(_) => self.pass_to_kind(),
                },
                Parsed::Invalid => self.pass_to_kind(),
            }
        }
    }

    /// Goes to the next place that could begin a record by its type, at least one byte on.
    fn pass_to_kind(&mut self) {
        let behind = &self.ahead[KIND_AT + 1..];
        self.pass(1 + first_kind(behind).unwrap_or(behind.len()));
    }

    fn pass(&mut self, bytes: usize) {
        self.ahead.advance(bytes.min(self.ahead.len()));
        self.offset += u32::try_from(bytes).unwrap_or(u32::MAX);
    }

    /// Fills the buffer from the cursor with at least `need` bytes; false when the file, or what counts of it, ends
    /// before. What could be read before an error is in it too.
    fn read_ahead(&mut self, need: usize) -> io::Result<bool> {
        let most = usize::try_from(self.bound.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let mut buffer = BytesMut::zeroed(CHUNK_BYTES.max(need).min(most));
        let (mut filled, mut failed) = (0, None);
        while filled < buffer.len() && failed.is_none() {
            match self.file.read_at(&mut buffer[filled..], u64::from(self.offset) + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => failed = Some(error),
            }
        }
        buffer.truncate(filled);
        self.ahead = buffer.freeze();
        match failed {
            Some(error) if filled < need => Err(error),
            _ => Ok(filled >= need),
        }
    }

    fn invalid(&mut self) -> Next {
        let dirty = !self.ahead.chunks(ZEROS.len()).all(is_zero);
        // Whatever comes to stand here later is read afresh.
        self.ahead = Bytes::new();
        Next::Invalid { dirty }
    }
}

/// Where a segment ended that could not be sealed, if the one behind it says so. What stands there is what a failed write
/// left, and may look like a record.
///
/// # Errors
/// The system's.
pub fn noted_end(disk: &dyn Disk, folder: &Path, core: u32, seq: u32) -> io::Result<Option<u32>> {
    let path = folder.join(file_name(core, seq + 1));
    match Reader::open(disk, &path, core, Position::start_of(seq + 1)) {
        Ok(mut next) => next.end_before(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Most of a segment that was not filled is zeros: these are compared, not looked at one by one.
static ZEROS: [u8; 4096] = [0; 4096];

fn is_zero(chunk: &[u8]) -> bool {
    *chunk == ZEROS[..chunk.len()]
}

/// Where the first byte stands that could be a record's type.
fn first_kind(bytes: &[u8]) -> Option<usize> {
    let mut chunks = bytes.chunks(ZEROS.len()).enumerate().filter(|(_, chunk)| !is_zero(chunk));
    chunks.find_map(|(n, chunk)| {
        let at = chunk.iter().position(|byte| Kind::from_byte(*byte).is_some())?;
        Some(n * ZEROS.len() + at)
    })
}

#[cfg(test)]
mod tests {
    use super::super::disk::RealDisk;
    use super::super::format::append_record;
    use super::super::writer::create;
    use super::*;
    use bytes::BufMut as _;

    fn write(folder: &Path, payloads: &[&[u8]]) {
        let header = Header { core: 0, seq: 1, created_ms: 0, node: "n".into() };
        let mut writer = create(&RealDisk, folder, &header, 1 << 20).unwrap();
        let mut group = BytesMut::new();
        for payload in payloads {
            append_record(&mut group, writer.end(), Kind::Click, |out| out.put_slice(payload));
        }
        assert_eq!(writer.append(&group).bytes, group.len());
        assert!(writer.seal().error.is_none());
    }

    fn read(path: &Path) -> (Vec<Bytes>, Next) {
        let mut reader = Reader::open(&RealDisk, path, 0, Position::start_of(1)).unwrap();
        let mut payloads = Vec::new();
        loop {
            match reader.read().unwrap() {
                Next::Click(payload, _) => payloads.push(payload),
                end => return (payloads, end),
            }
        }
    }

    #[test]
    fn what_was_written_reads_back_up_to_the_seal() {
        let folder = tempfile::tempdir().unwrap();
        let big = vec![7; 400_000];
        write(folder.path(), &[b"one", &big, b""]);
        let (payloads, end) = read(&folder.path().join(file_name(0, 1)));
        assert_eq!(payloads, [&b"one"[..], &big, b""]);
        assert_eq!(end, Next::Sealed);
    }

    #[test]
    fn a_reader_goes_on_where_the_writer_went_on() {
        let folder = tempfile::tempdir().unwrap();
        let header = Header { core: 0, seq: 1, created_ms: 0, node: "n".into() };
        let mut writer = create(&RealDisk, folder.path(), &header, 1 << 20).unwrap();
        let mut reader = Reader::open(&RealDisk, writer.path(), 0, writer.end()).unwrap();
        assert_eq!(reader.read().unwrap(), Next::Invalid { dirty: false });
        for n in 0..3_u8 {
            let mut group = BytesMut::new();
            let end = append_record(&mut group, writer.end(), Kind::Click, |out| out.put_u8(n));
            writer.append(&group);
            assert_eq!(reader.read().unwrap(), Next::Click(Bytes::copy_from_slice(&[n]), end));
        }
    }
}
