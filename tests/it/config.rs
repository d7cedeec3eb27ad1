//! The configuration, as people meet it: the real program, its exit code and what it says. Never a network, never this
//! process's own environment: each run begins with an empty one.

use std::path::Path;
use std::process::{Command, Output};

/// Bad usage or configuration.
const EXIT_CONFIG: i32 = 64;

/// Runs the program in `folder` to its end.
fn trellis(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trellis"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .expect("the program starts")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder with `my.toml` in it.
fn folder_with(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("my.toml"), text).expect("a file in it");
    folder
}

#[track_caller]
fn assert_refused(output: &Output, lines: &[&str]) {
    let errors = errors(output);
    assert_eq!(output.status.code(), Some(EXIT_CONFIG), "{errors}");
    for line in lines {
        assert!(errors.lines().any(|told| told == *line), "no line\n{line}\nin\n{errors}");
    }
}

const FIVE_MISTAKES: &str = r#"data_dir = "never-made"

[edge]
listen = "nonsense"
conections_max = 10
uri_bytes_max = "1MiB"

[batch]
rows_max = "many"

[privacy]
ip = "hash"
"#;

const FIVE_LINES: [&str; 5] = [
    r#"my.toml:4: edge.listen = "nonsense": is not an address such as 0.0.0.0:8080"#,
    r#"my.toml:5: edge.conections_max: is not a setting; did you mean edge.connections_max?"#,
    r#"my.toml:6: edge.uri_bytes_max = "1MiB": must be 64B to 64KiB"#,
    r#"my.toml:9: batch.rows_max = "many": must be a whole number, 1 to 1000000, without quotes"#,
    r#"my.toml:12: privacy.ip = "hash": must be "truncate" or "none" or "hmac""#,
];

#[test]
fn check_tells_five_mistakes_at_once_with_key_value_file_and_line() {
    let folder = folder_with(FIVE_MISTAKES);
    assert_refused(&trellis(folder.path(), &["check", "--config", "my.toml"], &[]), &FIVE_LINES);
    let named_by_environment = trellis(folder.path(), &["check"], &[("TRELLIS_CONFIG", "my.toml")]);
    assert_refused(&named_by_environment, &FIVE_LINES);
}

#[test]
fn check_accepts_a_good_file_and_no_file_and_makes_nothing() {
    let folder = folder_with("[edge]\nlisten = \"127.0.0.1:0\"\n[log]\nlevel = \"warn\"\n");
    for arguments in [&["check", "--config", "my.toml"][..], &["check"], &["check", "--set", "log.level=debug"]] {
        let output = trellis(folder.path(), arguments, &[("TRELLIS_TEST_REDIS_URL", "no setting")]);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", errors(&output));
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("the folder").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["my.toml"]);
}

#[test]
fn a_mistyped_variable_and_a_mistyped_flag_are_refused() {
    let folder = folder_with("");
    let environment = [("TRELLIS_EDGE_LISTEN", "127.0.0.1:0"), ("TRELLIS_EDGE__THREADS", "four")];
    let lines = [
        "TRELLIS_EDGE_LISTEN: is not a variable of Trellis; did you mean TRELLIS_EDGE__LISTEN?",
        r#"TRELLIS_EDGE__THREADS: edge.threads = "four": must be a whole number, 0 to 1024, without quotes"#,
        "command line: log.levle: is not a setting; did you mean log.level?",
    ];
    assert_refused(&trellis(folder.path(), &["check", "--set", "log.levle=info"], &environment), &lines);
}

#[test]
fn a_flag_beats_the_environment_and_the_environment_beats_the_file() {
    let folder = folder_with("log.level = \"loud\"\n");
    let run = |arguments: &[&str], level: &str| {
        trellis(
            folder.path(),
            &[&["check", "--config", "my.toml"], arguments].concat(),
            &[("TRELLIS_LOG__LEVEL", level)],
        )
    };
    assert_eq!(run(&[], "info").status.code(), Some(0), "the file's mistake is covered");
    assert_eq!(run(&["--set", "log.level=info"], "shrill").status.code(), Some(0), "so is the environment's");
    let levels = r#"must be "error" or "warn" or "info" or "debug" or "trace""#;
    assert_refused(&run(&[], "shrill"), &[&format!(r#"TRELLIS_LOG__LEVEL: log.level = "shrill": {levels}"#)]);
}

#[test]
fn no_secret_is_printed_when_it_is_wrong() {
    let folder = folder_with("redis.url = \"hunter2\"\nstore.clickhouse.url = \"http://me:hunter2@store:8123\"\n");
    let environment = [("TRELLIS_CONTROL__TOKEN", "hunter2"), ("TRELLIS_DEDUP__SECRET_FILE", "hunter2")];
    let output = trellis(folder.path(), &["check", "--config", "my.toml"], &environment);
    assert_refused(&output, &["my.toml:1: redis.url = ***: is not a URL such as redis://127.0.0.1:6379"]);
    assert_eq!(errors(&output).matches("***").count(), 3, "{}", errors(&output));
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    assert!(!String::from_utf8_lossy(&all).contains("hunter2"), "{}", errors(&output));
}

#[test]
fn serve_with_a_bad_file_tells_the_same_and_starts_nothing() {
    let folder = folder_with(FIVE_MISTAKES);
    assert_refused(&trellis(folder.path(), &["serve", "--config", "my.toml"], &[]), &FIVE_LINES);
    assert!(!folder.path().join("never-made").exists() && !folder.path().join("data").exists());
}

#[test]
fn every_setting_that_the_chaos_script_gives_exists() {
    let script = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chaos")).expect("the script");
    let keys = script.split("--set=").skip(1).filter_map(|rest| rest.split('=').next());
    let flags: Vec<_> = keys.flat_map(|key| ["--set".to_owned(), format!("{key}=?")]).collect();
    assert!(flags.len() > 20, "{flags:?}");
    let folder = folder_with("");
    let words: Vec<_> = ["check"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    let output = trellis(folder.path(), &words, &[]);
    assert!(errors(&output).contains("edge.threads = ") && !errors(&output).contains("is not a setting"), "{output:?}");
}
