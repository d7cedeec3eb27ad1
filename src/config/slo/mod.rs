//! The objectives: `config/slo.toml`, which is built in, or a file of the operator's in its place (`slo.file`).
//!
//! Says what a good file is, and tells all that is wrong with one, each mistake with its line. Never measures anything:
//! that is `telemetry::slo`. Read by `check`. Bounds: 1 MiB for the file, [`OBJECTIVES_MAX`] objectives of
//! [`ALERTS_MAX`] alerts and [`PHASES_MAX`] phases, [`SELECTORS_MAX`] selectors in a list.

mod level;
mod metrics;
mod objective;
mod row;
mod selector;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use self::level::{Unit, show};
pub use self::metrics::{DURATIONS, METRICS, Metric, MetricKind};
pub use self::selector::{Part, Selector};

use super::check::Keys;
use super::units::{MIB, parse_time, text};
use super::{Problems, file};

/// As shipped, and the only source of defaults.
pub const OBJECTIVES: &str = include_str!("../../../config/slo.toml");
/// Where that stands in the repository.
const SHIPPED: &str = "config/slo.toml";

const BYTES_MAX: u64 = MIB;
/// Each costs a look every ten seconds and some dozen series.
pub const OBJECTIVES_MAX: usize = 200;
/// Of one objective.
pub const ALERTS_MAX: usize = 8;
/// Of one objective.
pub const PHASES_MAX: usize = 16;
/// In a list.
pub const SELECTORS_MAX: usize = 16;

/// What the node promises, and how that is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Slo {
    /// In the order of the file; at least one.
    pub objectives: Vec<Objective>,
}

/// One objective.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// Unique: lower-case letters, digits and hyphens.
    pub id: String,
    /// The row of `config/requirements.md`: `R1`.
    pub requirement: String,
    /// One sentence.
    pub description: String,
    /// What is looked at.
    pub measure: Measure,
    /// Which way is good.
    pub goal: Goal,
    /// Of the levels and of what is measured.
    pub unit: Unit,
    /// Kept: OK. In base units: seconds, a share of 1, a number, bytes.
    pub target: f64,
    /// Beyond the target: WARNING.
    pub acceptable: f64,
    /// Beyond it: BREACH.
    pub critical: f64,
    /// Over which the verdict is.
    pub window: Window,
    /// Who is told when.
    pub alerts: Vec<Alert>,
    /// Where the time may go; their budgets add up to the target.
    pub phases: Vec<Phase>,
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq)]
pub enum Measure {
    /// A quantile of durations or sizes.
    Quantile {
        /// Histograms with the same buckets, taken together.
        of: Vec<Selector>,
        /// Above 0 and up to 1, which is the maximum.
        quantile: f64,
    },
    /// Bad events as a share of all.
    Ratio {
        /// Added up.
        bad: Vec<Selector>,
        /// Added up; they include the bad ones.
        all: Vec<Selector>,
    },
    /// A number of now; of a window the worst one.
    Gauge(Gauge),
}

/// `metric`, or what it is short of or a share of, by label.
#[derive(Clone, Debug, PartialEq)]
pub struct Gauge {
    /// What is looked at.
    pub metric: Selector,
    /// Subtracted from it, label by label; where `metric` is 0 there is nothing to be used up.
    pub less: Option<Selector>,
    /// It is divided by this, label by label; where that is 0 there is nothing to be a share of.
    pub of: Option<Selector>,
    /// `metric` is a counter: its growth in so many seconds.
    pub per_s: Option<f64>,
    /// One number of many series.
    pub combine: Combine,
}

/// How series become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// The largest.
    Max,
    /// The smallest.
    Min,
    /// All together.
    Sum,
}

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Less is better.
    AtMost,
    /// More is better.
    AtLeast,
}

impl Goal {
    /// Whether a value lies beyond a level, on the bad side; what differs by rounding alone does not.
    #[must_use]
    pub fn beyond(self, value: f64, level: f64) -> bool {
        let slack = level.abs() * 1e-9;
        match self {
            Self::AtMost => value > level + slack,
            Self::AtLeast => value < level - slack,
        }
    }

    /// The worse of two.
    #[must_use]
    pub const fn worse(self, a: f64, b: f64) -> f64 {
        match self {
            Self::AtMost => a.max(b),
            Self::AtLeast => a.min(b),
        }
    }
}

/// Over which something is measured, up to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the words say it")]
pub enum Window {
    Minute,
    FiveMinutes,
    Hour,
    SixHours,
    ThreeDays,
    ThirtyDays,
}

impl Window {
    /// The shortest first.
    pub const ALL: [Self; 6] =
        [Self::Minute, Self::FiveMinutes, Self::Hour, Self::SixHours, Self::ThreeDays, Self::ThirtyDays];

    /// Its word in the file, in answers and in the label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Minute => "1m",
            Self::FiveMinutes => "5m",
            Self::Hour => "1h",
            Self::SixHours => "6h",
            Self::ThreeDays => "3d",
            Self::ThirtyDays => "30d",
        }
    }

    /// How long it is.
    #[must_use]
    pub const fn length(self) -> Duration {
        Duration::from_secs(match self {
            Self::Minute => 60,
            Self::FiveMinutes => 300,
            Self::Hour => 3_600,
            Self::SixHours => 6 * 3_600,
            Self::ThreeDays => 3 * 86_400,
            Self::ThirtyDays => 30 * 86_400,
        })
    }
}

/// Who is told when.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// Of the rule.
    pub name: String,
    /// Beyond it, over the window of the objective.
    pub threshold: f64,
    /// So long without a break.
    pub hold: Duration,
    /// How urgent it is.
    pub severity: Severity,
    /// The page that says what to do.
    pub runbook: String,
}

/// How urgent it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Now.
    Critical,
    /// Today.
    Warning,
}

impl Severity {
    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
        }
    }
}

/// A part of the time that an objective allows.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// So much of the target is its own.
    pub budget: f64,
    /// Where it is measured, at the quantile of the objective; or why it is not.
    pub measured: Result<Vec<Selector>, String>,
}

impl Keys {
    /// The objectives of the file that `slo.file` names; the shipped ones where there is none, or a problem, until it is
    /// told.
    pub(super) fn slo(&mut self) -> Arc<Slo> {
        let (path, content) = self.get("slo.file", text(|path| file::text(path, BYTES_MAX)));
        if path == PathBuf::new() {
            return shipped();
        }
        match objective::read(&path, &content) {
            Ok(slo) => Arc::new(slo),
            Err(Problems(problems)) => {
                self.layers.problems.extend(problems);
                shipped()
            }
        }
    }
}

/// A time up to now over which objectives can be judged: one minute to thirty days.
///
/// # Errors
/// What is wrong with the text.
pub fn since(text: &str) -> Result<Duration, String> {
    let time = parse_time(text)?;
    let fits = (Window::Minute.length()..=Window::ThirtyDays.length()).contains(&time);
    if fits { Ok(time) } else { Err("must be 1m to 30d".into()) }
}

/// The objectives that are built in.
#[must_use]
#[allow(clippy::expect_used, reason = "the file is part of the program: a test reads it")]
pub fn shipped() -> Arc<Slo> {
    let read = objective::read(Path::new(SHIPPED), OBJECTIVES);
    Arc::new(read.expect("the objectives that are built in are good: a test reads them"))
}

/// Objectives from the text of a file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn from_text(path: &Path, text: &str) -> Result<Slo, Problems> {
    objective::read(path, text)
}
