//! Rate and errors of each listener, and what failed, by stage: from what is counted already, so that no request is counted
//! twice. The control side's are those of its API; `/metrics` and health are nobody's requests.

use std::sync::Arc;

use prometheus::proto::{MetricFamily, MetricType};

use super::exposition::Shards;
use super::families::{counter, family, pair};
use super::metrics::{Metrics, Outcome, StatusClass};
use super::shard::Cell;

/// Written by all calls of other nodes to the Warden that this process serves.
#[derive(Debug, Default)]
pub struct ServedShard([Cell; StatusClass::NAMES.len()]);

impl ServedShard {
    /// Counts an answer.
    pub fn count(&self, class: StatusClass) {
        self.0[class as usize].add_shared(1);
    }
}

impl Metrics {
    /// Calls of other nodes; shown from the first time on that this is asked for.
    #[must_use]
    pub fn served(&self) -> Arc<ServedShard> {
        Arc::clone(self.shards.served.get_or_init(Arc::default))
    }
}

impl Shards {
    /// Answers of the edge by their name.
    pub(super) fn answers(&self) -> Vec<(&'static str, u64)> {
        let mut answers: Vec<(&str, u64)> = Vec::new();
        for (place, (name, _)) in Outcome::KINDS.into_iter().enumerate() {
            let Some(name) = name else { continue };
            let count = self.sum_edges(|edge| edge.outcomes[place].get());
            match answers.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += count,
                None => answers.push((name, count)),
            }
        }
        answers
    }

    fn edge_classes(&self) -> [u64; StatusClass::NAMES.len()] {
        let mut classes = [0; StatusClass::NAMES.len()];
        for (place, (_, class)) in Outcome::KINDS.into_iter().enumerate() {
            classes[class as usize] += self.sum_edges(|edge| edge.outcomes[place].get());
        }
        classes
    }

    pub(super) fn request_families(&self) -> [MetricFamily; 2] {
        let help = "Answers by the class of their status; of the edge 404s for slugs that are not there apart";
        let mut requests = family("trellis_requests_total", help, MetricType::COUNTER, Vec::new());
        let mut show = |listener, classes: &[(&str, u64)]| {
            let mut metrics = counter("", "", "status_class", classes).take_metric();
            for metric in &mut metrics {
                let mut labels = metric.take_label();
                labels.insert(0, pair("listener", listener));
                metric.set_label(labels);
            }
            requests.mut_metric().extend(metrics);
        };
        if !self.edges.is_empty() {
            let classes: Vec<_> = StatusClass::NAMES.into_iter().zip(self.edge_classes()).collect();
            show("edge", &classes);
        }
        show("control", &[2, 3, 4, 5].map(|class| (StatusClass::NAMES[class - 2], self.api.answered(class))));
        if let Some(served) = self.served.get() {
            let classes = [StatusClass::Success, StatusClass::ClientError, StatusClass::ServerError];
            show("warden", &classes.map(|class| (StatusClass::NAMES[class as usize], served.0[class as usize].get())));
        }
        let revalidations = self.catalog.get().map_or(0, |catalog| catalog.failed());
        let auth = self.edges.iter().map(|edge| edge.auth.failed()).sum::<u64>() + self.auth.failed();
        let errors = [
            ("accept", self.sum_edges(|edge| edge.accepts_failed.get())),
            ("auth", auth),
            ("journal", self.sum_edges(|edge| edge.journal_failures.get()) + self.keeper.sync_failures.get()),
            ("journal_read", self.sum_workers(|worker| worker.unreadable.get())),
            ("dedup", self.sum_workers(|worker| worker.dedup_failures.get())),
            ("insert", self.sum_workers(|worker| worker.insert_failures.get())),
            ("refused", self.sum_workers(|worker| worker.refused.get())),
            ("catalog", revalidations),
            ("control", self.api.answered(5)),
            ("audit", self.api.audits_failed()),
        ];
        [requests, counter("trellis_errors_total", "What failed, by stage", "stage", &errors)]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::auth::AuthOutcome;
    use crate::telemetry::catalog::{CatalogShard, Revalidated};

    fn assert_lines(metrics: &Metrics, lines: &[&str]) {
        let text = metrics.render(0);
        for line in lines {
            assert!(text.lines().any(|l| l == *line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn each_answer_of_the_edge_is_in_one_class_and_slugs_that_are_not_there_are_apart() {
        let metrics = Metrics::new(2, 1, &[], || 0).unwrap();
        for (outcome, count) in [
            (Outcome::Redirected, 1),
            (Outcome::Untracked, 2),
            (Outcome::UnknownLink, 4),
            (Outcome::Expired, 8),
            (Outcome::Refused, 16),
            (Outcome::Other, 32),
            (Outcome::Orphan, 64),
            (Outcome::Limited, 128),
            (Outcome::Shed, 256),
            (Outcome::UntrackedOrphan, 512),
            (Outcome::NoRoute, 1024),
            (Outcome::WardenAway, 2048),
            (Outcome::TurnedAway, 4096),
            (Outcome::TooMany, 8192),
            (Outcome::Malformed, 16384),
        ] {
            (0..count).for_each(|n| metrics.edge(n % 2).count(outcome));
        }
        assert_lines(
            &metrics,
            &[
                "trellis_requests_total{listener=\"edge\",status_class=\"2xx\"} 32",
                "trellis_requests_total{listener=\"edge\",status_class=\"3xx\"} 67",
                "trellis_requests_total{listener=\"edge\",status_class=\"4xx\"} 25752",
                "trellis_requests_total{listener=\"edge\",status_class=\"5xx\"} 6400",
                "trellis_requests_total{listener=\"edge\",status_class=\"unknown_slug\"} 516",
                "trellis_redirects_total{outcome=\"untracked\"} 514",
                "trellis_redirects_total{outcome=\"unknown_link\"} 1028",
                "trellis_redirects_total{outcome=\"refused\"} 2064",
                "trellis_clicks_total{fate=\"untracked\"} 514",
            ],
        );
    }

    #[test]
    fn a_listener_that_is_not_there_is_not_shown() {
        let metrics = Metrics::new(0, 1, &[], || 0).unwrap();
        metrics.api().name(["GET /links".to_owned(), "POST /links".to_owned()]);
        metrics.api().observe(0, 200, Duration::ZERO);
        metrics.api().observe(1, 201, Duration::ZERO);
        metrics.api().observe(1, 503, Duration::ZERO);
        let control = [
            "trellis_requests_total{listener=\"control\",status_class=\"2xx\"} 2",
            "trellis_requests_total{listener=\"control\",status_class=\"5xx\"} 1",
            "trellis_errors_total{stage=\"control\"} 1",
        ];
        assert_lines(&metrics, &control);
        let listeners = |name: &str| metrics.render(0).matches(&format!("listener=\"{name}\"")).count();
        assert_eq!([listeners("edge"), listeners("control"), listeners("warden")], [0, 4, 0]);
        metrics.served().count(StatusClass::ClientError);
        assert_lines(&metrics, &["trellis_requests_total{listener=\"warden\",status_class=\"4xx\"} 1"]);
        assert_eq!(listeners("warden"), 3);
    }

    #[test]
    fn errors_are_shown_by_stage() {
        let metrics = Metrics::new(1, 1, &[], || 0).unwrap();
        let (edge, worker, catalog) = (metrics.edge(0), metrics.worker(0), Arc::<CatalogShard>::default());
        metrics.show_catalog(Arc::clone(&catalog));
        edge.accepts_failed.add(1);
        edge.auth.observe(AuthOutcome::Error, Duration::ZERO);
        edge.auth.observe(AuthOutcome::Denied, Duration::ZERO);
        metrics.auth().observe_shared(AuthOutcome::Timeout, Duration::ZERO);
        edge.journal_failures.add(1);
        metrics.keeper().sync_failures.add(2);
        worker.unreadable.add(4);
        worker.dedup_failures.add(5);
        worker.insert_failures.add(6);
        worker.refused.add(7);
        catalog.revalidate(Revalidated::Failed, 8);
        metrics.api().audit_failed();
        let counts = [
            ("accept", 1),
            ("auth", 2),
            ("journal", 3),
            ("journal_read", 4),
            ("dedup", 5),
            ("insert", 6),
            ("refused", 7),
            ("catalog", 8),
            ("audit", 1),
            ("control", 0),
        ];
        let lines = counts.map(|(stage, count)| format!("trellis_errors_total{{stage=\"{stage}\"}} {count}"));
        assert_lines(&metrics, &lines.each_ref().map(String::as_str));
    }
}
