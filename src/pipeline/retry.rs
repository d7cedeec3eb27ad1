//! What an entry of `[retry]` means: how often something is tried, and how long it pauses in between.
//!
//! Arithmetic only: it never waits, reads no clock and rolls no dice; the caller brings the random number. Called by
//! what sends batches, by the [`super::breaker`] and by backends. Bounds: a pause is 1 ms to the policy's `max`.

use std::time::Duration;

pub use crate::config::Policy;

/// With no pause at all, what is down would be asked without end.
const PAUSE_MIN: Duration = Duration::from_millis(1);

impl Policy {
    /// The pause after so many failures in a row, the one just now included: full jitter over base x 2^(failures - 1),
    /// that is the part `random` (0 to 1) of it, at most `max`. Without jitter all of it; a policy whose base is its
    /// maximum then has a fixed delay.
    #[must_use]
    pub fn pause(&self, failures: u32, random: f64) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        self.part(self.base.saturating_mul(doubled).min(self.max), random)
    }

    /// The pause before something is tried again that needs a person first: as [`Policy::pause`] after many failures.
    #[must_use]
    pub fn longest(&self, random: f64) -> Duration {
        self.part(self.max, random)
    }

    /// Whether so many failures have used every try.
    #[must_use]
    pub const fn is_spent(&self, failures: u32) -> bool {
        failures >= self.tries
    }

    fn part(&self, whole: Duration, random: f64) -> Duration {
        let part = if self.jitter { whole.mul_f64(random.clamp(0.0, 1.0)) } else { whole };
        part.max(PAUSE_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    const fn policy(base_ms: u64, max_ms: u64, jitter: bool) -> Policy {
        Policy { tries: 3, base: Duration::from_millis(base_ms), max: Duration::from_millis(max_ms), jitter }
    }

    #[test]
    fn pauses_double_up_to_the_maximum_and_jitter_takes_any_part_of_them() {
        let policy = policy(100, 1_000, true);
        let whole: Vec<_> = (1..=6).map(|failures| policy.pause(failures, 1.0).as_millis()).collect();
        assert_eq!(whole, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(policy.pause(3, 0.5), 200 * MS);
        assert_eq!(policy.pause(3, 0.0), MS, "never none at all");
        assert_eq!(policy.pause(u32::MAX, 1.0), policy.longest(1.0));
        assert_eq!(policy.longest(0.25), 250 * MS);
        assert_eq!(policy.pause(0, 1.0), 100 * MS);
    }

    #[test]
    fn a_base_that_is_the_maximum_without_jitter_is_a_fixed_delay() {
        let policy = policy(300, 300, false);
        assert!((1..=40).all(|failures| policy.pause(failures, 0.1) == 300 * MS));
        assert_eq!(policy.longest(0.1), 300 * MS);
    }

    #[test]
    fn the_last_try_spends_the_policy() {
        let policy = policy(1, 1, true);
        assert_eq!([2, 3, 4].map(|failures| policy.is_spent(failures)), [false, true, true]);
    }
}
