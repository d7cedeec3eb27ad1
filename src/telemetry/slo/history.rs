//! What happened, as bytes that survive a restart.
//!
//! ```text
//! magic "TRELLSLO" | version u32 | crc32 u32 of the rest | first ms u64 | last ms u64 | tracks u32
//! track   name (u32 length, UTF-8) | kind u8 | bounds (u32 count, f64 each) | 5 levels
//! level   slots u32 | slot...
//! slot    number varint | kind 0: count varint, then place varint and count varint each
//!                       | kind 1: bad f64, all f64 | kind 2: value f64
//! ```
//! Fixed numbers are little-endian. Tracks that no objective looks at any more are passed over, those of other buckets are
//! put into the buckets of now. Bounds: [`BYTES_MAX`]; a longer history leaves its finest slots out.

use std::collections::VecDeque;

use super::ring::{LEVELS, Rings};
use super::sample::{Events, Observed, Worst};
use super::{Engine, What};

/// Of a whole history.
pub const BYTES_MAX: usize = 32 << 20;

const MAGIC: &[u8; 8] = b"TRELLSLO";
const VERSION: u32 = 1;
/// Before what the checksum is of.
const HEAD: usize = MAGIC.len() + 4 + 4;

/// Why bytes are no history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It does not begin as one.
    #[error("it is no history of objectives")]
    NotOurs,
    /// A later Trellis wrote it.
    #[error("it has version {0}, and this Trellis reads {VERSION}")]
    Version(u32),
    /// It is not what was written.
    #[error("its checksum is wrong, or it ends too early")]
    Damaged,
}

/// Rings whose buckets had the upper bounds `from`, in buckets of the bounds `to`: each goes where its upper bound lies, so
/// that nothing becomes quicker than it was.
pub(super) fn other_buckets(rings: &Rings<Observed>, from: &[f64], to: &[f64]) -> Rings<Observed> {
    let place = |old: u16| {
        let bound = from.get(usize::from(old)).copied().unwrap_or(f64::INFINITY);
        let new = to.iter().position(|upper| *upper >= bound * (1.0 - 1e-9)).unwrap_or(to.len());
        u16::try_from(new).unwrap_or(u16::MAX)
    };
    let mut moved = Rings::default();
    for (ring, new) in rings.levels.iter().zip(&mut moved.levels) {
        *new = ring
            .iter()
            .map(|(number, observed)| {
                let mut sum = Observed::default();
                for (old, count) in &observed.0 {
                    super::ring::Sample::add(&mut sum, &Observed(vec![(place(*old), *count)]));
                }
                (*number, sum)
            })
            .collect();
    }
    moved
}

impl Engine {
    /// Everything that is kept.
    #[must_use]
    pub fn history(&self) -> Vec<u8> {
        let whole = (0..=LEVELS.len()).map(|finest| self.encode(finest)).find(|bytes| bytes.len() <= BYTES_MAX);
        whole.unwrap_or_default()
    }

    /// Without the slots of the levels before `finest`.
    fn encode(&self, finest: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.first_ms.unwrap_or_default().to_le_bytes());
        bytes.extend_from_slice(&self.last_ms.unwrap_or_default().to_le_bytes());
        length(&mut bytes, self.tracks.len());
        for track in &self.tracks {
            let name = track.what.name();
            length(&mut bytes, name.len());
            bytes.extend_from_slice(name.as_bytes());
            match &track.what {
                What::Observed { bounds, rings, .. } => {
                    bytes.push(0);
                    length(&mut bytes, bounds.len());
                    bounds.iter().for_each(|bound| bytes.extend_from_slice(&bound.to_le_bytes()));
                    levels(&mut bytes, rings, finest, |bytes, observed| {
                        varint(bytes, observed.0.len() as u64);
                        for (place, count) in &observed.0 {
                            varint(bytes, u64::from(*place));
                            varint(bytes, *count);
                        }
                    });
                }
                What::Events { rings, .. } => {
                    bytes.push(1);
                    length(&mut bytes, 0);
                    levels(&mut bytes, rings, finest, |bytes, events| {
                        bytes.extend_from_slice(&events.bad.to_le_bytes());
                        bytes.extend_from_slice(&events.all.to_le_bytes());
                    });
                }
                What::Worst { rings, .. } => {
                    bytes.push(2);
                    length(&mut bytes, 0);
                    levels(&mut bytes, rings, finest, |bytes, worst| {
                        bytes.extend_from_slice(&worst.value.to_le_bytes());
                    });
                }
            }
        }
        let mut whole = Vec::with_capacity(HEAD + bytes.len());
        whole.extend_from_slice(MAGIC);
        whole.extend_from_slice(&VERSION.to_le_bytes());
        whole.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        whole.extend_from_slice(&bytes);
        whole
    }

    /// Goes on where this history ends. To be called before the first look.
    ///
    /// # Errors
    /// The bytes are no history; nothing is taken from them then.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), Unreadable> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(Unreadable::NotOurs)?;
        let mut head = Reader(rest);
        let version = u32::from_le_bytes(head.take()?);
        if version != VERSION {
            return Err(Unreadable::Version(version));
        }
        let crc = u32::from_le_bytes(head.take()?);
        if crc32fast::hash(head.0) != crc {
            return Err(Unreadable::Damaged);
        }
        let (first_ms, last_ms) = (u64::from_le_bytes(head.take()?), u64::from_le_bytes(head.take()?));
        let tracks = head.length()?;
        // Whole before any of it counts.
        let read = (0..tracks).map(|_| head.track()).collect::<Result<Vec<_>, _>>()?;
        for (name, kept) in read {
            if let Some(track) = self.tracks.iter_mut().find(|track| track.what.name() == name) {
                kept.put_into(&mut track.what);
            }
        }
        self.first_ms = (first_ms > 0).then_some(first_ms);
        self.last_ms = (last_ms > 0).then_some(last_ms);
        Ok(())
    }
}

fn length(bytes: &mut Vec<u8>, length: usize) {
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

fn varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn levels<S>(bytes: &mut Vec<u8>, rings: &Rings<S>, finest: usize, slot: impl Fn(&mut Vec<u8>, &S)) {
    for (level, ring) in rings.levels.iter().enumerate() {
        let ring = if level < finest { &VecDeque::new() } else { ring };
        length(bytes, ring.len());
        for (number, held) in ring {
            varint(bytes, *number);
            slot(bytes, held);
        }
    }
}

/// A track as it was kept.
enum Kept {
    Observed(Vec<f64>, Rings<Observed>),
    Events(Rings<Events>),
    /// The goal is that of the objective, of which the name tells.
    Worst(Rings<f64>),
}

impl Kept {
    fn put_into(self, what: &mut What) {
        match (self, what) {
            (Self::Observed(from, kept), What::Observed { bounds, rings, .. }) => {
                (*bounds, *rings) = (from, kept);
            }
            (Self::Events(kept), What::Events { rings, .. }) => *rings = kept,
            (Self::Worst(kept), What::Worst { goal, rings, .. }) => {
                for (ring, kept) in rings.levels.iter_mut().zip(kept.levels) {
                    *ring = kept.into_iter().map(|(slot, value)| (slot, Worst { value, goal: *goal })).collect();
                }
            }
            // The name tells the kinds apart.
            _ => {}
        }
    }
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn bytes(&mut self, count: usize) -> Result<&'b [u8], Unreadable> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Unreadable::Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        self.bytes(N)?.try_into().map_err(|_| Unreadable::Damaged)
    }

    /// No list has more items than there are bytes left: nothing is allocated for what is not there.
    fn length(&mut self) -> Result<usize, Unreadable> {
        let length = u32::from_le_bytes(self.take()?) as usize;
        if length <= self.0.len() { Ok(length) } else { Err(Unreadable::Damaged) }
    }

    fn number(&mut self) -> Result<f64, Unreadable> {
        Ok(f64::from_le_bytes(self.take()?))
    }

    fn varint(&mut self) -> Result<u64, Unreadable> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.take()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Unreadable::Damaged)
    }

    fn levels<S>(&mut self, slot: impl Fn(&mut Self) -> Result<S, Unreadable>) -> Result<Rings<S>, Unreadable> {
        let mut levels: [VecDeque<(u64, S)>; LEVELS.len()] = Default::default();
        for (ring, (_, slots)) in levels.iter_mut().zip(LEVELS) {
            for _ in 0..self.length()? {
                ring.push_back((self.varint()?, slot(self)?));
            }
            if ring.len() as u64 > slots {
                return Err(Unreadable::Damaged);
            }
        }
        Ok(Rings { levels })
    }

    fn track(&mut self) -> Result<(String, Kept), Unreadable> {
        let length = self.length()?;
        let name = String::from_utf8(self.bytes(length)?.to_vec()).map_err(|_| Unreadable::Damaged)?;
        let [kind] = self.take()?;
        let bounds = (0..self.length()?).map(|_| self.number()).collect::<Result<Vec<_>, _>>()?;
        let kept = match kind {
            0 => Kept::Observed(bounds, self.levels(Self::observed)?),
            1 => Kept::Events(self.levels(|bytes| Ok(Events { bad: bytes.number()?, all: bytes.number()? }))?),
            2 => Kept::Worst(self.levels(Self::number)?),
            _ => return Err(Unreadable::Damaged),
        };
        Ok((name, kept))
    }

    fn observed(&mut self) -> Result<Observed, Unreadable> {
        let count = self.varint()?;
        let mut observed = Vec::new();
        for _ in 0..count {
            let place = u16::try_from(self.varint()?).map_err(|_| Unreadable::Damaged)?;
            observed.push((place, self.varint()?));
        }
        Ok(Observed(observed))
    }
}
