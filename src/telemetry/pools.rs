//! What is said of pools of connections: how many connections there are, how old, how long callers waited for one.
//!
//! All pools of one kind in a process (each runtime has its own) write into one [`PoolShard`], so what a scrape shows is
//! their sum. Several threads write it, once a request: atomic additions, and a lock where a connection is made or
//! closed. Never on a request thread. Bounds: an entry for each open connection.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::shard::{Histogram, Scale};
use crate::clock::Clock;

/// A kind of pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooled {
    /// Connections to Redis.
    Redis,
    /// Connections to ClickHouse.
    ClickHouse,
}

impl Pooled {
    pub(super) const NAMES: [&str; 2] = ["redis", "clickhouse"];
}

/// Written by all pools of one kind.
#[derive(Debug)]
pub struct PoolShard {
    capacity: AtomicU64,
    busy: AtomicU64,
    requests: AtomicU64,
    failures: AtomicU64,
    wait: Histogram,
    open: Mutex<Open>,
}

/// Open connections by number, with what tells their age.
#[derive(Debug, Default)]
struct Open {
    next: u64,
    since: BTreeMap<u64, (Duration, Arc<dyn Clock>)>,
}

impl Default for PoolShard {
    fn default() -> Self {
        Self {
            capacity: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            wait: Histogram::new(Scale::Durations),
            open: Mutex::default(),
        }
    }
}

impl PoolShard {
    /// A pool that may have so many connections.
    #[must_use = "the pool counts until this is dropped"]
    pub fn count_pool(self: &Arc<Self>, capacity: usize) -> Counted {
        self.capacity.fetch_add(capacity as u64, Ordering::Relaxed);
        Counted { shard: Arc::clone(self), what: What::Pool(capacity as u64) }
    }

    /// A connection that was made now.
    #[must_use = "the connection counts until this is dropped"]
    pub fn count_connection(self: &Arc<Self>, clock: &Arc<dyn Clock>) -> Counted {
        let mut open = self.open();
        let number = open.next;
        open.next += 1;
        open.since.insert(number, (clock.now(), Arc::clone(clock)));
        Counted { shard: Arc::clone(self), what: What::Connection(number) }
    }

    /// A connection in use, or a request on one.
    #[must_use = "it is in use until this is dropped"]
    pub fn count_busy(self: &Arc<Self>) -> Counted {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Counted { shard: Arc::clone(self), what: What::Busy }
    }

    /// Someone asked for a connection.
    pub fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// None could be made, none was free in time, or the one that was given broke.
    pub fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// From asking to having one.
    pub fn observe_wait(&self, wait: Duration) {
        self.wait.observe_duration_shared(wait);
    }

    /// Requests so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Failures so far.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Connections in use now.
    #[must_use]
    pub fn busy(&self) -> u64 {
        self.busy.load(Ordering::Relaxed)
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.open().since.len() as u64
    }

    /// Age of the oldest open connection; zero when there is none.
    #[must_use]
    pub fn oldest(&self) -> Duration {
        let open = self.open();
        open.since.values().map(|(since, clock)| clock.now().saturating_sub(*since)).max().unwrap_or_default()
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    pub(super) const fn wait(&self) -> &Histogram {
        &self.wait
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // An entry is put in or taken out whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts as long as it lives.
#[derive(Debug)]
pub struct Counted {
    shard: Arc<PoolShard>,
    what: What,
}

#[derive(Debug)]
enum What {
    Pool(u64),
    Connection(u64),
    Busy,
}

impl Drop for Counted {
    fn drop(&mut self) {
        match self.what {
            What::Pool(capacity) => {
                self.shard.capacity.fetch_sub(capacity, Ordering::Relaxed);
            }
            What::Connection(number) => {
                self.shard.open().since.remove(&number);
            }
            What::Busy => {
                self.shard.busy.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}
