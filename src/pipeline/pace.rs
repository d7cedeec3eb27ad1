//! Who may insert when: clicks of now before clicks of an outage.
//!
//! Live inserts never wait here. What was left behind (the backlog: stretches cut off behind a live cursor, journals of
//! earlier runs) is inserted one batch at a time in the whole process, and while live inserts are under way it rests after
//! each for `REST` times as long as the insert took. So live clicks keep at least 70 % of the store's capacity, and all
//! that they do not use goes to the backlog.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::clock::Clock;

/// Rest for each unit of insert: 0.3 of the time at work, 0.7 at rest.
const REST: f64 = 0.7 / 0.3;
/// How often a resting backlog looks whether live inserts go on.
const LOOK: Duration = Duration::from_millis(10);
/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(30);

/// Shared by all workers of a process.
#[derive(Debug)]
pub struct Pace {
    live: AtomicUsize,
    turn: Semaphore,
}

/// A live insert under way.
#[derive(Debug)]
pub struct Live<'a>(&'a Pace);

impl Drop for Live<'_> {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self { live: AtomicUsize::new(0), turn: Semaphore::new(1) }
    }
}

impl Pace {
    /// Counts a live insert until it is dropped.
    pub fn live(&self) -> Live<'_> {
        self.live.fetch_add(1, Ordering::Relaxed);
        Live(self)
    }

    /// The backlog's turn: one at a time.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // Never closed.
        self.turn.acquire().await.ok()
    }

    /// Rests after an insert of the backlog that took so long, as long as live inserts are under way.
    pub async fn rest(&self, took: Duration, clock: &dyn Clock) {
        let until = clock.now() + took.mul_f64(REST).min(REST_MAX);
        while self.live.load(Ordering::Relaxed) > 0 {
            let left = until.saturating_sub(clock.now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[derive(Debug)]
    struct Paused(tokio::time::Instant);

    impl Clock for Paused {
        fn now(&self) -> Duration {
            self.0.elapsed()
        }
        fn wall_ms(&self) -> u64 {
            0
        }
    }

    #[allow(clippy::disallowed_methods, reason = "tokio's time, which stands still until everyone sleeps")]
    fn paused() -> Paused {
        Paused(tokio::time::Instant::now())
    }

    /// What the backlog inserts in 10 s, in units of 100 ms of work, beside live inserts for the first `live_s` seconds.
    async fn backlog_done(live_s: u64) -> u32 {
        let (pace, clock) = (Rc::new(Pace::default()), Rc::new(paused()));
        let done = Rc::new(std::cell::Cell::new(0));
        let tasks = tokio::task::LocalSet::new();
        let live = Rc::clone(&pace);
        tasks.spawn_local(async move {
            let _live = (live_s > 0).then(|| live.live());
            tokio::time::sleep(Duration::from_secs(live_s)).await;
        });
        for _ in 0..3 {
            let (pace, clock, done) = (Rc::clone(&pace), Rc::clone(&clock), Rc::clone(&done));
            tasks.spawn_local(async move {
                loop {
                    let _turn = pace.turn().await;
                    let before = clock.now();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    done.set(done.get() + 1);
                    pace.rest(clock.now() - before, &*clock).await;
                }
            });
        }
        let _ = tokio::time::timeout(Duration::from_secs(10), tasks).await;
        done.get()
    }

    #[tokio::test(start_paused = true)]
    async fn the_backlog_takes_three_tenths_beside_live_clicks_and_all_without() {
        assert!((25..=30).contains(&backlog_done(10).await), "at most 30 of 100");
        assert!(backlog_done(0).await >= 95);
        assert!((60..=70).contains(&backlog_done(5).await), "it goes on as soon as live inserts end");
    }
}
