//! The README is true: every section of the configuration, every metric and every command is in it, and every path that
//! it names exists.

use crate::harness::{Trellis, root};

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).expect("README.md")
}

#[test]
fn the_readme_names_every_section_of_the_configuration() {
    let readme = readme();
    let defaults = std::fs::read_to_string(root().join("config/default.toml")).expect("the defaults");
    let missing: Vec<_> = defaults
        .lines()
        .filter(|l| l.starts_with('['))
        .filter(|section| !readme.contains(&format!("`{section}`")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_readme_names_every_metric_and_no_other() {
    let readme = readme();
    let trellis = Trellis::start();
    let text = trellis.api_raw("GET", "/metrics", &[], b"");
    let text = String::from_utf8_lossy(&text.body).into_owned();
    let exported: Vec<_> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let ours: Vec<_> = exported.iter().filter(|name| name.starts_with("trellis_")).collect();
    assert!(ours.len() > 20, "{ours:?}");
    let missing: Vec<_> = ours.iter().filter(|name| !readme.contains(&format!("`{name}"))).collect();
    assert!(missing.is_empty(), "not in the README: {missing:?}");
    let named = readme.split("`trellis_").skip(1).filter_map(|rest| rest.split(['`', '{']).next());
    // What others say is there only while they say it, and while they are configured.
    let figures = trellis::telemetry::figures::names();
    let is_known = |name: &str| exported.contains(&name) || figures.contains(name);
    let unknown: Vec<_> = named.map(|n| format!("trellis_{n}")).filter(|n| !is_known(n)).collect();
    assert!(unknown.is_empty(), "not exported: {unknown:?}");
}

#[test]
fn the_readme_names_every_command() {
    let readme = readme();
    let help = std::process::Command::new(crate::harness::BINARY).arg("--help").output().expect("help");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let commands: Vec<_> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.len() >= 6, "{commands:?}");
    let missing: Vec<_> = commands.iter().filter(|name| !readme.contains(&format!("`trellis {name}"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_readme_names_every_macro() {
    let readme = readme();
    let macros = trellis::click::template::MACROS.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let macros: Vec<_> = macros.collect();
    assert!(macros.len() > 20, "{macros:?}");
    let missing: Vec<_> = macros.iter().filter(|name| !readme.contains(&format!("`{{{name}}}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_path_in_the_map_of_the_tree_exists() {
    let readme = readme();
    let map = readme.split("## The tree").nth(1).and_then(|t| t.split("\n## ").next()).expect("the map");
    let paths: Vec<_> = map.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).collect();
    assert!(paths.len() > 10, "{paths:?}");
    let missing: Vec<_> = paths.iter().filter(|path| !root().join(path).exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_readme_names_every_class_and_every_reason() {
    let readme = readme();
    let classes = trellis::click::Class::ALL.into_iter().map(trellis::click::Class::name);
    let reasons = trellis::click::Reasons::ALL.into_iter().map(|(_, name)| name);
    let missing: Vec<_> = classes.chain(reasons).filter(|name| !readme.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
