//! Secrets are shown nowhere: a distinctive text is planted in every secret setting, and looked for in everything that the
//! program says.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use trellis::config::{Config, SECRETS, Sources};

use crate::harness::{BINARY, Trellis, eventually};

/// The planted word; each secret has it.
const PLANTED: &str = "pl4nted";

/// A good value for each secret setting. A new one needs a value here.
fn planted(key: &str) -> String {
    match key {
        "control.token"
        | "dedup.secret"
        | "privacy.ip_secret"
        | "store.clickhouse.password"
        | "warden.grpc.token"
        | "warden.pepper"
        | "warden.serve.token" => {
            format!("{PLANTED}-{}-0123456789", key.replace('.', "-"))
        }
        "redis.url" => format!("redis://me:{PLANTED}-redis@127.0.0.1:1/0"),
        _ => panic!("{key} is a secret setting; plant a value for it here"),
    }
}

fn settings() -> Vec<(&'static str, String)> {
    SECRETS.iter().map(|key| (*key, planted(key))).collect()
}

fn assert_silent(place: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().find(|line| line.contains(PLANTED));
    assert!(line.is_none(), "{place} shows a secret: {line:?}");
}

fn variable(key: &str) -> String {
    format!("TRELLIS_{}", key.to_uppercase().replace('.', "__"))
}

/// Runs a command with the secrets in the environment, where no list of processes shows them.
#[allow(clippy::disallowed_methods, reason = "the program under test gets these variables and no others of ours")]
fn run(folder: &Path, arguments: &[&str], env: &[(String, String)]) -> Output {
    let mut command = Command::new(BINARY);
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("TRELLIS_")) {
        command.env_remove(key);
    }
    command.envs(env.iter().map(|(k, v)| (k, v))).arg("--data-dir").arg(folder).args(arguments);
    command.stdin(Stdio::null()).output().expect("the binary runs")
}

#[test]
fn every_secret_setting_has_a_planted_value_and_debug_output_and_panics_show_none() {
    let flags = settings().into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let sources = Sources { flags, ..Sources::default() };
    let config = Config::load(&sources).expect("a good configuration");
    let shown = format!("{config:?} {config:#?} {sources:?} {sources:#?}");
    assert_silent("Debug", shown.as_bytes());
    // A setting of the type Secret that is missing in SECRETS has no planted value, and shows as empty.
    let compact = format!("{config:?}");
    assert_eq!((compact.matches("***").count(), compact.matches("(empty)").count()), (SECRETS.len(), 0), "{compact}");
    assert!(config.control.token.expose().contains(PLANTED), "it was planted");
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let panicked =
        std::panic::catch_unwind(|| panic!("{config:?} {}", config.privacy.ip_secret)).expect_err("it panics");
    std::panic::set_hook(hook);
    assert_silent("a panic", panicked.downcast_ref::<String>().expect("a text").as_bytes());
}

#[test]
fn a_node_that_logs_everything_shows_no_secret_whatever_goes_wrong() {
    let secrets = settings();
    let mut set: Vec<_> = secrets.iter().map(|(key, value)| (*key, value.as_str())).collect();
    // Redis is away, and the addresses are hashed.
    set.extend([("log.level", "trace"), ("dedup.backend", "redis"), ("privacy.ip", "hmac")]);
    let mut node = Trellis::start_with(&set);
    for text in ["dedup", "Redis", "redis", "stopping", "breaker"] {
        node.expect_log(text);
    }
    let bearer = format!("Bearer {}", planted("control.token"));
    let json = ("Content-Type", "application/json");
    let call = |method, path, headers: &[(&str, &str)], body: &str| {
        let answer = node.api_raw(method, path, headers, body.as_bytes());
        assert_silent(path, &answer.body);
        assert_silent(path, format!("{answer:?}").as_bytes());
        answer.status
    };
    let auth = ("Authorization", bearer.as_str());
    let link = r#"{"slug":"a","url":"https://a.example/"}"#;
    assert_eq!(call("POST", "/api/v1/links", &[auth, json], link), 201);
    assert_eq!(call("POST", "/api/v1/links", &[auth, json], "{"), 400);
    let wrong = format!("{bearer}x");
    assert_eq!(call("GET", "/api/v1/clicks", &[("Authorization", &wrong)], ""), 401);
    assert_eq!(node.get("/a?click_id=1").status, 302);
    eventually("it is stored", || {
        let answer = node.api_raw("GET", "/api/v1/clicks/count", &[auth], b"");
        String::from_utf8_lossy(&answer.body).contains("\"total\":1")
    });
    for path in ["/metrics", "/health", "/health/ready", "/api/v1/clicks", "/api/v1/ledger", "/api/v1/dead-letters"] {
        assert_eq!(call("GET", path, &[auth], ""), 200, "{path}");
    }
    node.stop();
    node.logged(1, "Redis gives no labels");
    let log = node.log().join("\n");
    assert_silent("the log", log.as_bytes());
}

#[test]
fn no_command_and_no_complaint_about_the_configuration_shows_a_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let env: Vec<_> = settings().into_iter().map(|(key, value)| (variable(key), value)).collect();
    let silent = |arguments: &[&str], env: &[(String, String)], code: i32| {
        let output = run(folder.path(), arguments, env);
        assert_silent(&format!("{arguments:?} on standard output"), &output.stdout);
        assert_silent(&format!("{arguments:?} on standard error"), &output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    silent(&["check"], &env, 0);
    silent(&["link", "ls"], &env, 0);
    silent(&["privacy", "hash", "203.0.113.9", "--set", "privacy.ip=hmac"], &env, 0);
    silent(&["link", "rm", "nobody"], &env, 1);
    // Each secret with something wrong about it, and each in a place where none belongs.
    for (key, _) in settings() {
        let bad = match key {
            "redis.url" => format!("http://me:{PLANTED}@host"),
            _ => format!("{PLANTED} \u{7}\u{e4}"),
        };
        let bad_env = [(variable(key), bad.clone())];
        silent(&["check"], &bad_env, 64);
        silent(&["check", "--set", &format!("{key}={bad}")], &[], 64);
        silent(&["check", "--set", &format!("{key}x={PLANTED}")], &[], 64);
        let file = folder.path().join("bad.toml");
        for text in
            [format!("{key} = [\"{PLANTED}\"]"), format!("{key} = {PLANTED}"), format!("{key}.x = \"{PLANTED}\"")]
        {
            std::fs::write(&file, text).expect("a file");
            silent(&["--config", file.to_str().expect("UTF-8"), "check"], &[], 64);
        }
    }
}
