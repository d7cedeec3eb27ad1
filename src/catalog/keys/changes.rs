//! Which keys have changed lately, in order, for those who keep what they were told of keys.
//!
//! Called once an edit, and by those who follow; never on a request thread. Bound: the last [`KEPT`] changes. Who is behind
//! them, or followed another run of this process, is told that it may have missed some.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

const KEPT: usize = 1024;

/// The last changes, numbered from 1.
#[derive(Debug)]
pub struct Changes {
    run: u64,
    last: Mutex<VecDeque<Arc<str>>>,
    /// How many there were.
    sequence: watch::Sender<u64>,
}

/// What has happened since some point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// Nobody knows; these were so many.
    Unknown(u64),
    /// The ids of the keys that changed, oldest first; the last one has this number.
    Known(Vec<Arc<str>>, u64),
}

impl Changes {
    pub(super) fn new() -> Self {
        Self { run: fastrand::u64(1..), last: Mutex::default(), sequence: watch::Sender::new(0) }
    }

    pub(super) fn note(&self, key_id: &str) {
        let mut last = self.last();
        last.push_back(key_id.into());
        if last.len() > KEPT {
            last.pop_front();
        }
        // Under the lock: numbers and ids go together.
        self.sequence.send_modify(|sequence| *sequence += 1);
    }

    /// Drawn at the start, never 0: numbers of two runs cannot be compared.
    #[must_use]
    pub const fn run(&self) -> u64 {
        self.run
    }

    /// Wakes with every change.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.sequence.subscribe()
    }

    /// What has happened since the change of this number in this run.
    #[must_use]
    pub fn since(&self, run: u64, sequence: u64) -> Since {
        let last = self.last();
        let now = *self.sequence.borrow();
        let missed = now.checked_sub(sequence).and_then(|missed| usize::try_from(missed).ok());
        match missed.filter(|missed| run == self.run && *missed <= last.len()) {
            Some(missed) => Since::Known(last.iter().skip(last.len() - missed).cloned().collect(), now),
            None => Since::Unknown(now),
        }
    }

    fn last(&self) -> MutexGuard<'_, VecDeque<Arc<str>>> {
        // An id is put in whole.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_learns_what_it_missed_or_that_nobody_knows() {
        let changes = Changes::new();
        let run = changes.run();
        assert!(run != 0);
        assert_eq!(changes.since(run, 0), Since::Known(vec![], 0));
        ["a", "b", "c"].into_iter().for_each(|id| changes.note(id));
        assert_eq!(changes.since(run, 1), Since::Known(vec!["b".into(), "c".into()], 3));
        assert_eq!(changes.since(run, 3), Since::Known(vec![], 3));
        assert_eq!(changes.since(run, 4), Since::Unknown(3), "it has not happened");
        assert_eq!(changes.since(run ^ 1, 3), Since::Unknown(3), "another run");
        assert_eq!(changes.since(0, 0), Since::Unknown(3), "it follows for the first time");
    }

    #[test]
    fn only_the_last_changes_are_kept() {
        let changes = Changes::new();
        (0..KEPT + 5).for_each(|n| changes.note(&n.to_string()));
        let now = KEPT as u64 + 5;
        assert_eq!(changes.since(changes.run(), 4), Since::Unknown(now));
        let Since::Known(ids, _) = changes.since(changes.run(), 5) else { panic!("it is behind") };
        assert_eq!((ids.len(), &*ids[0]), (KEPT, "5"));
    }
}
