//! The status page as HTML: one document, with its style in it, no script, and drawings as SVG. Every value is escaped by
//! [`Html`]. Bounds: [`BYTES_MAX`] of a page, which has so many rows of phases and objectives as there is room for; [`ROWS_MAX`]
//! rows of other tables; those of [`Html`] for each value.

use std::time::Duration;

use super::html::Html;
use super::view::{Budget, Dependency, Figure, Hour, Mark, Measured, Objective, Objectives, Phase, Probe, Slow, View};
use crate::pipeline::store::LinkCount;

/// Of a whole page.
pub(super) const BYTES_MAX: usize = 50_000;
/// From here on no row is begun: the longest takes less than what is left, with all that follows.
const ROWS_BYTES_MAX: usize = BYTES_MAX - 6_000;
/// Squares of objectives.
const SQUARES_MAX: usize = 200;
/// Objectives whose phases are shown, and phases of each.
const PHASED_MAX: usize = 2;
/// See [`PHASED_MAX`].
const PHASES_MAX: usize = 12;
/// Rows of other tables.
pub(super) const ROWS_MAX: usize = 10;

/// The style; `Content-Security-Policy` names its digest.
pub(super) const STYLE: &str = include_str!("style.css");

const FAVICON: &str = "<link rel=icon href=\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
    %3Crect width='16' height='16' rx='4' fill='%233d63dd'/%3E%3Cpath d='M4 5h8M8 5v7' stroke='%23fff' stroke-width='2'/%3E\
    %3C/svg%3E\">";

impl Mark {
    /// Its class in the style.
    const fn class(self) -> &'static str {
        match self {
            Self::Unknown => "x",
            Self::Good => "ok",
            Self::Warning => "warn",
            Self::Bad => "bad",
        }
    }

    /// Its word among objectives.
    const fn verdict(self) -> &'static str {
        match self {
            Self::Unknown => "NO DATA",
            Self::Good => "OK",
            Self::Warning => "WARNING",
            Self::Bad => "BREACH",
        }
    }
}

/// The whole document.
pub(super) fn page(view: &View) -> String {
    let mut html = Html::default();
    html.raw("<!doctype html>\n<html lang=en><head><meta charset=utf-8>")
        .raw("<meta name=viewport content=\"width=device-width,initial-scale=1\"><meta http-equiv=refresh content=30>")
        .raw(FAVICON)
        .raw("<title>")
        .text(&view.node)
        .raw(" · Trellis</title><style>")
        .raw(STYLE)
        .raw("</style></head>\n<body>");
    head(&mut html, view);
    html.raw("<main>\n");
    figures(&mut html, &view.figures);
    ledger(&mut html, &view.ledger);
    dependencies(&mut html, &view.dependencies);
    probes(&mut html, &view.probes);
    phases(&mut html, &view.phases);
    links(&mut html, &view.links);
    slow(&mut html, &view.slow);
    // The longest: it has what room is left.
    objectives(&mut html, &view.objectives);
    html.raw("</main>\n<footer><p>As of ").text(&view.at).raw(" (UTC). The page loads itself anew every 30 s. ");
    html.raw(
        "Figures: <a href=metrics>/metrics</a> · <a href=slo>/slo</a> · <a href=health/ready>/health/ready</a></p></footer></body></html>\n",
    );
    html.into_string()
}

fn head(html: &mut Html, view: &View) {
    let overall = view.objectives.as_ref().ok().and_then(|known| known.all.iter().map(|one| one.mark).max());
    let (mark, word) = match overall {
        Some(mark) => (mark, mark.verdict()),
        None => (Mark::Unknown, "objectives: not measured"),
    };
    html.raw("<header><div><h1>Trellis <span>").text(&view.node).raw("</span></h1><p>").text(crate::VERSION);
    html.raw(" · ").raw(view.state).raw(" · ");
    match view.uptime {
        Some(uptime) => html.raw("up ").text(&age(uptime)),
        None => html.raw("no node runs"),
    };
    html.raw("</p>");
    pill(html, mark, word);
    html.raw("</div></header>\n");
}

fn pill(html: &mut Html, mark: Mark, word: &'static str) {
    html.raw("<span class=\"pill ").raw(mark.class()).raw("\">").raw(word).raw("</span>");
}

fn figures(html: &mut Html, figures: &[Figure]) {
    html.raw("<section class=tiles aria-label=\"At a glance\">");
    for figure in figures {
        let class = if figure.value.is_some() { figure.mark.class() } else { Mark::Unknown.class() };
        html.raw("<div class=\"tile ").raw(class).raw("\"><p>").raw(figure.name).raw("</p><b>");
        match &figure.value {
            Some(value) => html.text(value),
            None => html.raw("not measured"),
        };
        html.raw("</b><p>").text(&figure.note).raw("</p></div>");
    }
    html.raw("</section>\n");
}

/// A section, with what is in it or why that is not known.
fn section<T>(
    html: &mut Html,
    (class, title, note): (&'static str, &'static str, &str),
    measured: &Measured<T>,
    write: impl FnOnce(&mut Html, &T),
) {
    html.raw("<section class=\"").raw(class).raw("\"><h2>").raw(title).raw("<small>").text(note).raw("</small></h2>");
    match measured {
        Ok(measured) => write(html, measured),
        Err(why) => {
            html.raw("<p class=none>not measured: ").text(&why.0).raw("</p>");
        }
    }
    html.raw("</section>\n");
}

/// A table with these heads; those that begin with a `#` are of numbers.
fn table(html: &mut Html, heads: &[&'static str], write: impl FnOnce(&mut Html)) {
    html.raw("<div class=scroll><table><thead><tr>");
    for head in heads {
        match head.strip_prefix('#') {
            Some(number) => html.raw("<th class=n>").raw(number),
            None => html.raw("<th>").raw(head),
        };
        html.raw("</th>");
    }
    html.raw("</tr></thead><tbody>");
    write(html);
    html.raw("</tbody></table></div>");
}

fn ledger(html: &mut Html, ledger: &Measured<Hour>) {
    section(html, ("", "Ledger", "the last hour, by the minute of the visit"), ledger, |html, hour| {
        chart(html, &hour.visits);
        html.raw("<dl class=sums>");
        for (name, sum) in &hour.sums {
            html.raw("<div><dt>").raw(name).raw("</dt><dd>").text(&grouped(*sum)).raw("</dd></div>");
        }
        html.raw(if hour.residual == 0 { "<div>" } else { "<div class=bad>" });
        html.raw("<dt>residual</dt><dd>").text(&hour.residual.to_string()).raw("</dd></div></dl>");
    });
}

/// A bar for each minute.
fn chart(html: &mut Html, visits: &[u64]) {
    let most = visits.iter().copied().max().unwrap_or_default().max(1);
    let width = visits.len().max(1) * 10;
    html.raw("<svg class=chart role=img preserveAspectRatio=none aria-label=\"Visits a minute\" viewBox=\"0 0 ");
    html.coordinate(width as f64).raw(" 72\"><line x1=0 x2=");
    html.coordinate(width as f64).raw(" y1=71.5 y2=71.5 />");
    for (minute, visits) in visits.iter().enumerate().filter(|(_, visits)| **visits > 0) {
        let height = (*visits as f64 / most as f64 * 70.0).max(1.0);
        html.raw("<rect x=").coordinate(minute as f64 * 10.0 + 1.0).raw(" y=").coordinate(71.0 - height);
        html.raw(" width=8 height=").coordinate(height).raw(" />");
    }
    html.raw("</svg><p class=axis><span>an hour ago</span><span>");
    html.text(&grouped(most)).raw(" a minute at most</span><span>now</span></p>");
}

fn meter(html: &mut Html, ratio: f64, mark: Mark) {
    html.raw("<svg class=meter preserveAspectRatio=none viewBox=\"0 0 100 8\" aria-hidden=true>");
    html.raw("<rect class=t width=100 height=8 /><rect class=").raw(mark.class()).raw(" height=8 width=");
    html.coordinate(ratio.clamp(0.0, 1.0) * 100.0).raw(" /></svg>");
}

/// A table for each objective that has phases.
fn phases(html: &mut Html, phases: &Measured<Vec<Phase>>) {
    match phases {
        Ok(phases) => {
            for of_one in phases.chunk_by(|a, b| a.of == b.of).take(PHASED_MAX) {
                let note = of_one.first().map_or("", |phase| phase.of.as_str());
                section(html, ("half", "Phases", note), &Ok(of_one), |html, phases| phases_of(html, phases));
            }
        }
        Err(why) => section(html, ("half", "Phases", ""), &Err::<(), _>(why.clone()), |_, ()| {}),
    }
}

fn phases_of(html: &mut Html, phases: &[Phase]) {
    table(html, &["Phase", "#Measured", "#Budget", "Used"], |html| {
        for phase in phases.iter().take(PHASES_MAX) {
            html.raw("<tr><td>").text(&phase.name).raw("</td><td class=n>");
            value(html, phase.value.as_deref());
            html.raw("</td><td class=n>").text(&phase.budget).raw("</td><td>");
            meter(html, phase.used_ratio.unwrap_or_default(), phase.mark);
            html.raw("</td></tr>");
        }
    });
}

fn value(html: &mut Html, value: Option<&str>) {
    match value {
        Some(value) => html.text(value),
        None => html.raw("–"),
    };
}

fn links(html: &mut Html, links: &Measured<Vec<LinkCount>>) {
    section(html, ("half", "Top links", "by clicks of people, the last hour"), links, |html, links| {
        if links.is_empty() {
            html.raw("<p class=none>No link was followed.</p>");
            return;
        }
        table(html, &["Link", "#People", "#All clicks"], |html| {
            for link in links.iter().take(ROWS_MAX) {
                html.raw("<tr><td><code>").text(&link.link).raw("</code></td><td class=n>").text(&grouped(link.people));
                html.raw("</td><td class=n>").text(&grouped(link.clicks)).raw("</td></tr>");
            }
        });
    });
}

fn dependencies(html: &mut Html, dependencies: &[Dependency]) {
    let known = Ok(dependencies);
    section(html, ("half", "Dependencies", "redirects need none of them"), &known, |html, dependencies| {
        table(html, &["Dependency", "By", "State"], |html| {
            for one in *dependencies {
                html.raw("<tr><td>").raw(one.name).raw("<small>").text(&one.detail).raw("</small></td><td>");
                html.raw(one.backend).raw("</td><td>");
                let (mark, word) = if one.up { (Mark::Good, "up") } else { (Mark::Bad, "down") };
                pill(html, mark, word);
                html.raw("</td></tr>");
            }
        });
    });
}

fn probes(html: &mut Html, probes: &Measured<Vec<Probe>>) {
    section(html, ("half", "Probes", "what the node found when it asked itself last"), probes, |html, probes| {
        table(html, &["Check", "#Took", "Result"], |html| {
            for probe in probes {
                html.raw("<tr><td>").raw(probe.name).raw("</td><td class=n>");
                value(html, probe.took.map(took).as_deref());
                html.raw("</td><td>");
                let word = match probe.mark {
                    Mark::Unknown => "not yet",
                    Mark::Good => "well",
                    Mark::Warning | Mark::Bad => "failed",
                };
                pill(html, probe.mark, word);
                html.raw("</td></tr>");
            }
        });
    });
}

fn slow(html: &mut Html, slow: &Measured<Vec<Slow>>) {
    section(html, ("half", "Slow operations", "the newest calls of 100 ms and more"), slow, |html, slow| {
        if slow.is_empty() {
            html.raw("<p class=none>None since the node began.</p>");
            return;
        }
        table(html, &["Operation", "#Took", "Level"], |html| {
            for one in slow.iter().take(ROWS_MAX) {
                html.raw("<tr><td>").raw(one.dependency).raw(" ").raw(one.op).raw("<small>").text(&one.at);
                html.raw("</small></td><td class=n>").text(&took(one.took)).raw("</td><td>");
                pill(html, one.mark, one.level);
                html.raw("</td></tr>");
            }
        });
    });
}

fn objectives(html: &mut Html, objectives: &Measured<Objectives>) {
    let note = match objectives {
        Ok(known) => tally(known),
        Err(_) => String::new(),
    };
    section(html, ("", "Objectives", &note), objectives, |html, known| {
        html.raw("<ul class=strip aria-hidden=true>");
        for one in known.all.iter().take(SQUARES_MAX) {
            html.raw("<li class=").raw(one.mark.class()).raw("></li>");
        }
        html.raw("</ul>");
        let of = |mark| known.all.iter().filter(|one| one.mark == mark).collect::<Vec<_>>();
        // The worst first, and else in their order.
        let missed = [of(Mark::Bad), of(Mark::Warning)].concat();
        if missed.is_empty() {
            html.raw("<p class=none>None is missed.</p>");
        } else {
            rows(html, &missed);
        }
        let (met, unknown) = (of(Mark::Good), of(Mark::Unknown));
        if !met.is_empty() {
            html.raw("<details><summary>").text(&grouped(met.len() as u64)).raw(" that are met</summary>");
            rows(html, &met);
            html.raw("</details>");
        }
        if !unknown.is_empty() {
            html.raw("<details><summary>").text(&grouped(unknown.len() as u64)).raw(" without data</summary>");
            reasons(html, unknown);
            html.raw("</details>");
        }
    });
}

/// Objectives without a value, by the reason for that.
fn reasons(html: &mut Html, mut objectives: Vec<&Objective>) {
    objectives.sort_by(|a, b| a.why_not.cmp(&b.why_not));
    for alike in objectives.chunk_by(|a, b| a.why_not == b.why_not) {
        if html.len() > ROWS_BYTES_MAX {
            html.raw("<p class=none>And more.</p>");
            break;
        }
        html.raw("<p class=why><b>").text(alike.first().map_or("", |one| &one.why_not)).raw("</b> ");
        for (place, one) in alike.iter().enumerate() {
            if html.len() > ROWS_BYTES_MAX {
                html.raw(" and more");
                break;
            }
            html.raw(if place == 0 { "" } else { ", " }).text(&one.id);
        }
        html.raw("</p>");
    }
}

/// Objectives, as many as there is room for.
fn rows(html: &mut Html, objectives: &[&Objective]) {
    let mut shown = 0;
    table(html, &["Objective", "#Value", "#Target", "Window", "Budget left", "Verdict"], |html| {
        for one in objectives {
            if html.len() > ROWS_BYTES_MAX {
                break;
            }
            shown += 1;
            html.raw("<tr><td>").text(&one.id).raw("<small>").text(&one.description).raw("</small></td><td class=n>");
            value(html, one.value.as_deref());
            html.raw("</td><td class=n>").text(&one.target).raw("</td><td>").text(&one.window).raw("</td><td>");
            match &one.budget {
                Some(left) => budget(html, left, one.mark),
                None => {
                    html.raw("<small>").text(&one.why_not).raw("</small>");
                }
            }
            html.raw("</td><td>");
            pill(html, one.mark, one.mark.verdict());
            html.raw("</td></tr>");
        }
    });
    if shown < objectives.len() {
        html.raw("<p class=none>And ").text(&grouped((objectives.len() - shown) as u64)).raw(" more.</p>");
    }
}

fn budget(html: &mut Html, left: &Budget, mark: Mark) {
    html.text(&format!("{:.1} min", left.left_minutes));
    meter(html, left.left_ratio, mark);
    if let Some(rate) = left.burn_rate {
        html.raw("<small>burns at ").text(&format!("{rate:.1}")).raw("</small>");
    }
}

/// `2 breached, 58 OK`
fn tally(known: &Objectives) -> String {
    let count = |mark| known.all.iter().filter(|one| one.mark == mark).count();
    let words =
        [(Mark::Bad, "breached"), (Mark::Warning, "in warning"), (Mark::Good, "OK"), (Mark::Unknown, "without data")];
    let mut told: Vec<_> = words.into_iter().filter(|(mark, _)| count(*mark) > 0).collect();
    told.sort_by_key(|(mark, _)| std::cmp::Reverse(*mark));
    let told: Vec<_> = told.into_iter().map(|(mark, word)| format!("{} {word}", count(mark))).collect();
    let since = if known.since.is_empty() { String::new() } else { format!(" · measured since {}", known.since) };
    format!("{}{since}", told.join(", "))
}

/// `12,345`
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `412 µs`, `1.9 ms`, `2.0 s`
pub(super) fn took(duration: Duration) -> String {
    let us = duration.as_micros();
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

/// The two largest units: `3 d 4 h`.
fn age(duration: Duration) -> String {
    let s = duration.as_secs();
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{} min", s / 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3_600 % 24),
    }
}
