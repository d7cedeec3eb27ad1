//! A breaker in front of a dependency that is away: everyone waits, and one at a time looks whether it is back.
//!
//! ```text
//!   closed --`tries` failures in a row--> open --half to all of `max`--> half-open: one probe
//!     ^  ^                                  ^                              |            |
//!     |  +------------- success ------------|------------------------------+            |
//!     +--- success of one that left before -+------------- failure ---------------------+
//! ```
//! One is shared by all workers of a process, in front of one dependency. It is asked once a batch or a chunk, never
//! once a click and never by a request thread. It sends nothing, tries nothing again and spends no try: who waits here
//! has not failed. A failure is that the dependency is away (no connection, no answer in time, overload); one that says
//! no to a batch has answered, which is a success here.
//!
//! A failure counts only when it left after the breaker was last open: batches that went out before an outage and time
//! out behind it must not open it again. A success always counts: the dependency answers. A permit that is dropped
//! without an answer says nothing; when it was the probe, the next caller has its place at once.
//!
//! Bounds: a lock that is held for a few instructions; as many waiting callers as there are batches.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::retry::Policy;
use crate::clock::Clock;
use crate::telemetry::metrics::BreakerShard;

/// Who waits looks at the clock this often: it may be set by hand.
const LOOK: Duration = Duration::from_millis(100);

/// Guards one dependency.
pub struct Breaker {
    name: &'static str,
    policy: Policy,
    clock: Arc<dyn Clock>,
    metrics: Arc<BreakerShard>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Clone, Copy, Debug)]
struct State {
    phase: Phase,
    /// Times that it has opened; a permit carries the number at which it was given.
    opened: u64,
    /// In a row, while closed.
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    /// Until the clock's `now` is here.
    Open(Duration),
    /// A probe is out.
    HalfOpen,
}

/// The leave to ask the dependency once; to be answered with what came of it.
#[derive(Debug)]
#[must_use = "a permit that is dropped says nothing about the dependency"]
pub struct Permit<'b> {
    breaker: &'b Breaker,
    opened: u64,
    probe: bool,
    answered: bool,
}

impl Breaker {
    /// A closed breaker for the dependency of this name, which opens after `policy.tries` failures in a row.
    #[must_use]
    pub fn new(name: &'static str, policy: Policy, clock: Arc<dyn Clock>, metrics: Arc<BreakerShard>) -> Self {
        let state = State { phase: Phase::Closed, opened: 0, failures: 0 };
        metrics.state.set(state.phase.number());
        Self { name, policy, clock, metrics, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Leave to ask now, or none: it is open, or another caller's probe is out.
    pub fn try_admit(&self) -> Option<Permit<'_>> {
        self.admit_or_wait().ok()
    }

    /// Leave to ask, once the breaker is closed or this caller is the probe. May be cancelled.
    pub async fn admit(&self) -> Permit<'_> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            let wait = match self.admit_or_wait() {
                Ok(permit) => return permit,
                Err(wait) => wait,
            };
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Whether a caller would have to wait now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match self.state().phase {
            Phase::Closed => false,
            Phase::Open(until) => self.clock.now() < until,
            Phase::HalfOpen => true,
        }
    }

    fn admit_or_wait(&self) -> Result<Permit<'_>, Duration> {
        let mut state = self.state();
        let probe = match state.phase {
            Phase::Closed => false,
            Phase::HalfOpen => return Err(LOOK),
            Phase::Open(until) => match until.checked_sub(self.clock.now()) {
                Some(left) if !left.is_zero() => return Err(left.min(LOOK)),
                _ => {
                    self.enter(&mut state, Phase::HalfOpen);
                    true
                }
            },
        };
        Ok(Permit { breaker: self, opened: state.opened, probe, answered: false })
    }

    fn succeed(&self) {
        let mut state = self.state();
        state.failures = 0;
        if state.phase != Phase::Closed {
            self.enter(&mut state, Phase::Closed);
            tracing::info!(dependency = self.name, "the breaker is closed again; all that waited goes on");
            self.changed.notify_waiters();
        }
    }

    fn fail(&self, permit: &Permit<'_>) {
        let mut state = self.state();
        // A late word about an outage that is known, or over.
        if permit.opened != state.opened {
            return;
        }
        match state.phase {
            Phase::Closed => {
                state.failures += 1;
                if self.policy.is_spent(state.failures) {
                    tracing::info!(
                        dependency = self.name,
                        failures = state.failures,
                        "the breaker is open; one caller at a time looks whether the dependency is back"
                    );
                    self.open(&mut state);
                }
            }
            Phase::HalfOpen if permit.probe => self.open(&mut state),
            Phase::HalfOpen | Phase::Open(_) => {}
        }
    }

    fn open(&self, state: &mut State) {
        let pause = self.policy.max.mul_f64(0.5 + 0.5 * fastrand::f64());
        self.enter(state, Phase::Open(self.clock.now() + pause));
        state.opened += 1;
        state.failures = 0;
        self.metrics.opened.add(1);
    }

    /// The place of a probe that ended without a word.
    fn release(&self, opened: u64) {
        let mut state = self.state();
        if state.phase == Phase::HalfOpen && state.opened == opened {
            self.enter(&mut state, Phase::Open(self.clock.now()));
            self.changed.notify_waiters();
        }
    }

    fn enter(&self, state: &mut State, phase: Phase) {
        state.phase = phase;
        // Under the lock there is one writer.
        self.metrics.state.set(phase.number());
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Numbers only: nothing in it can be half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Phase {
    /// In `trellis_breaker_state`.
    const fn number(self) -> u64 {
        match self {
            Self::Closed => 0,
            Self::Open(_) => 1,
            Self::HalfOpen => 2,
        }
    }
}

impl Permit<'_> {
    /// The dependency has answered, whatever it said.
    pub fn succeeded(mut self) {
        self.answered = true;
        self.breaker.succeed();
    }

    /// The dependency is away.
    pub fn failed(mut self) {
        self.answered = true;
        self.breaker.fail(&self);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.probe && !self.answered {
            self.breaker.release(self.opened);
        }
    }
}

impl std::fmt::Debug for Breaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Breaker").field("name", &self.name).field("state", &*self.state()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;

    use super::*;

    const MAX: Duration = Duration::from_secs(30);

    /// Follows tokio's time, which stands still in these tests until all wait.
    #[derive(Debug)]
    struct PausedClock(tokio::time::Instant);

    impl Clock for PausedClock {
        fn now(&self) -> Duration {
            self.0.elapsed()
        }
        fn wall_ms(&self) -> u64 {
            0
        }
    }

    #[allow(clippy::disallowed_methods, reason = "tokio's paused time is the clock here")]
    fn breaker() -> Arc<Breaker> {
        let policy = Policy { tries: 3, base: Duration::from_millis(100), max: MAX, jitter: true };
        let clock = Arc::new(PausedClock(tokio::time::Instant::now()));
        Arc::new(Breaker::new("store", policy, clock, Arc::default()))
    }

    fn seen(breaker: &Breaker) -> (u64, u64) {
        (breaker.metrics.state.get(), breaker.metrics.opened.get())
    }

    async fn open(breaker: &Breaker) {
        for _ in 0..3 {
            breaker.admit().await.failed();
        }
        assert!(breaker.is_open() && breaker.try_admit().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_others_do_not() {
        let breaker = breaker();
        for _ in 0..5 {
            breaker.admit().await.failed();
            breaker.admit().await.failed();
            breaker.admit().await.succeeded();
            drop(breaker.admit().await);
        }
        assert_eq!(seen(&breaker), (0, 0));
        open(&breaker).await;
        assert_eq!(seen(&breaker), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn after_half_to_all_of_the_maximum_one_caller_is_the_probe() {
        for _ in 0..20 {
            let breaker = breaker();
            open(&breaker).await;
            let opened = breaker.clock.now();
            let probe = breaker.admit().await;
            let waited = breaker.clock.now() - opened;
            assert!((MAX / 2..=MAX + 2 * LOOK).contains(&waited), "{waited:?}");
            assert_eq!(seen(&breaker), (2, 1));
            assert!(breaker.is_open() && breaker.try_admit().is_none());
            probe.succeeded();
            assert!(!breaker.is_open() && breaker.try_admit().is_some());
            assert_eq!(seen(&breaker), (0, 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_waiting_one_probes_and_its_success_releases_all_at_once() {
        let breaker = breaker();
        open(&breaker).await;
        let probes = Arc::new(AtomicUsize::new(0));
        let mut waiting = JoinSet::new();
        for _ in 0..500 {
            let (breaker, probes) = (Arc::clone(&breaker), Arc::clone(&probes));
            waiting.spawn(async move {
                let permit = breaker.admit().await;
                if permit.probe {
                    probes.fetch_add(1, Ordering::SeqCst);
                    // An answer takes its time; nobody else may go meanwhile.
                    tokio::time::sleep(7 * MAX + LOOK / 3).await;
                }
                permit.succeeded();
                breaker.clock.now()
            });
        }
        let ends = waiting.join_all().await;
        assert_eq!(probes.load(Ordering::SeqCst), 1);
        let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
        assert!(*first > 7 * MAX && *last - *first <= Duration::from_millis(1), "{first:?} {last:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_probe_opens_it_again_and_costs_one_try_a_pause() {
        let breaker = breaker();
        open(&breaker).await;
        for round in 2..12 {
            let before = breaker.clock.now();
            breaker.admit().await.failed();
            assert!(breaker.clock.now() - before >= MAX / 2);
            assert_eq!(seen(&breaker), (1, round));
        }
        breaker.admit().await.succeeded();
        assert_eq!(seen(&breaker), (0, 11));
        // Flapping: it takes as many failures as ever.
        breaker.admit().await.failed();
        breaker.admit().await.failed();
        assert!(!breaker.is_open());
        breaker.admit().await.failed();
        assert_eq!(seen(&breaker), (1, 12));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_probe_leaves_its_place_to_the_next() {
        let breaker = breaker();
        open(&breaker).await;
        let probe = breaker.admit().await;
        let next = tokio::spawn({
            let breaker = Arc::clone(&breaker);
            async move {
                let permit = breaker.admit().await;
                assert!(permit.probe);
                permit.succeeded();
                breaker.clock.now()
            }
        });
        // A caller that gives up while it waits takes nothing with it.
        assert!(tokio::time::timeout(MAX + LOOK / 3, breaker.admit()).await.is_err());
        let dropped = breaker.clock.now();
        drop(probe);
        let next = tokio::time::timeout(MAX, next).await.expect("a probe").unwrap();
        assert_eq!(next - dropped, Duration::ZERO);
        assert_eq!(seen(&breaker), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_left_before_it_opened_may_close_it_and_never_opens_it() {
        let breaker = breaker();
        let mut early: Vec<_> = (0..8).map(|_| breaker.try_admit().unwrap()).collect();
        open(&breaker).await;
        early.pop().unwrap().failed();
        assert_eq!(seen(&breaker), (1, 1), "known already");
        early.pop().unwrap().succeeded();
        assert_eq!(seen(&breaker), (0, 1), "it answers");
        early.drain(..).for_each(Permit::failed);
        assert_eq!(seen(&breaker), (0, 1), "time-outs of the outage that is over");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_fails_after_another_closed_it_is_one_failure() {
        let breaker = breaker();
        let early = breaker.try_admit().unwrap();
        open(&breaker).await;
        let probe = breaker.admit().await;
        early.succeeded();
        probe.failed();
        assert_eq!(seen(&breaker), (0, 1));
    }

    #[tokio::test]
    async fn a_clock_that_is_set_by_hand_is_followed() {
        let policy = Policy { tries: 1, base: MAX, max: MAX, jitter: true };
        let clock = Arc::new(crate::testing::ManualClock::new(0));
        let breaker = Breaker::new("store", policy, Arc::clone(&clock) as Arc<dyn Clock>, Arc::default());
        breaker.admit().await.failed();
        assert!(breaker.try_admit().is_none());
        clock.advance(MAX / 2 - Duration::from_millis(1));
        assert!(breaker.try_admit().is_none());
        let waiting = breaker.admit();
        clock.advance(MAX);
        assert!(waiting.await.probe);
    }
}
