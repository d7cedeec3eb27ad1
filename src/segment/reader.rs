//! Reading a segment, record by record, in chunks of 256 KiB.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::disk::{Disk, DiskFile, Open};
use super::format::{Header, Kind, Parsed, Position, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, parse};

const CHUNK_BYTES: usize = 256 << 10;

/// A cursor in one segment.
#[derive(Debug)]
pub struct Reader {
    file: Arc<dyn DiskFile>,
    seq: u32,
    /// The next record.
    offset: u32,
    /// Bytes read ahead; they stand at `offset`.
    ahead: Bytes,
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
    /// Opens the segment with this header at this position.
    ///
    /// # Errors
    /// The system's; `InvalidData` when the file is not the segment that its name says.
    pub fn open(disk: &dyn Disk, path: &Path, core: u32, at: Position) -> io::Result<Self> {
        let file = disk.open(path, Open::Read)?;
        let mut header = [0; SEGMENT_HEADER_BYTES as usize];
        file.read_exact_at(&mut header, 0)?;
        match Header::decode(&header) {
            Some(header) if header.core == core && header.seq == at.seq => {
                Ok(Self { file, seq: at.seq, offset: at.offset.max(SEGMENT_HEADER_BYTES), ahead: Bytes::new() })
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the segment's header is damaged")),
        }
    }

    /// Where the cursor stands.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position { seq: self.seq, offset: self.offset }
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

    /// Fills the buffer from the cursor with at least `need` bytes; false when the file ends before.
    fn read_ahead(&mut self, need: usize) -> io::Result<bool> {
        let mut buffer = BytesMut::zeroed(CHUNK_BYTES.max(need));
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], u64::from(self.offset) + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer.truncate(filled);
        self.ahead = buffer.freeze();
        Ok(filled >= need)
    }

    fn invalid(&mut self) -> Next {
        let dirty = self.ahead.iter().any(|byte| *byte != 0);
        // Whatever comes to stand here later is read afresh.
        self.ahead = Bytes::new();
        Next::Invalid { dirty }
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::RealDisk;
    use super::super::format::append_record;
    use super::super::writer::{create, file_name};
    use super::*;
    use bytes::BufMut as _;

    fn write(folder: &Path, payloads: &[&[u8]], seal: bool) -> Vec<u8> {
        let header = Header { core: 0, seq: 1, created_ms: 0, node: "n".into() };
        let mut writer = create(&RealDisk, folder, &header, 1 << 20).unwrap();
        let mut group = BytesMut::new();
        for payload in payloads {
            append_record(&mut group, writer.end(), Kind::Click, |out| out.put_slice(payload));
        }
        let end = Position { seq: 1, offset: writer.end().offset + group.len() as u32 };
        assert_eq!(writer.append(&group).bytes, group.len());
        if seal {
            writer.seal();
        }
        let mut bytes = std::fs::read(writer.path()).unwrap();
        bytes.truncate(end.offset as usize + if seal { RECORD_HEADER_BYTES } else { 0 });
        bytes
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
        write(folder.path(), &[b"one", &big, b""], true);
        let (payloads, end) = read(&folder.path().join(file_name(0, 1)));
        assert_eq!(payloads, [&b"one"[..], &big, b""]);
        assert_eq!(end, Next::Sealed);
    }

    #[test]
    fn a_file_cut_at_any_byte_gives_its_whole_records() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = write(folder.path(), &[b"first", b"second", b"third"], false);
        let path = folder.path().join("cut.seg");
        for end in SEGMENT_HEADER_BYTES as usize..bytes.len() {
            std::fs::write(&path, &bytes[..end]).unwrap();
            let whole = [14, 29, 43].iter().filter(|len| SEGMENT_HEADER_BYTES as usize + **len <= end).count();
            let (payloads, next) = read(&path);
            assert_eq!(payloads.len(), whole, "cut at {end}");
            assert!(matches!(next, Next::Invalid { .. }));
        }
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
