//! Load for a node under test, and the books that are made up afterwards: what the clients saw against what the store has.
//!
//! A visit carries an external click id of its own, so a row can be told to be of a visit that got its answer, of one that
//! was cut off, or of none.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::harness::{PATIENCE, Trellis, eventually};

/// Kept-alive connections that follow links until they are told to stop or the node is gone.
pub(crate) struct Load {
    clients: Vec<(SyncSender<()>, JoinHandle<()>)>,
    answers: Arc<AtomicU64>,
    seen: Arc<Mutex<Seen>>,
    broken: Arc<AtomicBool>,
}

/// Clicks of a store: id and external id.
pub(crate) type Rows = Vec<(String, String)>;

/// How a load visits.
#[derive(Clone, Debug)]
pub(crate) struct Visits {
    /// At one time.
    pub(crate) connections: usize,
    /// Between an answer and the next visit of a connection.
    pub(crate) pause: Duration,
    /// In front of each external click id: different for every load of a test.
    pub(crate) name: String,
    /// Followed by the external click id.
    pub(crate) path: String,
}

impl Visits {
    /// Four connections on `/a`, as fast as they are answered.
    pub(crate) fn fast(name: impl Into<String>) -> Self {
        Self { connections: 4, pause: Duration::ZERO, name: name.into(), path: "/a?click_id=".into() }
    }

    /// Four connections on `/a`, some thousand visits a second in all, for as long as a fault takes.
    pub(crate) fn steady(name: impl Into<String>) -> Self {
        Self { pause: Duration::from_millis(3), ..Self::fast(name) }
    }
}

/// What clients saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Every id that was read whole, with the external id of its visit.
    pub(crate) kept: BTreeMap<String, String>,
    /// External ids of visits that were sent and whose answer was not read whole.
    pub(crate) cut_off: BTreeSet<String>,
    /// Answers that were no 302 with an id.
    pub(crate) wrong: Vec<String>,
}

impl Load {
    /// Visits this node. A connection that breaks ends; [`Load::wait_answers`] then fails.
    pub(crate) fn start(edge: SocketAddr, visits: &Visits) -> Self {
        let (answers, seen) = (Arc::<AtomicU64>::default(), Arc::<Mutex<Seen>>::default());
        let broken = Arc::<AtomicBool>::default();
        let client = |number| {
            let (stop, stopped) = sync_channel(1);
            let (answers, seen, broken) = (Arc::clone(&answers), Arc::clone(&seen), Arc::clone(&broken));
            let visits = visits.clone();
            let run = move || {
                let mut mine = Seen::default();
                let mut pause = || match stopped.recv_timeout(visits.pause) {
                    Err(RecvTimeoutError::Timeout) => true,
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => false,
                };
                if !visit(edge, &visits, number, &mut mine, &answers, &mut pause) {
                    broken.store(true, Ordering::SeqCst);
                }
                seen.lock().expect("no panic under the lock").add(mine);
            };
            (stop, std::thread::spawn(run))
        };
        let clients = (0..visits.connections).map(client).collect();
        Self { clients, answers, seen, broken }
    }

    /// Whether every connection has ended, as they do when the node is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.clients.iter().all(|(_, client)| client.is_finished())
    }

    /// Answers so far.
    pub(crate) fn answers(&self) -> u64 {
        self.answers.load(Ordering::SeqCst)
    }

    /// Waits for so many more answers; no connection may break meanwhile.
    pub(crate) fn wait_answers(&self, more: u64) {
        let until = self.answers() + more;
        eventually(&format!("{more} more answers"), || {
            assert!(!self.broken.load(Ordering::SeqCst), "a connection broke");
            self.answers() >= until
        });
    }

    /// Waits until the node has gone and broken every connection; what the clients saw until then.
    pub(crate) fn finish_broken(self) -> Seen {
        eventually("every connection is gone", || self.clients.iter().all(|(_, client)| client.is_finished()));
        let seen = self.finish();
        seen.assert_answered(true);
        seen
    }

    /// Ends it; what its clients saw.
    pub(crate) fn finish(self) -> Seen {
        for (stop, client) in self.clients {
            drop(stop);
            client.join().expect("a client");
        }
        std::mem::take(&mut self.seen.lock().expect("no panic under the lock"))
    }
}

/// Visits until told to stop: true; or until the connection breaks: false.
fn visit(
    edge: SocketAddr,
    visits: &Visits,
    number: usize,
    seen: &mut Seen,
    answers: &AtomicU64,
    pause: &mut impl FnMut() -> bool,
) -> bool {
    // A node that is killed early may be gone already.
    let Ok(stream) = TcpStream::connect(edge) else { return false };
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut stream = BufReader::new(stream);
    for n in 0.. {
        if !pause() {
            break;
        }
        let external = format!("{}-{number}-{n}", visits.name);
        let request = format!("GET {}{external} HTTP/1.1\r\nHost: t\r\nUser-Agent: Mozilla/5.0\r\n\r\n", visits.path);
        // Before the first byte is sent: from here on it may be recorded.
        seen.cut_off.insert(external.clone());
        let Some(head) = exchange(&mut stream, &request) else { return false };
        seen.cut_off.remove(&external);
        match id_of(&head) {
            Some(id) => {
                seen.kept.insert(id.to_owned(), external);
            }
            None => seen.wrong.push(head),
        }
        answers.fetch_add(1, Ordering::SeqCst);
    }
    true
}

/// Follows these links on one connection, one after the other; the ids that came with the answers.
pub(crate) fn follow(edge: SocketAddr, paths: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut stream = BufReader::new(crate::harness::connect(edge));
    let mut visit = |path: String| {
        let head = exchange(&mut stream, &format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n")).expect("an answer");
        id_of(&head).unwrap_or_else(|| panic!("{path}: {head}")).to_owned()
    };
    paths.into_iter().map(&mut visit).collect()
}

/// Sends a request and reads a whole head; `None` when the connection is gone.
pub(crate) fn exchange(stream: &mut BufReader<TcpStream>, request: &str) -> Option<String> {
    stream.get_mut().write_all(request.as_bytes()).ok()?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

/// The id of a 302.
pub(crate) fn id_of(head: &str) -> Option<&str> {
    let is_302 = head.starts_with("HTTP/1.1 302 ");
    head.lines().find_map(|line| line.strip_prefix("x-click-id: ")).filter(|_| is_302)
}

impl Seen {
    /// Adds what was seen elsewhere.
    pub(crate) fn add(&mut self, other: Self) {
        self.kept.extend(other.kept);
        self.cut_off.extend(other.cut_off);
        self.wrong.extend(other.wrong);
    }

    /// Every answer was a 302 with an id; and none is missing, unless its node was killed.
    pub(crate) fn assert_answered(&self, killed: bool) {
        assert!(self.wrong.is_empty(), "{} answers are no 302 with an id: {:#?}", self.wrong.len(), self.wrong.first());
        assert!(killed || self.cut_off.is_empty(), "visits without an answer: {:?}", self.cut_off);
    }

    /// Every id that a client saw is in the store exactly once, and nothing is there that nobody sent. A visit that was cut
    /// off may be there, once.
    pub(crate) fn assert_stored(&self, rows: Rows) {
        let count = rows.len();
        let stored: BTreeMap<_, _> = rows.into_iter().collect();
        assert_eq!(stored.len(), count, "ids that are in the store twice");
        let missing: Vec<_> = self.kept.iter().filter(|(id, external)| stored.get(*id) != Some(external)).collect();
        assert!(missing.is_empty(), "{} of {} ids are not in the store: {missing:?}", missing.len(), self.kept.len());
        let others: Vec<_> = stored.iter().filter(|(id, _)| !self.kept.contains_key(*id)).map(|(_, e)| e).collect();
        let unsent: Vec<_> = others.iter().filter(|external| !self.cut_off.contains(**external)).collect();
        assert!(unsent.is_empty(), "{} rows of visits that were answered otherwise: {unsent:?}", unsent.len());
        let once: BTreeSet<_> = others.iter().collect();
        assert_eq!(once.len(), others.len(), "a visit that was cut off is there twice");
    }

    /// Waits until the store has what clients saw.
    pub(crate) fn wait_stored(&self, rows: impl Fn() -> Rows) {
        eventually("every acknowledged click is stored", || {
            let stored: BTreeSet<_> = rows().into_iter().map(|(id, _)| id).collect();
            self.kept.keys().all(|id| stored.contains(id))
        });
    }

    /// Waits until the store has what clients saw, stops the node, and makes up the books: `rows` is the store's side.
    pub(crate) fn settle(&self, node: &mut Trellis, rows: impl Fn() -> Rows) {
        self.wait_stored(&rows);
        node.empty_and_stop();
        let rows = rows();
        let stored = rows.len();
        self.assert_stored(rows);
        node.assert_ledger_balances(stored);
    }
}

impl Trellis {
    /// Stops it when nothing of earlier runs is in its journal any more, and the rollups say what is stored; its own run then
    /// leaves nothing either.
    pub(crate) fn empty_and_stop(&mut self) {
        let journal = self.data_dir().join("journal");
        let runs = || std::fs::read_dir(&journal).expect("the journal folder").count();
        // A stop does not wait for what earlier runs left: that may hold visits that were cut off.
        eventually("the journals of earlier runs are stored", || runs() == 1);
        self.assert_rolled_up();
        assert_eq!(self.stop().code(), Some(0));
        assert_eq!(runs(), 0);
    }
}

/// The clicks in an embedded store: id and external id.
pub(crate) fn sqlite_rows(node_folder: &std::path::Path) -> Rows {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let file = rusqlite::Connection::open_with_flags(node_folder.join("clicks.db"), flags).expect("the store");
    file.busy_timeout(Duration::from_secs(10)).expect("a time-out");
    let mut question = file.prepare("SELECT click_id, external_click_id FROM clicks").expect("a question");
    let rows = question.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).expect("an answer");
    rows.collect::<Result<_, _>>().expect("rows")
}

/// What a killed node left: its frozen batches, and the clicks that lie beyond its checkpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unfinished {
    pub(crate) intents: usize,
    pub(crate) clicks: usize,
}

impl Unfinished {
    /// Looks into the data folder of a node that is gone.
    pub(crate) fn in_folder(data_dir: &std::path::Path) -> Self {
        use trellis::handoff::{Follower, Orphan};
        use trellis::segment::{Disk, RealDisk};
        let metrics = trellis::telemetry::metrics::Metrics::new(1, 1, &[], || 0).expect("metrics");
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let mut found = Self::default();
        for orphan in Orphan::find(&disk, data_dir).expect("the journal") {
            let entries = std::fs::read_dir(orphan.folder()).expect("a run folder");
            let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
            found.intents += names.filter(|name| name.ends_with(".intent")).count();
            for stretch in orphan.stretches().expect("its journals") {
                let mut follower = Follower::orphan(&orphan, stretch, metrics.worker(0)).expect("a journal");
                let mut clicks = Vec::new();
                while follower.poll(usize::MAX, &mut clicks).expect("it can be read") == trellis::handoff::Step::Clicks
                {
                }
                found.clicks += clicks.len();
            }
        }
        found
    }
}
