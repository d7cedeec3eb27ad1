//! A deduper that answers from a script.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::BoxFuture;
use crate::pipeline::{Claim, Deduper, Label};

/// Gives the labels of its script, one a claim, and then always the same one.
#[derive(Debug)]
pub struct ScriptedDeduper {
    state: Mutex<State>,
    then: Label,
}

#[derive(Debug, Default)]
struct State {
    script: VecDeque<Label>,
    claims: Vec<Claim>,
}

impl ScriptedDeduper {
    /// These labels, and `then` for every claim behind them.
    #[must_use]
    pub fn new(script: impl IntoIterator<Item = Label>, then: Label) -> Self {
        Self { state: Mutex::new(State { script: script.into_iter().collect(), claims: Vec::new() }), then }
    }

    /// Every claim so far, in the order in which they came.
    #[must_use]
    pub fn claims(&self) -> Vec<Claim> {
        self.state().claims.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deduper for ScriptedDeduper {
    fn check<'a>(&'a self, claims: &'a [Claim]) -> BoxFuture<'a, Vec<Label>> {
        let mut state = self.state();
        state.claims.extend_from_slice(claims);
        let labels = claims.iter().map(|_| state.script.pop_front().unwrap_or(self.then)).collect();
        Box::pin(std::future::ready(labels))
    }

    fn name(&self) -> &'static str {
        "scripted"
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::click::{ClickId, Fingerprint};

    #[tokio::test]
    async fn the_script_comes_first_and_the_rest_is_alike() {
        let claim = Claim { fingerprint: Fingerprint([1; 16]), id: ClickId::new(1, &[1; 10]), window: None };
        let deduper = ScriptedDeduper::new([Label::Duplicate], Label::Unknown);
        assert_eq!(deduper.check(&[claim; 3]).await, [Label::Duplicate, Label::Unknown, Label::Unknown]);
        assert_eq!(deduper.claims().len(), 3);
    }
}
