//! How often memory knew what it was asked.
//!
//! Each thread that looks has a shard of its own, so that a look costs an addition; a scrape adds them up. Bound: a shard for
//! each thread.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::proto::{MetricFamily, MetricType};

use super::families::{counter, family, pair};
use super::metrics::Metrics;
use super::shard::Cell;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Of keys at `/in`: a hit is an answer without asking anybody.
    Keys,
    /// Of links: a hit is a link. Who guesses slugs makes misses.
    Links,
    /// Of campaigns: a hit is one of the name that a link, or a visit of `/in`, gave.
    Campaigns,
    /// Of user agents: a hit was read before.
    Agents,
    /// Of decisions about what a click keeps: a hit was decided before, for a visit that said the same.
    Compliance,
}

impl Cache {
    const NAMES: [&str; 5] = ["keys", "links", "campaigns", "agents", "compliance"];
}

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Looker {
    /// This edge thread.
    Edge(usize),
    /// This worker; the one past the last edge thread is that of the journals of earlier runs.
    Worker(usize),
}

/// Written by one thread; on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct CacheShard([[Cell; 2]; Cache::NAMES.len()]);

impl CacheShard {
    /// Counts a look. Only the owner of the shard may call this.
    pub fn count(&self, cache: Cache, hit: bool) {
        self.0[cache as usize][usize::from(!hit)].add(1);
    }
}

/// All shards of a process.
#[derive(Debug, Default)]
pub(super) struct Caches(Mutex<BTreeMap<Looker, Arc<CacheShard>>>);

impl Caches {
    pub(super) fn family(&self) -> MetricFamily {
        let shards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = family("trellis_cache_total", "Looks into memory", MetricType::COUNTER, Vec::new());
        for (place, cache) in Cache::NAMES.into_iter().enumerate() {
            let sum = |result: usize| shards.values().map(|shard| shard.0[place][result].get()).sum();
            let mut of_cache = counter("", "", "result", &[("hit", sum(0)), ("miss", sum(1))]).take_metric();
            for metric in &mut of_cache {
                let mut labels = metric.take_label();
                labels.insert(0, pair("cache", cache));
                metric.set_label(labels);
            }
            all.mut_metric().extend(of_cache);
        }
        all
    }
}

impl Metrics {
    /// The shard of a thread that looks into memory.
    #[must_use]
    pub fn caches(&self, of: Looker) -> Arc<CacheShard> {
        let mut shards = self.shards.watched.caches.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(shards.entry(of).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_of_all_threads_add_up_by_cache_and_result() {
        let metrics = Metrics::new(1, 1, &[], || 0).unwrap();
        let (one, other) = (metrics.caches(Looker::Edge(0)), metrics.caches(Looker::Worker(0)));
        one.count(Cache::Links, true);
        one.count(Cache::Links, false);
        other.count(Cache::Links, true);
        metrics.caches(Looker::Worker(0)).count(Cache::Agents, false);
        let text = metrics.render(0);
        for line in [
            "{cache=\"links\",result=\"hit\"} 2",
            "{cache=\"links\",result=\"miss\"} 1",
            "{cache=\"agents\",result=\"miss\"} 1",
            "{cache=\"campaigns\",result=\"hit\"} 0",
            "{cache=\"keys\",result=\"miss\"} 0",
            "{cache=\"compliance\",result=\"hit\"} 0",
        ] {
            assert!(text.contains(&format!("trellis_cache_total{line}\n")), "{line} is not in\n{text}");
        }
    }
}
