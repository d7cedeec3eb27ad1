//! `[limits]`: who may ask how often, and when work is left undone.
//!
//! Only reads the section. What the limits do is in `edge::limits`. Bounds: 64 exempt networks, which are compared for each
//! connection; 2^24 sources a limit (128 MiB); a burst that its rate pays off within an hour.

use std::time::Duration;

use super::Config;
use super::check::Keys;
use super::units::{boolean, list, number, show_time, time};
use crate::click::address::Network;

const EXEMPT_MAX: usize = 64;
/// Seconds in which a burst is paid off, at most.
const WINDOW_S_MAX: u64 = 3600;

/// `[limits]`
#[derive(Clone, Debug)]
pub struct Limits {
    /// Networks without limits of their own.
    pub exempt: Vec<Network>,
    /// Sources that each limit remembers.
    pub entries_max: usize,
    /// Open connections of one address; 0: as many as there are.
    pub connections_per_address: u32,
    /// Of each client network.
    pub network: Option<Rate>,
    /// Of each link.
    pub link: Option<Rate>,
    /// Of all together.
    pub global: Option<Rate>,
    /// Unknown slugs of each client network.
    pub misses: Option<Rate>,
    /// When work is left undone.
    pub overload: Overload,
}

/// `[limits.overload]`: from where on what is left undone.
#[derive(Clone, Copy, Debug)]
pub struct Overload {
    /// Whether anything is.
    pub enabled: bool,
    /// Lag of an edge thread's event loop: reasons that change no class.
    pub shadow_lag: Duration,
    /// Country, browser, system, device.
    pub enrichment_lag: Duration,
    /// New connections.
    pub connections_lag: Duration,
    /// Redirects.
    pub redirects_lag: Duration,
    /// Connections accepted in a row with more of them waiting: new connections.
    pub accept_backlog: u64,
    /// Clicks that wait for a worker: as `shadow_lag`; twice as many: as `enrichment_lag`.
    pub pending_clicks: u64,
}

/// Requests a second, and at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// A second; at least 1.
    pub rate: u32,
    /// At once; at least 1.
    pub burst: u32,
}

impl Keys {
    pub(super) fn limits(&mut self) -> Limits {
        Limits {
            exempt: self.get("limits.exempt", |value| {
                let networks = list(str::parse::<Network>)(value)?;
                let few = networks.len() <= EXEMPT_MAX;
                few.then_some(networks).ok_or_else(|| format!("has more than {EXEMPT_MAX} networks"))
            }),
            entries_max: self.get("limits.entries_max", number(1024..=1 << 24)),
            connections_per_address: self.get("limits.connections_per_address", number(0..=1_000_000)),
            network: self.rate("limits.network.rate", "limits.network.burst"),
            link: self.rate("limits.link.rate", "limits.link.burst"),
            global: self.rate("limits.global.rate", "limits.global.burst"),
            misses: self.rate("limits.misses.rate", "limits.misses.burst"),
            overload: self.overload(),
        }
    }

    fn overload(&mut self) -> Overload {
        let lag = || time(Duration::ZERO..=Duration::from_secs(60));
        Overload {
            enabled: self.get("limits.overload.enabled", boolean),
            shadow_lag: self.get("limits.overload.shadow_lag", lag()),
            enrichment_lag: self.get("limits.overload.enrichment_lag", lag()),
            connections_lag: self.get("limits.overload.connections_lag", lag()),
            redirects_lag: self.get("limits.overload.redirects_lag", lag()),
            // An event loop takes some hundred in a turn.
            accept_backlog: self.get("limits.overload.accept_backlog", number(256..=1_000_000)),
            pending_clicks: self.get("limits.overload.pending_clicks", number(1000..=1_000_000_000)),
        }
    }

    /// A rate of 0 is none.
    fn rate(&mut self, rate: &str, burst: &str) -> Option<Rate> {
        let found =
            Rate { rate: self.get(rate, number(0..=1_000_000)), burst: self.get(burst, number(1..=1_000_000_000)) };
        (found.rate > 0).then_some(found)
    }

    pub(super) fn limits_relations(&mut self, config: &Config) {
        let Limits { network, link, global, misses, overload, .. } = config.limits;
        let lags = [
            ("limits.overload.shadow_lag", overload.shadow_lag),
            ("limits.overload.enrichment_lag", overload.enrichment_lag),
            ("limits.overload.connections_lag", overload.connections_lag),
            ("limits.overload.redirects_lag", overload.redirects_lag),
        ];
        for [(lower_key, lower), (key, lag)] in lags.array_windows() {
            self.relation(&[key, lower_key], lower <= lag, || {
                let (lower, lag) = (show_time(*lower), show_time(*lag));
                format!("{key} ({lag}) must be at least {lower_key} ({lower}): load is shed in this order")
            });
        }
        for (name, rate) in [("network", network), ("link", link), ("global", global), ("misses", misses)] {
            let Some(Rate { rate, burst }) = rate else { continue };
            let (rate_key, burst_key) = (format!("limits.{name}.rate"), format!("limits.{name}.burst"));
            let most = u64::from(rate) * WINDOW_S_MAX;
            self.relation(&[burst_key.as_str(), rate_key.as_str()], u64::from(burst) <= most, || {
                format!("{burst_key} ({burst}) must be at most {most}: what {rate_key} ({rate}) pays off in an hour")
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::problems;
    use super::*;
    use crate::config::Sources;

    #[test]
    fn each_limit_is_a_rate_with_a_burst_and_a_rate_of_0_is_none() {
        let text = "[limits.network]\nrate = 0\n[limits.link]\nrate = 7\nburst = 9\n";
        let limits = Config::from_text(&Sources::default(), text).unwrap().limits;
        assert_eq!((limits.network, limits.link), (None, Some(Rate { rate: 7, burst: 9 })));
        let defaults = Config::from_text(&Sources::default(), "").unwrap().limits;
        assert_eq!((defaults.global, defaults.link), (None, None));
        assert_eq!(defaults.network, Some(Rate { rate: 1000, burst: 5000 }));
        assert_eq!(defaults.misses, Some(Rate { rate: 20, burst: 400 }));
    }

    #[test]
    fn what_is_out_of_range_is_told_with_the_range_and_a_burst_must_be_paid_off() {
        for (text, told) in [
            ("[limits]\nexempt = [\"ten\"]", "2: limits.exempt = [\"ten\"]: `ten` is not a network"),
            ("[limits]\nentries_max = 10", "2: limits.entries_max = 10: must be 1024 to 16777216"),
            ("[limits.misses]\nrate = -1", "2: limits.misses.rate = -1: must be 0 to 1000000"),
            (
                "[limits.overload]\nconnections_lag = \"150ms\"",
                "2: limits.overload.connections_lag = \"150ms\": limits.overload.connections_lag (150ms) must be at least \
                 limits.overload.enrichment_lag (200ms)",
            ),
            ("[limits.overload]\nredirects_lag = \"2m\"", "2: limits.overload.redirects_lag = \"2m\": must be "),
            ("[limits.link]\nburst = 0", "2: limits.link.burst = 0: must be 1 to"),
            (
                "[limits.link]\nrate = 1\nburst = 3601",
                "3: limits.link.burst = 3601: limits.link.burst (3601) must be at most 3600: what limits.link.rate (1)",
            ),
        ] {
            let problems = problems(text);
            assert!(problems.len() == 1 && problems[0].starts_with(told), "{text}: {problems:?}");
        }
        let many = vec!["\"10.0.0.0/8\""; 65].join(",");
        assert!(problems(&format!("limits.exempt = [{many}]"))[0].ends_with("has more than 64 networks"));
    }
}
