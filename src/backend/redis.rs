//! Redis as the deduper: one owner of a fingerprint for the whole fleet.
//!
//! Key `trellis:fp:` and the 16 bytes of the fingerprint; value the 16 bytes of the owner's click id; it expires after
//! the window of its click (`dedup.window`, or its campaign's) + `dedup.lag_max`. Redis labels and never deletes: a click whose label it cannot tell is `unknown` and
//! goes on. Redis 7.0 or newer (`SET … NX GET`).
//!
//! `app` makes one of these **for each worker**: pooled connections are driven by the runtime that opened them. Many
//! checks may run at one time; a slow one holds up no other as long as there are connections. Bounds: its share of
//! `redis.pool`, and less while Redis does not keep up (`redis_window`); `redis.timeout` for one pipeline, connecting and
//! waiting for a connection included, `retry.dedup.tries` of them; 1,000 claims a pipeline. While Redis is away, which
//! all workers find out together by their breaker, one check at a time looks for it and all others are `unknown` at
//! once: an outage costs labels, not throughput.

use std::sync::Arc;
use std::time::Duration;

use redis::{Pipeline, RedisError, RedisResult, Value};

use super::redis_figures;
use super::redis_pool::{RedisPool, patience};
use super::redis_told::Teller;
use super::redis_window::Window;
use crate::BoxFuture;
use crate::click::{ClickId, Fingerprint};
use crate::clock::Clock;
use crate::config;
use crate::pipeline::breaker::Breaker;
use crate::pipeline::dedup::judge;
use crate::pipeline::retry::Policy;
use crate::pipeline::{Claim, Deduper, Label};
use crate::telemetry::calls::{Call, Calls};
use crate::telemetry::figures::Reading;
use crate::telemetry::pools::PoolShard;

/// A pipeline of this many claims is some 120 KB, and Redis works a few milliseconds on it.
const CLAIMS_MAX: usize = 1000;
const PREFIX: &[u8; 11] = b"trellis:fp:";

/// Fingerprints and their owners in Redis, for one runtime.
pub struct RedisDeduper {
    pool: RedisPool,
    window: Window,
    metrics: Arc<PoolShard>,
    calls: Arc<Calls>,
    timeout: Duration,
    retry: Policy,
    breaker: Arc<Breaker>,
    window_ms: u64,
    lag_max_ms: u64,
    told: Teller,
}

/// Why Redis gave no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("{0}")]
    Pool(String),
    #[error("{0}")]
    Redis(#[from] RedisError),
}

/// What a deduper works with.
#[derive(Clone, Debug)]
pub struct Parts {
    /// How often a check is tried, and the pauses in between.
    pub retry: Policy,
    /// In front of Redis, for the whole process.
    pub breaker: Arc<Breaker>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Of all its pools.
    pub metrics: Arc<PoolShard>,
    /// Where it is noted how long calls take.
    pub calls: Arc<Calls>,
}

impl RedisDeduper {
    /// A deduper for one of `workers` workers, which share `config.pool` connections between them (two for each at
    /// least), and `breaker`. Connects to nothing yet.
    ///
    /// # Errors
    /// `redis.url` is no URL of Redis. The text never holds the URL: it may hold a password.
    pub fn new(config: &config::Redis, rule: &config::Dedup, workers: usize, parts: Parts) -> Result<Self, String> {
        let Parts { retry, breaker, clock, metrics, calls } = parts;
        let connections = config.pool.div_ceil(workers.max(1)).max(2);
        let (of_pool, shard) = (Arc::clone(&clock), Arc::clone(&metrics));
        let pool = RedisPool::new(config.url.expose(), connections, config.lifetime_max, of_pool, shard)
            .map_err(|e| format!("redis.url is no address such as redis://127.0.0.1:6379: {e}"))?;
        Ok(Self {
            pool,
            window: Window::new(connections),
            metrics,
            calls,
            timeout: config.timeout,
            retry,
            breaker,
            window_ms: u64::try_from(rule.window.as_millis()).unwrap_or(u64::MAX),
            lag_max_ms: u64::try_from(rule.lag_max.as_millis()).unwrap_or(u64::MAX),
            told: Teller::new(clock),
        })
    }

    async fn labels(&self, claims: &[Claim]) -> Vec<Label> {
        let mut labels = Vec::with_capacity(claims.len());
        for claims in claims.chunks(CLAIMS_MAX) {
            let Some(found) = self.try_claims(claims).await else { break };
            labels.extend(found);
            self.told.answered();
        }
        let untold = claims.len() - labels.len();
        if untold > 0 {
            self.told.left_unknown(untold);
            labels.resize(claims.len(), Label::Unknown);
        }
        labels
    }

    /// The labels; `None` when Redis is known to be away, or every try has failed.
    async fn try_claims(&self, claims: &[Claim]) -> Option<Vec<Label>> {
        let mut failures = 0;
        loop {
            let place = self.window.enter().await;
            let permit = self.breaker.try_admit()?;
            match self.claim(claims).await {
                Ok(labels) => {
                    permit.succeeded();
                    place.answered();
                    return Some(labels);
                }
                Err(failure) => {
                    // Of those that were under way together the others say nothing new.
                    if place.failed() {
                        permit.failed();
                    }
                    failures += 1;
                    if self.retry.is_spent(failures) || self.breaker.is_open() {
                        self.told.failed(&failure);
                        return None;
                    }
                }
            }
            drop(place);
            tokio::time::sleep(self.retry.pause(failures, fastrand::f64())).await;
        }
    }

    /// One round: claims what is free and reads the owner of what is not; then takes over what its owner held too long
    /// ago. Repeating it changes nothing: a click that finds itself is unique.
    async fn claim(&self, claims: &[Claim]) -> Result<Vec<Label>, Failure> {
        let owners = self.run(Call::RedisClaim, &self.set(claims.iter(), true)).await?;
        let mut taking = Vec::new();
        let mut labels = Vec::with_capacity(claims.len());
        for (i, (claim, owner)) in claims.iter().zip(owners).enumerate() {
            let verdict = owner_of(owner).map(|owner| judge(owner, claim.id, claim.window_ms(self.window_ms)));
            if verdict.is_some_and(|verdict| verdict.take_over) {
                taking.push(i);
            }
            labels.push(verdict.map_or(Label::Unknown, |verdict| verdict.label));
        }
        if !taking.is_empty() {
            // The answer is who held it until now: of several that take it over at one time, here or on another node, all
            // but the first find the first.
            let owners = self.run(Call::RedisClaim, &self.set(taking.iter().map(|i| &claims[*i]), false)).await?;
            for (i, owner) in taking.into_iter().zip(owners) {
                let claim = &claims[i];
                let verdict = owner_of(owner).map(|owner| judge(owner, claim.id, claim.window_ms(self.window_ms)));
                labels[i] = verdict.map_or(Label::Unknown, |verdict| verdict.label);
            }
        }
        Ok(labels)
    }

    fn set<'c>(&self, claims: impl ExactSizeIterator<Item = &'c Claim>, only_free: bool) -> Pipeline {
        let mut pipeline = Pipeline::with_capacity(claims.len());
        // One key of a wrong type must not cost the others their answer.
        pipeline.ignore_errors();
        for claim in claims {
            pipeline.cmd("SET").arg(&key(&claim.fingerprint)).arg(claim.id.as_bytes());
            if only_free {
                pipeline.arg("NX");
            }
            pipeline.arg("GET").arg("EX").arg(self.expire_s(claim));
        }
        pipeline
    }

    /// As long as a click of its time may still come and be judged by it.
    fn expire_s(&self, claim: &Claim) -> u64 {
        // Redis refuses 0, and numbers near the end of i64.
        claim.window_ms(self.window_ms).saturating_add(self.lag_max_ms).div_ceil(1000).clamp(1, 1 << 40)
    }

    /// One pipeline on a connection of its own. A connection on which an answer may still be on its way is closed, also
    /// when the caller gives up.
    async fn run(&self, call: Call, pipeline: &Pipeline) -> Result<Vec<RedisResult<Value>>, Failure> {
        self.metrics.count_request();
        let _under_way = self.calls.begin(call);
        let answer = async {
            let mut lease = self.pool.lease().await.map_err(Failure::Pool)?;
            let answers = lease.query(pipeline).await?;
            lease.give_back();
            Ok(answers)
        };
        let answers = tokio::select! {
            biased;
            answers = answer => answers,
            () = patience(self.timeout) => Err(Failure::TimedOut(self.timeout)),
        };
        if answers.is_err() {
            self.metrics.count_failure();
        }
        unrefused(answers?)
    }
}

impl Deduper for RedisDeduper {
    fn check<'a>(&'a self, claims: &'a [Claim]) -> BoxFuture<'a, Vec<Label>> {
        Box::pin(self.labels(claims))
    }

    fn name(&self) -> &'static str {
        "redis"
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), String>> {
        let mut ping = Pipeline::with_capacity(1);
        ping.cmd("PING");
        Box::pin(async move {
            match self.run(Call::RedisPing, &ping).await {
                Ok(_) => Ok(()),
                Err(failure) => Err(failure.to_string()),
            }
        })
    }

    fn figures(&self) -> BoxFuture<'_, Vec<Reading>> {
        let mut ask = Pipeline::with_capacity(1);
        ask.cmd("INFO");
        Box::pin(async move {
            let answers = self.run(Call::RedisFigures, &ask).await;
            redis_figures::of(answers.map_err(|failure| failure.to_string()))
        })
    }
}

impl std::fmt::Debug for RedisDeduper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisDeduper").field("pool", &self.pool).field("breaker", &self.breaker).finish_non_exhaustive()
    }
}

fn key(fingerprint: &Fingerprint) -> [u8; PREFIX.len() + 16] {
    let mut key = [0; PREFIX.len() + 16];
    key[..PREFIX.len()].copy_from_slice(PREFIX);
    key[PREFIX.len()..].copy_from_slice(&fingerprint.0);
    key
}

/// The answers, unless Redis refused a command for what it is (no memory, a replica, loading, too old): it refuses them
/// all then. A key of a wrong type is the trouble of its own claim.
fn unrefused(mut answers: Vec<RedisResult<Value>>) -> Result<Vec<RedisResult<Value>>, Failure> {
    let refused = |answer: &RedisResult<Value>| answer.as_ref().is_err_and(|e| e.code() != Some("WRONGTYPE"));
    match answers.iter().position(refused).map(|at| answers.swap_remove(at)) {
        Some(Err(error)) => Err(error.into()),
        _ => Ok(answers),
    }
}

/// Who held the key; `None` when the answer says nothing that we wrote.
#[allow(clippy::option_option, reason = "no owner and no answer are two things")]
fn owner_of(answer: RedisResult<Value>) -> Option<Option<ClickId>> {
    match answer {
        Ok(Value::Nil) => Some(None),
        Ok(Value::BulkString(bytes)) => <[u8; 16]>::try_from(bytes).ok().map(|id| Some(ClickId::from_bytes(id))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::click::dedup::Window;
    use crate::telemetry::metrics::{Guarded, Metrics};
    use crate::telemetry::pools::Pooled;
    use crate::testing::ManualClock;

    fn deduper(url: &str, clock: &Arc<ManualClock>) -> Result<RedisDeduper, String> {
        let config = config::Redis {
            url: config::Secret::new(url),
            pool: 4,
            timeout: Duration::from_millis(50),
            lifetime_max: Duration::from_secs(60),
        };
        let rule = config::Dedup {
            backend: config::DedupBackend::Redis,
            window: Duration::from_secs(86_400),
            lag_max: Duration::from_secs(3600),
            secret: config::Secret::default(),
            entries_max: 1,
            checks_in_flight_max: 16,
        };
        let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
        let metrics = Metrics::new(0, 0, &[], || 0).unwrap();
        let retry = Policy { tries: 3, base: Duration::from_millis(10), max: Duration::from_secs(1), jitter: true };
        let breaker = Breaker::new("dedup", retry, Arc::clone(&clock), metrics.breaker(Guarded::Dedup));
        let (calls, metrics) = (Calls::new(Arc::clone(&clock)), metrics.pool(Pooled::Redis));
        let parts = Parts { retry, breaker: Arc::new(breaker), clock, metrics, calls };
        RedisDeduper::new(&config, &rule, 2, parts)
    }

    #[test]
    fn answers_of_every_shape_are_read() {
        let id = ClickId::new(5, &[1; 10]);
        assert_eq!(owner_of(Ok(Value::Nil)), Some(None));
        assert_eq!(owner_of(Ok(Value::BulkString(id.as_bytes().to_vec()))), Some(Some(id)));
        assert_eq!(owner_of(Ok(Value::BulkString(b"x".to_vec()))), None);
        assert_eq!(owner_of(Ok(Value::Okay)), None);
        assert_eq!(owner_of(Err(RedisError::from((redis::ErrorKind::Client, "no")))), None);
    }

    #[test]
    fn a_refusal_is_a_failure_and_a_wrong_type_is_not() {
        use redis::FromRedisValue as _;
        let answer =
            |bytes: &[u8]| RedisResult::<Value>::from_redis_value(redis::parse_redis_value(bytes).unwrap()).unwrap();
        let nil = || Ok(Value::Nil);
        assert_eq!(unrefused(vec![nil(), answer(b"-WRONGTYPE Operation\r\n"), nil()]).unwrap().len(), 3);
        for refusal in ["-OOM command not allowed\r\n", "-ERR syntax error\r\n", "-READONLY You can't\r\n"] {
            let failure = unrefused(vec![nil(), answer(refusal.as_bytes())]).unwrap_err();
            assert!(matches!(failure, Failure::Redis(_)), "{failure}");
        }
    }

    #[test]
    fn a_claim_is_one_command() {
        let deduper = deduper("redis://127.0.0.1", &Arc::new(ManualClock::new(0))).unwrap();
        let (fingerprint, id) = (Fingerprint(*b"ffffffffffffffff"), ClickId::from_bytes(*b"iiiiiiiiiiiiiiii"));
        let claims = [None, Window::of_seconds(60)].map(|window| Claim { fingerprint, id, window });
        let sent = deduper.set(claims.iter(), true).get_packed_pipeline();
        let expected = ["90000", "3660"].map(|seconds| {
            format!(
                "*7\r\n$3\r\nSET\r\n$27\r\ntrellis:fp:ffffffffffffffff\r\n$16\r\niiiiiiiiiiiiiiii\r\n$2\r\nNX\r\n$3\r\nGET\r\n\
                 $2\r\nEX\r\n${}\r\n{seconds}\r\n",
                seconds.len()
            )
        });
        assert_eq!(String::from_utf8(sent).unwrap(), expected.concat(), "a window of its own is kept as long as it");
    }

    #[test]
    fn a_bad_url_is_told_without_its_password() {
        let error = deduper("http://user:hunter2@host", &Arc::new(ManualClock::new(0))).unwrap_err();
        assert!(error.contains("redis.url") && !error.contains("hunter2"), "{error}");
    }

    #[tokio::test]
    async fn while_redis_is_away_one_check_a_second_asks_it() {
        // A port that nobody listens on.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let clock = Arc::new(ManualClock::new(0));
        let deduper = deduper(&format!("redis://127.0.0.1:{port}"), &clock).unwrap();
        let claim = Claim { fingerprint: Fingerprint([1; 16]), id: ClickId::new(5, &[1; 10]), window: None };
        let claims = vec![claim; 2500];
        assert_eq!(deduper.check(&claims).await, vec![Label::Unknown; 2500]);
        assert_eq!(deduper.metrics.requests(), 3, "every try of the policy");
        assert_eq!(deduper.check(&claims[..1]).await, [Label::Unknown]);
        assert_eq!(deduper.metrics.requests(), 3, "known to be away");
        clock.advance(Duration::from_secs(1));
        assert_eq!(deduper.check(&claims[..1]).await, [Label::Unknown]);
        assert_eq!((deduper.metrics.requests(), deduper.metrics.failures()), (4, 4), "the probe, once");
        assert_eq!(deduper.told.state(), (true, Duration::from_secs(5), 2502));
        assert!(deduper.ping().await.is_err());
    }
}
