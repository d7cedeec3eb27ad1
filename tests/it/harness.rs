//! One Trellis process for a test: started on free ports with a folder of its own, driven over sockets, and ended with
//! the test. A WARN or ERROR line that the test did not expect fails it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

pub(crate) use super::wire::{Response, connect, exchange, read_head, request};

/// How long a condition may take before a test gives up; generous, because these machines are shared.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_trellis");

/// A running node.
pub(crate) struct Trellis {
    child: Child,
    folder: Arc<tempfile::TempDir>,
    settings: Vec<(String, String)>,
    edge: SocketAddr,
    control: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    expected: Mutex<Vec<String>>,
    stopped: bool,
}

impl Trellis {
    /// With embedded parts.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these settings on top of port 0 and a folder of its own.
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        Self::start_in(folder, settings)
    }

    /// In this folder, which an earlier node may have left.
    pub(crate) fn start_in(folder: Arc<tempfile::TempDir>, settings: &[(&str, &str)]) -> Self {
        Self::launch(&[], folder, "serve", settings, &[])
    }

    /// `trellis warden` in this folder; what it calls its edge is where nodes ask it.
    pub(crate) fn start_warden(folder: Arc<tempfile::TempDir>, settings: &[(&str, &str)]) -> Self {
        Self::launch(&[], folder, "warden", settings, &[])
    }

    /// In this folder, to be killed at this failpoint (`intent:3`).
    #[cfg(feature = "failpoints")]
    pub(crate) fn start_armed(folder: Arc<tempfile::TempDir>, settings: &[(&str, &str)], failpoint: &str) -> Self {
        Self::launch(&[], folder, "serve", settings, &[("TRELLIS_TEST_FAILPOINT", Path::new(failpoint))])
    }

    /// With the faults that are put into this folder, and wall time ahead by what its file `clock` says.
    #[cfg(feature = "failpoints")]
    pub(crate) fn start_with_faults(settings: &[(&str, &str)], faults: &Path) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let variables = [("TRELLIS_TEST_FAULTS", faults), ("TRELLIS_TEST_CLOCK", &faults.join("clock"))];
        Self::launch(&[], folder, "serve", settings, &variables)
    }

    /// Called by another program: these words, and behind them the command line. It must become the node, as `exec` does.
    pub(crate) fn start_under(by: &[&str], folder: Arc<tempfile::TempDir>, settings: &[(&str, &str)]) -> Self {
        Self::launch(by, folder, "serve", settings, &[])
    }

    fn launch(
        by: &[&str],
        folder: Arc<tempfile::TempDir>,
        service: &str,
        settings: &[(&str, &str)],
        variables: &[(&str, &Path)],
    ) -> Self {
        let settings: Vec<_> = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut child = command_under(by, folder.path(), &settings)
            .envs(variables.iter().copied())
            .arg(service)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, stderr) = (Arc::clone(&log), child.stderr.take().expect("a pipe"));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().expect("no panic under the lock").push(line);
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (mut edge, mut control, mut line) = (None, None, String::new());
        while edge.is_none() || control.is_none() {
            line.clear();
            if stdout.read_line(&mut line).unwrap_or(0) == 0 {
                let _ = child.wait();
                panic!("trellis did not start:\n{}", log.lock().expect("no panic under the lock").join("\n"));
            }
            let address = |word| line.strip_prefix(word)?.trim().strip_prefix("http://")?.parse().ok();
            edge = edge.or_else(|| address("edge ")).or_else(|| address("warden "));
            control = control.or_else(|| address("control "));
        }
        // Whatever it prints from here on must not block it.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        Self {
            child,
            folder,
            settings,
            edge: edge.expect("found above"),
            control: control.expect("found above"),
            log,
            expected: Mutex::default(),
            stopped: false,
        }
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.folder.path()
    }

    /// The data folder as the running node sees it, which may have mounts of its own.
    pub(crate) fn data_dir_inside(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.pid(), self.data_dir().display()))
    }

    pub(crate) fn folder(&self) -> Arc<tempfile::TempDir> {
        Arc::clone(&self.folder)
    }

    pub(crate) fn edge(&self) -> SocketAddr {
        self.edge
    }

    pub(crate) fn control(&self) -> SocketAddr {
        self.control
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(self.data_dir_inside().join("control.token")).expect("the token file").trim().to_owned()
    }

    /// GET on the edge.
    pub(crate) fn get(&self, path: &str) -> Response {
        self.edge_request("GET", path, &[])
    }

    /// Any request on the edge.
    pub(crate) fn edge_request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        request(self.edge, method, path, headers, b"")
    }

    /// A request to the control API, with its token.
    pub(crate) fn api(&self, method: &str, path: &str, body: Option<&str>) -> Response {
        let token = format!("Bearer {}", self.token());
        let mut headers = vec![("Authorization", token.as_str())];
        if body.is_some() {
            headers.push(("Content-Type", "application/json"));
        }
        request(self.control, method, path, &headers, body.unwrap_or_default().as_bytes())
    }

    /// A request to the control side with nothing added.
    pub(crate) fn api_raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        request(self.control, method, path, headers, body)
    }

    /// Creates a link that must be accepted.
    pub(crate) fn link(&self, slug: &str, url: &str) {
        let body = serde_json::json!({ "slug": slug, "url": url }).to_string();
        let answer = self.api("POST", "/api/v1/links", Some(&body));
        assert_eq!(answer.status, 201, "{answer:?}");
    }

    /// `clicks/count` with this query string.
    pub(crate) fn count(&self, query: &str) -> serde_json::Value {
        let answer = self.api("GET", &format!("/api/v1/clicks/count?{query}"), None);
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        answer.json()
    }

    /// Waits until so many clicks are stored.
    pub(crate) fn wait_stored(&self, total: u64) {
        eventually(&format!("{total} clicks are stored"), || self.count("")["total"] == total);
    }

    /// The newest clicks.
    pub(crate) fn clicks(&self) -> Vec<serde_json::Value> {
        let answer = self.api("GET", "/api/v1/clicks?limit=1000", None);
        answer.json()["clicks"].as_array().expect("a list").clone()
    }

    /// The value of a metric line, named with its labels.
    pub(crate) fn metric(&self, line: &str) -> f64 {
        let text = self.api_raw("GET", "/metrics", &[], b"");
        let text = String::from_utf8_lossy(&text.body).into_owned();
        text.lines()
            .find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or_else(|| panic!("no metric {line} in\n{text}"))
    }

    /// Runs a command of the binary on this node's folder.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        command(self.folder.path(), &self.settings)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs")
    }

    /// The sums of the whole ledger, which must balance in every minute: asked of the node, or, when it has ended, of its
    /// folder.
    pub(crate) fn ledger(&self) -> serde_json::Value {
        let output = self.cli(&["ledger", "--from", "0", "--json"]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        let last = text(&output.stdout).lines().last().map(str::to_owned).expect("the total");
        serde_json::from_str::<serde_json::Value>(&last).expect("JSON")["total"].clone()
    }

    /// Nothing is on its way, every minute balances, and so many clicks are stored.
    pub(crate) fn assert_ledger_balances(&self, stored: usize) {
        let total = self.ledger();
        let known = (&total["accepted"], &total["stored"], &total["in_flight"]);
        assert_eq!(known, (&stored.into(), &stored.into(), &0.into()), "{total}");
    }

    /// Waits until the rollups of today say what is stored: a minute that was forgotten never would.
    pub(crate) fn assert_rolled_up(&self) {
        let now = trellis::clock::rfc_3339(trellis::clock::Clock::wall_ms(&trellis::clock::SystemClock::new()));
        let from = format!("{}T00:00:00Z", now.split('T').next().expect("a day"));
        eventually("the rollups say what is stored", || {
            let output = self.cli(&["verify", "--from", &from, "--to", &now, "--dry-run"]);
            self.metric("trellis_ledger_dirty") == 0.0 && output.stdout == b"rollups say what is stored\n"
        });
    }

    /// A WARN or ERROR line that holds this text is expected in this test.
    pub(crate) fn expect_log(&self, text: &str) {
        self.expected.lock().expect("no panic under the lock").push(text.to_owned());
    }

    /// Its log lines that hold this text, once there are so many: a line may come later than the answer to what it is about.
    pub(crate) fn logged(&self, lines: usize, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        eventually(&format!("{lines} log lines hold {text}"), || {
            found = self.log().into_iter().filter(|line| line.contains(text)).collect();
            found.len() >= lines
        });
        found
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().expect("no panic under the lock").clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a process id")).expect("not zero");
        kill_process(pid, signal).expect("the process is there");
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Waits for the end, however it comes.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("trellis has ended", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        self.stopped = true;
        status.expect("it has ended")
    }
}

impl Drop for Trellis {
    fn drop(&mut self) {
        if !self.stopped {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let log = self.log();
        let expected = self.expected.lock().map(|e| e.clone()).unwrap_or_default();
        let bad: Vec<_> = log
            .iter()
            .filter(|line| line.contains(" WARN ") || line.contains("ERROR ") || line.contains("panicked"))
            .filter(|line| !is_slow(line) && !expected.iter().any(|text| line.contains(text.as_str())))
            .collect();
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "trellis's log:\n{}", log.join("\n"));
        } else {
            assert!(bad.is_empty(), "unexpected log lines: {bad:#?}");
        }
    }
}

/// Whether it tells of a slow call to Redis, the store, the Warden or the catalog. On a machine that is shared a sync may take
/// 100 ms, so these lines, and no others, fail no test; tests that are about them look for them.
fn is_slow(line: &str) -> bool {
    line.contains(" slow operation dependency=")
}

fn command(data_dir: &Path, settings: &[(String, String)]) -> Command {
    command_under(&[], data_dir, settings)
}

#[allow(clippy::disallowed_methods, reason = "the node under test gets nothing of the developer's environment")]
fn command_under(by: &[&str], data_dir: &Path, settings: &[(String, String)]) -> Command {
    let words: Vec<_> = by.iter().copied().chain([BINARY]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("TRELLIS_")) {
        command.env_remove(key);
    }
    command.env("NO_COLOR", "1");
    command.arg("--data-dir").arg(data_dir);
    let mut set = |key: &str, value: &str| {
        command.arg("--set").arg(format!("{key}={value}"));
    };
    set("edge.listen", "127.0.0.1:0");
    set("control.listen", "127.0.0.1:0");
    set("rollup.every", "1s");
    set("edge.threads", "2");
    set("journal.segment_bytes", "1MiB");
    set("batch.age_max", "20ms");
    // Tests write one after the other.
    set("audit.flush_every", "1ms");
    // Its clicks are clicks: tests count their own.
    set("probe.enabled", "false");
    // How busy the machine is must not decide what a test sees.
    set("limits.overload.enabled", "false");
    set("watch.ping_timeout", "20s");
    for (key, value) in settings {
        set(key, value);
    }
    command
}

/// Waits for a condition, looking at it every few milliseconds, and fails the test if it does not come true.
pub(crate) fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(within(PATIENCE, condition), "not within {PATIENCE:?}: {what}");
}

/// Waits for a condition, likewise; false when it does not come true in this time.
#[allow(clippy::disallowed_methods, reason = "the one place where tests look at a clock and wait")]
pub(crate) fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let began = std::time::Instant::now();
    while !condition() {
        if began.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// An hour and a day, in milliseconds.
pub(crate) const HOUR_MS: u64 = 3_600_000;
pub(crate) const DAY_MS: u64 = 24 * HOUR_MS;

/// Does this, and does it again with the next number, until it began and ended in one such span (UTC): what is counted by the hour
/// or the day is then counted in one. Each time it must begin with something that was not counted before.
pub(crate) fn within_one<T>(span_ms: u64, mut act: impl FnMut(u32) -> T) -> T {
    use trellis::clock::Clock as _;
    let clock = trellis::clock::SystemClock::new();
    let mut number = 0;
    loop {
        let span = clock.wall_ms() / span_ms;
        let done = act(number);
        if clock.wall_ms() / span_ms == span {
            return done;
        }
        number += 1;
    }
}

/// Where a test's random choices come from: `SEED`, or a fresh one; printed, so that a failed test can be repeated.
#[allow(clippy::disallowed_methods, reason = "tests are not configured")]
pub(crate) fn seeded() -> fastrand::Rng {
    let given = std::env::var("SEED").ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |text| text.parse().expect("SEED is a number"));
    note(&format!("SEED={seed}"));
    fastrand::Rng::with_seed(seed)
}

/// Says something that is shown when the test fails.
#[allow(clippy::print_stdout, reason = "the test runner catches what a test prints, and shows it when it fails")]
pub(crate) fn note(text: &str) {
    println!("{text}");
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The URL of a service that `tests/services up` started; without one the test is skipped, and that is said where it
/// can be seen: not through `eprintln!`, which a passing test would swallow.
#[allow(clippy::disallowed_methods, reason = "tests are not configured")]
pub(crate) fn service(variable: &str, test: &str) -> Option<String> {
    let url = std::env::var(variable).ok().filter(|url| !url.is_empty());
    if url.is_none() {
        skipped(test, &format!("set {variable}, as tests/services up prints it"));
    }
    url
}

/// Says loudly that a test did not run.
pub(crate) fn skipped(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED ({why}): {test}");
}
