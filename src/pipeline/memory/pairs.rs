//! HEADs and GETs by pair of network and link: a table of fixed size that forgets, and invents nothing but where two pairs
//! have the same 32 bits in one set of four.
//!
//! ```text
//! cell: bits of the pair's hash 32 | number of the half 16 | HEADs before 7 | HEADs now 7 | a GET before 1 | a GET now 1
//! ```
//! A pair has one of the four cells of its set, one line of the cache. Where all are taken the one goes first that is over,
//! then one without a HEAD, then the oldest. Two workers that put in one pair at the same time may each have a cell: it is
//! found later then, or not.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Age;

const WAYS: usize = 4;
const HALF_BITS: u32 = 16;
const HEADS_MAX: u8 = 127;
/// Another worker may be at the same set; more than that often it is not.
const TRIES_MAX: usize = 4;

/// See the module.
#[derive(Debug)]
pub(super) struct Pairs {
    sets: Box<[Set]>,
}

#[derive(Debug, Default)]
#[repr(align(32))]
struct Set([AtomicU64; WAYS]);

/// What was seen of a pair within a window, the click that asks among it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) heads: u8,
    pub(super) get: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cell {
    pair: u32,
    half: u16,
    before: Seen,
    now: Seen,
}

impl Cell {
    fn of(bits: u64) -> Self {
        let heads = |at: u32| (bits >> at) as u8 & HEADS_MAX;
        Self {
            pair: (bits >> 32) as u32,
            half: (bits >> 16) as u16,
            before: Seen { heads: heads(9), get: bits & 2 != 0 },
            now: Seen { heads: heads(2), get: bits & 1 != 0 },
        }
    }

    fn bits(self) -> u64 {
        let heads = u64::from(self.before.heads) << 9 | u64::from(self.now.heads) << 2;
        let gets = u64::from(self.before.get) << 1 | u64::from(self.now.get);
        u64::from(self.pair) << 32 | u64::from(self.half) << 16 | heads | gets
    }

    fn age(self, half: u64) -> Age {
        Age::of(self.half.into(), half, HALF_BITS)
    }

    /// With a click of this half; `None` when it comes too late.
    fn with(mut self, head: bool, half: u64) -> Option<Self> {
        match self.age(half) {
            Age::Same => self.now.add(head),
            Age::Behind => self.before.add(head),
            Age::Before => {
                self = Self { half: half as u16, before: self.now, now: Seen::default(), ..self };
                self.now.add(head);
            }
            Age::Over => {
                self = Self { half: half as u16, before: Seen::default(), now: Seen::default(), ..self };
                self.now.add(head);
            }
            Age::Ahead => return None,
        }
        Some(self)
    }

    fn seen(self) -> Seen {
        let heads = (self.before.heads + self.now.heads).min(HEADS_MAX);
        Seen { heads, get: self.before.get || self.now.get }
    }

    /// How much is lost with it at this moment.
    fn worth(self, half: u64) -> (u8, bool) {
        let fresh = match self.age(half) {
            Age::Over => return (0, false),
            Age::Before => 1,
            Age::Same | Age::Behind | Age::Ahead => 2,
        };
        let heads = self.seen().heads > 0;
        (if heads { fresh + 2 } else { fresh }, heads)
    }
}

impl Seen {
    fn add(&mut self, head: bool) {
        if head {
            self.heads = (self.heads + 1).min(HEADS_MAX);
        } else {
            self.get = true;
        }
    }
}

impl Pairs {
    /// For about so many pairs.
    pub(super) fn new(pairs: u32) -> Self {
        let sets = pairs.div_ceil(WAYS as u32).max(1);
        Self { sets: (0..sets).map(|_| Set::default()).collect() }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.sets)
    }

    /// Notes a click of a pair, and tells what was seen of it: in its half, and in the one before or behind it.
    pub(super) fn note(&self, key: u128, head: bool, half: u64) -> Seen {
        let pair = (key >> 32) as u32;
        let place = (u64::from(key as u32) * self.sets.len() as u64) >> 32;
        let Set(cells) = &self.sets[place as usize];
        for _ in 0..TRIES_MAX {
            let olds: [u64; WAYS] = std::array::from_fn(|way| cells[way].load(Ordering::Relaxed));
            // A cell of zeros is one that nothing was seen in.
            let known = (0..WAYS).find(|way| olds[*way] != 0 && Cell::of(olds[*way]).pair == pair);
            let (way, new) = match known {
                Some(way) => (way, Cell::of(olds[way]).with(head, half)),
                None => {
                    let worth =
                        |way: &usize| if olds[*way] == 0 { (0, false) } else { Cell::of(olds[*way]).worth(half) };
                    let way = (0..WAYS).min_by_key(worth).unwrap_or(0);
                    let mut cell = Cell { pair, half: half as u16, ..Cell::default() };
                    cell.now.add(head);
                    (way, Some(cell))
                }
            };
            let Some(new) = new else { break };
            let swapped = cells[way].compare_exchange(olds[way], new.bits(), Ordering::Relaxed, Ordering::Relaxed);
            if swapped.is_ok() {
                return new.seen();
            }
        }
        Seen::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::hash;
    use super::*;

    fn seen(heads: u8, get: bool) -> Seen {
        Seen { heads, get }
    }

    #[test]
    fn heads_and_a_get_are_seen_together_within_two_halves_in_any_order() {
        let (pairs, a) = (Pairs::new(1_024), hash(&[b"a"]));
        let told = [(true, 5), (true, 5), (false, 5), (true, 6)].map(|(head, half)| pairs.note(a, head, half));
        assert_eq!(told, [seen(1, false), seen(2, false), seen(2, true), seen(3, true)]);
        assert_eq!(pairs.note(hash(&[b"b"]), true, 6), seen(1, false), "another pair");
        assert_eq!(pairs.note(a, true, 7), seen(2, false), "the GET is over");
        assert_eq!(pairs.note(a, false, 6), seen(2, true), "a late one is seen with the half behind it");
        assert_eq!(pairs.note(a, true, 3), Seen::default(), "too late");
        assert_eq!(pairs.note(a, true, 9), seen(1, false), "all is over");
    }

    #[test]
    fn cells_keep_what_is_in_them_to_the_last_bit() {
        let most = Seen { heads: HEADS_MAX, get: true };
        let full = Cell { pair: u32::MAX, half: u16::MAX, before: most, now: most };
        assert_eq!(Cell::of(full.bits()), full);
        for only in [
            Cell { pair: 1 << 31 | 1, ..Cell::default() },
            Cell { half: 1 << 15 | 1, ..Cell::default() },
            Cell { before: most, ..Cell::default() },
            Cell { now: most, ..Cell::default() },
        ] {
            assert_eq!(Cell::of(only.bits()), only);
        }
        assert_eq!(full.with(true, u16::MAX.into()).unwrap().seen(), most, "counts stop");
    }

    #[test]
    fn a_full_table_forgets_gets_first_and_invents_nothing() {
        let pairs = Pairs::new(4);
        let key = |n: u32| u128::from(n) << 32;
        let told = |n, head| pairs.note(key(n), head, 5);
        (1..=3).for_each(|n| assert_eq!(told(n, true), seen(1, false)));
        (10..100).for_each(|n| assert_eq!(told(n, false), seen(0, true)));
        (1..=3).for_each(|n| assert_eq!(told(n, true), seen(2, false), "{n}"));
        assert_eq!(told(10, false), seen(0, true));
        assert_eq!(pairs.bytes(), 32);
    }

    #[test]
    fn what_is_seen_was_there() {
        (0..8).for_each(compare_with_exact_sums);
    }

    fn compare_with_exact_sums(seed: u64) {
        let (mut random, pairs, mut exact) = (fastrand::Rng::with_seed(seed), Pairs::new(64), HashMap::new());
        let (mut half, mut told) = (70_000_u64, 0);
        for _ in 0..20_000 {
            half += u64::from(random.u8(..) == 0);
            let (key, head) = (random.u64(..200), random.bool());
            *exact.entry((key, half, head)).or_insert(0_u32) += 1;
            let sum = |head| [half, half - 1].iter().filter_map(|of| exact.get(&(key, *of, head))).sum::<u32>();
            let seen = pairs.note(hash(&[&key.to_le_bytes()]), head, half);
            assert!(u32::from(seen.heads) <= sum(true) && (!seen.get || sum(false) > 0), "SEED={seed}: {seen:?}");
            assert!(if head { seen.heads > 0 } else { seen.get }, "SEED={seed}, itself at least: {seen:?}");
            told += u32::from(seen.heads >= 3 && seen.get);
        }
        assert!(told > 0, "SEED={seed}");
    }
}
