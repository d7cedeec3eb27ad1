//! From the text of the file to [`Slo`]: what an objective must say, and what its parts say of each other.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use toml::de::DeTable;

use super::level::{Unit, level, show};
use super::metrics::MetricKind;
use super::row::{Row, Told};
use super::selector::Selector;
use super::{
    ALERTS_MAX, Alert, Combine, Gauge, Goal, Measure, OBJECTIVES_MAX, Objective, PHASES_MAX, Phase, SELECTORS_MAX,
    Severity, Slo, Window,
};
use crate::config::units::{Value, text, time, word};
use crate::config::{Problem, Problems};

const ID_BYTES_MAX: usize = 64;
const TEXT_CHARS_MAX: usize = 200;
/// An alert that waits for longer is none.
const HOLD_MAX: Duration = Duration::from_secs(86_400);

/// A level as it was read.
type Level = (f64, Unit);

pub(super) fn read(path: &Path, content: &str) -> Result<Slo, Problems> {
    let mut told = Told::new(path, content);
    let table = DeTable::parse(content).map_err(|error| {
        let origin = told.origin(error.span().map_or(0, |span| span.start));
        let message = format!("is not TOML: {}", error.message());
        Problems(vec![Problem { key: String::new(), value: None, origin, message }])
    })?;
    let mut file = Row::new(String::new(), 0, table.get_ref());
    let rows = file.rows(&mut told, "objective", OBJECTIVES_MAX);
    if rows.is_empty() && !file.has("objective") {
        told.problem(0, "objective".into(), None, "is missing: a file of objectives has at least one".into());
    }
    let (mut ids, mut objectives) = (BTreeSet::new(), Vec::new());
    for mut row in rows {
        if let Some(id) = row.required(&mut told, "id", text(id)) {
            row.name.clone_from(&id);
            if !ids.insert(id) {
                row.wrong(&mut told, "id", "is the id of another objective, too".into());
            }
        }
        objectives.extend(objective(row, &mut told));
    }
    file.finish(&mut told);
    match Problems::of(told.problems) {
        Some(problems) => Err(problems),
        None => Ok(Slo { objectives }),
    }
}

/// One objective; `None` only where something is told.
fn objective(mut row: Row<'_>, told: &mut Told<'_>) -> Option<Objective> {
    let requirement = row.required(told, "requirement", text(requirement));
    let description = row.required(told, "description", text(sentence));
    let measure = measure(&mut row, told);
    let goals = [("at_most", Goal::AtMost), ("at_least", Goal::AtLeast)];
    let goal = match &measure {
        // Of a number of now nobody can guess which way is good.
        Some(Measure::Gauge(_)) => row.required(told, "goal", word(&goals, &[])),
        Some(_) => Some(Goal::AtMost),
        None => row.optional(told, "goal", word(&goals, &[])),
    };
    let windows = Window::ALL.map(|window| (window.name(), window));
    let window = row.required(told, "window", word(&windows, &[]));
    let target = row.required(told, "target", level);
    let acceptable = row.optional(told, "acceptable", level).or(target);
    let critical = row.optional(told, "critical", level).or(acceptable);
    if let (Some(measure), Some(goal)) = (&measure, goal) {
        check_levels(&row, told, measure, goal, [target, acceptable, critical]);
    }
    let alerts = row.rows(told, "alert", ALERTS_MAX);
    let alerts: Vec<_> = alerts.into_iter().filter_map(|row| alert(row, told, measure.as_ref(), target)).collect();
    for (at, one) in alerts.iter().enumerate() {
        if alerts[..at].iter().any(|other| other.name == one.name) {
            row.wrong(told, "alert", format!("has {} twice", one.name));
        }
    }
    let phases = phases(&mut row, told, measure.as_ref(), target);
    let id = row.name.clone();
    row.finish(told);
    let (target, unit) = target?;
    Some(Objective {
        id,
        requirement: requirement?,
        description: description?,
        measure: measure?,
        goal: goal?,
        unit,
        target,
        acceptable: acceptable?.0,
        critical: critical?.0,
        window: window?,
        alerts,
        phases,
    })
}

#[derive(Clone, Copy)]
enum Kind {
    Quantile,
    Ratio,
    Gauge,
}

fn measure(row: &mut Row<'_>, told: &mut Told<'_>) -> Option<Measure> {
    let kinds = [("quantile", Kind::Quantile), ("ratio", Kind::Ratio), ("gauge", Kind::Gauge)];
    let Some(kind) = row.required(told, "kind", word(&kinds, &[])) else {
        // Nobody can say which of them do not belong here.
        row.know(&["metric", "quantile", "bad", "all", "less", "of", "per", "combine"]);
        return None;
    };
    match kind {
        Kind::Quantile => {
            let quantile = row.required(told, "quantile", quantile);
            let of = row.required(told, "metric", |value: &Value| selectors(value, is_histogram));
            Some(Measure::Quantile { of: of?, quantile: quantile? })
        }
        Kind::Ratio => {
            let bad = row.required(told, "bad", |value: &Value| selectors(value, is_counter));
            let all = row.required(told, "all", |value: &Value| selectors(value, is_counter));
            Some(Measure::Ratio { bad: bad?, all: all? })
        }
        Kind::Gauge => {
            let pers = [("second", 1.0), ("minute", 60.0)];
            let per_s = row.optional(told, "per", word(&pers, &[]));
            let wanted = if row.has("per") { is_counter } else { is_gauge };
            let metric = row.required(told, "metric", |value: &Value| selector(value, wanted));
            let less = row.optional(told, "less", |value: &Value| selector(value, is_gauge));
            let of = row.optional(told, "of", |value: &Value| selector(value, is_gauge));
            let combines = [("max", Combine::Max), ("min", Combine::Min), ("sum", Combine::Sum)];
            let combine = row.required(told, "combine", word(&combines, &[]));
            Some(Measure::Gauge(Gauge { metric: metric?, less, of, per_s, combine: combine? }))
        }
    }
}

fn is_histogram(kind: MetricKind) -> Result<(), &'static str> {
    if matches!(kind, MetricKind::Histogram(_)) { Ok(()) } else { Err("is no histogram, and has no quantiles") }
}

fn is_counter(kind: MetricKind) -> Result<(), &'static str> {
    match kind {
        MetricKind::Counter => Ok(()),
        MetricKind::Gauge => Err("is a gauge: only what counts events can be added up over a time"),
        MetricKind::Histogram(_) => Err("is a histogram: its number of observations is `..._count`"),
    }
}

fn is_gauge(kind: MetricKind) -> Result<(), &'static str> {
    match kind {
        MetricKind::Gauge => Ok(()),
        MetricKind::Counter => Err("is a counter: say `per = \"second\"` or `per = \"minute\"`, and it is its growth"),
        MetricKind::Histogram(_) => Err("is a histogram: take kind = \"quantile\""),
    }
}

type Wanted = fn(MetricKind) -> Result<(), &'static str>;

fn selector(value: &Value, wanted: Wanted) -> Result<Selector, String> {
    let Value::Text(text) = value else { return Err("must be a selector in quotes".into()) };
    let selector = Selector::parse(text)?;
    wanted(selector.kind()).map_err(|message| format!("{} {message}", selector.metric))?;
    Ok(selector)
}

/// One, or a list of them.
fn selectors(value: &Value, wanted: Wanted) -> Result<Vec<Selector>, String> {
    match value {
        Value::List(items) if items.is_empty() => Err("is an empty list".into()),
        Value::List(items) if items.len() > SELECTORS_MAX => Err(format!("has more than {SELECTORS_MAX} selectors")),
        Value::List(items) => {
            let parsed: Vec<_> = items.iter().map(|item| selector(item, wanted)).collect();
            // All at once: the first error alone would hide the others.
            let errors: Vec<_> = parsed.iter().filter_map(|item| item.as_ref().err().cloned()).collect();
            if errors.is_empty() { parsed.into_iter().collect() } else { Err(errors.join("; ")) }
        }
        one => Ok(vec![selector(one, wanted)?]),
    }
}

/// The levels among themselves, and with what is measured.
fn check_levels(row: &Row<'_>, told: &mut Told<'_>, measure: &Measure, goal: Goal, levels: [Option<Level>; 3]) {
    const NAMES: [&str; 3] = ["target", "acceptable", "critical"];
    let mut good = true;
    for (name, level) in NAMES.into_iter().zip(levels) {
        // What is not written is the level before.
        let Some(level) = level.filter(|_| row.has(name)) else { continue };
        if let Err(message) = fits(measure, level, levels[0]) {
            row.wrong(told, name, message);
            good = false;
        }
    }
    let [Some(target), Some(acceptable), Some(critical)] = levels else { return };
    for (name, level, before, other) in
        [("acceptable", acceptable, target, "target"), ("critical", critical, acceptable, "acceptable")]
    {
        if good && goal.beyond(before.0, level.0) {
            let (shown, before) = (show(level.0, level.1), show(before.0, before.1));
            row.wrong(told, name, format!("({shown}) is stricter than {other} ({before})"));
        }
    }
}

/// Whether a level, or the threshold of an alert, can be one of this measure.
fn fits(measure: &Measure, (level, unit): Level, target: Option<Level>) -> Result<(), String> {
    if let Some((_, of_target)) = target.filter(|(_, of_target)| *of_target != unit) {
        return Err(format!("is of another kind than target: {} and {}", name(unit), name(of_target)));
    }
    match measure {
        Measure::Quantile { of, .. } => {
            for selector in of {
                if selector.metric.ends_with("_seconds") != (unit == Unit::Seconds) {
                    let wanted = if unit == Unit::Seconds { "a number, without a unit" } else { "a time such as 50ms" };
                    return Err(format!("must be {wanted}, as {} is", selector.metric));
                }
                let MetricKind::Histogram(bounds) = selector.kind() else { continue };
                if !bounds.contains(&level) {
                    let near = bounds.iter().min_by(|a, b| (*a - level).abs().total_cmp(&(*b - level).abs()));
                    let near = near.map_or_else(String::new, |near| show(*near, unit));
                    return Err(format!("is no bound of a bucket of {}; the nearest is {near}", selector.metric));
                }
            }
            Ok(())
        }
        Measure::Ratio { .. } if unit != Unit::Ratio => Err("must be a share such as \"0.1%\"".into()),
        Measure::Ratio { .. } if level <= 0.0 => Err("must be more than 0%: nothing could be burnt of it".into()),
        _ if unit == Unit::Ratio && level > 1.0 => Err("is more than 100%".into()),
        _ => Ok(()),
    }
}

const fn name(unit: Unit) -> &'static str {
    match unit {
        Unit::Seconds => "a time",
        Unit::Ratio => "a share",
        Unit::Count => "a number",
        Unit::Bytes => "a size",
    }
}

fn alert(mut row: Row<'_>, told: &mut Told<'_>, measure: Option<&Measure>, target: Option<Level>) -> Option<Alert> {
    let name = row.required(told, "name", text(rule_name));
    let threshold = row.required(told, "threshold", level);
    if let (Some(measure), Some(level)) = (measure, threshold)
        && let Err(message) = fits(measure, level, target)
    {
        row.wrong(told, "threshold", message);
    }
    let hold = row.required(told, "for", time(Duration::ZERO..=HOLD_MAX));
    let severities = [("critical", Severity::Critical), ("warning", Severity::Warning)];
    let severity = row.required(told, "severity", word(&severities, &[]));
    let runbook = row.required(told, "runbook", text(page));
    row.finish(told);
    let (threshold, _) = threshold?;
    Some(Alert { name: name?, threshold, hold: hold?, severity: severity?, runbook: runbook? })
}

fn phases(row: &mut Row<'_>, told: &mut Told<'_>, measure: Option<&Measure>, target: Option<Level>) -> Vec<Phase> {
    let rows = row.rows(told, "phase", PHASES_MAX);
    let (count, mut phases) = (rows.len(), Vec::new());
    if count > 0 && measure.is_some_and(|measure| !matches!(measure, Measure::Quantile { .. })) {
        row.wrong(told, "phase", "only a quantile of a time has phases".into());
    }
    for row in rows {
        phases.extend(phase(row, told));
    }
    let sum: f64 = phases.iter().map(|phase| phase.budget).sum();
    // With a phase missing the sum says nothing.
    if let Some((target, unit)) = target.filter(|_| count > 0 && phases.len() == count)
        && (sum - target).abs() > 1e-9 * target
    {
        let (sum, target) = (show(sum, unit), show(target, unit));
        row.wrong(told, "phase", format!("has budgets of {sum} together, and the target is {target}"));
    }
    phases
}

fn phase(mut row: Row<'_>, told: &mut Told<'_>) -> Option<Phase> {
    let name = row.required(told, "name", text(id));
    let seconds = |value: &Value| match level(value)? {
        (budget, Unit::Seconds) if budget > 0.0 => Ok(budget),
        _ => Err("must be a time such as \"5ms\", more than 0".into()),
    };
    let budget = row.required(told, "budget", seconds);
    let measured = match (row.has("metric"), row.has("not_measured")) {
        (true, true) => {
            row.wrong(told, "not_measured", "stands beside `metric`: keep one of them".into());
            None
        }
        (_, false) => row.required(told, "metric", |value: &Value| selectors(value, is_histogram)).map(Ok),
        (false, true) => row.required(told, "not_measured", text(sentence)).map(Err),
    };
    row.know(&["metric", "not_measured"]);
    if let (Some(Ok(of)), Some(budget)) = (&measured, budget) {
        // Only at a bound of a bucket is it known exactly whether a quantile keeps to it.
        let measure = Measure::Quantile { of: of.clone(), quantile: 1.0 };
        if let Err(message) = fits(&measure, (budget, Unit::Seconds), None) {
            row.wrong(told, "budget", message);
        }
    }
    row.finish(told);
    Some(Phase { name: name?, budget: budget?, measured: measured? })
}

fn id(text: &str) -> Result<String, String> {
    let body = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let fits = (1..=ID_BYTES_MAX).contains(&text.len()) && body && text.as_bytes()[0].is_ascii_lowercase();
    let error = || format!("must be 1 to {ID_BYTES_MAX} lower-case letters, digits or -, a letter first");
    fits.then(|| text.to_owned()).ok_or_else(error)
}

fn requirement(text: &str) -> Result<String, String> {
    let number = text.strip_prefix('R').and_then(|number| number.parse::<u8>().ok());
    let fits = number.is_some_and(|number| (1..=99).contains(&number) && text == format!("R{number}"));
    fits.then(|| text.to_owned()).ok_or_else(|| "must be a requirement such as R1".into())
}

fn sentence(text: &str) -> Result<String, String> {
    let fits = (1..=TEXT_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned()).ok_or_else(|| format!("must be one line of 1 to {TEXT_CHARS_MAX} characters"))
}

fn rule_name(text: &str) -> Result<String, String> {
    let fits = (1..=ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && text.as_bytes()[0].is_ascii_uppercase();
    fits.then(|| text.to_owned()).ok_or_else(|| "must be a name such as RedirectLatencyCritical".into())
}

fn page(text: &str) -> Result<String, String> {
    let fits = text.ends_with(".md") && !text.starts_with('/') && !text.contains("..") && text.is_ascii();
    fits.then(|| text.to_owned()).ok_or_else(|| "must be a page such as config/runbooks/pools.md".into())
}

fn quantile(value: &Value) -> Result<f64, String> {
    let number = match value {
        Value::Other(digits) => digits.parse().ok(),
        Value::Integer(number) => Some(*number as f64),
        _ => None,
    };
    let fits = number.filter(|quantile: &f64| *quantile > 0.0 && *quantile <= 1.0);
    fits.ok_or_else(|| "must be more than 0 and at most 1, such as 0.99".into())
}
