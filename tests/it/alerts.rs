//! The alerts that are shipped: each asks for metrics that exist, and leads to a page that says what to do.

use std::collections::BTreeSet;
use std::path::Path;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The words of a text that begin like a metric of ours.
fn metrics(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("trellis_")).collect()
}

#[test]
fn every_alert_asks_for_metrics_that_exist_and_names_a_runbook_that_names_it() {
    let readme = read("README.md");
    let known = metrics(&readme);
    let alerts = read("config/deploy/alerts.yml");
    let mut count = 0;
    for alert in alerts.split("- alert: ").skip(1) {
        let name = alert.lines().next().expect("a name");
        let value = |key: &str| {
            let line = alert.lines().find_map(|line| line.trim().strip_prefix(key));
            line.unwrap_or_else(|| panic!("{name} has no {key}")).trim()
        };
        for metric in metrics(value("expr:")) {
            let base = metric.strip_suffix("_bucket").unwrap_or(metric);
            assert!(known.contains(base), "{name} asks for {metric}, which the README does not know");
        }
        assert!(read(value("runbook:")).contains(name), "{name} is not in its runbook");
        assert!(["critical", "warning"].iter().any(|s| value("labels:") == format!("{{severity: {s}}}")), "{name}");
        count += 1;
    }
    assert_eq!(count, alerts.matches("expr:").count());
    assert!(count > 10 && read("config/deploy/prometheus.yml").contains("- alerts.yml"));
}

#[test]
fn every_query_asks_for_metrics_that_exist() {
    let readme = read("README.md");
    let known = metrics(&readme);
    for file in ["config/deploy/queries.toml", "config/deploy/grafana/dashboards/trellis.json"] {
        let text = read(file);
        let asked = metrics(&text);
        let base = |metric: &&str| {
            ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| metric.strip_suffix(suffix))
                .is_some_and(|of| known.contains(of))
        };
        let unknown: Vec<_> = asked.iter().filter(|metric| !known.contains(*metric) && !base(metric)).collect();
        assert!(asked.len() > 10 && unknown.is_empty(), "{file} asks for {unknown:?}, which the README does not know");
    }
}

#[test]
fn every_metric_of_the_readme_is_exported_and_every_exported_one_is_in_it() {
    let readme = read("README.md");
    let mut source = String::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/telemetry")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.to_string_lossy().ends_with("tests.rs") {
                source.push_str(&std::fs::read_to_string(path).expect("text"));
            }
        }
    }
    let in_code: BTreeSet<_> = source
        .match_indices("\"trellis_")
        .filter_map(|(at, _)| source[at + 1..].split('"').next())
        .filter(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
        .collect();
    let table = readme.split_once("## Metrics").expect("the section").1.split("\n## ").next().expect("its end");
    let difference: Vec<_> = in_code.symmetric_difference(&metrics(table)).copied().collect();
    assert!(difference.is_empty(), "only in one of the two: {difference:?}");
}
