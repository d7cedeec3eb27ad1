//! Keys that a Warden elsewhere checks (`warden.mode = "grpc"`): what it said lately, and the way to ask it.
//!
//! ```text
//!                                          0          fresh          stale
//! granted: taken from memory               |------------|              |       asked about again on the side from 3/4 on
//!          asked; taken when it is away    |            |--------------|
//! denied:  taken from memory               |--denied--|
//! unknown, and the Warden is away: nobody can say, so the answer is 503 and never "denied"
//! ```
//! Many who wait for one key cost one call. A change that the Warden tells of takes what is known of that key away at once,
//! a reset (changes may have been missed) lets nothing count as fresh that was learned before.
//!
//! `peek` is called by request threads: it hashes the key and reads a snapshot, and takes no lock. It allocates only to ask
//! on the side, once a second for a key at most. All writing is done by one task ([`Asking`]) on the runtime of the backend.
//! Good and bad keys have rooms of their own, so that nobody can push good ones out by guessing. Bounds:
//! `warden.grpc.entries_max` for each room, 1024 questions that wait, [`asking::CALLS_MAX`] calls.

pub mod asking;
mod memory;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use self::asking::{Asking, Question};
use self::memory::{Known, Memory};
use super::warden::{Checked, Peek, Unavailable, Warden, Why};
use crate::BoxFuture;
use crate::click::key::{Digest, Digester, Presented};
use crate::clock::Clock;
use crate::config::WardenGrpc;
use crate::telemetry::recall::{RecallShard, Remembered};

/// Questions that may wait for the task; one more is not asked.
const QUESTIONS_MAX: usize = 1024;
/// Changes that may wait for the task; the stream that brings them waits then.
const NEWS_MAX: usize = 256;
/// Between two questions on the side about one key, in milliseconds.
const AGAIN_MS: u64 = 1000;

/// The port: the way to the Warden.
pub trait Asker: Send + Sync {
    /// Judges the key of this id by the SHA-256 of the whole of it. Ready within `warden.grpc.deadline`, or soon after.
    fn ask(&self, key_id: &str, digest: &Digest) -> BoxFuture<'static, Result<Checked, Unavailable>>;
}

/// What the Warden tells of its own accord.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The key of this id is another one than before.
    Changed(Box<str>),
    /// Changes may have been missed.
    Reset,
}

/// What is known of keys that are kept elsewhere.
pub struct RemoteKeys {
    granted: Memory,
    denied: Memory,
    /// What was asked before this, in nanoseconds of the monotonic clock, is not fresh.
    reset_ns: AtomicU64,
    /// Nobody answered the last question.
    away: AtomicBool,
    digester: Digester,
    settings: WardenGrpc,
    questions: mpsc::Sender<Question>,
    clock: Arc<dyn Clock>,
    metrics: Arc<RecallShard>,
}

impl RemoteKeys {
    /// Nothing is known yet. The task is to be run by the caller; what it is told through the sender counts from then on.
    #[must_use]
    pub fn new(
        settings: WardenGrpc,
        asker: Arc<dyn Asker>,
        clock: Arc<dyn Clock>,
        metrics: Arc<RecallShard>,
    ) -> (Arc<Self>, Asking, mpsc::Sender<News>) {
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let (told, news) = mpsc::channel(NEWS_MAX);
        let keys = Arc::new(Self {
            granted: Memory::new(settings.entries_max),
            denied: Memory::new(settings.entries_max),
            reset_ns: AtomicU64::new(0),
            away: AtomicBool::new(false),
            digester: Digester::new(b""),
            settings,
            questions,
            clock,
            metrics,
        });
        (Arc::clone(&keys), Asking::new(keys, asker, asked, news), told)
    }

    /// What a good key is worth that was asked about at `asked`; `None` when it has to be asked about again.
    fn recall(&self, known: &Known, now: Duration, now_ms: u64) -> Option<Peek> {
        let Checked::Granted(grant) = &known.answer else { return None };
        let (age, settings) = (now.saturating_sub(known.asked), &self.settings);
        let fresh = age < settings.fresh && self.is_since_reset(known);
        let stale = !fresh && age < settings.stale && self.away.load(Ordering::Relaxed);
        if !fresh && !stale {
            return None;
        }
        if stale || age >= settings.fresh / 4 * 3 {
            self.ask_on_the_side(known, now);
        }
        if grant.expires_ms.is_some_and(|expires_ms| now_ms >= expires_ms) {
            return Some(Peek::Denied(Why::Expired));
        }
        self.metrics.count(if fresh { Remembered::Hit } else { Remembered::Stale });
        Some(Peek::Granted(Arc::clone(grant)))
    }

    fn is_since_reset(&self, known: &Known) -> bool {
        known.asked >= Duration::from_nanos(self.reset_ns.load(Ordering::Acquire))
    }

    /// Lets the task ask while nobody waits; once a second at most.
    fn ask_on_the_side(&self, known: &Known, now: Duration) {
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let again_ms = known.again_ms.load(Ordering::Relaxed);
        let mine =
            |_| known.again_ms.compare_exchange(again_ms, now_ms + AGAIN_MS, Ordering::Relaxed, Ordering::Relaxed);
        if now_ms < again_ms || mine(()).is_err() {
            return;
        }
        // With no room for it there is enough to do.
        let _ = self.questions.try_send(Question::new(&known.key_id, known.digest, None));
    }

    /// What a good key is still worth when nobody can be asked.
    fn stale(&self, key_id: &str, digest: &Digest) -> Option<Checked> {
        let (now, now_ms) = (self.clock.now(), self.clock.wall_ms());
        self.granted.with(key_id, digest, |known| {
            let known = known.filter(|known| now.saturating_sub(known.asked) < self.settings.stale)?;
            let Checked::Granted(grant) = &known.answer else { return None };
            if grant.expires_ms.is_some_and(|expires_ms| now_ms >= expires_ms) {
                return Some(Checked::Denied(Why::Expired));
            }
            self.metrics.count(Remembered::Stale);
            Some(known.answer.clone())
        })
    }

    async fn ask(&self, key_id: &str, digest: Digest) -> Result<Checked, Unavailable> {
        let (answer, answered) = oneshot::channel();
        let question = Question::new(key_id, digest, Some(answer));
        if self.questions.try_send(question).is_err() {
            return Err(Unavailable::Error("too many keys are asked about at once".into()));
        }
        match tokio::time::timeout(self.settings.deadline, answered).await {
            Ok(Ok(said)) => said,
            Ok(Err(_)) => Err(Unavailable::Error("nobody asks it any more".into())),
            Err(_) => Err(Unavailable::Timeout),
        }
    }
}

impl Warden for RemoteKeys {
    fn peek(&self, presented: &[u8], now_ms: u64) -> Peek {
        let Some(parsed) = Presented::parse(presented) else { return Peek::Denied(Why::Malformed) };
        let (digest, now) = (self.digester.digest(presented), self.clock.now());
        let granted = self.granted.with(parsed.id, &digest, |known| self.recall(known?, now, now_ms));
        if let Some(peeked) = granted {
            return peeked;
        }
        let denied = self.denied.with(parsed.id, &digest, |known| match known?.answer {
            Checked::Denied(why) => {
                let age = now.saturating_sub(known?.asked);
                (age < self.settings.denied && self.is_since_reset(known?)).then_some(why)
            }
            Checked::Granted(_) => None,
        });
        match denied {
            Some(why) => {
                self.metrics.count(Remembered::Negative);
                Peek::Denied(why)
            }
            None => {
                self.metrics.count(Remembered::Miss);
                Peek::Ask
            }
        }
    }

    fn load<'a>(&'a self, presented: &'a [u8]) -> BoxFuture<'a, Result<Checked, Unavailable>> {
        Box::pin(async move {
            let Some(parsed) = Presented::parse(presented) else { return Ok(Checked::Denied(Why::Malformed)) };
            let digest = self.digester.digest(presented);
            match self.ask(parsed.id, digest).await {
                Ok(checked) => Ok(checked),
                Err(unavailable) => self.stale(parsed.id, &digest).ok_or(unavailable),
            }
        })
    }
}

impl std::fmt::Debug for RemoteKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (granted, denied) = (self.granted.len(), self.denied.len());
        f.debug_struct("RemoteKeys").field("granted", &granted).field("denied", &denied).finish_non_exhaustive()
    }
}
