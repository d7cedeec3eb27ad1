//! The file of objectives: the shipped one is good, and every mistake in another one is told with its line, all at once.

use std::path::Path;

use super::*;
use crate::config::check::tests::problems;

fn told(text: &str) -> Vec<String> {
    let problems = from_text(Path::new("my.toml"), text).unwrap_err();
    problems.as_slice().iter().map(ToString::to_string).collect()
}

/// A good objective, of which tests change one line.
const GOOD: &str = "[[objective]]\nid = \"a\"\nrequirement = \"R1\"\ndescription = \"Quick\"\nkind = \"quantile\"\n\
                    metric = 'trellis_redirect_duration_seconds'\nquantile = 0.99\ntarget = \"50ms\"\nwindow = \"5m\"\n";

#[test]
fn the_shipped_objectives_are_good() {
    let slo = shipped();
    assert!(slo.objectives.len() > 50 && slo.objectives.len() <= OBJECTIVES_MAX);
    let of = |id: &str| slo.objectives.iter().find(|one| one.id == id).unwrap_or_else(|| panic!("no {id}"));
    let redirect = of("redirect-p99");
    assert_eq!(
        (redirect.target, redirect.acceptable, redirect.critical),
        (0.05, 0.05, 0.05),
        "one figure is all three"
    );
    let dedup = of("dedup-p99");
    assert_eq!((dedup.target, dedup.acceptable, dedup.critical), (0.001, 0.005, 0.025));
    assert!((redirect.phases.iter().map(|phase| phase.budget).sum::<f64>() - 0.05).abs() < 1e-12);
    let alert = &of("edge-errors").alerts[0];
    assert_eq!((&*alert.name, alert.threshold, alert.hold), ("IngressErrorRate", 0.01, Duration::from_secs(180)));
    assert_eq!((of("pool-free").goal, of("pool-free").unit), (Goal::AtLeast, Unit::Count));
}

#[test]
fn every_shipped_alert_has_a_runbook_that_names_it() {
    for objective in &shipped().objectives {
        for alert in &objective.alerts {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&alert.runbook);
            let page = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(page.contains(&alert.name), "{} is not in {}", alert.name, alert.runbook);
        }
    }
}

#[test]
fn every_mistake_is_told_at_once_with_its_line() {
    let text = r#"objetive = 1
[[objective]]
id = "redirect p99"
requirement = "R100"
description = ""
kind = "quantile"
metric = 'trellis_redirect_durations_seconds'
quantile = 1.5
target = "51ms"
window = "7m"
extra = 1
[[objective]]
id = "errors"
requirement = "R42"
description = "Few errors"
kind = "ratio"
bad = ['trellis_redirects_total{outcom="shed"}', 'trellis_links']
all = []
target = "101%"
acceptable = "1ms"
window = "5m"
[[objective]]
id = "errors"
requirement = "R42"
description = "Few errors"
kind = "ratio"
bad = 'trellis_redirects_total{outcome="shed"}'
all = 'trellis_redirects_total'
target = "1%"
critical = "0.1%"
window = "5m"
[[objective.alert]]
name = "errors"
threshold = "1 %"
for = "often"
severity = "loud"
runbook = "/etc/passwd"
[[objective]]
id = "phases"
requirement = "R43"
description = "Phases"
kind = "quantile"
metric = 'trellis_redirect_duration_seconds'
quantile = 0.99
target = "50ms"
window = "5m"
[[objective.phase]]
name = "journal"
budget = "20ms"
metric = 'trellis_journal_append_duration_seconds'
[[objective.phase]]
name = "rest"
budget = "29ms"
not_measured = "why"
[[objective]]
kind = "gauge"
"#;
    let told = told(text);
    let lines = [
        r#"my.toml:1: objetive: is not a key here; did you mean objective?"#,
        r#"my.toml:3: objective 1.id = "redirect p99": must be 1 to 64 lower-case letters, digits or -, a letter first"#,
        r#"my.toml:4: objective 1.requirement = "R100": must be a requirement such as R1"#,
        r#"my.toml:5: objective 1.description = "": must be one line of 1 to 200 characters"#,
        r#"my.toml:7: objective 1.metric = "trellis_redirect_durations_seconds": "trellis_redirect_durations_seconds" is not a metric of this node; did you mean trellis_redirect_duration_seconds?"#,
        r#"my.toml:8: objective 1.quantile = 1.5: must be more than 0 and at most 1, such as 0.99"#,
        r#"my.toml:10: objective 1.window = "7m": must be "1m" or "5m" or "1h" or "6h" or "3d" or "30d""#,
        r#"my.toml:11: objective 1.extra: is not a key here"#,
        r#"my.toml:17: errors.bad = ["trellis_redirects_total{outcom=\"shed\"}", "trellis_links"]: trellis_redirects_total has no label "outcom": it has only outcome; trellis_links is a gauge: only what counts events can be added up over a time"#,
        r#"my.toml:18: errors.all = []: is an empty list"#,
        r#"my.toml:23: errors.id = "errors": is the id of another objective, too"#,
        r#"my.toml:30: errors.critical = "0.1%": (0.1 %) is stricter than acceptable (1 %)"#,
        r#"my.toml:33: errors.alert 1.name = "errors": must be a name such as RedirectLatencyCritical"#,
        r#"my.toml:34: errors.alert 1.threshold = "1 %": is not a level such as "50ms", "0.1%", "64MiB" or 5000"#,
        r#"my.toml:35: errors.alert 1.for = "often": is not a time such as 250ms, 30s, 10m, 24h or 7d"#,
        r#"my.toml:36: errors.alert 1.severity = "loud": must be "critical" or "warning""#,
        r#"my.toml:37: errors.alert 1.runbook = "/etc/passwd": must be a page such as config/runbooks/pools.md"#,
        r#"my.toml:47: phases.phase: has budgets of 49 ms together, and the target is 50 ms"#,
        r#"my.toml:55: objective 5.id: is missing"#,
        r#"my.toml:55: objective 5.requirement: is missing"#,
        r#"my.toml:55: objective 5.description: is missing"#,
        r#"my.toml:55: objective 5.metric: is missing"#,
        r#"my.toml:55: objective 5.combine: is missing"#,
        r#"my.toml:55: objective 5.window: is missing"#,
        r#"my.toml:55: objective 5.target: is missing"#,
    ];
    assert_eq!(told, lines, "{told:#?}");
}

#[test]
fn impossible_numbers_are_refused() {
    assert!(from_text(Path::new("my.toml"), GOOD).is_ok());
    for (from, to, message) in [
        (
            "target = \"50ms\"",
            "target = \"51ms\"",
            "is no bound of a bucket of trellis_redirect_duration_seconds; the nearest is 50 ms",
        ),
        ("target = \"50ms\"", "target = 5", "must be a time such as 50ms, as trellis_redirect_duration_seconds is"),
        ("target = \"50ms\"", "target = \"50ms\"\ncritical = \"10ms\"", "(10 ms) is stricter than acceptable (50 ms)"),
        (
            "target = \"50ms\"",
            "target = \"50ms\"\nacceptable = \"1%\"",
            "is of another kind than target: a share and a time",
        ),
        ("quantile = 0.99", "quantile = 0", "must be more than 0 and at most 1"),
        ("quantile = 0.99", "", "a.quantile: is missing"),
        ("_duration_seconds'", "s_total'", "trellis_redirects_total is no histogram, and has no quantiles"),
        ("kind = \"quantile\"", "kind = \"median\"", "must be \"quantile\" or \"ratio\" or \"gauge\""),
        ("window", "bad = 'trellis_links'\nwindow", "a.bad: is not a key here"),
        ("window", "goal = \"at_least\"\nwindow", "a.goal: is not a key here"),
        (
            "kind = \"quantile\"",
            "kind = \"gauge\"\ncombine = \"max\"\ngoal = \"at_most\"",
            "is a histogram: take kind = \"quantile\"",
        ),
    ] {
        let told = told(&GOOD.replacen(from, to, 1));
        assert!(told.iter().any(|told| told.contains(message)), "{to}: {told:#?}");
    }
    let ratio = "kind = \"ratio\"\nbad = 'trellis_redirects_total{outcome=\"shed\"}'\nall = 'trellis_redirects_total'\nwindow = \"1h\"\n";
    let head = "[[objective]]\nid = \"a\"\nrequirement = \"R1\"\ndescription = \"Few\"\n";
    for (target, message) in [
        ("\"120%\"", "is more than 100%"),
        ("\"0%\"", "must be more than 0%"),
        ("\"5ms\"", "must be a share such as"),
        ("1", "must be a share such as"),
    ] {
        let told = told(&format!("{head}{ratio}target = {target}\n"));
        assert!(told.len() == 1 && told[0].contains(message), "{target}: {told:#?}");
    }
    let gauge = "kind = \"gauge\"\nmetric = 'process_cpu_seconds_total'\ncombine = \"sum\"\ngoal = \"at_most\"\ntarget = 1\nwindow = \"1h\"\n";
    let told_of = told(&format!("{head}{gauge}"));
    assert!(told_of.len() == 1 && told_of[0].contains("is a counter: say `per = "), "{told_of:#?}");
    assert!(from_text(Path::new("my.toml"), &format!("{head}{gauge}per = \"second\"\n")).is_ok());
}

#[test]
fn a_file_without_objectives_or_with_too_many_is_refused() {
    assert_eq!(told(""), ["my.toml:1: objective: is missing: a file of objectives has at least one"]);
    assert_eq!(told("objective = 1"), ["my.toml:1: objective: must be a list of tables: write [[objective]]"]);
    assert!(told("[[objective]\n")[0].starts_with("my.toml:1: is not TOML: "));
    let many: String = (0..=OBJECTIVES_MAX).map(|n| GOOD.replacen("\"a\"", &format!("\"a{n}\""), 1)).collect();
    assert_eq!(
        told(&many),
        [format!("my.toml:1: objective: has {} tables, {OBJECTIVES_MAX} at most", OBJECTIVES_MAX + 1)]
    );
    let alert = "[[objective.alert]]\nname = \"A\"\nthreshold = \"50ms\"\nfor = \"5m\"\nseverity = \"warning\"\nrunbook = \"a.md\"\n";
    assert!(told(&format!("{GOOD}{alert}{alert}"))[0].ends_with("has A twice"));
}

#[test]
fn the_file_of_the_settings_stands_in_for_the_shipped_one_and_is_checked_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    let settings = format!("[slo]\nfile = {path:?}\n");
    std::fs::write(&path, GOOD).unwrap();
    let config = crate::config::Config::from_text(&crate::config::Sources::default(), &settings).unwrap();
    assert_eq!(config.slo.objectives.len(), 1);
    std::fs::write(&path, GOOD.replace("R1", "1")).unwrap();
    let told = problems(&format!("{settings}[edge]\nthreads = 9999\n"));
    let line = format!("{}:3: a.requirement = \"1\": must be a requirement such as R1", path.display());
    assert!(
        told.len() == 2 && told.contains(&line) && told.iter().any(|told| told.contains("edge.threads")),
        "{told:#?}"
    );
    let told = problems("slo.file = \"/nowhere/slo.toml\"");
    assert!(
        told.len() == 1 && told[0].starts_with("1: slo.file = \"/nowhere/slo.toml\": the file cannot be read"),
        "{told:#?}"
    );
}
