//! The objectives, measured: what happened is kept by time, and judged by the levels of `config/slo.toml`.
//!
//! Pure: it is handed what the registry gathers and the time, every [`LOOK`], and gives a [`Report`]; it reads no clock and
//! no file. `app` calls it, writes its [history] away, and shows the report on the control side and in `/metrics`. It takes
//! only the series that an objective names. Bounds: one ring for each thing that is looked at, however many objectives look
//! at it, 318 slots each; a slot of a histogram holds the buckets that were hit (8 to 16 bytes each). A node under load takes
//! about 2 MB; were each of 300 buckets hit in every slot of the shipped objectives, it would be 60 MB.

mod arithmetic;
pub mod history;
mod judge;
#[cfg(test)]
mod registry_tests;
mod report;
mod ring;
mod sample;
mod shown;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::proto::MetricFamily;

pub use self::report::{
    AlertReport, AlertState, BudgetReport, ObjectiveReport, PhaseReport, Report, Verdict, WindowReport,
};
pub use self::shown::SloShard;

use self::ring::Rings;
use self::sample::{Before, Events, Found, Observed, Worst};
use crate::config::slo::{Gauge, Goal, Measure, Selector, Slo};

/// From one look to the next; the length of the shortest slot.
pub const LOOK: Duration = Duration::from_secs(10);

/// Measures and judges.
#[derive(Debug)]
pub struct Engine {
    slo: Arc<Slo>,
    tracks: Vec<Track>,
    /// For each objective, its track; then for each of its phases.
    places: Vec<(usize, Vec<Option<usize>>)>,
    /// For each objective and alert, since when its threshold is not kept, Unix milliseconds.
    pending: Vec<Vec<Option<u64>>>,
    first_ms: Option<u64>,
    last_ms: Option<u64>,
    /// Why figures cannot be read, by the names of their metrics.
    unread: BTreeMap<&'static str, String>,
}

/// One thing that is looked at.
#[derive(Debug)]
struct Track {
    what: What,
    before: Before,
    /// Whether the last look found such series.
    present: bool,
}

/// What it is, with what happened.
#[derive(Debug)]
enum What {
    Observed { of: Vec<Selector>, bounds: Vec<f64>, rings: Rings<Observed> },
    Events { bad: Vec<Selector>, all: Vec<Selector>, rings: Rings<Events> },
    Worst { gauge: Gauge, goal: Goal, rings: Rings<Worst> },
}

impl What {
    fn new(measure: &Measure, goal: Goal) -> Self {
        match measure.clone() {
            Measure::Quantile { of, .. } => Self::Observed { of, bounds: Vec::new(), rings: Rings::default() },
            Measure::Ratio { bad, all } => Self::Events { bad, all, rings: Rings::default() },
            Measure::Gauge(gauge) => Self::Worst { gauge, goal, rings: Rings::default() },
        }
    }

    /// Tells it from all others, also in the history: a changed objective begins anew.
    fn name(&self) -> String {
        let list = |selectors: &[Selector]| {
            let names: Vec<_> = selectors.iter().map(ToString::to_string).collect();
            names.join(" + ")
        };
        match self {
            Self::Observed { of, .. } => format!("observed {}", list(of)),
            Self::Events { bad, all, .. } => format!("events {} of {}", list(bad), list(all)),
            Self::Worst { gauge, goal, .. } => {
                let Gauge { metric, less, of, per_s, combine } = gauge;
                let show =
                    |selector: &Option<Selector>| selector.as_ref().map_or_else(String::new, ToString::to_string);
                let per_s = per_s.unwrap_or_default();
                format!("worst {goal:?} {combine:?} {metric} - {} / {} x {per_s}", show(less), show(of))
            }
        }
    }
}

impl Engine {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(slo: Arc<Slo>) -> Self {
        let mut tracks: Vec<Track> = Vec::new();
        let mut place = |what: What| {
            let name = what.name();
            tracks.iter().position(|track| track.what.name() == name).unwrap_or_else(|| {
                tracks.push(Track { what, before: Before::default(), present: false });
                tracks.len() - 1
            })
        };
        let mut places = Vec::new();
        for objective in &slo.objectives {
            let own = place(What::new(&objective.measure, objective.goal));
            let of_phases = objective.phases.iter().map(|phase| {
                let of = phase.measured.as_ref().ok()?.clone();
                Some(place(What::Observed { of, bounds: Vec::new(), rings: Rings::default() }))
            });
            let of_phases = of_phases.collect();
            places.push((own, of_phases));
        }
        let pending = slo.objectives.iter().map(|objective| vec![None; objective.alerts.len()]).collect();
        Self { slo, tracks, places, pending, first_ms: None, last_ms: None, unread: BTreeMap::new() }
    }

    /// Notes what counters say at this time, Unix milliseconds. To be called at the start, before anything is counted; what
    /// gauges say then is not about anything yet.
    pub fn begin(&mut self, families: &[MetricFamily], now_ms: u64) {
        self.take(families, now_ms, false);
    }

    /// Why figures cannot be read now, by the names of their metrics: said of objectives that have no others.
    pub fn explain(&mut self, unread: impl IntoIterator<Item = (&'static str, String)>) {
        self.unread = unread.into_iter().collect();
    }

    /// Takes in what the registry gathers at this time, Unix milliseconds. Once every [`LOOK`].
    pub fn look(&mut self, families: &[MetricFamily], now_ms: u64) {
        self.take(families, now_ms, true);
        self.watch(now_ms);
    }

    fn take(&mut self, families: &[MetricFamily], now_ms: u64, with_gauges: bool) {
        for Track { what, before, present } in &mut self.tracks {
            *present = match what {
                What::Observed { of, bounds, rings } => {
                    let earlier = bounds.clone();
                    let found = before.observed(families, of, bounds);
                    if earlier != *bounds && !earlier.is_empty() {
                        *rings = history::other_buckets(rings, &earlier, bounds);
                    }
                    add(rings, &found, now_ms)
                }
                What::Events { bad, all, rings } => add(rings, &before.events(families, bad, all), now_ms),
                What::Worst { gauge, goal, rings } => {
                    let found = before.worst(families, gauge, *goal, now_ms);
                    if with_gauges { add(rings, &found, now_ms) } else { !matches!(found, Found::Absent) }
                }
            };
            before.looked();
        }
        self.first_ms.get_or_insert(now_ms);
        self.last_ms = Some(now_ms);
    }

    /// When it looked last, Unix milliseconds; or, of a history, when that one was written.
    #[must_use]
    pub const fn last_ms(&self) -> Option<u64> {
        self.last_ms
    }
}

/// Whether there are such series.
fn add<S: ring::Sample>(rings: &mut Rings<S>, found: &Found<S>, now_ms: u64) -> bool {
    if let Found::New(sample) = found {
        rings.add(now_ms, sample);
    }
    !matches!(found, Found::Absent)
}
