//! Deduplication: a label for each click, by who came first.
//!
//! Ids are UUIDv7, so the owner of a fingerprint carries its own time, and the rule needs no second look-up. It labels;
//! it never deletes: a mark without a row cannot lose a click, and an outage costs labels, not clicks.

use crate::BoxFuture;
use crate::click::dedup::Window;
use crate::click::{ClickId, Fingerprint};
use crate::telemetry::figures::Reading;

/// What the deduper says of a click.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// The first of its fingerprint within the window.
    Unique,
    /// Another click of its fingerprint counts as the first.
    Duplicate,
    /// Nobody could tell: the deduper did not answer, the click waited too long, or there is no fingerprint.
    Unknown,
}

impl Label {
    /// All of them, in the order of [`Label::index`].
    pub const ALL: [Self; 3] = [Self::Unique, Self::Duplicate, Self::Unknown];

    /// The word in the store, the API and the metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unique => "unique",
            Self::Duplicate => "duplicate",
            Self::Unknown => "unknown",
        }
    }

    /// Position in [`Label::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// One click asking for its label.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// What it would own.
    pub fingerprint: Fingerprint,
    /// Who asks.
    pub id: ClickId,
    /// Its own window, in place of the deduper's.
    pub window: Option<Window>,
}

impl Claim {
    /// The window that counts for it, with that of its deduper; milliseconds.
    #[must_use]
    pub fn window_ms(&self, of_deduper_ms: u64) -> u64 {
        self.window.map_or(of_deduper_ms, Window::ms)
    }
}

/// The outcome of comparing a click with the owner of its fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The label.
    pub label: Label,
    /// The click takes the fingerprint over: the owner lies before the window.
    pub take_over: bool,
}

/// The time rule. No owner, or the click itself (a retry): unique. An owner within the window on either side: duplicate,
/// whichever of the two clicks was looked at first; so exactly one of them is unique, also when two workers run apart. An
/// older owner: unique, and the click takes over. An owner from beyond the window ahead (a late replay): unique, and the
/// owner stays.
#[must_use]
pub fn judge(owner: Option<ClickId>, mine: ClickId, window_ms: u64) -> Verdict {
    let unique = |take_over| Verdict { label: Label::Unique, take_over };
    match owner {
        None => unique(false),
        Some(owner) if owner == mine => unique(false),
        Some(owner) if owner.unix_ms().abs_diff(mine.unix_ms()) < window_ms => {
            Verdict { label: Label::Duplicate, take_over: false }
        }
        Some(owner) => unique(owner.unix_ms() < mine.unix_ms()),
    }
}

/// The port: something that remembers owners of fingerprints.
pub trait Deduper: Send + Sync {
    /// Labels for these claims, in their order; as many as there are claims. Never fails: what cannot be told is
    /// [`Label::Unknown`]. Two claims of one call are judged in their order.
    fn check<'a>(&'a self, claims: &'a [Claim]) -> BoxFuture<'a, Vec<Label>>;

    /// Its name in health and metrics: `memory` or `redis`.
    fn name(&self) -> &'static str;

    /// Whether it answers.
    fn ping(&self) -> BoxFuture<'_, Result<(), String>>;

    /// What it says of itself; nothing where it has nothing to say.
    fn figures(&self) -> BoxFuture<'_, Vec<Reading>> {
        Box::pin(std::future::ready(Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64, tail: u8) -> ClickId {
        ClickId::new(ms, &[tail; 10])
    }

    #[test]
    fn the_time_rule() {
        let mine = id(10_000, 1);
        let label = |owner| judge(owner, mine, 1_000);
        let unique = |take_over| Verdict { label: Label::Unique, take_over };
        let duplicate = Verdict { label: Label::Duplicate, take_over: false };
        assert_eq!(label(None), unique(false));
        assert_eq!(label(Some(mine)), unique(false), "a retry finds itself");
        assert_eq!(label(Some(id(10_000, 2))), duplicate, "the same millisecond");
        assert_eq!(label(Some(id(9_001, 2))), duplicate);
        assert_eq!(label(Some(id(9_000, 2))), unique(true), "the window is over");
        assert_eq!(label(Some(id(10_999, 2))), duplicate, "the later one was looked at first");
        assert_eq!(label(Some(id(11_000, 2))), unique(false), "a late replay takes nothing over");
    }
}
