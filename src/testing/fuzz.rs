//! What a fuzzer calls: the parsers of bytes that come from a disk, with the promises that they keep for any input.
//!
//! Each entry takes any bytes, panics when a promise is broken, and says how far it came, so that a test knows whether it
//! tested anything. `tests/fuzz` runs them under libFuzzer; the unit tests here run them on thousands of inputs from a seed.

use std::path::Path;
use std::sync::Arc;

use bytes::{BufMut as _, BytesMut};

use super::FaultDisk;
use crate::click::Click;
use crate::click::frame::{PATH_BYTES_MAX, REFERRER_BYTES_MAX, UA_BYTES_MAX, click_id, unix_ms};
use crate::segment::{
    Disk as _, DiskFile, Header, Kind, Next, Open, Position, RECORD_HEADER_BYTES, Reader, SEGMENT_HEADER_BYTES,
    append_record,
};

/// The segment that every input makes.
const SEQ: u32 = 3;
const PATH: &str = "/segment";
const RECORDS_MAX: u8 = 8;
const PAYLOAD_BYTES_MAX: u16 = 700;
/// Hits on one segment. Fewer than a checksum has bytes, so that they cannot forge a record.
const HITS_MAX: usize = 3;
/// A hit that takes a stretch of bytes away takes so many.
const HIT_BYTES: usize = 64;

/// How far an input came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Clicks that were read.
    pub clicks: usize,
    /// Places with damage that were skipped.
    pub skips: usize,
}

/// A disk with one segment on it, which each input makes anew.
#[derive(Debug)]
pub struct Segments {
    disk: FaultDisk,
    file: Arc<dyn DiskFile>,
}

impl Segments {
    /// A disk that does not fail.
    ///
    /// # Panics
    /// Never: the disk is memory.
    #[must_use]
    pub fn new() -> Self {
        let disk = FaultDisk::new(0);
        let file = disk.open(Path::new(PATH), Open::New).expect("an empty disk");
        Self { disk, file }
    }

    /// Reads the segment that the input describes. With an odd first byte the rest stands, as it is, behind a header; with
    /// an even one it says which records are written, and where the file is hit then.
    ///
    /// The promises: reading ends; the cursor moves forwards; what is read is, byte for byte, what [`append_record`]
    /// writes at that place; a record that no hit touched is read, unless a seal stands before it; a second reading finds
    /// the same.
    ///
    /// # Panics
    /// When one of them is broken.
    pub fn read(&self, input: &[u8]) -> Found {
        let (bytes, whole) = match input.split_first() {
            Some((mode, rest)) if mode % 2 == 1 => ([&header()[..], rest].concat(), Vec::new()),
            Some((_, rest)) => describe(rest),
            None => (Vec::new(), Vec::new()),
        };
        self.file.truncate(0).expect("memory");
        self.file.write_all_at(&bytes, 0).expect("memory");
        // What was forced is not kept as a change any more.
        self.file.sync().expect("memory");
        let (found, ends) = self.pass(&bytes);
        for end in whole {
            assert!(ends.binary_search(&end).is_ok(), "the whole record that ends at {end} is not read: {ends:?}");
        }
        assert_eq!(self.pass(&bytes), (found, ends), "a second reading finds something else");
        found
    }

    /// Reads to the end; where the clicks ended.
    fn pass(&self, bytes: &[u8]) -> (Found, Vec<u32>) {
        let mut reader = Reader::open(&self.disk, Path::new(PATH), 0, Position::start_of(SEQ)).expect("our segment");
        reader.end_before().expect("memory");
        let (mut found, mut ends, mut at) = (Found::default(), Vec::new(), SEGMENT_HEADER_BYTES);
        loop {
            match reader.read().expect("memory") {
                Next::Click(payload, end) => {
                    let length = RECORD_HEADER_BYTES + payload.len();
                    let start = Position { seq: SEQ, offset: end.offset - length as u32 };
                    let mut record = BytesMut::new();
                    append_record(&mut record, start, Kind::Click, |out| out.put_slice(&payload));
                    let there = &bytes[start.offset as usize..end.offset as usize];
                    assert_eq!(record, there, "a record is read at {} that nobody wrote", start.offset);
                    assert!(
                        start.offset >= at && end == reader.position(),
                        "the cursor is at {at}, and then at {end:?}"
                    );
                    at = end.offset;
                    ends.push(at);
                    found.clicks += 1;
                }
                Next::Sealed => return (found, ends),
                Next::Invalid { .. } => {
                    let before = reader.position();
                    let Some(skipped) = reader.skip().expect("memory") else { return (found, ends) };
                    let after = reader.position();
                    assert!(skipped > 0 && after.offset == before.offset + skipped, "skipped {skipped} at {before:?}");
                    at = after.offset;
                    found.skips += 1;
                }
            }
        }
    }
}

impl Default for Segments {
    fn default() -> Self {
        Self::new()
    }
}

fn header() -> [u8; SEGMENT_HEADER_BYTES as usize] {
    Header { core: 0, seq: SEQ, created_ms: 0, node: "n".into() }.encode()
}

/// The next bytes of an input; zeros behind its end.
fn take<const N: usize>(input: &mut &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let (head, rest) = input.split_at(input.len().min(N));
    bytes[..head.len()].copy_from_slice(head);
    *input = rest;
    bytes
}

/// The bytes of the segment after all hits, and where the clicks end that must be read.
fn describe(mut input: &[u8]) -> (Vec<u8>, Vec<u32>) {
    let mut written = BytesMut::from(&header()[..]);
    let group_start = Position { seq: SEQ, offset: 0 };
    let mut clicks = Vec::new();
    let mut seals = Vec::new();
    for _ in 0..take::<1>(&mut input)[0] % (RECORDS_MAX + 1) {
        let [kind, low, high] = take(&mut input);
        let length = u16::from_le_bytes([low, high]) % PAYLOAD_BYTES_MAX;
        let start = written.len();
        let kind = match kind % 16 {
            0 => Kind::Seal,
            1 => Kind::EndBefore,
            _ => Kind::Click,
        };
        let end = append_record(&mut written, group_start, kind, |out| match kind {
            Kind::Click => {
                let payload = input.split_off(..usize::from(length).min(input.len())).unwrap_or_default();
                // Full of what could be a length or a type.
                out.extend(payload.iter().map(|byte| byte % 3));
            }
            Kind::Seal => {}
            Kind::EndBefore => out.put_u32_le(u32::from(length)),
        });
        let range = start..end.offset as usize;
        match kind {
            Kind::Click => clicks.push(range),
            Kind::Seal => seals.push(range),
            Kind::EndBefore => {}
        }
    }
    let mut bytes = written.to_vec();
    for _ in 0..HITS_MAX.min(input.len() / 4) {
        hit(&mut bytes, take(&mut input));
    }
    let is_whole = |range: &&std::ops::Range<usize>| bytes.get((*range).clone()) == written.get((*range).clone());
    let sealed_at = seals.iter().find(is_whole).map_or(usize::MAX, |range| range.start);
    let whole = clicks.iter().filter(is_whole).filter(|range| range.end <= sealed_at).map(|range| range.end as u32);
    let whole = whole.collect();
    (bytes, whole)
}

/// One hit: a byte that flips, the end of the file, or a stretch of zeros.
fn hit(bytes: &mut Vec<u8>, [kind, low, high, mask]: [u8; 4]) {
    if bytes.is_empty() {
        return;
    }
    let at = usize::from(u16::from_le_bytes([low, high])) % bytes.len();
    match kind % 8 {
        0 => bytes.truncate(at),
        1 => {
            let end = bytes.len().min(at + HIT_BYTES);
            bytes[at..end].fill(0);
        }
        _ => bytes[at] ^= mask,
    }
}

/// Decodes a frame; whether it is one.
///
/// The promises: no bytes make the decoder panic; what it gives encodes to a frame that decodes to the same click, with
/// long texts cut; and what is read of a frame without decoding it is what decoding gives.
///
/// # Panics
/// When one of them is broken.
#[must_use]
pub fn frame(input: &[u8]) -> bool {
    let Ok(click) = Click::decode(input) else { return false };
    assert_eq!((click_id(input), unix_ms(input)), (Some(click.id), Some(click.id.unix_ms())));
    let _ = click.external_click_id();
    let cut = |text: &[u8], most: usize| text.len().min(most);
    let expected = Click {
        path: &click.path[..cut(click.path, PATH_BYTES_MAX)],
        referrer: &click.referrer[..cut(click.referrer, REFERRER_BYTES_MAX)],
        ua: &click.ua[..cut(click.ua, UA_BYTES_MAX)],
        language: &click.language[..cut(click.language, UA_BYTES_MAX)],
        ..click
    };
    let mut again = Vec::with_capacity(input.len());
    click.encode(&mut again);
    assert_eq!(Click::decode(&again), Ok(expected));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::click::dedup::Window;
    use crate::click::{ClickId, Fingerprint, Marks, Privacy, privacy};

    const SEED: u64 = 20_261_121;

    fn random() -> fastrand::Rng {
        eprintln!("seed {SEED}");
        fastrand::Rng::with_seed(SEED)
    }

    #[test]
    fn thousands_of_hit_segments_give_what_was_left_whole_and_nothing_else() {
        let (mut random, segments, mut all) = (random(), Segments::new(), Found::default());
        for number in 0..6_000 {
            let mut input = vec![0; random.usize(..2_500)];
            random.fill(&mut input);
            if let Some(mode) = input.first_mut() {
                // Every eighth one as it is.
                *mode = u8::from(number % 8 == 0);
            }
            let found = segments.read(&input);
            all = Found { clicks: all.clicks + found.clicks, skips: all.skips + found.skips };
        }
        assert!(all.clicks > 5_000 && all.skips > 500, "{all:?}");
    }

    #[test]
    fn thousands_of_mutated_frames_decode_to_themselves_or_are_refused() {
        let mut random = random();
        let (mut decoded, mut refused) = (0, 0);
        for _ in 0..30_000 {
            let mut click = Click {
                id: ClickId::new(1_700_000_000_000, &[9; 10]),
                fingerprint: random.bool().then_some(Fingerprint([3; 16])),
                window: Window::of_seconds(random.u32(..3)),
                head: random.bool(),
                prefetch: random.bool(),
                bound: random.bool(),
                marks: Marks::from_bits(random.u8(..)),
                status: 302,
                route_version: 4,
                address: None,
                country: random.bool().then_some(*b"DE"),
                privacy: Privacy {
                    level: privacy::Level::ALL[random.usize(..3)],
                    agent: random.bool().then_some(privacy::Agent { os: "iOS", ..privacy::Agent::default() }),
                },
                org: "default",
                campaign: "",
                domain: ["*", "go.example"][random.usize(..2)],
                link: "spring",
                path: [&b""[..], b"/a/\xff"][random.usize(..2)],
                rule: "",
                variant: "",
                destination: b"https://a.example/",
                referrer: b"\xff",
                ua: b"Mozilla/5.0",
                language: b"de",
                query: "click_id=%41&a=%zz",
            };
            if random.bool() {
                click.address = Some([192, 0, 2, random.u8(..)].into());
            }
            let mut bytes = Vec::new();
            click.encode(&mut bytes);
            for _ in 0..random.usize(..4) {
                let at = random.usize(..bytes.len());
                match random.u8(..4) {
                    0 => bytes.truncate(at.max(1)),
                    1 => bytes.insert(at, random.u8(..)),
                    _ => bytes[at] = random.u8(..),
                }
            }
            if frame(&bytes) { decoded += 1 } else { refused += 1 }
        }
        assert!(decoded > 5_000 && refused > 5_000, "{decoded} decoded, {refused} refused");
    }
}
