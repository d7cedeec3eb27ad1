//! Connections: each is a task with hyper's HTTP/1.1 state machine, watched by one sweep for the whole thread.
//!
//! hyper's own header time-out starts and drops a timer with every request; a sweep over small cells does the same work
//! once in a while, and tells an idle connection from one that sends its head slowly.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::access::Access;
use super::admission::{self, Peer};
use super::core::Core;
use super::limits::addresses::Counted;
use super::resolve::Resolved;
use super::respond;
use crate::telemetry::metrics::Outcome;
use crate::telemetry::phases::{Lap, Laps};

/// hyper's own limit of header lines.
const HYPER_HEADERS_MAX: usize = 100;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// Waiting for a request.
    Idle,
    /// A head has begun to arrive.
    Head,
    /// A request is being answered.
    Busy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    No,
    /// Finish the request in flight, then close.
    Graceful,
    Now,
}

/// One connection as the sweep sees it.
#[derive(Debug)]
pub(super) struct Watched {
    doing: Cell<Doing>,
    since: Cell<Duration>,
    end: Cell<End>,
    waker: RefCell<Option<Waker>>,
    measured: Measured,
}

/// What is noted of a connection and its request when they are measured.
#[derive(Debug, Default)]
struct Measured {
    /// When it was accepted; until its first read.
    accepted: Cell<Option<Duration>>,
    /// When a head began to arrive; until it is whole.
    head_began: Cell<Option<Duration>>,
    /// Of the request that is answered, until the kernel has the answer.
    answered: RefCell<Option<Laps>>,
}

impl Measured {
    fn note_read(&self, core: &Core) {
        if let Some(accepted) = self.accepted.take() {
            core.metrics.times.accept(core.parts.clock.now().saturating_sub(accepted));
        }
    }

    fn note_head(&self, core: &Core) {
        self.head_began.set(core.stopwatch.is_due().then(|| core.parts.clock.now()));
    }

    fn note_written(&self, core: &Core) {
        if let Some(mut laps) = self.answered.take() {
            laps.end(Lap::Respond, core.parts.clock.now());
            core.metrics.times.count(&laps);
        }
    }
}

impl Watched {
    fn enter(&self, doing: Doing, now: Duration) {
        self.doing.set(doing);
        self.since.set(now);
    }

    fn close(&self, end: End) {
        self.end.set(end.max(self.end.get()));
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// All open connections of one thread.
#[derive(Debug)]
pub(super) struct Connections {
    open: RefCell<Vec<Option<Rc<Watched>>>>,
    free: RefCell<Vec<usize>>,
    count: Cell<usize>,
    emptied: Notify,
    head_timeout: Duration,
    idle_timeout: Duration,
    /// Monotonic time as of the last request or sweep: precise enough for time-outs of seconds.
    now: Cell<Duration>,
}

impl Connections {
    pub(super) fn new(head_timeout: Duration, idle_timeout: Duration) -> Self {
        Self {
            open: RefCell::default(),
            free: RefCell::default(),
            count: Cell::new(0),
            emptied: Notify::new(),
            head_timeout,
            idle_timeout,
            now: Cell::new(Duration::ZERO),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count.get()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Monotonic time as of the last request.
    pub(super) fn now(&self) -> Duration {
        self.now.get()
    }

    /// Waits for the last one to go.
    pub(super) async fn emptied(&self) {
        self.emptied.notified().await;
    }

    /// Tells every connection to finish its request and close.
    pub(super) fn close_gracefully(&self) {
        self.open.borrow().iter().flatten().for_each(|watched| watched.close(End::Graceful));
    }

    /// Closes those whose time is over; how many.
    pub(super) fn sweep(&self, now: Duration) -> u64 {
        self.now.set(now);
        let mut closed = 0;
        for watched in self.open.borrow().iter().flatten() {
            let age = now.saturating_sub(watched.since.get());
            let over = match watched.doing.get() {
                Doing::Idle => age >= self.idle_timeout,
                Doing::Head => age >= self.head_timeout,
                Doing::Busy => false,
            };
            if over && watched.end.get() < End::Now {
                watched.close(End::Now);
                closed += 1;
            }
        }
        closed
    }

    fn add(&self) -> (usize, Rc<Watched>) {
        let watched = Rc::new(Watched {
            doing: Cell::new(Doing::Idle),
            since: Cell::new(self.now.get()),
            end: Cell::new(End::No),
            waker: RefCell::default(),
            measured: Measured::default(),
        });
        let slot = self.free.borrow_mut().pop();
        let mut open = self.open.borrow_mut();
        let slot = slot.unwrap_or_else(|| {
            open.push(None);
            open.len() - 1
        });
        open[slot] = Some(Rc::clone(&watched));
        self.count.set(self.count.get() + 1);
        (slot, watched)
    }

    fn remove(&self, slot: usize) {
        self.open.borrow_mut()[slot] = None;
        self.free.borrow_mut().push(slot);
        self.count.set(self.count.get() - 1);
        if self.is_empty() {
            self.emptied.notify_one();
        }
    }
}

/// Takes a connection out of the list when its task ends, however it ends.
struct Registration {
    core: Rc<Core>,
    slot: usize,
    counted: Option<Counted>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.core.connections.remove(self.slot);
        self.core.metrics.connections_open.sub(1);
        if let Some(counted) = self.counted {
            self.core.parts.limits.disconnect(counted);
        }
    }
}

/// Serves a connection in a task of this thread. `counted` is given back when it closes; `accepted` is noted when it is
/// measured.
pub(super) fn spawn(
    core: Rc<Core>,
    stream: TcpStream,
    peer: Peer,
    counted: Option<Counted>,
    accepted: Option<Duration>,
) {
    core.connections.now.set(core.parts.clock.now());
    let (slot, watched) = core.connections.add();
    watched.measured.accepted.set(accepted);
    core.metrics.connections_open.add(1);
    let registration = Registration { core: Rc::clone(&core), slot, counted };
    let limits = &core.parts.config;
    let mut builder = http1::Builder::new();
    builder
        .max_buf_size(limits.head_bytes_max)
        // Answers are one small buffer: gathering it from parts would cost more than the copy.
        .writev(false)
        // Not `pipeline_flush`: it holds the answer to a bad head back, behind the bytes that nobody will read.
        .header_read_timeout(None);
    // For its own limit hyper has room on the stack; for any other one it allocates twice a request.
    if limits.headers_max != HYPER_HEADERS_MAX {
        builder.max_headers(limits.headers_max);
    }
    tokio::task::spawn_local(async move {
        let io = Socket { stream: TokioIo::new(stream), core: Rc::clone(&core), watched: Rc::clone(&watched) };
        let service = service_fn(|request| answer(&core, &watched, &peer, request));
        let connection = std::pin::pin!(builder.serve_connection(io, service));
        // A connection that breaks concerns nobody but its visitor; a head that cannot be read was answered by hyper.
        if serve(connection, &watched).await.is_err_and(|error| error.is_parse()) {
            core.metrics.count(Outcome::Malformed);
        }
        drop(registration);
    });
}

async fn answer(
    core: &Rc<Core>,
    watched: &Watched,
    peer: &Peer,
    request: hyper::Request<hyper::body::Incoming>,
) -> Result<respond::Answer, Infallible> {
    let now = core.parts.clock.now();
    core.connections.now.set(now);
    watched.enter(Doing::Busy, now);
    let laps = &mut core.stopwatch.begin(watched.measured.head_began.take(), now);
    let mut resolved = core.stopwatch.run(laps, || admission::resolve(core, peer, &request, now, None));
    if let Resolved::AskWarden = resolved {
        let told = Access::ask(core, request.headers()).await;
        core.end_of(laps, Lap::Auth);
        resolved = core.stopwatch.run(laps, || admission::resolve(core, peer, &request, now, Some(&told)));
    }
    let answer = respond::respond(core, resolved, now, laps).await;
    if laps.is_some() {
        watched.measured.answered.replace(*laps);
    }
    watched.enter(Doing::Idle, core.connections.now.get());
    Ok(answer)
}

/// Drives hyper's connection and looks at the sweep's word whenever it is woken.
async fn serve<S>(mut connection: Pin<&mut http1::Connection<Socket, S>>, watched: &Watched) -> Result<(), hyper::Error>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = respond::Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut closing = false;
    std::future::poll_fn(|context| {
        if watched.end.get() == End::Now {
            return Poll::Ready(Ok(()));
        }
        let mut waker = watched.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        drop(waker);
        let done = connection.as_mut().poll(context);
        // Only then: hyper closes a connection on which nothing was read yet, with the request that waits in the socket.
        if done.is_pending() && !closing && watched.end.get() == End::Graceful {
            closing = true;
            connection.as_mut().graceful_shutdown();
            return connection.as_mut().poll(context);
        }
        done
    })
    .await
}

/// The socket, noting when a head begins to arrive.
struct Socket {
    stream: TokioIo<TcpStream>,
    core: Rc<Core>,
    watched: Rc<Watched>,
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.watched.measured.note_read(&self.core);
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() && self.watched.doing.get() == Doing::Idle {
            self.watched.enter(Doing::Head, self.core.connections.now.get());
            self.watched.measured.note_head(&self.core);
        }
        read
    }
}

impl Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, buffer);
        if written.is_ready() {
            self.watched.measured.note_written(&self.core);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }
}
