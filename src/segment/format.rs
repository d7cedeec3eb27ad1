//! The bytes of a segment.

use bytes::{BufMut as _, Bytes, BytesMut};

/// Bytes of a segment header.
pub const SEGMENT_HEADER_BYTES: u32 = 256;
/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 9;
/// The longest payload; a longer length is no record. Above any frame of a click.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;

const MAGIC: &[u8; 8] = b"TRELLISJ";
const VERSION: u32 = 1;
const NODE_BYTES_MAX: usize = 64;

/// A place in one core's journal: ordered, and never used twice by a record that counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Sequence number of the segment.
    pub seq: u32,
    /// Byte offset in it.
    pub offset: u32,
}

impl Position {
    /// Where the first record of a segment stands.
    #[must_use]
    pub const fn start_of(seq: u32) -> Self {
        Self { seq, offset: SEGMENT_HEADER_BYTES }
    }

    /// As one number, in the same order.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        (self.seq as u64) << 32 | self.offset as u64
    }

    /// Back from [`Position::to_u64`].
    #[must_use]
    pub const fn from_u64(number: u64) -> Self {
        Self { seq: (number >> 32) as u32, offset: number as u32 }
    }
}

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A click's frame.
    Click,
    /// The end of the segment.
    Seal,
    /// First in its segment: where the one before, which could not be sealed, ended.
    EndBefore,
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Self::Click => 1,
            Self::Seal => 2,
            Self::EndBefore => 3,
        }
    }

    pub(super) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Click),
            2 => Some(Self::Seal),
            3 => Some(Self::EndBefore),
            _ => None,
        }
    }
}

/// Appends one record to a group that will stand at `group_start`; the payload is what `write` appends. Returns where the
/// record ends.
pub fn append_record(
    group: &mut BytesMut,
    group_start: Position,
    kind: Kind,
    write: impl FnOnce(&mut BytesMut),
) -> Position {
    let at = group.len();
    group.put_bytes(0, RECORD_HEADER_BYTES);
    write(group);
    let (header, payload) = group[at..].split_at_mut(RECORD_HEADER_BYTES);
    let offset = group_start.offset + offset_in(at);
    header[..4].copy_from_slice(&offset_in(payload.len()).to_le_bytes());
    header[4..8].copy_from_slice(&checksum(group_start.seq, offset, kind, payload).to_le_bytes());
    header[8] = kind.byte();
    Position { seq: group_start.seq, offset: group_start.offset + offset_in(group.len()) }
}

/// One record as found at an offset.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A valid record: what it holds and how long its payload is.
    Record(Kind, usize),
    /// More bytes are needed to tell.
    Short(usize),
    /// Zeros, or anything else that is no record.
    Invalid,
}

/// Looks at the record at the start of `bytes`, which stand at `offset` of segment `seq`.
pub(super) fn parse(bytes: &[u8], seq: u32, offset: u32) -> Parsed {
    let Some((header, rest)) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>() else {
        return Parsed::Short(RECORD_HEADER_BYTES);
    };
    let [l0, l1, l2, l3, c0, c1, c2, c3, kind] = *header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let Some(kind) = Kind::from_byte(kind).filter(|_| length <= PAYLOAD_BYTES_MAX) else {
        return Parsed::Invalid;
    };
    let Some(payload) = rest.get(..length) else {
        return Parsed::Short(RECORD_HEADER_BYTES + length);
    };
    if checksum(seq, offset, kind, payload) == u32::from_le_bytes([c0, c1, c2, c3]) {
        Parsed::Record(kind, length)
    } else {
        Parsed::Invalid
    }
}

/// The click payloads of a group that never left memory, each with the position where its record ends. Nothing is
/// checked again.
pub fn records(group: &Bytes, group_start: Position) -> impl Iterator<Item = (Bytes, Position)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let length: [u8; 4] = group.get(at..at + 4)?.try_into().ok()?;
        let start = at + RECORD_HEADER_BYTES;
        at = start + u32::from_le_bytes(length) as usize;
        let end = Position { seq: group_start.seq, offset: group_start.offset + offset_in(at) };
        (at <= group.len()).then(|| (group.slice(start..at), end))
    })
}

fn checksum(seq: u32, offset: u32, kind: Kind, payload: &[u8]) -> u32 {
    let mut place = [0; 9];
    place[..4].copy_from_slice(&seq.to_le_bytes());
    place[4..8].copy_from_slice(&offset.to_le_bytes());
    place[8] = kind.byte();
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&place);
    hasher.update(payload);
    hasher.finalize()
}

/// A length inside a segment, which is far below 4 GiB: `journal.segment_bytes` ends at 1 GiB.
fn offset_in(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// What stands at the front of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Edge thread that wrote it.
    pub core: u32,
    /// Sequence number.
    pub seq: u32,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Name of the node, cut to 64 bytes.
    pub node: String,
}

impl Header {
    /// The 256 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES as usize] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
        let node = &self.node.as_bytes()[..self.node.len().min(NODE_BYTES_MAX)];
        let mut out = &mut bytes[..];
        out.put_slice(MAGIC);
        out.put_u32_le(VERSION);
        out.put_u32_le(self.core);
        out.put_u32_le(self.seq);
        out.put_u64_le(self.created_ms);
        out.put_u32_le(offset_in(node.len()));
        out.put_slice(node);
        let end = bytes.len() - 4;
        let crc = crc32fast::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header; `None` when these bytes are none, or one of another version.
    #[must_use]
    pub fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES as usize]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) || !body.starts_with(MAGIC) {
            return None;
        }
        let u32_at = |at: usize| Some(u32::from_le_bytes(body.get(at..at + 4)?.try_into().ok()?));
        if u32_at(8)? != VERSION {
            return None;
        }
        let node = body.get(32..32 + u32_at(28)? as usize)?;
        Some(Self {
            core: u32_at(12)?,
            seq: u32_at(16)?,
            created_ms: u64::from_le_bytes(body.get(20..28)?.try_into().ok()?),
            node: String::from_utf8_lossy(node).into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_a_flipped_bit_is_seen() {
        let header = Header { core: 1, seq: 7, created_ms: 9, node: "edge-1".into() };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Some(header));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bad), None, "bit {bit}");
        }
    }

    #[test]
    fn a_record_is_valid_at_its_own_place_only_and_no_flipped_bit_passes() {
        let start = Position { seq: 3, offset: 300 };
        let mut group = BytesMut::new();
        let end = append_record(&mut group, start, Kind::Click, |out| out.put_slice(b"payload"));
        assert_eq!(end.offset, 300 + 9 + 7);
        assert_eq!(parse(&group, 3, 300), Parsed::Record(Kind::Click, 7));
        assert_eq!(parse(&group, 3, 301), Parsed::Invalid);
        assert_eq!(parse(&group, 4, 300), Parsed::Invalid);
        for bit in 0..group.len() * 8 {
            let mut bad = group.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(parse(&bad, 3, 300), Parsed::Record(..)), "bit {bit}");
        }
        assert_eq!(parse(&[0; 64], 3, 300), Parsed::Invalid, "zeros are no record");
    }

    #[test]
    fn a_group_gives_its_payloads_back_with_their_ends() {
        let start = Position { seq: 0, offset: 256 };
        let mut group = BytesMut::new();
        let ends: Vec<_> = [&b"a"[..], b"", b"ccc"]
            .iter()
            .map(|p| append_record(&mut group, start, Kind::Click, |o| o.put_slice(p)))
            .collect();
        let found: Vec<_> = records(&group.freeze(), start).collect();
        assert_eq!(found.iter().map(|(p, _)| p.as_ref()).collect::<Vec<_>>(), [&b"a"[..], b"", b"ccc"]);
        assert_eq!(found.iter().map(|(_, e)| *e).collect::<Vec<_>>(), ends);
    }
}
