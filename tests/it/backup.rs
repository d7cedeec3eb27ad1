//! `trellis backup` and `trellis restore`, while the node works.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use crate::cli::{bad, good, run};
use crate::harness::{Trellis, eventually, service};
use crate::live::{CLICKHOUSE, Database};
use crate::load::{Load, Seen, Visits, sqlite_rows};

fn refusal(output: &Output) -> String {
    bad(output, 1)
}

fn word(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Restores a backup into a new folder.
fn restored(backup: &Path) -> Arc<tempfile::TempDir> {
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    let told = good(&run(folder.path(), &["restore", word(backup)]));
    assert!(told.starts_with("node "), "{told}");
    folder
}

fn runs(node: &Trellis) -> usize {
    std::fs::read_dir(node.data_dir().join("journal")).expect("the journal folder").count()
}

/// Starts a node on a restored folder; everything that was seen before the backup must be in the embedded store, once.
fn assert_whole(folder: &Arc<tempfile::TempDir>, before: &Seen) {
    // A store that has other clicks than the ledger says would be an ERROR in its log.
    let mut node = Trellis::start_in(Arc::clone(folder), &[("ledger.check_every", "100ms")]);
    let links = node.api("GET", "/api/v1/links?limit=1000", None).json()["links"].as_array().expect("a list").len();
    assert_eq!(links, 21);
    assert_eq!(node.get("/l-7").header("location"), Some("https://b.example/7"));
    before.wait_stored(|| sqlite_rows(node.data_dir()));
    eventually("what was restored is stored, and not looked at again", || runs(&node) == 1);
    assert_eq!(node.stop().code(), Some(0));
    assert_eq!(runs(&node), 0, "no part of the journal was found damaged");
    let rows = sqlite_rows(node.data_dir());
    let ledger = node.ledger();
    assert_eq!((&ledger["in_flight"], &ledger["refused"]), (&0.into(), &0.into()), "every minute balances: {ledger}");
    let stored = ledger["stored"].as_u64().expect("a number") as usize;
    assert!((before.kept.len()..=rows.len()).contains(&stored), "{stored} of {}", rows.len());
    let again = Trellis::start_in(Arc::clone(folder), &[]);
    assert_eq!(again.count("")["total"], rows.len(), "the counts were added to once for each row");
}

fn node_with_links(settings: &[(&str, &str)]) -> Trellis {
    let node = Trellis::start_with(settings);
    node.link("a", "https://a.example/");
    (0..20).for_each(|n| node.link(&format!("l-{n}"), &format!("https://b.example/{n}")));
    node
}

#[test]
fn a_backup_under_load_holds_every_click_that_was_acknowledged_before() {
    let node = node_with_links(&[]);
    for text in ["did not take a batch", "are put behind"] {
        node.expect_log(text);
    }
    let (mut before, place) = (Seen::default(), tempfile::tempdir().expect("a folder"));
    for round in 0..3 {
        // In the second round the store takes nothing: everything stays in the journal, several segments of it. Before the
        // load: the node's writer would be there first again and again.
        let holder = Connection::open(node.data_dir().join("clicks.db")).expect("the store");
        holder.busy_timeout(Duration::from_secs(30)).expect("a time-out");
        if round == 1 {
            holder.execute_batch("BEGIN IMMEDIATE").expect("the store is held");
        }
        let load = Load::start(node.edge(), &Visits::fast(format!("before-{round}")));
        load.wait_answers(if round == 1 { 15_000 } else { 5_000 });
        before.add(load.finish());
        let meanwhile = Load::start(node.edge(), &Visits::steady(format!("meanwhile-{round}")));
        meanwhile.wait_answers(100);
        let backup = place.path().join(round.to_string());
        let told = good(&node.cli(&["backup", word(&backup)]));
        assert!(
            ["journal", "clicks.db", "catalog.db"].iter().all(|part| told.contains(&format!("\n{part}\t"))),
            "{told}"
        );
        drop(holder);
        let seen = meanwhile.finish();
        seen.assert_answered(false);
        assert_whole(&restored(&backup), &before);
        before.add(seen);
    }
    before.assert_answered(false);
}

#[test]
fn nodes_restored_from_one_backup_and_the_first_one_store_each_click_once() {
    let test = "nodes_restored_from_one_backup_and_the_first_one_store_each_click_once";
    let Some(clickhouse) = service(CLICKHOUSE, test) else { return };
    let database = Database::new(&clickhouse);
    let settings = database.settings();
    let mut node = node_with_links(&settings);
    let load = Load::start(node.edge(), &Visits::fast("stored"));
    load.wait_answers(3_000);
    let mut before = load.finish();
    node.kill();
    // A store that nobody serves: port 1 refuses at once.
    let mut away = settings.clone();
    away.push(("store.clickhouse.url", "http://127.0.0.1:1"));
    let mut node = Trellis::start_in(node.folder(), &away);
    for text in ["tables cannot be made", "did not take a batch", "does not answer", "drain_deadline"] {
        node.expect_log(text);
    }
    let load = Load::start(node.edge(), &Visits::fast("waiting"));
    load.wait_answers(10_000);
    let meanwhile = Load::start(node.edge(), &Visits::steady("meanwhile"));
    before.add(load.finish());
    let place = tempfile::tempdir().expect("a folder");
    let backup = place.path().join("backup");
    assert!(!good(&node.cli(&["backup", word(&backup)])).contains("clicks.db"));
    before.add(meanwhile.finish());
    before.assert_answered(false);
    node.kill();
    // Both bring what waited, one after the other: the second one finds it there, or writes it over itself.
    let folders = [restored(&backup), node.folder()];
    for (folder, some) in folders.into_iter().zip([true, false]) {
        let mut node = Trellis::start_in(folder, &settings);
        eventually("the journals are stored", || runs(&node) == 1);
        assert!(!some || database.rows("clicks").len() > 10_000);
        assert_eq!(node.stop().code(), Some(0));
    }
    before.assert_stored(database.rows("clicks"));
}

#[test]
fn a_killed_nodes_folder_can_be_backed_up_too() {
    let mut node = node_with_links(&[]);
    let load = Load::start(node.edge(), &Visits::fast("a"));
    load.wait_answers(2_000);
    node.kill();
    let seen = load.finish_broken();
    let place = tempfile::tempdir().expect("a folder");
    let backup = place.path().join("backup");
    good(&node.cli(&["backup", word(&backup)]));
    assert_whole(&restored(&backup), &seen);
}

#[test]
fn a_flipped_bit_or_a_missing_file_is_refused_by_name_and_nothing_is_restored() {
    let node = node_with_links(&[]);
    let load = Load::start(node.edge(), &Visits::fast("a"));
    load.wait_answers(1_000);
    load.finish();
    let place = tempfile::tempdir().expect("a folder");
    let (backup, into) = (place.path().join("backup"), place.path().join("into"));
    good(&node.cli(&["backup", word(&backup)]));
    let restore = || run(&into, &["restore", word(&backup)]);
    let manifest = std::fs::read(backup.join("manifest.json")).expect("the manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    let listed = manifest["files"].as_array().expect("a list").iter().map(|f| f["path"].as_str().expect("a path"));
    let names: Vec<_> = listed.chain(["manifest.json", "manifest.sha256"]).collect();
    let there: Vec<_> =
        std::fs::read_dir(&backup).expect("the backup").map(|e| e.expect("an entry").file_name()).collect();
    assert!(
        there.iter().all(|name| !name.to_string_lossy().starts_with("ledger.") || name == "ledger.db"),
        "{there:?}"
    );
    for part in ["journal/", "ledger.db", "clicks.db", "catalog.db", "control.token", "dedup.secret"] {
        assert!(names.iter().any(|name| name.starts_with(part)), "{part}: {names:?}");
    }
    for name in names {
        let path = backup.join(name);
        let whole = std::fs::read(&path).expect("a file of the backup");
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 4;
        std::fs::write(&path, &flipped).expect("written");
        let error = refusal(&restore());
        assert!(error.contains(name) && error.contains("damaged"), "{name}: {error}");
        std::fs::remove_file(&path).expect("removed");
        let error = refusal(&restore());
        assert!(error.contains(name) && error.contains("missing"), "{name}: {error}");
        std::fs::write(&path, &whole).expect("written");
        assert!(!into.exists());
    }
    good(&restore());
}

#[test]
fn what_is_no_whole_backup_is_not_taken_for_one_and_no_folder_is_written_over() {
    let node = node_with_links(&[]);
    let place = tempfile::tempdir().expect("a folder");
    let backup = place.path().join("backup");
    let back_up = |to: &Path| node.cli(&["backup", word(to)]);
    good(&back_up(&backup));
    assert!(refusal(&back_up(&backup)).contains("is there already"));
    assert!(refusal(&back_up(&node.data_dir().join("journal/x"))).contains("lies in the data folder"));
    assert!(refusal(&back_up(&place.path().join("no/such"))).contains("cannot be reached"));
    // As a kill leaves it.
    let partial = place.path().join("other.partial");
    std::fs::create_dir(&partial).expect("made");
    std::fs::copy(backup.join("catalog.db"), partial.join("catalog.db")).expect("copied");
    assert!(refusal(&back_up(&place.path().join("other"))).contains("was broken off"));
    let into = tempfile::tempdir().expect("a folder");
    let restore = |from: &Path| run(into.path(), &["restore", word(from)]);
    assert!(refusal(&restore(&partial)).contains("this is no backup"));
    std::fs::write(into.path().join("mine"), "").expect("written");
    assert!(refusal(&restore(&backup)).contains("is not empty"));
    std::fs::remove_file(into.path().join("mine")).expect("removed");
    assert!(refusal(&node.cli(&["restore", word(&backup)])).contains("is not empty"), "the folder of the node itself");
    // A restore that was killed.
    std::fs::create_dir(into.path().join("restore.partial")).expect("made");
    assert!(refusal(&run(into.path(), &["link", "ls"])).contains("broken off"));
    std::fs::remove_dir(into.path().join("restore.partial")).expect("removed");
    good(&restore(&backup));
    let empty = tempfile::tempdir().expect("a folder");
    let error = refusal(&run(empty.path(), &["backup", word(&place.path().join("nothing"))]));
    assert!(error.contains("holds nothing of a node"), "{error}");
}
