//! `[probe]`: how often the node asks itself what a visitor and an operator would.

use std::time::Duration;

use super::check::{Keys, minutes, ms};
use super::units::{boolean, time};

/// `[probe]`
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Whether it does.
    pub enabled: bool,
    /// From one round of the operator side's checks to the next.
    pub checks_every: Duration,
    /// From one click of the canary to the next.
    pub canary_every: Duration,
    /// For one answer.
    pub timeout: Duration,
    /// For a click to arrive in the store.
    pub arrival_max: Duration,
}

impl Keys {
    pub(super) fn probe(&mut self) -> Probe {
        Probe {
            enabled: self.get("probe.enabled", boolean),
            checks_every: self.get("probe.checks_every", time(ms(100)..=minutes(60))),
            // Each is a click that is stored.
            canary_every: self.get("probe.canary_every", time(ms(100)..=minutes(60))),
            timeout: self.get("probe.timeout", time(ms(10)..=minutes(1))),
            arrival_max: self.get("probe.arrival_max", time(ms(10)..=minutes(10))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{check_text, problems};
    use super::*;

    #[test]
    fn unless_told_otherwise_it_asks_every_half_minute_and_clicks_every_minute() {
        let probe = check_text("").unwrap().probe;
        let s = |time: Duration| time.as_secs();
        assert_eq!((probe.enabled, s(probe.checks_every), s(probe.canary_every)), (true, 30, 60));
    }

    #[test]
    fn the_prober_has_bounds() {
        for (setting, range) in [
            ("probe.enabled = \"yes\"", "true or false"),
            ("probe.checks_every = \"99ms\"", "100ms to 1h"),
            ("probe.canary_every = \"2h\"", "100ms to 1h"),
            ("probe.timeout = \"0s\"", "10ms to 1m"),
            ("probe.arrival_max = \"11m\"", "10ms to 10m"),
        ] {
            let told = problems(setting);
            assert!(told.len() == 1 && told[0].contains(&format!(": must be {range}")), "{setting}: {told:?}");
        }
    }
}
