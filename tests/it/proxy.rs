//! A TCP proxy that stands between a node and one of its services and makes the network between them bad.
//!
//! It runs on a thread of its own until it is dropped. Each direction has its own delay (which holds every byte back, and
//! narrows nothing), a number of bytes after which the connection is cut, and a stall. Rules can be changed while
//! connections are open; the bytes of `cut_after` are counted from that moment on. Bounds: 4 MiB on the way in each
//! direction of each connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use trellis::clock::{Clock, SystemClock};

const PIECE_BYTES: usize = 64 * 1024;
const PIECES_MAX: usize = 64;

/// What becomes of the bytes of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flow {
    /// Every byte arrives this much later.
    pub(crate) delay: Duration,
    /// Only every so many'th piece of bytes is delayed, counted over all connections; 0: all are. A small answer is one piece.
    pub(crate) delay_every: usize,
    /// After this many bytes both sides of the connection are closed; with 0, when the first byte would pass.
    pub(crate) cut_after: Option<u64>,
    /// Nothing passes until the rules change.
    pub(crate) stall: bool,
}

/// What the proxy does; by default it passes everything on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    /// From the node to the service.
    pub(crate) requests: Flow,
    /// From the service to the node.
    pub(crate) answers: Flow,
    /// Only the connection of this number is touched: 0 is the first that was accepted.
    pub(crate) only: Option<usize>,
    /// New connections are closed at once.
    pub(crate) refuse: bool,
}

impl Rules {
    /// Every answer comes this much later.
    pub(crate) fn slow(delay: Duration) -> Self {
        Self { answers: Flow { delay, ..Flow::default() }, ..Self::default() }
    }

    /// Every so many'th answer comes this much later.
    pub(crate) fn slow_every(every: usize, delay: Duration) -> Self {
        Self { answers: Flow { delay, delay_every: every, ..Flow::default() }, ..Self::default() }
    }

    fn of(&self, connection: usize, direction: Direction) -> Flow {
        match direction {
            _ if self.only.is_some_and(|only| only != connection) => Flow::default(),
            Direction::Requests => self.requests,
            Direction::Answers => self.answers,
        }
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Requests,
    Answers,
}

/// A running proxy.
pub(crate) struct Proxy {
    address: SocketAddr,
    rules: watch::Sender<Rules>,
    cuts: watch::Sender<usize>,
    seen: Arc<Seen>,
    thread: Option<std::thread::JoinHandle<()>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

#[derive(Default)]
struct Seen {
    accepted: AtomicUsize,
    open: AtomicUsize,
    open_max: AtomicUsize,
    /// Pieces that were for a delay to choose from.
    pieces: AtomicUsize,
    delayed: AtomicUsize,
}

impl Seen {
    /// Whether a delay is for the next piece: for every piece, but for one that chooses.
    fn is_next_due(&self, flow: &Flow) -> bool {
        if flow.delay_every == 0 {
            return true;
        }
        let is_due = self.pieces.fetch_add(1, Ordering::SeqCst).is_multiple_of(flow.delay_every);
        self.delayed.fetch_add(usize::from(is_due), Ordering::SeqCst);
        is_due
    }
}

impl Proxy {
    /// A proxy in front of this address.
    pub(crate) fn before(service: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (rules, cuts) = (watch::Sender::new(Rules::default()), watch::Sender::new(0));
        let seen = Arc::<Seen>::default();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let serving = Serving { service, rules: rules.clone(), cuts: cuts.clone(), seen: Arc::clone(&seen) };
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = serving.run(&listener) => {}
                    _ = stopped => {}
                }
            });
        };
        Self { address, rules, cuts, seen, thread: Some(std::thread::spawn(run)), stop: Some(stop) }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the rules, for open connections too.
    pub(crate) fn set(&self, rules: Rules) {
        self.rules.send_replace(rules);
    }

    /// Cuts every open connection.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }

    /// The most that were open at one time.
    pub(crate) fn open_max(&self) -> usize {
        self.seen.open_max.load(Ordering::SeqCst)
    }

    /// Pieces that a delay of every so many'th has held back since the start.
    pub(crate) fn delayed(&self) -> usize {
        self.seen.delayed.load(Ordering::SeqCst)
    }

    /// Connections that were made since the start.
    pub(crate) fn accepted(&self) -> usize {
        self.seen.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the proxy's thread");
        }
    }
}

struct Serving {
    service: SocketAddr,
    rules: watch::Sender<Rules>,
    cuts: watch::Sender<usize>,
    seen: Arc<Seen>,
}

impl Serving {
    async fn run(&self, listener: &TcpListener) {
        loop {
            let Ok((node, _)) = listener.accept().await else { continue };
            if self.rules.borrow().refuse {
                continue;
            }
            let number = self.seen.accepted.fetch_add(1, Ordering::SeqCst);
            let open = Open::count(&self.seen);
            let (service, rules, mut cuts) = (self.service, self.rules.subscribe(), self.cuts.subscribe());
            let seen = Arc::clone(&self.seen);
            tokio::spawn(async move {
                let _open = open;
                tokio::select! {
                    _ = join(node, service, number, rules, seen) => {}
                    _ = cuts.changed() => {}
                }
            });
        }
    }
}

/// Counts a connection as long as it is there.
struct Open(Arc<Seen>);

impl Open {
    fn count(seen: &Arc<Seen>) -> Self {
        let open = seen.open.fetch_add(1, Ordering::SeqCst) + 1;
        seen.open_max.fetch_max(open, Ordering::SeqCst);
        Self(Arc::clone(seen))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Until both directions have ended, or one is cut or broken.
async fn join(
    node: TcpStream,
    service: SocketAddr,
    number: usize,
    rules: watch::Receiver<Rules>,
    seen: Arc<Seen>,
) -> std::io::Result<()> {
    let service = TcpStream::connect(service).await?;
    node.set_nodelay(true)?;
    service.set_nodelay(true)?;
    let ((from_node, to_node), (from_service, to_service)) = (node.into_split(), service.into_split());
    let pipe = |direction| Pipe {
        number,
        direction,
        rules: rules.clone(),
        seen: Arc::clone(&seen),
        clock: SystemClock::new(),
    };
    let (requests, answers) = (pipe(Direction::Requests), pipe(Direction::Answers));
    tokio::try_join!(requests.carry(from_node, to_service), answers.carry(from_service, to_node))?;
    Ok(())
}

struct Pipe {
    number: usize,
    direction: Direction,
    rules: watch::Receiver<Rules>,
    seen: Arc<Seen>,
    clock: SystemClock,
}

/// Bytes, and the time at which they arrived.
type Piece = (Duration, Vec<u8>);

impl Pipe {
    async fn carry(self, from: OwnedReadHalf, to: OwnedWriteHalf) -> std::io::Result<()> {
        let (sender, receiver) = mpsc::channel::<Piece>(PIECES_MAX);
        tokio::try_join!(take(from, sender, &self.clock), self.give(receiver, to))?;
        Ok(())
    }

    async fn give(&self, mut pieces: mpsc::Receiver<Piece>, mut to: OwnedWriteHalf) -> std::io::Result<()> {
        let (mut passed, mut rules) = (0, self.rules.clone());
        rules.mark_unchanged();
        while let Some((arrived, bytes)) = pieces.recv().await {
            let is_due = self.seen.is_next_due(&rules.borrow().of(self.number, self.direction));
            let flow = loop {
                if rules.has_changed().is_ok_and(|changed| changed) {
                    passed = 0;
                }
                let flow = rules.borrow_and_update().of(self.number, self.direction);
                let delay = if is_due { flow.delay } else { Duration::ZERO };
                let wait = (arrived + delay).saturating_sub(self.clock.now());
                if !flow.stall && wait.is_zero() {
                    break flow;
                }
                tokio::select! {
                    () = tokio::time::sleep(wait), if !flow.stall => {}
                    // Without a sender the proxy ends, and this with it.
                    changed = rules.changed() => if changed.is_err() { return Ok(()) } else { passed = 0 },
                }
            };
            let room = flow.cut_after.map_or(u64::MAX, |bytes| bytes - passed.min(bytes));
            let fitting = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            to.write_all(&bytes[..fitting]).await?;
            if fitting < bytes.len() {
                return Err(std::io::Error::other("cut"));
            }
            passed += fitting as u64;
        }
        to.shutdown().await
    }
}

async fn take(mut from: OwnedReadHalf, pieces: mpsc::Sender<Piece>, clock: &SystemClock) -> std::io::Result<()> {
    loop {
        let mut bytes = vec![0; PIECE_BYTES];
        let length = from.read(&mut bytes).await?;
        bytes.truncate(length);
        if length == 0 || pieces.send((clock.now(), bytes)).await.is_err() {
            return Ok(());
        }
    }
}

// --- The proxy itself --------------------------------------------------------------------------------------------------

/// Answers every byte with the next one.
fn counting_service() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().take(8) {
            let mut stream = stream.expect("a connection");
            std::thread::spawn(move || {
                let mut byte = [0];
                while std::io::Read::read_exact(&mut stream, &mut byte).is_ok() {
                    if std::io::Write::write_all(&mut stream, &[byte[0] + 1]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// The answer to one byte; `None` when the connection is cut.
async fn asked(stream: &mut TcpStream, byte: u8) -> Option<u8> {
    stream.write_all(&[byte]).await.ok()?;
    let mut answer = [0];
    stream.read_exact(&mut answer).await.ok().map(|_| answer[0])
}

#[tokio::test]
async fn the_proxy_delays_stalls_and_cuts_as_it_is_told() {
    let proxy = Proxy::before(counting_service());
    let connect = || async { TcpStream::connect(proxy.address()).await.expect("the proxy") };
    let (mut first, mut second) = (connect().await, connect().await);
    assert_eq!((asked(&mut first, 1).await, asked(&mut second, 1).await), (Some(2), Some(2)));
    assert_eq!((proxy.accepted(), proxy.open(), proxy.open_max()), (2, 2, 2));

    let clock = SystemClock::new();
    proxy.set(Rules::slow(Duration::from_millis(30)));
    assert_eq!(asked(&mut first, 2).await, Some(3));
    assert!(clock.now() >= Duration::from_millis(30), "{:?}", clock.now());

    let stall = Flow { stall: true, ..Flow::default() };
    proxy.set(Rules { answers: stall, only: Some(0), ..Rules::default() });
    assert_eq!(asked(&mut second, 3).await, Some(4), "the other one goes on");
    let mut held = Box::pin(asked(&mut first, 3));
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut held).await.is_err());
    proxy.set(Rules::default());
    assert_eq!(held.await, Some(4), "what was held passes");

    let cut = Flow { cut_after: Some(2), ..Flow::default() };
    proxy.set(Rules { answers: cut, ..Rules::default() });
    let answers = [asked(&mut first, 4).await, asked(&mut first, 5).await, asked(&mut first, 6).await];
    assert_eq!(answers, [Some(5), Some(6), None], "counted from the change of the rules");
    proxy.set(Rules { refuse: true, ..Rules::default() });
    assert_eq!(asked(&mut connect().await, 1).await, None);
    assert_eq!(asked(&mut second, 7).await, Some(8));
    proxy.cut();
    assert_eq!(asked(&mut second, 8).await, None);
    crate::harness::eventually("all are closed", || proxy.open() == 0);
}
