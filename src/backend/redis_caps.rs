//! Redis as the place where nodes share caps: one hash for each cap and period, one field for each node.
//!
//! ```text
//! {trellis:caps}:<cap>:<period>    node -> "<claim> <spent> <second>"    claim: what it has let through, or may
//! {trellis:caps}:nodes             node -> second                        nodes that told of themselves
//! ```
//! A node raises its claim in the script that finds the room for it, and lowers it only after its cores can no longer use
//! what it gives back: so the claims of a cap never add up to more than its limit. Each node writes its own field, whole,
//! so a question that is asked again changes nothing. Of a node that has been silent for ten seconds only what it has
//! spent counts. Times are Redis's own. One pipeline of scripts a second; keys of hours and days expire.
//!
//! Bounds: one connection; `redis.timeout` for each script of 100 caps.

use std::sync::Arc;
use std::time::Duration;

use redis::Pipeline;

use super::redis_pool::RedisPool;
use crate::BoxFuture;
use crate::catalog::caps::{Granted, Standing};
use crate::clock::Clock;
use crate::config;
use crate::pipeline::caps::CapExchange;
use crate::telemetry::calls::{Call, Calls};
use crate::telemetry::pools::PoolShard;

/// Caps of one script: Redis works about a millisecond on them.
const CAPS_MAX: usize = 100;
/// A node that has not told anything for so long counts no longer as one.
const SILENT_S: u64 = 10;
/// So long after a period has begun, a node that has told nothing of it may still have begun it by itself.
const BEGINNING_MS: u64 = 5_000;
/// Beyond the end of its period, a key is kept for clocks that differ.
const KEPT_S: u64 = 3_600;
const NODES: &str = "{trellis:caps}:nodes";

const TELL: &str = "
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 3600)
return redis.call('ZCOUNT', KEYS[1], now - tonumber(ARGV[2]), '+inf')";

/// For each key: limit, spent, unspent, seconds to keep it (0: for good), what an absent node may have (0: nothing).
const SHARE: &str = "
local now = tonumber(redis.call('TIME')[1])
local node, nodes, silent = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local answer = {}
for i, key in ipairs(KEYS) do
  local at = 3 + (i - 1) * 5
  local limit, spent, unspent = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local keep, absent = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local claimed, used, present = 0, 0, 1
  local fields = redis.call('HGETALL', key)
  for f = 1, #fields, 2 do
    if fields[f] ~= node then
      local claim, taken, second = string.match(fields[f + 1], '(%d+) (%d+) (%d+)')
      used = used + tonumber(taken)
      if now - tonumber(second) > silent then
        claimed = claimed + tonumber(taken)
      else
        claimed = claimed + tonumber(claim)
        present = present + 1
      end
    end
  end
  local room = limit - spent - claimed - math.max(0, nodes - present) * absent
  local target = math.max(0, math.ceil(room / nodes))
  local claim = spent + math.max(unspent, target)
  redis.call('HSET', key, node, string.format('%d %d %d', claim, spent, now))
  if keep > 0 then redis.call('EXPIRE', key, keep) end
  answer[#answer + 1] = target
  answer[#answer + 1] = used
end
return answer";

/// Caps in Redis, for one node and one runtime.
pub struct RedisCaps {
    pool: RedisPool,
    timeout: Duration,
    node: Arc<str>,
    clock: Arc<dyn Clock>,
    calls: Arc<Calls>,
}

impl RedisCaps {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// `redis.url` is no URL of Redis. The text never holds the URL: it may hold a password.
    pub fn new(
        config: &config::Redis,
        node: &str,
        clock: Arc<dyn Clock>,
        metrics: Arc<PoolShard>,
        calls: Arc<Calls>,
    ) -> Result<Self, String> {
        let pool = RedisPool::new(config.url.expose(), 1, config.lifetime_max, Arc::clone(&clock), metrics)?;
        Ok(Self { pool, timeout: config.timeout, node: node.into(), clock, calls })
    }

    async fn ask(&self, pipeline: &Pipeline) -> Result<Vec<i64>, String> {
        let answer = async {
            let mut lease = self.pool.lease().await?;
            let (answer,): (redis::Value,) = lease.query(pipeline).await.map_err(|error| error.to_string())?;
            lease.give_back();
            let numbers = redis::from_redis_value::<Vec<i64>>(answer.clone());
            numbers.or_else(|_| redis::from_redis_value::<i64>(answer).map(|one| vec![one])).map_err(|e| e.to_string())
        };
        match self.calls.time(Call::RedisCaps, tokio::time::timeout(self.timeout, answer)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {:?}", self.timeout)),
        }
    }

    async fn nodes(&self) -> Result<u64, String> {
        let mut tell = Pipeline::with_capacity(1);
        tell.cmd("EVAL").arg(TELL).arg(1).arg(NODES).arg(&*self.node).arg(SILENT_S);
        let nodes = self.ask(&tell).await?.first().copied().unwrap_or(1);
        Ok(u64::try_from(nodes).unwrap_or(1).max(1))
    }

    async fn share(&self, nodes: u64, standings: &[Standing]) -> Result<Vec<Granted>, String> {
        let now_ms = self.clock.wall_ms();
        let mut share = Pipeline::with_capacity(1);
        let script = share.cmd("EVAL").arg(SHARE).arg(standings.len());
        for one in standings {
            script.arg(format!("{{trellis:caps}}:{:032x}:{}", one.cap.0, one.period));
        }
        script.arg(&*self.node).arg(nodes).arg(SILENT_S);
        for one in standings {
            let keep_s = one.ends_ms.map_or(0, |ends_ms| ends_ms.saturating_sub(now_ms) / 1000 + KEPT_S);
            let absent = if one.has_just_begun(now_ms, BEGINNING_MS) { one.limit / nodes } else { 0 };
            script.arg(one.limit).arg(one.spent).arg(one.unspent).arg(keep_s).arg(absent);
        }
        let numbers = self.ask(&share).await?;
        if numbers.len() != 2 * standings.len() {
            return Err(format!("an answer of {} numbers to {} caps", numbers.len(), standings.len()));
        }
        let number = |n: i64| u64::try_from(n).unwrap_or(0);
        Ok(numbers.chunks_exact(2).map(|two| Granted { unspent: number(two[0]), others: number(two[1]) }).collect())
    }
}

impl CapExchange for RedisCaps {
    fn exchange<'a>(&'a self, standings: &'a [Standing]) -> BoxFuture<'a, Result<(u64, Vec<Granted>), String>> {
        Box::pin(async move {
            let nodes = self.nodes().await?;
            let mut granted = Vec::with_capacity(standings.len());
            for some in standings.chunks(CAPS_MAX) {
                granted.extend(self.share(nodes, some).await?);
            }
            Ok((nodes, granted))
        })
    }
}

impl std::fmt::Debug for RedisCaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisCaps").field("node", &self.node).finish_non_exhaustive()
    }
}
