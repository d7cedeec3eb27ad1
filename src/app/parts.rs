//! Which parts the configuration asks for. Embedded ones are made once and shared; those that talk to a network are made
//! once for each runtime (see [`crate::backend`]).

use std::sync::{Arc, OnceLock};

use anyhow::Context as _;

use crate::backend::clickhouse::{self, ClickHouseStore};
use crate::backend::memory::MemoryDeduper;
use crate::backend::redis::{self, RedisDeduper};
use crate::backend::redis_caps::RedisCaps;
use crate::backend::sqlite_catalog::SqliteCatalog;
use crate::backend::sqlite_clicks::SqliteClicks;
use crate::backend::timed::TimedStore;
use crate::clock::Clock;
use crate::config::{Config, DedupBackend, StoreBackend};
use crate::pipeline::breaker::Breaker;
use crate::pipeline::caps::CapExchange;
use crate::pipeline::{Deduper, Store};
use crate::telemetry::calls::Calls;
use crate::telemetry::metrics::{Guarded, Metrics};
use crate::telemetry::pools::{PoolShard, Pooled};

/// Makes backends.
pub(super) struct Backends {
    config: Config,
    sqlite: OnceLock<Arc<SqliteClicks>>,
    memory: Arc<MemoryDeduper>,
    /// One for the process: all workers find out together.
    dedup_breaker: OnceLock<Arc<Breaker>>,
    clock: Arc<dyn Clock>,
    /// Of all that is made here.
    calls: Arc<Calls>,
}

impl Backends {
    pub(super) fn new(config: &Config, clock: Arc<dyn Clock>) -> Self {
        let entries = match config.dedup.backend {
            DedupBackend::Memory => config.dedup.entries_max,
            DedupBackend::Redis => 1,
        };
        let memory = Arc::new(MemoryDeduper::new(entries, config.dedup.window));
        let (calls, dedup_breaker) = (Calls::new(Arc::clone(&clock)), OnceLock::new());
        Self { config: config.clone(), sqlite: OnceLock::new(), memory, dedup_breaker, clock, calls }
    }

    /// How long it takes to ask them.
    pub(super) fn calls(&self) -> Arc<Calls> {
        Arc::clone(&self.calls)
    }

    /// A store for one of `runtimes` runtimes, its connections counted here.
    pub(super) fn store(&self, runtimes: usize, metrics: Arc<PoolShard>) -> anyhow::Result<Arc<dyn Store>> {
        Ok(Arc::new(TimedStore::new(self.untimed(runtimes, metrics)?, self.calls())))
    }

    fn untimed(&self, runtimes: usize, metrics: Arc<PoolShard>) -> anyhow::Result<Arc<dyn Store>> {
        let settings = &self.config.store;
        match settings.backend {
            StoreBackend::ClickHouse => {
                let parts = clickhouse::Parts { clock: Arc::clone(&self.clock), metrics };
                let retention = settings.retention.clone();
                Ok(Arc::new(ClickHouseStore::new(&settings.clickhouse, retention, runtimes, parts)))
            }
            StoreBackend::Sqlite => {
                if let Some(store) = self.sqlite.get() {
                    return Ok(Arc::clone(store) as Arc<dyn Store>);
                }
                let path = self.config.data_dir.join("clicks.db");
                let opened = SqliteClicks::open(&path, settings.retention.clone())
                    .with_context(|| format!("`{}` cannot be opened", path.display()))?;
                Ok(Arc::clone(self.sqlite.get_or_init(|| Arc::new(opened))) as Arc<dyn Store>)
            }
        }
    }

    /// A deduper for one of `runtimes` runtimes.
    pub(super) fn deduper(&self, runtimes: usize, metrics: &Metrics) -> anyhow::Result<Arc<dyn Deduper>> {
        match self.config.dedup.backend {
            DedupBackend::Memory => Ok(Arc::clone(&self.memory) as Arc<dyn Deduper>),
            DedupBackend::Redis => {
                let retry = self.config.retry.dedup;
                let breaker = self.dedup_breaker.get_or_init(|| {
                    let (clock, shard) = (Arc::clone(&self.clock), metrics.breaker(Guarded::Dedup));
                    Arc::new(Breaker::new(Guarded::Dedup.name(), retry, clock, shard))
                });
                let (breaker, clock) = (Arc::clone(breaker), Arc::clone(&self.clock));
                let (metrics, calls) = (metrics.pool(Pooled::Redis), self.calls());
                let parts = redis::Parts { retry, breaker, clock, metrics, calls };
                let deduper = RedisDeduper::new(&self.config.redis, &self.config.dedup, runtimes, parts);
                Ok(Arc::new(deduper.map_err(|error| anyhow::anyhow!("redis.url is not usable: {error}"))?))
            }
        }
    }

    /// Where nodes share their caps: there where they share what is unique. `None` for the only node.
    pub(super) fn cap_exchange(&self, metrics: &Metrics) -> anyhow::Result<Option<Arc<dyn CapExchange>>> {
        let Config { redis, node, .. } = &self.config;
        match self.config.dedup.backend {
            DedupBackend::Memory => Ok(None),
            DedupBackend::Redis => {
                let exchange =
                    RedisCaps::new(redis, node, Arc::clone(&self.clock), metrics.pool(Pooled::Redis), self.calls());
                Ok(Some(Arc::new(exchange.map_err(|error| anyhow::anyhow!("redis.url is not usable: {error}"))?)))
            }
        }
    }

    /// Where links and campaigns are kept.
    pub(super) fn catalog(&self) -> anyhow::Result<Arc<SqliteCatalog>> {
        let path = self.config.data_dir.join("catalog.db");
        let catalog = SqliteCatalog::open(&path).with_context(|| format!("`{}` cannot be opened", path.display()))?;
        Ok(Arc::new(catalog.timed(self.calls())))
    }
}
