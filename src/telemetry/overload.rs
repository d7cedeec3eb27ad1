//! Overload: signals, the level that follows from them, and the lever that parts of the program look at.
//!
//! ```text
//! level  from then on left undone                                      begins with
//!   1    reasons that change no class (the shadow), by the workers     shadow_lag, pending_clicks
//!   2    country, browser, system and device, by the workers           enrichment_lag, 2 x pending_clicks
//!   3    new connections: 503                                          connections_lag, accept_backlog
//!   4    redirects on open connections: 503                            redirects_lag
//!        the journal: never
//! ```
//! One step at a time: up after [`UP_LOOKS`] looks in a row above a threshold, down after [`DOWN_LOOKS`] below half of it. So
//! a hiccup sheds nothing, and from the highest level it is 6 s back to none at [`LOOK`].
//!
//! Clicks that wait count only while the store answers and there is no backlog: those of an outage wait for the store, and
//! leaving work undone would not bring it back. They never refuse a visitor. The reflex is pure; `app` asks it, and the
//! lever is one atomic.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::config;

/// From one look to the next.
pub const LOOK: Duration = Duration::from_millis(250);
/// Looks above a threshold until the level rises by one: a second.
pub const UP_LOOKS: u32 = 4;
/// Looks below half of it until it falls by one: a second and a half.
pub const DOWN_LOOKS: u32 = 6;

/// How much is left undone; each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    Calm,
    /// Reasons that change no class.
    Shadow,
    /// Country, browser, system, device.
    Enrichment,
    /// New connections.
    Connections,
    /// Redirects.
    Redirects,
}

impl Level {
    /// All of them, lowest first.
    pub const ALL: [Self; 5] = [Self::Calm, Self::Shadow, Self::Enrichment, Self::Connections, Self::Redirects];

    fn at(index: usize) -> Self {
        Self::ALL[index.min(Self::ALL.len() - 1)]
    }
}

/// The level as everybody sees it.
#[derive(Debug, Default)]
pub struct Lever(AtomicU8);

impl Lever {
    /// The level now.
    #[must_use]
    pub fn level(&self) -> Level {
        Level::at(self.0.load(Ordering::Relaxed).into())
    }

    /// Whether this is left undone now.
    #[must_use]
    pub fn sheds(&self, level: Level) -> bool {
        self.level() >= level
    }

    /// Moves it.
    pub fn set(&self, level: Level) {
        self.0.store(level as u8, Ordering::Relaxed);
    }
}

/// How the node feels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// How late the latest of the edge's event loops was.
    pub loop_lag: Duration,
    /// Connections that an edge thread has accepted since it last found none waiting; the largest.
    pub accept_backlog: u64,
    /// Clicks that wait for a worker, where that says something of this node.
    pub pending_clicks: u64,
}

/// From signals to the level.
#[derive(Debug)]
pub struct Reflex {
    thresholds: config::Overload,
    level: Level,
    /// Looks in a row that wanted a higher level, and a lower one.
    looks: (u32, u32),
}

impl Reflex {
    /// Calm.
    #[must_use]
    pub const fn new(thresholds: config::Overload) -> Self {
        Self { thresholds, level: Level::Calm, looks: (0, 0) }
    }

    /// The level after one more look.
    pub fn look(&mut self, signals: &Signals) -> Level {
        if !self.thresholds.enabled {
            return Level::Calm;
        }
        let (above, below) = (self.wanted(signals, 1) > self.level, self.wanted(signals, 2) < self.level);
        self.looks = match (above, below) {
            (true, _) => (self.looks.0 + 1, 0),
            (_, true) => (0, self.looks.1 + 1),
            _ => (0, 0),
        };
        if self.looks.0 >= UP_LOOKS {
            self.step(self.level as usize + 1);
        } else if self.looks.1 >= DOWN_LOOKS {
            self.step(self.level as usize - 1);
        }
        self.level
    }

    fn step(&mut self, to: usize) {
        (self.level, self.looks) = (Level::at(to), (0, 0));
    }

    /// The highest level one of whose thresholds is reached, when all thresholds are divided by this.
    fn wanted(&self, signals: &Signals, divisor: u32) -> Level {
        let at = &self.thresholds;
        let late = |lag: Duration| signals.loop_lag >= lag / divisor;
        let waiting = |clicks: u64| signals.pending_clicks >= clicks / u64::from(divisor);
        if late(at.redirects_lag) {
            Level::Redirects
        } else if late(at.connections_lag) || signals.accept_backlog >= at.accept_backlog / u64::from(divisor) {
            Level::Connections
        } else if late(at.enrichment_lag) || waiting(2 * at.pending_clicks) {
            Level::Enrichment
        } else if late(at.shadow_lag) || waiting(at.pending_clicks) {
            Level::Shadow
        } else {
            Level::Calm
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Sources};

    fn reflex(settings: &str) -> Reflex {
        Reflex::new(Config::from_text(&Sources::default(), settings).unwrap().limits.overload)
    }

    fn lag(ms: u64) -> Signals {
        Signals { loop_lag: Duration::from_millis(ms), ..Signals::default() }
    }

    /// The levels after so many looks at the same signals.
    fn looks(reflex: &mut Reflex, signals: &Signals, count: u32) -> Vec<usize> {
        (0..count).map(|_| reflex.look(signals) as usize).collect()
    }

    #[test]
    fn load_is_shed_in_a_fixed_order_one_step_at_a_time_and_taken_back_in_the_other() {
        let mut reflex = reflex("");
        assert_eq!(looks(&mut reflex, &lag(60_000), 20), [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4]);
        let back = looks(&mut reflex, &lag(0), 26);
        let expected: Vec<usize> = [4, 3, 2, 1, 0].iter().zip([5, 6, 6, 6, 3]).flat_map(|(l, n)| vec![*l; n]).collect();
        assert_eq!(back, expected, "6 s until all is done again");
    }

    #[test]
    fn a_hiccup_sheds_nothing_and_around_a_threshold_the_level_holds() {
        let mut reflex = reflex("");
        for _ in 0..50 {
            looks(&mut reflex, &lag(60_000), UP_LOOKS - 1);
            assert_eq!(reflex.look(&lag(0)), Level::Calm);
        }
        assert_eq!(looks(&mut reflex, &lag(110), 30).last(), Some(&1), "no further than its threshold says");
        assert!(looks(&mut reflex, &lag(60), 100).iter().all(|level| *level == 1), "between half of it and itself");
        assert_eq!(looks(&mut reflex, &lag(49), DOWN_LOOKS).last(), Some(&0));
    }

    #[test]
    fn clicks_that_wait_never_refuse_a_visitor_and_a_full_accept_queue_does() {
        let pending = Signals { pending_clicks: u64::MAX, ..Signals::default() };
        assert_eq!(looks(&mut reflex(""), &pending, 100).last(), Some(&2));
        let mut one = reflex("");
        let pending = Signals { pending_clicks: 100_000, ..Signals::default() };
        assert_eq!(looks(&mut one, &pending, 100).last(), Some(&1));
        let backlog = Signals { accept_backlog: 4096, ..Signals::default() };
        assert_eq!(looks(&mut reflex(""), &backlog, 100).last(), Some(&3));
    }

    #[test]
    fn switched_off_it_sheds_nothing() {
        let mut reflex = reflex("limits.overload.enabled = false");
        assert!(looks(&mut reflex, &lag(60_000), 100).iter().all(|level| *level == 0));
    }

    #[test]
    fn a_lever_sheds_its_level_and_those_before_it() {
        let lever = Lever::default();
        for level in Level::ALL {
            lever.set(level);
            assert!(Level::ALL.iter().all(|other| lever.sheds(*other) == (*other <= level)), "{level:?}");
        }
    }
}
