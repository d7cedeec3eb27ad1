//! The deduper of the simulation: it answers late, in another order than it was asked, or not at all, and remembers every
//! label that it gave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use trellis::BoxFuture;
use trellis::click::ClickId;
use trellis::pipeline::{Claim, Deduper, Label};

/// How it answers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    /// Chunks, of 1,000, of which nobody can tell.
    pub(crate) unknown: u32,
    /// Each answer takes its own time, so that a later question may be answered first.
    pub(crate) latency_ms_max: u64,
    /// Planted: the labels of a chunk go to the wrong clicks.
    pub(crate) swaps: bool,
}

#[derive(Debug, Default)]
struct State {
    random: fastrand::Rng,
    manner: Manner,
    given: BTreeMap<ClickId, BTreeSet<usize>>,
    questions: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct SimDeduper {
    state: Mutex<State>,
}

impl SimDeduper {
    pub(crate) fn new(seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { state: Mutex::new(State { random, ..State::default() }) }
    }

    pub(crate) fn set_manner(&self, manner: Manner) {
        self.state().manner = manner;
    }

    /// Whether it ever gave this click this label. Who was never asked about is unknown.
    pub(crate) fn has_said(&self, id: ClickId, label: Label) -> bool {
        label == Label::Unknown || self.state().given.get(&id).is_some_and(|given| given.contains(&label.index()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A label for each claim: a coin for every question anew, so that a batch that is labelled twice is seen.
    fn labels(&mut self, claims: &[Claim]) -> Vec<Label> {
        self.questions += 1;
        let is_unknown = self.random.u32(..1000) < self.manner.unknown;
        let mut labels = Vec::with_capacity(claims.len());
        for claim in claims {
            let label = match (is_unknown, self.random.bool()) {
                (true, _) => Label::Unknown,
                (false, true) => Label::Unique,
                (false, false) => Label::Duplicate,
            };
            self.given.entry(claim.id).or_default().insert(label.index());
            labels.push(label);
        }
        if self.manner.swaps {
            labels.reverse();
        }
        labels
    }
}

impl Deduper for SimDeduper {
    fn check<'a>(&'a self, claims: &'a [Claim]) -> BoxFuture<'a, Vec<Label>> {
        let wait = {
            let mut state = self.state();
            let most = state.manner.latency_ms_max;
            Duration::from_millis(state.random.u64(..=most))
        };
        Box::pin(async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            self.state().labels(claims)
        })
    }

    fn name(&self) -> &'static str {
        "simulated"
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
