//! The house rules that no compiler knows: who may import whom, what stands where, and that the pages about the project
//! are true.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::harness::{root, skipped};

/// Each module with the modules that it may name (`crate::X`). Everybody may use `crate::BoxFuture` and `crate::VERSION`.
const LAYERS: &[(&str, &[&str])] = &[
    ("click", &[]),
    ("clock", &[]),
    ("failpoint", &[]),
    ("config", &["click", "clock"]),
    ("telemetry", &["click", "clock", "config"]),
    ("segment", &["click", "clock", "config"]),
    ("catalog", &["click", "clock", "config", "telemetry", "segment"]),
    ("handoff", &["click", "clock", "failpoint", "config", "telemetry", "segment"]),
    ("edge", &["click", "clock", "failpoint", "config", "telemetry", "segment", "catalog", "handoff"]),
    ("pipeline", &["click", "clock", "failpoint", "config", "telemetry", "segment", "catalog", "handoff"]),
    ("backend", &["click", "clock", "config", "telemetry", "segment", "catalog", "handoff", "pipeline"]),
    ("control", &["click", "clock", "config", "telemetry", "segment", "catalog", "handoff", "pipeline"]),
    ("testing", &["click", "clock", "config", "telemetry", "segment", "catalog", "handoff", "pipeline"]),
    (
        "app",
        &[
            "click",
            "clock",
            "config",
            "telemetry",
            "segment",
            "catalog",
            "handoff",
            "edge",
            "pipeline",
            "backend",
            "control",
        ],
    ),
    ("cli", &["click", "clock", "config", "telemetry", "catalog", "pipeline", "control", "app"]),
];

const ROOT_FOLDERS: &[&str] = &["src", "config", "schema", "loadtest", "benches", "tests", ".cargo", ".ci", ".github"];
const ROOT_FILES: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "docker-compose.yml",
    "Dockerfile",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "SECURITY.md",
    "CHANGELOG.md",
    ".gitignore",
    ".dockerignore",
    ".rustfmt.toml",
];

/// Names that say nothing.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "manager", "base", "impl"];
/// Crates of databases and cache servers: nothing before the 302, nor the pure core, can name them.
const FAR_CRATES: &[&str] = &["redis", "deadpool_redis", "clickhouse", "rusqlite", "axum", "tonic", "prost"];
const FILE_LINES_MAX: usize = 420;

fn sources() -> Vec<(String, PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let src = root().join("src");
    let mut files = Vec::new();
    walk(&src, &mut files);
    files
        .into_iter()
        .map(|path| {
            let inside = path.strip_prefix(&src).expect("under src");
            let first = inside.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).expect("text");
            (first.trim_end_matches(".rs").to_owned(), path, text)
        })
        .collect()
}

/// The code of a file: without comments, and without its unit tests, which may reach further.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The words that follow `prefix` in a text.
fn words_behind<'t>(text: &'t str, prefix: &str) -> BTreeSet<&'t str> {
    let word = |rest: &'t str| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
    text.match_indices(prefix).map(|(at, _)| word(&text[at + prefix.len()..])).filter(|w| !w.is_empty()).collect()
}

#[test]
fn a_module_names_only_what_its_layer_allows() {
    let layers: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    let mut broken = Vec::new();
    for (module, path, text) in sources() {
        if module == "lib" || module == "main" {
            continue;
        }
        let allowed =
            layers.get(module.as_str()).unwrap_or_else(|| panic!("{module} has no layer: add it, or do without"));
        // The unit tests of a folder, in a file of their own, may reach as far as those in the file itself.
        let inside = path.to_string_lossy();
        if inside.ends_with("tests.rs") || inside.contains("/tests/") {
            continue;
        }
        for named in words_behind(&code(&text), "crate::") {
            if named != module && layers.contains_key(named) && !allowed.contains(&named) {
                broken.push(format!("{} names crate::{named}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn nothing_before_the_302_can_name_a_database() {
    let mut broken = Vec::new();
    for (module, path, text) in sources() {
        let text = code(&text);
        // As above: tests in a file of their own may write to the database behind its back.
        if path.to_string_lossy().ends_with("tests.rs") {
            continue;
        }
        if !matches!(module.as_str(), "backend" | "control" | "app" | "cli") {
            let far = FAR_CRATES.iter().filter(|name| text.contains(&format!("{name}::")));
            broken.extend(far.map(|name| format!("{} names {name}", path.display())));
        }
        let blocking =
            ["async fn", "std::fs", "std::net::Tcp", "std::thread", "tokio::", "Instant::", "SystemTime", "tracing::"];
        if module == "click" {
            let found = blocking.iter().filter(|name| text.contains(**name));
            broken.extend(found.map(|name| format!("{} is not pure: {name}", path.display())));
        }
        let starts_threads = path.ends_with("edge/mod.rs");
        if module == "edge" && !starts_threads || module == "handoff" && path.ends_with("intake.rs") {
            let locks = ["Mutex", "RwLock", "format!(", "println!", "info_span", "instrument", "block_on(async"];
            let found = locks.iter().filter(|name| text.contains(**name));
            broken.extend(found.map(|name| format!("{} has {name} on a request thread", path.display())));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn files_say_what_they_are_and_stay_small() {
    let mut broken = Vec::new();
    for (_, path, text) in sources() {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if EMPTY_NAMES.contains(&name.as_str()) {
            broken.push(format!("{}: a name that says nothing", path.display()));
        }
        if !text.starts_with("//!") {
            broken.push(format!("{}: does not open with what it is", path.display()));
        }
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            broken.push(format!("{}: {lines} lines, {FILE_LINES_MAX} at most", path.display()));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_root_holds_what_it_should_and_nothing_else() {
    // Asked of git where there is one: a developer may have folders of his own.
    let git = std::process::Command::new("git").args(["ls-files"]).current_dir(root()).output();
    let Some(listed) = git.ok().filter(|o| o.status.success() && !o.stdout.is_empty()) else {
        return skipped("the_root_holds_what_it_should_and_nothing_else", "this is no git checkout");
    };
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let unknown: BTreeSet<_> = listed
        .lines()
        .filter_map(|path| match path.split_once('/') {
            Some((folder, _)) => (!ROOT_FOLDERS.contains(&folder)).then_some(folder),
            None => (!ROOT_FILES.contains(&path)).then_some(path),
        })
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn every_dependency_has_its_reason() {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let section = text.split("[dependencies]\n").nth(1).and_then(|t| t.split("\n[").next()).expect("dependencies");
    let (mut reasoned, mut missing) = (false, Vec::new());
    for line in section.lines() {
        match line {
            l if l.starts_with('#') => reasoned = true,
            "" => reasoned = false,
            l if !reasoned => missing.push(l.to_owned()),
            // A reason may cover what stands right under it; serde_json goes with serde, foldhash with its map.
            _ => {}
        }
    }
    // The first ones, serde and serde_json, need none.
    missing.retain(|line| !line.starts_with("serde"));
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn what_people_build_has_no_parts_for_tests() {
    let read = |file: &str| std::fs::read_to_string(root().join(file)).expect("text");
    let manifest = read("Cargo.toml");
    let features = manifest.split("[features]\n").nth(1).and_then(|t| t.split("\n[").next()).expect("features");
    assert!(features.contains("failpoints = ") && !features.contains("default = "), "{features}");
    let aliases = read(".cargo/config.toml");
    let dist = aliases.lines().find(|line| line.starts_with("dist = ")).expect("the alias of packages");
    assert!(!dist.contains("features"), "{dist}");
}

#[test]
fn every_requirement_has_a_state_and_every_named_test_exists() {
    let page = std::fs::read_to_string(root().join("config/requirements.md")).expect("the page");
    let mut ids = BTreeSet::new();
    let mut broken = Vec::new();
    let tests = test_names();
    for row in page.lines().filter(|l| l.starts_with("| R")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [id, _, state] = cells[..] else {
            broken.push(format!("{row}: not three cells"));
            continue;
        };
        if !ids.insert(id.to_owned()) {
            broken.push(format!("{id}: twice"));
        }
        for shown in state.split("; ") {
            if shown == "not yet" || shown.starts_with("not yet: ") || shown.starts_with("out of scope: ") {
                continue;
            }
            let names =
                |names: &str| names.split(',').map(|n| n.trim().trim_matches('`').to_owned()).collect::<Vec<_>>();
            if let Some(tested) = shown.strip_prefix("tested by ") {
                let unknown = names(tested).into_iter().filter(|name| !tests.contains(name));
                broken.extend(unknown.map(|name| format!("{id}: there is no test {name}")));
            } else if let Some(measured) = shown.strip_prefix("measured by ") {
                let unknown = names(measured).into_iter().filter(|name| !root().join(name).is_file());
                broken.extend(unknown.map(|name| format!("{id}: there is no file {name}")));
            } else {
                broken.push(format!("{id}: unknown state {state}"));
            }
        }
    }
    let expected: BTreeSet<_> = requirement_ids().collect();
    let missing: Vec<_> = expected.symmetric_difference(&ids).collect();
    assert!(broken.is_empty() && missing.is_empty(), "{broken:#?}, not in one of the two lists: {missing:?}");
}

/// R1 to R99, with the gaps that the numbering has.
fn requirement_ids() -> impl Iterator<Item = String> {
    let ranges = [1..=18, 20..=22, 30..=30, 40..=53, 60..=67, 70..=95, 97..=99];
    ranges.into_iter().flatten().map(|n: u32| format!("R{n}"))
}

/// The names of all test functions, unit tests too.
fn test_names() -> BTreeSet<String> {
    let mut texts: Vec<String> = sources().into_iter().map(|(_, _, text)| text).collect();
    for folder in ["tests/it", "tests/sim"] {
        for entry in std::fs::read_dir(root().join(folder)).expect("the tests") {
            texts.push(std::fs::read_to_string(entry.expect("an entry").path()).expect("text"));
        }
    }
    texts.iter().flat_map(|text| words_behind(text, "fn ").into_iter().map(str::to_owned)).collect()
}
