//! `[watch]`: how often others are asked whether they answer, and for their figures. Bounds: 100 ms to 10 min; 1 min for an
//! answer.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::check::{Keys, minutes, ms};
use super::units::time;

/// Below, asking would be work of its own; above, a figure would say little of now.
const RANGE: RangeInclusive<Duration> = ms(100)..=minutes(10);

/// `[watch]`
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// From one question whether the dependencies answer to the next.
    pub ping_every: Duration,
    /// For that answer; later is none.
    pub ping_timeout: Duration,
    /// From one look at Redis to the next.
    pub redis_every: Duration,
    /// From one look at ClickHouse's system tables to the next.
    pub store_every: Duration,
    /// From one look at the system to the next.
    pub system_every: Duration,
}

impl Keys {
    pub(super) fn watch(&mut self) -> Watch {
        Watch {
            ping_every: self.get("watch.ping_every", time(RANGE)),
            ping_timeout: self.get("watch.ping_timeout", time(ms(100)..=minutes(1))),
            redis_every: self.get("watch.redis_every", time(RANGE)),
            store_every: self.get("watch.store_every", time(RANGE)),
            system_every: self.get("watch.system_every", time(RANGE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::problems;

    #[test]
    fn looks_are_neither_too_often_nor_too_seldom() {
        for key in ["ping_every", "redis_every", "store_every", "system_every"] {
            for value in ["99ms", "11m"] {
                let told = problems(&format!("watch.{key} = \"{value}\""));
                assert!(told.len() == 1 && told[0].ends_with(": must be 100ms to 10m"), "{told:?}");
            }
        }
        for value in ["99ms", "61s"] {
            let told = problems(&format!("watch.ping_timeout = \"{value}\""));
            assert!(told.len() == 1 && told[0].ends_with(": must be 100ms to 1m"), "{told:?}");
        }
    }
}
