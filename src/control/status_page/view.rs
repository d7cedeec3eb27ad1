//! What the status page shows: plain values, filled by the page's parent from whatever is measured, and written as HTML by
//! `render`. Nothing in it is escaped yet. Bounds: those that `render` shows.

use std::time::Duration;

use crate::pipeline::store::LinkCount;

/// All of it.
#[derive(Debug)]
pub(super) struct View {
    pub(super) node: String,
    pub(super) state: &'static str,
    /// Of the page, RFC 3339.
    pub(super) at: String,
    /// Since the node began; `None` where none runs.
    pub(super) uptime: Option<Duration>,
    pub(super) figures: Vec<Figure>,
    pub(super) objectives: Measured<Objectives>,
    pub(super) phases: Measured<Vec<Phase>>,
    pub(super) ledger: Measured<Hour>,
    pub(super) dependencies: Vec<Dependency>,
    pub(super) probes: Measured<Vec<Probe>>,
    pub(super) links: Measured<Vec<LinkCount>>,
    pub(super) slow: Measured<Vec<Slow>>,
}

/// Something, or why it is not known.
pub(super) type Measured<T> = Result<T, NotMeasured>;

/// Why something is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotMeasured(pub(super) String);

impl NotMeasured {
    pub(super) fn new<T>(why: impl Into<String>) -> Measured<T> {
        Err(Self(why.into()))
    }
}

/// How something stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    /// Nothing is known.
    #[default]
    Unknown,
    Good,
    Warning,
    Bad,
}

/// One number that is looked at first.
#[derive(Debug)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    /// `None`: not measured.
    pub(super) value: Option<String>,
    pub(super) note: String,
    pub(super) mark: Mark,
}

/// What was promised.
#[derive(Debug, Default)]
pub(super) struct Objectives {
    /// In the order of their file.
    pub(super) all: Vec<Objective>,
    /// The first moment of which something is known, RFC 3339.
    pub(super) since: String,
}

#[derive(Debug, Default)]
pub(super) struct Objective {
    pub(super) id: String,
    pub(super) description: String,
    /// Over the window; `None`: not measured.
    pub(super) value: Option<String>,
    pub(super) target: String,
    pub(super) window: String,
    pub(super) mark: Mark,
    /// Of a share of events.
    pub(super) budget: Option<Budget>,
    /// Why there is no value.
    pub(super) why_not: String,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Of 1; below 0 when more was burnt than there was.
    pub(super) left_ratio: f64,
    pub(super) left_minutes: f64,
    /// Over the last hour: 1 uses the budget up in just its time.
    pub(super) burn_rate: Option<f64>,
}

/// A part of a request, or of the way behind it.
#[derive(Debug)]
pub(super) struct Phase {
    pub(super) of: String,
    pub(super) name: String,
    pub(super) budget: String,
    /// `None`: not measured.
    pub(super) value: Option<String>,
    /// Of the budget.
    pub(super) used_ratio: Option<f64>,
    pub(super) mark: Mark,
}

/// The books of the last hour.
#[derive(Debug, Default)]
pub(super) struct Hour {
    /// Visits of each of its minutes, the oldest first.
    pub(super) visits: Vec<u64>,
    pub(super) sums: Vec<(&'static str, u64)>,
    pub(super) residual: i64,
}

#[derive(Debug)]
pub(super) struct Dependency {
    pub(super) name: &'static str,
    pub(super) backend: &'static str,
    pub(super) up: bool,
    /// Why it is down, and what that means.
    pub(super) detail: String,
}

#[derive(Debug)]
pub(super) struct Probe {
    pub(super) name: &'static str,
    pub(super) took: Option<Duration>,
    pub(super) mark: Mark,
}

#[derive(Debug)]
pub(super) struct Slow {
    /// RFC 3339.
    pub(super) at: String,
    pub(super) dependency: &'static str,
    pub(super) op: &'static str,
    pub(super) took: Duration,
    pub(super) level: &'static str,
    pub(super) mark: Mark,
}
