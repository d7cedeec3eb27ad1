//! The command line on the real binary: with a node and without one, two at once, exit codes, pipes.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{BINARY, Trellis, eventually};

/// The binary on this folder, with free ports and nothing from the developer's environment.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.env_clear().stdin(Stdio::null()).arg("--data-dir").arg(folder);
    command.args(["--set", "edge.listen=127.0.0.1:0", "--set", "control.listen=127.0.0.1:0"]).args(arguments);
    command
}

pub(crate) fn run(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().expect("the binary runs")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts success without a word on standard error, and gives what was printed.
#[track_caller]
pub(crate) fn good(output: &Output) -> String {
    assert_eq!((output.status.code(), errors(output).as_str()), (Some(0), ""), "{}", out(output));
    out(output)
}

/// Asserts this exit code and nothing on standard output, and gives the error.
#[track_caller]
pub(crate) fn bad(output: &Output, code: i32) -> String {
    assert_eq!((output.status.code(), out(output).as_str()), (Some(code), ""), "{}", errors(output));
    errors(output)
}

fn interrupt(child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id")).expect("not zero");
    kill_process(pid, Signal::INT).expect("the process is there");
}

#[test]
fn commands_speak_to_the_running_node() {
    let trellis = Trellis::start();
    let added =
        trellis.cli(&["link", "add", "https://a.example/?c={click_id}", "--slug", "spring", "--campaign", "mail"]);
    let public = format!("http://{}/spring", trellis.edge());
    assert_eq!(good(&added), format!("{public} -> https://a.example/?c={{click_id}}\n"));
    assert_eq!(trellis.get("/spring").status, 302, "live at once");
    let more = ["--status", "301", "--query", "forward", "--tag", "x", "--tag", "y", "--external-id", "e"];
    good(&trellis.cli(&[&["link", "add", "https://b.example/", "--slug", "b"][..], &more].concat()));
    let link = trellis.api("GET", "/api/v1/links/b", None).json();
    assert_eq!((&link["status"], &link["query"]), (&301.into(), &"forward".into()));
    assert_eq!((&link["tags"], &link["external_id"]), (&serde_json::json!(["x", "y"]), &"e".into()));
    assert_eq!(
        good(&trellis.cli(&["link", "ls"])),
        "b\t301\t-\thttps://b.example/\nspring\t302\tmail\thttps://a.example/?c={click_id}\n"
    );
    assert_eq!(good(&trellis.cli(&["link", "rm", "spring"])), "removed spring\n");
    assert_eq!(trellis.get("/spring").status, 404);
    let removed = trellis.cli(&["link", "rm", "spring", "b", "a/b"]);
    assert_eq!(
        (removed.status.code(), out(&removed).as_str()),
        (Some(1), "removed b\n"),
        "one does not stop the others"
    );
    assert_eq!(errors(&removed), "trellis: spring: there is no such link\ntrellis: a/b: there is no such link\n");
}

#[test]
fn a_list_longer_than_a_page_is_whole() {
    let trellis = Trellis::start();
    for n in 0..1003 {
        trellis.link(&format!("s{n:04}"), "https://a.example/");
    }
    let listed = good(&trellis.cli(&["link", "ls", "--json"]));
    let slugs: Vec<String> = listed
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["slug"].as_str().expect("a slug").to_owned())
        .collect();
    assert_eq!(slugs, (0..1003).map(|n| format!("s{n:04}")).collect::<Vec<_>>());
    assert_eq!(good(&trellis.cli(&["link", "ls", "--limit", "1001"])).lines().count(), 1001);
    assert_eq!(good(&trellis.cli(&["link", "ls", "--limit", "2"])).lines().count(), 2);
}

#[test]
fn a_refused_link_is_told_field_by_field_with_exit_code_1() {
    let trellis = Trellis::start();
    let error = bad(&trellis.cli(&["link", "add", "ftp://a.example/", "--slug", "in"]), 1);
    let lines: Vec<_> = error.lines().collect();
    assert!(lines[0].starts_with("trellis: fields of the body are wrong"), "{error}");
    assert!(lines[1].starts_with("  slug: ") && lines[2].starts_with("  url: ") && lines.len() == 3, "{error}");
    assert_eq!(good(&trellis.cli(&["link", "ls"])), "");
}

#[test]
fn without_a_node_commands_open_the_folder_and_the_next_node_serves_what_they_made() {
    let folder = std::sync::Arc::new(tempfile::tempdir().expect("a folder"));
    let added = run(folder.path(), &["link", "add", "https://a.example/", "--slug", "early"]);
    assert_eq!(good(&added), "early -> https://a.example/\n", "no address is known yet");
    assert_eq!(good(&run(folder.path(), &["link", "ls"])), "early\t302\t-\thttps://a.example/\n");
    assert_eq!(good(&run(folder.path(), &["clicks", "tail"])), "");
    let error = bad(&run(folder.path(), &["clicks", "tail", "--follow"]), 1);
    assert!(error.contains("no node is running"), "{error}");
    let trellis = Trellis::start_in(folder, &[]);
    assert_eq!(trellis.get("/early").header("location"), Some("https://a.example/"));
}

#[test]
fn two_commands_at_once_without_a_node_wait_for_each_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let commands: Vec<_> = (0..4)
        .map(|n| {
            let slug = format!("s{n}");
            let mut command = command(folder.path(), &["link", "add", "https://a.example/", "--slug", &slug]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
        })
        .collect();
    for command in commands {
        good(&command.wait_with_output().expect("an end"));
    }
    assert_eq!(good(&run(folder.path(), &["link", "ls"])).lines().count(), 4);
}

#[test]
fn commands_work_after_a_node_was_killed() {
    let mut trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    trellis.kill();
    assert_eq!(good(&trellis.cli(&["link", "ls"])), "a\t302\t-\thttps://a.example/\n");
}

#[test]
fn a_folder_takes_one_node_at_a_time() {
    let trellis = Trellis::start();
    let error = bad(&trellis.cli(&["serve"]), 1);
    assert!(error.contains("in use"), "{error}");
    assert_eq!(trellis.api_raw("GET", "/health/ready", &[], b"").status, 200, "the first one goes on");
}

#[test]
fn a_wrong_token_is_told_and_not_shown() {
    let trellis = Trellis::start();
    let arguments = ["--set", "control.token=not-the-right-token-at-all", "link", "ls"];
    let error = bad(&trellis.cli(&arguments), 1);
    assert!(error.contains("token") && !error.contains("not-the-right"), "{error}");
}

#[test]
fn clicks_are_shown_oldest_first_and_as_json() {
    let trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    trellis.link("b", "https://b.example/");
    // With a control character in it, which a terminal would obey.
    let ids: Vec<String> = ["/a?click_id=1", "/b?click_id=2", "/a?click_id=3&x=%1b%5b2J"]
        .iter()
        .map(|path| {
            let answer = trellis.edge_request("GET", path, &[("User-Agent", "Mozilla/5.0 \u{9b}2J Firefox/130.0")]);
            let id = answer.header("x-click-id").expect("an id").to_owned();
            // One a millisecond, so that ids are in order.
            let mut next = id.clone();
            eventually("the next millisecond", || {
                next = trellis.get("/b?click_id=0").header("x-click-id").expect("an id").to_owned();
                next[..13] != id[..13]
            });
            id
        })
        .collect();
    eventually("the clicks are stored", || trellis.count("link=a")["total"] == 2);
    let shown = good(&trellis.cli(&["clicks", "tail", "--link", "a"]));
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!((lines.len(), lines[0][1], lines[1][1]), (2, ids[0].as_str(), ids[2].as_str()));
    assert_eq!((lines[0].len(), lines[0][2], lines[0][9]), (10, "a", "https://a.example/"));
    assert!(shown.chars().all(|c| !c.is_control() || matches!(c, '\t' | '\n')), "{shown:?}");
    let shown = good(&trellis.cli(&["clicks", "tail", "-n", "1", "--link", "a", "--json"]));
    let click: Value = serde_json::from_str(&shown).expect("one line of JSON");
    assert_eq!((&click["click_id"], &click["query"]["x"]), (&ids[2].as_str().into(), &"\u{1b}[2J".into()));
    assert_eq!(good(&trellis.cli(&["clicks", "tail", "-n", "0"])), "");
}

#[test]
fn following_shows_each_new_click_once_and_ends_well_on_ctrl_c() {
    let trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    let mut command = command(trellis.data_dir(), &["clicks", "tail", "--follow", "-n", "1"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut ids: Vec<String> = Vec::new();
    for n in 0..3 {
        let id = trellis.get(&format!("/a?click_id={n}")).header("x-click-id").expect("an id").to_owned();
        let line = lines.next().expect("a line").expect("text");
        assert_eq!(line.split('\t').nth(1), Some(id.as_str()), "{ids:?}");
        ids.push(id);
    }
    interrupt(&child);
    assert!(lines.next().is_none(), "nothing twice");
    good(&child.wait_with_output().expect("an end"));
}

#[test]
fn a_closed_pipe_ends_a_command_well() {
    let trellis = Trellis::start();
    // More than the 64 KiB that a pipe takes.
    let url = format!("https://a.example/{}", "x".repeat(4000));
    for n in 0..50 {
        trellis.link(&format!("s{n}"), &url);
    }
    let mut command = command(trellis.data_dir(), &["link", "ls"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    drop(child.stdout.take());
    good(&child.wait_with_output().expect("an end"));

    let mut command = self::command(trellis.data_dir(), &["clicks", "tail", "--follow"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    trellis.get("/s1?click_id=1");
    lines.next().expect("a line").expect("text");
    drop(lines);
    trellis.get("/s1?click_id=2");
    good(&child.wait_with_output().expect("an end"));
}

#[test]
fn healthcheck_says_0_while_a_node_is_ready_and_1_otherwise() {
    let mut trellis = Trellis::start_with(&[("shutdown.drain_delay", "10m")]);
    trellis.expect_log("stopping at once");
    assert_eq!(good(&trellis.cli(&["healthcheck"])), "ready\n");
    let alive = format!("http://{}/health", trellis.control());
    let ready = format!("{alive}/ready");
    for arguments in [&["healthcheck", "--url", &alive][..], &["healthcheck", "--url", &ready]] {
        good(&trellis.cli(arguments));
    }
    let listen = format!("control.listen={}", trellis.control());
    let elsewhere = tempfile::tempdir().expect("a folder");
    let with_port = ["--set", listen.as_str(), "healthcheck"];
    good(&run(elsewhere.path(), &with_port));
    let wrong = format!("http://{}/api/v1/links", trellis.control());
    assert!(bad(&trellis.cli(&["healthcheck", "--url", &wrong]), 1).contains("401"));
    trellis.signal(Signal::TERM);
    eventually("it drains", || trellis.api_raw("GET", "/health/ready", &[], b"").status == 503);
    assert!(bad(&trellis.cli(&["healthcheck"]), 1).contains("not ready: draining"));
    trellis.signal(Signal::TERM);
    assert_eq!(trellis.wait().code(), Some(0));
    assert!(bad(&trellis.cli(&["healthcheck"]), 1).contains("no node is running"));
    assert!(bad(&trellis.cli(&["healthcheck", "--url", &ready]), 1).contains("cannot be reached"));
    bad(&run(elsewhere.path(), &with_port), 1);
    bad(&trellis.cli(&["healthcheck", "--url", "ftp://a.example/"]), 64);
}

#[test]
fn migrate_makes_the_tables_once() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(
        good(&run(folder.path(), &["migrate"])),
        "applied 001_clicks\napplied 002_expiry\napplied 003_privacy\napplied 004_domain\napplied 005_place\napplied 006_org\n"
    );
    assert_eq!(good(&run(folder.path(), &["migrate"])), "nothing to do: the tables are up to date\n");
}

#[test]
fn exit_codes_tell_bad_usage_from_failure() {
    let folder = tempfile::tempdir().expect("a folder");
    let never_made = folder.path().join("never-made");
    for arguments in
        [&["--help"][..], &["--version"], &["link", "--help"], &["link", "add", "--help"], &["help", "clicks"]]
    {
        assert!(!good(&run(&never_made, arguments)).is_empty(), "{arguments:?}");
    }
    for arguments in [
        &["nonsense"][..],
        &["explain"],
        &["link"],
        &["clicks"],
        &["link", "add"],
        &["link", "rm"],
        &["link", "rm", ""],
        &["--set", "edge.threads=many", "link", "ls", "--set", "log.level=debug"],
        &["link", "ls", "--limit", "0"],
        &["link", "add", "https://a.example/", "--status", "teapot"],
        &["link", "add", "https://a.example/", "--query", "keep"],
        &["clicks", "tail", "-n", "-1"],
        &["--set", "novalue", "check"],
        &["--set", "edge.nonsense=1", "check"],
        &["--set", "edge.nonsense=1", "link", "ls"],
        &["--set", "edge.threads=many", "serve"],
        &["--config", "/does/not/exist.toml", "link", "ls"],
    ] {
        assert!(!bad(&run(&never_made, arguments), 64).is_empty(), "{arguments:?}");
    }
    assert_eq!(good(&run(&never_made, &["check"])), "configuration is good\n");
    assert!(!never_made.exists(), "none of these makes anything");
    // A file where the folder should be.
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let error = bad(&run(&file, &["link", "ls"]), 1);
    assert!(error.starts_with("trellis: ") && error.contains("file"), "{error}");
}
