//! `trellis slo`: how the objectives stand.
//!
//! A request to the control side, which measures and judges; here it is only laid out. Without a node it is what the
//! history of the data folder says. Bound: one report.

use std::fmt::Write as _;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};

use super::client::Api;
use super::output::{Out, Stop, cell};
use crate::config::Config;
use crate::config::slo::show;
use crate::telemetry::log;
use crate::telemetry::slo::{AlertState, ObjectiveReport, Report, Verdict};

/// `trellis slo`
#[derive(Debug, Subcommand)]
pub(super) enum SloCommand {
    /// Show each objective with its value, verdict and error budget
    #[command(after_help = "\
Verdicts: OK within the target, WARNING beyond it, BREACH beyond the critical level, NO DATA. Each is
about the objective's own window, or with --since about that time up to now. Without a running node:
as of its last look. Exit code 1 when an objective is in BREACH.

Examples:
  trellis slo report
  trellis slo report --since 7d --format markdown > review.md")]
    Report {
        /// Judge this time up to now, 1m to 30d, in place of each objective's own window
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// How it is laid out
        #[arg(long, default_value = "text")]
        format: Format,
    },
}

/// `--format`
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Format {
    /// For people at a terminal
    Text,
    /// What GET /slo answers
    Json,
    /// For a page
    Markdown,
}

pub(super) async fn run(config: &Config, command: SloCommand) -> Result<(), Stop> {
    let SloCommand::Report { since, format } = command;
    // Without a node what is wrong with the history goes to standard error.
    log::init(config.log);
    let api = Api::open(config).await?;
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(since.iter().map(|since| ("since", since)));
    let answer = api.page(&format!("/slo?{}", query.finish())).await?;
    let report: Report = serde_json::from_value(answer.clone()).context("the answer is no report of this version")?;
    let mut out = Out::new();
    match format {
        Format::Text => out.line(text(&report).trim_end())?,
        Format::Json => out.line(format_args!("{answer:#}"))?,
        Format::Markdown => out.line(markdown(&report).trim_end())?,
    }
    out.flush()?;
    if report.overall == Verdict::Breach { Err(Stop::Told) } else { Ok(()) }
}

/// Titles of the main table, and how an objective fills it.
const COLUMNS: [&str; 7] = ["verdict", "objective", "value", "target", "window", "budget left", "burn rate 1h"];

fn row(one: &ObjectiveReport) -> [String; COLUMNS.len()] {
    let sign = if one.goal == "at_least" { ">=" } else { "<=" };
    let budget = one.error_budget.as_ref();
    let hour = one.windows.iter().find(|window| window.window == "1h").and_then(|window| window.burn_rate);
    [
        one.verdict.name().to_owned(),
        cell(&one.id),
        one.value.map_or_else(|| "-".to_owned(), |value| show(value, one.unit)),
        format!("{sign} {}", show(one.target, one.unit)),
        cell(&one.window),
        budget.map_or_else(|| "-".to_owned(), |left| format!("{:.1} of {:.1} min", left.left_minutes, left.minutes)),
        hour.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.2}")),
    ]
}

/// The worst first, each kind in the order of the file.
fn sorted(report: &Report) -> Vec<&ObjectiveReport> {
    let mut objectives: Vec<_> = report.objectives.iter().filter(|one| one.verdict != Verdict::NoData).collect();
    objectives.sort_by_key(|one| std::cmp::Reverse(one.verdict));
    objectives
}

fn summary(report: &Report) -> String {
    let counts = [Verdict::Breach, Verdict::Warning, Verdict::Ok, Verdict::NoData];
    let counts = counts.map(|verdict| format!("{} {}", report.count(verdict), verdict.name()));
    format!("{}: {}", report.overall.name(), counts.join(", "))
}

/// Alerts that are not inactive: state, severity, name, objective, since when, page.
fn alerts(report: &Report) -> Vec<[String; 6]> {
    let all = report.objectives.iter().flat_map(|one| one.alerts.iter().map(move |alert| (one, alert)));
    let active = all.filter(|(_, alert)| alert.state != AlertState::Inactive);
    let shown = active.map(|(one, alert)| {
        let state = if alert.state == AlertState::Firing { "firing" } else { "pending" };
        let since = alert.since.clone().unwrap_or_default();
        [state.to_owned(), cell(&alert.severity), cell(&alert.name), cell(&one.id), cell(&since), cell(&alert.runbook)]
    });
    shown.collect()
}

/// Where the time goes: objective, phase, value, budget, verdict or why there is none.
fn phases(report: &Report) -> Vec<[String; 5]> {
    let all = report.objectives.iter().flat_map(|one| one.phases.iter().map(move |phase| (one, phase)));
    let shown = all.map(|(one, phase)| {
        let verdict = phase.not_measured.as_deref().map_or_else(|| phase.verdict.name().to_owned(), cell);
        let value = phase.value.map_or_else(|| "-".to_owned(), |value| show(value, one.unit));
        [cell(&one.id), cell(&phase.name), value, show(phase.budget, one.unit), verdict]
    });
    shown.collect()
}

/// What could not be measured, and why.
fn not_measured(report: &Report) -> impl Iterator<Item = [String; 2]> {
    let none = report.objectives.iter().filter(|one| one.verdict == Verdict::NoData);
    none.map(|one| [cell(&one.id), cell(one.not_measured.as_deref().unwrap_or_default())])
}

fn text(report: &Report) -> String {
    let mut text = format!("{}\nat {}, measured since {}\n", summary(report), report.at, cell(&report.measured_since));
    let objectives = sorted(report).into_iter().map(row).collect::<Vec<_>>();
    columns(&mut text, "", &[COLUMNS.map(str::to_owned).to_vec()], objectives);
    columns(&mut text, "alerts", &[], alerts(report));
    columns(
        &mut text,
        "phases",
        &[["objective", "phase", "value", "budget", "verdict"].map(str::to_owned).to_vec()],
        phases(report),
    );
    columns(&mut text, "not measured", &[], not_measured(report));
    text
}

/// A title, then lines in columns; nothing where there are no lines.
fn columns<const N: usize>(
    text: &mut String,
    title: &str,
    head: &[Vec<String>],
    rows: impl IntoIterator<Item = [String; N]>,
) {
    let rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
    if rows.is_empty() {
        return;
    }
    text.push('\n');
    if !title.is_empty() {
        text.push_str(title);
        text.push('\n');
    }
    let lines = || head.iter().chain(&rows);
    let widths: Vec<_> = (0..N).map(|at| lines().map(|line| line[at].chars().count()).max().unwrap_or(0)).collect();
    for line in lines() {
        let mut shown = String::new();
        for (of, width) in line.iter().zip(&widths) {
            // Writing to memory cannot fail.
            let _ = write!(shown, "{of:width$}  ");
        }
        text.push_str(shown.trim_end());
        text.push('\n');
    }
}

fn markdown(report: &Report) -> String {
    let mut page = format!(
        "# Objectives\n\n**{}**\n\nAt {}, measured since {}{}.\n",
        summary(report),
        report.at,
        cell(&report.measured_since),
        report.since.as_deref().map_or_else(String::new, |since| format!(", over {}", cell(since))),
    );
    let objectives = sorted(report).into_iter().map(|one| {
        let [verdict, id, value, target, window, budget, burn] = row(one);
        [
            verdict,
            format!("`{id}`"),
            cell(&one.description),
            one.requirement.clone(),
            value,
            target,
            window,
            budget,
            burn,
        ]
    });
    let head = ["verdict", "objective", "what", "row", "value", "target", "window", "budget left", "burn rate 1h"];
    table(&mut page, "", &head, objectives);
    table(&mut page, "Alerts", &["state", "severity", "alert", "objective", "since", "runbook"], alerts(report));
    table(&mut page, "Phases", &["objective", "phase", "value", "budget", "verdict"], phases(report));
    table(&mut page, "Not measured", &["objective", "why"], not_measured(report));
    page
}

fn table<const N: usize>(
    page: &mut String,
    title: &str,
    head: &[&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) {
    let mut rows = rows.into_iter().peekable();
    if rows.peek().is_none() {
        return;
    }
    if !title.is_empty() {
        let _ = write!(page, "\n## {title}\n");
    }
    let _ = write!(page, "\n| {} |\n|{}\n", head.join(" | "), "---|".repeat(N));
    for row in rows {
        let _ = writeln!(page, "| {} |", row.map(|cell| cell.replace('|', "\\|")).join(" | "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::slo::{from_text, shipped};
    use crate::telemetry::metrics::{Metrics, Outcome};
    use crate::telemetry::slo::Engine;
    use std::path::Path;
    use std::sync::Arc;

    const NOON_MS: u64 = 20_000 * 86_400_000;

    fn report() -> Report {
        let shipped = shipped();
        let ids = ["redirect-p99", "edge-errors", "queue-depth", "warden-up"];
        let mut slo = from_text(Path::new("x"), crate::config::slo::OBJECTIVES).unwrap();
        slo.objectives = shipped.objectives.iter().filter(|one| ids.contains(&&*one.id)).cloned().collect();
        let metrics = Metrics::new(1, 1, &[], || 0).unwrap();
        let mut engine = Engine::new(Arc::new(slo));
        engine.begin(&metrics.gather(NOON_MS), NOON_MS);
        (0..98).for_each(|_| metrics.edge(0).count(Outcome::Redirected));
        (0..2).for_each(|_| metrics.edge(0).count(Outcome::Untracked));
        metrics.edge(0).redirect_duration.observe_duration(std::time::Duration::from_micros(100));
        engine.look(&metrics.gather(NOON_MS + 10_000), NOON_MS + 10_000);
        engine.report(NOON_MS + 10_000, None)
    }

    #[test]
    fn the_text_has_the_worst_first_and_says_what_was_not_measured() {
        let text = text(&report());
        let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[0], "BREACH: 1 BREACH, 0 WARNING, 2 OK, 1 NO DATA");
        assert_eq!(lines[1], "at 2024-10-04T00:00:10.000Z, measured since 2024-10-04T00:00:00.000Z");
        assert_eq!(lines[3], "verdict objective value target window budget left burn rate 1h");
        assert_eq!(lines[4], "BREACH edge-errors 2 % <= 0.1 % 5m -820.8 of 43.2 min 20.00");
        assert_eq!(lines[5], "OK redirect-p99 100 µs <= 50 ms 5m - -");
        for line in [
            "OK queue-depth 0 <= 1,000 1m - -",
            "pending critical IngressErrorRate edge-errors 2024-10-04T00:00:10.000Z config/runbooks/objectives.md",
            "redirect-p99 network - 10 ms lies between the visitor and the listener, where this node sees nothing",
            "warden-up there is no such series: the part is not configured, or cannot be read",
        ] {
            assert!(lines.iter().any(|told| told == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_page_has_tables_and_json_comes_back_as_it_was() {
        let report = report();
        let page = markdown(&report);
        assert!(page.starts_with("# Objectives\n\n**BREACH: 1 BREACH"), "{page}");
        let told = "| BREACH | `edge-errors` | Fewer than 1 in 1,000 visits fails or goes unrecorded | R42 | 2 % | <= 0.1 % | 5m | \
                    -820.8 of 43.2 min | 20.00 |";
        assert!(page.lines().any(|line| line == told), "{page}");
        assert!(
            page.contains("\n## Phases\n\n| objective | phase |") && page.contains("\n## Not measured\n"),
            "{page}"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["overall"], &json["objectives"][0]["unit"]), (&"BREACH".into(), &"seconds".into()));
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }
}
