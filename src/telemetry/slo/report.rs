//! What is said of the objectives: plain data, for JSON, for pages and for the command line.

use serde::{Deserialize, Serialize};

use crate::config::slo::Unit;

/// How an objective stands. The order is from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verdict {
    /// Nothing was measured.
    #[serde(rename = "NO DATA")]
    NoData,
    /// Within its target.
    #[serde(rename = "OK")]
    Ok,
    /// Beyond its target.
    #[serde(rename = "WARNING")]
    Warning,
    /// Beyond its critical level.
    #[serde(rename = "BREACH")]
    Breach,
}

impl Verdict {
    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoData => "NO DATA",
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Breach => "BREACH",
        }
    }
}

/// All objectives at one time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Of when it is, RFC 3339.
    pub at: String,
    /// The first moment of which something is known, RFC 3339: windows that begin before are not full. Empty before the
    /// first look.
    pub measured_since: String,
    /// What all verdicts are about, where it is not the window of each objective: `7d`.
    pub since: Option<String>,
    /// The worst of all verdicts.
    pub overall: Verdict,
    /// In the order of the file.
    pub objectives: Vec<ObjectiveReport>,
}

impl Report {
    /// How many objectives have this verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.objectives.iter().filter(|objective| objective.verdict == verdict).count()
    }
}

/// One objective. Values and levels are in base units: seconds, a share of 1, a number, bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectiveReport {
    /// Its id.
    pub id: String,
    /// The row of the requirements.
    pub requirement: String,
    /// One sentence.
    pub description: String,
    /// `quantile`, `ratio` or `gauge`.
    pub kind: String,
    /// Of value and levels.
    pub unit: Unit,
    /// `at_most` or `at_least`.
    pub goal: String,
    /// Kept: OK.
    pub target: f64,
    /// Beyond the target: WARNING.
    pub acceptable: f64,
    /// Beyond it: BREACH.
    pub critical: f64,
    /// What value and verdict are about: `5m`, or what was asked for.
    pub window: String,
    /// Over that window.
    pub value: Option<f64>,
    /// How it stands.
    pub verdict: Verdict,
    /// Why there is no value.
    pub not_measured: Option<String>,
    /// All windows, the shortest first.
    pub windows: Vec<WindowReport>,
    /// Of a ratio.
    pub error_budget: Option<BudgetReport>,
    /// In the order of the file.
    pub alerts: Vec<AlertReport>,
    /// Where the time goes; empty where the objective has no phases.
    pub phases: Vec<PhaseReport>,
}

/// What one window says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowReport {
    /// `1m` to `30d`.
    pub window: String,
    /// The quantile, the share of bad events, or the worst value; of what happened in it.
    pub value: Option<f64>,
    /// Observations, or events; of a gauge none are counted.
    pub events: Option<u64>,
    /// Of a ratio: 1 uses the budget up in just its time.
    pub burn_rate: Option<f64>,
}

/// What may fail in 30 days, as time in which all fails.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BudgetReport {
    /// 43.2 of a target of 0.1 %.
    pub minutes: f64,
    /// Below 0 when more was burnt than there was.
    pub left_minutes: f64,
    /// Of 1; below 0 likewise.
    pub left_ratio: f64,
}

/// Where an alert stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// Its threshold is kept.
    Inactive,
    /// It is not, and not for long enough.
    Pending,
    /// Somebody is told.
    Firing,
}

/// One alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertReport {
    /// Of the rule.
    pub name: String,
    /// `critical` or `warning`.
    pub severity: String,
    /// In the unit of the objective.
    pub threshold: f64,
    /// How long it must last, in seconds.
    pub for_seconds: f64,
    /// The page that says what to do.
    pub runbook: String,
    /// Where it stands; of a report from the history alone always inactive.
    pub state: AlertState,
    /// Since when, RFC 3339, unless it is inactive.
    pub since: Option<String>,
}

/// One phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseReport {
    /// Its name.
    pub name: String,
    /// Its part of the target, in seconds.
    pub budget: f64,
    /// At the quantile of the objective, over the same window, in seconds.
    pub value: Option<f64>,
    /// OK, BREACH (over its budget) or NO DATA. It counts in no overall verdict: the objective's own does.
    pub verdict: Verdict,
    /// Why there is no value.
    pub not_measured: Option<String>,
}
