//! Start, stop and restart.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

use crate::harness::{BINARY, Trellis, connect, eventually, read_head, request, skipped};

/// A store that nobody serves: port 1 refuses at once.
const NO_STORE: [(&str, &str); 3] = [
    ("store.backend", "clickhouse"),
    ("store.clickhouse.url", "http://127.0.0.1:1"),
    ("shutdown.drain_deadline", "300ms"),
];

fn expect_no_store(trellis: &Trellis) {
    for text in ["tables cannot be made", "does not answer", "did not take a batch", "drain_deadline is over"] {
        trellis.expect_log(text);
    }
}

#[test]
fn sigterm_turns_ready_to_503_while_links_are_still_answered_and_ends_with_0() {
    // Until a second signal ends it: what is seen meanwhile must not depend on how quick this test is.
    let mut trellis = Trellis::start_with(&[("shutdown.drain_delay", "10m")]);
    trellis.expect_log("stopping at once");
    trellis.link("a", "https://a.example/");
    assert_eq!(trellis.api_raw("GET", "/health/ready", &[], b"").status, 200);
    trellis.signal(Signal::TERM);
    eventually("ready is 503", || trellis.api_raw("GET", "/health/ready", &[], b"").status == 503);
    assert_eq!(trellis.api_raw("GET", "/health/ready", &[], b"").json()["state"], "draining");
    assert_eq!(trellis.get("/a").status, 302, "new connections are served until the delay is over");
    trellis.signal(Signal::TERM);
    assert_eq!(trellis.wait().code(), Some(0));

    // Another one, by itself, with a click whose batch would wait for more.
    let mut trellis = Trellis::start_with(&[("shutdown.drain_delay", "100ms"), ("batch.age_max", "10m")]);
    trellis.link("a", "https://a.example/");
    assert_eq!((trellis.get("/a").status, &trellis.count("")["total"]), (302, &0.into()));
    assert_eq!(trellis.stop().code(), Some(0));
    let again = Trellis::start_in(trellis.folder(), &[]);
    assert_eq!(again.count("")["total"], 1, "the last click was stored before the end");
    assert_eq!(again.metric("trellis_clicks_adopted_total"), 0.0, "and left nothing in the journal");
}

#[test]
fn a_request_in_flight_is_finished_and_its_connection_closed() {
    let mut trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    let mut idle = connect(trellis.edge());
    let mut busy = connect(trellis.edge());
    busy.write_all(b"GET /a HTTP/1.1\r\nHost: t\r\n\r\n").expect("sent");
    assert_eq!(read_head(&mut busy).status, 302);
    busy.write_all(b"GET /a HTTP/1.1\r\nHost: t\r\n").expect("half a head");
    idle.write_all(b"GET /a HTTP/1.1\r\nHost: t\r\n\r\n").expect("sent");
    assert_eq!(read_head(&mut idle).status, 302);
    trellis.signal(Signal::TERM);
    assert_eq!(idle.read(&mut [0; 8]).expect("the end"), 0, "an idle connection is closed");
    let _ = busy.write_all(b"\r\n");
    let mut rest = Vec::new();
    let _ = busy.read_to_end(&mut rest);
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 302"), "{:?}", String::from_utf8_lossy(&rest));
    assert_eq!(trellis.wait().code(), Some(0));
}

#[test]
fn connections_that_wait_to_be_accepted_are_served_before_the_end() {
    let mut trellis = Trellis::start_with(&[("edge.threads", "1")]);
    trellis.link("a", "https://a.example/");
    // While the process stands still, the kernel completes connections: so many that the end comes while they are being
    // accepted.
    trellis.signal(Signal::STOP);
    let mut waiting: Vec<_> = (0..400).map(|_| connect(trellis.edge())).collect();
    for stream in &mut waiting {
        stream.write_all(b"GET /a HTTP/1.1\r\nHost: t\r\n\r\n").expect("sent");
    }
    trellis.signal(Signal::TERM);
    trellis.signal(Signal::CONT);
    for stream in &mut waiting {
        assert_eq!(read_head(stream).status, 302);
    }
    assert_eq!(trellis.wait().code(), Some(0));
    assert_eq!(Trellis::start_in(trellis.folder(), &[]).count("")["total"], 400);
}

#[test]
fn metrics_and_objectives_are_answered_until_the_last_click_is_stored() {
    let start = |delay| {
        let settings = [NO_STORE[0], NO_STORE[1], ("shutdown.drain_delay", delay), ("shutdown.drain_deadline", "10m")];
        let trellis = Trellis::start_with(&settings);
        expect_no_store(&trellis);
        trellis.expect_log("stopping at once");
        trellis.link("a", "https://a.example/");
        trellis
    };
    let scrape = |trellis: &Trellis| {
        let objectives = trellis.api_raw("GET", "/slo", &[], b"");
        assert_eq!(objectives.status, 200, "{objectives:?}");
        assert!(objectives.json()["objectives"].as_array().is_some_and(|all| !all.is_empty()), "{objectives:?}");
        let of = |metric| trellis.metric(metric);
        (of("trellis_clicks_accepted_total"), of("trellis_clicks_total{fate=\"stored\"}"))
    };
    let mut trellis = start("10m");
    let mut busy = connect(trellis.edge());
    busy.write_all(b"GET /a HTTP/1.1\r\nHost: t\r\n").expect("half a head");
    trellis.signal(Signal::TERM);
    eventually("it drains", || trellis.api_raw("GET", "/health/ready", &[], b"").status == 503);
    assert_eq!(scrape(&trellis), (0.0, 0.0), "while a request is on its way");
    busy.write_all(b"\r\n").expect("the rest of the head");
    assert_eq!(read_head(&mut busy).status, 302);
    assert_eq!(scrape(&trellis), (1.0, 0.0), "while others may come");
    trellis.signal(Signal::TERM);
    assert_eq!(trellis.wait().code(), Some(0));

    let mut trellis = start("1ms");
    assert_eq!(trellis.get("/a").status, 302);
    trellis.signal(Signal::TERM);
    eventually("the edge is closed", || std::net::TcpStream::connect(trellis.edge()).is_err());
    assert_eq!(scrape(&trellis), (1.0, 0.0), "while the click waits for a store that is away");
    // Else it would wait for the store as long as the deadline says.
    trellis.signal(Signal::TERM);
    assert_eq!(trellis.wait().code(), Some(0));
}

#[test]
fn a_second_signal_stops_at_once() {
    let mut trellis = Trellis::start_with(&[("shutdown.drain_delay", "10m")]);
    trellis.expect_log("stopping at once");
    trellis.signal(Signal::TERM);
    eventually("it drains", || trellis.api_raw("GET", "/health/ready", &[], b"").status == 503);
    trellis.signal(Signal::INT);
    assert_eq!(trellis.wait().code(), Some(0));
}

#[test]
fn what_the_store_did_not_take_stays_in_the_journal_for_the_next_start() {
    let mut away = Trellis::start_with(&NO_STORE);
    expect_no_store(&away);
    away.link("a", "https://a.example/");
    let ids: BTreeSet<_> = (0..500)
        .map(|n| away.get(&format!("/a?click_id={n}")).header("x-click-id").expect("an id").to_owned())
        .collect();
    assert_eq!(away.api_raw("GET", "/health/ready", &[], b"").status, 200, "without a store it is ready all the same");
    assert_eq!(away.stop().code(), Some(0));
    // Another number of threads than the journals that are there.
    let mut back = Trellis::start_in(away.folder(), &[("edge.threads", "1")]);
    back.wait_stored(500);
    let stored: BTreeSet<_> = back.clicks().iter().map(|c| c["click_id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(stored, ids);
    assert_eq!(back.metric("trellis_clicks_adopted_total"), 500.0);
    assert_eq!(back.stop().code(), Some(0));
    let runs = std::fs::read_dir(back.data_dir().join("journal")).expect("the journal folder").count();
    assert_eq!(runs, 0, "a finished journal is removed");
}

#[test]
fn a_killed_node_loses_no_click_that_it_acknowledged() {
    let mut trellis = Trellis::start();
    trellis.link("a", "https://a.example/");
    let (edge, stop) = (trellis.edge(), AtomicBool::new(false));
    let acknowledged = std::thread::scope(|scope| {
        let client = |worker: usize| {
            let stop = &stop;
            scope.spawn(move || {
                let mut ids = Vec::new();
                let mut stream = connect(edge);
                for n in 0.. {
                    let text = format!("GET /a?click_id={worker}-{n} HTTP/1.1\r\nHost: t\r\n\r\n");
                    let mut byte = [0];
                    if stop.load(Ordering::Relaxed) || stream.write_all(text.as_bytes()).is_err() {
                        break;
                    }
                    if !matches!(stream.peek(&mut byte), Ok(1)) {
                        break;
                    }
                    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read_head(&mut stream))) {
                        Ok(answer) => ids.extend(answer.header("x-click-id").map(str::to_owned)),
                        Err(_) => break,
                    }
                }
                ids
            })
        };
        let clients: Vec<_> = (0..4).map(client).collect();
        eventually("there is traffic", || trellis.metric("trellis_clicks_accepted_total") > 2_000.0);
        trellis.kill();
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|c| c.join().expect("a client")).collect::<BTreeSet<_>>()
    });
    let again = Trellis::start_in(trellis.folder(), &[]);
    let missing = || {
        let mut missing = acknowledged.clone();
        let mut cursor = String::new();
        loop {
            let page = again.api("GET", &format!("/api/v1/clicks?limit=1000{cursor}"), None).json();
            for click in page["clicks"].as_array().expect("a list") {
                missing.remove(click["click_id"].as_str().expect("an id"));
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return missing.len(),
            }
        }
    };
    eventually("every acknowledged click is stored", || missing() == 0);
    // At most the clicks whose answer was on its way, one for each client, come on top.
    let total = again.count("")["total"].as_u64().expect("a number");
    let most = acknowledged.len() as u64 + 4;
    assert!((acknowledged.len() as u64..=most).contains(&total), "{total} stored, {} acknowledged", acknowledged.len());
    assert_eq!(again.count("")["duplicate"], 0, "a row that is sent again is no second click");
}

#[test]
fn one_data_folder_serves_one_node() {
    let trellis = Trellis::start();
    let second = trellis.cli(&["serve"]);
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains("in use by another process") && text.contains(&trellis.pid().to_string()), "{text}");
}

#[test]
fn secrets_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let trellis = Trellis::start();
    for file in ["control.token", "dedup.secret"] {
        let mode = std::fs::metadata(trellis.data_dir().join(file)).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let token = trellis.token();
    assert!(trellis.log().iter().all(|line| !line.contains(&token)), "a secret is in the log");
}

#[test]
fn the_two_printed_lines_create_a_link_and_follow_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = Command::new(BINARY)
        .args(["--data-dir"])
        .arg(folder.path())
        .args(["--set", "edge.listen=127.0.0.1:0", "--set", "control.listen=127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut lines = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
    let (mut commands, mut line) = (Vec::new(), String::new());
    while commands.len() < 2 {
        line.clear();
        assert_ne!(std::io::BufRead::read_line(&mut lines, &mut line).expect("text"), 0, "it ended early");
        commands.extend(line.trim().strip_prefix("curl ").map(|_| line.trim().to_owned()));
    }
    let run = |command: &str| {
        let output = Command::new("sh").args(["-c", command]).output().expect("a shell");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    if run("command -v curl").is_empty() {
        skipped("the_two_printed_lines_create_a_link_and_follow_it", "there is no curl");
    } else {
        let created: serde_json::Value = serde_json::from_str(&run(&commands[0])).expect("the link");
        assert_eq!(created["slug"], "hello");
        let followed = run(&commands[1]);
        assert!(followed.starts_with("HTTP/1.1 302") && followed.contains("https://example.com/?id="), "{followed}");
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
}

#[test]
fn with_nothing_around_it_a_node_is_ready_and_says_what_it_needs() {
    let trellis = Trellis::start_with(&NO_STORE);
    expect_no_store(&trellis);
    let ready = request(trellis.control(), "GET", "/health/ready", &[], b"").json();
    assert_eq!((&ready["ready"], &ready["dependencies"]["store"]["up"]), (&true.into(), &false.into()));
    trellis.link("a", "https://a.example/");
    assert!(trellis.get("/a").header("x-click-id").is_some(), "the click is kept without a store");
    assert_eq!(trellis.metric("trellis_dependency_up{dependency=\"store\"}"), 0.0);
}
