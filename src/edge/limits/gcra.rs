//! How fast a source may go: the generic cell rate algorithm (GCRA). A source is one number, the time at which it will
//! have paid for all that it was let do; how far that lies ahead is its debt. Pure arithmetic.
//!
//! ```text
//! interval = 1 s / rate            what one request costs
//! let in while debt <= (burst - 1) x interval, and debt grows by interval; it melts as time goes by
//! ```
//! Times are ticks of 100 ns. An interval is rounded to a tick: at the highest rate, 1,000,000/s, by 5 % at most, at
//! 10,000/s by 0.05 %. Bound: a debt is an hour and one interval at most.

use std::time::Duration;

const TICKS_PER_S: u64 = 10_000_000;

/// The longest time in which a burst may be paid off.
pub const WINDOW_MAX: Duration = Duration::from_secs(3600);
/// No debt is larger: a burst of [`WINDOW_MAX`] and one request at the lowest rate.
pub(super) const DEBT_MAX: u64 = (3600 + 1) * TICKS_PER_S;

/// Ticks since the origin of the clock.
#[must_use]
pub(super) const fn ticks(now: Duration) -> u64 {
    now.as_secs() * TICKS_PER_S + (now.subsec_nanos() / 100) as u64
}

/// Ticks in whole seconds, rounded up.
#[must_use]
pub(super) const fn seconds(ticks: u64) -> u64 {
    ticks.div_ceil(TICKS_PER_S)
}

/// A rate with a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gcra {
    interval: u64,
    tolerance: u64,
    burst: u32,
}

impl Gcra {
    /// So many requests a second (1 to 1,000,000), and so many at once (at least 1; what the rate pays off in
    /// [`WINDOW_MAX`] at most). Other numbers are taken as the nearest ones.
    #[must_use]
    pub fn new(rate: u32, burst: u32) -> Self {
        let rate = u64::from(rate.clamp(1, 1_000_000));
        let interval = (TICKS_PER_S + rate / 2) / rate;
        let burst = u64::from(burst.max(1)).min(DEBT_MAX / interval - 1);
        Self { interval, tolerance: (burst - 1) * interval, burst: burst as u32 }
    }

    /// The debt after one more request.
    ///
    /// # Errors
    /// The ticks until there is room for it; the debt stays what it is.
    pub(super) const fn charge(&self, debt: u64) -> Result<u64, u64> {
        if debt <= self.tolerance { Ok(debt + self.interval) } else { Err(debt - self.tolerance) }
    }

    /// Requests at once.
    #[must_use]
    pub const fn burst(&self) -> u32 {
        self.burst
    }

    /// Whole seconds, rounded up, in which a burst is paid off.
    #[must_use]
    pub const fn window_s(&self) -> u64 {
        seconds(self.tolerance + self.interval)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many of these requests are let in.
    fn admitted(gcra: Gcra, times: impl Iterator<Item = u64>) -> u64 {
        let (mut paid_at, mut count) = (0_u64, 0);
        for now in times {
            if let Ok(debt) = gcra.charge(paid_at.saturating_sub(now)) {
                paid_at = now + debt;
                count += 1;
            }
        }
        count
    }

    #[test]
    fn a_burst_goes_at_once_and_then_the_rate_counts() {
        let gcra = Gcra::new(10, 3);
        assert_eq!((gcra.burst(), gcra.window_s()), (3, 1));
        assert_eq!(admitted(gcra, std::iter::repeat_n(5, 100)), 3);
        let at = ticks(Duration::from_millis(100));
        assert_eq!(gcra.charge(3 * at), Err(at), "after a burst there is room in one interval");
        assert_eq!(gcra.charge(2 * at), Ok(3 * at), "and at that moment it is there");
        let every_ms = (0..10_000).map(|ms| ms * 10_000);
        assert_eq!(admitted(gcra, every_ms), 3 + 99, "10 s at 1,000/s: the burst, and 10 a second");
    }

    #[test]
    fn an_interval_is_exact_to_five_percent_at_any_rate() {
        for rate in (1..2000).chain((2000..=1_000_000).step_by(997)) {
            let paid = Gcra::new(rate, 1).interval as f64 * f64::from(rate) / TICKS_PER_S as f64;
            let most = if rate <= 10_000 { 0.0005 } else { 0.05 };
            assert!((paid - 1.0).abs() <= most + f64::EPSILON, "{rate}: {paid}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_bent_to_the_nearest_ones() {
        assert_eq!(Gcra::new(0, 0), Gcra::new(1, 1));
        assert_eq!(Gcra::new(u32::MAX, 1), Gcra::new(1_000_000, 1));
        let longest = Gcra::new(1, u32::MAX);
        assert!(longest.window_s() <= WINDOW_MAX.as_secs() && longest.tolerance + longest.interval <= DEBT_MAX);
    }

    proptest! {
        /// However requests come, no stretch of time sees more than a burst and what the rate pays for.
        #[test]
        fn nobody_gets_more_than_the_burst_and_the_rate(
            rate in 1_u32..5000, burst in 1_u32..500, gaps in prop::collection::vec(0_u64..200_000, 1..400),
        ) {
            let gcra = Gcra::new(rate, burst);
            let times: Vec<u64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let length = times.last().copied().unwrap_or(0);
            let most = u64::from(burst) + length / gcra.interval;
            let admitted = admitted(gcra, times.iter().copied());
            prop_assert!(admitted <= most, "{admitted} of {most}");
            prop_assert!(admitted >= (times.len() as u64).min(u64::from(burst)));
        }
    }
}
