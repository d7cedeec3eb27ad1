//! Connections to Redis for one runtime, which drives them: lent one at a time, pinged before they are lent again.
//!
//! A connection whose answer did not come, or came broken, is closed and never lent again: what is still on its way on
//! it must hold up nobody else. One that is older than `redis.lifetime_max` is closed too, when it is asked for or, idle,
//! within [`SWEEP_MAX`]. It never tries again and knows no time-out: both are its caller's, with [`patience`], who may
//! drop any of its futures at any point. Bound: its size.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool::managed::{self, Metrics, Object, PoolError, RecycleError, RecycleResult};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Pipeline, RedisError, RedisResult};

use crate::clock::Clock;
use crate::telemetry::pools::{Counted, PoolShard};

/// Idle connections are looked at this often at least; `redis.lifetime_max` and this are less than an hour.
const SWEEP_MAX: Duration = Duration::from_secs(30);
/// Steps of a time-out.
const PATIENCE_STEPS: u32 = 5;

/// The pool.
pub(super) struct RedisPool {
    pool: managed::Pool<Maker>,
    clock: Arc<dyn Clock>,
    metrics: Arc<PoolShard>,
    sweeping: AtomicBool,
    _counted: Counted,
}

/// Makes and pings connections as `deadpool-redis` does, and knows how old they are.
struct Maker {
    redis: deadpool_redis::Manager,
    lifetime_max: Duration,
    clock: Arc<dyn Clock>,
    metrics: Arc<PoolShard>,
}

struct Connection {
    redis: MultiplexedConnection,
    since: Duration,
    _counted: Counted,
}

/// A connection in use. Dropped without [`Lease::give_back`] it is closed.
pub(super) struct Lease {
    object: Option<Object<Maker>>,
    _busy: Counted,
}

impl RedisPool {
    /// A pool of so many connections at most. Connects to nothing yet.
    ///
    /// # Errors
    /// The URL is none of Redis. The text does not hold it.
    pub(super) fn new(
        url: &str,
        size: usize,
        lifetime_max: Duration,
        clock: Arc<dyn Clock>,
        metrics: Arc<PoolShard>,
    ) -> Result<Self, String> {
        // The caller's is the only clock: the crate's own limits would cut in at 500 ms and 1 s.
        let limits = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let redis = deadpool_redis::Manager::new_with_config(url, limits).map_err(|e| e.to_string())?;
        let (of_maker, shard) = (Arc::clone(&clock), Arc::clone(&metrics));
        let maker = Maker { redis, lifetime_max, clock: of_maker, metrics: shard };
        let pool = managed::Pool::builder(maker).max_size(size).build().map_err(|e| e.to_string())?;
        let counted = metrics.count_pool(size);
        Ok(Self { pool, clock, metrics, sweeping: AtomicBool::new(false), _counted: counted })
    }

    /// A connection that has just answered; waits for one while all are lent.
    ///
    /// # Errors
    /// None could be made.
    pub(super) async fn lease(&self) -> Result<Lease, String> {
        if !self.sweeping.swap(true, Ordering::Relaxed) {
            tokio::spawn(sweep(self.pool.weak(), self.pool.manager().lifetime_max, Arc::clone(&self.clock)));
        }
        let asked = self.clock.now();
        let object = self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error.to_string(),
            error => error.to_string(),
        })?;
        self.metrics.observe_wait(self.clock.now().saturating_sub(asked));
        Ok(Lease { object: Some(object), _busy: self.metrics.count_busy() })
    }
}

impl Lease {
    /// Sends a pipeline and reads its answers.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn query<T: redis::FromRedisValue>(&mut self, pipeline: &Pipeline) -> RedisResult<T> {
        match &mut self.object {
            Some(object) => pipeline.query_async(&mut object.redis).await,
            None => Err((redis::ErrorKind::Client, "the connection was given back").into()),
        }
    }

    /// Nothing is on its way on it: others may have it.
    pub(super) fn give_back(mut self) {
        self.object = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            drop(Object::take(object));
        }
    }
}

impl managed::Manager for Maker {
    type Type = Connection;
    type Error = RedisError;

    async fn create(&self) -> RedisResult<Connection> {
        let redis = self.redis.create().await?;
        Ok(Connection { redis, since: self.clock.now(), _counted: self.metrics.count_connection(&self.clock) })
    }

    async fn recycle(&self, connection: &mut Connection, metrics: &Metrics) -> RecycleResult<RedisError> {
        if !connection.is_young(&*self.clock, self.lifetime_max) {
            return Err(RecycleError::message("it is old"));
        }
        self.redis.recycle(&mut connection.redis, metrics).await
    }
}

impl Connection {
    fn is_young(&self, clock: &dyn Clock, lifetime_max: Duration) -> bool {
        clock.now().saturating_sub(self.since) < lifetime_max
    }
}

/// Closes idle connections that are old, until the pool is gone: nobody may ask for them for hours.
async fn sweep(pool: managed::WeakPool<Maker>, lifetime_max: Duration, clock: Arc<dyn Clock>) {
    let pause = (lifetime_max / 20).min(SWEEP_MAX);
    loop {
        tokio::time::sleep(pause).await;
        let Some(pool) = pool.upgrade() else { return };
        drop(pool.retain(|connection, _| connection.is_young(&*clock, lifetime_max)));
    }
}

impl std::fmt::Debug for RedisPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisPool").field("status", &self.pool.status()).finish_non_exhaustive()
    }
}

/// Waits so long of the time in which this runtime looks at its sockets. A worker forces a frozen batch on this thread, and
/// a busy disk may take longer for that than Redis may: an answer that meanwhile came is not late. A thread that was held up
/// has lost one step of this.
pub(super) async fn patience(timeout: Duration) {
    for _ in 0..PATIENCE_STEPS {
        tokio::time::sleep(timeout / PATIENCE_STEPS).await;
        // Behind what came on the sockets.
        tokio::task::yield_now().await;
    }
}
