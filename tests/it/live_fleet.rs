//! Four nodes before one Redis and one ClickHouse, and clients that go on to the next node when one is gone, as a balancer
//! does. Two of the four are killed: every visit is answered all the same, and what was acknowledged is stored once.

use std::collections::BTreeSet;
use std::io::BufReader;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::harness::{PATIENCE, Trellis, eventually, note, seeded, service};
use crate::live::{CLICKHOUSE, Database, REDIS};
use crate::load::{Seen, Visits, exchange, id_of};

const NODES: usize = 4;
const ROUNDS: usize = 2;
/// Then a client takes the next node, so that a node that came back is visited again.
const VISITS_A_CONNECTION: usize = 20;

/// One place of the balancer's list. A node that is gone keeps its place; one that comes back has another port.
struct Place {
    edge: Mutex<SocketAddr>,
    answers: AtomicU64,
    /// Tries that found it gone: a connection refused, or one that ended before the answer.
    gone: AtomicU64,
}

/// Clients of a fleet.
struct Load {
    clients: Vec<(SyncSender<()>, JoinHandle<Behind>)>,
    places: Arc<Vec<Place>>,
}

/// What one client saw, or all of them.
#[derive(Default)]
struct Behind {
    seen: Seen,
    visits: usize,
    /// Visits that no node answered.
    unanswered: Vec<String>,
    /// Places at which a connection was refused, or ended before the answer.
    gone: BTreeSet<usize>,
}

struct Client {
    places: Arc<Vec<Place>>,
    visits: Visits,
    number: usize,
    /// The place that is visited.
    at: usize,
    stream: Option<BufReader<TcpStream>>,
    behind: Behind,
}

impl Load {
    fn start(places: &Arc<Vec<Place>>, visits: &Visits) -> Self {
        let client = |number| {
            let (stop, stopped) = sync_channel::<()>(1);
            let (places, visits) = (Arc::clone(places), visits.clone());
            let mut client =
                Client { places, visits, number, at: number % NODES, stream: None, behind: Behind::default() };
            let run = move || {
                while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(client.visits.pause) {
                    client.visit();
                }
                client.behind
            };
            (stop, std::thread::spawn(run))
        };
        Self { clients: (0..visits.connections).map(client).collect(), places: Arc::clone(places) }
    }

    fn answers(&self) -> u64 {
        self.places.iter().map(|place| place.answers.load(Ordering::SeqCst)).sum()
    }

    fn wait_answers(&self, more: u64) {
        let until = self.answers() + more;
        eventually(&format!("{more} more answers"), || self.answers() >= until);
    }

    fn finish(self) -> Behind {
        let mut all = Behind::default();
        for (stop, client) in self.clients {
            drop(stop);
            let mine = client.join().expect("a client");
            all.seen.add(mine.seen);
            all.visits += mine.visits;
            all.unanswered.extend(mine.unanswered);
            all.gone.extend(mine.gone);
        }
        all
    }
}

impl Client {
    /// One visit, tried at one node after the other until one answers. Each try has an external id of its own: what was sent
    /// on a connection that broke may have been recorded.
    fn visit(&mut self) {
        self.behind.visits += 1;
        let visit = format!("{}-{}-{}", self.visits.name, self.number, self.behind.visits);
        for attempt in 0..NODES {
            let external = format!("{visit}-{attempt}");
            let Some(head) = self.ask(&external) else {
                self.behind.gone.insert(self.at);
                self.places[self.at].gone.fetch_add(1, Ordering::SeqCst);
                self.go_on();
                continue;
            };
            self.behind.seen.cut_off.remove(&external);
            match id_of(&head) {
                Some(id) => drop(self.behind.seen.kept.insert(id.to_owned(), external)),
                None => self.behind.seen.wrong.push(head),
            }
            self.places[self.at].answers.fetch_add(1, Ordering::SeqCst);
            if self.behind.visits.is_multiple_of(VISITS_A_CONNECTION) {
                self.go_on();
            }
            return;
        }
        self.behind.unanswered.push(visit);
    }

    fn go_on(&mut self) {
        self.stream = None;
        self.at = (self.at + 1) % NODES;
    }

    /// The head of the answer; `None` when the node cannot be reached or breaks the connection.
    fn ask(&mut self, external: &str) -> Option<String> {
        if self.stream.is_none() {
            let edge = *self.places[self.at].edge.lock().expect("no panic under the lock");
            let stream = TcpStream::connect(edge).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
            self.stream = Some(BufReader::new(stream));
        }
        // Before the first byte is sent: from here on it may be recorded.
        self.behind.seen.cut_off.insert(external.to_owned());
        let path = &self.visits.path;
        let request = format!("GET {path}{external} HTTP/1.1\r\nHost: t\r\nUser-Agent: Mozilla/5.0\r\n\r\n");
        exchange(self.stream.as_mut()?, &request)
    }
}

impl Behind {
    /// Every visit was answered with a 302 and an id, and only a connection to a node that was killed broke. A visit whose
    /// connection broke is an error for a client of a balancer that does not try again.
    fn assert_answered(&self, killed: &[usize]) {
        assert!(self.unanswered.is_empty(), "no node answered: {:?}", self.unanswered);
        self.seen.assert_answered(true);
        assert!(self.gone.iter().all(|place| killed.contains(place)), "{:?} broke, {killed:?} were killed", self.gone);
        let (errors, visits) = (self.seen.cut_off.len(), self.visits);
        note(&format!("{visits} visits, {errors} of them met a connection that broke; killed {killed:?}"));
        assert!(errors * 100 < visits, "{errors} errors of {visits} visits");
    }
}

/// What the store has of this node.
fn rows_of(database: &Database, name: &str) -> usize {
    let rows = database.sql(&format!("SELECT count() FROM clicks FINAL WHERE node = '{name}'"));
    rows.parse().expect("a number")
}

#[test]
fn two_of_four_nodes_killed_leave_no_visit_unanswered_and_no_click_missing_or_twice() {
    let test = "two_of_four_nodes_killed_leave_no_visit_unanswered_and_no_click_missing_or_twice";
    let (Some(redis), Some(clickhouse)) = (service(REDIS, test), service(CLICKHOUSE, test)) else { return };
    let database = Database::new(&clickhouse);
    let mut settings = database.settings();
    settings.extend([
        ("dedup.backend", "redis"),
        ("dedup.secret", "the-same-on-every-node-of-this-fleet"),
        ("redis.url", redis.as_str()),
        // Long enough for a machine with other work: labels are not what is looked at here.
        ("redis.timeout", "5s"),
        ("edge.threads", "1"),
    ]);
    let names: Vec<_> = (0..NODES).map(|place| format!("node-{place}")).collect();
    // Addresses of their own: nobody else takes the port of a node that was killed.
    let listens: Vec<_> = (1..=NODES).map(|host| format!("127.0.3.{host}:0")).collect();
    let settings_of = |place: usize| {
        [&settings[..], &[("node", names[place].as_str()), ("edge.listen", listens[place].as_str())]].concat()
    };
    let start = |place: usize, folder| {
        let node = Trellis::start_in(folder, &settings_of(place));
        // Four nodes are much for one engine where other tests run too.
        for text in ["did not take a batch", "does not answer"] {
            node.expect_log(text);
        }
        node
    };
    let folder = || Arc::new(tempfile::tempdir().expect("a folder"));
    let mut nodes: Vec<_> = (0..NODES).map(|place| start(place, folder())).collect();
    nodes.iter().for_each(|node| node.link("a", "https://a.example/?id={click_id}"));
    let place = |node: &Trellis| Place { edge: Mutex::new(node.edge()), answers: 0.into(), gone: 0.into() };
    let places: Arc<Vec<_>> = Arc::new(nodes.iter().map(place).collect());
    let (mut random, mut seen) = (seeded(), Seen::default());
    for round in 0..ROUNDS {
        let killed = random.choose_multiple(0..NODES, 2);
        let load = Load::start(&places, &Visits { connections: 8, ..Visits::steady(round.to_string()) });
        let gone = |place: usize| places[place].gone.load(Ordering::SeqCst);
        let before: Vec<_> = (0..NODES).map(gone).collect();
        for &place in &killed {
            load.wait_answers(random.u64(1..1_500));
            nodes[place].kill();
        }
        eventually("clients have met both", || killed.iter().all(|place| gone(*place) > before[*place]));
        load.wait_answers(1_000);
        for &place in &killed {
            nodes[place] = start(place, nodes[place].folder());
            *places[place].edge.lock().expect("no panic under the lock") = nodes[place].edge();
            let before = places[place].answers.load(Ordering::SeqCst);
            eventually("it answers again", || places[place].answers.load(Ordering::SeqCst) > before);
        }
        load.wait_answers(1_000);
        let behind = load.finish();
        behind.assert_answered(&killed);
        seen.add(behind.seen);
    }
    seen.wait_stored(|| database.rows("clicks"));
    nodes.iter_mut().for_each(Trellis::empty_and_stop);
    seen.assert_stored(database.rows("clicks"));
    for (node, name) in nodes.iter().zip(&names) {
        let stored = rows_of(&database, name);
        assert!(stored > 0, "{name} had visits");
        node.assert_ledger_balances(stored);
    }
}
