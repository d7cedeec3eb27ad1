//! A node that has too little of something: disk, file length, descriptors, memory. Redirects go on, and what was
//! acknowledged is stored once.
//!
//! What the machine does not allow (mounts need root) is skipped, and says so.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::harness::{BINARY, Trellis, connect, eventually, skipped};
use crate::load::{Load, Rows, Seen, Visits, sqlite_rows};

/// Makes a tmpfs of `$2` bytes at `$1`, seen by the node alone and gone with it; `$3`, if it is not empty, is where the
/// store is kept instead. The rest is the node's command line.
const IN_TMPFS: &str = r#"set -e
mount --make-rprivate /
mount -t tmpfs -o "size=$2,mode=700" none "$1"
if [ -n "$3" ]; then ln -s "$3/clicks.db" "$1/clicks.db"; fi
shift 3
exec "$@""#;

/// Whether mounts of one's own are allowed here.
pub(crate) fn may_mount(test: &str) -> bool {
    let place = tempfile::tempdir().expect("a folder");
    let script = "mount --make-rprivate / && mount -t tmpfs none \"$0\"";
    let tried = Command::new("unshare").args(["-m", "sh", "-c", script]).arg(place.path()).output();
    let may = tried.is_ok_and(|tried| tried.status.success());
    if !may {
        skipped(test, "needs root, or CAP_SYS_ADMIN, to mount");
    }
    may
}

/// A node whose data folder is a tmpfs.
fn start_in_tmpfs(bytes: &str, store: Option<&Path>, settings: &[(&str, &str)]) -> Trellis {
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    let at = folder.path().display().to_string();
    let store = store.map(|store| store.display().to_string()).unwrap_or_default();
    let by = ["unshare", "-m", "sh", "-c", IN_TMPFS, "sh", &at, bytes, &store];
    let node = Trellis::start_under(&by, folder, settings);
    node.link("a", "https://a.example/");
    node
}

const UNTRACKED: &str = "trellis_clicks_total{fate=\"untracked\"}";
const ACCEPTED: &str = "trellis_clicks_accepted_total";

/// What a node says when its disk is full.
fn expect_full_disk(node: &Trellis) {
    for text in [
        "takes no clicks",
        "no next journal segment",
        "could not be sealed",
        "without being frozen",
        "did not take a batch",
        "the ledger cannot be written",
        "journal cannot be read for now",
        "checkpoint",
        "does not answer",
        "unfinished",
    ] {
        node.expect_log(text);
    }
}

/// Every answer was a redirect; those without an id are in the node's books as untracked.
fn assert_redirected(node: &Trellis, seen: &Seen) {
    let others: Vec<_> = seen.wrong.iter().filter(|head| !head.starts_with("HTTP/1.1 302 ")).collect();
    assert!(others.is_empty() && seen.cut_off.is_empty(), "{others:?} {:?}", seen.cut_off);
    assert_eq!(node.metric(UNTRACKED), seen.wrong.len() as f64);
}

/// Waits until clicks get ids again, without a restart.
fn wait_for_ids(node: &Trellis) {
    let before = node.metric(ACCEPTED);
    eventually("clicks are accepted again", || node.metric(ACCEPTED) > before + 500.0);
}

/// Keeps the embedded store from taking anything.
fn hold(data_dir: &Path) -> Connection {
    let holder = Connection::open(data_dir.join("clicks.db")).expect("the store");
    holder.busy_timeout(Duration::from_secs(30)).expect("a time-out");
    holder.execute_batch("BEGIN IMMEDIATE").expect("the store is held");
    holder
}

#[test]
fn a_full_disk_of_8_mib_takes_clicks_again_once_the_journal_has_shrunk() {
    if !may_mount("a_full_disk_of_8_mib_takes_clicks_again_once_the_journal_has_shrunk") {
        return;
    }
    // The store is elsewhere: here it is the journal alone that fills the disk, and that frees it.
    let store = tempfile::tempdir().expect("a folder");
    let settings = [("edge.threads", "1"), ("journal.min_free_bytes", "0B")];
    let mut node = start_in_tmpfs("8m", Some(store.path()), &settings);
    expect_full_disk(&node);
    let holder = hold(store.path());
    let load = Load::start(node.edge(), &Visits::fast("a"));
    eventually("the disk is full", || node.metric(UNTRACKED) > 500.0);
    assert_eq!(node.api_raw("GET", "/health/ready", &[], b"").status, 200);
    drop(holder);
    wait_for_ids(&node);
    load.wait_answers(1_000);
    let seen = load.finish();
    assert!(seen.kept.len() > 10_000, "{} clicks fit into 8 MiB", seen.kept.len());
    assert_redirected(&node, &seen);
    seen.wait_stored(|| sqlite_rows(store.path()));
    assert_eq!(node.stop().code(), Some(0));
    seen.assert_stored(sqlite_rows(store.path()));
}

#[test]
fn a_disk_that_others_fill_is_used_again_once_they_free_it() {
    if !may_mount("a_disk_that_others_fill_is_used_again_once_they_free_it") {
        return;
    }
    let mut node = start_in_tmpfs("64m", None, &[("edge.threads", "1"), ("journal.min_free_bytes", "0B")]);
    expect_full_disk(&node);
    let inside = node.data_dir_inside();
    let mut seen = Seen::default();
    for round in 0..2 {
        let load = Load::start(node.edge(), &Visits::fast(round.to_string()));
        load.wait_answers(500);
        let ballast = inside.join("ballast");
        // Until the disk takes no more.
        let filled =
            std::fs::File::create(&ballast).and_then(|mut file| std::io::copy(&mut std::io::repeat(1), &mut file));
        assert_eq!(filled.expect_err("it is full").kind(), std::io::ErrorKind::StorageFull);
        let before = node.metric(UNTRACKED);
        eventually("the disk is full", || node.metric(UNTRACKED) > before + 500.0);
        std::fs::remove_file(&ballast).expect("removed");
        wait_for_ids(&node);
        seen.add(load.finish());
    }
    assert_redirected(&node, &seen);
    node.wait_stored(seen.kept.len() as u64);
    seen.assert_stored(api_rows(&node));
    eventually("all are at their end", || ledger(&node)["in_flight"] == 0);
    let (ledger, refused) = (ledger(&node), seen.wrong.len());
    assert_eq!((&ledger["stored"], &ledger["untracked"]), (&seen.kept.len().into(), &refused.into()), "{ledger}");
    assert_eq!(ledger["residual"], 0, "{ledger}");
    assert_eq!(node.stop().code(), Some(0));
}

/// The sums of the last hour, of a ledger that only the node can open.
fn ledger(node: &Trellis) -> serde_json::Value {
    node.api("GET", "/api/v1/ledger", None).json()["total"].clone()
}

/// The clicks of a store that only the node can open: id and external id.
fn api_rows(node: &Trellis) -> Rows {
    let (mut rows, mut cursor) = (Rows::new(), String::new());
    loop {
        let page = node.api("GET", &format!("/api/v1/clicks?limit=1000{cursor}"), None).json();
        let text = |click: &serde_json::Value, name: &str| click[name].as_str().expect("a text").to_owned();
        let clicks = page["clicks"].as_array().expect("a list").iter();
        rows.extend(clicks.map(|click| (text(click, "click_id"), text(click, "external_click_id"))));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return rows,
        }
    }
}

fn limit(node: &Trellis, resource: Resource, most: u64) {
    let pid = Pid::from_raw(i32::try_from(node.pid()).expect("a process id")).expect("not zero");
    // The node has the hard limit of this process: it stays as it is.
    let Rlimit { maximum, .. } = getrlimit(resource);
    let current = maximum.map_or(most, |maximum| most.min(maximum));
    prlimit(Some(pid), resource, Rlimit { current: Some(current), maximum }).expect("a limit");
}

#[test]
fn a_limit_on_the_length_of_files_is_a_full_disk_and_not_the_end() {
    let mut node = Trellis::start_with(&[("edge.threads", "1")]);
    node.link("a", "https://a.example/");
    expect_full_disk(&node);
    let load = Load::start(node.edge(), &Visits::fast("a"));
    load.wait_answers(500);
    // Shorter than the segment that is being written, and than every other.
    limit(&node, Resource::Fsize, 64 << 10);
    let before = node.metric(UNTRACKED);
    eventually("the journal takes no more", || node.metric(UNTRACKED) > before + 500.0);
    limit(&node, Resource::Fsize, u64::MAX >> 1);
    wait_for_ids(&node);
    let seen = load.finish();
    assert_redirected(&node, &seen);
    settle(&seen, &mut node);
}

#[test]
fn without_descriptors_visitors_wait_and_no_acknowledged_click_is_lost() {
    let mut node = Trellis::start_with(&[("edge.threads", "1")]);
    node.link("a", "https://a.example/");
    expect_full_disk(&node);
    node.expect_log("connections cannot be accepted");
    let first = Load::start(node.edge(), &Visits::fast("first"));
    first.wait_answers(500);
    let open = std::fs::read_dir(format!("/proc/{}/fd", node.pid())).expect("its descriptors").count() as u64;
    limit(&node, Resource::Nofile, open + 20);
    // More than there are descriptors for; the kernel completes them all.
    let idle: Vec<TcpStream> = (0..200).map(|_| connect(node.edge())).collect();
    eventually("it has no more descriptors", || node.log().iter().any(|line| line.contains("cannot be accepted")));
    // Several segments: none can be opened.
    first.wait_answers(10_000);
    // Not before there are descriptors again: until then whoever comes is told so with a 503.
    drop(idle);
    limit(&node, Resource::Nofile, 4096);
    let late = Load::start(node.edge(), &Visits { connections: 10, ..Visits::fast("late") });
    late.wait_answers(500);
    let mut seen = first.finish();
    seen.add(late.finish());
    assert_redirected(&node, &seen);
    settle(&seen, &mut node);
}

fn settle(seen: &Seen, node: &mut Trellis) {
    let folder = node.folder();
    seen.settle(node, || sqlite_rows(folder.path()));
}

fn status_kib(node: &Trellis, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or_else(|| panic!("no {field}"))
}

#[test]
fn a_node_that_runs_out_of_memory_loses_no_acknowledged_click() {
    let mut node = Trellis::start();
    node.link("a", "https://a.example/");
    let holder = hold(node.data_dir());
    let load = Load::start(node.edge(), &Visits::fast("a"));
    load.wait_answers(2_000);
    // Not a page more than now. It may go on or end; it may not lose a click.
    limit(&node, Resource::As, status_kib(&node, "VmSize") << 10);
    let idle: Vec<TcpStream> = (0..500).filter_map(|_| TcpStream::connect(node.edge()).ok()).collect();
    let until = load.answers() + 5_000;
    eventually("it goes on, or ends", || load.answers() > until || load.is_over());
    let survived = !load.is_over();
    drop((holder, idle));
    if survived {
        node.kill();
    } else {
        node.wait();
    }
    node.expect_log("memory allocation");
    let seen = load.finish_broken();
    expect_full_disk(&node);
    let mut again = Trellis::start_in(node.folder(), &[]);
    settle(&seen, &mut again);
}

#[test]
fn with_too_little_memory_to_start_it_says_so_or_works() {
    let mut started = 0;
    for mib in [48_u64, 96, 192, 384, 768, 1536, 3072] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = Command::new("prlimit")
            .arg(format!("--as={}", mib << 20))
            .arg(BINARY)
            .args(["--set", "edge.listen=127.0.0.1:0", "--set", "control.listen=127.0.0.1:0", "--data-dir"])
            .arg(folder.path())
            .env_clear()
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("prlimit runs");
        let mut ended = None;
        eventually("it has started, or ended", || {
            ended = child.try_wait().expect("a child");
            ended.is_some() || folder.path().join("node.json").exists()
        });
        if ended.is_none() {
            child.kill().expect("it is there");
            started += 1;
        }
        let output = child.wait_with_output().expect("an end");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(ended.is_none() || !error.is_empty(), "{mib} MiB: it ended ({ended:?}) without a word");
    }
    assert!(started > 0, "3 GiB are enough");
}

#[test]
fn memory_does_not_grow_with_the_outages_of_the_store() {
    let mut node = Trellis::start();
    node.link("a", "https://a.example/");
    expect_full_disk(&node);
    let (mut seen, mut after) = (Seen::default(), Vec::new());
    for cycle in 0..5 {
        let holder = hold(node.data_dir());
        let load = Load::start(node.edge(), &Visits::fast(cycle.to_string()));
        load.wait_answers(20_000);
        after.push(status_kib(&node, "VmRSS"));
        drop(holder);
        let of_cycle = load.finish();
        of_cycle.wait_stored(|| sqlite_rows(node.data_dir()));
        after.push(status_kib(&node, "VmRSS"));
        seen.add(of_cycle);
    }
    seen.assert_answered(false);
    // The first two cycles warm up: caches and the allocator's own.
    let (warm, later) = after.split_at(4);
    let (warm, later) = (warm.iter().max().expect("some"), later.iter().max().expect("some"));
    assert!(*later <= warm + 16 * 1024, "RSS in KiB, with the store away and back: {after:?}");
    settle(&seen, &mut node);
}
