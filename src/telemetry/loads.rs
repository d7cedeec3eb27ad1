//! What limits and overload turn away or leave undone, as metrics; and the signals of overload.

use std::time::Duration;

use prometheus::proto::MetricFamily;

use super::exposition::Shards;
use super::families::{counter, float_gauge, gauge};
use super::metrics::{Guarded, Limit, Outcome};
use super::overload::Signals;

impl Shards {
    pub(super) fn signals(&self) -> Signals {
        // While the store is away, and while its backlog is brought, clicks wait for it.
        let store_answers = self.breakers[Guarded::Store as usize].state.get() == 0;
        let waits_for_workers = store_answers && self.backlog().rows.get() == 0;
        Signals {
            loop_lag: self.loop_lag(),
            accept_backlog: self.edges.iter().map(|edge| edge.accept_backlog.get()).max().unwrap_or(0),
            pending_clicks: if waits_for_workers { self.pending() } else { 0 },
        }
    }

    fn loop_lag(&self) -> Duration {
        Duration::from_micros(self.edges.iter().map(|edge| edge.loop_lag_us.get()).max().unwrap_or(0))
    }

    pub(super) fn overload_families(&self) -> [MetricFamily; 4] {
        let limited: Vec<_> = Limit::NAMES
            .into_iter()
            .enumerate()
            .map(|(i, name)| (name, self.sum_edges(|e| e.limited[i].get())))
            .collect();
        let shed = [
            ("shadow", self.sum_workers(|w| w.shed[0].get())),
            ("enrichment", self.sum_workers(|w| w.shed[1].get())),
            ("connections", self.sum_edges(|e| e.shed_connections.get())),
            ("redirects", self.sum_edges(|e| e.outcomes[Outcome::Shed as usize].get())),
        ];
        let lag = [("", self.loop_lag().as_secs_f64())];
        [
            counter("trellis_limited_total", "Requests and connections that a limit refused", "limit", &limited),
            counter("trellis_shed_total", "What was left undone under overload", "what", &shed),
            gauge("trellis_overload_level", "0 calm to 4", "", &[("", self.lever.level() as u64)]),
            float_gauge("trellis_event_loop_lag_seconds", "How late the latest edge thread is", "", &lag),
        ]
    }
}

#[cfg(test)]
mod tests {
    use crate::telemetry::backlog::Waiting;
    use crate::telemetry::metrics::{Guarded, Limit, Metrics, Outcome};
    use crate::telemetry::overload::Level;

    #[test]
    fn the_worst_thread_is_felt_and_clicks_that_wait_for_the_store_are_not() {
        let metrics = Metrics::new(2, 10, &["store"], || 0).unwrap();
        metrics.edge(0).loop_lag_us.set(5);
        metrics.edge(1).loop_lag_us.set(250_000);
        metrics.edge(0).accept_backlog.set(7);
        metrics.edge(0).accepted.add(1000);
        let pending = || metrics.signals().pending_clicks;
        assert_eq!(
            (metrics.signals().loop_lag.as_millis(), metrics.signals().accept_backlog, pending()),
            (250, 7, 1000)
        );
        metrics.breaker(Guarded::Store).state.set(1);
        assert_eq!(pending(), 0, "the store is away");
        metrics.breaker(Guarded::Store).state.set(0);
        let behind = metrics.worker(0).backlog.count(Waiting { rows: 1, bytes: 1, oldest_ms: 1 });
        assert_eq!(pending(), 0, "its backlog is brought");
        drop(behind);
        assert_eq!(pending(), 1000);
    }

    #[test]
    fn what_is_turned_away_is_counted_by_its_kind() {
        let metrics = Metrics::new(2, 10, &["store"], || 0).unwrap();
        metrics.edge(0).limit(Limit::Misses);
        metrics.edge(1).limit(Limit::Misses);
        metrics.edge(1).count(Outcome::Shed);
        metrics.edge(1).shed_connections.add(3);
        metrics.worker(2).shed[1].add(4);
        metrics.edge(0).loop_lag_us.set(1500);
        metrics.lever().set(Level::Enrichment);
        let text = metrics.render(0);
        for line in [
            "trellis_limited_total{limit=\"misses\"} 2",
            "trellis_limited_total{limit=\"network\"} 0",
            "trellis_shed_total{what=\"redirects\"} 1",
            "trellis_shed_total{what=\"connections\"} 3",
            "trellis_shed_total{what=\"enrichment\"} 4",
            "trellis_shed_total{what=\"shadow\"} 0",
            "trellis_overload_level 2",
            "trellis_event_loop_lag_seconds 0.0015",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(metrics.edge(1).lever.sheds(Level::Shadow) && metrics.worker(0).lever.sheds(Level::Enrichment));
    }
}
