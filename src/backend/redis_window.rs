//! How many pipelines one worker has at Redis at one time: fewer when it does not keep up, more while it does.
//!
//! A backlog asks for labels as fast as the journal can be read, and Redis works on one command at a time. With too many
//! pipelines there, each waits behind the others until its time is over, none is answered, and their second tries are more
//! of the same. So a failure halves the window, once for all that were under way together, and each answer widens it a
//! little: as TCP does it. Who waits for a place here has not asked yet, and its time does not run. Bounds: 1 and `max`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The places of one worker.
#[derive(Debug)]
pub(super) struct Window {
    max: f64,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// Places, of which the whole ones count.
    width: f64,
    taken: usize,
    /// Times that it was halved: who took a place before cannot halve it again.
    round: u64,
}

/// One pipeline's place, free again when dropped.
#[derive(Debug)]
pub(super) struct Place<'w> {
    window: &'w Window,
    round: u64,
}

impl Window {
    /// Open to its full width.
    pub(super) fn new(max: usize) -> Self {
        let width = max.max(1) as f64;
        Self { max: width, state: Mutex::new(State { width, taken: 0, round: 0 }), changed: Notify::new() }
    }

    /// Waits for a place. May be cancelled.
    pub(super) async fn enter(&self) -> Place<'_> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(place) = self.try_enter() {
                return place;
            }
            changed.await;
        }
    }

    fn try_enter(&self) -> Option<Place<'_>> {
        let mut state = self.state();
        if state.taken as f64 + 1.0 > state.width {
            return None;
        }
        state.taken += 1;
        Some(Place { window: self, round: state.round })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers only: nothing in it can be half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Redis has answered in time.
    pub(super) fn answered(&self) {
        let mut state = self.window.state();
        state.width = (state.width + 1.0 / state.width).min(self.window.max);
        drop(state);
        // The one beyond the place that is given back, when there is one more.
        self.window.changed.notify_one();
    }

    /// It has not. True for the first of those that were under way together: for all of them that is one failure.
    pub(super) fn failed(&self) -> bool {
        let mut state = self.window.state();
        let is_first = state.round == self.round;
        if is_first {
            state.round += 1;
            state.width = (state.width / 2.0).max(1.0);
        }
        is_first
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.window.state().taken -= 1;
        self.window.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(window: &Window) -> Vec<Place<'_>> {
        std::iter::from_fn(|| window.try_enter()).collect()
    }

    #[test]
    fn what_fails_together_halves_the_window_once_and_answers_widen_it_again() {
        let window = Window::new(8);
        let all = fill(&window);
        assert_eq!(all.len(), 8);
        assert_eq!(all.iter().filter(|place| place.failed()).count(), 1);
        drop(all);
        for expected in [4, 2, 1, 1] {
            let some = fill(&window);
            assert_eq!(some.len(), expected);
            assert!(some[0].failed());
        }
        let mut answers = 0;
        while fill(&window).len() < 8 {
            fill(&window)[0].answered();
            answers += 1;
        }
        assert!((20..60).contains(&answers), "{answers}");
        (0..100).for_each(|_| fill(&window)[0].answered());
        assert_eq!(fill(&window).len(), 8, "no wider than it may be");
    }

    #[tokio::test]
    async fn who_waits_gets_the_place_that_is_given_back() {
        let window = Window::new(2);
        let (first, second) = (window.enter().await, window.enter().await);
        let mut third = Box::pin(window.enter());
        assert!(is_pending(&mut third).await);
        assert!(first.failed() && !second.failed());
        drop(first);
        assert!(is_pending(&mut third).await, "there is one place now, and it is taken");
        drop(second);
        let third = third.await;
        third.answered();
        let fourth = tokio::time::timeout(std::time::Duration::from_secs(60), window.enter()).await;
        assert!(fourth.is_ok(), "an answer has made a second place");
    }

    /// Whether a future still waits when everything else had its turn.
    async fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
        tokio::task::yield_now().await;
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_pending())
        })
        .await
    }
}
