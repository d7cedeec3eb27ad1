//! From what is kept to a [`Report`].

use std::time::Duration;

use super::report::{
    AlertReport, AlertState, BudgetReport, ObjectiveReport, PhaseReport, Report, Verdict, WindowReport,
};
use super::{Engine, Track, What, arithmetic};
use crate::clock::rfc_3339;
use crate::config::slo::{Goal, Measure, Objective, Phase, Window};

/// What one window says.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    value: Option<f64>,
    events: Option<u64>,
    burn_rate: Option<f64>,
}

impl Engine {
    /// How everything stands at this time, Unix milliseconds; over `since`, at most 30 days, instead of the window of each
    /// objective.
    #[must_use]
    pub fn report(&self, now_ms: u64, since: Option<(&str, Duration)>) -> Report {
        let objectives: Vec<_> =
            (0..self.slo.objectives.len()).map(|place| self.objective(place, now_ms, since)).collect();
        let first_ms = self.first_ms.map_or_else(String::new, rfc_3339);
        Report {
            at: rfc_3339(now_ms),
            measured_since: first_ms,
            since: since.map(|(name, _)| name.to_owned()),
            overall: objectives.iter().map(|objective| objective.verdict).max().unwrap_or(Verdict::NoData),
            objectives,
        }
    }

    fn objective(&self, place: usize, now_ms: u64, since: Option<(&str, Duration)>) -> ObjectiveReport {
        let objective = &self.slo.objectives[place];
        let (own, of_phases) = &self.places[place];
        let track = &self.tracks[*own];
        let (name, window) = since.unwrap_or((objective.window.name(), objective.window.length()));
        let measured = measure(track, objective, now_ms, window);
        let windows = Window::ALL.map(|window| {
            let Measured { value, events, burn_rate } = measure(track, objective, now_ms, window.length());
            WindowReport { window: window.name().to_owned(), value, events, burn_rate }
        });
        let is_ratio = matches!(objective.measure, Measure::Ratio { .. });
        let error_budget = is_ratio.then(|| {
            let burnt = windows[windows.len() - 1].burn_rate.unwrap_or_default();
            let (minutes, left_minutes) = arithmetic::budget_minutes(objective.target, burnt);
            BudgetReport { minutes, left_minutes, left_ratio: 1.0 - burnt }
        });
        let phases = objective.phases.iter().zip(of_phases);
        ObjectiveReport {
            id: objective.id.clone(),
            requirement: objective.requirement.clone(),
            description: objective.description.clone(),
            kind: match objective.measure {
                Measure::Quantile { .. } => "quantile",
                Measure::Ratio { .. } => "ratio",
                Measure::Gauge(_) => "gauge",
            }
            .to_owned(),
            unit: objective.unit,
            goal: if objective.goal == Goal::AtMost { "at_most" } else { "at_least" }.to_owned(),
            target: objective.target,
            acceptable: objective.acceptable,
            critical: objective.critical,
            window: name.to_owned(),
            value: measured.value,
            verdict: verdict(objective, measured.value),
            not_measured: self.not_measured(track, measured.value, name),
            windows: windows.into(),
            error_budget,
            alerts: self.alerts(place, now_ms),
            phases: phases.map(|(phase, place)| self.phase(objective, phase, *place, now_ms, (name, window))).collect(),
        }
    }

    fn not_measured(&self, track: &Track, value: Option<f64>, window: &str) -> Option<String> {
        if value.is_some() {
            return None;
        }
        Some(match (track.present, self.last_ms) {
            (_, None) => "nothing was looked at yet".to_owned(),
            (false, _) if track.before.has_looked() => self
                .why_unread(track)
                .unwrap_or_else(|| "there is no such series: the part is not configured, or cannot be read".to_owned()),
            _ => format!("nothing of it happened in {window}"),
        })
    }

    fn why_unread(&self, track: &Track) -> Option<String> {
        let What::Worst { gauge, .. } = &track.what else { return None };
        let selectors = [Some(&gauge.metric), gauge.less.as_ref(), gauge.of.as_ref()].into_iter().flatten();
        let why = |name: &str| Some(format!("{name} cannot be read: {}", self.unread.get(name)?));
        selectors.map(|selector| selector.metric.as_str()).find_map(why)
    }

    fn phase(
        &self,
        objective: &Objective,
        phase: &Phase,
        place: Option<usize>,
        now_ms: u64,
        (name, window): (&str, Duration),
    ) -> PhaseReport {
        let track = place.map(|place| &self.tracks[place]);
        let value = track.and_then(|track| measure(track, objective, now_ms, window).value);
        let verdict = match value {
            None => Verdict::NoData,
            Some(value) if Goal::AtMost.beyond(value, phase.budget) => Verdict::Breach,
            Some(_) => Verdict::Ok,
        };
        let not_measured = match (&phase.measured, track) {
            (Err(reason), _) => Some(reason.clone()),
            (Ok(_), Some(track)) => self.not_measured(track, value, name),
            (Ok(_), None) => None,
        };
        PhaseReport { name: phase.name.clone(), budget: phase.budget, value, verdict, not_measured }
    }

    /// Notes since when thresholds of alerts are not kept.
    pub(super) fn watch(&mut self, now_ms: u64) {
        for (place, objective) in self.slo.objectives.iter().enumerate() {
            if objective.alerts.is_empty() {
                continue;
            }
            let track = &self.tracks[self.places[place].0];
            let value = measure(track, objective, now_ms, objective.window.length()).value;
            for (alert, pending) in objective.alerts.iter().zip(&mut self.pending[place]) {
                let beyond = value.is_some_and(|value| objective.goal.beyond(value, alert.threshold));
                // A clock that was set back does not make it begin in the future.
                *pending = beyond.then(|| pending.map_or(now_ms, |since| since.min(now_ms)));
            }
        }
    }

    fn alerts(&self, place: usize, now_ms: u64) -> Vec<AlertReport> {
        let alerts = self.slo.objectives[place].alerts.iter().zip(&self.pending[place]);
        let state = |since: Option<u64>, hold: Duration| match since {
            None => AlertState::Inactive,
            Some(since) if u128::from(now_ms.saturating_sub(since)) < hold.as_millis() => AlertState::Pending,
            Some(_) => AlertState::Firing,
        };
        let alerts = alerts.map(|(alert, since)| AlertReport {
            name: alert.name.clone(),
            severity: alert.severity.name().to_owned(),
            threshold: alert.threshold,
            for_seconds: alert.hold.as_secs_f64(),
            runbook: alert.runbook.clone(),
            state: state(*since, alert.hold),
            since: since.map(rfc_3339),
        });
        alerts.collect()
    }
}

fn verdict(objective: &Objective, value: Option<f64>) -> Verdict {
    match value {
        None => Verdict::NoData,
        Some(value) if objective.goal.beyond(value, objective.critical) => Verdict::Breach,
        Some(value) if objective.goal.beyond(value, objective.target) => Verdict::Warning,
        Some(_) => Verdict::Ok,
    }
}

fn measure(track: &Track, objective: &Objective, now_ms: u64, window: Duration) -> Measured {
    match &track.what {
        What::Observed { bounds, rings, .. } => {
            let Measure::Quantile { quantile, .. } = objective.measure else { return Measured::default() };
            let found = arithmetic::quantile(rings.within(now_ms, window), bounds, quantile);
            Measured {
                value: found.map(|(value, _)| value),
                events: Some(found.map_or(0, |(_, total)| total)),
                burn_rate: None,
            }
        }
        What::Events { rings, .. } => {
            let events = arithmetic::events(rings.within(now_ms, window));
            Measured {
                value: (events.all > 0.0).then(|| events.bad / events.all),
                events: Some(events.all as u64),
                burn_rate: Some(arithmetic::burn_rate(events, objective.target)),
            }
        }
        What::Worst { goal, rings, .. } => {
            let values = rings.within(now_ms, window).map(|worst| worst.value);
            Measured { value: values.reduce(|a, b| goal.worse(a, b)), ..Measured::default() }
        }
    }
}
