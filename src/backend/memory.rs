//! The embedded deduper: a bounded map from fingerprint to the click that owns it.
//!
//! One is shared by all workers of a node; it forgets at a restart and knows nothing of other nodes, so it may call a
//! duplicate unique, and never the reverse. When it is full, the fingerprint that was claimed first goes first. `app`
//! makes it, workers call it. Bound: `dedup.entries_max` entries of at most 55 bytes (32 in a ring, 6 to 23 in its index,
//! which is a power of two): 27 MB for the default of 500,000.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hashbrown::hash_table::{Entry, HashTable};

use crate::BoxFuture;
use crate::click::{ClickId, Fingerprint};
use crate::pipeline::dedup::judge;
use crate::pipeline::{Claim, Deduper, Label};

/// Locks, so that workers seldom meet in one.
const SHARDS: usize = 16;

/// Fingerprints and their owners in memory.
#[derive(Debug)]
pub struct MemoryDeduper {
    shards: [Mutex<Shard>; SHARDS],
    window_ms: u64,
}

impl MemoryDeduper {
    /// Remembers at most `entries_max` fingerprints (rounded up to a multiple of 16). Two clicks less than `window` apart
    /// are one visitor's, unless a click has a window of its own.
    #[must_use]
    pub fn new(entries_max: usize, window: Duration) -> Self {
        let each = entries_max.div_ceil(SHARDS).max(1);
        Self {
            shards: std::array::from_fn(|_| Mutex::new(Shard::new(each))),
            window_ms: u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn label(&self, claim: &Claim) -> Label {
        // Not the byte that leads the shard's own hash.
        let shard = &self.shards[usize::from(claim.fingerprint.0[15]) % SHARDS];
        // A shard is whole after every step of a claim; a panic elsewhere under the lock cannot have torn it.
        shard.lock().unwrap_or_else(PoisonError::into_inner).claim(claim, claim.window_ms(self.window_ms))
    }
}

impl Deduper for MemoryDeduper {
    fn check<'a>(&'a self, claims: &'a [Claim]) -> BoxFuture<'a, Vec<Label>> {
        let labels = claims.iter().map(|claim| self.label(claim)).collect();
        Box::pin(std::future::ready(labels))
    }

    fn name(&self) -> &'static str {
        "memory"
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A ring of claims in the order in which they were made, and an index into it by fingerprint.
#[derive(Debug)]
struct Shard {
    ring: Vec<(Fingerprint, ClickId)>,
    /// The place that is written next, once the ring is full.
    oldest: usize,
    entries_max: usize,
    index: HashTable<u32>,
}

impl Shard {
    /// Memory is taken as it is used: room that was never written is not resident.
    fn new(entries_max: usize) -> Self {
        // Places are u32; 16 shards of that are more than any machine holds.
        let entries_max = entries_max.min(u32::MAX as usize);
        Self { ring: Vec::with_capacity(entries_max), oldest: 0, entries_max, index: HashTable::new() }
    }

    fn claim(&mut self, claim: &Claim, window_ms: u64) -> Label {
        let at =
            self.index.find(hash(&claim.fingerprint), |at| self.ring[*at as usize].0 == claim.fingerprint).copied();
        let owner = at.map(|at| self.ring[at as usize].1);
        let verdict = judge(owner, claim.id, window_ms);
        if owner.is_none() || verdict.take_over {
            self.remember(claim);
        }
        verdict.label
    }

    /// Writes the claim into the ring and points the index at it. An older claim of the same fingerprint stays in the ring
    /// without a pointer until its place is written again.
    fn remember(&mut self, claim: &Claim) {
        let at = if self.ring.len() < self.entries_max {
            self.ring.push((claim.fingerprint, claim.id));
            self.ring.len() - 1
        } else {
            let at = self.oldest;
            self.oldest = (at + 1) % self.entries_max;
            self.forget(at);
            self.ring[at] = (claim.fingerprint, claim.id);
            at
        };
        let (ring, at) = (&self.ring, at as u32);
        let same = |other: &u32| ring[*other as usize].0 == claim.fingerprint;
        match self.index.entry(hash(&claim.fingerprint), same, |at| hash(&ring[*at as usize].0)) {
            Entry::Occupied(mut entry) => *entry.get_mut() = at,
            Entry::Vacant(entry) => {
                entry.insert(at);
            }
        }
    }

    fn forget(&mut self, at: usize) {
        if let Ok(entry) = self.index.find_entry(hash(&self.ring[at].0), |other| *other as usize == at) {
            entry.remove();
        }
    }
}

/// A fingerprint is a keyed hash already.
fn hash(fingerprint: &Fingerprint) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = fingerprint.0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::click::dedup::Window;

    fn claim(visitor: u8, unix_ms: u64, tail: u8) -> Claim {
        Claim { fingerprint: Fingerprint([visitor; 16]), id: ClickId::new(unix_ms, &[tail; 10]), window: None }
    }

    /// The same in the plainest way: all claims in a list.
    #[derive(Default)]
    struct Model {
        claims: Vec<Claim>,
    }

    impl Model {
        fn claim(&mut self, claim: &Claim, entries_max: usize, window_ms: u64) -> Label {
            let kept = &self.claims[self.claims.len().saturating_sub(entries_max)..];
            let owner = kept.iter().rev().find(|c| c.fingerprint == claim.fingerprint).map(|c| c.id);
            let verdict = judge(owner, claim.id, window_ms);
            if owner.is_none() || verdict.take_over {
                self.claims.push(*claim);
            }
            verdict.label
        }
    }

    proptest! {
        #[test]
        fn a_shard_does_what_its_model_does(
            entries_max in 1_usize..6,
            claims in proptest::collection::vec((0_u8..8, 0_u64..60, 0_u8..3), 0..200),
        ) {
            let (mut shard, mut model) = (Shard::new(entries_max), Model::default());
            for (visitor, unix_ms, tail) in claims {
                let claim = claim(visitor, unix_ms, tail);
                prop_assert_eq!(shard.claim(&claim, 10), model.claim(&claim, entries_max, 10));
                prop_assert!(shard.ring.len() <= entries_max && shard.index.len() <= entries_max);
            }
        }
    }

    #[tokio::test]
    async fn of_two_clicks_within_the_window_one_is_unique() {
        let deduper = MemoryDeduper::new(100, Duration::from_secs(10));
        let claims =
            [claim(1, 1000, 1), claim(1, 2000, 2), claim(2, 2000, 3), claim(1, 11_000, 4), claim(1, 11_001, 5)];
        let labels = deduper.check(&claims).await;
        assert_eq!(labels, [Label::Unique, Label::Duplicate, Label::Unique, Label::Unique, Label::Duplicate]);
        assert_eq!(deduper.check(&claims[3..4]).await, [Label::Unique], "asked again, the same answer");
    }

    #[tokio::test]
    async fn a_click_with_a_window_of_its_own_is_judged_by_it() {
        let deduper = MemoryDeduper::new(100, Duration::from_secs(10));
        let own = |seconds, claim: Claim| Claim { window: Window::of_seconds(seconds), ..claim };
        let claims = [
            own(2, claim(1, 1_000, 1)),
            own(60, claim(2, 1_000, 2)),
            claim(3, 1_000, 3),
            own(2, claim(1, 2_999, 4)),
            own(2, claim(1, 3_000, 5)),
            own(60, claim(2, 60_999, 6)),
            claim(3, 10_999, 7),
            claim(3, 11_000, 8),
        ];
        use Label::{Duplicate, Unique};
        let labels = deduper.check(&claims).await;
        assert_eq!(labels, [Unique, Unique, Unique, Duplicate, Unique, Duplicate, Duplicate, Unique]);
    }

    #[tokio::test]
    async fn the_oldest_fingerprint_goes_first() {
        let deduper = MemoryDeduper::new(1, Duration::from_secs(10));
        // One shard: the last byte is the same.
        let of = |visitor: u8| {
            let mut fingerprint = [0; 16];
            fingerprint[0] = visitor;
            Claim { fingerprint: Fingerprint(fingerprint), id: ClickId::new(1, &[visitor; 10]), window: None }
        };
        let again = Claim { id: ClickId::new(2, &[9; 10]), ..of(1) };
        let labels = deduper.check(&[of(1), again, of(2), again]).await;
        assert_eq!(labels, [Label::Unique, Label::Duplicate, Label::Unique, Label::Unique]);
    }
}
