//! Links by the hashes of their names: open addressing with linear probing, each hash beside its entry.
//!
//! A look-up reads one cache line of the table, in most cases, and the entry; with five million links each further line is
//! one that has to come from far away. A table that grows reads no entry at all. Part of `links`. Bounds: a slot has 16
//! bytes; at most [`FULL`] of them are taken, and there are twice as many when it is reached. It never shrinks.

use std::fmt;
use std::sync::Arc;

use super::links::Entry;

/// Of four slots.
const FULL: usize = 3;
const SLOTS_MIN: usize = 4;

/// The links of a shard.
#[derive(Clone, Default)]
pub(super) struct LinkTable {
    /// None, or a power of two of them.
    slots: Box<[Slot]>,
    len: usize,
}

#[derive(Clone, Default)]
struct Slot {
    hash: u64,
    entry: Option<Arc<Entry>>,
}

impl LinkTable {
    /// The entry of this hash that is the one.
    pub(super) fn find(&self, hash: u64, is: impl Fn(&Entry) -> bool) -> Option<&Arc<Entry>> {
        self.place(hash, is).and_then(|place| self.slots[place].entry.as_ref())
    }

    /// Takes in an entry that is not there yet.
    pub(super) fn insert(&mut self, hash: u64, entry: Arc<Entry>) {
        if (self.len + 1) * 4 > self.slots.len() * FULL {
            let more = (self.slots.len() * 2).max(SLOTS_MIN);
            let before = std::mem::replace(&mut self.slots, vec![Slot::default(); more].into());
            before.into_iter().filter(|slot| slot.entry.is_some()).for_each(|slot| self.put(slot));
        }
        self.put(Slot { hash, entry: Some(entry) });
        self.len += 1;
    }

    /// Takes the entry of this hash out that is the one.
    pub(super) fn remove(&mut self, hash: u64, is: impl Fn(&Entry) -> bool) -> Option<Arc<Entry>> {
        let mut hole = self.place(hash, is)?;
        let removed = self.slots[hole].entry.take();
        self.len -= 1;
        // Those behind it move up, unless they would come to lie before the place where their search begins.
        let last = self.slots.len() - 1;
        let mut next = (hole + 1) & last;
        while self.slots[next].entry.is_some() {
            let home = self.slots[next].hash as usize & last;
            if next.wrapping_sub(home) & last >= next.wrapping_sub(hole) & last {
                self.slots.swap(hole, next);
                hole = next;
            }
            next = (next + 1) & last;
        }
        removed
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.slots.iter().filter_map(|slot| slot.entry.as_ref())
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Places that memory is taken for.
    #[cfg(test)]
    pub(super) const fn slots(&self) -> usize {
        self.slots.len()
    }

    /// There is always a free slot, where a search ends.
    fn place(&self, hash: u64, is: impl Fn(&Entry) -> bool) -> Option<usize> {
        let last = self.slots.len().checked_sub(1)?;
        let mut place = hash as usize & last;
        while let Some(entry) = &self.slots[place].entry {
            if self.slots[place].hash == hash && is(entry) {
                return Some(place);
            }
            place = (place + 1) & last;
        }
        None
    }

    fn put(&mut self, slot: Slot) {
        let last = self.slots.len() - 1;
        let mut place = slot.hash as usize & last;
        while self.slots[place].entry.is_some() {
            place = (place + 1) & last;
        }
        self.slots[place] = slot;
    }
}

impl fmt::Debug for LinkTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkTable").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::click::{Link, OwnHosts, RawLink};

    fn entry(slug: &str) -> Arc<Entry> {
        let raw = RawLink { slug: Some(slug.into()), url: Some("https://a.example/".into()), ..RawLink::default() };
        Arc::new(Entry::new(Link::check(raw, &OwnHosts::default()).unwrap()))
    }

    /// Sixteen of them, whose places are the last of any table.
    fn hash_of(name: &str) -> u64 {
        (name.bytes().map(u64::from).sum::<u64>() % 16) | !15
    }

    /// Few hashes, so that many names have the same, and searches run over the end of the table.
    #[test]
    fn a_table_holds_what_was_put_in_and_not_taken_out() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut table, mut model) = (LinkTable::default(), BTreeMap::new());
            for step in 0..300 {
                let name = format!("n{}", rng.u32(..60));
                let hash = hash_of(&name);
                let is = |entry: &Entry| entry.link.slug == *name;
                let removed = table.remove(hash, is).map(|entry| entry.link.slug.to_string());
                assert_eq!(removed, model.remove(&name).map(|()| name.clone()), "seed {seed}, step {step}");
                if removed.is_none() || rng.bool() {
                    table.insert(hash, entry(&name));
                    model.insert(name, ());
                }
                assert_eq!(table.len(), model.len(), "seed {seed}, step {step}");
            }
            for n in 0..60 {
                let name = format!("n{n}");
                let found = table.find(hash_of(&name), |entry| entry.link.slug == *name);
                assert_eq!(found.is_some(), model.contains_key(&name), "seed {seed}, {name}");
            }
            let mut all: Vec<_> = table.iter().map(|entry| entry.link.slug.to_string()).collect();
            all.sort();
            assert!(all.iter().eq(model.keys()), "seed {seed}");
            assert!(table.slots() <= 128, "60 names at most need 128 slots: {}", table.slots());
        }
    }
}
