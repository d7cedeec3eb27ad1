//! Answers of the Warden in memory: a bounded map of which readers take a snapshot, as of [`super::super::links`].
//!
//! One task writes ([`super::asking`]), everybody reads. A write copies the pointers of one shard of 256. When the map is
//! full the oldest answer of a shard goes, that of the new one if it has any: a key in use is asked about again and again,
//! so an old answer is an unused one.

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hashbrown::HashTable;

use super::super::warden::Checked;
use crate::click::key::Digest;

const SHARDS: usize = 256;

/// What the Warden said of one key.
pub(super) struct Known {
    pub(super) key_id: Box<str>,
    /// Of the whole key.
    pub(super) digest: Digest,
    pub(super) answer: Checked,
    /// When it was asked, by the monotonic clock: the answer is no younger.
    pub(super) asked: Duration,
    /// Nobody is to ask again on the side before this, by the monotonic clock in milliseconds.
    pub(super) again_ms: AtomicU64,
}

type Shard = HashTable<Arc<Known>>;

pub(super) struct Memory {
    shards: Box<[ArcSwap<Shard>]>,
    hasher: foldhash::quality::RandomState,
    count: AtomicUsize,
    entries_max: usize,
}

impl Memory {
    pub(super) fn new(entries_max: usize) -> Self {
        let shards = (0..SHARDS).map(|_| ArcSwap::default()).collect();
        Self { shards, hasher: foldhash::quality::RandomState::default(), count: AtomicUsize::new(0), entries_max }
    }

    /// Calls `f` with what is known of a key. No lock, no copy, no reference count.
    pub(super) fn with<R>(&self, key_id: &str, digest: &Digest, f: impl FnOnce(Option<&Known>) -> R) -> R {
        let hash = self.hasher.hash_one(key_id);
        let shard = self.shards[shard_of(hash)].load();
        f(shard.find(hash, |known| *known.key_id == *key_id && known.digest == *digest).map(Arc::as_ref))
    }

    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Keeps an answer, over an earlier one about the same key. Only one task may call this and [`Memory::forget`].
    pub(super) fn keep(&self, known: Known) {
        let hash = self.hasher.hash_one(&*known.key_id);
        let mut shard = self.copy(shard_of(hash));
        let before = shard.len();
        shard.retain(|other| other.key_id != known.key_id || other.digest != known.digest);
        if shard.len() == before && self.len() >= self.entries_max {
            self.make_room(&mut shard, shard_of(hash));
        }
        shard.insert_unique(hash, Arc::new(known), |known| self.hasher.hash_one(&*known.key_id));
        self.put(shard_of(hash), before, shard);
    }

    /// Forgets whatever is known of the keys of this id.
    pub(super) fn forget(&self, key_id: &str) {
        self.forget_those(key_id, |_| true);
    }

    /// Forgets what is known of one key.
    pub(super) fn forget_one(&self, key_id: &str, digest: &Digest) {
        self.forget_those(key_id, |known| known.digest == *digest);
    }

    fn forget_those(&self, key_id: &str, which: impl Fn(&Known) -> bool) {
        let index = shard_of(self.hasher.hash_one(key_id));
        if !self.shards[index].load().iter().any(|known| *known.key_id == *key_id && which(known)) {
            return;
        }
        let mut shard = self.copy(index);
        let before = shard.len();
        shard.retain(|known| *known.key_id != *key_id || !which(known));
        self.put(index, before, shard);
    }

    /// Takes the oldest out of this shard, which stands at `index`, or, where it has none, out of the next that has.
    fn make_room(&self, shard: &mut Shard, index: usize) {
        if remove_oldest(shard) {
            return;
        }
        for other in (1..SHARDS).map(|step| (index + step) % SHARDS) {
            let mut shard = self.copy(other);
            let before = shard.len();
            if remove_oldest(&mut shard) {
                return self.put(other, before, shard);
            }
        }
    }

    fn copy(&self, index: usize) -> Shard {
        Shard::clone(&self.shards[index].load())
    }

    fn put(&self, index: usize, before: usize, shard: Shard) {
        self.count.fetch_add(shard.len(), Ordering::Relaxed);
        self.count.fetch_sub(before, Ordering::Relaxed);
        self.shards[index].store(Arc::new(shard));
    }
}

fn remove_oldest(shard: &mut Shard) -> bool {
    let Some(oldest) = shard.iter().min_by_key(|known| known.asked).map(Arc::clone) else { return false };
    shard.retain(|known| !Arc::ptr_eq(known, &oldest));
    true
}

/// By the top bits: the table itself uses the low ones, and some of the top.
const fn shard_of(hash: u64) -> usize {
    (hash >> 48) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Why;

    fn known(key: u32, asked_ms: u64) -> Known {
        Known {
            key_id: format!("key{key}").into(),
            digest: digest(key),
            answer: Checked::Denied(Why::Unknown),
            asked: Duration::from_millis(asked_ms),
            again_ms: AtomicU64::new(0),
        }
    }

    fn digest(key: u32) -> Digest {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&key.to_le_bytes());
        Digest(bytes)
    }

    fn asked_ms(memory: &Memory, key: u32) -> Option<u128> {
        memory.with(&format!("key{key}"), &digest(key), |known| known.map(|known| known.asked.as_millis()))
    }

    #[test]
    fn the_newest_answer_stands_and_another_digest_is_another_key() {
        let memory = Memory::new(10);
        memory.keep(known(1, 5));
        memory.keep(known(1, 7));
        memory.keep(Known { digest: digest(2), ..known(1, 9) });
        assert_eq!((memory.len(), asked_ms(&memory, 1), asked_ms(&memory, 2)), (2, Some(7), None));
        memory.forget("key1");
        assert_eq!((memory.len(), asked_ms(&memory, 1)), (0, None), "whatever its digest");
        memory.forget("key1");
    }

    #[test]
    fn it_never_holds_more_than_its_bound_and_an_old_answer_goes() {
        for entries_max in [1, 2, 100, 1000] {
            let memory = Memory::new(entries_max);
            for key in 0..3000 {
                memory.keep(known(key, u64::from(key)));
                let kept = memory.shards.iter().map(|shard| shard.load().len()).sum::<usize>();
                assert_eq!(kept, memory.len());
                assert!(kept <= entries_max);
                assert!(asked_ms(&memory, key).is_some(), "the newest is there");
            }
            assert_eq!(memory.len(), entries_max);
        }
        // What has one id is in one shard.
        let memory = Memory::new(3);
        for (n, asked_ms) in [(1, 5), (2, 3), (3, 9), (4, 7)] {
            memory.keep(Known { digest: digest(n), ..known(0, asked_ms) });
        }
        let is_there = |n| memory.with("key0", &digest(n), |known| known.is_some());
        assert_eq!([1, 2, 3, 4].map(is_there), [true, false, true, true], "the oldest has gone");
    }
}
