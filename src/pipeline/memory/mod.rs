//! What all workers of the process remember together of the clicks before: how fast they follow each other by network and
//! by link, and who sent HEADs and a GET. It only finds reasons, for the record; the intent freezes them with the labels.
//!
//! Time is that of the click, from its id, cut into halves of a window. A click is measured with its half and the one
//! before, so that what is found lies within a window, and what lies within half of one is found. A click of an older half
//! than the one before the newest (a backlog, a replay, a core that lies behind) is not measured, and disturbs nothing; so
//! are all after a clock was set back, until it has caught up. Clicks in the same order find the same.
//!
//! An address is what the click keeps of it, hence a network; a click that keeps none is measured by link alone. A link is
//! its slug at the domain that was asked; a click of `/in` and a visit to no link have none. It never blocks: relaxed atomics, whose size is set in `classify.toml`. It is empty after a restart,
//! knows nothing of other nodes, and counts a click that is read twice before it is frozen twice.

mod pairs;
mod sketch;

use std::hash::Hasher as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use siphasher::sip128::{Hasher128 as _, SipHasher13};

use self::pairs::Pairs;
use self::sketch::Sketch;
use crate::click::class::Memory as Limits;
use crate::click::domain::NO_LINK;
use crate::click::{Click, Kept, Marks, Networks, Reasons};

/// Half a minute.
const HALF_MS: u64 = 30_000;

/// The memory. Shared by `Arc`.
#[derive(Debug)]
pub struct Memory {
    limits: Limits,
    data_centres: Arc<Networks>,
    minute: Halves,
    addresses: Sketch,
    links: Sketch,
    pattern: Halves,
    pairs: Pairs,
}

impl Memory {
    /// An empty one. Allocates what the limits say.
    #[must_use]
    pub fn new(limits: Limits, data_centres: Arc<Networks>) -> Self {
        Self {
            limits,
            data_centres,
            minute: Halves::of(HALF_MS),
            addresses: Sketch::new(limits.counters),
            links: Sketch::new(limits.counters),
            pattern: Halves::of(limits.heads_within_ms / 2),
            pairs: Pairs::new(limits.pairs),
        }
    }

    /// Names the networks of data centres; the limits are among the classifier's rules.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.data_centres.version()
    }

    /// Remembers a click, and tells which of [`Reasons::OF_WORKER`] hold for it. To be called once for each click.
    pub fn observe(&self, click: &Click<'_>) -> Reasons {
        if click.marks.has(Marks::PROBE) {
            // The node's own prober speaks neither for nor against who shares its network.
            return Reasons::default();
        }
        let Limits { address_per_minute, link_per_minute, heads_min, .. } = self.limits;
        let (unix_ms, address) = (click.id.unix_ms(), click.address);
        let network = address.and_then(|address| address.network());
        let by_address = address.map(|address| match address {
            Kept::Network(IpAddr::V4(v4)) => hash(&[&v4.octets()]),
            Kept::Network(IpAddr::V6(v6)) => hash(&[&v6.octets()]),
            Kept::Hash(of_address) => hash(&[&of_address]),
        });
        let is_link = !click.link.is_empty() && click.link != NO_LINK;
        // No domain has a slash.
        let by_link = is_link.then(|| hash(&[click.domain.as_bytes(), b"/", click.link.as_bytes()]));
        let half = self.minute.enter(unix_ms);
        let fast = |sketch: &Sketch, key: Option<u128>, from: u32| {
            from > 0 && key.zip(half).is_some_and(|(key, half)| sketch.count(key, half) >= from)
        };
        let pair = by_address.zip(by_link).filter(|_| heads_min > 0);
        // Both hashes are evenly spread, and turned they do not meet where link and address are the same bytes.
        let pattern = pair.zip(self.pattern.enter(unix_ms)).is_some_and(|((address, link), half)| {
            let seen = self.pairs.note(address ^ link.rotate_left(64), click.head, half);
            seen.get && seen.heads >= heads_min
        });
        Reasons::default()
            .with(Reasons::DATA_CENTRE, network.is_some_and(|network| self.data_centres.cover(network)))
            .with(Reasons::VELOCITY_ADDRESS, fast(&self.addresses, by_address, address_per_minute))
            .with(Reasons::VELOCITY_LINK, fast(&self.links, by_link, link_per_minute))
            .with(Reasons::PREVIEW_PATTERN, pattern)
    }

    /// Memory of its tables; it never grows.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.addresses.bytes() + self.links.bytes() + self.pairs.bytes()
    }
}

/// The same in every process: the same clicks find the same again.
fn hash(parts: &[&[u8]]) -> u128 {
    let mut hasher = SipHasher13::new();
    parts.iter().for_each(|part| hasher.write(part));
    hasher.finish128().as_u128()
}

/// Time in halves of a window, which goes forward only.
#[derive(Debug)]
struct Halves {
    half_ms: u64,
    /// Number of the newest half in which there was a click.
    newest: AtomicU64,
}

impl Halves {
    fn of(half_ms: u64) -> Self {
        Self { half_ms: half_ms.max(1), newest: AtomicU64::new(0) }
    }

    /// The number of the half that this moment lies in; `None` when it is older than the one before the newest.
    fn enter(&self, unix_ms: u64) -> Option<u64> {
        let half = unix_ms / self.half_ms;
        let newest = self.newest.load(Ordering::Relaxed);
        if half > newest {
            self.newest.fetch_max(half, Ordering::Relaxed);
        }
        (half + 1 >= newest).then_some(half)
    }
}

/// How a cell that was last written in one half stands to a click of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    /// The same.
    Same,
    /// The cell is of the half before the click's.
    Before,
    /// The cell is of the half behind the click's.
    Behind,
    /// The cell is further ahead: another worker was faster. The click is to be left out.
    Ahead,
    /// What the cell holds is over.
    Over,
}

impl Age {
    /// Of two numbers of halves of which `bits` bits are known.
    fn of(cell: u64, click: u64, bits: u32) -> Self {
        let most = (1 << bits) - 1;
        match click.wrapping_sub(cell) & most {
            0 => Self::Same,
            1 => Self::Before,
            age if age == most => Self::Behind,
            // Nobody is further ahead: `Halves` has let the click pass a moment ago.
            age if age >= most - 4 => Self::Ahead,
            _ => Self::Over,
        }
    }
}

#[cfg(test)]
mod tests;
