//! Figures by the minute, and the note in which a checkpoint carries them. Pure.
//!
//! ```text
//! version u8 = 1 | for each minute: minute u32, taken u32, stored u32, refused u32, damaged u32   (little endian)
//! ```

use super::Figures;
use crate::handoff::NOTE_BYTES_MAX;

/// Clicks are counted by the minute of their id.
pub(super) const MINUTE_MS: u64 = 60_000;
/// Minutes that one batch may have. A note must hold those of one batch beside what it has.
pub const BATCH_MINUTES_MAX: usize = 100;
/// Minutes that a note may have.
pub const NOTE_MINUTES_MAX: usize = 200;

const VERSION: u8 = 1;
const ENTRY_BYTES: usize = 20;
const _: () = assert!(NOTE_MINUTES_MAX * ENTRY_BYTES < NOTE_BYTES_MAX);

/// Figures by the minute; few minutes at a time, the one that was touched last at the end of what is looked at first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Minutes(Vec<(u64, Figures)>);

impl Minutes {
    /// The figures of the minute of this time, Unix milliseconds.
    pub fn at_ms(&mut self, unix_ms: u64) -> &mut Figures {
        self.at(unix_ms / MINUTE_MS)
    }

    /// The figures of a minute.
    pub fn at(&mut self, minute: u64) -> &mut Figures {
        // Clicks come in the order of time, nearly: it is the last one, or new.
        let index = self.0.iter().rposition(|(known, _)| *known == minute).unwrap_or_else(|| {
            self.0.push((minute, Figures::default()));
            self.0.len() - 1
        });
        &mut self.0[index].1
    }

    /// The figures of a minute, if there are any.
    #[must_use]
    pub fn get(&self, minute: u64) -> Option<Figures> {
        self.0.iter().rev().find(|(known, _)| *known == minute).map(|(_, figures)| *figures)
    }

    /// Whether there is one more minute for this time, in this many at most.
    #[must_use]
    pub fn has_room(&self, unix_ms: u64, most: usize) -> bool {
        self.0.len() < most || self.get(unix_ms / MINUTE_MS).is_some()
    }

    /// Minutes of both together.
    #[must_use]
    pub fn len_with(&self, other: &Self) -> usize {
        self.len() + other.iter().filter(|(minute, _)| self.get(*minute).is_none()).count()
    }

    /// Adds the others to these.
    pub fn add(&mut self, other: &Self) {
        for (minute, figures) in other.iter() {
            self.at(minute).add(figures);
        }
    }

    /// How many minutes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Figures)> + '_ {
        self.0.iter().copied()
    }

    /// As a note. The caller sees to [`NOTE_MINUTES_MAX`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut note = Vec::with_capacity(1 + self.0.len() * ENTRY_BYTES);
        note.push(VERSION);
        for (minute, figures) in self.iter() {
            for number in [minute, figures.taken, figures.stored, figures.refused, figures.damaged] {
                note.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
            }
        }
        note
    }

    /// From a note; an empty one has no figures. `None` when it is none of ours.
    #[must_use]
    pub fn decode(note: &[u8]) -> Option<Self> {
        let Some((version, rest)) = note.split_first() else { return Some(Self::default()) };
        let (entries, []) = rest.as_chunks::<ENTRY_BYTES>() else { return None };
        if *version != VERSION {
            return None;
        }
        let entry = |entry: &[u8; ENTRY_BYTES]| {
            let number = |n: usize| {
                let at = n * 4;
                u64::from(u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]))
            };
            (number(0), Figures { taken: number(1), stored: number(2), refused: number(3), damaged: number(4) })
        };
        Some(Self(entries.iter().map(entry).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_what_was_put_into_it() {
        let mut minutes = Minutes::default();
        assert_eq!(Minutes::decode(&[]), Some(Minutes::default()));
        for n in 0..NOTE_MINUTES_MAX as u64 {
            *minutes.at(29_000_000 + n * 7) = Figures { taken: 4_000_000_000, stored: n, refused: 2, damaged: 1 };
        }
        let note = minutes.encode();
        assert!(note.len() <= NOTE_BYTES_MAX, "{}", note.len());
        assert_eq!(Minutes::decode(&note), Some(minutes));
        assert_eq!(Minutes::decode(&note[..note.len() - 1]), None, "cut");
        assert_eq!(Minutes::decode(&[2]), None, "of another version");
    }

    #[test]
    fn minutes_add_up() {
        let (mut a, mut b) = (Minutes::default(), Minutes::default());
        a.at_ms(59_999).taken += 1;
        b.at_ms(0).taken += 2;
        b.at_ms(60_000).taken += 4;
        assert_eq!((a.len_with(&b), a.has_room(0, 1), a.has_room(60_000, 1)), (2, true, false));
        a.add(&b);
        assert_eq!((a.len(), a.get(0).unwrap().taken, a.get(1).unwrap().taken), (2, 3, 4));
        assert_eq!(a.get(2), None);
    }
}
