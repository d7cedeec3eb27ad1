//! What the page shows of the objectives: the report in words.

use super::view::{Budget, Mark, Objective, Objectives, Phase};
use crate::config::slo::{Unit, show};
use crate::telemetry::slo::{ObjectiveReport, PhaseReport, Report, Verdict};

/// The window whose burn rate is shown.
const BURNT_WITHIN: &str = "1h";

const fn mark(verdict: Verdict) -> Mark {
    match verdict {
        Verdict::NoData => Mark::Unknown,
        Verdict::Ok => Mark::Good,
        Verdict::Warning => Mark::Warning,
        Verdict::Breach => Mark::Bad,
    }
}

/// All objectives.
pub(super) fn objectives(report: &Report) -> Objectives {
    let since = report.measured_since.replace('T', " ");
    Objectives {
        all: report.objectives.iter().map(objective).collect(),
        since: since.get(..19).unwrap_or_default().to_owned(),
    }
}

fn objective(one: &ObjectiveReport) -> Objective {
    let budget = one.error_budget.as_ref().map(|budget| Budget {
        left_ratio: budget.left_ratio,
        left_minutes: budget.left_minutes,
        burn_rate: one.windows.iter().find(|window| window.window == BURNT_WITHIN).and_then(|window| window.burn_rate),
    });
    let sign = if one.goal == "at_least" { "≥ " } else { "≤ " };
    Objective {
        id: one.id.clone(),
        description: one.description.clone(),
        value: one.value.map(|value| show(value, one.unit)),
        target: format!("{sign}{}", show(one.target, one.unit)),
        window: one.window.clone(),
        mark: mark(one.verdict),
        // Where nothing happened, why not is the news.
        budget: budget.filter(|_| one.value.is_some()),
        why_not: one.not_measured.clone().unwrap_or_default(),
    }
}

/// The phases of all objectives that have some.
pub(super) fn phases(report: &Report) -> Vec<Phase> {
    let of = |one: &ObjectiveReport| one.phases.iter().map(|phase| part(&one.id, phase)).collect::<Vec<_>>();
    report.objectives.iter().flat_map(of).collect()
}

fn part(of: &str, one: &PhaseReport) -> Phase {
    Phase {
        of: of.to_owned(),
        name: one.name.clone(),
        budget: show(one.budget, Unit::Seconds),
        value: one.value.map(|value| show(value, Unit::Seconds)),
        used_ratio: one.value.map(|value| value / one.budget),
        mark: mark(one.verdict),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::slo::{BudgetReport, WindowReport};

    fn report(verdict: Verdict, value: Option<f64>) -> Report {
        let window = |window: &str, burn_rate| {
            let burn_rate = Some(burn_rate);
            WindowReport { window: window.into(), value, events: None, burn_rate }
        };
        let (name, not_measured) = ("journal".into(), None);
        let phase = PhaseReport { name, budget: 0.02, value: Some(0.005), verdict: Verdict::Ok, not_measured };
        let one = ObjectiveReport {
            id: "redirect-errors".into(),
            requirement: "R1".into(),
            description: "One in a thousand".into(),
            kind: "ratio".into(),
            unit: Unit::Ratio,
            goal: "at_most".into(),
            target: 0.001,
            acceptable: 0.001,
            critical: 0.01,
            window: "30d".into(),
            value,
            verdict,
            not_measured: value.is_none().then(|| "nothing of it happened".into()),
            windows: vec![window("5m", 9.0), window("1h", 0.5)],
            error_budget: Some(BudgetReport { minutes: 43.2, left_minutes: 21.6, left_ratio: 0.5 }),
            alerts: Vec::new(),
            phases: vec![phase],
        };
        Report {
            at: "2026-11-21T21:00:00.000Z".into(),
            measured_since: "2026-11-20T21:00:00.000Z".into(),
            since: None,
            overall: verdict,
            objectives: vec![one],
        }
    }

    #[test]
    fn an_objective_is_told_with_its_unit_its_budget_and_the_burn_rate_of_an_hour() {
        for (verdict, expected) in
            [(Verdict::Ok, Mark::Good), (Verdict::Warning, Mark::Warning), (Verdict::Breach, Mark::Bad)]
        {
            let told = objectives(&report(verdict, Some(0.0005)));
            assert_eq!(told.since, "2026-11-20 21:00:00");
            let one = &told.all[0];
            assert_eq!(
                (one.value.clone(), &one.target, one.mark),
                (Some(show(0.0005, Unit::Ratio)), &"≤ 0.1 %".into(), expected)
            );
            let budget = one.budget.unwrap();
            assert_eq!((budget.left_ratio, budget.left_minutes, budget.burn_rate), (0.5, 21.6, Some(0.5)));
        }
        let one = &objectives(&report(Verdict::NoData, None)).all[0];
        assert!(one.mark == Mark::Unknown && one.budget.is_none() && one.why_not == "nothing of it happened");
    }

    #[test]
    fn a_phase_is_told_with_the_part_of_its_budget_that_it_used() {
        let told = phases(&report(Verdict::Ok, Some(0.0)));
        let one = &told[0];
        assert_eq!((one.of.as_str(), one.name.as_str(), one.mark), ("redirect-errors", "journal", Mark::Good));
        assert_eq!((one.value.clone(), &one.budget), (Some(show(0.005, Unit::Seconds)), &show(0.02, Unit::Seconds)));
        assert_eq!(one.used_ratio, Some(0.25));
    }
}
