//! The bytes of a file on the disk that fails: what processes see, what the disk has, and what lies between.

use std::io;
use std::ops::Range;

use rustix::io::Errno;

/// One file.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    seen: Image,
    forced: Image,
    /// What was done since it was forced, in order.
    since: Vec<Change>,
    /// Space that it takes of the disk's.
    pub(super) taken: u64,
    /// Where reading fails.
    pub(super) unreadable: Range<u64>,
}

/// Bytes, and behind them zeros up to a length: a file that was only allocated takes no memory.
#[derive(Clone, Debug, Default)]
struct Image {
    bytes: Vec<u8>,
    length: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Length(u64),
}

impl Image {
    fn write(&mut self, bytes: &[u8], offset: u64) {
        let (start, end) = (index(offset), index(offset) + bytes.len());
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(bytes);
        self.length = self.length.max(end as u64);
    }

    fn set_length(&mut self, length: u64) {
        self.bytes.truncate(index(length));
        self.length = length;
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, bytes } => self.write(bytes, *offset),
            Change::Length(length) => self.set_length(*length),
        }
    }

    fn flip(&mut self, bit: u64) {
        let mut byte = [0];
        if self.read(&mut byte, bit / 8) == 1 {
            self.write(&[byte[0] ^ 1 << (bit % 8)], bit / 8);
        }
    }

    fn read(&self, out: &mut [u8], offset: u64) -> usize {
        let count = out.len().min(index(self.length.saturating_sub(offset)));
        let start = index(offset).min(self.bytes.len());
        let stored = &self.bytes[start..self.bytes.len().min(start + count)];
        out[..stored.len()].copy_from_slice(stored);
        out[stored.len()..count].fill(0);
        count
    }
}

impl Content {
    /// Reads up to where it cannot.
    pub(super) fn read(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.unreadable.contains(&offset) {
            return Err(Errno::IO.into());
        }
        let readable = self.unreadable.start.checked_sub(offset).filter(|_| !self.unreadable.is_empty());
        let most = readable.map_or(out.len(), |bytes| out.len().min(index(bytes)));
        Ok(self.seen.read(&mut out[..most], offset))
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        self.change(Change::Write { offset, bytes: bytes.to_vec() });
    }

    pub(super) const fn length(&self) -> u64 {
        self.seen.length
    }

    pub(super) fn set_length(&mut self, length: u64) {
        self.change(Change::Length(length));
    }

    fn change(&mut self, change: Change) {
        self.seen.apply(&change);
        self.since.push(change);
    }

    pub(super) fn flip(&mut self, bit: u64) {
        self.seen.flip(bit);
        self.forced.flip(bit);
        for change in &mut self.since {
            if let Change::Write { offset, bytes } = change
                && let Some(at) = (bit / 8).checked_sub(*offset)
                && let Some(byte) = bytes.get_mut(index(at))
            {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// The disk has all of it.
    pub(super) fn force(&mut self) {
        for change in self.since.drain(..) {
            self.forced.apply(&change);
        }
    }

    /// The disk will never have what was done since.
    pub(super) fn forget(&mut self) {
        self.since.clear();
    }

    /// What the disk has, and a random first part of what was done since: whole changes, and of the next one the bytes
    /// before a border of sectors.
    pub(super) fn after_crash(&self, random: &mut fastrand::Rng) -> Self {
        let mut image = self.forced.clone();
        let whole = random.usize(..=self.since.len());
        self.since[..whole].iter().for_each(|change| image.apply(change));
        if let Some(Change::Write { offset, bytes }) = self.since.get(whole) {
            let sector = if random.bool() { 512 } else { 4096 };
            let end = offset + random.u64(..=bytes.len() as u64);
            let torn = (end / sector * sector).saturating_sub(*offset);
            if torn > 0 {
                image.write(&bytes[..index(torn)], *offset);
            }
        }
        Self {
            seen: image.clone(),
            forced: image,
            since: Vec::new(),
            taken: self.taken,
            unreadable: self.unreadable.clone(),
        }
    }
}

/// Files here are small.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_forced_and_a_first_part_of_the_rest_up_to_a_sector() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut content = Content::default();
        content.write(&[1; 1000], 0);
        content.force();
        content.write(&[2; 5000], 1000);
        let mut lengths = Vec::new();
        for _ in 0..200 {
            let after = content.after_crash(&mut random);
            let mut bytes = vec![0; 6000];
            let length = after.read(&mut bytes, 0).unwrap();
            assert!(bytes[..1000].iter().all(|b| *b == 1) && bytes[1000..length].iter().all(|b| *b == 2));
            assert!(length == 1000 || length == 6000 || length % 512 == 0, "{length}");
            lengths.push(length);
        }
        lengths.sort_unstable();
        lengths.dedup();
        assert!(lengths.len() > 5, "{lengths:?}");
        content.forget();
        content.force();
        assert_eq!(content.after_crash(&mut random).length(), 1000, "a later sync brings nothing back");
        assert_eq!(content.length(), 6000, "although it can be read");
    }
}
