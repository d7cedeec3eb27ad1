//! From what a registry gathers to what happened since the last time.
//!
//! Counters are compared series by series: one that is smaller than before was begun anew (what it counts was restarted),
//! and all of it is new. A series that was not there before is new as a whole, but for the first look of a process at
//! all, which has nothing to compare with. Bounds: those of the registry.

use std::collections::{BTreeMap, VecDeque};

use prometheus::proto::{Metric, MetricFamily, MetricType};

use super::ring::Sample;
use crate::config::slo::{Combine, Gauge, Goal, Part, Selector};

/// Observations by bucket, without empty ones: the place among the upper bounds, and how many.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Observed(pub(super) Vec<(u16, u64)>);

impl Sample for Observed {
    fn add(&mut self, other: &Self) {
        for (place, count) in &other.0 {
            match self.0.binary_search_by_key(place, |(place, _)| *place) {
                Ok(at) => self.0[at].1 += count,
                Err(at) => self.0.insert(at, (*place, *count)),
            }
        }
    }
}

/// Bad events, and all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Events {
    pub(super) bad: f64,
    pub(super) all: f64,
}

impl Sample for Events {
    fn add(&mut self, other: &Self) {
        self.bad += other.bad;
        self.all += other.all;
    }
}

/// The worst value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Worst {
    pub(super) value: f64,
    pub(super) goal: Goal,
}

impl Sample for Worst {
    fn add(&mut self, other: &Self) {
        self.value = self.goal.worse(self.value, other.value);
    }
}

/// A growth is judged over so much time: what is counted elsewhere is asked for every ten seconds too, and a look may find
/// none of its answers, or two.
const GROWTH_MS: u64 = 60_000;
/// Over less than this it says nothing yet.
const GROWTH_MS_MIN: u64 = 30_000;

/// What counters said at the last look, by series.
#[derive(Clone, Debug, Default)]
pub(super) struct Before {
    looked: bool,
    /// What a counter said, and when, for the last [`GROWTH_MS`].
    said: BTreeMap<String, VecDeque<(u64, f64)>>,
    numbers: BTreeMap<String, f64>,
    buckets: BTreeMap<String, Vec<u64>>,
}

/// What a look finds of a measure.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found<S> {
    /// This, since the last look.
    New(S),
    /// There are such series, and nothing to say of them yet.
    Nothing,
    /// There is no such series.
    Absent,
}

/// Series of a selector, each with its family's name and labels.
fn series<'f>(families: &'f [MetricFamily], selector: &'f Selector) -> impl Iterator<Item = &'f Metric> {
    families
        .iter()
        .filter(|family| family.name() == selector.metric)
        .flat_map(MetricFamily::get_metric)
        .filter(|metric| selector.takes(|name| label(metric, name)))
}

fn label<'m>(metric: &'m Metric, name: &str) -> Option<&'m str> {
    metric.get_label().iter().find(|pair| pair.name() == name).map(prometheus::proto::LabelPair::value)
}

/// The labels of a series of which none of these selectors says anything.
fn key(metric: &Metric, apart_from: &[&Selector]) -> String {
    let mut key = String::new();
    for pair in metric.get_label() {
        if !apart_from.iter().any(|selector| selector.names(pair.name())) {
            key.push_str(pair.name());
            key.push('\0');
            key.push_str(pair.value());
            key.push('\0');
        }
    }
    key
}

fn number(metric: &Metric, part: Part, kind: MetricType) -> f64 {
    match (part, kind) {
        (Part::Count, _) => metric.get_histogram().get_sample_count() as f64,
        (Part::Whole, MetricType::COUNTER) => metric.get_counter().get_value(),
        (Part::Whole, _) => metric.get_gauge().get_value(),
    }
}

fn kind(families: &[MetricFamily], selector: &Selector) -> MetricType {
    let family = families.iter().find(|family| family.name() == selector.metric);
    family.map_or(MetricType::GAUGE, MetricFamily::get_field_type)
}

impl Before {
    /// By how much a counter grew; all of it when it was begun anew.
    fn growth(&mut self, series: String, now: f64) -> f64 {
        let first_look = !self.looked;
        match self.numbers.insert(series, now) {
            Some(before) if now >= before => now - before,
            None if first_look => 0.0,
            _ => now,
        }
    }

    /// Whether there was a look in this process.
    pub(super) const fn has_looked(&self) -> bool {
        self.looked
    }

    /// Ends a look.
    pub(super) const fn looked(&mut self) {
        self.looked = true;
    }

    /// Growth of all series of these selectors together; `None` when there is none.
    fn sum(&mut self, families: &[MetricFamily], selectors: &[Selector]) -> Option<f64> {
        let mut sum = None;
        for (place, selector) in selectors.iter().enumerate() {
            let kind = kind(families, selector);
            for metric in series(families, selector) {
                let name = format!("{place} {selector} {}", key(metric, &[]));
                let growth = self.growth(name, number(metric, selector.part, kind));
                *sum.get_or_insert(0.0) += growth;
            }
        }
        sum
    }

    pub(super) fn events(&mut self, families: &[MetricFamily], bad: &[Selector], all: &[Selector]) -> Found<Events> {
        let (bad, all) = (self.sum(families, bad), self.sum(families, all));
        match (bad, all) {
            (bad, Some(all)) if all > 0.0 => Found::New(Events { bad: bad.unwrap_or(0.0).min(all), all }),
            (_, Some(_)) => Found::Nothing,
            (_, None) => Found::Absent,
        }
    }

    /// `bounds` are those of the buckets as they were found last; empty before.
    pub(super) fn observed(
        &mut self,
        families: &[MetricFamily],
        of: &[Selector],
        bounds: &mut Vec<f64>,
    ) -> Found<Observed> {
        let (mut found, mut counts) = (false, Vec::<u64>::new());
        let first_look = !self.looked;
        for (place, selector) in of.iter().enumerate() {
            for metric in series(families, selector) {
                let (now, upper) = buckets(metric);
                if !found {
                    bounds.clone_from(&upper);
                    counts.resize(now.len(), 0);
                }
                found = true;
                if now.len() != counts.len() {
                    // Other buckets than those of the first: not to be added up, and refused by a test of the shipped file.
                    continue;
                }
                let before = self.buckets.insert(format!("{place} {selector} {}", key(metric, &[])), now.clone());
                let grown = before.as_ref().filter(|before| before.iter().zip(&now).all(|(before, now)| now >= before));
                for (at, count) in now.iter().enumerate() {
                    counts[at] += match (grown, &before) {
                        (Some(before), _) => count - before[at],
                        (None, None) if first_look => 0,
                        _ => *count,
                    };
                }
            }
        }
        let observed = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let observed: Vec<_> =
            observed.map(|(place, count)| (u16::try_from(place).unwrap_or(u16::MAX), *count)).collect();
        match (found, observed.is_empty()) {
            (false, _) => Found::Absent,
            (true, true) => Found::Nothing,
            (true, false) => Found::New(Observed(observed)),
        }
    }

    /// By how much counters grew in a second, by series; nothing of one that is not known for long enough.
    fn growths(&mut self, families: &[MetricFamily], of: &Selector, now_ms: u64) -> BTreeMap<String, f64> {
        let (kind, mut growths) = (kind(families, of), BTreeMap::new());
        // One that was away for a look begins anew: nobody knows when it grew.
        let mut known = std::mem::take(&mut self.said);
        for metric in series(families, of) {
            let name = key(metric, &[]);
            let mut said = known.remove(&name).unwrap_or_default();
            said.push_back((now_ms, number(metric, of.part, kind)));
            while said.get(1).is_some_and(|(at, _)| at + GROWTH_MS <= now_ms) {
                said.pop_front();
            }
            let passed_ms = now_ms.saturating_sub(said[0].0);
            if passed_ms >= GROWTH_MS_MIN {
                let steps = said.iter().zip(said.iter().skip(1));
                let grown: f64 = steps.map(|((_, a), (_, b))| if b >= a { b - a } else { *b }).sum();
                growths.insert(name.clone(), grown / (passed_ms as f64 / 1e3));
            }
            self.said.insert(name, said);
        }
        growths
    }

    pub(super) fn worst(&mut self, families: &[MetricFamily], gauge: &Gauge, goal: Goal, now_ms: u64) -> Found<Worst> {
        let kind = kind(families, &gauge.metric);
        let growths = gauge.per_s.map(|per_s| (per_s, self.growths(families, &gauge.metric, now_ms)));
        let (mut any, mut values) = (false, Vec::new());
        for metric in series(families, &gauge.metric) {
            any = true;
            let mut value = number(metric, gauge.metric.part, kind);
            if let Some((per_s, growths)) = &growths {
                let Some(growth) = growths.get(&key(metric, &[])) else { continue };
                value = growth * per_s;
            }
            if let Some(less) = &gauge.less {
                let Some(less) = partner(families, metric, &gauge.metric, less).filter(|_| value != 0.0) else {
                    continue;
                };
                value -= less;
            }
            if let Some(of) = &gauge.of {
                let Some(of) = partner(families, metric, &gauge.metric, of).filter(|of| *of != 0.0) else { continue };
                value /= of;
            }
            values.push(value);
        }
        let values = values.into_iter().filter(|value| value.is_finite());
        let combined = match gauge.combine {
            Combine::Max => values.reduce(f64::max),
            Combine::Min => values.reduce(f64::min),
            Combine::Sum => values.reduce(|a, b| a + b),
        };
        match combined {
            Some(value) => Found::New(Worst { value, goal }),
            None if any => Found::Nothing,
            None => Found::Absent,
        }
    }
}

/// The value of the other selector's series that is alike in all labels of which neither selector says anything; where
/// those are none, of its only one.
fn partner(families: &[MetricFamily], of: &Metric, selector: &Selector, other: &Selector) -> Option<f64> {
    let (kind, wanted) = (kind(families, other), key(of, &[selector, other]));
    let fits = |metric: &&Metric| key(metric, &[selector, other]) == wanted || metric.get_label().is_empty();
    series(families, other).find(fits).map(|metric| number(metric, other.part, kind))
}

/// Counts of the buckets, not cumulative, with the one beyond the last bound; and the bounds.
fn buckets(metric: &Metric) -> (Vec<u64>, Vec<f64>) {
    let histogram = metric.get_histogram();
    let (mut counts, mut bounds, mut below) = (Vec::new(), Vec::new(), 0);
    for bucket in histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite()) {
        let cumulative = bucket.cumulative_count();
        counts.push(cumulative.saturating_sub(below));
        bounds.push(bucket.upper_bound());
        below = cumulative.max(below);
    }
    counts.push(histogram.get_sample_count().saturating_sub(below));
    (counts, bounds)
}
